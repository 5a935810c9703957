# SPDX-License-Identifier: MIT
"""One QEMU process: its command line, its three sockets (console, QMP, agent), and its end."""

from __future__ import annotations

import functools
import os
import shutil
import socket
import subprocess
import threading
from collections.abc import Sequence
from contextlib import ExitStack, suppress
from pathlib import Path

from tests.vm.lab.accel import QEMU
from tests.vm.lab.agent import Agent
from tests.vm.lab.console import Console
from tests.vm.lab.errors import LabError, LabTimeout, QemuGone
from tests.vm.lab.hardware import DATA, EFI_VARIABLES, ROOT, Hardware
from tests.vm.lab.loaders import Firmware
from tests.vm.lab.qmp import Qmp
from tests.vm.lab.tools import run_tool

AGENT_PORT = "org.qemu.guest_agent.0"

# Debian's ovmf, the build without Secure Boot: it needs no system management mode, which costs when emulated.
OVMF_CODE = Path("/usr/share/OVMF/OVMF_CODE_4M.fd")
OVMF_VARIABLES = Path("/usr/share/OVMF/OVMF_VARS_4M.fd")

UNTIL_WE_END = ("setpriv", "--pdeathsig", "KILL", "--", "sh", "-c", '[ "$PPID" = "$0" ] && exec "$@"')


def until_we_end(arguments: Sequence[str]) -> tuple[str, ...]:
    """A command line that runs this one no longer than the thread that starts it lives, however that ends: prctl(2),
    PR_SET_PDEATHSIG; util-linux's setpriv(1). Once that is asked for, sh looks whether it has ended before.
    """
    return (*UNTIL_WE_END, str(os.getpid()), *arguments)


@functools.cache
def qemu_version() -> str:
    """QEMU's version line; part of a snapshot's key, because a machine's state belongs to one QEMU."""
    return run_tool(QEMU, "--version", timeout=30).splitlines()[0]


def overlay(disk: Path, target: Path) -> None:
    """Make `target` a qcow2 file that holds what a guest writes over the raw image `disk`."""
    run_tool("qemu-img", "create", "-q", "-f", "qcow2", "-F", "raw", "-b", disk.resolve(), target, timeout=30)


def new_efi_variables(target: Path) -> None:
    """Make `target` the variables of a machine that was never switched on; qcow2, or savevm could not save them."""
    if not OVMF_VARIABLES.exists():
        raise LabError(f"there is no {OVMF_VARIABLES}: the package ovmf is not installed")
    run_tool("qemu-img", "convert", "-f", "raw", "-O", "qcow2", OVMF_VARIABLES, target, timeout=30)


def qemu_arguments(
    hardware: Hardware, root: Path, data: Path, fds: tuple[int, int, int], loadvm: str | None
) -> list[str]:
    """QEMU's whole command line. `fds` are its ends of the console, QMP and agent sockets.

    There is no -no-reboot: a reset has to lead to a second boot, which is what the oracle looks at.
    """
    console, qmp, agent = fds
    arguments = [
        QEMU, "-nodefaults", "-no-user-config", "-display", "none", "-machine", "q35",
        *hardware.accel.arguments,
        "-smp", str(hardware.cpus), "-m", str(hardware.memory_mib),
        "-chardev", f"socket,id=console,fd={console}", "-serial", "chardev:console",
        "-chardev", f"socket,id=qmp,fd={qmp}", "-mon", "chardev=qmp,mode=control",
        "-device", "virtio-serial-pci",
        "-chardev", f"socket,id=agent,fd={agent}",
        "-device", f"virtserialport,chardev=agent,name={AGENT_PORT}",
    ]  # fmt: skip
    further = ((f"disk{number}", root.with_name(name)) for number, name in enumerate(hardware.disks))
    for name, path in (("root", root), ("data", data), *further):
        # cache=unsafe: a host that loses power loses the test anyway; what the guest flushed survives the
        # guest's own resets.
        arguments += [
            "-drive", f"if=none,id={name},format=qcow2,cache=unsafe,file={_quoted(path)}",
            "-device", f"virtio-blk-pci,drive={name}",
        ]  # fmt: skip
    arguments += _boot_arguments(hardware, root)  # after the disks: savevm puts memory into the first that it finds
    arguments += hardware.extra_qemu
    return arguments + (["-loadvm", loadvm] if loadvm else [])


def _boot_arguments(hardware: Hardware, root: Path) -> list[str]:
    arguments = []
    if hardware.firmware is Firmware.UEFI:
        arguments += [
            "-drive", f"if=pflash,unit=0,format=raw,readonly=on,file={OVMF_CODE}",
            "-drive", f"if=pflash,unit=1,format=qcow2,cache=unsafe,file={_quoted(root.with_name(EFI_VARIABLES))}",
        ]  # fmt: skip
    if hardware.direct:
        arguments += ["-kernel", str(hardware.kernel), "-append", hardware.cmdline]
        arguments += ["-initrd", str(hardware.initrd)] if hardware.initrd else []
    return arguments


def _quoted(path: Path) -> str:
    return str(path).replace(",", ",,")


class Machine:
    """A running QEMU. Its sockets are pairs made here: no paths that clash, nothing to connect to."""

    def __init__(
        self,
        hardware: Hardware,
        workdir: Path,
        *,
        loadvm: str | None = None,
        earlier_console: tuple[str, ...] = (),
    ) -> None:
        """Start QEMU on the `hardware.files` in `workdir`; the logs are written beside them.

        In the main thread only: a thread that ends takes QEMU with it.
        """
        assert threading.current_thread() is threading.main_thread(), "QEMU would end with this thread"
        if not shutil.which(QEMU):
            raise LabError(f"{QEMU} is not installed")
        self.root, self.data = workdir / ROOT, workdir / DATA
        with ExitStack() as undo:
            pairs = [socket.socketpair() for _ in range(3)]
            for ours, _ in pairs:
                undo.callback(ours.close)
            with ExitStack() as theirs, (workdir / "qemu.log").open("ab") as log:
                fds = []
                for _, end in pairs:
                    theirs.callback(end.close)
                    fds.append(end.fileno())
                arguments = qemu_arguments(hardware, self.root, self.data, (fds[0], fds[1], fds[2]), loadvm)
                self._process = subprocess.Popen(
                    until_we_end(arguments),
                    stdin=subprocess.DEVNULL,
                    stdout=log,
                    stderr=log,
                    pass_fds=fds,
                    start_new_session=True,
                )
            undo.callback(self._end_process)
            self._log = workdir / "qemu.log"
            self.console = Console(pairs[0][0], workdir / "console.log", earlier_console)
            self.agent = Agent(pairs[2][0])
            try:
                self.qmp = Qmp(pairs[1][0])
            except (QemuGone, LabTimeout) as error:
                raise QemuGone(f"QEMU did not start: {self.complaint() or error}") from error
            undo.pop_all()

    @property
    def pid(self) -> int:
        """QEMU's process id."""
        return self._process.pid

    @property
    def running(self) -> bool:
        """Whether QEMU still runs; it ends by itself when the guest powers off."""
        return self._process.poll() is None

    def complaint(self) -> str:
        """What QEMU itself printed."""
        return self._log.read_text(errors="replace").strip()

    def save(self, name: str) -> None:
        """Save memory and disks as an internal snapshot of the files that the machine writes to."""
        self.qmp.monitor(f"savevm {name}")

    def wait_end(self, timeout: float) -> None:
        """Wait until QEMU ends because the guest has powered off. LabTimeout after `timeout` seconds."""
        try:
            self._process.wait(timeout)
        except subprocess.TimeoutExpired:
            raise LabTimeout(f"the guest did not power off within {timeout} s") from None
        self.stop()

    def quit(self, timeout: float = 20.0) -> None:
        """Let QEMU end in its own time, with its disk files complete, and wait for that."""
        with suppress(QemuGone):  # it may hang up before it answers
            self.qmp.execute("quit")
        self._process.wait(timeout)
        self.stop()

    def stop(self) -> None:
        """End QEMU at once and wait for it. Calling it again does nothing."""
        self._end_process()
        for channel in (self.qmp, self.agent, self.console):
            channel.close()

    def _end_process(self) -> None:
        if self._process.poll() is None:
            self._process.kill()
        self._process.wait()
