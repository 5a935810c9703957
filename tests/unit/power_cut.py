# SPDX-License-Identifier: MIT
"""A power cut before and after each call that changes a file: the process is gone there, and cleans nothing up."""

from __future__ import annotations

import itertools
import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

CALLS = ("open", "write", "fsync", "rename", "replace", "unlink", "ftruncate", "close")
LOST = 77


def cuts(directory: Path, work: Callable[[], object]) -> Iterator[int]:
    """Do `work` again and again, each time cut off one call later; yields the number of calls survived.

    The directory is as it was before each time, and in the end as it is after a `work` that nothing has cut.
    """
    before = directory.with_name(f"{directory.name}.before")
    shutil.copytree(directory, before)
    for number in itertools.count():
        shutil.rmtree(directory)
        shutil.copytree(before, directory)
        if not _cut_after(number, work):
            break
        yield number
    shutil.rmtree(before)


def _cut_after(number: int, work: Callable[[], object]) -> bool:
    """In a child, which ends for good when it has made `number` calls; whether it came to that."""
    child = os.fork()
    if child == 0:
        left = number
        real = {name: getattr(os, name) for name in CALLS}
        for name in CALLS:

            def counted(*args: object, _name: str = name, **more: object) -> object:
                nonlocal left
                if left == 0:
                    os._exit(LOST)
                left -= 1
                return real[_name](*args, **more)

            setattr(os, name, counted)
        try:
            work()
        finally:
            os._exit(0)
    status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    assert status in (0, LOST)
    return status == LOST


def calls(work: Callable[[], object]) -> list[str]:
    """The names of the calls that `work` makes, in their order; for the order that a disk has to be told."""
    made: list[str] = []
    real = {name: getattr(os, name) for name in CALLS}
    for name in CALLS:

        def noted(*args: object, _name: str = name, **more: object) -> object:
            made.append(_name)
            return real[_name](*args, **more)

        setattr(os, name, noted)
    try:
        work()
    finally:
        for name in CALLS:
            setattr(os, name, real[name])
    return made


def nobody() -> int:
    """The number of a process that has ended."""
    child = os.fork()
    if child == 0:
        os._exit(0)
    os.waitpid(child, 0)
    return child
