# SPDX-License-Identifier: MIT
"""A machine where nobody ever removes a kernel: 200 of them, in /boot, in grub.cfg and as entries of their own.

CPU time and memory of the child alone, as wait4(2) tells them, and the least of several runs; on a machine that is slow
just now it may take longer (tests/perf/peer.py). The kernels are of 50 MiB each, and hardly any of it is read.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from kexecd.cli.main import main
from tests.golden.kernels import initrd, kernel
from tests.perf.peer import PYTHON, slowness

TOP = Path(__file__).parents[2]
RUNS = 5
KERNELS = 200
KERNEL_SIZE = 50 << 20  # bytes
MOST_CPU = 0.5  # seconds, on the usual machine
MOST_MEMORY = 60 << 10  # KiB
MOST_READ = 2 << 20  # bytes: less than a twentieth of one kernel

KEXECCTL = f"import sys; sys.path.insert(0, {str(TOP)!r}); from kexecd.cli.main import main; sys.exit(main())"
MEASURE = """\
import os, sys
child = os.posix_spawn(sys.argv[1], sys.argv[1:], os.environ)
_, status, usage = os.wait4(child, 0)
print(status, usage.ru_utime + usage.ru_stime, usage.ru_maxrss, file=sys.stderr)
"""
"""A small process between us and the child, which counts its parent's memory as its own until it executes something."""

HEAD = """\
load_env
set default="0"
menuentry_id_option="--id"
function load_video {
  insmod all_video
}
"""
ENTRY = """\
menuentry 'Debian GNU/Linux, Linux {version}{mode}' --class debian $menuentry_id_option 'gnulinux-{version}-{mode}' {{
	load_video
	insmod gzio
	if [ x$grub_platform = xxen ]; then insmod xzio; insmod lzopio; fi
	insmod ext2
	search --no-floppy --fs-uuid --set=root 6d0a4f3e-2b7c-4c1e-9a55-0f7e3b1c2d4e
	echo	'Loading Linux {version} ...'
	linux	/boot/vmlinuz-{version} root=UUID=6d0a4f3e-2b7c-4c1e-9a55-0f7e3b1c2d4e ro{mode} quiet
	echo	'Loading initial ramdisk ...'
	initrd	/boot/initrd.img-{version}
}}
"""
BLS = """\
title Debian GNU/Linux
version {version}
sort-key debian
options root=UUID=6d0a4f3e-2b7c-4c1e-9a55-0f7e3b1c2d4e ro quiet
linux /boot/vmlinuz-{version}
initrd /boot/initrd.img-{version}
"""

VERSIONS = [f"6.{number // 20}.{number % 20}-{number}-amd64" for number in range(KERNELS)]

pytestmark = pytest.mark.perf


def make(root: Path, versions: list[str]) -> Path:
    """The tree; its directories have their names in the order of `versions`, as far as the filesystem keeps one."""
    (root / "boot/grub").mkdir(parents=True)
    (root / "boot/loader/entries").mkdir(parents=True)
    for version in versions:
        place = root / f"boot/vmlinuz-{version}"
        place.write_bytes(kernel(version))
        os.truncate(place, KERNEL_SIZE)
        (root / f"boot/initrd.img-{version}").write_bytes(initrd())
        (root / f"usr/lib/modules/{version}").mkdir(parents=True)
        os.link(place, root / f"usr/lib/modules/{version}/vmlinuz")
        (root / f"boot/loader/entries/debian-{version}.conf").write_text(BLS.format(version=version))
    menu = [ENTRY.format(version=version, mode=mode) for version in VERSIONS for mode in ("", " single")]
    (root / "boot/grub/grub.cfg").write_text(HEAD + "".join(menu))
    (root / "boot/grub/grubenv").write_text("# GRUB Environment Block\n".ljust(1024, "#"))
    # Their versions are only inside.
    shutil.copyfile(root / f"boot/vmlinuz-{VERSIONS[0]}", root / "boot/vmlinuz-lts")
    (root / "boot/vmlinuz").symlink_to(f"vmlinuz-{VERSIONS[-1]}")
    return root


@pytest.fixture(scope="module")
def tree(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make(tmp_path_factory.mktemp("many") / "root", VERSIONS)


def measured(root: Path, *, seed: int = 0) -> tuple[float, int, str]:
    """Seconds of CPU time and KiB of memory of one run, and what it printed. seed: of Python's hashes."""
    command = [PYTHON, "-s", "-c", KEXECCTL, "entries", "--json", "--root", str(root)]
    environment = {**os.environ, "PYTHONHASHSEED": str(seed)}
    measure = [PYTHON, "-I", "-c", MEASURE, *command]
    done = subprocess.run(measure, env=environment, capture_output=True, text=True, check=True, timeout=60)
    status, cpu, memory = done.stderr.split()
    assert status == "0"
    return float(cpu), int(memory), done.stdout


def test_many_kernels_take_little_time_and_memory(tree: Path, capsys: pytest.CaptureFixture[str]) -> None:
    runs = [measured(tree) for _ in range(RUNS)]
    cpu, memory = min(cpu for cpu, _, _ in runs), max(memory for _, memory, _ in runs)
    entries = json.loads(runs[0][2])["entries"]
    most = MOST_CPU * slowness()
    with capsys.disabled():
        told = f"{cpu * 1000:.0f} ms of CPU, of {most * 1000:.0f} ms, {memory / 1024:.1f} MiB"
        print(f"\n{KERNELS} kernels, {len(entries)} entries: {told}")
    assert len(entries) >= 4 * KERNELS  # twice in grub.cfg, in /boot, beside the modules
    assert cpu < most
    assert memory < MOST_MEMORY


def test_no_more_is_read_than_is_needed(
    tree: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    count = 0

    def counting(real: Callable[..., bytes]) -> Callable[..., bytes]:
        def called(*arguments: int) -> bytes:
            nonlocal count
            data = real(*arguments)
            count += len(data)
            return data

        return called

    for name in ("read", "pread"):
        monkeypatch.setattr(os, name, counting(getattr(os, name)))
    assert main(["entries", "--json", "--root", str(tree)]) == 0
    texts = [*tree.glob("boot/loader/entries/*"), *tree.glob("boot/grub/*")]
    size = sum(path.stat().st_size for path in texts)
    capsys.readouterr()
    with capsys.disabled():
        print(f"\n{count >> 10} KiB read, {size >> 10} KiB of them texts, of {KERNELS * KERNEL_SIZE >> 30} GiB")
    assert size <= count < MOST_READ


def test_the_order_hangs_neither_on_hashes_nor_on_directories(tree: Path, tmp_path: Path) -> None:
    other = make(tmp_path / "other", VERSIONS[::-1])
    outputs = [measured(root, seed=seed)[2].replace(str(root), "") for seed, root in enumerate((tree, other), 1)]
    assert outputs[0] == outputs[1]
