# SPDX-License-Identifier: MIT
"""Whoever is not root can do exactly what polkit says, and a caller who waits for that delays nobody."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import pytest

from tests.bus.conftest import Mock, Served
from tests.bus.mocks import POLKIT, mocked
from tests.bus.private_bus import BUS, DAEMON, NOBODY, PEER, Caller, CallError, until

INTERACTIVE = 4  # ALLOW_INTERACTIVE_AUTHORIZATION
ACCESS_DENIED = "org.freedesktop.DBus.Error.AccessDenied"


@pytest.fixture
def polkit(face: Served) -> Iterator[Mock]:
    with mocked(face.bus, "polkitd", POLKIT) as mock:
        yield mock


@pytest.fixture
def nobody(face: Served) -> Iterator[Caller]:
    with face.bus.caller(NOBODY) as caller:
        yield caller


def refused(call: Callable[[], object]) -> str:
    with pytest.raises(CallError) as caught:
        call()
    return caught.value.name


DEEDS: list[tuple[str, str, tuple[Any, ...], str]] = [
    ("Entries", "", (), "org.kexecd.inspect"),
    ("Plan", "sa{sv}", ("now", {}), "org.kexecd.inspect"),
    ("Check", "sa{sv}", ("fast", {}), "org.kexecd.inspect"),
    ("Load", "sa{sv}", ("", {}), "org.kexecd.load"),
    ("Unload", "", (), "org.kexecd.unload"),
    ("Cancel", "", (), "org.kexecd.cancel"),
    ("Reboot", "sa{sv}", ("orderly", {}), "org.kexecd.reboot"),
    ("Reboot", "sa{sv}", ("fast", {}), "org.kexecd.reboot-fast"),
    ("Reboot", "sa{sv}", ("now", {"firmware": ("b", True)}), "org.kexecd.reboot-now"),
]


def test_each_deed_is_asked_for_by_its_own_action_and_only_that_one_opens_it(
    face: Served, nobody: Caller, polkit: Mock
) -> None:
    for member, signature, body, action in DEEDS:
        others = [other for *_, other in DEEDS if other != action]
        polkit.call("SetAllowed", "as", others)
        assert refused(partial(nobody.call, member, signature, body)) == ACCESS_DENIED, member
    assert face.deeds == []
    for member, signature, body, action in DEEDS:
        polkit.call("SetAllowed", "as", [action])
        nobody.call(member, signature, body)
    assert len(face.deeds) == len(DEEDS)


def test_polkit_is_told_the_callers_name_on_the_bus_and_nothing_that_the_caller_has_said(
    nobody: Caller, polkit: Mock
) -> None:
    polkit.call("AllowUnknown", "b", True)
    nobody.call("Load", "sa{sv}", ("", {}))
    ((_, ((_, (kind, subject)), (_, action), (_, details), (_, flags), _)),) = polkit.calls("CheckAuthorization")
    assert (kind, subject) == ("system-bus-name", {"name": ("s", nobody.name)})
    assert (action, details, flags) == ("org.kexecd.load", {}, 0)


def test_a_person_is_asked_only_if_the_caller_has_said_that_one_may_be(nobody: Caller, polkit: Mock) -> None:
    polkit.call("AllowUnknown", "b", True)
    nobody.call("Cancel")
    nobody.call("Cancel", flags=INTERACTIVE)
    nobody.call("Load", "sa{sv}", ("", {"interactive": ("b", True)}))
    nobody.call("Load", "sa{sv}", ("", {"interactive": ("b", False)}))
    assert [arguments[3][1] for _, arguments in polkit.calls("CheckAuthorization")] == [0, 1, 1, 0]


def test_root_needs_no_polkit_and_without_it_nobody_else_may_do_anything(
    face: Served, root: Caller, nobody: Caller
) -> None:
    root.call("Unload")
    for member, signature, body, _ in DEEDS:
        assert refused(partial(nobody.call, member, signature, body)) == ACCESS_DENIED
    assert face.deeds == [["unload", "--json"]]


def test_anybody_may_see_the_state_without_being_asked(face: Served, nobody: Caller, polkit: Mock) -> None:
    face.load()
    assert nobody.property("State") == "normal"
    assert nobody.property("Image")["version"] == ("s", "6.1.0-9")
    assert polkit.calls("CheckAuthorization") == []


def test_nobody_but_root_can_be_org_kexecd(face: Served, nobody: Caller) -> None:
    with face.bus.caller() as other_root:
        assert other_root.call("RequestName", "su", ("org.kexecd", 0), to=BUS) == (2,)  # it is next
    take_it = 2 | 4  # instead of whoever has it, and do not wait
    assert refused(lambda: nobody.call("RequestName", "su", ("org.kexecd", take_it), to=BUS)) == ACCESS_DENIED


def test_a_prompt_that_nobody_answers_delays_neither_root_nor_other_users_nor_the_same_one(
    face: Served, root: Caller, nobody: Caller, polkit: Mock
) -> None:
    polkit.call("SetAllowed", "as", ["org.kexecd.load", "org.kexecd.inspect"])
    polkit.call("SimulateHangActions", "as", ["org.kexecd.load"])
    for _ in range(5):
        nobody.send("Load", "sa{sv}", ("", {"interactive": ("b", True)}))
    nobody.call("Ping", to=PEER)  # so they have been heard
    times = []
    with face.bus.caller(DAEMON) as other:
        for caller, member in ((nobody, "Entries"), (other, "Entries"), (root, "Unload")):
            begin = time.monotonic()
            caller.call(member)
            times.append(time.monotonic() - begin)
    print("beside 5 prompts, seconds: the same caller {:.3f}, another user {:.3f}, root {:.3f}".format(*times))
    assert max(times) < 1
    assert [deed[0] for deed in face.deeds] == ["entries", "entries", "unload"]


def test_a_yes_for_somebody_who_has_left_meanwhile_does_nothing(
    face: Served, root: Caller, nobody: Caller, polkit: Mock
) -> None:
    polkit.call("AllowUnknown", "b", True)
    polkit.call("SimulateHang", "b", True)
    polkit.call("AddMethod", "sssss", POLKIT.interface, "CancelCheckAuthorization", "s", "", "")
    nobody.send("Reboot", "sa{sv}", ("now", {"interactive": ("b", True)}))
    until(lambda: polkit.call("HaveHangingCalls")[0])
    assert face.sees()["busy"]
    nobody.close()
    until(lambda: not face.sees()["busy"])
    ((_, (*_, (_, asked))),) = polkit.calls("CheckAuthorization")
    ((_, ((_, cancelled),)),) = until(lambda: polkit.calls("CancelCheckAuthorization"))
    assert cancelled == asked
    polkit.call("ReleaseHangingCalls")
    root.call("Unload")  # after whatever the yes would have started
    assert face.deeds == [["unload", "--json"]]


def test_what_somebody_wanted_who_has_left_before_it_began_does_not_begin(face: Served, root: Caller) -> None:
    face.answers("entries", out='{"schema": 1, "entries": [{"id": "a"}]}', seconds=0.3)
    with face.bus.caller() as leaving:
        leaving.send("Load", "sa{sv}", ("a", {}))
        until(lambda: face.deeds)
    root.call("Entries")
    assert [deed[0] for deed in face.deeds] == ["entries", "entries"]


def test_one_user_cannot_keep_others_out(face: Served, root: Caller, polkit: Mock) -> None:
    polkit.call("SetAllowed", "as", ["org.kexecd.inspect", "org.kexecd.load"])
    polkit.call("SimulateHangActions", "as", ["org.kexecd.load"])
    callers = [face.bus.caller(NOBODY) for _ in range(5)]
    for number in range(16):
        callers[number % 4].send("Load", "sa{sv}", ("", {}))
    for caller in callers[:4]:
        caller.call("Ping", to=PEER)  # so the others have been heard
    limits = "org.freedesktop.DBus.Error.LimitsExceeded"
    assert refused(lambda: callers[4].call("Load", "sa{sv}", ("", {}))) == limits
    with face.bus.caller(DAEMON) as other:
        other.call("Entries")
    root.call("Unload")
    callers[0].close()
    until(lambda: _can(callers[4]))
    for caller in callers[1:]:
        caller.close()


def _can(caller: Caller) -> bool:
    try:
        caller.call("Entries")
    except CallError:
        return False
    return True


def test_no_more_deeds_are_begun_at_once_than_the_machine_can_take(face: Served, root: Caller) -> None:
    """Not even root's: four deeds are done at once, and the others are told so."""
    face.answers("unload", seconds=0.5)
    for _ in range(20):
        root.send("Unload")
    names = []
    for _ in range(20):
        try:
            root.next_answer()
            names.append("done")
        except CallError as error:
            names.append(error.name.rpartition(".")[2])
    assert names.count("done") == 4
    assert set(names) <= {"done", "Busy", "LimitsExceeded"}


def test_calls_that_want_to_see_the_same_share_one_look(face: Served) -> None:
    face.answers("entries", out='{"schema": 1, "entries": []}', seconds=0.3)
    callers = [face.bus.caller() for _ in range(50)]
    begin = time.monotonic()
    for caller in callers:
        caller.send("Entries")
    for caller in callers:
        caller.next_answer()
    print(f"50 callers had their answers after {time.monotonic() - begin:.2f} s, by {len(face.deeds)} looks")
    assert len(face.deeds) <= 4
    for caller in callers:
        caller.close()
