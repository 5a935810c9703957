# SPDX-License-Identifier: MIT
"""Whatever is said to it, it goes on answering, does nothing that was not asked for, and does not grow."""

from __future__ import annotations

import os
import random
import string
import time
from typing import Any

import pytest
from jeepney.io.blocking import open_dbus_connection  # type: ignore[import-untyped]
from jeepney.low_level import HeaderFields, MessageType  # type: ignore[import-untyped]
from jeepney.wrappers import DBusAddress, new_method_call, new_signal  # type: ignore[import-untyped]

from tests.bus.conftest import Served
from tests.bus.private_bus import BUS, MANAGER, NOBODY, PEER, Caller, CallError, until

MIB = 1 << 20

MEMBERS = "Load Unload Reboot Cancel Plan Check Entries Get GetAll Set Introspect Ping".split()
INTERFACES = (
    "org.kexecd.Manager1",
    "org.kexecd.Manager1",
    "org.kexecd.Manager1",
    "org.freedesktop.DBus.Properties",
    "org.freedesktop.DBus.Introspectable",
    "org.freedesktop.DBus.Peer",
    None,
)
VALID = {"", "s", "ss", "ssv", "sa{sv}"}
OPTIONS = ("within", "firmware", "interactive", "kernel", "append", "", "--force", "entry", "\N{SNOWMAN}")


class Fuzz:
    """Calls of which none makes sense: a wrong signature, or the right one with what nobody can mean."""

    def __init__(self, seed: int) -> None:
        self._random = random.Random(seed)

    def call(self) -> Any:
        pick = self._random.choice
        member = pick((*MEMBERS, self._name(20), self._name(255)))
        path = pick((*["/org/kexecd"] * 9, "/", "/org", "/" + self._name(3000)))
        interface = pick((*INTERFACES, f"{self._name(9)}.{self._name(9)}"))
        signature, body = self._right() if self._random.random() < 0.4 else self._wrong()
        message = new_method_call(DBusAddress(path, "org.kexecd", interface), member, signature or None, body)
        message.header.flags = pick((0, 2, 4, 6))
        return message

    def _right(self) -> tuple[str, tuple[Any, ...]]:
        """What Load, Reboot, Plan and Check take; each has something in it that there is not."""
        options = {self._random.choice(OPTIONS): self._value(0) for _ in range(self._random.randrange(4))}
        options["no such option"] = self._value(0)
        return "sa{sv}", (self._random.choice(("orderly", "fast", "now", self._text())), options)

    def _wrong(self) -> tuple[str, tuple[Any, ...]]:
        while True:
            values = [self._value(0) for _ in range(self._random.randrange(1, 6))]
            signature = "".join(kind for kind, _ in values)
            if signature not in VALID and len(signature) < 256:
                return signature, tuple(value for _, value in values)

    def _value(self, depth: int) -> tuple[str, Any]:
        number = self._random
        match number.randrange(11 if depth < 4 else 6):
            case 0:
                return "s", self._text()
            case 1:
                return "b", number.random() < 0.5
            case 2:
                return "d", number.choice((float("nan"), float("inf"), -1.0, 0.0, 1e308, 5e-324))
            case 3:
                return "x", number.randrange(-(2**63), 2**63)
            case 4:
                return "o", "/" + self._name(number.randrange(1, 200))
            case 5:
                return "y", number.randrange(256)
            case 6:
                return "v", self._value(depth + 1)
            case 7:
                return "ay", number.randbytes(number.randrange(2000))
            case 8:
                return "a{sv}", {self._text(): self._value(depth + 1) for _ in range(number.randrange(5))}
            case 9:
                kind, value = self._value(depth + 1)
                return f"a{kind}", [value] * number.randrange(4)
            case _:
                parts = [self._value(depth + 1) for _ in range(number.randrange(1, 4))]
                return f"({''.join(kind for kind, _ in parts)})", tuple(value for _, value in parts)

    def _text(self) -> str:
        number = self._random
        size = number.choice((0, 1, 10, 300, 300, 300, 5000, 70_000)) if number.random() > 0.01 else MIB
        part = "".join(number.choices("ab/-= ;$`'\"\\\n\N{SNOWMAN}\N{GRINNING FACE}", k=min(size, 300)))
        return part * (size // len(part)) if part else ""

    def _name(self, size: int) -> str:
        return "x" + "".join(self._random.choices(string.ascii_letters + "_", k=size - 1))


def machine(face: Served) -> dict[str, bytes]:
    """Every file that the face could have changed."""
    return {
        str(path.relative_to(face.directory)): path.read_bytes()
        for path in sorted((face.directory / "run").rglob("*"))
        if path.is_file()
    }


def test_2000_malformed_calls_change_nothing_and_each_is_told_so(face: Served, root: Caller) -> None:
    face.load()
    until(lambda: root.property("Target"))
    before, memory, descriptors = machine(face), face.memory, face.descriptors
    fuzz, begin = Fuzz(20), time.monotonic()
    names: dict[str, int] = {}
    with face.bus.caller(NOBODY) as nobody:
        for number in range(2000):
            caller = (root, nobody)[number % 2]
            with pytest.raises(CallError) as caught:
                caller.answer(caller.connection.send_and_get_reply(fuzz.call(), timeout=20))
            names[caught.value.name] = names.get(caught.value.name, 0) + 1
    took = time.monotonic() - begin
    print(f"2000 malformed calls: {took:.2f} s, RSS {memory / MIB:.1f} -> {face.memory / MIB:.1f} MiB")
    for name, count in sorted(names.items()):
        print(f"  {count:>5} {name}")
    assert set(names) <= {
        f"org.freedesktop.DBus.Error.{name}"
        for name in ("InvalidArgs", "UnknownMethod", "UnknownInterface", "UnknownObject", "LimitsExceeded")
    }
    assert face.deeds == [] and machine(face) == before
    assert face.descriptors == descriptors
    assert face.memory < 25 * MIB
    assert root.property("Target") == "versioned:6.1.0-9"


def test_50_callers_at_once_who_make_no_sense_delay_nobody_who_does(face: Served, root: Caller) -> None:
    fuzz = Fuzz(50)
    callers = [face.bus.caller((0, NOBODY)[number % 2]) for number in range(50)]
    for _ in range(20):
        for caller in callers:
            caller.connection.send(fuzz.call())
    begin = time.monotonic()
    root.call("Entries")
    took = time.monotonic() - begin
    print(f"one deed beside 50 callers with 1000 malformed calls: {took:.2f} s, RSS {face.memory / MIB:.1f} MiB")
    assert took < 10
    for caller in callers:
        for _ in range(20):
            with pytest.raises(CallError):
                caller.next_answer()
        caller.close()
    assert face.deeds == [["entries", "--json"]]


def test_a_flood_of_5000_messages_does_not_grow_its_memory(face: Served, root: Caller) -> None:
    with face.bus.caller(NOBODY) as warm:
        for _ in range(200):
            warm.property("State")
    memory = face.memory
    with face.bus.caller(NOBODY) as nobody:
        begin = time.monotonic()
        for number in range(5000):
            nobody.send("Load", "sa{sv}", ("x" * 3000, {}), flags=number % 2)  # every second one wants no answer
        sent = time.monotonic() - begin
        root.property("State")
        most = face.memory
        until(lambda: not face.sees()["busy"], 30)
    grown = max(most, face.memory) - memory
    print(f"5000 messages sent in {sent:.2f} s, RSS {memory / MIB:.1f} MiB, {grown / MIB:+.1f} MiB")
    assert grown < 3 * MIB
    assert face.deeds == []


def test_who_never_reads_its_answers_costs_only_itself(face: Served, root: Caller) -> None:
    """Its answers pile up at the bus, which has a limit for them; not here."""
    memory = face.memory
    introspect = DBusAddress("/org/kexecd", "org.kexecd", "org.freedesktop.DBus.Introspectable")
    with face.bus.caller(NOBODY) as deaf:
        for _ in range(3000):
            deaf.connection.send(new_method_call(introspect, "Introspect"))
        begin = time.monotonic()
        root.property("State")
        assert time.monotonic() - begin < 5
        assert face.memory - memory < 3 * MIB


def test_who_leaves_is_noticed_also_after_more_callers_than_a_bus_has_match_rules(face: Served, root: Caller) -> None:
    for _ in range(520):  # max_match_rules_per_connection is 512
        with face.bus.caller(NOBODY) as nobody, pytest.raises(CallError):
            nobody.call("Unload")
    face.answers("entries", out='{"schema": 1, "entries": [{"id": "a"}]}', seconds=0.3)
    with face.bus.caller() as leaving:
        leaving.send("Load", "sa{sv}", ("a", {}))
        until(lambda: face.deeds)
    root.call("Entries")
    assert [deed[0] for deed in face.deeds] == ["entries", "entries"]


def test_a_bus_that_hangs_is_told_no_more_than_it_can_take_later(face: Served, root: Caller) -> None:
    memory = face.memory
    with face.bus.stuck():
        assert face.say("chatter") == "told"  # 20 MB
        grown = face.memory - memory
    print(f"20 MB of signals while the bus hung: {grown / MIB:+.1f} MiB")
    assert grown < 8 * MIB
    assert root.property("State") == "normal"


def test_what_is_too_long_is_read_past_and_what_comes_after_it_is_answered(face: Served, root: Caller) -> None:
    memory = face.memory
    for size in (1 << 16, 1 << 20, 16 << 20):
        with pytest.raises(CallError) as caught:
            root.call("Load", "sa{sv}", ("x" * size, {}))
        assert caught.value.name == "org.freedesktop.DBus.Error.LimitsExceeded"
    assert root.property("State") == "normal"
    assert face.memory - memory < 3 * MIB


def test_a_header_that_is_too_long_gets_no_answer_and_what_comes_after_it_does(face: Served, root: Caller) -> None:
    far = DBusAddress("/" + "x" * (1 << 20), "org.kexecd", "org.kexecd.Manager1")
    root.connection.send(new_method_call(far, "Entries"))
    assert root.call("Ping", to=PEER) == ()


def test_nobody_can_leave_a_descriptor_behind(face: Served) -> None:
    """The bus does not carry one to who does not want any."""
    descriptors = face.descriptors
    with open_dbus_connection(bus=face.bus.address, enable_fds=True) as connection:
        reader, writer = os.pipe()
        message = new_method_call(MANAGER, "Load", "sa{sv}h", ("", {}, writer))
        reply = connection.send_and_get_reply(message, timeout=10)
        assert reply.header.message_type is MessageType.error
        os.close(reader)
        os.close(writer)
    assert face.descriptors == descriptors


def test_descriptors_that_come_uninvited_with_a_signal_are_closed(face: Served, root: Caller) -> None:
    """logind's connection takes them; of somebody else's it keeps none."""
    descriptors = face.descriptors
    (names,) = root.call("ListNames", to=BUS)
    with open_dbus_connection(bus=face.bus.address, enable_fds=True) as connection:
        for name in [name for name in names if name.startswith(":") and name != connection.unique_name]:
            for _ in range(20):
                message = new_signal(DBusAddress("/x", None, "org.x.Y"), "Z", "hhhh", (0, 1, 2, 0))
                message.header.fields[HeaderFields.destination] = name
                connection.send(message)
        root.property("State")
        until(lambda: face.descriptors == descriptors)


def test_a_bus_that_comes_back_is_come_back_to(face: Served) -> None:
    with face.bus.caller() as before:
        before.send("Entries")
    face.bus.stop()
    until(lambda: not face.sees()["named"])
    face.bus.start()
    until(lambda: face.sees()["named"])
    with face.bus.caller() as after:
        assert after.property("State") == "normal"
        after.call("Unload")
    assert not face.sees()["busy"]


def test_a_deed_goes_on_when_its_caller_and_the_bus_are_gone(face: Served) -> None:
    face.answers("load", seconds=0.3)
    with face.bus.caller() as caller:
        caller.send("Load", "sa{sv}", ("", {}))
        until(lambda: face.deeds)
    face.bus.stop()
    until(lambda: not face.sees()["busy"])
    assert face.deeds == [["load", "--json"]]


def test_a_name_that_somebody_else_has_is_waited_for(face: Served) -> None:
    with face.bus.caller() as other:
        assert other.call("RequestName", "su", ("org.kexecd", 0), to=BUS) == (2,)
        assert face.say("retire") == "quiet"
        assert other.call("GetNameOwner", "s", ("org.kexecd",), to=BUS) == (other.name,)
        assert not face.sees()["named"]


def test_giving_the_name_back_answers_whoever_has_called_meanwhile(face: Served, root: Caller) -> None:
    face.answers("entries", out='{"schema": 1, "entries": []}', seconds=0.2)
    root.send("Entries")
    until(lambda: face.deeds)
    assert face.say("retire") == "called"
    assert root.next_answer() == ('{"schema": 1, "entries": []}',)
    until(lambda: face.sees()["named"])
    assert face.say("retire") == "quiet"
    with pytest.raises(CallError):
        root.property("State")


def test_it_needs_few_megabytes(face: Served, root: Caller) -> None:
    root.call("Entries")
    print(f"RSS of the face alone: {face.memory / MIB:.1f} MiB")
    assert face.memory < 25 * MIB
