# SPDX-License-Identifier: MIT
"""What the checks look at: the image in question, and the machine below a root, each thing read when it is asked for.

Everything is read through `read`, `listing` and `exists`, which touch no mount of the network, none that a process
keeps, and no device: these do not always answer.
"""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property

from kexecd.errors import Refusal
from kexecd.handoff import STATE_DIR
from kexecd.kernel import block, mountinfo, proc
from kexecd.kernel.block import Storage
from kexecd.kernel.files import join_root, read_text
from kexecd.kernel.mountinfo import Kind
from kexecd.model import BootTarget, Choice, Found, ImageRecord, Mount, Process, Way
from kexecd.record import RUN_DIR

TYPE_CHECKING = False  # what the type checker takes for true; the module of that name costs as much as many of ours
if TYPE_CHECKING:
    from kexecd.config.policy import Policy
    from kexecd.config.settings import Settings
    from kexecd.kernel.cmdline import CommandLine
    from kexecd.kernel.image import KernelImage

EFI_GLOBAL = "8be4df61-93ca-11d2-aa0d-00e098032b8c"  # EFI_GLOBAL_VARIABLE in the UEFI specification, 3.3
EFI_SYSTEMD = "8cf2644b-4b0b-428f-9387-6d876050dc67"  # of variables of systemd's own

ELSEWHERE = (Kind.NETWORK, Kind.FUSE)


@dataclass(frozen=True, slots=True, kw_only=True)
class Subject:
    """What is asked about.

    target: what is to be loaded; refusal: why there is none. image: else, ours that is in memory and is to be used.
    named: somebody named what to boot. ours_loaded: what is in memory is ours, be it used or replaced.
    problems: what the sources of boot entries did not understand. firmware_wish: who wants the firmware this time, as a
    sentence. system: the root of what is to be booted, where that is another system than the one that is looked at.
    """

    way: Way = Way.ORDERLY
    target: BootTarget | None = None
    refusal: Refusal | None = None
    image: ImageRecord | None = None
    settings: Settings | None = None
    choice: Choice | None = None
    loader: Found | None = None
    problems: tuple[str, ...] = ()
    firmware_wish: str = ""
    system: str = ""
    named: bool = False
    ours_loaded: bool = False

    @property
    def version(self) -> str:
        """Of the kernel, as `uname -r` will say it; empty when not known."""
        return self.target.entry.version if self.target else self.image.version if self.image else ""

    @property
    def cmdline(self) -> str | None:
        return self.target.cmdline if self.target else self.image.cmdline if self.image else None


class Facts:
    """One look at a machine."""

    def __init__(
        self,
        root: str = "/",
        subject: Subject | None = None,
        *,
        processes: tuple[Process, ...] | None = None,
        mounts: tuple[Mount, ...] | None = None,
        state_dir: str = STATE_DIR,
        run_dir: str = RUN_DIR,
        policy: Policy | None = None,
        alive: bool | None = None,
        now: Callable[[], float] = time.time,
    ) -> None:
        """processes, mounts, policy: where they are known already. alive: what runs here is what runs below `root`; by
        itself only where that is "/"."""
        self.root, self.subject, self.state_dir, self.now = root, subject or Subject(), state_dir, now
        self.run_dir = run_dir
        self.alive = root == "/" if alive is None else alive
        self._processes, self._mounts, self._policy = processes, mounts, policy

    def read(self, path: str) -> str:
        """A small text file without blanks around it; empty where it is not there or may not be read."""
        try:
            return (read_text(path, root=self.root) or "").strip() if self.is_local(path) else ""
        except (OSError, ValueError):
            return ""

    @property
    def system(self) -> str:
        """The root of the system that is to be booted."""
        return self.subject.system or self.root

    def listing(self, directory: str) -> tuple[str, ...]:
        try:
            return tuple(sorted(os.listdir(join_root(self.root, directory)))) if self.is_local(directory) else ()
        except OSError:
            return ()

    def has_entries(self, directory: str) -> bool:
        """Whether the system that is to be booted has anything in there."""
        try:
            return bool(os.listdir(join_root(self.system, directory)))
        except OSError:
            return False

    def exists(self, path: str) -> bool:
        """Whether there is a file of this name, wherever it may lead."""
        directory, _, name = path.rpartition("/")
        return self.is_local(path) and os.path.lexists(f"{join_root(self.root, directory or '/').rstrip('/')}/{name}")

    def is_local(self, path: str) -> bool:
        """Whether what holds `path` answers by itself, so that neither a server nor a process has to."""
        if not any(f"{path}/".startswith(point) for point in self._elsewhere):
            return True
        above = [mount for mount in self.mounts if f"{path}/".startswith(f"{mount.point.rstrip('/')}/")]
        nearest = max(above, key=lambda mount: len(mount.point))  # of equal ones the first, which lies below
        return mountinfo.kind(nearest) not in ELSEWHERE

    def efi(self, name: str, vendor: str = EFI_GLOBAL) -> bytes | None:
        """An EFI variable without its attributes; None where there is none (Documentation/filesystems/efivarfs.rst)."""
        with contextlib.suppress(OSError):
            path = join_root(self.root, f"/sys/firmware/efi/efivars/{name}-{vendor}")
            with open(path, "rb") as file:
                return file.read(1 << 12)[4:]
        return None

    @cached_property
    def processes(self) -> tuple[Process, ...]:
        if self._processes is not None:
            return self._processes
        return proc.scan() if self.alive else ()

    @cached_property
    def policy(self) -> Policy:
        """Raises BadConfig."""
        from kexecd.config.policy import read_policy  # late: it is known already, but where a tree is looked at

        return read_policy(self.root) if self._policy is None else self._policy

    @cached_property
    def mounts(self) -> tuple[Mount, ...]:
        if self._mounts is not None:
            return self._mounts
        try:
            return mountinfo.parse(read_text(mountinfo.MOUNTINFO, root=self.root) or "")
        except OSError:
            return ()

    @cached_property
    def _elsewhere(self) -> tuple[str, ...]:
        """The mount points of what does not answer by itself, with a slash at the end."""
        # Without what its own programs lie on nothing runs here anyway.
        points = (mount.point for mount in self.mounts if mountinfo.kind(mount) in ELSEWHERE)
        return tuple(f"{point}/" for point in points if point not in ("/", "/usr"))

    @cached_property
    def storage(self) -> Storage:
        return block.storage(self.root)

    @cached_property
    def kernel(self) -> KernelImage | None:
        """What the headers of the kernel that is to be loaded say."""
        from kexecd.kernel.image import kernel_image  # late: what is in memory has no headers any more

        target = self.subject.target
        return kernel_image(target.kernel.fd, target.kernel.path) if target else None

    @cached_property
    def cmdline(self) -> CommandLine | None:
        """Of the kernel that is to run."""
        from kexecd.kernel.cmdline import parse  # late: nobody asks for that of an image in memory, but `check`

        line = self.subject.cmdline
        return None if line is None else parse(line)

    @cached_property
    def loaded_modules(self) -> frozenset[str]:
        """What is no part of the running kernel's own file (/proc/modules), with `_` for `-` as there."""
        return frozenset(line.partition(" ")[0] for line in self.read("/proc/modules").splitlines())
