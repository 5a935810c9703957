# SPDX-License-Identifier: MIT
"""Going first, for as long as it takes to look at everybody (sched(7))."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator


@contextlib.contextmanager
def urgent() -> Iterator[None]:
    """Ahead of every ordinary process; those that are started meanwhile are not.

    Thousands that save at the same time, or some that fork without end, would leave us a thousandth of the
    machine, and the last of them would hear of it when the grace of the first is over.
    """
    before = None
    with contextlib.suppress(OSError):  # not root, or a group without a share of real time
        before = os.sched_getscheduler(0), os.sched_getparam(0)
        os.sched_setscheduler(0, os.SCHED_RR | os.SCHED_RESET_ON_FORK, os.sched_param(1))
    try:
        yield
    finally:
        if before:
            with contextlib.suppress(OSError):
                os.sched_setscheduler(0, *before)
