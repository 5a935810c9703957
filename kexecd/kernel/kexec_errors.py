# SPDX-License-Identifier: MIT
"""What each errno of kexec_file_load(2) means, and what to do about it; EPERM alone has five causes.

Read from kernel/kexec_file.c, kernel/kexec_core.c, crypto/asymmetric_keys/verify_pefile.c and fs/kernel_read_file.c.
"""

from __future__ import annotations

import errno
import os
from typing import NamedTuple

from kexecd.errors import BadImage, BadSignature, Busy, Forbidden, NoMemory, NotPermitted, Refusal, Unsupported
from kexecd.kernel import sysfs
from kexecd.kernel.cmdline import limit

ENOTSUPP = 524  # include/linux/errno.h: internal to the kernel, and returned all the same


class Cause(NamedTuple):
    refusal: type[Refusal]
    why: str
    hint: str = ""


_SIGN = "sign the kernel with a key that this machine trusts, or boot it through the firmware"

NO_CAPABILITY = Cause(NotPermitted, "this takes root with CAP_SYS_BOOT", "run it as root, outside of any container")
SWITCHED_OFF = Cause(
    Forbidden,
    "kernel.kexec_load_disabled is 1",
    "it stays so until the machine is restarted through the firmware; find what sets it, in /etc/sysctl.d for one",
)
EXHAUSTED = Cause(
    Forbidden,
    "kernel.kexec_load_limit_reboot is 0: every call that this boot was permitted has been made",
    "restart through the firmware; failed calls and unloading count as well",
)
OTHER_MODULE = Cause(
    Forbidden,
    "a security module said no (IMA, SELinux or another)",
    "look for the reason in the kernel's log and in the audit log",
)

CAUSES = {
    errno.EACCES: OTHER_MODULE,
    errno.ENOKEY: Cause(BadSignature, "the key that signed the kernel is in none of the trusted keyrings", _SIGN),
    errno.EKEYREJECTED: Cause(BadSignature, "its signature is not valid, or cannot be verified for this format", _SIGN),
    errno.EKEYREVOKED: Cause(BadSignature, "the key that signed the kernel has been revoked", _SIGN),
    errno.EKEYEXPIRED: Cause(BadSignature, "the key that signed the kernel has expired", _SIGN),
    errno.ENODATA: Cause(BadSignature, "the kernel is not signed, and this machine demands it", _SIGN),
    errno.ELIBBAD: Cause(BadSignature, "a signature is demanded, and the kernel is not a PE file that has one", _SIGN),
    errno.EBADMSG: Cause(BadSignature, "its signature is damaged, or does not fit its content", _SIGN),
    errno.ENOPKG: Cause(BadSignature, "it is signed with an algorithm that the running kernel lacks", _SIGN),
    ENOTSUPP: Cause(BadSignature, "it is signed in a form that the running kernel does not know", _SIGN),
    errno.ENOMEM: Cause(
        NoMemory,
        "there is not enough free memory for kernel and initrd",
        "make the initrd smaller, or stop something large first",
    ),
    errno.EADDRNOTAVAIL: Cause(
        NoMemory,
        "no free stretch of memory is large enough for kernel or initrd",
        "make the initrd smaller, or stop something large first",
    ),
    errno.EINVAL: Cause(
        BadImage,
        "the running kernel does not take this kernel's format or this command line",
        "shorten the command line, or compare the image with what file(1) says of one that boots",
    ),
    errno.ENOEXEC: Cause(
        BadImage,
        "the running kernel has no loader for this kernel's format",
        "compare the image with what file(1) says of one that boots; it has to be for this architecture",
    ),
    errno.EBUSY: Cause(Busy, "somebody else is loading at the same time", "look for another kexec, and try again"),
    errno.ENOSYS: Cause(
        Unsupported, "the running kernel has no kexec_file_load(2)", "build it with CONFIG_KEXEC_FILE=y"
    ),
    errno.ETXTBSY: Cause(
        BadImage, "kernel or initrd is still open for writing", "wait for the installation that writes it"
    ),
    errno.EFBIG: Cause(BadImage, "kernel or initrd is too large", "4 GiB is the most that the kernel reads"),
    errno.ESTALE: Cause(
        BadImage, "kernel or initrd changed while it was read", "wait for the installation that writes it"
    ),
    errno.EIO: Cause(BadImage, "kernel or initrd cannot be read from its disk", "check the disk that it is on"),
}


def diagnose(number: int, cmdline: bytes = b"", root: str = "/") -> Cause:
    """The cause behind an errno, as far as /proc and /sys tell it."""
    if number == errno.EPERM:
        return _not_permitted(root)
    cause = CAUSES.get(number) or Cause(Refusal, f"the kernel said: {os.strerror(number).lower()}")
    if number == errno.EADDRNOTAVAIL and sysfs.kho(root):
        return cause._replace(
            why="with Kexec HandOver on (kho=on), kernel and initrd have to fit into its scratch areas, and do not",
            hint="enlarge kho_scratch= on the running kernel's command line, or boot it without kho=on",
        )
    if number == errno.ENOMEM and (free := sysfs.mem_available(root)):
        return cause._replace(why=f"{cause.why} ({free >> 20} MiB are available)")
    if number == errno.EINVAL and len(cmdline) > (most := limit(sysfs.architecture())):
        return cause._replace(
            why=f"the command line has {len(cmdline)} bytes, and a kernel takes {most} at most",
            hint="shorten the command line",
        )
    return cause


def forbidden_beforehand(root: str = "/") -> Cause | None:
    """What is certain to fail, found without a call: each call counts against kernel.kexec_load_limit_reboot."""
    if not sysfs.has_cap_sys_boot(root):
        return NO_CAPABILITY
    if sysfs.kexec_load_disabled(root):
        return SWITCHED_OFF
    return EXHAUSTED if sysfs.kexec_load_limit_reboot(root) == 0 else None


def locked_down(root: str = "/") -> bool:
    return sysfs.lockdown(root) not in ("", "none")


def _not_permitted(root: str) -> Cause:
    # Lockdown comes before the limit: the call that was refused may itself have used up the last one.
    before = forbidden_beforehand(root)
    if before is not None and before is not EXHAUSTED:
        return before
    if locked_down(root):
        why = f"the kernel is locked down ({sysfs.lockdown(root)}), and cannot verify what is to be loaded"
        return Cause(Forbidden, why, _SIGN)
    return before or OTHER_MODULE
