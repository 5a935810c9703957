# SPDX-License-Identifier: MIT
"""A boot target goes into kernel memory, or a Refusal says why it does not.

The kernel replaces one image by the next in a single step, and a load that fails leaves the earlier one where it is; so
a refusal can always say what is loaded now.
"""

from __future__ import annotations

import errno
import os
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from typing import NoReturn, Protocol

from kexecd import record
from kexecd.config.kexec_options import Method
from kexecd.errors import BadConfig, BadImage, NotLoaded, Refusal, Unsupported
from kexecd.kernel import files, initrd, kexec_errors, kexec_tools, syscalls, sysfs
from kexecd.kernel.guard import forbid_in_tests
from kexecd.kernel.kexec_errors import Cause
from kexecd.model import BootTarget, ImageRecord, LoadMethod
from kexecd.record import RUN_DIR

BUSY_PATIENCE = 10.0  # seconds; another load takes about one, the update of a crash kernel less
BUSY_PAUSE = 0.2  # seconds; the kernel offers nothing to wait on
BUSY_CALLS = 50

TOOLS_MAY_HELP = frozenset((errno.ENOSYS, errno.ENOEXEC, errno.EINVAL))
"""kexec-tools knows more formats than the kernel. It is not asked where a right or a signature was missing."""


class Kexec(Protocol):
    """The kernel's side of it, as an object: in a test, something else is the kernel."""

    def file_load(self, kernel_fd: int, initrd_fd: int, cmdline: bytes, flags: int) -> None:
        """Raises OSError."""

    def unload(self) -> None:
        """Raises OSError."""

    def tools(self) -> tuple[str, ...]:
        """Where a kexec(8) may be."""


class RealKexec:
    def file_load(self, kernel_fd: int, initrd_fd: int, cmdline: bytes, flags: int) -> None:
        syscalls.kexec_file_load(kernel_fd, initrd_fd, cmdline, flags)

    def unload(self) -> None:
        syscalls.kexec_unload()

    def tools(self) -> tuple[str, ...]:
        forbid_in_tests("load a kernel with kexec-tools")
        return kexec_tools.CANDIDATES


KERNEL = RealKexec()

loaded_record = record.loaded_record


def load(
    target: BootTarget,
    *,
    method: Method = Method.AUTO,
    passed: tuple[str, ...] = (),
    named: bool = True,
    foreign: bool = False,
    kernel: Kexec = KERNEL,
    run_dir: str = RUN_DIR,
    root: str = "/",
    now: Callable[[], float] = time.time,
    clock: Callable[[], float] = time.monotonic,
    sleep: Callable[[float], None] = time.sleep,
) -> ImageRecord:
    """Load `target` and write down that it was. The descriptors stay open, and the caller's.

    method, passed: by which call, and further options for kexec-tools (kexecd.config.kexec_options).
    named: whether somebody named it, so that it is never replaced by another choice. foreign: whether it is another
    installed system's.
    root: where /proc and /sys are, in which the kernel tells about itself.
    now, clock: seconds since the epoch, and seconds that only ever go on.
    """
    attempt = _Attempt(f"cannot load {target.kernel.path}", kernel, run_dir, root, clock, sleep)
    attempt.refuse_beforehand()
    if "\0" in target.cmdline:
        attempt.refuse(Cause(BadConfig, "its command line contains a NUL"))
    try:
        # Before the call: a disk that cannot be read then costs no call, and nothing has to be taken back.
        kernel_record = record.of_file(target.kernel)
        initrd_records = tuple(record.of_file(file) for file in target.initrds)
        with initrd.joined(target.initrds) as initrd_fd, record.set_aside(run_dir, root):
            line = target.cmdline.encode(errors="surrogateescape")
            taken = attempt.put(target.kernel.fd, initrd_fd, line, method, passed)
    except OSError as error:
        attempt.refuse(attempt.cause(error), error)
    try:
        flaw = _flaw(target, root)
        if flaw is not None:
            attempt.refuse(flaw, instead=attempt.take_back())
        image = ImageRecord(
            entry_id=target.entry.id,
            version=target.entry.version,
            kernel=kernel_record,
            initrds=initrd_records,
            cmdline=target.cmdline,
            nonce=target.nonce,
            method=taken,
            loaded_at=now(),
            named=named,
            foreign=foreign,
        )
        record.write(image, run_dir, root)
    except OSError as error:
        attempt.refuse(attempt.not_recorded(), error, instead=attempt.take_back())
    except Refusal:
        raise
    except BaseException:
        attempt.take_back()
        raise
    return image


def unload(
    *,
    kernel: Kexec = KERNEL,
    run_dir: str = RUN_DIR,
    root: str = "/",
    clock: Callable[[], float] = time.monotonic,
    sleep: Callable[[float], None] = time.sleep,
) -> bool:
    """Free whatever image is loaded, and forget what was written about it. Returns whether there was one."""
    attempt = _Attempt("cannot unload the image", kernel, run_dir, root, clock, sleep)
    loaded = sysfs.kexec_loaded(root)
    try:
        if loaded:
            attempt.refuse_beforehand()
            attempt.insist(kernel.unload)
        record.remove(run_dir)
    except OSError as error:
        attempt.refuse(attempt.cause(error), error)
    return loaded


def _flaw(target: BootTarget, root: str) -> Cause | None:
    """What is wrong although the kernel took the image."""
    if not sysfs.kexec_loaded(root):
        return Cause(NotLoaded, "the kernel took it and has no image now", "look for another program that unloads")
    for file in (target.kernel, *target.initrds):
        if files.stamp(os.fstat(file.fd)) != file.stamp:
            hint = "wait for the installation that writes it, and try again"
            return Cause(BadImage, f"{file.path} changed while it was read", hint)
    return None


@dataclass(frozen=True, slots=True)
class _Attempt:
    """One load or unload: what it is called in a refusal, whom it is asked of, how time passes."""

    what: str
    kernel: Kexec
    run_dir: str
    root: str
    clock: Callable[[], float]
    sleep: Callable[[float], None]

    def refuse_beforehand(self) -> None:
        """Everything that can be known without a call, because each call counts (kernel.kexec_load_limit_reboot)."""
        cause = kexec_errors.forbidden_beforehand(self.root)
        if cause is not None:
            self.refuse(cause)
        if not sysfs.kexec_supported(self.root):
            hint = "look whether /sys is mounted, and for CONFIG_KEXEC_FILE=y in the running kernel's configuration"
            self.refuse(Cause(Unsupported, "the running kernel says nothing about kexec in /sys/kernel", hint))

    def refuse(self, cause: Cause, error: OSError | None = None, *, instead: str = "") -> NoReturn:
        number = (error.errno or 0) if error else 0
        raise cause.refusal(
            self.what, cause.why, instead=instead or self.loaded_now(), hint=cause.hint, errno=number
        ) from error

    def cause(self, error: OSError) -> Cause:
        if str(error.filename or "").startswith(self.run_dir):
            return self.not_recorded()
        return kexec_errors.diagnose(error.errno or 0, root=self.root)

    def not_recorded(self) -> Cause:
        hint = f"look whether {self.run_dir} can be written: without a record nobody knows which image is loaded"
        return Cause(Refusal, f"its record in {self.run_dir} cannot be written", hint)

    def loaded_now(self) -> str:
        return "the image loaded before stays" if sysfs.kexec_loaded(self.root) else "no image is loaded"

    def put(
        self, kernel_fd: int, initrd_fd: int | None, cmdline: bytes, method: Method, passed: tuple[str, ...]
    ) -> LoadMethod:
        if method is Method.TOOLS:
            return self.put_by_tools(kernel_fd, initrd_fd, cmdline, passed)
        flags = syscalls.KEXEC_FILE_NO_INITRAMFS if initrd_fd is None else 0
        second = -1 if initrd_fd is None else initrd_fd
        try:
            self.insist(lambda: self.kernel.file_load(kernel_fd, second, cmdline, flags))
            return LoadMethod.KEXEC_FILE_LOAD
        except OSError as error:
            refused, cause = error, kexec_errors.diagnose(error.errno or 0, cmdline, self.root)
        if refused.errno not in TOOLS_MAY_HELP or method is Method.FILE:
            self.refuse(cause, refused)
        return self.put_by_tools(kernel_fd, initrd_fd, cmdline, passed, cause, refused)

    def put_by_tools(
        self,
        kernel_fd: int,
        initrd_fd: int | None,
        cmdline: bytes,
        passed: tuple[str, ...],
        cause: Cause | None = None,
        refused: OSError | None = None,
    ) -> LoadMethod:
        """By kexec-tools: after the kernel's refusal for `cause`, or because nothing else is asked for."""
        earlier = f"{cause.why}, and " if cause else ""
        cause = cause or Cause(Unsupported, "", "KEXEC_OPT_ARGS asks for kexec-tools and for nothing else")
        if kexec_errors.locked_down(self.root):
            why = f"{earlier}kexec-tools cannot help while the kernel is locked down"
            self.refuse(cause._replace(why=why), refused)
        try:
            tool = kexec_tools.find(self.kernel.tools())
            kexec_tools.load(tool, kernel_fd, initrd_fd, cmdline, passed)
            return LoadMethod.KEXEC_TOOLS
        except kexec_tools.ToolFailed as failure:
            cause = cause._replace(why=f"{earlier}kexec-tools did not help: {failure}")
            # Killed at work, it may have loaded and may not have: then none is better than one that nobody knows.
            self.refuse(cause, refused, instead=self.take_back() if failure.killed else "")

    def insist(self, call: Callable[[], None]) -> None:
        """Make the call; make it again while another one keeps the kernel busy and one more is permitted."""
        until = self.clock() + BUSY_PATIENCE
        for left in reversed(range(BUSY_CALLS)):
            try:
                call()
                return
            except OSError as error:
                if error.errno != errno.EBUSY or left == 0 or self.clock() >= until:
                    raise
                if sysfs.kexec_load_limit_reboot(self.root) == 0:
                    raise
            self.sleep(BUSY_PAUSE)

    def take_back(self) -> str:
        """Unload after all; returns what is loaded now."""
        with suppress(OSError):
            record.remove(self.run_dir)
        try:
            self.insist(self.kernel.unload)
        except OSError as error:
            if sysfs.kexec_loaded(self.root):
                name = errno.errorcode.get(error.errno or 0, str(error.errno))
                return f"an image is loaded that should not be, because unloading it failed too ({name})"
        return "no image is loaded"
