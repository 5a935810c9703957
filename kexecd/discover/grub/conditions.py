# SPDX-License-Identifier: MIT
"""`[ ... ]` and `test`: strings, numbers and files, as GRUB's own command has them.

GRUB reads an expression from the left, without precedence beyond `-o` being weaker than the rest: `-a` is optional, a
word alone is true unless it is empty. Comparisons of times and of numbers behind a common prefix are not followed.
"""

from __future__ import annotations

import operator
import re
from collections.abc import Callable, Sequence

from kexecd.discover.grub.lexer import NotUnderstood

MOST_PARENTHESES = 100  # as many as GRUB takes

Looks = Callable[[str, str], bool]
"""Answers -d, -e, -f or -s for a path of GRUB's; raises NotUnderstood where it cannot be seen from here."""

STRINGS: dict[str, Callable[[str, str], bool]] = {
    "=": operator.eq,
    "==": operator.eq,
    "!=": operator.ne,
    "<": operator.lt,
    "<=": operator.le,
    ">": operator.gt,
    ">=": operator.ge,
}
NUMBERS: dict[str, Callable[[int, int], bool]] = {
    "-eq": operator.eq,
    "-ne": operator.ne,
    "-lt": operator.lt,
    "-le": operator.le,
    "-gt": operator.gt,
    "-ge": operator.ge,
}
_NOT_FOLLOWED = re.compile(r"-[no]t|-p[gl]t")
_NUMBER = re.compile(r"\s*(?:0x([0-9a-f]+)|(0[0-7]+)|([0-9]+))", re.IGNORECASE)


def number(text: str) -> int | None:
    """The number that `text` begins with, 0x and 0 saying its base; None if it begins with none, or one too big."""
    match = _NUMBER.match(text)
    if match is None or len(match[0]) > 30:
        return None
    hexadecimal, octal, decimal = match.groups()
    value = int(hexadecimal, 16) if hexadecimal else int(octal, 8) if octal else int(decimal)
    return value if value < 1 << 64 else None


def test(arguments: Sequence[str], looks: Looks) -> bool:
    """Whether the expression is true."""
    ends = arguments[:-1] if arguments and arguments[-1] == "]" else arguments
    truth, _ = _expression(tuple(ends), 0, looks, 0)
    return truth


def _expression(words: tuple[str, ...], at: int, looks: Looks, depth: int) -> tuple[bool, int]:
    if depth > MOST_PARENTHESES:
        raise NotUnderstood("a condition nested too deeply")
    either, both, invert = False, True, False
    while at < len(words):
        word = words[at]
        following = words[at + 1] if at + 1 < len(words) else None
        last = words[at + 2] if at + 2 < len(words) else None
        if following is not None and last is not None and (truth := _compared(word, following, last)) is not None:
            at += 3
        elif following is not None and word in ("-d", "-e", "-f", "-s"):
            truth = looks(word, following)
            at += 2
        elif following is not None and word in ("-n", "-z"):
            truth = bool(following) is (word == "-n")
            at += 2
        elif word == ")":
            return either or both, at + 1
        elif word == "(":
            truth, at = _expression(words, at + 1, looks, depth + 1)
        else:
            at += 1
            if word == "!":
                invert = not invert
                continue
            if word == "-a":
                continue
            if word == "-o":
                either, both = either or both, True
                continue
            truth = bool(word)
        both, invert = both and truth is not invert, False
    return either or both, at


def _compared(left: str, sign: str, right: str) -> bool | None:
    """What a comparison says; None if the sign is none."""
    if compare := STRINGS.get(sign):
        return compare(left, right)
    if numeric := NUMBERS.get(sign):
        return numeric(signed(left), signed(right))
    if _NOT_FOLLOWED.match(sign):
        raise NotUnderstood(f"the comparison {sign}")
    return None


def signed(text: str) -> int:
    return -(number(text[1:]) or 0) if text.startswith("-") else number(text) or 0
