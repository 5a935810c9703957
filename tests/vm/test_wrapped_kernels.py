# SPDX-License-Identifier: MIT
"""Kernels that kexec_file_load(2) does not take as they are, taken out of their wrapping and booted."""

from __future__ import annotations

from pathlib import Path

from tests.unit import images, initrds
from tests.vm.lab.guest import Guest
from tests.vm.test_first_light import kexecctl

WRAP = """
import glob, gzip
kernel = open(glob.glob("/boot/vmlinuz-6.12*")[0], "rb").read()
initrd = open(glob.glob("/boot/initrd.img-6.12*")[0], "rb").read()
line = open("/proc/cmdline", "rb").read().strip() + b" from.uki=1\\n"
open("/root/unified.efi", "wb").write(pe(linux=kernel, initrd=initrd, ucode=early(), cmdline=line))
open("/root/kernel.gz", "wb").write(gzip.compress(kernel, 1))
"""


def wrap(guest: Guest) -> None:
    """Make both files in the guest, of its own kernel: they are too large to be sent there."""
    makers = (Path(module.__file__ or "").read_text(encoding="utf-8") for module in (images, initrds))
    future = "from __future__ import annotations\n"
    guest.put("/root/wrap.py", (future + "".join(text.replace(future, "") for text in makers) + WRAP).encode())
    guest.run("python3", "/root/wrap.py", timeout=120)


def test_a_unified_kernel_image_boots_with_its_own_initrd_and_command_line(guest: Guest) -> None:
    wrap(guest)
    done = kexecctl(guest, "load", "--kernel", "/root/kernel.gz", "--initrd", "/initrd.img")
    assert done.exit_code != 0 and "has the modules of 6.1" in done.stderr, done
    done = kexecctl(guest, "load", "--kernel", "/root/kernel.gz")
    assert done.exit_code != 0 and "the root takes virtio_blk" in done.stderr, done
    done = kexecctl(guest, "load", "--kernel", "/root/kernel.gz", "--ignore", "root-driver")
    assert done.exit_code == 0 and "kernel.gz (unpacked)" in done.stdout, done

    old, mark = guest.boot_id(), guest.mark()
    guest.spawn("/usr/sbin/kexecctl", "reboot", "--now", "--kernel", "/root/unified.efi")
    guest.wait_for_line("Starting new kernel", mark, 60)
    guest.wait_ready()
    assert guest.boot_id() != old
    assert guest.uname().startswith("6.12.")
    assert "from.uki=1" in guest.cmdline().split()
