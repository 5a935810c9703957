# SPDX-License-Identifier: MIT
"""D-Bus messages as bytes (D-Bus Specification, "Message Protocol"); the only module that knows jeepney, 0.8 or 0.9.

Of a message that has arrived the header is read first. Its body is looked at only by the signature that was expected,
so that what anybody sends is taken apart no further than it is of use.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from dataclasses import dataclass
from enum import IntEnum

from jeepney.auth import BEGIN, AuthenticationError, Authenticator  # type: ignore[import-untyped]
from jeepney.bus import get_bus  # type: ignore[import-untyped]
from jeepney.low_level import (  # type: ignore[import-untyped]
    Endianness,
    Header,
    HeaderFields,
    Message,
    MessageType,
    calc_msg_size,
    endian_map,
    parse_signature,
)

__all__ = ["BEGIN", "AuthenticationError", "Authenticator"]

TYPE_CHECKING = False  # what the type checker takes for true; the module of that name costs as much as many of ours
if TYPE_CHECKING:
    from typing import Any

PREFIX = 16
"""Bytes of a message that tell how long it is."""

NO_REPLY_EXPECTED = 1
INTERACTIVE = 4  # ALLOW_INTERACTIVE_AUTHORIZATION

_TRUNCATED = (struct.error, ValueError, AssertionError, IndexError, KeyError, TypeError, RecursionError)
"""What jeepney ends with on bytes that are not what they say."""


class Malformed(Exception):
    """Bytes that are no message, or not one of the signature that was expected."""


class Kind(IntEnum):
    CALL = 1
    RETURN = 2
    ERROR = 3
    SIGNAL = 4


@dataclass(frozen=True, slots=True)
class Incoming:
    """A message as it came; what its header does not have is empty or 0."""

    kind: int  # a Kind; of others the specification says that they are to be ignored
    flags: int
    serial: int
    path: str
    interface: str
    member: str
    error: str
    reply_to: int
    sender: str  # written by the bus, and by nobody else
    signature: str
    fds: int  # how many descriptors came with it
    body: bytes
    order: bytes  # "l" or "B"

    def values(self, signature: str, fds: Sequence[int] = ()) -> tuple[Any, ...]:
        """The body; a variant in it is (signature, value). Raises Malformed."""
        if self.signature != signature:
            raise Malformed(f"has the signature '{self.signature}' instead of '{signature}'")
        try:
            values, _ = parse_signature(list(f"({signature})")).parse_data(self.body, 0, endian_map[self.order], fds)
        except _TRUNCATED as error:
            raise Malformed("has a body that cannot be read") from error
        return tuple(values)


def size(prefix: bytes) -> int:
    """Of the whole message, by its first 16 bytes. Raises Malformed."""
    try:
        return int(calc_msg_size(prefix))
    except _TRUNCATED as error:
        raise Malformed("does not begin as a message does") from error


def header_size(prefix: bytes) -> int:
    """What of it comes before the body."""
    order = "<" if prefix[:1] == b"l" else ">"
    (fields,) = struct.unpack_from(f"{order}I", prefix, 12)
    return (PREFIX + int(fields) + 7) // 8 * 8


def parse(data: bytes) -> Incoming:
    """A whole message, or its header alone. Raises Malformed."""
    try:
        order = endian_map[data[:1]]
        kind, flags, _, _, serial = struct.unpack_from(f"{order.struct_code()}BBBII", data, 1)
        pairs, end = parse_signature(list("a(yv)")).parse_data(data, 12, order)
    except _TRUNCATED as error:
        raise Malformed("has a header that cannot be read") from error
    fields = {number: value for number, (_, value) in pairs}  # those that are not known are to be ignored
    return Incoming(
        kind=kind,
        flags=flags,
        serial=serial,
        path=str(fields.get(HeaderFields.path, "")),
        interface=str(fields.get(HeaderFields.interface, "")),
        member=str(fields.get(HeaderFields.member, "")),
        error=str(fields.get(HeaderFields.error_name, "")),
        reply_to=int(fields.get(HeaderFields.reply_serial, 0)),
        sender=str(fields.get(HeaderFields.sender, "")),
        signature=str(fields.get(HeaderFields.signature, "")),
        fds=int(fields.get(HeaderFields.unix_fds, 0)),
        body=bytes(data[(end + 7) // 8 * 8 :]),
        order=bytes(data[:1]),
    )


def call(
    serial: int,
    destination: str,
    path: str,
    interface: str,
    member: str,
    signature: str = "",
    body: tuple[Any, ...] = (),
    *,
    flags: int = 0,
) -> bytes:
    fields = {
        HeaderFields.destination: destination,
        HeaderFields.path: path,
        HeaderFields.interface: interface,
        HeaderFields.member: member,
    }
    return _bytes(serial, Kind.CALL, fields, signature, body, flags)


def reply(serial: int, to: Incoming, signature: str = "", body: tuple[Any, ...] = ()) -> bytes:
    return _bytes(serial, Kind.RETURN, _back(to), signature, body)


def error(serial: int, to: Incoming, name: str, text: str) -> bytes:
    return _bytes(serial, Kind.ERROR, {**_back(to), HeaderFields.error_name: name}, "s", (text,))


def signal(serial: int, path: str, interface: str, member: str, signature: str, body: tuple[Any, ...]) -> bytes:
    fields = {HeaderFields.path: path, HeaderFields.interface: interface, HeaderFields.member: member}
    return _bytes(serial, Kind.SIGNAL, fields, signature, body)


def address_of(address: str) -> str:
    """What to connect a socket to: of this address, or of the system bus where it is empty. Raises OSError."""
    try:
        return str(get_bus(address or "SYSTEM"))
    except (RuntimeError, ValueError, StopIteration) as error:
        raise OSError(f"cannot tell where the bus is by {address or 'DBUS_SYSTEM_BUS_ADDRESS'}") from error


def _back(to: Incoming) -> dict[HeaderFields, Any]:
    return {HeaderFields.reply_serial: to.serial, HeaderFields.destination: to.sender}


def _bytes(
    serial: int, kind: Kind, fields: dict[HeaderFields, Any], signature: str, body: tuple[Any, ...], flags: int = 0
) -> bytes:
    if signature:
        fields[HeaderFields.signature] = signature
    header = Header(Endianness.little, MessageType(kind), flags, 1, -1, serial, fields)
    return bytes(Message(header, _clean(body)).serialise(serial=serial))


def _clean(value: Any) -> Any:
    """Text as D-Bus takes it, UTF-8 without a NUL: for anything else the bus ends the connection."""
    match value:
        case str():
            return value.encode(errors="replace").decode().replace("\0", "")
        case tuple():
            return tuple(_clean(part) for part in value)
        case list():
            return [_clean(part) for part in value]
        case dict():
            return {_clean(key): _clean(part) for key, part in value.items()}
        case _:
            return value
