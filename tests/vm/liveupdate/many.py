# SPDX-License-Identifier: MIT
"""How long the way to the jump is with 101 memfds of 356 MiB in the holder's hands, beside the same with none."""

from __future__ import annotations

from dataclasses import dataclass
from statistics import median

from tests.vm.lab.guest import Guest
from tests.vm.lab.oracle import Restart
from tests.vm.liveupdate import stage

COUNT, MIB = 101, 356

# A hundred of 1 MiB and one of 256, no page like another. With "check": whether all of it is as it was.
PROGRAM = """\
import hashlib, os, sys
sys.path.insert(0, "/usr/lib/kexecd")
from kexecd import client

SIZES = {**{f"small-{number}": 1 for number in range(100)}, "large": 256}

def content(name, part):
    return hashlib.sha512(f"{name} {part}".encode()).digest() * 16384

with client.Connection() as connection:
    for name, size in SIZES.items():
        if sys.argv[1:] == ["check"]:
            fd = connection.get(name)
            assert fd is not None and os.fstat(fd).st_size == size << 20, name
            for part in range(size):
                assert os.pread(fd, 1 << 20, part << 20) == content(name, part), (name, part)
        elif sys.argv[1:] == ["drop"]:
            connection.drop(name)
            continue
        else:
            fd = os.memfd_create(name, os.MFD_CLOEXEC)
            for part in range(size):
                os.write(fd, content(name, part))
            connection.put(name, fd)
        os.close(fd)
"""
PLACE = "/opt/many.py"


@dataclass(frozen=True, slots=True)
class Figure:
    """carrier: what brought it over, empty where nothing was held. seconds: from the command to the jump."""

    carrier: str
    seconds: float
    restart: Restart


@dataclass(frozen=True, slots=True)
class Series:
    """Several of one kind, of which the middle one counts: an emulated machine has its moments."""

    what: str
    figures: tuple[Figure, ...]

    @property
    def seconds(self) -> float:
        return median(one.seconds for one in self.figures)

    @property
    def carriers(self) -> set[str]:
        return {one.carrier for one in self.figures}

    def __str__(self) -> str:
        each = ", ".join(f"{one.seconds:.2f}" for one in self.figures)
        return f"{self.what} {self.seconds:.2f} s (median of {each})"


def call(guest: Guest, *words: str) -> None:
    guest.run("/usr/bin/python3", PLACE, *words, timeout=300)


def alone(guest: Guest) -> None:
    """Nothing else is held from now on."""
    guest.run("/bin/sh", "-c", f"systemctl disable --now keyvalue && {stage.KEXECCTL} state drop keyvalue", timeout=60)


def figure(guest: Guest, *, held: bool, load: tuple[str, ...]) -> Figure:
    """One `kexecctl reboot --fast`; held: with all of it, which is looked at afterwards and let go."""
    guest.put(PLACE, PROGRAM.encode())
    if held:
        call(guest)
    seen = stage.restart(guest, "--fast", load=load)
    carrier = ""
    if held:
        carrier = str(stage.status(guest)["carrier"])
        call(guest, "check")
        call(guest, "drop")
    assert seen.seconds_to_jump is not None, seen.explain()
    return Figure(carrier, seen.seconds_to_jump, seen)
