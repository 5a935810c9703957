# SPDX-License-Identifier: MIT
"""Which of two versions is newer: https://uapi-group.org/specifications/specs/version_format_specification/ 1.0.

Kernel releases differ from it in one point, which `kernel_key` mends: a candidate is called 6.12.0-rc7, not 6.12.0~rc7.
"""

from __future__ import annotations

from functools import cmp_to_key
from typing import Any

DIGITS = frozenset("0123456789")
LETTERS = frozenset("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ")
KNOWN = DIGITS | LETTERS | frozenset("-.~^")


def compare(a: str, b: str) -> int:
    """Less than, equal to or greater than zero, as `a` is older than, the same as or newer than `b`."""
    i = j = 0
    while True:
        # 1. Characters without a meaning are skipped.
        i, j = _skip(a, i), _skip(b, j)
        # 2. A tilde sorts below everything, the end too. 3. What has something left is newer than what has ended.
        # 4. to 6. A minus is below a caret, a caret below a dot, a dot below the rest.
        for mark in ("~", "", "-", "^", "."):
            x, y = a[i : i + 1], b[j : j + 1]
            if mark not in (x, y):
                continue
            if x != y:
                return -1 if x == mark else 1
            if not mark:
                return 0
            i, j = i + 1, j + 1
        # 7. Numbers by their value, where a missing one is 0. 8. Letters in the order of ASCII.
        kind = DIGITS if a[i : i + 1] in DIGITS or b[j : j + 1] in DIGITS else LETTERS
        m, n = _run(a, i, kind), _run(b, j, kind)
        first, second = a[i:m], b[j:n]
        if kind is DIGITS:
            first, second = first.lstrip("0"), second.lstrip("0")
            if len(first) != len(second):  # numbers of any size, without the limit of int()
                return len(first) - len(second)
        if first != second:
            return -1 if first < second else 1
        i, j = m, n


key = cmp_to_key(compare)
"""For sorted() and max(): the newest is the greatest."""


def kernel_key(release: str) -> Any:
    """The sort key of a kernel release: as `key`, and 6.12.0-rc7 is older than 6.12.0."""
    head, mark, tail = release.partition("-rc")
    return key(f"{head}~rc{tail}" if mark and tail[:1] in DIGITS else release)


def _skip(text: str, at: int) -> int:
    while at < len(text) and text[at] not in KNOWN:
        at += 1
    return at


def _run(text: str, at: int, kind: frozenset[str]) -> int:
    while at < len(text) and text[at] in kind:
        at += 1
    return at
