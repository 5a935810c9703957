# SPDX-License-Identifier: MIT
"""Whatever lies in the place of a file that is read: `kexecctl entries` ends soon, in order, and with JSON.

PLACES is every file and directory that any source or setting reads. It is held against what is read in fact, in the
golden trees and in the tree that is made here, so that a new source cannot escape it.
"""

from __future__ import annotations

import contextlib
import json
import os
import random
import re
import shutil
import signal
import stat
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from kexecd.cli.main import main
from kexecd.errors import ExitCode
from tests.golden.test_bls_trees import TREES
from tests.unit.boot_tree import BootTree

TOP = Path(__file__).parents[2]
PYTHON = "/usr/bin/python3"
PATIENCE = 5.0  # seconds for one run; each takes milliseconds
MOST_MEMORY = 60 << 10  # KiB
ADDRESS_SPACE = 512 << 20  # bytes
HUGE = 10 << 30  # bytes
VENDOR = "4a67b082-0a4c-41cf-b6c7-440b29bb8c4f"
UKI = TREES / "debian-13-uki/root/efi/EFI/Linux/debian-6.12.43+deb13-amd64+2.efi"
VERSION, LTS = "6.12.43", "6.6.72-1-lts"


class Place(NamedTuple):
    """A file, or with a slash at its end a directory.

    path: in the tree that is made here. stands_for: every other path that is read for its reason. without: what keeps
    it from being read.
    """

    path: str
    stands_for: str = ""
    without: str = ""

    def __str__(self) -> str:
        return self.path


NEVER_READ = "(?!)"  # before one of them is to be booted: they are found by their names
ANY_BOOT = r"/(boot|efi|boot/efi)"
PLACES = (
    Place("/etc/kexecd/kexecd.yaml"),
    Place("/etc/conf.d/kexec"),
    Place("/etc/kexec.conf"),
    Place("/etc/default/kexec"),
    Place("/etc/default/kexec.d/"),
    Place("/etc/default/kexec.d/more", r"/etc/default/kexec\.d/[\w-]+"),
    Place("/etc/fstab"),
    Place("/proc/cmdline"),
    Place("/proc/self/mountinfo"),
    Place("/dev/disk/by-uuid/", r"/dev/disk/by-(uuid|label)"),
    Place("/boot/"),
    Place("/boot/grub/grub.cfg", rf"/boot/grub2?/grub\.cfg|{ANY_BOOT}/(EFI/\w+|grub)/grub\.cfg"),
    Place("/boot/grub/grubenv", r"/boot/grub2?/grubenv"),
    Place("/boot/grub/custom.cfg", r"/boot/grub/custom\.cfg|/\.snapshots/grub-snapshot\.cfg"),
    Place("/boot/efi/EFI/", rf"{ANY_BOOT}/EFI"),
    Place("/boot/efi/EFI/BOOT/", rf"{ANY_BOOT}/EFI/(BOOT|systemd)", without="/sys"),
    Place("/boot/efi/EFI/Linux/", rf"{ANY_BOOT}/EFI/Linux"),
    Place("/boot/efi/EFI/Linux/one.efi", rf"{ANY_BOOT}/EFI/Linux/[^/]+\.efi"),
    Place("/boot/efi/EFI/Linux/one.efi.extra.d/", rf"{ANY_BOOT}/EFI/Linux/[^/]+\.extra\.d"),
    Place("/boot/efi/loader/addons/", rf"{ANY_BOOT}/loader/(addons|credentials|extensions)"),
    Place("/boot/loader/loader.conf", rf"{ANY_BOOT}/loader/loader\.conf"),
    Place("/boot/loader/entries/", rf"{ANY_BOOT}/loader/entries"),
    Place("/boot/loader/entries/one.conf", rf"{ANY_BOOT}/loader/entries/[^/]+\.conf"),
    Place("/boot/image", r"/(boot|efi)/(.+/)?(linux|shellx64\.efi|memtest86\+x64\.bin|[\w.-]+-bzImage\.efi)"),
    Place("/boot/extlinux/extlinux.conf", r"(/boot)?(/extlinux|/syslinux)?/(extlinux\.conf|syslinux\.cfg)"),
    Place("/boot/extlinux/more.cfg", r"/boot/syslinux/more\.cfg"),
    Place("/boot/bzImage"),
    Place("/boot/vmlinuz"),
    Place("/boot/vmlinuz-lts", r"/boot/(vmlinu[xz]|kernel)-.+"),
    Place(f"/boot/initrd.img-{VERSION}", NEVER_READ),
    Place("/boot/intel-ucode.img", NEVER_READ),
    Place(f"/boot/vmlinuz-{VERSION}", NEVER_READ),
    Place("/usr/lib/modules/", r"(/usr)?/lib/modules"),
    Place(f"/usr/lib/modules/{LTS}/vmlinuz", r"/usr/lib/modules/[^/]+/vmlinuz"),
    Place(f"/usr/lib/modules/{LTS}/pkgbase", r"/usr/lib/modules/[^/]+/pkgbase"),
    Place("/var/lib/misc/installkernel"),
    Place("/sys/firmware/efi/efivars/"),
    Place(f"/sys/firmware/efi/efivars/LoaderInfo-{VENDOR}", rf"/sys/firmware/efi/efivars/Loader\w+-{VENDOR}"),
    Place("/sys/firmware/efi/efivars/OsIndicationsSupported-8be4df61-93ca-11d2-aa0d-00e098032b8c"),
)

GRUB_CFG = """\
load_env
set default="${saved_entry}"
source $prefix/custom.cfg
submenu 'More' { menuentry 'One' --id one {
	linux /boot/vmlinuz-6.12.43 root=/dev/vda1
	initrd /boot/initrd.img-6.12.43
} }
menuentry 'Two' { linux /boot/image ro }
blscfg
"""


@pytest.fixture(scope="module")
def tree(tmp_path_factory: pytest.TempPathFactory) -> BootTree:
    """A tree where every one of PLACES is read."""
    tree = BootTree(tmp_path_factory.mktemp("hostile") / "root")
    for path in ("/boot/image", "/boot/bzImage", "/boot/vmlinuz", f"/boot/vmlinuz-{VERSION}"):
        tree.kernel(path, VERSION)
    for path in ("/boot/vmlinuz-lts", f"/usr/lib/modules/{LTS}/vmlinuz"):
        tree.kernel(path, LTS)
    tree.link("/vmlinuz", f"usr/lib/modules/{LTS}/vmlinuz")
    tree.write(f"/usr/lib/modules/{LTS}/pkgbase", "lts\n")
    tree.initrd(f"/boot/initrd.img-{VERSION}", "/boot/intel-ucode.img")
    tree.link("/lib", "usr/lib")
    tree.place("/boot/efi/EFI/Linux/one.efi").write_bytes(UKI.read_bytes())
    tree.write("/boot/efi/EFI/Linux/one.efi.extra.d/a.addon.efi")
    tree.write("/boot/efi/EFI/BOOT/BOOTX64.EFI", "x")
    tree.write("/boot/efi/loader/addons/b.addon.efi")
    tree.write("/boot/loader/loader.conf", "default one*\n")
    tree.write("/boot/loader/entries/one.conf", "title One\nlinux /image\ninitrd /initrd.img-6.12.43\n")
    tree.write("/boot/grub/grub.cfg", GRUB_CFG)
    tree.write("/boot/grub/grubenv", "# GRUB Environment Block\nsaved_entry=one\n".ljust(1024, "#"))
    tree.write("/boot/grub/custom.cfg", "set color=blue\n")
    tree.write("/boot/extlinux/extlinux.conf", "default one\ninclude more.cfg\n")
    tree.write("/boot/extlinux/more.cfg", "label one\nlinux ../vmlinuz-lts\ninitrd ../initrd.img-6.12.43\n")
    fields = ("now", "gentoo", VERSION, "notset", "grub", "dracut", "none", "/boot", f"vmlinuz-{VERSION}", "unknown")
    tree.write("/var/lib/misc/installkernel", "\t".join(fields) + "\n")
    tree.write("/etc/kexecd/kexecd.yaml", "choice: boot-loader\n")
    tree.write("/etc/conf.d/kexec", '# ours\nKEXEC_OPT_ARGS="--reuse-cmdline --append=quiet"\n')
    tree.write("/etc/kexec.conf", 'ROOTPART="/dev/vda1"\n')
    tree.write("/etc/default/kexec", 'LOAD_KEXEC=true\nINITRD=""\n')
    tree.write("/etc/default/kexec.d/more", 'APPEND="${APPEND} quiet"\n')
    tree.write("/etc/fstab", "UUID=1 / ext4 defaults 0 1\nUUID=2 /boot/efi vfat defaults 0 2\n")
    tree.write("/proc/cmdline", "root=/dev/vda1 ro\n")
    tree.write("/proc/self/mountinfo", "21 1 8:1 / / rw shared:1 - ext4 /dev/vda1 rw\n")
    tree.link("/dev/disk/by-uuid/1", "../../vda1")
    tree.write(f"/sys/firmware/efi/efivars/LoaderInfo-{VENDOR}", "\6\0\0\0")
    tree.write(PLACES[-1].path, "\6\0\0\0\1\0\0\0\0\0\0\0")
    if os.geteuid() == 0:
        os.mknod(tree.place("/dev/zero"), stat.S_IFCHR | 0o666, os.makedev(1, 5))
    return tree


def _bombs() -> dict[str, bytes]:
    lines = {
        "brackets": "[{(",
        "quotes": "\"'`",
        "expansions": "${a:-$(",
        "blocks": "submenu x { menuentry y {\n",
        "conditions": "if true; then while true; do\n",
        "includes": "include extlinux.conf\nsource $prefix/custom.cfg\nconfigfile /boot/grub/grub.cfg\n",
        "variables": "a=$a$a$a$a\nset a=$a$a$a$a\n",
        "indents": "- - - - - ",
    }
    return {f"nested {name}": (line * (48 << 10))[: 48 << 10].encode() for name, line in lines.items()}


def _writes(content: bytes) -> Callable[[Path], object]:
    return lambda place: place.write_bytes(content)


def _huge(place: Path) -> None:
    place.touch()
    os.truncate(place, HUGE)


def _device(place: Path) -> None:
    os.mknod(place, stat.S_IFCHR | 0o666, os.makedev(1, 5))  # /dev/zero


HOSTILE: dict[str, Callable[[Path], object]] = {
    "a FIFO": os.mkfifo,
    "a directory": Path.mkdir,
    "a file": _writes(b"x"),
    "an empty file": _writes(b""),
    "a loop of links": lambda place: place.symlink_to(place.name),
    "a dangling link": lambda place: place.symlink_to("nowhere/at/all"),
    "a link to /dev/zero": lambda place: place.symlink_to("/dev/zero"),
    "a device": _device,
    "10 GiB": _huge,
    "random bytes": _writes(random.Random(1).randbytes(1 << 16)),
    "NULs": _writes(bytes(4096)),
    **{name: _writes(content) for name, content in _bombs().items()},
}


@contextlib.contextmanager
def without(tree: BootTree, path: str) -> Iterator[None]:
    """As the tree is without what lies at `path`; empty: as it is."""
    place, aside = tree.path / path.strip("/"), tree.path.parent / "without"
    if path:
        place.rename(aside)
    try:
        yield
    finally:
        if path:
            aside.rename(place)


@contextlib.contextmanager
def in_its_place(tree: BootTree, place: Place, make: Callable[[Path], object]) -> Iterator[None]:
    path = tree.path / place.path.strip("/")
    aside = tree.path.parent / "aside"
    path.rename(aside)
    try:
        make(path)
        yield
    finally:
        if path.is_dir() and not path.is_symlink():
            path.rmdir()
        else:
            path.unlink(missing_ok=True)
        aside.rename(path)


def told(tree: BootTree, capsys: pytest.CaptureFixture[str], what: str) -> Any:
    """What `entries --json` says, when it ends in time and well."""

    def too_late(*_: object) -> None:
        pytest.fail(f"{what} makes it hang")  # no Exception, so nobody who reads a file takes it for an error of that

    before = signal.signal(signal.SIGALRM, too_late)
    signal.setitimer(signal.ITIMER_REAL, PATIENCE)
    try:
        status = main(["entries", "--json", "--root", tree.root])
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
    output = json.loads(capsys.readouterr().out)
    assert ("refused" in output) == (status not in (ExitCode.OK, ExitCode.NO_ENTRY)), what
    assert status in (ExitCode.OK, ExitCode.NO_ENTRY, ExitCode.BAD_CONFIG), what
    return output


@pytest.mark.parametrize("place", PLACES, ids=str)
def test_nothing_in_the_place_of_a_file_stops_it(
    place: Place, tree: BootTree, capsys: pytest.CaptureFixture[str]
) -> None:
    with without(tree, place.without):
        good = told(tree, capsys, "the tree as it should be")
        assert good["chosen"]["id"]
        for name, make in HOSTILE.items():
            with in_its_place(tree, place, make):
                told(tree, capsys, f"{name} at {place}")
        assert told(tree, capsys, "the tree as it was") == good


@pytest.mark.parametrize("place", [place for place in PLACES if not place.path.endswith("/")], ids=str)
def test_a_file_that_is_cut_anywhere_stops_nothing(
    place: Place, tree: BootTree, capsys: pytest.CaptureFixture[str]
) -> None:
    content = (tree.path / place.path[1:]).read_bytes()
    for part in (0.1, 0.3, 0.5, 0.7, 0.9):
        with in_its_place(tree, place, _writes(content[: int(len(content) * part)])):
            told(tree, capsys, f"{part:.0%} of {place}")


@pytest.mark.parametrize("name", ["10 GiB", "a device", "a FIFO", "random bytes", "nested brackets"])
def test_a_tree_full_of_it_takes_no_memory(name: str, tree: BootTree, tmp_path: Path) -> None:
    root = tmp_path / "root"
    shutil.copytree(tree.path, root, symlinks=True, ignore=shutil.ignore_patterns("zero"))
    for place in PLACES:
        path = root / place.path[1:]
        # Settings that cannot be taken are refused before anything else is read.
        if not place.path.endswith("/") and not place.path.startswith("/etc/"):
            path.unlink()
            HOSTILE[name](path)
    start = f"import sys; sys.path.insert(0, {str(TOP)!r}); from kexecd.cli.main import main; sys.exit(main())"
    command = [PYTHON, "-I", "-c", start, "entries", "--json", "--root", str(root)]
    # In this order, so that what is measured is the child alone, and not what this process has taken before.
    measured = f"""
import resource, subprocess, sys
done = subprocess.run({command!r}, capture_output=True, timeout={4 * PATIENCE},
    preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_AS, ({ADDRESS_SPACE}, {ADDRESS_SPACE})))
sys.stdout.buffer.write(done.stdout)
print(done.returncode, resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss, done.stderr.decode(), file=sys.stderr)
"""
    done = subprocess.run([PYTHON, "-I", "-c", measured], capture_output=True, text=True, check=True, timeout=60)
    status, memory, errors = done.stderr.split(" ", 2)
    assert json.loads(done.stdout)["chosen"]["id"] is None or int(status) == ExitCode.OK
    assert errors.strip() == ""
    assert int(status) in (ExitCode.OK, ExitCode.NO_ENTRY)
    assert int(memory) < MOST_MEMORY


def test_no_name_does_anything_to_a_terminal(tmp_path: Path) -> None:
    tree = BootTree(tmp_path)
    odd = b"\xff\x1b[2J\r"
    files = {
        b"boot/" + odd: b"x",
        b"boot/vmlinuz-" + odd: b"x",
        b"boot/loader/entries/" + odd + b".conf": b"title " + odd + b"\nlinux /" + odd + b"\noptions " + odd,
        b"boot/extlinux/extlinux.conf": b"label " + odd + b"x\nlinux ../" + odd + b"x\nappend " + odd + b"x\n" + odd,
        b"boot/grub/grub.cfg": b"menuentry '" + odd + b"' { linux '/boot/" + odd + b"' '" + odd + b"'; }\n",
        b"efi/EFI/Linux/" + odd + b".efi": b"x",
    }
    for name, content in files.items():
        path = os.fsencode(tree.root) + b"/" + name
        os.makedirs(os.path.dirname(path), exist_ok=True)
        with open(path, "wb") as file:
            file.write(content)
    start = f"import sys; sys.path.insert(0, {str(TOP)!r}); from kexecd.cli.main import main; sys.exit(main())"
    command = [PYTHON, "-s", "-c", start, "entries", "-v", "--root", tree.root]
    # As in a locale that is not C: what cannot be encoded is an error.
    strict = {**os.environ, "PYTHONIOENCODING": "utf-8:strict"}
    done = subprocess.run(command, env=strict, capture_output=True, check=False, timeout=4 * PATIENCE)
    assert done.stderr.decode() == ""
    assert done.returncode in (ExitCode.OK, ExitCode.NO_ENTRY)
    assert all(char.isprintable() or char == "\n" for char in done.stdout.decode())
    assert "\N{REPLACEMENT CHARACTER}" in done.stdout.decode()


class Recorder:
    """Which files and directories below a root are opened or listed, whatever becomes of it."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.root = ""
        self.read: set[str] = set()
        for name in ("open", "listdir", "scandir"):
            monkeypatch.setattr(os, name, self._recording(getattr(os, name)))

    def _recording(self, real: Callable[..., Any]) -> Callable[..., Any]:
        def called(path: Any = ".", *arguments: Any, **named: Any) -> Any:
            if self.root and isinstance(path, str) and path.startswith(f"{self.root}/"):
                self.read.add(path[len(self.root) :].rstrip("/"))
            return real(path, *arguments, **named)

        return called


@pytest.fixture
def recorder(monkeypatch: pytest.MonkeyPatch) -> Recorder:
    return Recorder(monkeypatch)


def read_in(root: str, recorder: Recorder) -> set[str]:
    recorder.root, recorder.read = root, set()
    main(["entries", "--json", "--root", root])
    recorder.root = ""
    return recorder.read


def patterns() -> list[re.Pattern[str]]:
    each = ((re.escape(place.path.rstrip("/")), place.stands_for or NEVER_READ) for place in PLACES)
    return [re.compile(f"{own}|(?:{others})") for own, others in each]


def test_every_file_that_is_read_stands_in_the_table(recorder: Recorder, tree: BootTree) -> None:
    roots = [tree.root, *(str(path) for path in TREES.glob("*/root"))]
    read = set[str]().union(*(read_in(root, recorder) for root in roots))
    assert len(read) > 100
    assert sorted(path for path in read if not any(pattern.fullmatch(path) for pattern in patterns())) == []


@pytest.mark.parametrize("place", PLACES, ids=str)
def test_every_row_of_the_table_is_read_in_this_tree(place: Place, recorder: Recorder, tree: BootTree) -> None:
    with without(tree, place.without):
        read = read_in(tree.root, recorder)
    assert (place.path.rstrip("/") in read) == (place.stands_for != NEVER_READ)
