# SPDX-License-Identifier: MIT
"""GRUB's commands: https://www.gnu.org/software/grub/manual/grub/grub.html, "The list of command-line and menu entry
commands".

Those that set variables, look for filesystems, read files or make the menu are carried out; those that only change what
is seen or heard do nothing and succeed, as on a machine where they work; those that load a kernel are in `loading`.
Keys are not pressed. A command that is in none of the tables is not understood.
"""

from __future__ import annotations

from collections.abc import Callable

from kexecd.discover.grub import conditions, grubenv, loading
from kexecd.discover.grub.control import Call
from kexecd.discover.grub.interpreter import Interpreter
from kexecd.discover.grub.lexer import NotUnderstood
from kexecd.discover.grub.menu import Item
from kexecd.discover.grub.options import parse as options
from kexecd.errors import Refusal
from kexecd.kernel.files import read_text

HARMLESS = frozenset(
    "insmod rmmod nativedisk terminal_input terminal_output terminfo serial echo clear cls cat play sleep date"
    " background_image background_color loadfont lsfonts videoinfo videotest vbeinfo vbetest gfxpayload keymap"
    " password password_pbkdf2 authenticate save_env list_env cryptomount help ls lsmod lspci lsmmap sendkey true"
    " acpi bli trust distrust efi-watchdog tpm_record_pcrs hwmatch badram cutmem".split()
)

BLS_WORK = 1 << 20  # reading the entries is as much as so many bytes; in a loop it has to end
LARGEST_BLOCK = 1 << 16  # bytes; grub-editenv makes one of 1024
BLOCK_WORK = 16  # times as much work is a byte of it


def _set(run: Interpreter, call: Call) -> int:
    if not call.arguments:
        return 0
    name, equals, value = call.arguments[0].partition("=")
    if not equals:
        return 1
    run.variables.set(name, value)
    if name == "default":
        run.default_word = call.words[-1].raw
    return 0


def _unset(run: Interpreter, call: Call) -> int:
    for name in call.arguments[:1]:
        run.variables.unset(name)
    return 0


def _export(run: Interpreter, call: Call) -> int:
    for name in call.arguments:
        run.variables.export(name)
    return 0


def _setparams(run: Interpreter, call: Call) -> int:
    if run.parameters is None:
        return 1
    run.parameters = tuple(call.arguments)
    return 0


def _shift(run: Interpreter, call: Call) -> int:
    count = conditions.number(call.arguments[0]) if call.arguments else 1
    if run.parameters is not None and count is not None:
        run.parameters = run.parameters[count:]
    return 0


def _return(run: Interpreter, call: Call) -> int:
    status = call.arguments[0] if call.arguments else run.variables.get("?")
    return run.give_back(conditions.number(status) or 0)


def _leave(run: Interpreter, call: Call) -> int:
    loops = conditions.number(call.arguments[0]) if call.arguments else 1
    return run.leave(loops, again=call.name == "continue") if loops else 1


def _count(run: Interpreter, call: Call) -> int:
    """`increment` and `decrement`, by which Red Hat counts failed boots."""
    if len(call.arguments) != 1:
        return 1
    (name,) = call.arguments
    value = conditions.signed(run.variables.get(name))
    run.variables.set(name, str(value + (1 if call.name == "increment" else -1)))
    return 0


def _test(run: Interpreter, call: Call) -> int:
    def looks(option: str, path: str) -> bool:
        return run.machine.filesystems.looks(option, *run.device_and_path(path))

    return int(not conditions.test(call.arguments, looks))


def _false(run: Interpreter, call: Call) -> int:
    return 1


def _harmless(run: Interpreter, call: Call) -> int:
    if call.name == "insmod" and "regexp" in call.arguments:
        run.globs = True
    if call.name == "hwmatch":  # graphics that are known to fail; this machine's are not
        run.variables.set("match", "0")
    return 0


def _cpuid(run: Interpreter, call: Call) -> int:
    if call.arguments in ([], ["-l"], ["--long-mode"]):
        return int(run.machine.cpu not in ("x86_64", "i386"))
    raise NotUnderstood(" ".join((call.name, *call.arguments)))


def _search(run: Interpreter, call: Call) -> int:
    name, dot, kind = call.name.partition(".")
    if dot:  # what grub-install writes: search.fs_uuid UUID VARIABLE HINT...
        kinds = {"fs_uuid": "UUID", "fs_label": "LABEL", "file": "FILE"}
        what, variable = call.arguments[0] if call.arguments else "", (*call.arguments, "", "")[1]
        return _found(run, kinds[kind], what, variable)
    flags = {"file": "f", "label": "l", "fs-uuid": "u", "no-floppy": "n", "efidisk-only": "", "cryptodisk-only": ""}
    hints = ("hint-ieee1275", "hint-bios", "hint-baremetal", "hint-efi", "hint-arc")
    given, others = options(
        call.arguments,
        flags={**flags, "root-dev-only": "r"},
        values={"hint": "h", **dict.fromkeys(hints, "")},
        optional={"set": "s"},
    )
    others = [other for other in others if not other.startswith("--hint-")]  # of later versions
    kinds = {"label": "LABEL", "fs-uuid": "UUID", "file": "FILE"}
    wanted = next((kinds[option] for option in kinds if option in given), "")
    variable = (given["set"][-1] or "root") if "set" in given else ""
    if not others and "set" in given:  # --set UUID
        others, variable = [variable], "root"
    if not wanted or not others:
        return 1
    return _found(run, wanted, others[0], variable)


def _found(run: Interpreter, kind: str, what: str, variable: str) -> int:
    device = run.machine.filesystems.found(kind, what)
    if device and variable:
        run.variables.set(variable, device)
    return int(not device)


def _load_env(run: Interpreter, call: Call) -> int:
    given, names = options(call.arguments, flags={"skip-sig": "s"}, values={"file": "f"})
    path = given["file"][-1] if "file" in given else f"{run.variables.get('prefix')}/grubenv"
    name = _our_file(run, path)
    try:
        text = read_text(name, root=run.machine.filesystems.root, limit=LARGEST_BLOCK)
    except (OSError, ValueError) as error:
        why = getattr(error, "strerror", None) or str(error)
        raise NotUnderstood(f"{name} cannot be read: {why.lower()}") from error
    if text is None:
        return 1
    run.spend(len(text) * BLOCK_WORK)
    values = grubenv.parse(text)
    if values is None:
        raise NotUnderstood(f"{name} is no environment block")
    for variable, value in values.items():
        if not names or variable in names:
            run.variables.set(variable, value)
            run.environment[variable] = value
    return 0


def _source(run: Interpreter, call: Call) -> int:
    if not call.arguments:
        return 1
    return run.run_file(_our_file(run, call.arguments[0]), call.arguments[0])


def _configfile(run: Interpreter, call: Call) -> int:
    if run.loaded is not None:
        return loading.other(run, call)
    if not call.arguments:
        raise NotUnderstood(f"{call.name} without a file")
    return run.nested_file(_our_file(run, call.arguments[0]), call.arguments[0])


def _our_file(run: Interpreter, path: str) -> str:
    name, why = run.machine.filesystems.locate(*run.device_and_path(path))
    if why:
        raise NotUnderstood(why)
    return name


def _menuentry(run: Interpreter, call: Call) -> int:
    given, arguments = options(
        call.arguments,
        flags={"unrestricted": ""},
        values={"class": "", "hotkey": "", "source": "", "id": ""},
        optional={"users": ""},
        strict=False,
    )
    if call.block is None or not arguments:
        raise NotUnderstood(f"{call.name} without {'a body' if arguments else 'a title'}")
    run.menu.items.append(
        Item(
            id=given["id"][-1] if "id" in given else arguments[0],
            title=arguments[0],
            parameters=tuple(arguments),
            body=call.block,
            submenu=call.name == "submenu",
            restricted="unrestricted" not in given,
            at=call.at,
        )
    )
    return 0


def _blscfg(run: Interpreter, call: Call) -> int:
    if call.arguments or run.machine.bls is None:
        raise NotUnderstood(" ".join((call.name, *call.arguments)))
    run.spend(BLS_WORK)
    try:
        entries = run.machine.bls(run.variables.all())
    except Refusal as refusal:
        raise NotUnderstood(f"blscfg: {refusal.sentence()}") from refusal
    # Red Hat's and upstream's blscfg call an entry by its file, without the ending.
    run.menu.items += [Item(entry.id.removesuffix(".conf"), entry.title, entry=entry) for entry in entries]
    return 0


def _keystatus(run: Interpreter, call: Call) -> int:
    return int(bool(call.arguments))  # without arguments: whether keys can be asked for at all


COMMANDS: dict[str, Callable[[Interpreter, Call], int]] = {
    **dict.fromkeys(HARMLESS, _harmless),
    **loading.COMMANDS,
    **dict.fromkeys(("search", "search.fs_uuid", "search.fs_label", "search.file"), _search),
    **dict.fromkeys(("[", "test"), _test),
    **dict.fromkeys(("menuentry", "submenu"), _menuentry),
    **dict.fromkeys(("source", "."), _source),
    **dict.fromkeys(("configfile", "normal"), _configfile),
    **dict.fromkeys(("break", "continue"), _leave),
    **dict.fromkeys(("increment", "decrement"), _count),
    "set": _set,
    "unset": _unset,
    "export": _export,
    "setparams": _setparams,
    "shift": _shift,
    "return": _return,
    "false": _false,
    "cpuid": _cpuid,
    "keystatus": _keystatus,
    "load_env": _load_env,
    "blscfg": _blscfg,
}
