# SPDX-License-Identifier: MIT
"""The words of GRUB's script language: https://www.gnu.org/software/grub/manual/grub/grub.html, "Shell-like scripting".

Where the manual is silent, what GRUB 2.06 and 2.12 do: a line that begins with `#` is no line at all, not even inside
quotes; carriage returns do not count; braces, `|`, `&`, `;`, `<`, `>` end a word wherever they stand; a `$` that no
name follows is an error, also in double quotes. Translated strings ($"...") stand for themselves.
"""

from __future__ import annotations

import re
from bisect import bisect_right
from dataclasses import dataclass
from enum import Enum, StrEnum

NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*\Z")
KEYWORDS = frozenset(
    "case do done elif else esac fi for if in select then until while function [[ ]]".split(),
)

_VARIABLE = r"\$(?:[A-Za-z_][A-Za-z0-9_]*|[0-9]+|[?#*@]|\{(?:[A-Za-z_][A-Za-z0-9_]*|[0-9]+|[?#*@])\})"
_DOUBLE = r'"(?:[^\\"]++|\\.)*+"'
_WORD = re.compile(rf"""(?:[^{{}}|&$;<>\x20\t\n'"\\]++|{_DOUBLE}|'[^']*+'|\\.|{_VARIABLE}|\${_DOUBLE})++""", re.DOTALL)
_BLANK = re.compile(r"[ \t]+|#[^\n]*")
_OPERATOR = re.compile(r"\n|;;?|\{|\}|\|\|?|&&?|<|>")
_PIECE = re.compile(
    rf"""(?P<variable>{_VARIABLE})|'(?P<single>[^']*+)'|\$?(?P<double>{_DOUBLE})|(?P<text>(?:[^'"$\\]++|\\.)++)""",
    re.DOTALL,
)
_INSIDE = re.compile(rf"(?P<variable>{_VARIABLE})|\\(?P<escaped>[$\\\"\n])|(?P<text>[^$\\]++|\\)", re.DOTALL)


class PieceKind(Enum):
    TEXT = 0  # outside of quotes
    GLOB = 1  # the same, with a `*` or `?` that could stand for file names
    QUOTED = 2
    VARIABLE = 3  # its value becomes several words where it has blanks
    QUOTED_VARIABLE = 4


@dataclass(frozen=True, slots=True)
class Piece:
    kind: PieceKind
    text: str  # a variable's is its name


@dataclass(frozen=True, slots=True)
class Word:
    raw: str  # as it is written
    pieces: tuple[Piece, ...]


@dataclass(frozen=True, slots=True)
class At:
    """A place in a configuration file, to be shown to a person."""

    file: str
    line: int
    column: int

    def __str__(self) -> str:
        return f"{self.file}:{self.line}:{self.column}"


class NotUnderstood(Exception):
    """What GRUB would do cannot be told, and is not guessed."""

    def __init__(self, why: str, at: At | None = None) -> None:
        super().__init__(why)
        self.why, self.at = why, at


class Exhausted(Exception):
    """More is done than any configuration has to do: it would go on for ever."""


class TokenKind(StrEnum):
    WORD = "a word"
    NEWLINE = "the end of the line"
    SEMICOLON = ";"
    OPEN = "{"
    CLOSE = "}"
    OPERATOR = "an operator"  # GRUB knows them and has no use for them
    END = "the end of the file"


@dataclass(frozen=True, slots=True)
class Token:
    kind: TokenKind
    raw: str
    at: At

    @property
    def keyword(self) -> str:
        return self.raw if self.kind is TokenKind.WORD and self.raw in KEYWORDS else ""


_KINDS = {"\n": TokenKind.NEWLINE, ";": TokenKind.SEMICOLON, "{": TokenKind.OPEN, "}": TokenKind.CLOSE}


class Lexer:
    """The tokens of one file, one after the other."""

    def __init__(self, text: str, file: str) -> None:
        lines = [
            (number, line)
            for number, line in enumerate(text.replace("\r", "").split("\n"), 1)
            if not line.startswith("#")
        ]
        self._file = file
        self._text = "".join(f"{line}\n" for _, line in lines)
        self._at = 0
        self._numbers = [number for number, _ in lines]
        self._starts: list[int] = []
        start = 0
        for _, line in lines:
            self._starts.append(start)
            start += len(line) + 1

    def next(self) -> Token:
        """The next token; END for ever when there is none. Raises NotUnderstood, and goes on behind the trouble."""
        while blank := _BLANK.match(self._text, self._at):
            self._at = blank.end()
        start = self._at
        if start >= len(self._text):
            return Token(TokenKind.END, "", self._place(start))
        if operator := _OPERATOR.match(self._text, start):
            self._at = operator.end()
            raw = operator[0]
            return Token(_KINDS.get(raw, TokenKind.OPERATOR), raw, self._place(start))
        word = _WORD.match(self._text, start)
        end = word.end() if word else start
        following = self._text[end : end + 1]
        if following in ("'", '"') or self._text[end : end + 2] == '$"':
            self._at = len(self._text)  # GRUB, too, reads on to the end
            raise NotUnderstood("a quote that is never closed", self._place(end))
        if word is None:
            self._at = start + 1
            raise NotUnderstood(f"{following!r} without the name of a variable", self._place(start))
        self._at = end
        return Token(TokenKind.WORD, word[0], self._place(start))

    def skip_line(self) -> None:
        """Go on behind the line that was reached."""
        if self._at and self._text[self._at - 1 : self._at] == "\n":
            return
        end = self._text.find("\n", self._at)
        self._at = len(self._text) if end < 0 else end + 1

    def _place(self, at: int) -> At:
        index = bisect_right(self._starts, at) - 1
        if index < 0:
            return At(self._file, 1, 1)
        return At(self._file, self._numbers[index], at - self._starts[index] + 1)


def split(token: Token) -> Word:
    """What a word is made of. Raises NotUnderstood for a `$` in double quotes that names no variable."""
    pieces: list[Piece] = []
    for match in _PIECE.finditer(token.raw):
        if (text := match["text"]) is not None:
            bare = re.sub(r"\\.", "", text, flags=re.DOTALL)
            kind = PieceKind.GLOB if "*" in bare or "?" in bare else PieceKind.TEXT
            pieces.append(Piece(kind, re.sub(r"\\(.)", _outside, text, flags=re.DOTALL)))
        elif match["variable"]:
            pieces.append(Piece(PieceKind.VARIABLE, match["variable"].strip("${}")))
        elif (single := match["single"]) is not None:
            pieces.append(Piece(PieceKind.QUOTED, single))
        else:
            pieces += _inside(match["double"][1:-1], token.at)
    return Word(token.raw, tuple(pieces))


def _outside(escape: re.Match[str]) -> str:
    return "" if escape[1] == "\n" else escape[1]


def _inside(text: str, at: At) -> list[Piece]:
    pieces = [Piece(PieceKind.QUOTED, "")]
    end = 0
    for match in _INSIDE.finditer(text):
        if match.start() != end:
            break
        end = match.end()
        if match["variable"]:
            pieces.append(Piece(PieceKind.QUOTED_VARIABLE, match["variable"].strip("${}")))
        elif (escaped := match["escaped"]) is not None:
            pieces.append(Piece(PieceKind.QUOTED, "" if escaped == "\n" else escaped))
        else:
            pieces.append(Piece(PieceKind.QUOTED, match["text"]))
    if end != len(text):
        raise NotUnderstood("a $ in double quotes without the name of a variable", at)
    return pieces
