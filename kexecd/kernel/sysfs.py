# SPDX-License-Identifier: MIT
"""Facts that the running kernel tells in /proc and /sys: one small function each, nothing cached, nothing changed.

`root` is where a captured tree lies. A file that is missing or may not be read counts as the answer of a kernel without
that feature.
"""

from __future__ import annotations

import os
import re
import time

from kexecd.kernel.files import read_text

CAP_SYS_BOOT = 22  # include/uapi/linux/capability.h

# Linux 7.0 has both; the second is to go after 2028 (Documentation/ABI/obsolete/sysfs-kernel-kexec-kdump).
# FIXME: drop the second name when the oldest kernel that we serve has the first.
_LOADED = ("/sys/kernel/kexec/loaded", "/sys/kernel/kexec_loaded")
_CRASH_LOADED = ("/sys/kernel/kexec/crash_loaded", "/sys/kernel/kexec_crash_loaded")


def kexec_supported(root: str = "/") -> bool:
    """Whether the kernel knows kexec at all, and /sys is there to tell."""
    return _first(root, _LOADED) != ""


def kexec_loaded(root: str = "/") -> bool:
    """Whether an image is in memory; whose, nobody can tell."""
    return _first(root, _LOADED) == "1"


def crash_loaded(root: str = "/") -> bool:
    """Whether a crash kernel is in memory."""
    return _first(root, _CRASH_LOADED) == "1"


def kexec_load_disabled(root: str = "/") -> bool:
    """Whether loading has been switched off until the next boot (Documentation/admin-guide/sysctl/kernel.rst)."""
    return _read(root, "/proc/sys/kernel/kexec_load_disabled") == "1"


def kexec_load_limit_reboot(root: str = "/") -> int | None:
    """How many more calls to load or to unload the kernel permits, failed ones counted; None: as many as one likes."""
    text = _read(root, "/proc/sys/kernel/kexec_load_limit_reboot")
    return int(text) if text.isdecimal() else None  # -1 is the kernel's "no limit"


def lockdown(root: str = "/") -> str:
    """`none`, `integrity` or `confidentiality`; empty where the kernel has no lockdown (kernel_lockdown(7))."""
    found = re.search(r"\[(\w+)\]", _read(root, "/sys/kernel/security/lockdown"))
    return found[1] if found else ""


def kho(root: str = "/") -> bool:
    """Whether Kexec HandOver is known to be on (Documentation/admin-guide/mm/kho.rst).

    It may be on by default and show nothing of it: debugfs is not always there.
    """
    words = [word for word in running_cmdline(root).split() if word.startswith("kho=")]
    if words:
        return words[-1] in ("kho=on", "kho=1", "kho=y", "kho=Y")
    return os.path.isdir(os.path.join(root, "sys/kernel/debug/kho"))


def boot_id(root: str = "/") -> str:
    """What tells one boot from every other; empty where /proc is not there."""
    return _read(root, "/proc/sys/kernel/random/boot_id")


def running_cmdline(root: str = "/") -> str:
    return _read(root, "/proc/cmdline")


def kernel_release() -> str:
    return os.uname().release


def architecture() -> str:
    """The kernel's machine type, as `uname -m` says it."""
    return os.uname().machine


def mem_available(root: str = "/") -> int:
    """Bytes that can be had without swapping; 0 where /proc is not there."""
    return _meminfo(root, "MemAvailable")


def writeback(root: str = "/") -> int:
    """Bytes that are not on their disks yet."""
    return _meminfo(root, "Dirty", "Writeback")


def uptime() -> float:
    """Seconds since the boot, those in suspend included (CLOCK_BOOTTIME)."""
    return time.clock_gettime(time.CLOCK_BOOTTIME)


def has_cap_sys_boot(root: str = "/") -> bool:
    """Whether this process may load an image and restart the machine, as far as capabilities go."""
    found = re.search(r"^CapEff:\s*([0-9a-f]+)$", _read(root, "/proc/self/status"), re.MULTILINE)
    return bool(found and int(found[1], 16) >> CAP_SYS_BOOT & 1)


def _meminfo(root: str, *names: str) -> int:
    """The sum of these fields of /proc/meminfo, which are in KiB (proc(5)), in bytes."""
    fields = dict(line.partition(":")[::2] for line in _read(root, "/proc/meminfo").splitlines())
    return sum(int(fields.get(name, "0").split()[0]) for name in names) * 1024


def _first(root: str, paths: tuple[str, ...]) -> str:
    return next((text for path in paths if (text := _read(root, path))), "")


def _read(root: str, path: str) -> str:
    try:
        return (read_text(path, root=root) or "").strip()
    except OSError:
        return ""
