# SPDX-License-Identifier: MIT
"""Every check, in the order in which they are made: what can be known of the machine first, what takes longest last.

docs/checks.md is printed from this table. What is marked RESTART is made before each restart, also of a machine that
shall go down at once: it reads a few small files, and imports next to nothing.
"""

from __future__ import annotations

from kexecd.config.checks import CheckId
from kexecd.errors import ExitCode
from kexecd.preflight import devices, handover, image, people, permission, recovery, root, scripts, storage, turn
from kexecd.preflight.finding import Check, Scope, Severity

REFUSE, WARN, NOTE = Severity.REFUSE, Severity.WARN, Severity.NOTE
LOAD, RESTART, BOTH = Scope.LOAD, Scope.RESTART, Scope.BOTH
Id, Exit = CheckId, ExitCode

# A check without an exit code of its own refuses only where the administrator makes it (Check.code).

CHECKS = (
    # May anything be loaded?
    Check(Id.CAPABILITY, REFUSE, LOAD, "root with CAP_SYS_BOOT", permission.capability, Exit.NOT_PERMITTED),
    Check(Id.KEXEC_SUPPORT, REFUSE, LOAD, "a kernel that knows kexec", permission.kexec_support, Exit.UNSUPPORTED),
    Check(Id.LOAD_DISABLED, REFUSE, LOAD, "kernel.kexec_load_disabled", permission.load_disabled, Exit.FORBIDDEN),
    Check(Id.LOAD_LIMIT, REFUSE, LOAD, "kernel.kexec_load_limit_reboot", permission.load_limit, Exit.FORBIDDEN),
    Check(Id.LOCKDOWN, REFUSE, LOAD, "lockdown without a signature", permission.lockdown, Exit.BAD_SIGNATURE),
    Check(Id.SECURE_BOOT, WARN, LOAD, "Secure Boot without a signature", permission.secure_boot),
    Check(Id.KEXEC_TOOLS, REFUSE, LOAD, "kexec-tools, where they are insisted on", permission.tools, Exit.UNSUPPORTED),
    Check(Id.LIVE_UPDATE, REFUSE, RESTART, "others' live update sessions", permission.live_update, Exit.BUSY),
    # Is it the right thing, whole, and will it find its root?
    Check(Id.BOOT_ENTRY, REFUSE, LOAD, "something to boot, and the choice of it", image.boot_entry, Exit.NO_ENTRY),
    Check(Id.IMAGE_FILES, REFUSE, LOAD, "kernel and initrd: whole, and matched", image.image_files, Exit.BAD_IMAGE),
    Check(
        Id.COMMAND_LINE, REFUSE, LOAD, "the kernel command line, and its length", image.command_line, Exit.BAD_CONFIG
    ),
    Check(Id.MEMORY, REFUSE, LOAD, "memory to load the image", image.memory, Exit.NO_MEMORY),
    Check(Id.HANDOVER_SPACE, REFUSE, LOAD, "the scratch areas of kho=on", handover.space, Exit.NO_MEMORY),
    Check(
        Id.LIVE_UPDATE_FORMAT,
        REFUSE,
        LOAD,
        "a live update that the new kernel would panic of",
        handover.versions,
        Exit.UNSUPPORTED,
    ),
    Check(Id.MODULES, WARN, LOAD, "the modules of the new kernel", image.modules),
    Check(Id.ROOT_DEVICE, REFUSE, LOAD, "the device that root= means", root.root_device, Exit.BAD_CONFIG),
    Check(Id.ROOT_DRIVER, REFUSE, LOAD, "the root's drivers, in initrd or kernel", root.root_driver, Exit.BAD_IMAGE),
    Check(Id.STALE_IMAGE, WARN, RESTART, "files of the image in memory that have changed", image.stale_image),
    Check(Id.FOREIGN_IMAGE, WARN, LOAD, "an image in memory that others have loaded", image.foreign_image),
    Check(Id.BOOT_LOADER, NOTE, LOAD, "a boot loader that would boot something else", image.boot_loader),
    Check(Id.BOOT_COUNTING, NOTE, LOAD, "a boot entry whose boots are counted", image.boot_counting),
    Check(Id.REMARKS, NOTE, LOAD, "what else opening the files has brought to light", image.remarks),
    Check(Id.SETTINGS, WARN, LOAD, "settings that mean something else than they seem to", image.settings),
    Check(Id.BOOT_SOURCES, NOTE, LOAD, "what was not understood of boot loaders' files", image.boot_sources),
    # Will this machine survive it?
    Check(Id.HYPERVISOR, WARN, LOAD, "hypervisors known to mishandle a kexec", devices.hypervisor, Exit.UNSUPPORTED),
    Check(Id.MACHINE, WARN, LOAD, "machines known not to come back", devices.machine, Exit.UNSUPPORTED),
    Check(Id.DRIVERS, WARN, LOAD, "drivers known not to survive it", devices.drivers, Exit.UNSUPPORTED),
    # Is anything at work on the disks?
    Check(Id.HIBERNATION, REFUSE, LOAD, "a hibernated system that waits", storage.hibernation, Exit.DIRTY),
    Check(Id.RAID, WARN, RESTART, "md arrays that are rebuilt, or lack a disk", storage.raid),
    Check(Id.ZFS, WARN, RESTART, "ZFS pools that nobody would export", storage.zfs),
    Check(Id.NETWORK_MOUNTS, WARN, RESTART, "network mounts whose server does not answer", storage.network_mounts),
    Check(Id.PACKAGE_MANAGER, REFUSE, RESTART, "a package manager at work", storage.package_manager, Exit.BUSY),
    Check(Id.INTERRUPTED_UPGRADE, WARN, RESTART, "an upgrade that was cut short", storage.interrupted_upgrade),
    Check(Id.RECORD_SPACE, REFUSE, RESTART, "room for the new boot's record", storage.record_space, Exit.FAILURE),
    Check(Id.UNWRITTEN_DATA, NOTE, RESTART, "how much is still to be written to the disks", storage.unwritten_data),
    Check(Id.HANDED_OVER, REFUSE, RESTART, "memory that applications have handed over", handover.state, Exit.DIRTY),
    # Would anybody mind?
    Check(Id.INHIBITORS, REFUSE, RESTART, "inhibitors that block a shutdown", people.inhibitors, Exit.BUSY),
    Check(Id.GUESTS, WARN, RESTART, "virtual machines and containers that run", people.guests),
    Check(Id.SESSIONS, NOTE, RESTART, "who else is logged in", people.sessions),
    # What comes after, and what would rather have the firmware?
    Check(Id.CRASH_KERNEL, WARN, LOAD, "room for a crash kernel, where one is loaded now", recovery.crash_kernel),
    Check(Id.FIRMWARE_WISH, WARN, RESTART, "somebody's wish for the firmware", recovery.firmware_wish),
    Check(Id.FIRMWARE_UPDATE, WARN, BOTH, "an update of firmware or microcode that waits", turn.firmware_update),
    Check(Id.FIRMWARE_DEBT, REFUSE, BOTH, "kexecs in a row, where the policy limits them", turn.firmware_debt),
    Check(Id.DENIED, REFUSE, BOTH, "kernels that have failed on this machine", turn.denied),
    Check(Id.LAST_KEXEC, WARN, RESTART, "whether the last kexec arrived", recovery.last_kexec),
    Check(Id.CLOCK, WARN, RESTART, "the hardware's clock beside the system's", recovery.clock),
    Check(Id.WATCHDOG, WARN, RESTART, "watchdogs that would fire during the new start", recovery.watchdog),
    Check(Id.FOREIGN_SCRIPTS, WARN, RESTART, "others' scripts that load or jump", scripts.foreign_scripts, Exit.DIRTY),
    Check(Id.OWN_HOOKS, WARN, RESTART, "our own hooks in this machine's init", scripts.own_hooks),
)
