# SPDX-License-Identifier: MIT
"""kexecctl plot: the restart that led to this boot as a picture, an SVG on stdout or in a file."""

from __future__ import annotations

from argparse import Namespace

from kexecd.cli.output import print_json
from kexecd.cli.report import gather
from kexecd.errors import ExitCode, Refusal
from kexecd.report.plot import svg


def plot(options: Namespace) -> ExitCode:
    picture = svg(gather().timeline)
    if options.file in ("", "-"):
        print(picture, end="")
        return ExitCode.OK
    try:
        with open(options.file, "w", encoding="utf-8") as file:
            file.write(picture)
    except OSError as error:
        why = (error.strerror or str(error)).lower()
        raise Refusal(f"cannot write {options.file}", why, errno=error.errno or 0) from error
    if options.json:
        print_json({"file": options.file})
    return ExitCode.OK
