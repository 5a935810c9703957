# SPDX-License-Identifier: MIT
"""Who would mind: whoever has asked for the machine to stay up, the systems that run inside of it, who is logged in."""

from __future__ import annotations

import os
from collections.abc import Iterator

from kexecd.kernel import proc
from kexecd.preflight.facts import Facts
from kexecd.preflight.finding import Flaw
from kexecd.teardown.classes import MACHINES, MONITORS
from kexecd.teardown.leftover import names
from kexecd.teardown.survey import terminal_path, terminals

INHIBITORS = "/run/systemd/inhibit"
"""One file each, of logind and of elogind: lines of KEY=VALUE (src/login/logind-inhibit.c)."""


def inhibitors(facts: Facts) -> Iterator[Flaw]:
    for name in facts.listing(INHIBITORS):
        text = "" if name.endswith(".ref") else facts.read(f"{INHIBITORS}/{name}")
        fields = dict(line.partition("=")[::2] for line in text.splitlines())
        pid = fields.get("PID", "")
        gone = facts.alive and pid.isdecimal() and not os.path.exists(f"/proc/{pid}")
        if fields.get("MODE") == "block" and "shutdown" in fields.get("WHAT", "").split(":") and not gone:
            who, why = fields.get("WHO") or f"process {pid}", fields.get("WHY") or "it does not say why"
            yield Flaw(f"{who} ({pid}) wants this machine to stay up: {why}", f"let {who} end what it does")


def guests(facts: Facts) -> Iterator[Flaw]:
    """By name only: this is asked before every restart, and a control group is a file for each process."""
    running = tuple(one for one in facts.processes if one.name.startswith((*MACHINES, *MONITORS)))
    if running:
        why = f"virtual machines or containers are running: {names(running)}"
        yield Flaw(why, "move them away, or shut them down from inside, if ten seconds are not enough for them")


def sessions(facts: Facts) -> Iterator[Flaw]:
    if not facts.alive:
        return
    ours = proc.read(os.getpid())
    own = terminal_path(ours.terminal) if ours and ours.terminal else ""
    others = [path for path in terminals(facts.processes) if path != own]
    if others:
        yield Flaw(f"somebody is logged in at {', '.join(others)}", "ask them first; they are told when it begins")
