# SPDX-License-Identifier: MIT
"""A machine's memory, changed from outside while it stands still: what a bad DIMM does.

Through QEMU's gdb stub, which writes physical memory on demand:
https://www.qemu.org/docs/master/system/gdb.html ("Memory mode"); the protocol:
https://sourceware.org/gdb/current/onlinedocs/gdb.html/Remote-Protocol.html
"""

from __future__ import annotations

import mmap
import socket
import tempfile
from pathlib import Path

from tests.vm.lab.errors import QmpError
from tests.vm.lab.qmp import Qmp

TIMEOUT = 30.0
MIB = 1 << 20


def flip(qmp: Qmp, memory_mib: int, pattern: bytes) -> int:
    """Change the first byte of `pattern` wherever it lies in memory; returns in how many places."""
    with tempfile.TemporaryDirectory(prefix="lab-memory-") as directory:
        dump, path = Path(directory, "dump"), Path(directory, "gdb")
        qmp.execute("stop")
        try:
            qmp.execute("pmemsave", {"val": 0, "size": memory_mib * MIB, "filename": str(dump)}, timeout=TIMEOUT)
            found = _places(dump, pattern)
            _stub(qmp, f"unix:{path},server=on,wait=off")
            _write(path, found, pattern[0] ^ 0xFF)
            _stub(qmp, "none")
        finally:
            qmp.execute("cont")
    return len(found)


def _stub(qmp: Qmp, where: str) -> None:
    """It answers in words for people, whatever comes of it; whether it is there shows when it is spoken to."""
    qmp.execute("human-monitor-command", {"command-line": f"gdbserver {where}"})


def _places(dump: Path, pattern: bytes) -> list[int]:
    found = []
    with dump.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as memory:
        at = memory.find(pattern)
        while at >= 0:
            found.append(at)
            at = memory.find(pattern, at + 1)
    return found


def _write(path: Path, places: list[int], value: int) -> None:
    """Everywhere the same byte. Machines with more than 2 GiB have a hole in their addresses: not for these."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as stub:
        stub.settimeout(TIMEOUT)
        stub.connect(str(path))
        _ask(stub, "Qqemu.PhyMemMode:1")
        for place in places:
            _ask(stub, f"M{place:x},1:{value:02x}")
        _ask(stub, "D")


def _ask(stub: socket.socket, what: str) -> None:
    checksum = sum(what.encode()) % 256
    stub.sendall(f"${what}#{checksum:02x}".encode())
    heard = b""
    while b"#" not in heard[:-2]:
        part = stub.recv(4096)
        if not part:
            break
        heard += part
    stub.sendall(b"+")
    if b"$OK#" not in heard:
        raise QmpError(f"the gdb stub says to {what}: {heard!r}")
