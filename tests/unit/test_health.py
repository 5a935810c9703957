# SPDX-License-Identifier: MIT
"""The health checks of a new boot: real commands, real sockets, and an init that is slow to answer."""

from __future__ import annotations

import os
import socket
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from kexecd.kernel import proc
from kexecd.wayback import health
from kexecd.wayback.health import Address, Wanted, address, ask


def nobody(names: tuple[str, ...]) -> dict[str, str]:
    """An init for which everything is good."""
    del names
    return {}


def asked(wanted: Wanted, seconds: float = 20.0) -> tuple[str, ...]:
    return ask(wanted, nobody, seconds=seconds)


@pytest.fixture
def listener() -> Iterator[socket.socket]:
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield server


def test_a_command_that_ends_well_is_good() -> None:
    assert asked(Wanted(commands=(("/bin/true",),))) == ()


def test_a_command_that_fails_is_told_with_its_last_word() -> None:
    (why,) = asked(Wanted(commands=(("/bin/sh", "-c", "echo starting; echo no route to host >&2; exit 3"),)))
    assert "ended with exit status 3, and said: no route to host" in why


def test_a_command_that_is_not_there_is_told() -> None:
    (why,) = asked(Wanted(commands=(("/nonexistent/check",),)))
    assert why == "`/nonexistent/check` could not be started: there is no such file"


def test_a_command_that_others_could_replace_is_not_run(tmp_path: Path) -> None:
    ran, check = tmp_path / "ran", tmp_path / "check"
    check.write_text(f"#!/bin/sh\ntouch {ran}\n")
    check.chmod(0o777)
    (why,) = asked(Wanted(commands=((str(check),),)))
    assert "is not run" in why and "others than root may write to it" in why
    assert not ran.exists()


def test_a_command_that_hangs_is_killed_when_the_round_is_over(tmp_path: Path) -> None:
    pid = tmp_path / "pid"
    begin = time.monotonic()
    (why,) = asked(Wanted(commands=(("/bin/sh", "-c", f"echo $$ > {pid}; trap '' TERM; sleep 60"),)), seconds=0.5)
    assert "did not end" in why
    assert time.monotonic() - begin < 10
    with pytest.raises(ProcessLookupError):
        os.kill(int(pid.read_text()), 0)


def test_an_address_that_takes_connections_is_good(listener: socket.socket) -> None:
    port = listener.getsockname()[1]
    assert asked(Wanted(reach=(f"127.0.0.1:{port}", f"localhost:{port}"))) == ()


def test_an_address_where_nobody_listens_is_told(listener: socket.socket) -> None:
    port = listener.getsockname()[1]
    listener.close()
    assert asked(Wanted(reach=(f"127.0.0.1:{port}",))) == (f"127.0.0.1:{port} cannot be reached: connection refused",)


def test_an_address_that_never_answers_is_not_waited_for() -> None:
    """A listener whose queue is full drops what comes: that is what a lost packet looks like."""
    with socket.socket() as full, socket.socket() as first, socket.socket() as second:
        full.bind(("127.0.0.1", 0))
        full.listen(0)
        for other in (first, second):
            other.setblocking(False)
            other.connect_ex(full.getsockname())
        port, begin = full.getsockname()[1], time.monotonic()
        assert asked(Wanted(reach=(f"127.0.0.1:{port}",)), seconds=0.7) == (
            f"127.0.0.1:{port}: no answer in time",
        )
        assert 0.6 < time.monotonic() - begin < 5


def test_services_are_asked_of_init_and_named_if_they_are_not_good() -> None:
    def active(names: tuple[str, ...]) -> dict[str, str]:
        return {names[1]: f"{names[1]} is failed"}

    assert ask(Wanted(units=("ssh.service", "nginx.service")), active, seconds=20) == ("nginx.service is failed",)


def test_an_init_that_does_not_answer_is_left_behind() -> None:
    def active(names: tuple[str, ...]) -> dict[str, str]:
        time.sleep(60)
        return {}

    begin = time.monotonic()
    (why,) = ask(Wanted(units=("ssh.service",)), active, seconds=0.4)
    assert why.startswith("ssh.service: no answer") and time.monotonic() - begin < 5


def test_an_init_that_breaks_is_not_good() -> None:
    def active(names: tuple[str, ...]) -> dict[str, str]:
        raise OSError(5, "input/output error")

    assert "input/output error" in ask(Wanted(units=("a.service",)), active, seconds=20)[0]


def test_everything_is_asked_at_the_same_time(listener: socket.socket) -> None:
    def active(names: tuple[str, ...]) -> dict[str, str]:
        time.sleep(1.0)
        return {}

    wanted = Wanted((("/bin/sleep", "1"), ("/bin/sleep", "1")), ("a.service",), (f"127.0.0.1:{port(listener)}",))
    begin = time.monotonic()
    assert ask(wanted, active, seconds=20) == ()
    assert time.monotonic() - begin < 2.5


def port(listener: socket.socket) -> int:
    return int(listener.getsockname()[1])


def test_what_is_wrong_is_all_told() -> None:
    wrong = asked(Wanted((("/bin/false",),), (), ("127.0.0.1:1", "no address")))
    assert sorted(why.split()[0] for why in wrong) == ["127.0.0.1:1", "`/bin/false`", "no"]


def test_a_round_ends_when_somebody_else_has_something_to_say() -> None:
    reader, writer = os.pipe()
    threading.Timer(0.3, os.close, (writer,)).start()
    begin = time.monotonic()
    wrong = ask(Wanted((("/bin/sleep", "60"),)), nobody, seconds=60, heard=frozenset((reader,)))
    os.close(reader)
    assert wrong == ("the round was cut short",) and time.monotonic() - begin < 10


def children() -> set[int]:
    found = (proc.read(pid) for pid in proc.pids())
    return {one.pid for one in found if one and one.ppid == os.getpid()}


def test_a_round_leaves_no_descriptor_and_no_child_behind(listener: socket.socket) -> None:
    commands, reach = (("/bin/true",), ("/bin/sleep", "60")), (f"127.0.0.1:{port(listener)}", "127.0.0.1:1")
    wanted = Wanted(commands, ("a.service",), reach)
    asked(wanted, seconds=0.5)
    before = os.listdir("/proc/self/fd"), children()
    for _ in range(3):
        asked(wanted, seconds=0.5)
    assert (os.listdir("/proc/self/fd"), children()) == before


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("example.org:443", Address("example.org", 443)),
        ("[fe80::1%eth0]:22", Address("fe80::1%eth0", 22)),
        ("[::1]:22", Address("::1", 22)),
        ("::1:22", None),
        ("example.org", None),
        ("example.org:0", None),
        ("example.org:70000", None),
        (":22", None),
    ],
)
def test_an_address_is_a_host_and_a_port(text: str, found: Address | None) -> None:
    assert address(text) == found


def test_the_deadlines_leave_room_for_a_slow_machine() -> None:
    assert health.COMMAND >= 30 and health.REACHING >= 5
