# SPDX-License-Identifier: MIT
"""`--from DIR`: all of another installed system's, and nothing of this one's but its architecture."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from kexecd.cli.choosing import look_for, names_image, target_for
from kexecd.cli.main import main, parser
from kexecd.errors import BadConfig, BadImage, ExitCode, NoEntry, Refusal
from kexecd.kernel import sysfs
from kexecd.kernel.cmdline import canonical
from kexecd.model import BootTarget
from kexecd.target import opened
from tests.unit.images import bzimage
from tests.unit.initrds import VERSION, tree, xz

WAY_BACK = "panic=30 rd.shell=0 rd.emergency=reboot"
OURS = "BOOT_IMAGE=/vmlinuz root=UUID=ours ro quiet"


@pytest.fixture(autouse=True)
def this_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sysfs, "architecture", lambda: "x86_64")
    monkeypatch.setattr(sysfs, "running_cmdline", lambda root="/": OURS)


@pytest.fixture
def other(tmp_path: Path) -> Path:
    """Another system, as it is mounted."""
    place = tmp_path / "mnt"
    files = {
        "etc/os-release": b"ID=gentoo\n",
        "etc/fstab": b"UUID=theirs / ext4 defaults 0 1\n",
        f"boot/vmlinuz-{VERSION}": bzimage(),
        f"boot/initramfs-{VERSION}.img": xz(tree()),
        f"lib/modules/{VERSION}/modules.dep": b"",
    }
    for name, content in files.items():
        write(place, name, content)
    return place


def write(place: Path, name: str, content: bytes | str) -> None:
    path = place / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content.encode() if isinstance(content, str) else content)


@contextmanager
def target(*words: str | Path) -> Iterator[BootTarget]:
    options = parser().parse_args(["load", *map(str, words)])
    with opened(target_for(options, look_for(options))) as found:
        yield found


def cmdline(*words: str | Path) -> str:
    with target(*words) as found:
        return canonical(found.cmdline)


def test_kernel_initrd_and_root_are_its_own(other: Path) -> None:
    with target("--from", other) as found:
        assert found.kernel.path == f"{other}/boot/vmlinuz-{VERSION}"
        assert [file.path for file in found.initrds] == [f"{other}/boot/initramfs-{VERSION}.img"]
        assert found.cmdline == f"root=UUID=theirs kexecd.nonce={found.nonce} {WAY_BACK}"
        assert found.entry.remarks == ()


def test_so_are_its_settings(other: Path) -> None:
    write(other, "etc/kernel/cmdline", "console=ttyS0\n")
    assert cmdline("--from", other) == "console=ttyS0 root=UUID=theirs"
    write(other, "etc/conf.d/kexec", 'KPARAM="root=LABEL=gentoo debug"\n')
    assert cmdline("--from", other) == "root=LABEL=gentoo debug"


def test_the_person_may_change_it(other: Path) -> None:
    assert cmdline("--from", other, "--set", "root=/dev/sdb2", "--append", "single") == "root=/dev/sdb2 single"
    assert cmdline("--from", other, "--cmdline", "rescue") == "rescue"


def test_a_root_that_cannot_be_told_is_refused_and_never_ours(other: Path) -> None:
    write(other, "etc/fstab", "# nothing\n")
    with pytest.raises(BadConfig, match=f"cannot boot from {other}: its root= cannot be told"), target("--from", other):
        pass


@pytest.mark.parametrize("path", ["boot/vmlinuz-custom", "/boot/vmlinuz-custom", "{}/boot/vmlinuz-custom"])
def test_a_kernel_is_named_inside_it_or_as_the_shell_completes_it(other: Path, path: str) -> None:
    write(other, "boot/vmlinuz-custom", bzimage())
    with target("--from", other, "--kernel", path.format(other), "--initrd", f"boot/initramfs-{VERSION}.img") as found:
        assert found.kernel.path == f"{other}/boot/vmlinuz-custom"
        assert [file.path for file in found.initrds] == [f"{other}/boot/initramfs-{VERSION}.img"]


def test_a_link_leads_inside_it(other: Path) -> None:
    (other / "vmlinuz").symlink_to(f"/boot/vmlinuz-{VERSION}")
    with target("--from", other, "--kernel", "/vmlinuz") as found:
        assert found.kernel.path == f"{other}/boot/vmlinuz-{VERSION}"


def test_a_relative_directory_is_one_of_here(other: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(other.parent)
    with target("--from", other.name) as found:
        assert found.kernel.path.startswith(f"{other}/")


def test_a_kernel_for_another_machine_is_refused(other: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sysfs, "architecture", lambda: "aarch64")
    with pytest.raises(BadImage, match="this machine is aarch64"), target("--from", other):
        pass


def test_an_initrd_of_another_kernel_is_refused(other: Path) -> None:
    write(other, f"boot/initramfs-{VERSION}.img", xz(tree("5.10.0")))
    with pytest.raises(BadImage, match=f"the modules of 5.10.0, and the kernel is {VERSION}"), target("--from", other):
        pass


def test_what_is_no_root_is_refused(tmp_path: Path) -> None:
    with pytest.raises(NoEntry, match="not the root of an installed system"), target("--from", tmp_path):
        pass
    with pytest.raises(NoEntry, match="there is no such directory"), target("--from", tmp_path / "nowhere"):
        pass
    with pytest.raises(NoEntry, match="it is this system"), target("--from", "/"):
        pass


def test_a_root_without_a_kernel_says_where_it_looked(other: Path) -> None:
    (other / "boot" / f"vmlinuz-{VERSION}").unlink()
    why = f"nothing is chosen to boot from {other}: no kernel was found in /boot"
    with pytest.raises(NoEntry, match=why), target("--from", other):
        pass


def test_leftovers_below_a_boot_partition_that_is_not_mounted_are_not_taken(other: Path) -> None:
    write(other, "etc/fstab", "UUID=theirs / ext4 defaults 0 1\nUUID=b /boot vfat noauto 0 2\n")
    with pytest.raises(NoEntry), target("--from", other):
        pass


def test_it_does_not_go_with_another_root_to_look_at(other: Path) -> None:
    assert main(["plan", "--from", str(other), "--root", str(other)]) == ExitCode.USAGE


def test_an_image_in_memory_is_not_meant_where_anything_is_named() -> None:
    assert not names_image(parser().parse_args(["reboot"]))
    for words in (["6.1"], ["--from", "x"], ["--set", "a=b"], ["--remove", "a"], ["--append", "a"], ["--cmdline", ""]):
        assert names_image(parser().parse_args(["reboot", *words])), words


def test_an_initrd_alone_replaces_the_one_of_the_entry(other: Path) -> None:
    options = parser().parse_args(["plan", "--root", str(other), "--initrd", "/boot/mine.img"])
    chosen = look_for(options, str(other)).choice.entry
    assert chosen is not None
    assert (chosen.kernel, chosen.initrds) == (f"/boot/vmlinuz-{VERSION}", ("/boot/mine.img",))


def test_a_plan_says_what_changes_on_the_command_line(other: Path, capsys: pytest.CaptureFixture[str]) -> None:
    import json

    words = ["plan", "--root", str(other), "--append", "debug", "--remove", "quiet"]
    assert main([*words, "--json"]) == ExitCode.OK
    found = json.loads(capsys.readouterr().out)["target"]
    assert found["cmdline"] == f"root=UUID=ours ro debug {WAY_BACK}"
    assert found["cmdline_diff"] == {"running": OURS, "added": ["debug", *WAY_BACK.split()], "removed": ["quiet"]}
    assert main(words) == ExitCode.OK
    said = capsys.readouterr().out.splitlines()
    assert f"with   root=UUID=ours ro debug {WAY_BACK}" in said
    assert f"       + debug {WAY_BACK}" in said and "       - quiet" in said


def test_the_nonce_is_not_in_the_plan_but_its_length_is(other: Path) -> None:
    room = 2016 - len("root=UUID=ours ro quiet ")
    assert main(["plan", "--root", str(other), "--append", "x" * (room - 10)]) == ExitCode.BAD_CONFIG


def test_nonsense_is_refused(other: Path) -> None:
    with pytest.raises(Refusal, match="not one parameter"), target("--from", other, "--set", "quiet"):
        pass
