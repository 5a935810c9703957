# SPDX-License-Identifier: MIT
"""A Debian of its own in a directory: programs run in it, and its systemd can be PID 1 of namespaces of its own.

What a package does to a machine is seen here without a kernel of its own. Its PID 1 starts nothing by itself, sees of
the kernel what it can only read, and where it would kill, unmount and restart it writes down what it was to do.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

from tests.namespaces.little_systemd import UNSHARE, hierarchy, removed
from tests.namespaces.stage import eventually
from tests.vm.lab import image
from tests.vm.lab.recipe import Recipe

SKIPPED = ("./boot", "./usr/lib/modules", "./usr/share/locale", "./var/cache/apt", "./var/lib/apt")
CHANGING = ("dev", "proc", "run", "sys", "tmp", "var/log", "var/cache", "var/lib/dpkg", "etc/ld.so.cache")
"""What comes and goes in a machine by itself."""

PATH = "/usr/sbin:/usr/bin:/sbin:/bin"

# As PID 1, in the machine's directory: what it sees, and then systemd. Its /proc/sys, which is this machine's, stays as
# it is.
BOOT = """
set -e
mount --bind . .
cd "$PWD"
mount -t proc proc proc
mount --bind proc/sys proc/sys
mount -o remount,bind,ro proc/sys
mount -t sysfs -o ro sysfs sys
mount -t tmpfs none sys/kernel
echo "$LOADED" > sys/kernel/kexec_loaded
mount -t cgroup2 cgroup2 sys/fs/cgroup
mount -t tmpfs run run
mount -t tmpfs dev dev
for name in null zero full random urandom; do : > dev/$name; mount --bind /dev/$name dev/$name; done
ln -s /proc/self/fd dev/fd
pivot_root . mnt
cd /
umount -l mnt
exec env -i PATH=$PATH container=test /usr/lib/systemd/systemd --system --unit=test.target \\
    --log-target=null --show-status=0 > /dev/null 2>&1 < /dev/null
"""
EARLY = {
    "test.target": "[Unit]\nDefaultDependencies=no\n",
    "sysinit.target": "[Unit]\nDefaultDependencies=no\n",
    "basic.target": "[Unit]\nDefaultDependencies=no\n",
}
VERB = "/run/verb"
RECORDER = f'#!/bin/sh\necho "$1" > {VERB}.new; mv {VERB}.new {VERB}; exec sleep 1000\n'


class Machine:
    def __init__(self, root: Path) -> None:
        self.root = root

    def run(self, *words: str, input: str = "") -> str:
        """A program's output, in the machine as it lies there, with nobody as its init; it has to end well."""
        inside = ("sh", "-c", 'mount -t proc proc "$0/proc" && exec chroot "$0" "$@"', str(self.root), *words)
        return _run("unshare", "--mount", "--pid", "--fork", "--kill-child", *inside, input=input)

    def files(self) -> dict[str, str]:
        """Each file and link, without the leading slash, with what tells it from another; and directories of kexecd's.

        Not every directory: dpkg of Debian 12 takes away an empty one of systemd's, which it knows below /lib only.
        """
        found = {}
        for path in self.root.rglob("*"):
            name, info = str(path.relative_to(self.root)), path.lstat()
            if name.startswith(CHANGING) or "__pycache__" in name:
                continue
            if path.is_symlink():
                found[name] = os.readlink(path)
            elif not path.is_dir() or "kexec" in name:
                found[name] = f"{info.st_mode:o} {0 if path.is_dir() else info.st_size}"
        return found

    def write(self, name: str, text: str, mode: int = 0o644) -> None:
        path = self.root / name.lstrip("/")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.unlink(missing_ok=True)
        path.write_text(text, encoding="utf-8")
        path.chmod(mode)

    @contextlib.contextmanager
    def booted(self, *, loaded: bool = False) -> Iterator[Booted]:
        """The machine with its systemd as PID 1; `loaded`: whether it sees an image in memory."""
        for name, text in EARLY.items():
            self.write(f"etc/systemd/system/{name}", text)
        self.write("usr/lib/systemd/systemd-shutdown", RECORDER, 0o755)
        group = Path(hierarchy()) / f"kexecd-test-{os.getpid()}"
        group.mkdir()
        into_group = ("sh", "-c", 'echo 0 > "$0/cgroup.procs" && exec "$@"', str(group))
        words = (*into_group, *UNSHARE, "sh", "-c", BOOT)
        environment = {"PATH": PATH, "LOADED": f"{loaded:d}"}
        try:
            with subprocess.Popen(words, cwd=self.root, env=environment) as namespaces:
                try:
                    booted = Booted(namespaces.pid)
                    eventually(booted.is_up, 30)
                    yield booted
                finally:
                    namespaces.kill()
        finally:
            eventually(lambda: removed(group))


class Booted:
    def __init__(self, outside: int) -> None:
        self._outside = outside

    def run(self, *words: str) -> str:
        """A program's output, in the running machine; it has to end well."""
        return _run("nsenter", "--all", "--target", str(self._pid_1), *words)

    def is_up(self) -> bool:
        with contextlib.suppress(AssertionError, IndexError, OSError):
            return self.run("systemctl", "is-active", "test.target").strip() == "active"
        return False

    def comes_to(self) -> str:
        """What PID 1 does when everything is stopped: the word that it gives to systemd-shutdown(8)."""
        verb = Path(f"/proc/{self._pid_1}/root{VERB}")
        eventually(verb.exists, 30)
        return verb.read_text(encoding="utf-8").strip()

    @property
    def _pid_1(self) -> int:
        """As seen from here: the only child of unshare(1)."""
        children = Path(f"/proc/{self._outside}/task/{self._outside}/children").read_text(encoding="ascii")
        return int(children.split()[0])


def unpack(recipe: Recipe, root: Path) -> Machine:
    """The base of a guest, without its kernels."""
    root.mkdir(parents=True)
    skipped = [f"--exclude={name}" for name in SKIPPED]
    _run("tar", "-C", str(root), "--numeric-owner", *skipped, "-xpf", str(image.base(recipe)))
    (root / "etc/fstab").unlink(missing_ok=True)
    return Machine(root)


def remove(machine: Machine) -> None:
    shutil.rmtree(machine.root)


def _run(*words: str, input: str = "") -> str:
    environment = {"PATH": PATH, "DEBIAN_FRONTEND": "noninteractive", "LC_ALL": "C.UTF-8"}
    done = subprocess.run(
        words, env=environment, input=input, capture_output=True, text=True, check=False, timeout=120, cwd="/"
    )
    assert done.returncode == 0, f"{' '.join(words)}: {done.returncode}: {done.stdout}{done.stderr}"
    return done.stdout
