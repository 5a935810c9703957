# SPDX-License-Identifier: MIT
"""Runs a configuration as GRUB would when the machine starts and nobody touches a key.

What a command does is in `commands`; here is the order in which they come: blocks, conditions, loops, functions, files
that are read by others, menus. Whatever is not understood is written down where it matters, on the menu that is being
made or on the entry that is being run, and the rest is run all the same. Every loop ends: commands are counted.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

from kexecd.discover.grub.control import Call, Leave, Return, Shown
from kexecd.discover.grub.filesystems import OWN, split_path
from kexecd.discover.grub.lexer import At, Exhausted, NotUnderstood
from kexecd.discover.grub.loaded import Loaded
from kexecd.discover.grub.machine import Machine
from kexecd.discover.grub.menu import Dialect, Item, Menu, behind
from kexecd.discover.grub.syntax import Block, Broken, Command, For, Function, If, Statement, While, parse
from kexecd.discover.grub.variables import FEATURES, Variables, expand
from kexecd.kernel.files import read_text

MOST_STEPS = 200_000  # a configuration of 2 MiB that does something sensible needs half of them
STEP_SIZE = 256  # bytes of arguments that make a further step
READING = 8  # times as much work is a byte of a file
DEEPEST = 60  # commands inside of each other; GRUB's own limit is 100
RED_HAT = re.compile(r"\b(?:blscfg|kernelopts|menu_hide_ok|boot_indeterminate)\b")
MOST_DOUBTS = 100  # of one menu or entry; the first one counts
LARGEST = 2 << 20  # bytes of one file


@dataclass(slots=True)
class Interpreter:
    machine: Machine
    commands: Mapping[str, Callable[[Interpreter, Call], int]]
    menu: Menu
    dialect: Dialect = Dialect.UPSTREAM  # until a file is read that only Red Hat's writes
    loaded: Loaded | None = None  # while an entry is run
    parameters: tuple[str, ...] | None = None  # $1, $2, ...; None outside of functions, entries and submenus
    functions: dict[str, Block] = field(default_factory=dict)
    open_files: tuple[str, ...] = ()
    read_files: list[str] = field(default_factory=list)
    environment: dict[str, str] = field(default_factory=dict)  # what the environment block held
    default_word: str = ""  # how `default` was set last, as it is written
    globs: bool = False  # `insmod regexp`: patterns are file names
    steps: int = 0
    depth: int = 0
    loops: int = 0

    @property
    def variables(self) -> Variables:
        return self.menu.variables

    def configuration(self, path: str) -> Menu:
        """The menu that the configuration file at `path` of our tree leads to."""
        self.menu.file = path
        try:
            self.run_file(path, f"{self.variables.get('prefix')}/{path.rpartition('/')[2]}")
        except Shown as shown:
            return shown.menu
        except NotUnderstood as trouble:
            self.menu.doubts.append(trouble.why)
        except Exhausted:
            self.doubt("it never ends")
        return self.menu

    def submenu(self, item: Item, chosen: str) -> Menu:
        """The menu that opening the submenu leads to."""
        default = self.variables.get("default")
        outer, self.menu = self.menu, Menu(self._nested(), self.menu.file)
        if tail := behind(default):
            self.variables.set("default", tail)
        self.variables.set("chosen", chosen)
        self.variables.export("chosen")
        try:
            self._scope(item.body, item.parameters)
            return self.menu
        except Shown as shown:
            return shown.menu
        except Exhausted:
            self.doubt("it never ends")
            return self.menu
        finally:
            self.menu = outer

    def entry(self, item: Item, chosen: str) -> Loaded:
        """What running the entry leaves in memory."""
        outer, self.loaded = self.menu, Loaded()
        self.menu = Menu(outer.variables.copy(), outer.file)
        self.variables.set("chosen", chosen)
        try:
            self._scope(item.body, item.parameters)
        except Exhausted:
            self.doubt("it never ends")
        finally:
            loaded, self.loaded, self.menu = self.loaded, None, outer
        return loaded

    def run_file(self, path: str, name: str) -> int:
        """Runs a file of our tree in this context; `name` is what GRUB calls it.

        Raises NotUnderstood when it cannot be read.
        """
        if path in self.open_files:
            raise NotUnderstood(f"{path} reads itself")
        try:
            text = read_text(path, root=self.machine.filesystems.root, limit=LARGEST)
        except (OSError, ValueError) as error:
            why = getattr(error, "strerror", None) or str(error)
            raise NotUnderstood(f"{path} cannot be read: {why.lower()}") from error
        if text is None:
            return 1
        if "\0" in text:
            raise NotUnderstood(f"{path} is not a text file")
        self.spend(len(text) * READING)
        if RED_HAT.search(text):
            self.dialect = Dialect.RED_HAT
        self.open_files += (path,)
        self.read_files.append(path)
        if not name.startswith("("):
            name = f"({self.variables.get('root')}){name}"
        before = {variable: self.variables.get(variable) for variable in ("config_file", "config_directory")}
        for variable, value in (("config_file", name), ("config_directory", name.rpartition("/")[0])):
            self.variables.set(variable, value)
            self.variables.export(variable)
        try:
            return self.block(parse(text, path))
        finally:
            self.open_files = self.open_files[:-1]
            for variable, value in before.items():
                self.variables.set(variable, value)

    def nested_file(self, path: str, name: str) -> int:
        """Runs a file in a context of its own, whose menu, if it has one, is then the one that is shown."""
        outer, self.menu = self.menu, Menu(self._nested(), path)
        try:
            status = self.run_file(path, name)
            if self.menu.items or self.menu.doubts:
                raise Shown(self.menu)
            return status
        finally:
            self.menu = outer

    def doubt(self, why: str, at: At | None = None) -> None:
        """Writes down that something was not understood, once."""
        place = str(at) if at else (self.open_files or self.read_files or ("",))[-1]
        sentence = f"{place}: not understood: {why}"
        doubts = self.menu.doubts if self.loaded is None else self.loaded.doubts
        if len(doubts) < MOST_DOUBTS and sentence not in doubts:
            doubts.append(sentence)

    def block(self, block: Block) -> int:
        """Runs statements one after the other; the status of the last one that did something."""
        status = 0
        for statement in block:
            status = self._statement(statement)
            self.variables.set("?", str(status))
        return status

    def call_function(self, name: str, arguments: Sequence[str]) -> int:
        loops, self.loops = self.loops, 0
        try:
            return self._scope(self.functions[name], arguments)
        except Return as done:
            return done.status
        finally:
            self.loops = loops

    def leave(self, loops: int, *, again: bool) -> int:
        """Leaves, or begins again, that many loops."""
        if self.loops:
            raise Leave(min(loops, self.loops), again=again)
        return 0

    def give_back(self, status: int) -> int:
        """Leaves the function; nothing happens outside of one."""
        if self.parameters is None:
            return 1
        raise Return(status)

    def device_and_path(self, path: str) -> tuple[str, str]:
        return split_path(path, self.variables.get("root"))

    def spend(self, size: int) -> None:
        self.steps += 1 + size // STEP_SIZE
        if self.steps > MOST_STEPS:
            raise Exhausted

    def _nested(self) -> Variables:
        return self.variables.nested(everything=self.dialect is Dialect.RED_HAT)

    def _scope(self, body: Block, parameters: Sequence[str]) -> int:
        outer, self.parameters = self.parameters, tuple(parameters)
        try:
            return self.block(body)
        except Return as done:
            return done.status
        finally:
            self.parameters = outer

    def _statement(self, statement: Statement) -> int:
        self.spend(0)
        self.depth += 1
        try:
            if self.depth > DEEPEST:
                raise NotUnderstood("commands nested too deeply")
            match statement:
                case Command():
                    return self._command(statement)
                case If():
                    return self._if(statement)
                case For():
                    words = expand(statement.words, self.variables, self.parameters or (), globs=self.globs)
                    return self._for(statement, words)
                case While():
                    return self._while(statement)
                case Function(name, body):
                    self.functions[name] = body
                    return 0
                case Broken(why):
                    raise NotUnderstood(why)
        except NotUnderstood as trouble:
            self.doubt(trouble.why, trouble.at or statement.at)
            return 1
        finally:
            self.depth -= 1

    def _command(self, command: Command) -> int:
        words = expand(command.words, self.variables, self.parameters or (), globs=self.globs)
        self.spend(sum(map(len, words)))
        if not words:
            return 0
        invert = words[0] == "!" and len(words) > 1
        name, *arguments = words[1:] if invert else words
        call = Call(name, arguments, command.words, command.block, command.at)
        status = self._call(call)
        return int(not status) if invert else status

    def _call(self, call: Call) -> int:
        if run := self.commands.get(call.name):
            return run(self, call)
        if call.block is None and call.name in self.functions:
            return self.call_function(call.name, call.arguments)
        name, equals, value = call.name.partition("=")
        if equals and call.block is None and name and not name.isdigit():
            self.variables.set(name, value)
            return 0
        raise NotUnderstood(call.name)

    def _if(self, statement: If) -> int:
        for condition, consequence in statement.arms:
            if self.block(condition) == 0:
                return self.block(consequence)
        return self.block(statement.otherwise)

    def _for(self, statement: For, words: Sequence[str]) -> int:
        status = 0
        for word in words:
            self.variables.set(statement.name, word)
            ran = self._round(statement.body)
            if ran is None:
                break
            status = ran
        return status

    def _while(self, statement: While) -> int:
        status = 0
        while (self.block(statement.condition) == 0) is not statement.until:
            ran = self._round(statement.body)
            if ran is None:
                break
            status = ran
        return status

    def _round(self, body: Block) -> int | None:
        """One round of a loop; None if it was the last."""
        self.loops += 1
        try:
            return self.block(body)
        except Leave as way:
            if way.loops > 1:
                raise Leave(way.loops - 1, again=way.again) from None
            return 0 if way.again else None
        finally:
            self.loops -= 1


def interpreter(machine: Machine, commands: Mapping[str, Callable[[Interpreter, Call], int]]) -> Interpreter:
    """One with the variables that GRUB starts with."""
    variables = Variables({f"feature_{name}": "y" for name in FEATURES})
    for name, value in (
        ("root", OWN),
        ("prefix", machine.filesystems.prefix),
        ("grub_platform", machine.platform),
        ("grub_cpu", machine.cpu),
        ("lang", ""),
        ("pager", ""),
    ):
        variables.set(name, value)
        variables.export(name)
    for name in FEATURES:
        variables.export(f"feature_{name}")
    return Interpreter(machine, commands, Menu(variables, ""))
