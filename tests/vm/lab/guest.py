# SPDX-License-Identifier: MIT
"""A running guest: what tests talk to. Whatever fails in here says what the guest's console said last."""

from __future__ import annotations

import re
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Self

from tests.vm.lab import evidence
from tests.vm.lab.console import Line
from tests.vm.lab.errors import AgentError, CommandFailed, LabError, LabTimeout, QemuGone
from tests.vm.lab.hardware import DATA, EFI_VARIABLES, ROOT, Hardware, hardware_for
from tests.vm.lab.image import GuestImage
from tests.vm.lab.loaders import Firmware
from tests.vm.lab.machine import Machine, new_efi_variables, overlay
from tests.vm.lab.memory import flip
from tests.vm.lab.qmp import Event
from tests.vm.lab.snapshot import Snapshot, save_console

TAIL = 60
"""Console lines that a failure carries."""

READY_PAUSE = 0.2
"""Seconds between two questions whether the boot is over; each costs the booting guest a process."""


@dataclass(frozen=True)
class Completed:
    """A command that ran to its end in the guest; a death by signal n is exit code 128 + n."""

    exit_code: int
    stdout: str
    stderr: str


@dataclass(frozen=True)
class Mark:
    """A moment in a guest's life: positions in its console and event list, and the host's monotonic time in
    seconds.
    """

    line: int
    event: int
    at: float


class Guest:
    """One guest, from start() or from_snapshot() until stop().

    As a context manager it stops in every case.
    """

    def __init__(self, image: GuestImage, hardware: Hardware, machine: Machine, workdir: Path) -> None:
        """For start() and from_snapshot()."""
        self.image = image
        self.hardware = hardware
        self.workdir = workdir
        self._machine = machine

    @classmethod
    def start(
        cls,
        image: GuestImage,
        *,
        workdir: Path,
        memory_mib: int = 768,
        cpus: int = 2,
        extra_cmdline: str = "",
        extra_qemu: tuple[str, ...] = (),
    ) -> Self:
        """Power a guest on, on new overlays in `workdir`. It has not booted yet: see wait_ready()."""
        hardware = hardware_for(
            image, memory_mib=memory_mib, cpus=cpus, extra_cmdline=extra_cmdline, extra_qemu=extra_qemu
        )
        return cls.start_on(hardware, image, workdir=workdir)

    @classmethod
    def start_on(cls, hardware: Hardware, image: GuestImage, *, workdir: Path) -> Self:
        """The same on a machine that is described already."""
        overlay(image.root, workdir / ROOT)
        overlay(image.data, workdir / DATA)
        for disk, name in zip(image.disks, hardware.disks, strict=True):
            overlay(disk, workdir / name)
        if hardware.firmware is Firmware.UEFI:
            new_efi_variables(workdir / EFI_VARIABLES)
        return cls.start_again(hardware, image, workdir=workdir)

    @classmethod
    def start_again(cls, hardware: Hardware, image: GuestImage, *, workdir: Path) -> Self:
        """Power a guest on that was powered off, on what it left in `workdir`."""
        return cls(image, hardware, Machine(hardware, workdir), workdir)

    @classmethod
    def from_snapshot(cls, snapshot: Snapshot, *, workdir: Path) -> Self:
        """A guest that goes on from `snapshot`, on copies of its overlays in `workdir`, its clock set."""
        snapshot.copy_disks(workdir)
        machine = Machine(snapshot.hardware, workdir, loadvm=snapshot.name, earlier_console=snapshot.console)
        guest = cls(snapshot.image, snapshot.hardware, machine, workdir)
        try:
            guest._machine.agent.sync(20)
            # Not guest-set-time, which also spends 0.6 s on a hardware clock that QEMU keeps right by itself.
            guest._machine.agent.run(("date", "--utc", f"--set=@{time.time():.3f}"), timeout=20)
        except BaseException as error:
            guest._tell(error)
            guest.stop()
            raise
        return guest

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if error is not None:
            self._tell(error)
        self.stop()

    def stop(self) -> None:
        """End this guest's QEMU, and no other, and wait for it. Its overlays and logs stay in the workdir."""
        self._machine.stop()

    def power_off(self, timeout: float = 60) -> None:
        """Have the guest power itself off, and wait until QEMU has ended."""
        self.spawn("poweroff")
        self.wait_end(timeout)

    def wait_end(self, timeout: float = 60) -> None:
        """Wait until QEMU has ended, because the guest powers itself off."""
        with self._telling():
            self._machine.wait_end(timeout)

    def unplug(self) -> None:
        """Switch a machine off that has halted; its disks are as it left them, complete."""
        with self._telling():
            self._machine.quit()

    def snapshot(self, name: str) -> Snapshot:
        """Save the guest's memory and disks, and stop it: from now on its workdir belongs to the snapshot."""
        with self._telling():
            self._machine.save(name)
            self._machine.quit()
        save_console(self.workdir, tuple(line.text for line in self._machine.console.lines()))
        self.stop()
        return Snapshot(self.image, self.hardware, self.workdir, name)

    # Talking to the guest --------------------------------------------------------------------------

    def run(
        self, *argv: str, input: bytes = b"", user: str | None = None, timeout: float = 30, check: bool = True
    ) -> Completed:
        """Run a command as root, or as `user`, and wait for it.

        CommandFailed on a non-zero exit unless `check` is False. LabTimeout after `timeout`
        seconds; the command then goes on in the guest.
        """
        return self._run(argv, input, user, timeout, check)[0]

    def spawn(self, *argv: str, user: str | None = None) -> None:
        """Start a command and do not wait.

        It lives in the agent's unit: what must outlive that goes through systemd-run.
        """
        with self._telling():
            self._machine.agent.spawn(_as_user(argv, user))

    def put(self, path: str, data: bytes, mode: int = 0o644) -> None:
        """Write a file in the guest, and the directories above it."""
        script = 'mkdir -p "$(dirname "$1")" && cat > "$1" && chmod "$2" "$1"'
        self._run(("/bin/sh", "-c", script, "put", path, f"{mode:o}"), data, None, 60, True)

    def get(self, path: str) -> bytes:
        """Read a file in the guest (the agent gives 16 MiB at most)."""
        return self._run(("cat", path), b"", None, 60, True)[1]

    def boot_id(self, timeout: float = 30) -> str:
        """The kernel's random id of this boot."""
        return self.run("cat", "/proc/sys/kernel/random/boot_id", timeout=timeout).stdout.strip()

    def cmdline(self) -> str:
        """The running kernel's command line."""
        return self.run("cat", "/proc/cmdline").stdout.strip()

    def uname(self) -> str:
        """The running kernel's release."""
        return self.run("uname", "-r").stdout.strip()

    def answers(self, timeout: float = 3.0) -> bool:
        """Whether the agent in the guest answers within `timeout` seconds."""
        return self._machine.agent.answers(timeout)

    def wait_ready(self, timeout: float = 120) -> None:
        """Wait until the boot is over: the agent answers, and PID 1 has started what it was to start."""
        deadline = time.monotonic() + timeout
        init = self.image.recipe.init
        last = "no answer from the agent"
        with self._telling():
            while time.monotonic() < deadline:
                try:
                    last = self._machine_run(init.ready_probe, deadline)
                except (LabTimeout, AgentError) as error:
                    last = str(error)
                    self._raise_if_gone()
                if init.ready_answers & set(last.split()):
                    return
                time.sleep(READY_PAUSE)
            raise LabTimeout(f"the guest was not up within {timeout} s; the last word was: {last}")

    def press(self, *keys: str) -> None:
        """Press these keys of the machine's keyboard together, by QEMU's names (QKeyCode)."""
        with self._telling():
            chord = [{"type": "qcode", "data": key} for key in keys]
            self._machine.qmp.execute("send-key", {"keys": chord})

    def type(self, text: str) -> None:
        """Type at the serial console."""
        self._machine.console.type(text)

    def flip(self, pattern: bytes) -> int:
        """Change a byte of each place in its memory that holds `pattern`; returns how many there were."""
        with self._telling():
            return flip(self._machine.qmp, self.hardware.memory_mib, pattern)

    # Watching the guest ----------------------------------------------------------------------------

    def mark(self) -> Mark:
        """This moment, to look at what comes after it."""
        return Mark(self._machine.console.count, self._machine.qmp.event_count, time.monotonic())

    def wait_for_line(self, regex: str, since: Mark, timeout: float) -> Line:
        """The first console line after `since` in which `regex` is found.

        LabTimeout after `timeout` seconds.
        """
        pattern = re.compile(regex)
        with self._telling():
            return self._machine.console.wait_for(
                lambda text: pattern.search(text) is not None, since.line, timeout, f"/{regex}/"
            )

    def wait_for_change(self, seconds: float) -> None:
        """Return when the console says something, after `seconds` at the latest."""
        self._machine.console.wait(seconds)

    def lines(self, since: Mark | None = None) -> tuple[Line, ...]:
        """The console lines after `since`, or all of them, those before a snapshot included."""
        return self._machine.console.lines(since.line if since else 0)

    def lines_before(self, mark: Mark) -> tuple[Line, ...]:
        """The console lines up to `mark`."""
        return self._machine.console.lines()[: mark.line]

    def events(self, since: Mark | None = None) -> tuple[Event, ...]:
        """QEMU's events after `since`, or all of them."""
        return self._machine.qmp.events(since.event if since else 0)

    def console_tail(self, n: int = TAIL) -> str:
        """The last `n` console lines; below them, if it was the emulator that failed, that it was."""
        texts = [line.text for line in self._machine.console.lines()]
        return "\n".join((*texts[-n:], evidence.emulator_fault(texts))).rstrip()

    @property
    def running(self) -> bool:
        """Whether QEMU still runs; it ends when the guest powers off."""
        return self._machine.running

    @property
    def pid(self) -> int:
        """QEMU's process id on the host."""
        return self._machine.pid

    def _run(
        self, argv: tuple[str, ...], data: bytes, user: str | None, timeout: float, check: bool
    ) -> tuple[Completed, bytes]:
        with self._telling():
            output = self._machine.agent.run(_as_user(argv, user), data, timeout=timeout)
            done = Completed(
                output.exit_code,
                output.stdout.decode(errors="replace"),
                output.stderr.decode(errors="replace"),
            )
            if check and done.exit_code != 0:
                raise CommandFailed(
                    f"{' '.join(argv)}: exit code {done.exit_code}\n{done.stdout}{done.stderr}".rstrip()
                )
            return done, output.stdout

    def _machine_run(self, argv: tuple[str, ...], deadline: float) -> str:
        # Short, because a guest that restarts loses its agent while we wait; the caller tries again.
        left = max(1.0, min(10.0, deadline - time.monotonic()))
        return self._machine.agent.run(argv, timeout=left).stdout.decode(errors="replace").strip()

    def _raise_if_gone(self) -> None:
        if not self._machine.running:
            raise QemuGone(f"QEMU ended; it said: {self._machine.complaint() or 'nothing'}")

    @contextmanager
    def _telling(self) -> Iterator[None]:
        try:
            yield
        except LabError as error:
            self._tell(error)
            raise

    def _tell(self, error: BaseException) -> None:
        if not getattr(error, "__notes__", None):
            error.add_note(f"--- the guest's last {TAIL} console lines ---\n{self.console_tail(TAIL)}\n---")


def _as_user(argv: tuple[str, ...], user: str | None) -> tuple[str, ...]:
    return ("runuser", "-u", user, "--", *argv) if user else argv
