# SPDX-License-Identifier: MIT
"""examples/keyvalue as its README has it, without a machine of its own: processes end, and files carry its table."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.unit.liveupdate.holding import Holder, holding

TOP = Path(__file__).parents[3]
EXAMPLE = TOP / "examples" / "keyvalue"
KEYS = 100_000
MANY = 600_000


@pytest.fixture
def holder() -> Iterator[Holder]:
    with holding() as one:
        yield one


@contextmanager
def server(holder: Holder, path: Path) -> Iterator[subprocess.Popen[bytes]]:
    words = [sys.executable, str(EXAMPLE / "server.py"), str(path), holder.socket]
    process = subprocess.Popen(words, env={**os.environ, "PYTHONPATH": str(TOP)})
    try:
        yield process
    finally:
        process.kill()
        process.wait()


def shell(path: Path, *words: str) -> str:
    done = subprocess.run(
        [sys.executable, EXAMPLE / "shell.py", path, *words], capture_output=True, text=True, timeout=120, check=True
    )
    return done.stdout.strip()


def restart(holder: Holder) -> None:
    """As a machine does it: everybody is killed once what they hold is frozen."""
    with holder.ask() as state:
        state.ask({"do": "prepare", "carrier": "file", "why": "a test"})
        state.ask({"do": "freeze", "carrier": "file", "why": "a test"})
    holder.end()
    holder.boot()


def test_every_key_and_the_counter_survive_three_restarts(holder: Holder, tmp_path: Path) -> None:
    path = tmp_path / "keyvalue"
    with server(holder, path):
        assert shell(path, "fill", str(KEYS)) == f"{KEYS} acknowledged"
        before = shell(path, "sum")
        assert before.startswith(f"{KEYS} keys, {KEYS} writes, ")
    for number in range(3):
        restart(holder)
        with server(holder, path):
            assert shell(path, "sum") == before
            assert shell(path, "set", "counter", str(number)) == "OK"
            before = shell(path, "sum")
            assert before.startswith(f"{KEYS + 1} keys, {KEYS + 1 + number} writes, ")
            assert shell(path, "get", "key-99999") == f"VALUE value-of-{99999 * 7919}"


def test_a_client_in_the_middle_of_its_work_finds_every_acknowledged_key(holder: Holder, tmp_path: Path) -> None:
    """The server is killed while a client writes, then everything is frozen: none that it has said OK to is missing."""
    path, said = tmp_path / "keyvalue", list[str]()
    with server(holder, path) as process:
        writer = threading.Thread(target=lambda: said.append(shell(path, "fill", str(MANY))))
        writer.start()
        while shell(path, "get", "key-50000") == "NONE":
            time.sleep(0.05)
        process.send_signal(signal.SIGKILL)
        process.wait()
        assert writer.is_alive(), "it was done before the restart came"
        restart(holder)
    with server(holder, path):
        writer.join()  # it has reconnected, and said again only what was not acknowledged
        assert said == [f"{MANY} acknowledged"]
        assert shell(path, "sum").startswith(f"{MANY} keys, ")


def test_without_kexecd_the_server_says_why_it_cannot_start(tmp_path: Path) -> None:
    words = [sys.executable, str(EXAMPLE / "server.py"), str(tmp_path / "keyvalue"), str(tmp_path / "nobody")]
    with_ours = {**os.environ, "PYTHONPATH": str(TOP)}
    done = subprocess.run(words, env=with_ours, capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert "FileNotFoundError" in done.stderr
