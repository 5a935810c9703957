# SPDX-License-Identifier: MIT
"""kexecctl load, unload: the image in kernel memory."""

from __future__ import annotations

import sys
from argparse import Namespace
from dataclasses import asdict

from kexecd import loader
from kexecd.cli import resident
from kexecd.cli.check import before_load
from kexecd.cli.choosing import Look, boot_partitions, look_for, names_image, target_for
from kexecd.cli.output import print_json, size
from kexecd.errors import ExitCode
from kexecd.init.detect import detect
from kexecd.lock import hold
from kexecd.model import ImageRecord
from kexecd.record import RUN_DIR
from kexecd.target import opened
from kexecd.wayback import watchdog


def load(options: Namespace) -> ExitCode:
    with hold(RUN_DIR, "load a kernel"), boot_partitions():
        seen = look_for(options)
        record, remarks = load_chosen(options, seen)
    for remark in remarks:
        print(f"note: {remark}", file=sys.stderr)
    if options.json:
        print_json({"image": asdict(record), "reason": seen.choice.reason})
    else:
        print(f"loaded {describe(record)}; {seen.choice.reason}")
        print(f"  command line: {record.cmdline}")
    if not resident.is_there():
        detect().warm_up()
    return ExitCode.OK


def load_chosen(options: Namespace, seen: Look) -> tuple[ImageRecord, tuple[str, ...]]:
    """Open, check and load what was chosen; returns what is loaded, and what a person should know about it."""
    wishes = seen.settings.kexec_options
    with opened(target_for(options, seen)) as target:
        warnings = before_load(options, seen, target)
        named = names_image(options)
        record = loader.load(target, method=wishes.method, passed=wishes.for_tools, named=named, foreign=seen.foreign)
        watchdog.arm_for(record, RUN_DIR)
        return record, (*target.entry.remarks, *warnings)


def unload(options: Namespace) -> ExitCode:
    with hold(RUN_DIR, "unload the image"):
        was_loaded = loader.unload()
    if options.json:
        print_json({"unloaded": was_loaded})
    else:
        print("the image is unloaded" if was_loaded else "no image was loaded")
    return ExitCode.OK


def describe(record: ImageRecord) -> str:
    """An image in a few words, for people."""
    initrds = "".join(f" + {file.path} ({size(file.size)})" for file in record.initrds)
    return f"{record.kernel.path} ({size(record.kernel.size)}){initrds} by {record.method}"
