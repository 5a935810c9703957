# SPDX-License-Identifier: MIT
"""Builds the lab's kernel, `<repo>/.cache/vm/kernel-<key>/bzImage`: about ten minutes of one processor, once.

With it comes its evil twin: the same kernel with another version of live update's own format, which panics when it is
handed something by the first. Needs gcc, make, flex, bison, bc, libelf-dev.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import subprocess
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

from tests.vm.lab import cache
from tests.vm.lab.errors import BuildError
from tests.vm.lab.kernel import options
from tests.vm.lab.kernel.source import SUITE, unpacked
from tests.vm.lab.progress import say, step
from tests.vm.lab.tools import run_tool

PACKAGES = ("gcc", "make", "flex", "bison", "bc", "libelf-dev", "xz-utils", "zstd")

VERSION = 1  # raise it when something here changes what comes out
KEPT = 3
CONFIGURE_TIMEOUT = 300.0
COMPILE_TIMEOUT = 7200.0
BEAT = 15.0  # seconds between two progress lines

ABI = Path("include/linux/kho/abi/luo.h")
FORMAT = re.compile(r'"luo-v(\d+)"')


@dataclass(frozen=True, slots=True)
class Kernel:
    """A kernel in the cache. release: as `uname -r` says it; luo: the version of its live update's format."""

    directory: Path
    release: str
    luo: int

    @property
    def image(self) -> Path:
        return self.directory / "bzImage"


def key(*, twin: bool = False) -> str:
    """Twelve hex digits over whatever makes another kernel; not the mirror's state: see tests.vm.lab.recipe."""
    lines = sorted(line for line in options.fragment().splitlines() if line.startswith("CONFIG_"))
    made = "\0".join([str(VERSION), SUITE, *lines, "twin" if twin else ""])
    return hashlib.sha256(made.encode()).hexdigest()[:12]


def cached(*, twin: bool = False) -> Kernel | None:
    """The kernel, if it has been built already."""
    directory = cache.cache_dir() / f"kernel-{key(twin=twin)}"
    try:
        told = json.loads((directory / "kernel.json").read_text(encoding="utf-8"))
    except FileNotFoundError:
        return None
    cache.use(directory)
    return Kernel(directory, told["release"], told["luo"])


def build(*, twin: bool = False, jobs: int = 0) -> Kernel:
    """The kernel, from the cache or newly built with its twin; jobs: compilers at a time, if not one a processor.

    twin: the one with the next version of live update's format, to be refused. Raises BuildError.
    """
    if found := cached(twin=twin):
        return found
    # Not under the lock of the guests' images: this takes long, and most tests have no use for it.
    with cache.build_lock("kernel"):
        if not cached(twin=twin):
            _build_both(jobs or len(os.sched_getaffinity(0)))
    found = cached(twin=twin)
    assert found
    return found


def _build_both(jobs: int) -> None:
    with tempfile.TemporaryDirectory(prefix="tmp-kernel-source-", dir=cache.cache_dir()) as name:
        tree = unpacked(Path(name))
        luo = _version(tree)
        with step("configuring it"):
            _configure(tree)
        _keep(tree, luo, jobs, twin=False)
        _make_twin(tree, luo + 1)  # in the same tree, in which only what knows the format is made again
        _keep(tree, luo + 1, jobs, twin=True)


def _keep(tree: Path, luo: int, jobs: int, *, twin: bool) -> None:
    if cached(twin=twin):
        return
    _compile(tree, jobs)
    release = run_tool("make", "-s", "-C", tree, "kernelrelease", timeout=CONFIGURE_TIMEOUT).strip()
    with cache.new_directory(cache.cache_dir() / f"kernel-{key(twin=twin)}") as directory:
        (directory / "bzImage").write_bytes((tree / "arch/x86/boot/bzImage").read_bytes())
        (directory / "config").write_bytes((tree / ".config").read_bytes())
        (directory / "kernel.json").write_text(json.dumps({"release": release, "luo": luo}) + "\n", encoding="utf-8")


def _version(tree: Path) -> int:
    """The version of live update's format in this source."""
    header = tree / ABI
    if not header.exists():
        raise BuildError(f"{tree.name} has no {ABI}: its live update is another one, or it has none")
    if not (found := FORMAT.search(header.read_text(encoding="utf-8"))):
        raise BuildError(f'{ABI} has no "luo-vN"')
    return int(found[1])


def _make_twin(tree: Path, version: int) -> None:
    header = tree / ABI
    text = header.read_text(encoding="utf-8")
    header.write_text(FORMAT.sub(f'"luo-v{version}"', text), encoding="utf-8")


def _configure(tree: Path) -> None:
    run_tool("make", "-C", tree, "tinyconfig", timeout=CONFIGURE_TIMEOUT)
    with (tree / ".config").open("a", encoding="utf-8") as file:
        file.write(options.fragment())
    run_tool("make", "-C", tree, "olddefconfig", timeout=CONFIGURE_TIMEOUT)
    if lacking := options.lacking((tree / ".config").read_text(encoding="utf-8")):
        raise BuildError(f"{tree.name} cannot have these options: {', '.join(lacking)}")


def _compile(tree: Path, jobs: int) -> None:
    """Quiet but for how far it is: make prints a line for each thing that it makes."""
    log = tree / "make.log"
    started = told = time.monotonic()
    with log.open("wb") as output:
        words = ["nice", "-n", "19", "make", "-C", str(tree), f"-j{jobs}", "bzImage"]
        made = subprocess.Popen(words, stdin=subprocess.DEVNULL, stdout=output, stderr=subprocess.STDOUT)
        try:
            while made.poll() is None:
                try:
                    made.wait(BEAT)
                except subprocess.TimeoutExpired:
                    told = time.monotonic()
                    say(f"compiling: {_last(log)}, {told - started:.0f} s")
                if told - started > COMPILE_TIMEOUT:
                    raise BuildError(f"compiling {tree.name}: not done after {COMPILE_TIMEOUT:.0f} s")
        finally:
            if made.poll() is None:
                made.terminate()  # make ends its compilers
                made.wait(60)
    if made.returncode:
        raise BuildError(f"compiling {tree.name}: exit status {made.returncode}\n{_tail(log)}")
    say(f"compiling: {time.monotonic() - started:.1f} s")


def _last(log: Path) -> str:
    lines = log.read_text(errors="replace").splitlines()
    return f"{len(lines)} steps, {lines[-1].split()[-1] if lines and lines[-1].split() else 'beginning'}"


def _tail(log: Path) -> str:
    return "\n".join(log.read_text(errors="replace").splitlines()[-40:])
