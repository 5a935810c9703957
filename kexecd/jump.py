# SPDX-License-Identifier: MIT
"""The last act: `python3 -I -S jump.py --jump` restarts into the image that is in memory, or says why not and returns.

Late code. It runs when nearly everything is gone, and stands alone: os, sys, errno, ctypes and struct are all that it
may import (tests/unit/test_jump.py), within 15 ms of CPU (tests/perf). Whoever calls it goes on with an ordinary reboot
when it returns, so it never waits for long and never ends in a traceback.

    --jump      do it; without this it only says what it would do
    --check     with or without --jump: everything but the call
    --firmware  restart through the firmware instead
    --force     even if a disk filesystem can still be written
    --guard     no jump: where one would be refused, or with --firmware, take the image out of memory, and PID 1's own
                jump fails
"""

import ctypes
import errno
import os
import struct
import sys

TYPE_CHECKING = False  # what the type checker takes for true; the module of that name is outside the budget
if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

# kexecd.errors.ExitCode; a test holds them equal.
OK, FAILURE, USAGE, NOT_PERMITTED, BUSY, NOT_LOADED, DIRTY, NOT_RESTARTED = 0, 1, 2, 6, 10, 12, 13, 14

# kexec_load and kexec_file_load, as in kexecd.kernel.syscalls.NUMBERS; a test holds them equal too.
NUMBERS = {
    "x86_64": (246, 320),
    "aarch64": (104, 294),
    "riscv64": (104, 294),
    "ppc64": (268, 382),
    "ppc64le": (268, 382),
    "s390x": (277, 381),
}
KEXEC_FILE_UNLOAD = 0x1  # include/uapi/linux/kexec.h

LINUX_REBOOT_CMD_RESTART = 0x01234567  # include/uapi/linux/reboot.h
LINUX_REBOOT_CMD_KEXEC = 0x45584543
PROC_PID_INIT_INO = 0xEFFFFFFC  # include/linux/proc_ns.h
POLLIN = 0x1  # include/uapi/asm-generic/poll.h
SIGKILL = 9  # include/uapi/asm-generic/signal.h

DRIVER_PATIENCE = 3000  # milliseconds for a watchdog to be opened and set; an IPMI controller's asks somebody else
SYNC_PATIENCE = 5000  # milliseconds: with everything read-only there is nothing to write, and a dead disk never answers
LOADED = ("/sys/kernel/kexec/loaded", "/sys/kernel/kexec_loaded")  # Linux 7.0 and on; until 2028
MOUNTINFO = "/proc/self/mountinfo"
KMSG = "/dev/kmsg"
POOLED = ("bcachefs", "btrfs", "ubifs", "zfs")  # on several devices, so their device number is anonymous
STATE = "/run/kexecd/state.json"  # kexecd.state; what is looked for is written so by kexecd.kernel.files.write_json
FIRMWARE = '"act": "firmware"'
WATCHDOG = "/run/kexecd/watchdog"  # kexecd.wayback.watchdog: which one is left running over the jump, and for how long
IMAGE = "image.json"  # kexecd.record, beside it

# include/uapi/linux/watchdog.h; powerpc has other numbers for the directions.
PPC = os.uname().machine.startswith("ppc")
WDIOC_KEEPALIVE = 0x40045705 if PPC else 0x80045705
WDIOC_SETTIMEOUT = 0xC0045706
OPTIONS = ("--jump", "--check", "--firmware", "--force", "--guard")


class Refused(Exception):
    """Nothing was done: the exit code, and why."""

    def __init__(self, code: int, why: str) -> None:
        super().__init__(why)
        self.code = code


def read(path: str) -> str:
    # A name may hold a carriage return, which the kernel does not escape.
    with open(path, encoding="utf-8", errors="surrogateescape", newline="\n") as file:
        return file.read()


def image_is_missing(paths: tuple[str, ...] = LOADED) -> bool:
    """Whether the kernel says that it has no image. Where /sys is gone it says nothing, and reboot(2) will know."""
    for path in paths:
        try:
            return read(path).strip() == "0"
        except OSError:
            continue
    return False


def writable_disks(mountinfo: str) -> list[tuple[str, str, str]]:
    """(mount point, source, type) of each filesystem with a disk below it that can still change; proc(5)."""
    found = {}
    for line in mountinfo.rstrip("\n").split("\n") if mountinfo else ():
        head, separator, tail = line.partition(" - ")
        left, right = head.split(" "), tail.split(" ")
        if not separator or len(left) < 6 or len(right) < 3:
            found[line] = (line, "a line that makes no sense", "?")
            continue
        device, point, fstype, source, options = left[2], left[4], right[0], right[1], right[2].split(",")
        if "rw" in options and (fstype in POOLED or not device.startswith("0:")):
            found.setdefault(device, (point, source, fstype))
    return list(found.values())


def refuse_if_dirty(path: str = MOUNTINFO) -> None:
    try:
        disks = writable_disks(read(path))
    except OSError as error:
        raise Refused(DIRTY, f"what is mounted cannot be seen ({name(error.errno)})") from error
    if disks:
        raise Refused(DIRTY, "still writable: " + "; ".join(f"{where} ({what}, {kind})" for where, what, kind in disks))


def state(path: str) -> str:
    """How far a restart of ours has come, as text; empty where there is none."""
    try:
        return read(path)
    except OSError:
        return ""


def refuse_if_unwanted(restart: str) -> None:
    """Also where an image is in memory, because it could not be taken out."""
    if FIRMWARE in restart:
        raise Refused(NOT_RESTARTED, "this restart is to go through the firmware")


def refuse_in_tests(environ: "Mapping[str, str]", namespace: str = "/proc/self/ns/pid") -> None:
    """The rule of kexecd/kernel/guard.py: a test does not restart the machine that it runs on."""
    initial = not os.path.exists(namespace) or os.stat(namespace).st_ino == PROC_PID_INIT_INO
    if initial and ("PYTEST_CURRENT_TEST" in environ or "KEXECD_UNDER_TEST" in environ):
        raise Refused(NOT_PERMITTED, "this is a test, and it runs in the machine's own pid namespace")


def sync(work: "Callable[[], None]" = os.sync, patience: int = SYNC_PATIENCE) -> bool:
    """sync(2) in a child, as it may never return; whether it did within `patience` milliseconds."""
    reader, writer = os.pipe()
    try:
        child = os.fork()
        if child == 0:
            try:
                work()
            finally:
                os._exit(0)
        os.close(writer)  # the child has the other one, and its end hangs up the pipe
        done = answered(reader, patience)
        if done:
            os.waitpid(child, 0)
        return done
    except OSError:
        return False  # no process to be had: the filesystems are read-only all the same
    finally:
        os.close(reader)


def answered(reader: int, patience: int) -> bool:
    """Whether there is something to read, or has been hung up, within `patience` milliseconds."""
    # struct pollfd: int fd, short events, short revents. By hand, since the select module is a file of its own.
    pollfd = ctypes.create_string_buffer(struct.pack("ihh", reader, POLLIN, 0))
    return bool(ctypes.CDLL(None).poll(pollfd, ctypes.c_ulong(1), patience) == 1)


def reboot(command: int) -> int:
    """reboot(2), by the C library, which knows number and magic for each architecture. The errno, if it returns."""
    refuse_in_tests(os.environ)
    libc = ctypes.CDLL(None, use_errno=True)
    libc.reboot(ctypes.c_int(command))
    return ctypes.get_errno()


def leave_watchdog(path: str, kmsg: str) -> None:
    """Have the hardware's watchdog reset a new kernel that hangs, if that was wanted."""
    try:
        device, text = read(path).split()
        seconds = int(text)
        os.stat(os.path.join(os.path.dirname(path), IMAGE))  # gone: the image in memory is another's
    except (OSError, ValueError):
        return
    refuse_in_tests(os.environ)
    try:
        said = kept_open(device, seconds)
    except OSError as error:  # no process to be had
        said = f"{device} is not set to watch over the new kernel ({name(error.errno)})"
    for line in said.splitlines():
        say(line, kmsg)


def kept_open(device: str, seconds: int) -> str:
    """Set it in a child, as a driver may hang; what came of it, a sentence a line. Raises OSError.

    The child has it open to the jump, or to the end of this program: some stop when they are closed.
    """
    reader, writer = os.pipe()
    until, life = os.pipe()  # our own end of it is closed when we end
    try:
        child = os.fork()
        if child == 0:
            try:
                os.close(life)
                for fd in {0, 1, 2} - {writer, until}:  # whoever reads what we say waits for no end of a child
                    os.dup2(until, fd)
                said = set_watchdog(device, seconds)
                os.write(writer, said.encode(errors="surrogateescape"))
                os.read(until, 1)
            finally:
                os._exit(0)
        os.close(until)
        os.close(writer)
        if answered(reader, DRIVER_PATIENCE):
            said = os.read(reader, 4096).decode(errors="surrogateescape")
            return said or f"{device} is not set to watch over the new kernel (whoever was to set it has died)"
        os.kill(child, SIGKILL)
        return f"{device} does not answer within {DRIVER_PATIENCE / 1000:g} s, going on without"
    finally:
        os.close(reader)


def set_watchdog(device: str, seconds: int) -> str:
    """May never return. It is started by being opened, and stays open."""
    try:
        fd = os.open(device, os.O_WRONLY | os.O_NOFOLLOW)
    except OSError as error:
        return f"{device} is not set to watch over the new kernel ({name(error.errno)})"
    libc = ctypes.CDLL(None, use_errno=True)
    said = f"{device} watches over the new kernel"
    if libc.ioctl(ctypes.c_int(fd), ctypes.c_ulong(WDIOC_SETTIMEOUT), ctypes.byref(ctypes.c_int(seconds))):
        why = name(ctypes.get_errno())
        said = f"{device} cannot be set to {seconds} s ({why}), and keeps the time that it had\n{said}"
    libc.ioctl(ctypes.c_int(fd), ctypes.c_ulong(WDIOC_KEEPALIVE), ctypes.byref(ctypes.c_int(0)))
    return said


def unload() -> int:
    """Free the image, whichever of the two calls has loaded it. The errno, 0 where that went well."""
    refuse_in_tests(os.environ)
    numbers = NUMBERS.get(os.uname().machine)
    if numbers is None or sys.maxsize <= 1 << 32:  # a 32-bit program calls by another table
        return errno.ENOSYS
    zero, one = ctypes.c_long(0), ctypes.c_long(-1)
    for call in (
        (numbers[1], one, one, zero, zero, ctypes.c_long(KEXEC_FILE_UNLOAD)),
        (numbers[0], zero, zero, zero, zero),  # CONFIG_KEXEC without CONFIG_KEXEC_FILE
    ):
        libc = ctypes.CDLL(None, use_errno=True)
        libc.syscall.restype = ctypes.c_long
        if libc.syscall(ctypes.c_long(call[0]), *call[1:]) == 0:
            return 0
        if ctypes.get_errno() != errno.ENOSYS:
            break
    return ctypes.get_errno()


def guard(
    mountinfo: str, restart: str, kmsg: str, unload: "Callable[[], int]", watchdog: str, *, firmware: bool
) -> int:
    """Let PID 1 jump only if we would. firmware: somebody wants that instead."""
    if '"state": "frozen"' in restart and '"way": "orderly"' not in restart:
        leave_watchdog(watchdog, kmsg)
        return OK  # kexecd has walked its own way down, and judged at the end of it
    try:
        refuse_if_unwanted(FIRMWARE if firmware else restart)
        refuse_if_dirty(mountinfo)
    except Refused as refused:
        number = unload()
        if number:
            say(f"could not take the image out of memory ({name(number)}), although {refused}", kmsg)
            return FAILURE
        say(f"took the image out of memory: {refused}; this machine restarts through the firmware", kmsg)
        return OK
    leave_watchdog(watchdog, kmsg)
    return OK


def say(text: str, kmsg: str = "") -> None:
    """One line to stderr, and to the kernel's log too where `kmsg` is its path: that is what reaches the console."""
    line = f"kexecd: {text}\n".encode(errors="surrogateescape")
    write(2, line)
    if kmsg:
        try:
            fd = os.open(kmsg, os.O_WRONLY | os.O_NOCTTY | os.O_CLOEXEC)
        except OSError:
            return
        write(fd, b"<4>" + line)  # KERN_WARNING, include/linux/kern_levels.h
        os.close(fd)


def write(fd: int, line: bytes) -> None:
    try:  # noqa: SIM105 (contextlib is outside the budget)
        os.write(fd, line)
    except OSError:
        pass  # nobody listens any more, which is no reason to stay


def name(number: int | None) -> str:
    return errno.errorcode.get(number or 0, str(number))


def main(
    arguments: list[str],
    *,
    reboot: "Callable[[int], int]" = reboot,
    unload: "Callable[[], int]" = unload,
    mountinfo: str = MOUNTINFO,
    restart: str = STATE,
    loaded: tuple[str, ...] = LOADED,
    kmsg: str = KMSG,
    watchdog: str = WATCHDOG,
) -> int:
    unknown = [argument for argument in arguments if argument not in OPTIONS]
    if unknown:
        say(f"jump.py does not know {unknown[0]}; it takes {', '.join(OPTIONS)}")
        return USAGE
    firmware, check = "--firmware" in arguments, "--check" in arguments
    jump = "--jump" in arguments and not check
    log = kmsg if jump else ""
    deed = "restart through the firmware" if firmware else "restart into the loaded kernel"
    try:
        if "--guard" in arguments:
            return guard(mountinfo, state(restart), kmsg, unload, watchdog, firmware=firmware)
        if not firmware and image_is_missing(loaded):
            raise Refused(NOT_LOADED, "no image is loaded")
        if not firmware:
            refuse_if_unwanted(state(restart))
        if "--force" not in arguments:
            refuse_if_dirty(mountinfo)
        if (jump or check) and not sync():
            say(f"sync did not end within {SYNC_PATIENCE // 1000} s, going on without", log)
        if not jump:
            say(f"--jump would {deed}")
            return OK
        if not firmware:
            leave_watchdog(watchdog, log)
        say(f"about to {deed}", log)
        code = reboot(LINUX_REBOOT_CMD_RESTART if firmware else LINUX_REBOOT_CMD_KEXEC)
        exit_code = {errno.EPERM: NOT_PERMITTED, errno.EBUSY: BUSY}.get(code, NOT_RESTARTED)
        raise Refused(exit_code, f"reboot(2) returned, {os.strerror(code).lower()} ({name(code)})")
    except Refused as refused:
        say(f"{'did not' if jump else '--jump would not'} {deed}: {refused}", log)
        return refused.code if jump or check else OK
    except Exception as error:
        say(f"did not {deed}: {error!r}", log)
        return FAILURE


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
