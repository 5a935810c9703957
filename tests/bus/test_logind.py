# SPDX-License-Identifier: MIT
"""logind's inhibitor: held while a restart is to be a kexec, used when one begins, and given back in any case."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from functools import partial
from typing import Any

import pytest
from jeepney.low_level import HeaderFields  # type: ignore[import-untyped]
from jeepney.wrappers import DBusAddress, new_signal  # type: ignore[import-untyped]

from tests.bus.conftest import Mock, Served
from tests.bus.mocks import LOGIND, mocked
from tests.bus.private_bus import BUS, NOBODY, Caller, PrivateBus, until

REBOOT = ["service", "stop", "--going", "reboot", "--json"]
DOWN = ["service", "stop", "--going", "down", "--json"]
CANCEL = ["cancel", "--json"]

MANAGER = "org.freedesktop.login1.Manager"


@pytest.fixture
def logind(bus: PrivateBus) -> Iterator[Mock]:
    with mocked(bus, "logind", LOGIND) as mock:
        yield mock


@pytest.fixture
def armed(logind: Mock, face: Served) -> Served:
    face.write("armed")
    until(lambda: inhibitors(logind))
    return face


def inhibitors(logind: Mock) -> list[tuple[str, str, str]]:
    """What is inhibited, by whom, how: as logind sees it, who notices when the descriptor is closed."""
    (told,) = logind.caller.call("ListInhibitors", to=LOGIND)
    return [(what, who, mode) for what, who, _, mode, *_ in told]


def prepare(logind: Mock, begins: bool, kind: str = "") -> None:
    """As systemd 255 says it where `kind` is named, else as 252 does."""
    if kind:
        metadata = {"type": ("s", kind)}
        body = (MANAGER, "PrepareForShutdownWithMetadata", "ba{sv}", [("b", begins), ("a{sv}", metadata)])
        logind.call("EmitSignal", "sssav", *body)
    logind.call("EmitSignal", "sssav", MANAGER, "PrepareForShutdown", "b", [("b", begins)])


def test_it_is_held_while_the_machine_is_armed_and_not_longer(logind: Mock, face: Served) -> None:
    assert inhibitors(logind) == []
    face.write("armed")
    until(lambda: inhibitors(logind) == [("shutdown", "kexecd", "delay")])
    face.remove("armed")
    until(lambda: inhibitors(logind) == [])


def test_it_is_held_for_an_image_of_ours_and_not_for_somebody_elses(logind: Mock, face: Served) -> None:
    face.load()
    until(lambda: inhibitors(logind) == [("shutdown", "kexecd", "delay")])
    face.remove("image.json")
    until(lambda: inhibitors(logind) == [])


@pytest.mark.parametrize(
    ("kind", "deeds"),
    [
        ("reboot", [REBOOT]),
        ("kexec", [REBOOT]),
        ("power-off", [DOWN]),
        ("halt", [DOWN]),
        ("soft-reboot", []),
        ("dry-reboot", []),
        ("", []),
    ],
)
def test_what_is_done_is_what_the_kind_of_shutdown_wants_and_then_logind_may_go_on(
    logind: Mock, armed: Served, kind: str, deeds: list[list[str]]
) -> None:
    prepare(logind, True, kind)
    until(lambda: inhibitors(logind) == [])
    assert armed.deeds == deeds


def test_before_there_was_metadata_what_was_scheduled_is_what_comes(logind: Mock, armed: Served) -> None:
    scheduled = {"ScheduledShutdown": ("(st)", ("reboot", 1))}
    logind.call("AddProperties", "sa{sv}", MANAGER, scheduled)
    prepare(logind, True)
    until(lambda: inhibitors(logind) == [])
    assert armed.deeds == [REBOOT]


def test_logind_waits_until_the_image_is_in_memory(logind: Mock, armed: Served) -> None:
    armed.answers("service", seconds=0.5)
    prepare(logind, True, "reboot")
    until(lambda: armed.deeds == [REBOOT])
    assert inhibitors(logind)
    until(lambda: inhibitors(logind) == [])


def test_a_deed_that_fails_holds_nothing_up(logind: Mock, armed: Served) -> None:
    armed.answers("service", code=1, out="", err="kexecctl: it is broken\n")
    prepare(logind, True, "reboot")
    until(lambda: inhibitors(logind) == [])
    assert "it is broken" in armed.log


def test_a_shutdown_that_is_called_off_is_taken_back_and_the_next_one_is_waited_for(
    logind: Mock, armed: Served
) -> None:
    prepare(logind, True, "reboot")
    until(lambda: inhibitors(logind) == [])
    armed.restart("prepared")
    prepare(logind, False, "reboot")
    until(lambda: inhibitors(logind) == [("shutdown", "kexecd", "delay")])
    assert armed.deeds == [REBOOT, CANCEL]
    prepare(logind, True, "power-off")
    until(lambda: armed.deeds == [REBOOT, CANCEL, DOWN])


def test_what_is_called_off_while_it_is_prepared_is_taken_back_afterwards(logind: Mock, armed: Served) -> None:
    armed.answers("service", seconds=0.5)
    prepare(logind, True, "reboot")
    until(lambda: armed.deeds == [REBOOT])
    prepare(logind, False, "reboot")
    assert armed.deeds == [REBOOT]
    until(lambda: armed.deeds == [REBOOT, CANCEL])
    until(lambda: inhibitors(logind) and not armed.sees()["busy"])
    assert armed.deeds == [REBOOT, CANCEL]


def test_a_restart_that_somebody_asked_kexecctl_for_is_not_taken_back_by_us(logind: Mock, armed: Served) -> None:
    armed.restart("prepared")
    prepare(logind, True, "reboot")
    until(lambda: inhibitors(logind) == [])
    prepare(logind, False, "reboot")
    until(lambda: inhibitors(logind))
    assert armed.deeds == [REBOOT]


def test_nothing_is_done_for_a_shutdown_where_no_kexec_is_wanted(logind: Mock, face: Served) -> None:
    prepare(logind, True, "reboot")
    until(lambda: face.sees()["busy"])
    assert face.deeds == []


def test_a_shutdown_that_somebody_else_announces_is_none(logind: Mock, armed: Served) -> None:
    """Anybody may send any signal to anybody; only the bus writes who has sent it."""
    with armed.bus.caller(NOBODY) as nobody:
        for name in names_of_the_daemon(armed, nobody):
            signal(nobody, name, "PrepareForShutdownWithMetadata", "ba{sv}", (True, {"type": ("s", "reboot")}))
            signal(nobody, name, "PrepareForShutdown", "b", (True,))
            owner = ("org.freedesktop.login1", ":1.0", nobody.name)
            signal(nobody, name, "NameOwnerChanged", "sss", owner, interface="org.freedesktop.DBus")
            signal(nobody, name, "PrepareForShutdownWithMetadata", "ba{sv}", (True, {"type": ("s", "reboot")}))
        nobody.property("State")
    assert not armed.sees()["busy"]
    assert inhibitors(logind) and armed.deeds == []


def names_of_the_daemon(face: Served, caller: Caller) -> list[str]:
    (names,) = caller.call("ListNames", to=BUS)
    names = [name for name in names if name.startswith(":")]
    pids = [caller.call("GetConnectionUnixProcessID", "s", (name,), to=BUS)[0] for name in names]
    ours = [name for name, pid in zip(names, pids, strict=True) if pid == face.process.pid]
    assert len(ours) == 2
    return ours


def signal(
    caller: Caller, to: str, member: str, signature: str, body: tuple[Any, ...], *, interface: str = MANAGER
) -> None:
    message = new_signal(DBusAddress("/org/freedesktop/login1", None, interface), member, signature, body)
    message.header.fields[HeaderFields.destination] = to
    caller.connection.send(message)


def test_a_logind_that_comes_later_or_again_is_found(bus: PrivateBus, face: Served) -> None:
    face.write("armed")
    for _ in range(2):
        with mocked(bus, "logind", LOGIND) as mock:
            until(partial(_held, mock))
            prepare(mock, True, "soft-reboot")
            until(lambda: not face.sees()["inhibits"])
        until(lambda: not face.sees()["busy"])


def _held(logind: Mock) -> bool:
    return inhibitors(logind) == [("shutdown", "kexecd", "delay")]


def test_without_logind_nothing_is_missed(face: Served) -> None:
    face.write("armed")
    with contextlib.suppress(AssertionError):
        until(lambda: face.sees()["inhibits"], seconds=0.5)
    assert face.sees() == {"named": True, "busy": False, "inhibits": False}
