# SPDX-License-Identifier: MIT
"""kexecctl state, by its own main(), against a real holder: what a shell script hands over and gets back."""

from __future__ import annotations

import io
import json
import os
from argparse import Namespace
from collections.abc import Iterator
from pathlib import Path

import pytest

from kexecd import client
from kexecd.cli.main import refused
from kexecd.cli.state_command import state
from kexecd.errors import ExitCode, Refusal
from tests.unit.liveupdate.holding import Holder, content, holding, memfd


@pytest.fixture
def holder() -> Iterator[Holder]:
    with holding() as one:
        yield one


def kexecctl(holder: Holder | str, verb: str, name: str | None = None, file: Path | None = None, **more: object) -> int:
    """As the command line has it, down to the exit status."""
    socket = holder if isinstance(holder, str) else holder.socket
    given = {"json": False, "uid": None, "fd": None, "socket": socket, **more}
    options = Namespace(verb=verb, name=name, file=None if file is None else str(file), **given)
    try:
        return state(options)
    except Refusal as refusal:
        return refused(refusal, as_json=bool(options.json))


def test_a_file_goes_in_and_comes_out(
    holder: Holder, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "in").write_bytes(b"x" * 3000000)
    assert kexecctl(holder, "put", "table", tmp_path / "in") == 0
    assert capsys.readouterr().out == "table is held: 3000000 bytes\n"
    assert kexecctl(holder, "get", "table", tmp_path / "out") == 0
    assert (tmp_path / "out").read_bytes() == b"x" * 3000000
    assert kexecctl(holder, "drop", "table") == 0
    assert kexecctl(holder, "get", "table", tmp_path / "out") == ExitCode.NOT_LOADED
    assert capsys.readouterr().err == (
        "kexecctl: cannot get table: nothing of this name is held for this user; nothing was changed\n"
    )


def test_the_standard_streams_do_too(holder: Holder, tmp_path: Path) -> None:
    """In a process of its own, as descriptors 0 and 1 are its."""
    for verb, content_in in (("put", b"from a pipe"), ("get", b"")):
        pid = os.fork()
        if pid == 0:
            status = 1
            try:
                reader, writer = os.pipe()
                os.write(writer, content_in)
                os.close(writer)
                os.dup2(reader, 0)
                os.dup2(os.open(tmp_path / verb, os.O_WRONLY | os.O_CREAT), 1)
                import sys

                sys.stdin, sys.stdout = io.TextIOWrapper(io.FileIO(0)), io.TextIOWrapper(io.FileIO(1, "w"))
                status = kexecctl(holder, verb, "table")
                sys.stdout.flush()
            finally:
                os._exit(status)
        assert os.waitpid(pid, 0)[1] == 0
    assert (tmp_path / "put").read_bytes() == b"table is held: 11 bytes\n"
    assert (tmp_path / "get").read_bytes() == b"from a pipe"


def test_a_memfd_that_the_caller_has_is_handed_over_itself(holder: Holder) -> None:
    fd = memfd(b"same")
    assert kexecctl(holder, "put", "table", fd=fd) == 0
    os.pwrite(fd, b"SAME", 0)
    assert content(client.get("table", path=holder.socket) or -1) == b"SAME"


def test_what_is_held_is_listed(holder: Holder, capsys: pytest.CaptureFixture[str]) -> None:
    assert kexecctl(holder, "list") == 0
    assert capsys.readouterr().out == "nothing is held\n"
    client.put("table", memfd(bytes(1 << 20)), path=holder.socket)
    assert kexecctl(holder, "list") == 0
    assert capsys.readouterr().out == "NAME   USER  SIZE     STATE\ntable  0     1.0 MiB  normal\n"
    assert kexecctl(holder, "list", json=True) == 0
    (held,) = json.loads(capsys.readouterr().out)["held"]
    assert held == {
        "bytes": 1 << 20,
        "frozen_at": 0.0,
        "name": "table",
        "seals": 0,
        "sha256": "",
        "state": "normal",
        "uid": 0,
    }


def test_status_says_how_far_it_is_what_carries_it_and_what_was_lost(
    holder: Holder, capsys: pytest.CaptureFixture[str]
) -> None:
    client.put("table", memfd(b"x"), path=holder.socket)
    with holder.ask() as connection:
        connection.ask({"do": "freeze", "carrier": "file", "why": "a test"})
    assert kexecctl(holder, "status") == 0
    assert capsys.readouterr().out == (
        "state    frozen\nheld     1, 0.0 MiB\ncarrier  file: a test\nkernel   has no live update\n"
    )
    holder.end()
    next(path for path in holder.live.iterdir() if path.name.endswith("-0")).write_bytes(b"y")
    holder.start()
    assert kexecctl(holder, "status") == 0
    assert "lost     table of user 0: its content is not what was written" in capsys.readouterr().out
    assert kexecctl(holder, "get", "table") == ExitCode.UNSUPPORTED
    assert "it did not come over the restart: its content is not what was written" in capsys.readouterr().err


def test_without_a_holder_it_says_what_to_start(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert kexecctl(str(tmp_path / "none"), "status") == ExitCode.UNSUPPORTED
    assert capsys.readouterr().err == (
        f"kexecctl: cannot tell what is held: nobody listens at {tmp_path}/none (ENOENT); nothing was changed\n"
        "  hint: the service kexecd-state holds what is handed over; is it started?\n"
    )


@pytest.mark.parametrize(("verb", "name"), [("put", None), ("get", None), ("list", "table"), ("status", "table")])
def test_a_name_is_there_where_it_belongs(holder: Holder, verb: str, name: str | None) -> None:
    assert kexecctl(holder, verb, name) == ExitCode.USAGE
