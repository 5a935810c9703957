# SPDX-License-Identifier: MIT
"""One row for each setting of kexecd.yaml, and what may stand in its place: read, refused, and shown by the same row.

A scalar that YAML 1.1 reads otherwise than a person does is refused: `1:30` is 90 there, `017` is 15, `no` is false.
Only a word of a command is what is written, whatever YAML makes of it.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import yaml

YAML_TAG = "tag:yaml.org,2002:"
NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,63}")
UNIT = re.compile(r"[A-Za-z0-9:_.@\\][A-Za-z0-9:_.@\\+-]{0,254}")  # systemd.unit(5); of OpenRC's names all are
ADDRESS = re.compile(r"(\[[0-9A-Fa-f:.]+(%[A-Za-z0-9_.-]+)?\]|[A-Za-z0-9_.-]+):[1-9][0-9]{0,4}")
PRIORITIES = {"FIRST": 0, "DEFAULT": 10000, "LAST": 20000}

Value = float | bool | str | tuple[str, ...]


class Kind(StrEnum):
    SECONDS = "seconds"
    NUMBER = "a whole number"
    BOOL = "true or false"
    WORD = "one of"
    WORDS = "a list of"
    NAME = "a name of letters, digits, `_`, `.` and `-`"
    COMMAND = "a list of words, the first of them an absolute path"
    PATH = "an absolute path, or empty"
    COMMANDS = "a list of command lines, each with an absolute path in front"
    UNITS = "a list of names"
    ADDRESSES = "a list of host:port"
    PRIORITY = "FIRST, DEFAULT, LAST or a number, 0 to 20000"


@dataclass(frozen=True, slots=True)
class Row:
    """One setting; a dot in `key` is a level of the file. words: what there is to choose from."""

    key: str
    kind: Kind
    default: str  # as it is written in the file; an example where something has to be set
    help: str
    least: float = 0
    most: float = 0
    words: type[StrEnum] | None = None

    @property
    def written(self) -> str:
        """The default as the file shows it, with what may stand in its place."""
        return f"{self.default}  # {self.takes}"

    @property
    def takes(self) -> str:
        return f"{self.kind} {', '.join(self.words)}" if self.words else str(self.kind)

    @property
    def wanted(self) -> str:
        """The same, for somebody who wrote something else."""
        if self.kind not in (Kind.SECONDS, Kind.NUMBER):
            return self.takes
        what = "a number of seconds" if self.kind is Kind.SECONDS else self.kind
        return f"{what}, {self.least:.0f} to {self.most:.0f}"

    @property
    def dest(self) -> str:
        return self.key.replace(".", "_").replace("-", "_")


def value(row: Row, node: yaml.Node) -> Value | None:
    """What a node says, or None if it is not what the setting takes. The tag says what YAML 1.1 makes of it."""
    kind = node.tag.removeprefix(YAML_TAG)
    if row.kind in (Kind.COMMANDS, Kind.UNITS, Kind.ADDRESSES):
        return _texts(row.kind, node.value) if kind == "seq" else None
    if row.kind in (Kind.COMMAND, Kind.WORDS):
        return _list(row, node.value) if kind == "seq" else None
    text = node.value
    if not isinstance(text, str):
        return None
    match row.kind:
        case Kind.BOOL:
            return text.lower() == "true" if kind == "bool" and text.lower() in ("true", "false") else None
        case Kind.WORD:
            return _word(row, node)
        case Kind.NAME:
            return text if kind == "str" and NAME.fullmatch(text) else None
        case Kind.PATH:
            return text if kind == "str" and (not text or text.startswith("/")) and text.isprintable() else None
        case Kind.NUMBER:
            number = decimal(text, row.least, row.most) if kind == "int" else None
            return None if number is None else int(number)
        case Kind.PRIORITY if kind == "str":
            return PRIORITIES.get(text)
        case Kind.PRIORITY:
            number = decimal(text, 0, max(PRIORITIES.values())) if kind == "int" else None
            return None if number is None else int(number)
        case _:
            return decimal(text, row.least, row.most) if kind in ("int", "float") else None


def decimal(text: str, least: float, most: float) -> float | None:
    """A decimal number in the range, as one writes it: no `1:30`, `017`, `0x10`, `1_000`, `.5`, `.inf`."""
    whole, dot, part = text.partition(".")
    written = whole.isascii() and whole.isdigit() and (not dot or (part.isascii() and part.isdigit()))
    if not written or (len(whole) > 1 and whole.startswith("0")) or len(text) > 16:
        return None
    return number if least <= (number := float(text)) <= most else None


def found(node: yaml.Node) -> str:
    """What was found in the place of something else, for the end of a message."""
    if not isinstance(node.value, str):
        return f", not {node.tag.removeprefix(YAML_TAG).replace('seq', 'this list').replace('map', 'a mapping')}"
    return f", not {node.value[:40]!r}" if node.value else ", and it is empty"


def nearest(key: str, keys: Iterable[str]) -> str:
    """What was probably meant by a key that there is not."""
    from difflib import get_close_matches  # late: only for a mistake

    keys = list(keys)
    close = get_close_matches(key, keys, 1, 0.5)
    return f"; did you mean {close[0]}?" if close else f"; there are {', '.join(keys)}"


def _list(row: Row, nodes: list[yaml.Node]) -> tuple[str, ...] | None:
    if row.kind is Kind.WORDS:
        words = [_word(row, node) for node in nodes]
        known = tuple(word for word in words if word is not None)
        return known if known and len(set(known)) == len(nodes) else None
    texts = tuple(str(node.value) for node in nodes if _is_word(node))
    return texts if len(texts) == len(nodes) and texts and texts[0].startswith("/") else None


def _texts(kind: Kind, nodes: list[yaml.Node]) -> tuple[str, ...] | None:
    """A list that may be empty, of texts that each make sense."""
    texts = [node.value for node in nodes if isinstance(node.value, str) and node.tag == YAML_TAG + "str"]
    sensible = _command_line if kind is Kind.COMMANDS else (UNIT if kind is Kind.UNITS else ADDRESS).fullmatch
    return tuple(texts) if len(texts) == len(nodes) and all(sensible(text) for text in texts) else None


def _command_line(text: str) -> bool:
    """Whether it is one as a shell would part it; no shell runs it."""
    import shlex  # late: hardly a file has one

    try:
        words = shlex.split(text)
    except ValueError:
        return False
    return bool(words) and words[0].startswith("/") and "\0" not in text


def _is_word(node: yaml.Node) -> bool:
    """Whether this can be an argument of a program; an empty one has to be quoted."""
    return isinstance(node.value, str) and node.tag != YAML_TAG + "null" and "\0" not in node.value


def _word(row: Row, node: yaml.Node) -> str | None:
    words = {str(word): word for word in row.words or ()}
    return words.get(node.value) if node.tag == YAML_TAG + "str" and isinstance(node.value, str) else None
