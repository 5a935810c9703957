# SPDX-License-Identifier: MIT
"""A forked copy of the daemon that becomes kexecctl: everything is in memory already, and nothing else of the daemon's
stays."""

from __future__ import annotations

import contextlib
import gc
import os
import signal
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from kexecd.cli.descent import watch
from kexecd.cli.main import main, outcome
from kexecd.errors import ExitCode
from kexecd.kernel.spawn import ENVIRONMENT, MOST_FDS


@dataclass(frozen=True, slots=True)
class Coding:
    """Of what is printed, as in open()."""

    encoding: str = "utf-8"
    errors: str = "strict"


def leave_daemon(keep: int = -1) -> None:
    """Close every descriptor but the streams and `keep`, and take the daemon's hands off the signals.

    What these descriptors belonged to must never be finalised, or it closes somebody else's: end by os._exit.
    """
    reset_signals()
    if keep > 2:
        os.closerange(3, keep)
    os.closerange(max(2, keep) + 1, MOST_FDS)


def reset_signals() -> None:
    signal.set_wakeup_fd(-1)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    signal.signal(signal.SIGINT, signal.default_int_handler)


def run(words: Sequence[str], environment: Mapping[str, str], coding: Coding = Coding()) -> int:
    """Do what kexecctl does with these words, on the descriptors 0 to 2 as they are now; returns the exit status."""
    os.environ.clear()
    os.environ.update({**ENVIRONMENT, **environment})
    return _on_streams(lambda: main(list(words)), coding)


def show(reader: int, coding: Coding, *, as_json: bool) -> int:
    """Do what kexecctl does while somebody else walks the plan (kexecd.cli.descent.watch); returns the exit status."""
    return _on_streams(lambda: outcome(lambda: watch(reader, as_json=as_json), as_json=as_json), coding)


def _on_streams(work: Callable[[], int], coding: Coding) -> int:
    gc.disable()  # it ends before there is anything worth collecting
    sys.stdout = os.fdopen(1, "w", _buffering(1), coding.encoding, coding.errors, closefd=False)
    sys.stderr = os.fdopen(2, "w", 1, coding.encoding, "backslashreplace", closefd=False)
    try:
        status = work()
    except SystemExit as end:  # of argparse
        status = end.code if isinstance(end.code, int) else ExitCode.FAILURE
    except KeyboardInterrupt:
        status = ExitCode.FAILURE
    except BaseException:
        import traceback  # late: only for a bug

        traceback.print_exc()
        status = ExitCode.FAILURE
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(OSError):  # nobody reads it any more
            stream.flush()
    return int(status)


def _buffering(fd: int) -> int:
    """As Python does it: a terminal sees each line, anybody else larger pieces."""
    return 1 if os.isatty(fd) else -1
