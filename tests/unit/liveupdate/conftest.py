# SPDX-License-Identifier: MIT
"""What a test has opened is closed behind it: the memory of some hundred megabytes hangs on it."""

from __future__ import annotations

import contextlib
import gc
import os
from collections.abc import Iterator

import pytest


@pytest.fixture(autouse=True)
def nothing_stays_open() -> Iterator[None]:
    before = set(os.listdir("/proc/self/fd"))
    yield
    gc.collect()
    for fd in set(os.listdir("/proc/self/fd")) - before:
        with contextlib.suppress(OSError):
            if os.readlink(f"/proc/self/fd/{fd}").startswith("/memfd:"):
                os.close(int(fd))
