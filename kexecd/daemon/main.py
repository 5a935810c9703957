# SPDX-License-Identifier: MIT
"""kexecd: the resident daemon. It has every module of a restart in memory, so that a copy of it begins at once.

It decides nothing, and holds nothing that would be lost with it: requests are done by copies of it, and how far a
restart has come lies in /run/kexecd. Whoever finds nobody here does by itself what it wanted done.
"""

from __future__ import annotations

import ctypes
import gc
import os
import signal
import sys
from importlib import import_module

import kexecd
from kexecd import state
from kexecd.cli.main import parser, refused
from kexecd.daemon.deeds import Deeds
from kexecd.daemon.notify import notify
from kexecd.daemon.requests import Door
from kexecd.errors import ExitCode, NotPermitted, Refusal
from kexecd.loop import Loop
from kexecd.record import RUN_DIR, loaded_record

IDLE = 60.0
"""Seconds without a request after which it ends, unless an image of ours is in memory or the machine is armed."""

LAST = 19  # the lowest priority; setpriority(2)

APART = ("kexecd.bus", "kexecd.daemon", "kexecd.jump", "kexecd.liveupdate")
"""What no copy has a use for, and what only few have that takes 4 MiB with it."""

TYPE_CHECKING = False  # what the type checker takes for true; the module of that name costs as much as many of ours
if TYPE_CHECKING:
    from kexecd.bus.manager import Face


def main(arguments: list[str] | None = None) -> int:
    """Serve until nobody needs it any more; returns the exit status, an ExitCode."""
    if sys.argv[1:] if arguments is None else arguments:
        print("usage: kexecd", file=sys.stderr)
        return ExitCode.USAGE
    try:
        if os.geteuid():
            raise NotPermitted("cannot start the daemon", "only root may", hint="kexecctl works without it")
        return serve(RUN_DIR)
    except Refusal as refusal:
        return refused(refusal, as_json=False)


def serve(run_dir: str, *, idle: float = IDLE, bus: str | None = "") -> int:
    """bus: the address of a message bus, empty for the system's, None for none. Raises Busy if another one is there."""
    daemon = _Daemon(run_dir, idle, bus)
    notify("READY=1")
    try:
        daemon.loop.run()
    finally:
        notify("STOPPING=1")
        daemon.close()
    return ExitCode.OK


class _Daemon:
    def __init__(self, run_dir: str, idle: float, bus: str | None) -> None:
        installed = _stamp()
        # Whoever asks for a restart meanwhile does it alone, and is not to wait for what was to make it faster.
        os.setpriority(os.PRIO_PROCESS, 0, LAST)
        warm_up()
        os.setpriority(os.PRIO_PROCESS, 0, 0)
        os.chdir("/")
        os.makedirs(run_dir, mode=0o755, exist_ok=True)
        self._run_dir, self._idle = run_dir, idle
        self.loop = Loop()
        _stop_at_signals(self.loop)
        self._door = Door(self.loop, run_dir, current=lambda: _stamp() == installed, over=self.loop.stop)
        self._deeds = Deeds(self.loop, run_dir)
        self._face = None if bus is None else _face(self.loop, self._deeds, bus, run_dir)
        if self._face:
            self._deeds.on_state, self._deeds.on_event = self._face.state_changed, self._face.progress
        self._rest(-1)
        gc.collect()
        gc.freeze()  # a copy that collects its own garbage leaves ours alone, and the pages shared
        ctypes.CDLL(None).malloc_trim(0)

    def close(self) -> None:
        self._door.close()
        self._deeds.close()
        if self._face:
            self._face.close()

    def _rest(self, before: int) -> None:
        """End when there was nothing to do since the last look. before: how much had been begun by then."""
        begun = self._door.begun + self._deeds.begun
        if begun != before or self._is_needed():
            self.loop.after(self._idle, lambda: self._rest(begun))
        elif self._face:
            self._face.retire(lambda quiet: self.loop.stop() if quiet else self._rest(-1))
        else:
            self.loop.stop()

    def _is_needed(self) -> bool:
        if self._door.at_work or self.loop.children or (self._face and self._face.busy):
            return True
        return loaded_record(self._run_dir) is not None or state.is_armed(self._run_dir)


def warm_up() -> None:
    """Import all of ours, and make what is made once."""
    top = os.path.dirname(kexecd.__file__)
    for directory, _, names in os.walk(top):
        package = os.path.relpath(directory, os.path.dirname(top)).replace("/", ".")
        for name in names:
            module = f"{package}.{name.removesuffix('.py')}"
            if name.endswith(".py") and name != "__init__.py" and not module.startswith(APART):
                _warm(module)
    _warm("resource")
    parser("reboot")


def _warm(module: str) -> None:
    try:
        import_module(module)
    except Exception as error:  # whoever has a use for it hears of it; the others must not
        print(f"kexecd: {module} is not kept in memory: {error!r}, ignoring", file=sys.stderr)


def _face(loop: Loop, deeds: Deeds, address: str, run_dir: str) -> Face | None:
    """On the bus; None where there is none, or nothing to talk to it with."""
    try:
        from kexecd.bus.manager import Face  # late: its library need not be there
    except ModuleNotFoundError as error:
        print(f"kexecd: not on the message bus: the Python module {error.name} is not installed", file=sys.stderr)
        return None
    return Face.connect(loop, deeds, address=address, run_dir=run_dir)


def _stop_at_signals(loop: Loop) -> None:
    """SIGTERM and SIGINT end the loop, and nothing that was begun."""
    reader, writer = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
    signal.set_wakeup_fd(writer)
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda number, frame: None)
    loop.watch(reader, loop.stop)


def _stamp() -> tuple[int, ...]:
    """What changes when another kexecd is installed."""
    try:
        there = os.stat(kexecd.__file__)
    except OSError:
        return ()
    return there.st_dev, there.st_ino, there.st_mtime_ns, there.st_ctime_ns
