# SPDX-License-Identifier: MIT
"""A forked copy of the daemon that becomes kexecctl: everything is in memory already, and nothing else of the daemon's
stays."""

from __future__ import annotations

import contextlib
import gc
import os
import signal
import sys
from collections.abc import Mapping, Sequence

from kexecd.cli.main import main
from kexecd.errors import ExitCode
from kexecd.kernel.spawn import ENVIRONMENT, MOST_FDS


def leave_daemon(keep: int = -1) -> None:
    """Close every descriptor but the streams and `keep`, and take the daemon's hands off the signals.

    What these descriptors belonged to must never be finalised, or it closes somebody else's: end by os._exit.
    """
    signal.set_wakeup_fd(-1)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    signal.signal(signal.SIGINT, signal.default_int_handler)
    if keep > 2:
        os.closerange(3, keep)
    os.closerange(max(2, keep) + 1, MOST_FDS)


def run(words: Sequence[str], environment: Mapping[str, str], encoding: str = "utf-8", errors: str = "strict") -> int:
    """Do what kexecctl does with these words, on the descriptors 0 to 2 as they are now; returns the exit status.

    encoding, errors: of what is printed, as in open().
    """
    gc.disable()  # it ends before there is anything worth collecting
    os.environ.clear()
    os.environ.update({**ENVIRONMENT, **environment})
    sys.stdout = os.fdopen(1, "w", _buffering(1), encoding, errors, closefd=False)
    sys.stderr = os.fdopen(2, "w", 1, encoding, "backslashreplace", closefd=False)
    try:
        status = main(list(words))
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
