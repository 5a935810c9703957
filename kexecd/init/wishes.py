# SPDX-License-Identifier: MIT
"""Who wishes what of this restart: whether it is one at all, and whether the firmware is wanted; each with its reason.

How the machine goes down, as each init tells those whom it stops: systemd by the jobs that it has queued, OpenRC by
RC_REBOOT and RC_GOINGDOWN (openrc-run(8)), sysvinit by the runlevel, which is also in its own command line, "init [6]".
Debian's OpenRC stops its services in a first phase in which it tells nothing, below a sysvinit that does. busybox's
init calls the same command for a reboot as for a poweroff, so there only our own request tells the one from the other.

The firmware: Gentoo's /nokexec and KNAME="-", Debian's /no-kexec-reboot, what `systemctl reboot` leaves for it
(systemctl(1), --firmware-setup, --boot-loader-menu=, --reboot-argument=), and the variables by which any program asks
the firmware for something: OsIndications (UEFI specification 2.10, 8.5.4), BootNext (3.3), and systemd-boot's own.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from enum import StrEnum

from kexecd.config.settings import Settings
from kexecd.errors import Refusal
from kexecd.init import pid1
from kexecd.init.pid1 import Pid1
from kexecd.init.systemd_units import systemctl
from kexecd.kernel.files import join_root, read_text
from kexecd.kernel.spawn import run
from kexecd.model import Act, State, Way
from kexecd.state import Restart

ONE_SHOT = ("/nokexec", "/no-kexec-reboot")
"""A file of this name means the firmware, once: it is removed when that is done."""

EFIVARS = "/sys/firmware/efi/efivars"
GLOBAL = "8be4df61-93ca-11d2-aa0d-00e098032b8c"  # EFI_GLOBAL_VARIABLE
LOADER = "4a67b082-0a4c-41cf-b6c7-440b29bb8c4f"  # https://systemd.io/BOOT_LOADER_INTERFACE
ATTRIBUTES = 4  # bytes in front of a variable's value (Documentation/filesystems/efivarfs.rst)

OS_INDICATIONS = {
    0x01: "its setup",  # EFI_OS_INDICATIONS_BOOT_TO_FW_UI
    0x04: "an update that lies on the EFI system partition",  # EFI_OS_INDICATIONS_FILE_CAPSULE_DELIVERY_SUPPORTED
    0x20: "the recovery of an operating system",  # EFI_OS_INDICATIONS_START_OS_RECOVERY
    0x40: "its own recovery",  # EFI_OS_INDICATIONS_START_PLATFORM_RECOVERY
}

SYSTEMD_ASKED = {
    "/run/systemd/reboot-to-firmware-setup": "the firmware's setup",
    "/run/systemd/reboot-to-boot-loader-menu": "the boot loader's menu",
}
REBOOT_PARAMETER = "/run/systemd/reboot-param"

LISTING = 5.0
"""Seconds for PID 1, or runlevel(8), to answer."""

RUNLEVEL = ("/sbin/runlevel", "/usr/sbin/runlevel", "/bin/runlevel")


class Going(StrEnum):
    """What this machine does next."""

    REBOOT = "reboot"
    DOWN = "down"  # poweroff, halt, single user: never a kexec
    STAY = "stay"  # only the service is stopped


TARGETS = {
    "reboot.target": Going.REBOOT,
    "kexec.target": Going.REBOOT,
    "soft-reboot.target": Going.STAY,  # the kernel stays, and with it what is in its memory
    "poweroff.target": Going.DOWN,
    "halt.target": Going.DOWN,
    "exit.target": Going.DOWN,
    "rescue.target": Going.DOWN,
    "emergency.target": Going.DOWN,
}
ALONE = ("rescue.target", "emergency.target")
LEVELS = {"6": Going.REBOOT, "0": Going.DOWN, "1": Going.DOWN, "S": Going.DOWN, "s": Going.DOWN}


@dataclass(frozen=True, slots=True)
class Heading:
    """What this machine does next, and how that is known, as a sentence. single: into single user, where the kernel and
    what is in its memory stay."""

    going: Going
    why: str
    single: bool = False


@dataclass(frozen=True, slots=True)
class FirmwareWish:
    """Who wants this restart to go through the firmware, as a sentence; a file that means it once."""

    why: str
    file: str = ""


def heading(environment: Mapping[str, str], restart: Restart | None, root: str = "/") -> Heading:
    """What this machine does next, asked in a service that is being stopped. restart: our own, if one is under way."""
    if os.path.isdir(join_root(root, "/run/systemd/system")):
        return _by_jobs()
    if os.path.isdir(join_root(root, "/run/openrc")) and (found := _by_openrc(environment, restart, root)):
        return found
    return _by_runlevel(environment, root)


def firmware_wish(settings: Settings, restart: Restart | None, root: str = "/") -> FirmwareWish | None:
    """The first wish that is found, the nearest first; None: nobody wants the firmware."""
    if restart and restart.act is Act.FIRMWARE:
        return FirmwareWish("`kexecctl reboot --firmware` has asked for the firmware")
    for path in ONE_SHOT:
        if os.path.lexists(os.path.join(root, path.lstrip("/"))):  # also a link that leads nowhere
            return FirmwareWish(f"there is a file {path}, which means the firmware, this once", path)
    if settings.disabled and not restart:  # a kernel that is named to kexecctl is booted all the same
        return FirmwareWish(f'{settings.origin("kernel")} switches kexec off with KNAME="-"')
    why = _by_systemd(root) or _by_efi(root)
    return FirmwareWish(why) if why else None


def _by_jobs(ask: Callable[[], str] | None = None, single: Callable[[], str] | None = None) -> Heading:
    try:
        for line in (ask or _list_jobs)().splitlines():
            words = line.split()
            if len(words) >= 3 and words[2] == "start" and words[1] in TARGETS:
                return Heading(TARGETS[words[1]], f"systemd has {words[1]} among its jobs", words[1] in ALONE)
        if alone := (single or _single_user)():
            return Heading(Going.DOWN, f"systemd has reached {alone}", single=True)
    except (OSError, Refusal) as error:
        return Heading(Going.STAY, f"systemd does not tell what it is about to do: {error}")
    return Heading(Going.STAY, "systemd has no restart among its jobs")


def _list_jobs() -> str:
    finished = run([*systemctl(), "list-jobs", "--plain", "--no-legend", "--no-pager"], seconds=LISTING)
    if finished.exit_code:
        raise OSError(finished.last_line or f"exit status {finished.exit_code}")
    return finished.output


def _single_user() -> str:
    """The target of one user, if it is reached: it waits for nobody, and its job may be over before we look."""
    # Without --quiet, with which it tells nothing but an exit status.
    answers = run([systemctl()[0], "is-active", *ALONE], seconds=LISTING).output.split()
    return next((name for name, answer in zip(ALONE, answers, strict=False) if answer.startswith("activ")), "")


def _by_openrc(environment: Mapping[str, str], restart: Restart | None, root: str) -> Heading | None:
    """None: OpenRC says nothing, as always when it does not take the machine down by itself."""
    if _yes(environment.get("RC_REBOOT", "")):
        return Heading(Going.REBOOT, "OpenRC says RC_REBOOT")
    level = environment.get("RC_RUNLEVEL", "")
    if not _yes(environment.get("RC_GOINGDOWN", "")) and level not in ("shutdown", "single"):
        return None
    ours = restart and restart.way is Way.ORDERLY and restart.state is State.PREPARED
    if ours and level != "single" and pid1.which(root) is Pid1.BUSYBOX:
        return Heading(Going.REBOOT, "kexecctl has asked for it, and busybox's init tells no reboot from the rest")
    why = f"OpenRC goes down into {level or 'another runlevel'} and says nothing of a reboot"
    return Heading(Going.DOWN, why, level == "single")


def _yes(value: str) -> bool:
    """As `yesno` of openrc-run(8) has it."""
    return value.lower() in ("yes", "true", "on", "1")


def _by_runlevel(environment: Mapping[str, str], root: str) -> Heading:
    """sysvinit writes it into its own command line before it calls anybody, hands it on, and has it in utmp."""
    sources: tuple[tuple[str, Callable[[], str]], ...] = (
        ("init itself", lambda: pid1.runlevel(root)),
        ("RUNLEVEL", lambda: environment.get("RUNLEVEL", "")),
        ("runlevel(8)", lambda: _ask_runlevel() if root == "/" else ""),
    )
    for name, ask in sources:
        if level := ask():
            why = f"{name} says that this is runlevel {level}"
            return Heading(LEVELS.get(level, Going.STAY), why, level in "1Ss")
    return Heading(Going.STAY, "nobody says that this machine goes down")


def _ask_runlevel() -> str:
    command = next((path for path in RUNLEVEL if os.access(path, os.X_OK)), None)
    if command is None:
        return ""
    try:
        words = run([command], seconds=LISTING).output.split()
    except OSError:
        return ""
    return words[1] if len(words) == 2 and len(words[1]) == 1 else ""


def _by_systemd(root: str) -> str:
    for path, what in SYSTEMD_ASKED.items():
        if os.path.lexists(join_root(root, path)):
            return f"`systemctl reboot` has asked for {what}"
    parameter = (_read(REBOOT_PARAMETER, root) or "").strip()
    return f"`systemctl reboot` has an argument for the firmware: {parameter}" if parameter else ""


def _by_efi(root: str) -> str:
    indications = int.from_bytes(_variable("OsIndications", GLOBAL, root)[:8], "little")
    for bit, what in OS_INDICATIONS.items():
        if indications & bit:
            return f"somebody has asked the firmware for {what} (OsIndications)"
    if number := _variable("BootNext", GLOBAL, root):
        return f"somebody has asked the firmware to boot Boot{int.from_bytes(number[:2], 'little'):04X} next (BootNext)"
    if _variable("LoaderConfigTimeoutOneShot", LOADER, root):
        return "somebody has asked for systemd-boot's menu (LoaderConfigTimeoutOneShot)"
    return ""


def _variable(name: str, vendor: str, root: str) -> bytes:
    """The value of an EFI variable; empty where there is none."""
    return (_read(f"{EFIVARS}/{name}-{vendor}", root) or "").encode(errors="surrogateescape")[ATTRIBUTES:]


def _read(path: str, root: str) -> str | None:
    try:
        return read_text(path, root=root)
    except OSError:
        return None
