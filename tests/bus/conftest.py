# SPDX-License-Identifier: MIT
"""A private bus, the daemon's face on it, and those whom it talks to."""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any

import pytest

from kexecd.kernel import sysfs
from tests.bus.private_bus import TOP, Caller, PrivateBus, process, until

DEBIAN = "/usr/bin/python3"
"""The system's Python: dbusmock and pydbus come from the distribution, since they stand on its libraries."""


@dataclass
class Served:
    """A face in a process of its own."""

    directory: Path
    process: subprocess.Popen[bytes]
    bus: PrivateBus
    out: IO[bytes] = field(init=False)

    def __post_init__(self) -> None:
        assert self.process.stdout
        self.out = self.process.stdout

    def answers(self, command: str, **told: Any) -> None:
        """What `kexecctl COMMAND` says from now on: out (a document or text), code, err, seconds."""
        if isinstance(told.get("out"), dict):
            told["out"] = json.dumps(told["out"])
        (self.directory / "answers" / command).write_text(json.dumps(told))

    @property
    def deeds(self) -> list[list[str]]:
        path = self.directory / "deeds"
        return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []

    @property
    def log(self) -> str:
        path = self.directory / "log"
        return path.read_text() if path.exists() else ""

    def say(self, command: str) -> str:
        assert self.process.stdin
        self.process.stdin.write(command.encode())
        self.process.stdin.flush()
        return self.out.readline().decode().strip()

    def sees(self) -> dict[str, bool]:
        seen: dict[str, bool] = json.loads(self.say("see"))
        return seen

    @property
    def memory(self) -> int:
        """Bytes of it in memory."""
        for line in Path(f"/proc/{self.process.pid}/status").read_text().splitlines():
            if line.startswith("VmRSS:"):
                return int(line.split()[1]) << 10
        raise AssertionError("no VmRSS")

    @property
    def descriptors(self) -> int:
        return len(os.listdir(f"/proc/{self.process.pid}/fd"))

    # What lies in /run/kexecd and in the kernel

    def write(self, name: str, **fields: Any) -> None:
        path = self.directory / "run" / name
        beside = path.with_suffix(".new")
        beside.write_text(json.dumps({"boot_id": sysfs.boot_id(), **fields}))
        os.replace(beside, path)

    def restart(self, state: str, act: str = "kexec") -> None:
        self.write("state.json", schema=1, state=state, way="orderly", act=act, loaded=True, since=time.time())

    def remove(self, name: str) -> None:
        (self.directory / "run" / name).unlink()

    def load(self, version: str = "6.1.0-9", *, ours: bool = True) -> None:
        (self.directory / "root/sys/kernel/kexec_loaded").write_text("1\n")
        if ours:
            file = {"path": f"/boot/vmlinuz-{version}", "size": 1, "sha256": "0" * 64}
            self.write(
                "image.json",
                entry_id=f"versioned:{version}",
                version=version,
                kernel=file,
                initrds=[],
                cmdline="root=/dev/sda1 secret=1",
                nonce="abc",
                method="kexec_file_load",
                loaded_at=1.5,
            )


@pytest.fixture
def bus(tmp_path: Path) -> Iterator[PrivateBus]:
    private = PrivateBus(tmp_path)
    private.start()
    yield private
    private.stop()


@pytest.fixture
def place(tmp_path: Path) -> Path:
    for directory in ("run", "answers", "root/sys/kernel", "root/proc/sys/kernel/random"):
        (tmp_path / directory).mkdir(parents=True)
    (tmp_path / "root/sys/kernel/kexec_loaded").write_text("0\n")
    (tmp_path / "root/proc/sys/kernel/random/boot_id").write_text(sysfs.boot_id() + "\n")
    return tmp_path


@contextlib.contextmanager
def serve(bus: PrivateBus, place: Path, python: str = sys.executable) -> Iterator[Served]:
    """python: whose jeepney it has."""
    command = [python, "-m", "tests.bus.server", bus.address, str(place)]
    with process(command, cwd=TOP, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as started:
        served = Served(place, started, bus)
        assert served.out.readline() == b"ready\n"
        until(lambda: served.sees()["named"])
        yield served


@pytest.fixture
def face(bus: PrivateBus, place: Path) -> Iterator[Served]:
    with serve(bus, place) as served:
        yield served


@pytest.fixture
def root(face: Served) -> Iterator[Caller]:
    """Somebody who needs nobody's leave."""
    with face.bus.caller() as caller:
        yield caller


@dataclass
class Mock:
    """One of python-dbusmock's."""

    address: Any
    caller: Caller

    def call(self, member: str, signature: str = "", *body: Any) -> tuple[Any, ...]:
        return self.caller.call(member, signature, body, to=self.address.with_interface("org.freedesktop.DBus.Mock"))

    def calls(self, method: str) -> list[tuple[int, list[tuple[str, Any]]]]:
        """When, and with which arguments."""
        (calls,) = self.call("GetMethodCalls", "s", method)
        return list(calls)
