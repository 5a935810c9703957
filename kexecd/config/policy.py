# SPDX-License-Identifier: MIT
"""The policy: /etc/kexecd/kexecd.yaml.

A subset of YAML: mappings of plain keys to plain values, and one list, of hooks. Anchors, aliases, merge keys, tags and
directives are refused, and so is what a person and YAML 1.1 read differently (kexecd.config.rows). All mistakes are
reported at once, each with its place.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING

from kexecd.config import hook_rows
from kexecd.config.hook_rows import HookRow
from kexecd.config.rows import YAML_TAG, Kind, Row, Value, found, nearest, value
from kexecd.errors import BadConfig
from kexecd.kernel.files import read_text

if TYPE_CHECKING:
    import yaml

    from kexecd.config.checks import CheckRule

PATH = "/etc/kexecd/kexecd.yaml"
LIMIT = 64 << 10  # bytes
DEPTH = 8  # levels of nesting; the settings have four


class OnDirty(StrEnum):
    """What to do when a filesystem cannot be left clean."""

    FIRMWARE = "firmware"
    KEXEC = "kexec"


class Choosing(StrEnum):
    """Which entry comes first when nothing is named."""

    BOOT_LOADER = "boot-loader"
    NEWEST = "newest"


class StateCarrier(StrEnum):
    """What takes along what applications have handed over."""

    AUTO = "auto"
    FILE = "file"


class IfLost(StrEnum):
    """What to do if nothing can take it along."""

    REFUSE = "refuse"
    GO = "go"


class Updates(StrEnum):
    """What to make of an update that only a start through the firmware applies."""

    REFUSE = "refuse"
    WARN = "warn"
    IGNORE = "ignore"


@dataclass(frozen=True, slots=True, kw_only=True)
class Policy:
    """What the administrator decides. Times are seconds, state_size is MiB."""

    choice: Choosing = Choosing.BOOT_LOADER
    within: float = 10.0
    grace_guests: float = 10.0
    grace_sessions: float = 5.0
    grace_services: float = 5.0
    grace_processes: float = 5.0
    on_dirty: OnDirty = OnDirty.FIRMWARE
    announce: bool = True
    state_carrier: StateCarrier = StateCarrier.AUTO
    state_if_lost: IfLost = IfLost.REFUSE
    state_count: int = 256
    state_size: int = 1024
    metrics_file: str = ""
    confirm_limit: float = 300.0
    confirm_panic: int = 30
    confirm_commands: tuple[str, ...] = ()
    confirm_units: tuple[str, ...] = ()
    confirm_reach: tuple[str, ...] = ()
    confirm_watchdog: bool = True
    firmware_after: int = 0
    firmware_updates: Updates = Updates.WARN
    hooks: tuple[HookRow, ...] = ()
    checks: tuple[CheckRule, ...] = ()
    origins: tuple[tuple[str, str], ...] = ()  # (setting, file:line) of those that are set

    def origin(self, dest: str) -> str:
        """Where a setting comes from: `file:line`, or `default`."""
        return next((origin for name, origin in self.origins if name == dest), "default")


ROWS = (
    Row(
        "choice",
        Kind.WORD,
        "boot-loader",
        "What to boot when nothing is named: what the boot loader would boot next, or the newest that is installed.",
        words=Choosing,
    ),
    Row(
        "within",
        Kind.SECONDS,
        "10",
        "How long a fast restart may take, from the first application that is asked to quit until the jump.",
        1,
        86400,
    ),
    Row(
        "grace.guests",
        Kind.SECONDS,
        "10",
        "From asking virtual machines and containers to shut down to killing what is left of them.",
        0,
        86400,
    ),
    Row("grace.sessions", Kind.SECONDS, "5", "The same for what those run who are logged in.", 0, 86400),
    Row("grace.services", Kind.SECONDS, "5", "From asking services to stop to killing what is left of them.", 0, 86400),
    Row("grace.processes", Kind.SECONDS, "5", "The same for every other process.", 0, 86400),
    Row(
        "on-dirty",
        Kind.WORD,
        "firmware",
        "When a filesystem could not be left clean: restart through the firmware, or kexec all the same.",
        words=OnDirty,
    ),
    Row("announce", Kind.BOOL, "true", "Whether those who are logged in are told."),
    Row(
        "state.carrier",
        Kind.WORD,
        "auto",
        "What takes it along: the kernel's live update where it can and else files, or files in any case.",
        words=StateCarrier,
    ),
    Row(
        "state.if-lost",
        Kind.WORD,
        "refuse",
        "When neither can: no restart, or one without it.",
        words=IfLost,
    ),
    Row("state.count", Kind.NUMBER, "256", "How many memfds a user may have held; root has no limit.", 0, 4096),
    Row("state.size", Kind.NUMBER, "1024", "How many MiB these may have, together.", 0, 1 << 30),
    Row(
        "confirm.limit",
        Kind.SECONDS,
        "300",
        "From the start of the new kernel until all is well, or it is given up; 0: nobody waits for that.",
        0,
        86400,
    ),
    Row(
        "confirm.panic",
        Kind.NUMBER,
        "30",
        "How many seconds after a panic the new kernel restarts by itself; 0: it is not told to.",
        0,
        3600,
    ),
    Row("confirm.commands", Kind.COMMANDS, "[]", "What has to end well then."),
    Row("confirm.units", Kind.UNITS, "[]", "Which units or services have to run."),
    Row("confirm.reach", Kind.ADDRESSES, "[]", "Where a TCP connection has to be possible to."),
    Row("confirm.watchdog", Kind.BOOL, "true", "Whether a hardware watchdog watches over it, where there is one."),
    Row(
        "firmware.after",
        Kind.NUMBER,
        "0",
        "After how many kexecs in a row the next restart is one through the firmware; 0: never for that.",
        0,
        1_000_000,
    ),
    Row(
        "firmware.updates",
        Kind.WORD,
        "warn",
        "When an update of the firmware or of the processor's microcode waits: no kexec, a warning, or nothing.",
        words=Updates,
    ),
    Row(
        "metrics.file",
        Kind.PATH,
        '""',
        "Where they are written once it is known what became of a restart, for the textfile collector; empty: nowhere.",
    ),
)

HOOKS = "hooks"
CHECKS = "checks"

SECTIONS = {
    "grace": "How long something may take to quit after it was asked to, before it is killed.",
    "state": "Memory that applications hand over a restart (docs/state.md).",
    "confirm": "When a new kernel is good; else it goes back to the old one (docs/wayback.md).",
    "firmware": "When the firmware is to have its turn (docs/wayback.md).",
    "metrics": "What `kexecctl metrics` says, for Prometheus (docs/report.md).",
}


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
    from kexecd.config import checks  # late: as many names as there are checks, and hardly a file has one of them

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
    return "\n".join([*lines, *checks.example(), *hook_rows.example()]) + "\n"


class _Reading:
    """One reading of the file: the values that were found, and the mistakes, each with its line and column from 0."""

    def __init__(self, file: str) -> None:
        self.file = file
        self.mistakes: list[tuple[int, int, str]] = []
        self.values: dict[str, Value] = {}
        self.hooks: list[HookRow] = []
        self.checks: list[CheckRule] = []
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
        for key_node, value_node in self.pairs(node, above):
            self.setting(key_node, value_node, above)

    def pairs(self, node: yaml.Node, above: str) -> Iterator[tuple[yaml.ScalarNode, yaml.Node]]:
        """The keys of a mapping, each once, and what stands behind them."""
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
                yield key_node, value_node

    def setting(self, key_node: yaml.ScalarNode, value_node: yaml.Node, above: str) -> None:
        key = above + key_node.value
        if not above and key in (*SECTIONS, HOOKS, CHECKS):
            if value_node.tag == YAML_TAG + "null":  # all that stood below it is commented out
                return
            if key == HOOKS:
                self.hook_list(value_node)
            elif key == CHECKS:
                self.check_rules(value_node)
            else:
                self.mapping(value_node, key + ".")
            return
        row = self.row(key_node, key, ROWS)
        if row is None:
            return
        if "." in key_node.value:
            section, _, name = key.partition(".")
            self.mistake(key_node.start_mark, f"{key} is written as `{name}:` in a line below `{section}:`")
        elif (said := self.value(row, value_node)) is not None:
            self.values[row.dest] = said
            self.origins.append((row.dest, self.place(key_node)))

    def hook_list(self, node: yaml.Node) -> None:
        import yaml

        if not isinstance(node, yaml.SequenceNode):
            self.mistake(node.start_mark, f"{HOOKS} has to be a list, each hook with `- ` in front of its first key")
            return
        for item in node.value:
            self.hook(item)

    def hook(self, node: yaml.Node) -> None:
        places: dict[str, yaml.Node] = {}
        said: dict[str, Value] = {}
        mistakes = len(self.mistakes)
        for key_node, value_node in self.pairs(node, hook_rows.PREFIX):
            key = hook_rows.PREFIX + key_node.value
            if (row := self.row(key_node, key, hook_rows.ROWS)) is None:
                continue
            places[key] = key_node
            if (one := self.value(row, value_node)) is not None:
                said[key.removeprefix(hook_rows.PREFIX).replace("-", "_")] = one
        if len(self.mistakes) > mistakes:
            return
        name = said.get("name")
        earlier = next((hook.origin for hook in self.hooks if hook.name == name), "")
        if name is None:
            self.mistake(node.start_mark, "a hook has to have a name")
        elif earlier:
            self.mistake(places["hooks.name"].start_mark, f"there is a hook {name} already, at {earlier}")
        elif "command" not in said:
            for key in hook_rows.IN_FILE_NAME:
                if key in places:
                    why = "an executable in hooks.d has its priority in its file's name, and gets every call"
                    self.mistake(places[key].start_mark, f"{key} needs a command: {why}")
            if len(said) == 1:
                self.mistake(node.start_mark, f"the hook {name} has no command, and nothing that could be set without")
        if len(self.mistakes) == mistakes:
            calls = said.pop("calls", None)
            if isinstance(calls, tuple):
                said["calls"] = frozenset(calls)  # type: ignore[assignment] # a field, as a set
            self.hooks.append(HookRow(**said, origin=self.place(node)))  # type: ignore[arg-type] # a row is a field

    def check_rules(self, node: yaml.Node) -> None:
        from kexecd.config.checks import PREFIX, Answer, CheckId, CheckRule, rows  # late: see default_file()

        for key_node, value_node in self.pairs(node, PREFIX):
            row = self.row(key_node, PREFIX + key_node.value, rows())
            if row and isinstance(said := self.value(row, value_node), Answer):
                self.checks.append(CheckRule(CheckId(key_node.value), said, self.place(key_node)))

    def row(self, key_node: yaml.Node, key: str, rows: tuple[Row, ...]) -> Row | None:
        row = next((row for row in rows if row.key == key), None)
        if row is None:
            keys = [row.key for row in rows]
            hint = nearest(key, [*keys, HOOKS, CHECKS] if rows is ROWS else keys)
            self.mistake(key_node.start_mark, f"there is no setting {key}{hint}")
        return row

    def value(self, row: Row, node: yaml.Node) -> Value | None:
        said = value(row, node)
        if said is None:
            self.mistake(node.start_mark, f"{row.key} has to be {row.wanted}{found(node)}")
        return said

    def place(self, node: yaml.Node) -> str:
        return f"{self.file}:{node.start_mark.line + 1}"

    def policy(self) -> Policy:
        if not self.mistakes:
            # A row is a field, and has its type.
            rest = {"hooks": tuple(self.hooks), "checks": tuple(self.checks), "origins": tuple(self.origins)}
            return Policy(**self.values, **rest)  # type: ignore[arg-type]
        places = [f"{self.file}:{line + 1}:{column + 1}: {text}" for line, column, text in sorted(self.mistakes)]
        raise BadConfig("cannot take the policy", "; ".join(places))


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
