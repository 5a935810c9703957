# SPDX-License-Identifier: MIT
"""The process that holds what applications hand over, from boot to the jump, and the session that carries it.

It must not be killed on the way down, whoever takes the machine down:

- `kexecctl reboot --fast` and systemd (https://systemd.io/ROOT_STORAGE_DAEMONS) spare a process of root's whose argv[0]
  begins with "@"; its unit has to be one that nothing stops (DefaultDependencies=no, KillMode=none, no Conflicts);
- sysvinit's sendsigs spares whose number stands in /run/sendsigs.omit.d;
- OpenRC's kill_all(8), and killall5(8), spare only their own session. There the session's descriptor goes to a process
  in that session (kexecd.liveupdate.keeper), which whoever freezes starts: it alone is what the kernel looks at.

It keeps no directory but / and no file but its sockets, so that no filesystem waits for it.
"""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import sys
from collections.abc import Callable

from kexecd.errors import NotPermitted
from kexecd.kernel import descriptors, files, sysfs
from kexecd.liveupdate import freezing, keeper, place
from kexecd.liveupdate.filestore import LIVE, FileStore
from kexecd.liveupdate.index import Carrier
from kexecd.liveupdate.server import Server
from kexecd.liveupdate.store import MOST, Limits, Store
from kexecd.loop import Loop

PID = "state.pid"  # in the run directory
OMIT = "/run/sendsigs.omit.d"  # sendsigs(8) of Debian's initscripts


def serve(
    run_dir: str, directory: str = LIVE, limits: Limits | None = None, *, ready: Callable[[], object] | None = None
) -> None:
    """Hold until the jump. Raises Busy if another holder is there, NotPermitted for who is not root, and OSError.

    ready: called when what the last kernel has left can be got; by itself, systemd is told.
    """
    if os.geteuid():
        raise NotPermitted("cannot hold what applications hand over", "only root may", hint="try again with sudo")
    os.chdir("/")
    keeper.mark()
    descriptors.room_for(2 * MOST)
    os.makedirs(run_dir, mode=0o755, exist_ok=True)
    loop, store, disk = Loop(), Store(limits or Limits()), FileStore(directory)
    server = Server(loop, store, disk, run_dir, tell=_tell)
    try:
        _omit()
        _stay()
        _end_if_empty(loop, store)
        before = place.held(run_dir)
        restore(store, disk)
        store.miss(before)
        if store.missed:
            _tell(f"an earlier holder was killed, and with it {len(store.missed)} that it held")
        server.start()
        _note(run_dir)
        (ready or _tell_systemd)()
        loop.run()
    finally:
        server.close()
        store.close()
        files.remove(os.path.join(run_dir, PID))


def restore(store: Store, disk: FileStore) -> None:
    """Have in `store` what the last kernel has left; the disk lets go of it when it is there."""
    found = freezing.restore(disk, sysfs.boot_id())
    if found is None:
        return
    pairs = [(entry, fd) for entry, fd in zip(found.index.entries, found.fds, strict=False) if fd is not None]
    store.came_over(pairs, found.lost, found.index.frozen_at, tried=found.index.carrier is Carrier.MEMORY)
    store.carrier, store.why = found.index.carrier, "it brought over what is held"
    for entry, why in found.lost:
        _tell(f"{entry.name} of user {entry.uid} did not come over: {why}")
    if pairs:
        _tell(f"{len(pairs)} memfds, {store.bytes} bytes, have come over by {found.index.carrier}")
    if found.again:
        return
    try:
        disk.forget()
    except OSError as error:
        _tell(f"{disk.directory} keeps what has come over: {error}, ignoring")


def _stay() -> None:
    """Whoever asks everybody to quit means applications. A KILL ends it, and what memory carries with it."""
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGQUIT, signal.SIGPIPE):
        signal.signal(number, signal.SIG_IGN)


def _end_if_empty(loop: Loop, store: Store) -> None:
    """A TERM ends the holder only while nobody would lose anything."""
    reader, writer = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
    signal.set_wakeup_fd(writer)
    signal.signal(signal.SIGTERM, lambda number, frame: None)

    def asked() -> None:
        os.read(reader, 64)
        if len(store):
            _tell(f"asked to quit, and staying: {len(store)} would be lost (KILL does it)")
        else:
            loop.stop()

    loop.watch(reader, asked)


def _note(run_dir: str) -> None:
    """For a script that wants to ask us to quit."""
    with contextlib.suppress(OSError):
        files.write_atomic(os.path.join(run_dir, PID), f"{os.getpid()}\n".encode(), mode=0o644)


def _omit() -> None:
    if os.path.isdir(OMIT):
        with contextlib.suppress(OSError), open(f"{OMIT}/kexecd-state", "w", encoding="ascii") as file:
            file.write(f"{os.getpid()}\n")


def _tell_systemd() -> None:
    """Those who are ordered behind us may start (sd_notify(3))."""
    address = os.environ.get("NOTIFY_SOCKET", "")
    with contextlib.suppress(OSError), socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sender:
        if address:
            sender.sendto(b"READY=1", f"\0{address[1:]}" if address.startswith("@") else address)


def _tell(text: str) -> None:
    with contextlib.suppress(OSError):  # nobody listens
        print(f"kexecd-state: {text}", file=sys.stderr, flush=True)
