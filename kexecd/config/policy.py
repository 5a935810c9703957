# SPDX-License-Identifier: MIT
"""The policy: /etc/kexecd/kexecd.yaml.

A subset of YAML: mappings of plain keys to plain values. Anchors, aliases, merge keys, tags and directives are refused,
and so is every scalar that YAML 1.1 reads otherwise than a person does: `1:30` is 90 there, `017` is 15, `no` is false.
All mistakes are reported at once, each with its place.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING

from kexecd.errors import BadConfig
from kexecd.kernel.files import read_text

if TYPE_CHECKING:
    import yaml

PATH = "/etc/kexecd/kexecd.yaml"
LIMIT = 64 << 10  # bytes
DEPTH = 8  # levels of nesting; the settings have two
YAML_TAG = "tag:yaml.org,2002:"


class OnDirty(StrEnum):
    """What to do when a filesystem cannot be left clean."""

    FIRMWARE = "firmware"
    KEXEC = "kexec"


class Choosing(StrEnum):
    """Which entry comes first when nothing is named."""

    BOOT_LOADER = "boot-loader"
    NEWEST = "newest"


class Kind(StrEnum):
    SECONDS = "seconds"
    BOOL = "true or false"
    ON_DIRTY = "one of firmware, kexec"
    CHOOSING = "one of boot-loader, newest"


WORDS: dict[Kind, type[OnDirty] | type[Choosing]] = {Kind.ON_DIRTY: OnDirty, Kind.CHOOSING: Choosing}

Value = float | bool | OnDirty | Choosing


@dataclass(frozen=True, slots=True, kw_only=True)
class Policy:
    """What the administrator decides. Times are seconds."""

    choice: Choosing = Choosing.BOOT_LOADER
    within: float = 10.0
    grace_services: float = 5.0
    grace_processes: float = 5.0
    on_dirty: OnDirty = OnDirty.FIRMWARE
    announce: bool = True
    origins: tuple[tuple[str, str], ...] = ()  # (setting, file:line) of those that are set

    def origin(self, dest: str) -> str:
        """Where a setting comes from: `file:line`, or `default`."""
        return next((origin for name, origin in self.origins if name == dest), "default")


@dataclass(frozen=True, slots=True)
class Row:
    """One setting; a dot in `key` is a level of the file."""

    key: str
    kind: Kind
    default: str  # as it is written in the file
    help: str
    least: float = 0
    most: float = 0

    @property
    def written(self) -> str:
        """The default as the file shows it, with what may stand in its place."""
        return f"{self.default}  # {self.kind}"

    @property
    def dest(self) -> str:
        return self.key.replace(".", "_").replace("-", "_")


ROWS = (
    Row(
        "choice",
        Kind.CHOOSING,
        "boot-loader",
        "What to boot when nothing is named: what the boot loader would boot next, or the newest that is installed.",
    ),
    Row("within", Kind.SECONDS, "10", "How long a fast restart may take until the jump, all in all.", 1, 86400),
    Row("grace.services", Kind.SECONDS, "5", "From asking services to stop to killing what is left of them.", 0, 86400),
    Row("grace.processes", Kind.SECONDS, "5", "The same for every other process.", 0, 86400),
    Row(
        "on-dirty",
        Kind.ON_DIRTY,
        "firmware",
        "When a filesystem could not be left clean: restart through the firmware, or kexec all the same.",
    ),
    Row("announce", Kind.BOOL, "true", "Whether those who are logged in are told."),
)

SECTIONS = {"grace": "How long something may take to quit after it was asked to, before it is killed."}


def read_policy(root: str = "/") -> Policy:
    """The policy of the machine whose root directory is `root`; without a file, the defaults.

    Raises BadConfig, with every mistake in the file, or when somebody other than root could have written it.
    """
    try:
        if root == "/":
            _check_trust()
        text = read_text(PATH, root=root, limit=LIMIT)
    except OSError as error:
        why = (error.strerror or str(error)).lower()
        raise BadConfig(f"cannot read {PATH}", why, errno=error.errno or 0) from error
    return Policy() if text is None else parse(text)


def untrusted(uid: int, mode: int) -> str:
    """Why a file of this owner and mode cannot be trusted; empty if it can."""
    if uid != 0:
        return f"it belongs to user {uid}, not to root"
    return f"others than root may write to it (mode {mode & 0o7777:04o})" if mode & 0o022 else ""


def parse(text: str, file: str = PATH) -> Policy:
    """The policy in `text`; `file` is what messages call it. Raises BadConfig."""
    if all(line.strip() == "" or line.lstrip().startswith("#") for line in text.splitlines()):
        return Policy()
    # Late: YAML costs as much as everything else in a start of kexecctl, and most machines have only comments there.
    import yaml

    reading = _Reading(file)
    try:
        reading.tokens(text)
        node = None if reading.mistakes else yaml.compose(text, Loader=yaml.SafeLoader)
        if node is not None and node.tag != YAML_TAG + "null":
            reading.mapping(node, "")
    except yaml.reader.ReaderError as error:
        lines = text[: error.position].split("\n")
        reading.mistakes.append((len(lines) - 1, len(lines[-1]), "a character that no text has"))
    except yaml.MarkedYAMLError as error:
        reading.mistake(error.problem_mark, f"this is not YAML: {error.problem or error.context}")
    return reading.policy()


def default_file() -> str:
    """The commented default configuration, config/kexecd.yaml: every setting with its default."""
    lines = [f"# {PATH}: what kexecd may do, and how long it may take.", "# What is commented out is the default."]
    section = ""
    for row in ROWS:
        above, _, name = row.key.rpartition(".")
        if above and above != section:
            lines += ["", f"# {SECTIONS[above]}", f"#{above}:"]
        section = above
        if above:
            lines += [f"#  # {row.help}", f"#  {name}: {row.written}"]
        else:
            lines += ["", f"# {row.help}", f"#{name}: {row.written}"]
    return "\n".join(lines) + "\n"


class _Reading:
    """One reading of the file: the values that were found, and the mistakes, each with its line and column from 0."""

    def __init__(self, file: str) -> None:
        self.file = file
        self.mistakes: list[tuple[int, int, str]] = []
        self.values: dict[str, Value] = {}
        self.origins: list[tuple[str, str]] = []

    def mistake(self, mark: yaml.Mark | None, text: str) -> None:
        self.mistakes.append((mark.line if mark else 0, mark.column if mark else 0, text))

    def tokens(self, text: str) -> None:
        """Look for what is no part of our subset, before anything is built of it."""
        import yaml

        refused: dict[type[yaml.Token], str] = {
            yaml.AnchorToken: "an anchor (&); write the value itself",
            yaml.AliasToken: "an alias (*); write the value itself",
            yaml.TagToken: "a tag (!); write the value alone",
            yaml.DirectiveToken: "a directive (%); remove it",
        }
        opening = (
            yaml.BlockMappingStartToken,
            yaml.BlockSequenceStartToken,
            yaml.FlowMappingStartToken,
            yaml.FlowSequenceStartToken,
        )
        closing = (yaml.BlockEndToken, yaml.FlowMappingEndToken, yaml.FlowSequenceEndToken)
        depth = 0
        for token in yaml.scan(text, Loader=yaml.SafeLoader):
            if what := refused.get(type(token)):
                self.mistake(token.start_mark, what)
            depth += isinstance(token, opening) - isinstance(token, closing)
            if depth > DEPTH:
                self.mistake(token.start_mark, "nested too deeply")
                return

    def mapping(self, node: yaml.Node, above: str) -> None:
        """Settings of one level; `above` is the key that they stand below, with a dot, or nothing."""
        import yaml

        if not isinstance(node, yaml.MappingNode):
            self.mistake(node.start_mark, f"{above.rstrip('.') or 'the file'} has to be made of `key: value` lines")
            return
        seen: dict[str, int] = {}
        for key_node, value_node in node.value:
            if not isinstance(key_node, yaml.ScalarNode) or key_node.tag == YAML_TAG + "merge":
                self.mistake(key_node.start_mark, "a key has to be a plain word")
            elif (name := key_node.value) in seen:
                self.mistake(key_node.start_mark, f"{above}{name} was already set in line {seen[name] + 1}")
            else:
                seen[name] = key_node.start_mark.line
                self.setting(key_node, value_node, above)

    def setting(self, key_node: yaml.ScalarNode, value_node: yaml.Node, above: str) -> None:
        key = above + key_node.value
        if not above and key in SECTIONS:
            if value_node.tag != YAML_TAG + "null":  # null: all that stood below it is commented out
                self.mapping(value_node, key + ".")
            return
        row = next((row for row in ROWS if row.key == key), None)
        if row is None:
            self.mistake(key_node.start_mark, f"there is no setting {key}{_nearest(key)}")
        elif "." in key_node.value:
            section, _, name = key.partition(".")
            self.mistake(key_node.start_mark, f"{key} is written as `{name}:` in a line below `{section}:`")
        elif (value := _value(row, value_node)) is None:
            self.mistake(value_node.start_mark, f"{key} has to be {_wanted(row)}{_found(value_node)}")
        else:
            self.values[row.dest] = value
            self.origins.append((row.dest, f"{self.file}:{key_node.start_mark.line + 1}"))

    def policy(self) -> Policy:
        if not self.mistakes:
            return Policy(**self.values, origins=tuple(self.origins))  # type: ignore[arg-type] # a row is a field
        places = [f"{self.file}:{line + 1}:{column + 1}: {text}" for line, column, text in sorted(self.mistakes)]
        raise BadConfig("cannot take the policy", "; ".join(places))


def _value(row: Row, node: yaml.Node) -> Value | None:
    """A scalar's value, or None if it is not what the setting takes. The tag says what YAML 1.1 makes of it."""
    text = node.value
    if not isinstance(text, str):
        return None
    kind = node.tag.removeprefix(YAML_TAG)
    if row.kind is Kind.BOOL:
        return text.lower() == "true" if kind == "bool" and text.lower() in ("true", "false") else None
    if words := WORDS.get(row.kind):
        return words(text) if kind == "str" and text in set(words) else None
    return _seconds(text, row) if kind in ("int", "float") else None


def _seconds(text: str, row: Row) -> float | None:
    """A decimal number in the row's range, as one writes it: no `1:30`, `017`, `0x10`, `1_000`, `.5`, `.inf`."""
    whole, dot, part = text.partition(".")
    decimal = whole.isascii() and whole.isdigit() and (not dot or (part.isascii() and part.isdigit()))
    if not decimal or (len(whole) > 1 and whole.startswith("0")) or len(text) > 16:
        return None
    return value if row.least <= (value := float(text)) <= row.most else None


def _wanted(row: Row) -> str:
    return f"a number of seconds, {row.least:g} to {row.most:g}" if row.kind is Kind.SECONDS else str(row.kind)


def _found(node: yaml.Node) -> str:
    if not isinstance(node.value, str):
        return ", not a list or a mapping"
    return f", not {node.value[:40]!r}" if node.value else ", and it is empty"


def _nearest(key: str) -> str:
    from difflib import get_close_matches  # late: only for a mistake

    nearest = get_close_matches(key, [row.key for row in ROWS], 1, 0.5)
    return f"; did you mean {nearest[0]}?" if nearest else f"; there are {', '.join(row.key for row in ROWS)}"


def _check_trust() -> None:
    """The file and its directory: whoever may write to either decides what root runs. Raises BadConfig or OSError."""
    path = os.path.realpath(PATH)
    for name in (path, os.path.dirname(path)):
        try:
            status = os.stat(name)
        except FileNotFoundError:
            continue
        if why := untrusted(status.st_uid, status.st_mode):
            raise BadConfig(f"cannot trust {name}", why, hint=f"chown root: {name}; chmod go-w {name}")
