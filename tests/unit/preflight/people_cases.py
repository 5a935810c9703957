# SPDX-License-Identifier: MIT
from __future__ import annotations

import ctypes
import os
import pty
import select
import shutil
import signal
from pathlib import Path

from kexecd.config.checks import CheckId
from kexecd.kernel import proc
from kexecd.kernel.syscalls import CLONE_NEWNS
from kexecd.model import Process
from kexecd.preflight.facts import Facts
from kexecd.preflight.finding import Severity
from tests.namespaces.stage import eventually
from tests.unit.preflight.cases import fires, silent
from tests.unit.preflight.machine import Machine

INHIBIT = "/run/systemd/inhibit"


def ended(pid: int) -> None:
    os.kill(pid, signal.SIGKILL)
    os.waitpid(pid, 0)


def seen(pid: int) -> Process:
    # Its parent goes on in the midst of its execve(2), before it has a command line.
    eventually(lambda: Path(f"/proc/{pid}/cmdline").read_bytes() != b"")
    process = proc.read(pid)
    assert process
    return process


def started(machine: Machine, name: str, *, apart: bool = False) -> Process:
    """A real program of this name at work; `apart`: with mounts of its own, as in a system that is being made."""
    program = machine.path / "programs" / name
    program.parent.mkdir(exist_ok=True)
    shutil.copy("/bin/sleep", program)
    reader, writer = os.pipe()  # the end for writing is closed by the kernel as soon as the program is there
    pid = os.fork()
    if pid == 0:
        if apart and ctypes.CDLL(None).unshare(CLONE_NEWNS):
            os._exit(1)
        os.execv(program, [name, "60"])
    os.close(writer)
    machine.opened.callback(ended, pid)
    assert os.read(reader, 1) == b""
    os.close(reader)
    return seen(pid)


def inhibitor(machine: Machine, **fields: str) -> Facts:
    machine.write(f"{INHIBIT}/5", "".join(f"{key}={value}\n" for key, value in fields.items()))
    return machine.facts(alive=True)


@fires(CheckId.INHIBITORS, Severity.REFUSE, "backup (")
def somebody_blocks_a_shutdown(machine: Machine) -> Facts:
    return inhibitor(machine, WHAT="sleep:shutdown", MODE="block", WHO="backup", WHY="at work", PID=str(os.getpid()))


@silent(CheckId.INHIBITORS)
def somebody_only_delays_it(machine: Machine) -> Facts:
    return inhibitor(machine, WHAT="shutdown", MODE="delay", WHO="backup", WHY="at work", PID=str(os.getpid()))


@silent(CheckId.INHIBITORS)
def somebody_blocks_only_sleep(machine: Machine) -> Facts:
    return inhibitor(machine, WHAT="sleep", MODE="block", WHO="backup", WHY="at work", PID=str(os.getpid()))


@silent(CheckId.INHIBITORS)
def somebody_who_has_ended(machine: Machine) -> Facts:
    return inhibitor(machine, WHAT="shutdown", MODE="block", WHO="backup", WHY="at work", PID=str(2**22 + 1))


@fires(CheckId.GUESTS, Severity.WARN, "qemu-system-x86 (")
def a_virtual_machine_runs(machine: Machine) -> Facts:
    return machine.facts(processes=(started(machine, "qemu-system-x86_64"),))


@silent(CheckId.GUESTS)
def something_else_runs(machine: Machine) -> Facts:
    return machine.facts(processes=(started(machine, "postgres"),))


def at_a_terminal(machine: Machine, name: str) -> Process:
    """A real program of this name, the leader of a session at a pseudo terminal."""
    program = machine.path / "programs" / name
    program.parent.mkdir(exist_ok=True)
    shutil.copy("/bin/sh", program)
    pid, terminal = pty.fork()
    if pid == 0:
        os.execv(program, [name, "-c", "echo; read line"])
    machine.opened.callback(os.close, terminal)
    machine.opened.callback(ended, pid)
    assert select.select([terminal], [], [], 10)[0]  # it has said something, so it runs
    return seen(pid)


@fires(CheckId.SESSIONS, Severity.NOTE, "/dev/pts/")
def somebody_else_is_logged_in(machine: Machine) -> Facts:
    return machine.facts(processes=(at_a_terminal(machine, "bash"),), alive=True)


@silent(CheckId.SESSIONS)
def a_terminal_waits_for_somebody(machine: Machine) -> Facts:
    return machine.facts(processes=(at_a_terminal(machine, "agetty"),), alive=True)
