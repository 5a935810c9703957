# SPDX-License-Identifier: MIT
"""What the tests of the way down put on the stage: applications and filesystems, all real."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

from kexecd.executor import Executor, RealClock, Result
from kexecd.kernel import proc
from kexecd.model import Act, Event, EventKind, Phase, Plan, Step, Way


def application(body: str, *arguments: str) -> int:
    """Start a Python program as a daemon, a child of PID 1; returns its pid when it has said that it is ready."""
    reader, writer = os.pipe()
    source = f"""
import os, signal, sys, time
if os.fork(): os._exit(0)
ready = lambda: os.write({writer}, str(os.getpid()).encode())
{body}"""
    starter = subprocess.Popen([sys.executable, "-c", source, *arguments], pass_fds=[writer], start_new_session=True)
    os.close(writer)
    pid = os.read(reader, 16)
    os.close(reader)
    assert starter.wait(10) == 0 and pid, "the application did not start"
    return int(pid)


def crowd(count: int) -> None:
    """Start many processes that sleep, children of PID 1; returns when all of them are there."""
    reader, writer = os.pipe()
    if os.fork() == 0:
        for _ in range(count):
            if os.fork() == 0:
                os.write(writer, b"x")
                os.closerange(3, 256)
                while True:
                    signal.pause()
        os._exit(0)
    os.close(writer)
    there = 0
    while there < count and (part := os.read(reader, 1 << 16)):
        there += len(part)
    os.close(reader)
    os.wait()
    assert there == count, "they did not start"


def walk(*steps: Step, within: float = 10.0) -> tuple[Result, list[Event], float]:
    """Run steps, one phase each, past the commit point; returns the result, the events and the seconds that it took."""
    events: list[Event] = []
    phases = tuple(Phase(step.name, number, "", (step,), commit=True) for number, step in enumerate(steps))
    begin = time.monotonic()
    result = Executor(Plan(Way.FAST, Act.KEXEC, within, phases), emit=events.append, clock=RealClock()).run()
    return result, events, time.monotonic() - begin


def notes(events: list[Event]) -> str:
    return "\n".join(event.text for event in events if event.kind in (EventKind.NOTE, EventKind.FAILED))


def eventually(test: Callable[[], bool], seconds: float = 10.0) -> None:
    end = time.monotonic() + seconds
    while not test():
        assert time.monotonic() < end, "it did not come about"
        time.sleep(0.01)


def disk(directory: Path, name: str, *, mib: int = 64) -> Path:
    """An ext4 filesystem on a loop device, mounted read-write; returns its mount point."""
    image, point = directory / f"{name}.img", directory / name
    with image.open("wb") as file:
        file.truncate(mib << 20)
    command("mke2fs", "-q", "-t", "ext4", image)
    point.mkdir()
    command("mount", "-o", "loop", image, point)
    return point


def command(*words: str | Path) -> None:
    subprocess.run(words, check=True, timeout=60)


def alive(pid: int) -> bool:
    return proc.read(pid) is not None
