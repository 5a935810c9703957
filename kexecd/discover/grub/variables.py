# SPDX-License-Identifier: MIT
"""GRUB's variables, and how words become arguments."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence

from kexecd.discover.grub.lexer import Exhausted, NotUnderstood, Piece, PieceKind, Word

BLANKS = re.compile(r"[ \t\n\v\f\r]+")
LONGEST = 1 << 16  # bytes of all arguments of a command; a loop could double a value for ever

FEATURES = (
    *("chainloader_bpb", "ntldr", "platform_search_hint", "default_font_path", "all_video_module", "menuentry_id"),
    *("menuentry_options", "200_final", "nativedisk_cmd", "timeout_style"),
)
"""What GRUB 2.00 and newer say of themselves, as feature_NAME=y."""


class Variables:
    """The variables of one context. A submenu, and a file that is opened in place of this one, has its own copy."""

    def __init__(self, values: dict[str, str] | None = None, exported: Iterable[str] = ()) -> None:
        self._values = values or {}
        self._exported = set(exported)

    def get(self, name: str) -> str:
        return self._values.get(name, "")

    def set(self, name: str, value: str) -> None:
        if name == "root" and value.startswith("(") and value.endswith(")"):
            value = value[1:-1]
        self._values[name] = value

    def unset(self, name: str) -> None:
        self._values.pop(name, None)

    def export(self, name: str) -> None:
        self._exported.add(name)
        self._values.setdefault(name, "")

    def all(self) -> dict[str, str]:
        return dict(self._values)

    def copy(self) -> Variables:
        return Variables(dict(self._values), self._exported)

    def nested(self, *, everything: bool) -> Variables:
        """What a new context starts with: the exported ones, or every one."""
        values = {name: value for name, value in self._values.items() if everything or name in self._exported}
        return Variables(values, values if everything else self._exported)


def expand(
    words: Sequence[Word], variables: Variables, parameters: Sequence[str] = (), *, globs: bool = False
) -> list[str]:
    """The arguments that the words stand for. Raises NotUnderstood for file names that would have to be looked for, and
    Exhausted for what no command takes.

    parameters: what $1, $2, ... are. A variable outside of quotes that is empty is no argument at all.
    """
    arguments: list[str] = []
    size = 0
    for word in words:
        fields: list[str | None] = [None]
        for piece in word.pieces:
            if piece.kind is PieceKind.GLOB and globs:
                raise NotUnderstood(f"the pattern {word.raw}")
            first, *others = _values(piece, variables, parameters)
            size += sum(len(value) + 1 for value in (first, *others) if value)
            if size > LONGEST:
                raise Exhausted
            if first is not None:
                fields[-1] = (fields[-1] or "") + first
            fields += others
        arguments += [field for field in fields if field is not None]
    return arguments


def _values(piece: Piece, variables: Variables, parameters: Sequence[str]) -> list[str | None]:
    """What a piece adds: to the argument that is being made, and as further ones. None adds nothing."""
    name = piece.text
    match piece.kind:
        case PieceKind.TEXT | PieceKind.GLOB:
            return [name or None]
        case PieceKind.QUOTED:
            return [name]
    if name == "#":
        values = [str(len(parameters))]
    elif name in ("*", "@"):
        values = [" ".join(parameters)] if name == "*" else list(parameters)
    elif name.isdigit():
        number = int(name) if len(name) < 5 else 0
        values = [parameters[number - 1]] if 0 < number <= len(parameters) else []
    else:
        values = [variables.get(name)]
    if piece.kind is PieceKind.VARIABLE:
        values = [part for value in values for part in BLANKS.split(value) if part]
    return [*values] if any(values) else [None]
