# SPDX-License-Identifier: MIT
"""Run a test's body beside a real systemd that is PID 1 of its own namespaces, with a handful of units of ours.

It sees a control group of its own as the root of the hierarchy, the machine's files, and of the kernel only what it can
read. No unit of the machine is started: the target is ours, and so is /etc/systemd.
"""

from __future__ import annotations

import functools
import importlib
import os
import select
import subprocess
import sys
import traceback
from collections.abc import Callable, Mapping
from pathlib import Path

from kexecd.kernel import mountinfo
from tests.namespaces.stage import eventually

TOP = Path(__file__).parents[2]
SYSTEMD = "/usr/lib/systemd/systemd"
UNSHARE = ("unshare", "--mount", "--pid", "--fork", "--kill-child", "--uts", "--ipc", "--net", "--cgroup")
TARGET = "test.target"
INSIDE = "import sys; from tests.namespaces import little_systemd; little_systemd.inside(*sys.argv[1:])"
Body = Callable[[], None]

_bodies: dict[str, tuple[Body, Mapping[str, str]]] = {}


def beside_systemd(units: Mapping[str, str]) -> Callable[[Body], Body]:
    """Decorate a test: its body runs when all of `units` (name and [Service] lines) are up."""

    def decorate(body: Body) -> Body:
        _bodies[f"{body.__module__}.{body.__name__}"] = body, units

        @functools.wraps(body)
        def outside() -> None:
            group = Path(hierarchy()) / f"kexecd-test-{os.getpid()}"
            group.mkdir()
            reader, writer = os.pipe()
            into_group = ("sh", "-c", 'echo 0 > "$0/cgroup.procs" && exec "$@"', str(group))
            python = (sys.executable, "-c", INSIDE, body.__module__, body.__name__, str(writer))
            with subprocess.Popen([*into_group, *UNSHARE, *python], pass_fds=[writer], cwd=TOP) as namespaces:
                os.close(writer)
                try:
                    report = _read(reader, seconds=60.0)
                finally:
                    os.close(reader)
                    namespaces.kill()
            eventually(lambda: removed(group))
            assert report == "passed", report

        return outside

    return decorate


def inside(module: str, name: str, writer: str) -> None:
    """As PID 1: make it private, leave the body to a child, and become systemd."""
    report = int(writer)
    importlib.import_module(module)
    body, units = _bodies[f"{module}.{name}"]
    for words in (
        "-o remount,bind,ro /", "-t proc proc /proc", "--bind /proc/sys /proc/sys", "-o remount,bind,ro /proc/sys",
        "-t sysfs -o ro sysfs /sys",
        "-t cgroup2 cgroup2 /sys/fs/cgroup", "-t tmpfs run /run", "-t tmpfs etc /etc/systemd",
        "-t tmpfs none /usr/lib/systemd/system-generators",
    ):  # fmt: skip
        subprocess.run(["mount", *words.split()], check=True, timeout=10)
    Path("/run/up").mkdir()  # for units to say that they are ready
    system = Path("/etc/systemd/system")
    system.mkdir()
    for early in ("sysinit.target", "basic.target"):  # what units depend on by default, here with nothing in it
        (system / early).write_text("[Unit]\nDefaultDependencies=no\n", encoding="utf-8")
    for log in ("systemd-journald.service", "systemd-journald.socket", "systemd-journald-dev-log.socket"):
        (system / log).symlink_to("/dev/null")
    for unit, lines in units.items():
        text = lines if lines.startswith("[Unit]") else f"[Service]\n{lines}"
        (system / unit).write_text(f"{text}\n", encoding="utf-8")
    all_of_them = " ".join(units)
    target = f"[Unit]\nDefaultDependencies=no\nWants={all_of_them}\nAfter={all_of_them}\n"
    (system / TARGET).write_text(target, encoding="utf-8")
    if os.fork() == 0:
        try:
            os.setsid()
            eventually(_is_up, 30)
            body()
            told = "passed"
        except BaseException:
            told = traceback.format_exc()
        os.write(report, told.encode()[:4096])
        os._exit(0)
    null = os.open(os.devnull, os.O_RDWR)
    for fd in (0, 1, 2):
        os.dup2(null, fd)
    os.close(report)
    arguments = (SYSTEMD, "--system", f"--unit={TARGET}", "--log-target=null", "--show-status=0")
    os.execve(SYSTEMD, arguments, {"PATH": os.environ["PATH"], "container": "test"})


def _is_up() -> bool:
    return subprocess.run(["systemctl", "-q", "is-active", TARGET], check=False, capture_output=True).returncode == 0


def hierarchy() -> str:
    """Where the unified hierarchy is mounted, on hybrid machines too."""
    return next(mount.point for mount in mountinfo.read() if mount.fstype == "cgroup2")


def removed(group: Path) -> bool:
    try:
        for directory, _, _ in os.walk(group, topdown=False):
            os.rmdir(directory)
    except OSError:  # the last of them is still ending
        return False
    return not group.exists()


def _read(reader: int, *, seconds: float) -> str:
    """What the body says at its end, at once; the pipe itself stays open as long as the namespaces."""
    if select.select([reader], [], [], seconds)[0]:
        return os.read(reader, 4096).decode() or "systemd has ended"
    return f"the test did not end within {seconds:g} s"
