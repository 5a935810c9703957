# SPDX-License-Identifier: MIT
"""Which accelerator QEMU can really use here.

/dev/kvm may exist and be of no use: on some virtual machines a guest under KVM spins for ever before its
first kernel line. So the answer is found by booting a kernel, within a bounded time, and kept until the host
boots again.
"""

from __future__ import annotations

import os
import subprocess
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

from tests.vm.lab.cache import cache_dir
from tests.vm.lab.progress import say, step

QEMU = "qemu-system-x86_64"

PROBE_TIMEOUT = 20.0
"""Seconds for the first kernel line; working KVM needs less than one."""


@dataclass(frozen=True)
class Accel:
    """An accelerator and the CPU model that fits it."""

    name: str
    arguments: tuple[str, ...]


KVM = Accel("kvm", ("-accel", "kvm", "-cpu", "host"))
# One thread for all virtual CPUs: with a thread for each, QEMU 7.2 now and then lets one CPU run code that
# another is just patching, and the guest's kernel dies of an invalid opcode at boot (seen in 6.12, in
# sched_clock_cpu). Measured, one thread is not slower here.
# A small buffer for translated code, which is emptied when it is full: with QEMU's own of 1 GiB the code of earlier
# boots stays, and each write to a page that held some is slow. A guest's second restart took twice the first's time.
# Without la57 a page walk has four levels and not five. Do not add svm=off to spare the guest its KVM
# modules: with QEMU 7.2 `max,svm=off` boots Debian's 6.1 into a broken userspace (every mount unit fails with
# "protocol", udevd does not start).
TCG = Accel("tcg", ("-accel", "tcg,thread=single,tb-size=128", "-cpu", "max,la57=off"))


def best_accel(kernel: Path) -> Accel:
    """KVM if a guest really boots `kernel` under it, else TCG.

    $LAB_ACCEL (kvm or tcg) overrides the probe.
    """
    forced = os.environ.get("LAB_ACCEL")
    if forced:
        return {"kvm": KVM, "tcg": TCG}[forced]
    if not os.access("/dev/kvm", os.R_OK | os.W_OK):
        return TCG
    boot_id = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    answer = cache_dir() / f"kvm-{boot_id}"
    if not answer.exists():
        with step("probing KVM with a real boot"):
            works = probe_kvm(kernel, PROBE_TIMEOUT)
        say("KVM works" if works else "KVM is of no use here: emulating (TCG)")
        for old in cache_dir().glob("kvm-*"):
            old.unlink()
        answer.write_text("yes\n" if works else "no\n")
    return KVM if answer.read_text() == "yes\n" else TCG


def probe_kvm(kernel: Path, timeout: float) -> bool:
    """Whether `kernel` prints its first line under KVM within `timeout` seconds."""
    with tempfile.NamedTemporaryFile(prefix="lab-kvm-") as log:
        qemu = subprocess.Popen(
            [QEMU, "-nodefaults", "-no-user-config", "-display", "none", "-machine", "q35", *KVM.arguments,
             "-m", "256", "-kernel", str(kernel), "-append", "console=ttyS0 earlyprintk=ttyS0",
             "-serial", f"file:{log.name}"],
            stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
        )  # fmt: skip
        try:
            deadline = time.monotonic() + timeout
            while time.monotonic() < deadline and qemu.poll() is None:
                if b"Linux version" in Path(log.name).read_bytes():
                    return True
                time.sleep(0.1)
            return False
        finally:
            qemu.kill()
            qemu.wait()
