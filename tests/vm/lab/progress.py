# SPDX-License-Identifier: MIT
"""Progress on stderr: what the lab is doing, for how long already, and how long it took."""

from __future__ import annotations

import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

HEARTBEAT = 15.0
"""Seconds between two signs of life of a step: CI systems take a silent job for a dead one."""


def say(text: str) -> None:
    """Print one progress line."""
    print(f"[lab] {text}", file=sys.stderr, flush=True)


@contextmanager
def step(what: str) -> Iterator[None]:
    """Announce a long step, repeat it while it runs, and print its duration."""
    started = time.monotonic()
    over = threading.Event()

    def beat() -> None:
        while not over.wait(HEARTBEAT):
            say(f"{what} ... {time.monotonic() - started:.0f} s")

    say(f"{what} ...")
    ticker = threading.Thread(target=beat, name="lab-heartbeat", daemon=True)
    ticker.start()
    try:
        yield
    except BaseException as error:
        say(f"{what}: FAILED after {time.monotonic() - started:.1f} s ({type(error).__name__})")
        raise
    finally:
        over.set()
        ticker.join()
    say(f"{what}: {time.monotonic() - started:.1f} s")
