# SPDX-License-Identifier: MIT
"""The options of GRUB's commands: --name, --name=value, --name value, -n; they may stand anywhere, until `--`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from kexecd.discover.grub.lexer import NotUnderstood

NONE: Mapping[str, str] = {}


def parse(
    arguments: Sequence[str],
    *,
    flags: Mapping[str, str] = NONE,
    values: Mapping[str, str] = NONE,
    optional: Mapping[str, str] = NONE,
    strict: bool = True,
) -> tuple[dict[str, list[str]], list[str]]:
    """What each option that is given was given, and what is no option.

    flags, values, optional: the options without a value, with one, and with one that may be missing; each with its
    letter, or an empty one. Raises NotUnderstood for an option that is not among them; unless `strict`, it is a plain
    argument.
    """
    known = {**flags, **values, **optional}
    letters = {letter: name for name, letter in known.items() if letter}
    given: dict[str, list[str]] = {}
    plain: list[str] = []
    rest = list(arguments)[::-1]
    while rest:
        argument = rest.pop()
        if argument == "--":
            return given, plain + rest[::-1]
        long = argument.startswith("--")
        name, equals, value = argument[2:].partition("=") if long else (letters.get(argument[1:], ""), "", "")
        if not argument.startswith("-") or argument == "-" or (name not in known and (not strict or _later(argument))):
            plain.append(argument)
            continue
        if name not in known:
            raise NotUnderstood(f"the option {argument}")
        if name not in flags and not equals and rest and not rest[-1].startswith("-"):
            value = rest.pop()
        elif name in values and not equals:
            raise NotUnderstood(f"the option {argument} without a value")
        given.setdefault(name, []).append(value)
    return given, plain


def _later(argument: str) -> bool:
    """`search` passes over hints for machines that it does not know yet."""
    return argument.startswith("--hint-")
