# SPDX-License-Identifier: MIT
"""kexecctl config: the settings in effect, each with its value and where it comes from.

The classic settings (kexecd.config.settings) and the policy (kexecd.config.policy) in one table. As JSON:

    {"schema": 1,
     "settings": [{"name": "kernel", "variables": ["KNAME", "KERNEL_IMAGE"], "value": "/boot/bzImage",
                   "default": false, "origin": "/etc/conf.d/kexec:3", "help": "..."}, ...],
     "warnings": ["/etc/conf.d/kexec:5: ...", ...]}

value: a string, a number, a boolean, a list of strings, or null where nothing is set and it is found out when it is
needed; of kexec_options an object of the fields of KexecOptions. variables: what it is called in the classic files;
empty for a setting of kexecd.yaml, whose name is its key there. origin: `file:line`, or `default`.
"""

from __future__ import annotations

from argparse import Namespace
from dataclasses import asdict, dataclass

from kexecd.cli.output import print_json, print_table
from kexecd.config import policy, settings
from kexecd.config.kexec_options import KexecOptions
from kexecd.config.policy import Policy, read_policy
from kexecd.config.settings import Settings, read_settings
from kexecd.errors import ExitCode

Value = str | float | bool | tuple[str, ...] | KexecOptions | None


@dataclass(frozen=True, slots=True)
class Setting:
    name: str
    variables: tuple[str, ...]
    value: Value
    shown: str  # the value, for people
    origin: str
    help: str


def config(options: Namespace) -> ExitCode:
    classic = read_settings(options.root)
    found = (*_classic(classic), *_policy(read_policy(options.root)))
    if options.json:
        print_json({"settings": [_as_json(one) for one in found], "warnings": list(classic.warnings)})
    else:
        print_table([(one.name, one.shown, one.origin) for one in found])
        for warning in classic.warnings:
            print(f"warning: {warning}")
    return ExitCode.OK


def _classic(effective: Settings) -> list[Setting]:
    found = []
    for row in settings.ROWS:
        value = getattr(effective, row.dest)
        shown = "-" if row.dest == "kernel" and effective.disabled else _shown(value, row.default)
        variables = tuple(dict.fromkeys(name for name in (row.gentoo, row.debian) if name))
        found.append(Setting(row.dest, variables, value, shown, effective.origin(row.dest), row.help))
    return found


def _policy(effective: Policy) -> list[Setting]:
    found = []
    for row in policy.ROWS:
        value = getattr(effective, row.dest)
        found.append(Setting(row.key, (), value, _shown(value, row.default), effective.origin(row.dest), row.help))
    for rule in effective.checks:
        found.append(Setting(f"checks.{rule.check}", (), str(rule.answer), str(rule.answer), rule.origin, ""))
    return found


def _shown(value: Value, default: str) -> str:
    match value:
        case None:
            return default
        case bool():
            return "true" if value else "false"
        case float():
            return f"{value:g}"
        case KexecOptions():
            return _options(value)
        case tuple():
            return "; ".join(value) or "none"
        case _:
            return str(value) or "none"


def _options(options: KexecOptions) -> str:
    """What they come to, as options again."""
    initrd = f"--initrd={options.initrd}" if options.initrd is not None else ""
    append = f"--append={options.append}" if options.append is not None else ""
    reuse = "--reuse-cmdline" if options.reuse_cmdline else ""
    words = " ".join(word for word in (reuse, append, initrd, *options.for_tools) if word)
    return f"by {options.method}{': ' if words else ''}{words}"


def _as_json(one: Setting) -> dict[str, object]:
    return {
        "name": one.name,
        "variables": list(one.variables),
        "value": asdict(one.value) if isinstance(one.value, KexecOptions) else one.value,
        "default": one.origin == "default",
        "origin": one.origin,
        "help": one.help,
    }
