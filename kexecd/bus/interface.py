# SPDX-License-Identifier: MIT
"""The interface as one table: what is called is looked up in it, and what Introspect() tells is made from it.

No argument has the type 'h': pydbus, which people use, takes a descriptor for a number (docs/dbus.md).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from kexecd.bus import wishes
from kexecd.bus.wishes import Wish

NAME = "org.kexecd"
PATH = "/org/kexecd"
MANAGER = "org.kexecd.Manager1"
PROPERTIES = "org.freedesktop.DBus.Properties"
INTROSPECTABLE = "org.freedesktop.DBus.Introspectable"
PEER = "org.freedesktop.DBus.Peer"

DOCTYPE = (
    '<!DOCTYPE node PUBLIC "-//freedesktop//DTD D-BUS Object Introspection 1.0//EN"\n'
    ' "http://www.freedesktop.org/standards/dbus/1.0/introspect.dtd">\n'
)


@dataclass(frozen=True, slots=True)
class Argument:
    name: str
    type: str


@dataclass(frozen=True, slots=True)
class Method:
    """makes: the wish, from the arguments. Where there is none it is a standard method, answered by the manager.

    field: what of the document that kexecctl prints (docs/json.md) is given; all of it where it is empty.
    reads: it changes nothing.
    """

    name: str
    takes: tuple[Argument, ...] = ()
    gives: tuple[Argument, ...] = ()
    makes: Callable[..., Wish] | None = None
    field: str = ""
    reads: bool = False

    @property
    def signature(self) -> str:
        return "".join(argument.type for argument in self.takes)


@dataclass(frozen=True, slots=True)
class Signal:
    name: str
    tells: tuple[Argument, ...]

    @property
    def signature(self) -> str:
        return "".join(argument.type for argument in self.tells)


@dataclass(frozen=True, slots=True)
class Interface:
    name: str
    methods: tuple[Method, ...] = ()
    signals: tuple[Signal, ...] = ()
    properties: tuple[Argument, ...] = ()  # all of them are read-only, and tell when they change


_OPTIONS = Argument("options", "a{sv}")
_MODE = Argument("mode", "s")
_JSON = Argument("document", "s")

STATE_CHANGED = Signal("StateChanged", (Argument("state", "s"),))
PROGRESS = Signal(
    "Progress",
    (
        Argument("kind", "s"),
        Argument("at", "d"),
        Argument("phase", "s"),
        Argument("step", "s"),
        Argument("text", "s"),
        Argument("seconds", "d"),
    ),
)
PROPERTIES_CHANGED = Signal(
    "PropertiesChanged", (Argument("interface", "s"), Argument("changed", "a{sv}"), Argument("invalidated", "as"))
)

INTERFACES = (
    Interface(
        MANAGER,
        (
            Method("Load", (Argument("entry", "s"), _OPTIONS), (_JSON,), wishes.load),
            Method("Unload", (), (Argument("unloaded", "b"),), wishes.unload, field="unloaded"),
            Method("Reboot", (_MODE, _OPTIONS), (), wishes.reboot),
            Method("Cancel", (), (Argument("answer", "s"),), wishes.cancel, field="answer"),
            Method("Plan", (_MODE, _OPTIONS), (_JSON,), wishes.plan, reads=True),
            Method("Check", (_MODE, _OPTIONS), (_JSON,), wishes.check, reads=True),
            Method("Entries", (), (_JSON,), wishes.entries, reads=True),
        ),
        (STATE_CHANGED, PROGRESS),
        (
            Argument("State", "s"),
            Argument("Image", "a{sv}"),
            Argument("Target", "s"),
            Argument("Deadline", "d"),
            Argument("Held", "a{sv}"),
        ),
    ),
    Interface(
        PROPERTIES,
        (
            Method("Get", (Argument("interface", "s"), Argument("property", "s")), (Argument("value", "v"),)),
            Method("GetAll", (Argument("interface", "s"),), (Argument("values", "a{sv}"),)),
            Method("Set", (Argument("interface", "s"), Argument("property", "s"), Argument("value", "v"))),
        ),
        (PROPERTIES_CHANGED,),
    ),
    Interface(INTROSPECTABLE, (Method("Introspect", (), (Argument("xml", "s"),)),)),
    Interface(PEER, (Method("Ping"), Method("GetMachineId", (), (Argument("id", "s"),)))),
)

TREE = {"/": "org", "/org": "kexecd", PATH: ""}
"""The objects that there are, and what lies below each; only the last one has the manager."""

EVERYWHERE = (INTROSPECTABLE, PEER)


def interfaces_at(path: str) -> tuple[Interface, ...]:
    if path == PATH:
        return INTERFACES
    return tuple(interface for interface in INTERFACES if interface.name in EVERYWHERE)


def find(path: str, interface: str, member: str) -> tuple[Interface, Method] | None:
    """A call may leave the interface out (D-Bus Specification, "Message Types")."""
    for each in interfaces_at(path):
        if interface in ("", each.name):
            for method in each.methods:
                if method.name == member:
                    return each, method
    return None


def xml(path: str) -> str:
    """What Introspect() answers at this path."""
    body = "".join(_interface(each) for each in interfaces_at(path))
    below = f' <node name="{TREE[path]}"/>\n' if TREE[path] else ""
    return f"{DOCTYPE}<node>\n{body}{below}</node>\n"


def _interface(interface: Interface) -> str:
    lines = [f' <interface name="{interface.name}">']
    for method in interface.methods:
        lines += [
            f'  <method name="{method.name}">',
            *(f'   <arg name="{each.name}" type="{each.type}" direction="in"/>' for each in method.takes),
            *(f'   <arg name="{each.name}" type="{each.type}" direction="out"/>' for each in method.gives),
            "  </method>",
        ]
    for signal in interface.signals:
        lines += [
            f'  <signal name="{signal.name}">',
            *(f'   <arg name="{each.name}" type="{each.type}"/>' for each in signal.tells),
            "  </signal>",
        ]
    lines += [f'  <property name="{each.name}" type="{each.type}" access="read"/>' for each in interface.properties]
    return "\n".join([*lines, " </interface>\n"])
