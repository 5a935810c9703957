# SPDX-License-Identifier: MIT
"""How the lab runs the host's tools: bounded, in a process group of their own, quiet until they fail."""

from __future__ import annotations

import os
import signal
import subprocess
import tempfile
from collections.abc import Sequence
from pathlib import Path

from tests.vm.lab.errors import BuildError

GRACE = 15.0
"""Seconds between TERM and KILL: mmdebstrap unmounts and removes its root on TERM."""


def run_tool(*argv: str | Path, timeout: float, cwd: Path | None = None) -> str:
    """Run a tool and return its output (both streams).

    BuildError when it fails or takes more than `timeout` seconds.
    """
    words = [str(word) for word in argv]
    with tempfile.TemporaryFile() as output:
        try:
            process = subprocess.Popen(
                words,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                cwd=cwd,
                start_new_session=True,
                env={**os.environ, "LC_ALL": "C.UTF-8"},
            )
        except FileNotFoundError as error:
            raise BuildError(f"{words[0]} is not installed") from error
        try:
            code = process.wait(timeout)
        except BaseException as error:
            _end_group(process)
            if isinstance(error, subprocess.TimeoutExpired):
                raise BuildError(
                    f"{_name(words)}: not done after {timeout:.0f} s\n{_tail(output.fileno())}"
                ) from None
            raise
        if code != 0:
            raise BuildError(f"{_name(words)}: exit status {code}\n{_tail(output.fileno())}")
        output.seek(0)
        return output.read().decode(errors="replace")


def _name(words: Sequence[str]) -> str:
    return " ".join(words[:3]) + (" ..." if len(words) > 3 else "")


def _end_group(process: subprocess.Popen[bytes]) -> None:
    os.killpg(process.pid, signal.SIGTERM)
    try:
        process.wait(GRACE)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait(GRACE)


def _tail(fd: int, size: int = 6000) -> str:
    end = os.fstat(fd).st_size
    return os.pread(fd, size, max(0, end - size)).decode(errors="replace")
