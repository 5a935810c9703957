# SPDX-License-Identifier: MIT
"""Shell assignment files, read as data: /etc/conf.d/kexec, /etc/kexec.conf, /etc/default/kexec. Nothing is executed.

The subset of sh (POSIX.1-2017, Shell Command Language; the numbers below are its sections):

    NAME=value   NAME='value'   NAME="value"   export NAME=value   # comment

Quotes and backslashes as sh reads them, lines continued by a backslash, several assignments on a line, and `$NAME` or
`${NAME}` of a variable assigned above, empty when it was not. Everything else is refused with its place and with what
to write instead: what a command would have printed is not known, and a value half understood boots the wrong kernel.
"""

from __future__ import annotations

import os
from collections.abc import Iterable
from dataclasses import dataclass

from kexecd.errors import BadConfig
from kexecd.kernel import files

LIMIT = 64 << 10  # bytes; the stock files have under 3 KiB

BLANKS = " \t"
ENDS_WORD = " \t\n;&|<>()"  # 2.2: these end a word unless they are quoted
ESCAPED_IN_DOUBLE_QUOTES = frozenset('$`"\\')  # 2.2.3; any other backslash in double quotes stands for itself
SPECIAL_PARAMETERS = "0123456789@*#?-$!"  # 2.5.1, 2.5.2

WRITE_VALUE = "write the value itself"
OPERATORS = {
    "|": ("a pipe", WRITE_VALUE),
    "&": ("a list of commands", "write each assignment on a line of its own"),
    "<": ("a redirection", WRITE_VALUE),
    ">": ("a redirection", WRITE_VALUE),
    "(": ("a subshell, a function or an array", 'write words apart by blanks in quotes, NAME="one two"'),
    ")": ("a closing parenthesis", "put quotes around the value"),
    ";": ("an empty command", "write each assignment on a line of its own"),
}
RESERVED = frozenset({"if", "for", "while", "until", "case", "function", "select", "{", "!", "[", "[[", "test"})
DECLARATIONS = frozenset({"declare", "typeset", "local", "readonly"})


@dataclass(frozen=True, slots=True)
class Assignment:
    name: str
    value: str
    file: str
    line: int

    @property
    def origin(self) -> str:
        return f"{self.file}:{self.line}"


def read(path: str, *, root: str = "/", earlier: Iterable[Assignment] = ()) -> tuple[Assignment, ...] | None:
    """The assignments of a file in their order, or None if there is no such file.

    earlier: what files sourced before this one by the same shell have assigned; `$NAME` sees it.
    Raises BadConfig.
    """
    try:
        text = files.read_text(path, root=root, limit=LIMIT)
    except OSError as error:
        raise unreadable(path, error) from error
    return None if text is None else parse(text, path, earlier=earlier)


def unreadable(path: str, error: OSError) -> BadConfig:
    return BadConfig(f"cannot read {path}", (error.strerror or str(error)).lower(), errno=error.errno or 0)


def parse(text: str, file: str, *, earlier: Iterable[Assignment] = ()) -> tuple[Assignment, ...]:
    """The assignments in `text`; `file` is what messages call it. Raises BadConfig."""
    return _Reader(text, file, {a.name: a.value for a in earlier}).assignments()


class _Reader:
    """One pass over the text; `at` is the place that is read next."""

    def __init__(self, text: str, file: str, variables: dict[str, str]) -> None:
        self.text, self.file, self.variables = text, file, variables
        self.at = 0

    def assignments(self) -> tuple[Assignment, ...]:
        self._refuse_control_characters()
        found: list[Assignment] = []
        while (char := self._skip_to_command()) is not None:
            if char in OPERATORS:
                raise self._refusal(self.at, f"`{char}`, {OPERATORS[char][0]}", OPERATORS[char][1])
            found += self._command()
        return tuple(found)

    def _refuse_control_characters(self) -> None:
        for at, char in enumerate(self.text):
            if char < " " and char not in "\t\n" or char == "\x7f":
                hint = "save it with Unix line ends" if char == "\r" else "this should be a text file"
                raise self._refusal(at, f"a control character (0x{ord(char):02x})", hint)

    def _peek(self) -> str:
        """The next character, empty at the end. A backslash before a newline joins two lines (2.2.1)."""
        while self.text.startswith("\\\n", self.at):
            self.at += 2
        return self.text[self.at : self.at + 1]

    def _skip_blanks(self) -> str:
        while (char := self._peek()) and char in BLANKS:
            self.at += 1
        if char == "#":
            end = self.text.find("\n", self.at)  # a comment is not continued by a backslash
            self.at = len(self.text) if end < 0 else end
            char = self._peek()
        return char

    def _skip_to_command(self) -> str | None:
        while char := self._skip_blanks():
            if char != "\n":
                return char
            self.at += 1
        return None

    def _command(self) -> list[Assignment]:
        """Assignments up to the end of this command: a newline, or a semicolon."""
        found: list[Assignment] = []
        exporting = False
        while (char := self._skip_blanks()) not in ("", "\n"):
            if char == ";" and not self.text.startswith(";;", self.at):
                self.at += 1
                return found
            if char in OPERATORS:
                raise self._refusal(self.at, f"`{char}`, {OPERATORS[char][0]}", OPERATORS[char][1])
            start = self.at
            name = self._name()
            if name and self._peek() == "=":
                self.at += 1
                value = self._value()
                self.variables[name] = value
                found.append(Assignment(name, value, self.file, self._line(start)))
            elif name == "export" and not exporting and not found and self._at_word_end():
                exporting = True
                if self._skip_blanks() in ("", "\n", ";"):
                    raise self._refusal(start, "`export` without a name", "write export NAME=value")
            elif not (exporting and name and self._at_word_end()):  # `export NAME` changes nothing that we read
                raise self._not_an_assignment(start, name)
        return found

    def _name(self) -> str:
        """An ASCII identifier, or nothing."""
        name = ""
        while (char := self._peek()) and (name + char).isascii() and (name + char).isidentifier():
            name += char
            self.at += 1
        return name

    def _at_word_end(self) -> bool:
        char = self._peek()
        return not char or char in ENDS_WORD

    def _value(self) -> str:
        """A word without its quotes and with its variables; neither split into fields nor globbed (2.9.1)."""
        value: list[str] = []
        tilde = True  # 2.6.1: expanded at the start and after each unquoted colon
        while (char := self._peek()) and char not in ENDS_WORD:
            start = self.at
            self.at += 1
            if char == "'":
                value.append(self._single_quoted(start))
            elif char == '"':
                value.append(self._double_quoted(start))
            elif char == "\\":
                if self.at == len(self.text):
                    raise self._refusal(start, "a backslash at the end of the file", "remove it")
                value.append(self.text[self.at])
                self.at += 1
            elif char in "$`":
                value.append(self._expansion(start, char, quoted=False))
            elif char == "~" and tilde:
                raise self._refusal(start, "`~`, a home directory", "write the path itself, or put quotes around it")
            else:
                value.append(char)
            tilde = char == ":"
        if char == "(":
            raise self._refusal(self.at, f"`(`, {OPERATORS['('][0]}", OPERATORS["("][1])
        return "".join(value)

    def _single_quoted(self, start: int) -> str:
        end = self.text.find("'", self.at)
        if end < 0:
            raise self._refusal(start, "a single quote that is never closed", "close it with another `'`")
        value, self.at = self.text[self.at : end], end + 1
        return value

    def _double_quoted(self, start: int) -> str:
        value: list[str] = []
        while (char := self._peek()) != '"':
            if not char:
                raise self._refusal(start, "a double quote that is never closed", 'close it with another `"`')
            at = self.at
            self.at += 1
            if char == "\\" and self.text[self.at : self.at + 1] in ESCAPED_IN_DOUBLE_QUOTES:
                value.append(self.text[self.at])
                self.at += 1
            elif char in "$`":
                value.append(self._expansion(at, char, quoted=True))
            else:
                value.append(char)
        self.at += 1
        return "".join(value)

    def _expansion(self, start: int, char: str, *, quoted: bool) -> str:
        """What `$` or a backquote stands for; `at` is behind it."""
        if char == "`":
            raise self._refusal(start, "a backquote, a command substitution", WRITE_VALUE)
        char = self._peek()
        if char == "(":
            arithmetic = self.text.startswith("((", self.at)
            found = "`$((`, arithmetic" if arithmetic else "`$(`, a command substitution"
            raise self._refusal(start, found, WRITE_VALUE)
        if char == "{":
            self.at += 1
            name = self._name()
            if not name or self._peek() != "}":
                raise self._refusal(start, "`${`, more than the name of a variable", WRITE_VALUE)
            self.at += 1
            return self.variables.get(name, "")
        if name := self._name():
            return self.variables.get(name, "")
        if char and char in SPECIAL_PARAMETERS:
            raise self._refusal(start, f"`${char}`, which only a running shell knows", WRITE_VALUE)
        if char == "[" or (char and char in "'\"" and not quoted):
            raise self._refusal(start, f"`${char}`, which not every shell reads alike", "use single quotes")
        return "$"

    def _not_an_assignment(self, start: int, name: str) -> BadConfig:
        """The refusal of a word where an assignment should be; `at` is behind `name`."""
        end = start
        while end < len(self.text) and self.text[end] not in ENDS_WORD:
            end += 1
        word = self.text[start : min(end, start + 40)]
        rest = self.text[end:].lstrip(BLANKS)
        if word == "." or name == "source":
            return self._refusal(start, f"`{word}`, another file to be read", "write its assignments here")
        if word in RESERVED:
            return self._refusal(start, f"`{word}`, a condition or a loop", "write the assignment that is meant, alone")
        if word in DECLARATIONS:
            return self._refusal(start, f"`{word}`, a declaration", "write NAME=value without it")
        if name and self.text.startswith("+=", self.at):
            return self._refusal(start, f"`{name}+=`, an appending assignment", f'write {name}="${name} more"')
        if name and self._peek() == "[":
            return self._refusal(start, f"`{name}[`, an array", f'write {name}="one two"')
        if rest.startswith("="):
            return self._refusal(start, f"a blank between `{word}` and `=`", f"write {word}=value, without blanks")
        if name == word and rest.startswith("("):
            return self._refusal(start, f"`{word}()`, a function", "write the assignments alone")
        hint = 'write NAME="value"; a value with blanks needs quotes' if start else 'write NAME="value"'
        return self._refusal(start, f"`{word}`, a command", hint)

    def _line(self, at: int) -> int:
        return self.text.count("\n", 0, at) + 1

    def _refusal(self, at: int, found: str, hint: str) -> BadConfig:
        column = at - self.text.rfind("\n", 0, at)
        return BadConfig(
            f"cannot take {self.file}:{self._line(at)}:{column}",
            f"found {found}; the file is read as data, not run by a shell",
            hint=hint,
        )


def same_file(first: str, second: str, *, root: str = "/") -> bool:
    """Whether two names lead to one file: Gentoo installs one of its two as a symbolic link to the other."""
    try:
        return os.path.samestat(os.stat(files.join_root(root, first)), os.stat(files.join_root(root, second)))
    except OSError:
        return False
