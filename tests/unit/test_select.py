# SPDX-License-Identifier: MIT
from pathlib import Path

import pytest

from kexecd.config.settings import Settings
from kexecd.discover.pairs import entries
from kexecd.discover.select import NAME_ONE, choose
from kexecd.discover.sources import Offer
from kexecd.model import BootEntry, Choice, Found, Source
from tests.unit.images import bzimage

KERNEL_AT = (("kernel", "/etc/conf.d/kexec:3"), ("initrd", "/etc/conf.d/kexec:4"))


@pytest.fixture
def root(tmp_path: Path) -> str:
    """Three kernels with their initrds, and one in another place."""
    (tmp_path / "boot").mkdir()
    for version in ("6.1", "6.6", "6.12"):
        (tmp_path / f"boot/vmlinuz-{version}").write_text("x")
        (tmp_path / f"boot/initrd.img-{version}").write_text("x")
    (tmp_path / "boot/custom.img").write_text("x")
    (tmp_path / "opt").mkdir()
    (tmp_path / "opt/bzImage").write_bytes(bzimage("6.6 (x) #1"))
    (tmp_path / "opt/mine").write_bytes(bzimage("7.0-mine (x) #1"))
    (tmp_path / "vmlinuz").symlink_to("boot/vmlinuz-6.6")
    (tmp_path / "initrd.img").symlink_to("/boot/initrd.img-6.6")
    return str(tmp_path)


def chosen(
    root: str, *, kernel: str | None = None, initrd: str | None = None, explicit: str | None = None, stock: bool = False
) -> Choice:
    settings = Settings(kernel=kernel, initrd=initrd, stock_kernel=stock, origins=KERNEL_AT)
    return choose(offered(root), settings, explicit=explicit, root=root)


def offered(root: str) -> Offer:
    """What a machine offers that has only bare files, and no boot loader that we can read."""
    return Offer((Found(Source.VERSIONED, entries(root)),))


def taken(choice: Choice) -> BootEntry:
    assert choice.entry is not None, choice.reason
    return choice.entry


def test_the_newest_is_taken_and_the_others_hear_why(root: str) -> None:
    choice = chosen(root)
    assert taken(choice).version == "6.12"
    assert choice.reason == "it is the newest that is installed"
    assert choice.losers == (("vmlinuz-6.6", "6.12 is newer"), ("vmlinuz-6.1", "6.12 is newer"))


def test_one_with_a_problem_is_never_taken_by_itself(root: str) -> None:
    Path(root, "boot/vmlinuz-6.12").write_bytes(b"")
    choice = chosen(root)
    assert taken(choice).version == "6.6"
    assert choice.losers[0] == ("vmlinuz-6.12", "/boot/vmlinuz-6.12 is empty")


def test_a_configured_kernel_comes_before_the_newest(root: str) -> None:
    choice = chosen(root, kernel="/boot/vmlinuz-6.1")
    assert taken(choice) in entries(root)
    assert taken(choice).version == "6.1"
    assert choice.reason == "/etc/conf.d/kexec:3 names it"
    assert choice.losers[0] == ("vmlinuz-6.12", "/etc/conf.d/kexec:3 names another one")


@pytest.mark.parametrize("wanted", ["vmlinuz-6.6", "6.6", "/boot/vmlinuz-6.6", "/vmlinuz"])
def test_what_the_command_line_names_comes_before_the_configured_one(root: str, wanted: str) -> None:
    choice = chosen(root, kernel="/boot/vmlinuz-6.1", explicit=wanted)
    assert taken(choice).id == "vmlinuz-6.6"
    assert choice.reason == "it is named on the command line"


def test_a_kernel_in_another_place_gets_the_initrd_of_its_version(root: str) -> None:
    assert taken(chosen(root, kernel="/opt/bzImage")) == BootEntry(
        id="/opt/bzImage",
        title="Linux 6.6",
        version="6.6",
        source=Source.CONFIG,
        kernel="/opt/bzImage",
        initrds=("/boot/initrd.img-6.6",),
    )


def test_a_kernel_without_an_initrd_of_its_version_gets_none(root: str) -> None:
    entry = taken(chosen(root, explicit="/opt/mine"))
    assert (entry.source, entry.version, entry.initrds) == (Source.EXPLICIT, "7.0-mine", ())


def test_a_configured_initrd_is_joined_to_the_configured_kernel(root: str) -> None:
    entry = taken(chosen(root, kernel="/boot/vmlinuz-6.1", initrd="/boot/custom.img"))
    assert (entry.kernel, entry.initrds, entry.source) == ("/boot/vmlinuz-6.1", ("/boot/custom.img",), Source.CONFIG)


def test_a_configured_initrd_is_joined_to_the_newest_kernel(root: str) -> None:
    choice = chosen(root, initrd="/boot/custom.img")
    assert taken(choice).initrds == ("/boot/custom.img",)
    assert choice.reason == "it is the newest that is installed, with the initrd that /etc/conf.d/kexec:4 names"


def test_an_empty_configured_initrd_is_none(root: str) -> None:
    assert taken(chosen(root, kernel="/boot/vmlinuz-6.1", initrd="")).initrds == ()


def test_the_links_that_debian_keeps_are_the_kernel_that_they_lead_to(root: str) -> None:
    choice = chosen(root, kernel="/vmlinuz", initrd="/initrd.img", stock=True)
    assert taken(choice) in entries(root)
    assert taken(choice).version == "6.6"


@pytest.mark.parametrize("kernel", ["/boot/vmlinuz-6.1", None])
def test_an_initrd_of_another_kernel_is_refused(root: str, kernel: str | None) -> None:
    choice = chosen(root, kernel=kernel, initrd="/initrd.img")
    assert choice.entry is None
    assert choice.reason == f"/etc/conf.d/kexec:4 names the initrd of 6.6 for the kernel {'6.1' if kernel else '6.12'}"


@pytest.mark.parametrize(
    ("kernel", "initrd", "reason"),
    [
        ("/boot/bzImage", None, "there is no /boot/bzImage, which /etc/conf.d/kexec:3 names"),
        ("/boot", None, "/boot is a directory, which /etc/conf.d/kexec:3 names"),
        ("/opt/mine", "/gone", "there is no /gone, which /etc/conf.d/kexec:4 names"),
        (None, "/gone", "there is no /gone, which /etc/conf.d/kexec:4 names"),
    ],
)
def test_what_is_configured_and_missing_is_not_replaced(
    root: str, kernel: str | None, initrd: str | None, reason: str
) -> None:
    choice = chosen(root, kernel=kernel, initrd=initrd)
    assert (choice.entry, choice.reason) == (None, reason)
    assert len(choice.losers) == 3


def test_a_kernel_that_only_the_package_names_may_be_missing(root: str) -> None:
    Path(root, "vmlinuz").unlink()
    choice = chosen(root, kernel="/vmlinuz", initrd="/initrd.img", stock=True)
    assert taken(choice).version == "6.12"
    assert taken(choice).initrds == ("/boot/initrd.img-6.12",)
    assert choice.reason == (
        "it is the newest that is installed; there is no /vmlinuz, which /etc/conf.d/kexec:3 came with"
    )


def test_a_configured_kernel_that_misses_its_initrd_is_refused(root: str) -> None:
    Path(root, "boot/initrd.img-6.12").unlink()
    Path(root, "lib/modules/6.12").mkdir(parents=True)
    choice = chosen(root, kernel="/boot/vmlinuz-6.12")
    assert choice.reason == "there is no initrd for 6.12, though there are others"
    assert choice.entry is None


def test_the_command_line_may_name_one_with_a_problem(root: str) -> None:
    Path(root, "boot/vmlinuz-6.12").rename(Path(root, "boot/vmlinuz-6.12.old"))
    choice = chosen(root, explicit="vmlinuz-6.12.old")
    assert taken(choice).version == "6.12"
    assert choice.reason == "it is named on the command line, although it is a backup copy"


def test_an_initrd_on_the_command_line_takes_the_place_of_the_found_one(root: str) -> None:
    found = choose(offered(root), Settings(), explicit="6.6", initrd="/boot/custom.img", root=root)
    assert taken(found).initrds == ("/boot/custom.img",)


@pytest.mark.parametrize(
    ("wanted", "reason"),
    [
        ("6.7", "there is no entry, version or title called 6.7"),
        ("", "there is no entry, version or title called "),
        ("/boot/vmlinuz-6.7", "there is no /boot/vmlinuz-6.7"),
        ("/boot/", "/boot/ is a directory"),
        ("/a\0b", "/a\0b cannot be read: embedded null byte"),
    ],
)
def test_what_the_command_line_names_in_vain_is_not_replaced(root: str, wanted: str, reason: str) -> None:
    choice = chosen(root, explicit=wanted)
    assert (choice.entry, choice.reason) == (None, reason)


def test_a_switched_off_kexec_chooses_nothing_by_itself(root: str) -> None:
    settings = Settings(disabled=True, origins=KERNEL_AT)
    choice = choose(offered(root), settings, root=root)
    assert (choice.entry, choice.reason) == (None, '/etc/conf.d/kexec:3 switches kexec off with KNAME="-"')
    assert taken(choose(offered(root), settings, explicit="6.1", root=root)).version == "6.1"


def test_without_kernels_nothing_is_chosen(tmp_path: Path) -> None:
    assert chosen(str(tmp_path)) == Choice(None, "no kernel was found in /boot")


def test_when_none_can_be_taken_each_says_why(root: str) -> None:
    for version in ("6.1", "6.6", "6.12"):
        Path(root, f"boot/vmlinuz-{version}").write_bytes(b"")
    choice = chosen(root)
    assert (choice.entry, choice.reason) == (None, "no kernel that was found can be taken: /boot/vmlinuz-6.12 is empty")
    assert choice.losers[0] == ("vmlinuz-6.12", "/boot/vmlinuz-6.12 is empty")


def menu(*entries: BootEntry, next: str, reason: str = "") -> Found:
    return Found(Source.GRUB, entries, next, reason)


def item(name: str, version: str, *problems: str) -> BootEntry:
    kernel = f"/boot/vmlinuz-{version}"
    return BootEntry(id=name, title=name, version=version, source=Source.GRUB, kernel=kernel, problems=problems)


def test_what_the_boot_loader_would_boot_comes_before_the_newest(root: str) -> None:
    loader = menu(item("new", "6.12"), item("old", "6.1"), next="old", reason="next_entry says so")
    offer = Offer((loader, *offered(root).found), loader)
    choice = choose(offer, Settings(), root=root)
    assert taken(choice).id == "old"
    assert choice.reason == "GRUB would boot it next, because next_entry says so"
    assert dict(choice.losers)["new"] == "GRUB boots another one next"
    assert taken(choose(offer, Settings(), newest=True, root=root)).id == "vmlinuz-6.12"


def test_a_configured_kernel_comes_before_the_boot_loaders(root: str) -> None:
    loader = menu(item("old", "6.1"), next="old")
    settings = Settings(kernel="/boot/vmlinuz-6.6", origins=KERNEL_AT)
    assert taken(choose(Offer((loader, *offered(root).found), loader), settings, root=root)).id == "vmlinuz-6.6"


def test_where_it_cannot_be_told_what_the_boot_loader_boots_nothing_is_guessed(root: str) -> None:
    loader = menu(item("old", "6.1"), next="", reason="/boot/grub/grub.cfg:7:1: not understood")
    choice = choose(Offer((loader, *offered(root).found), loader), Settings(), root=root)
    why = f"it cannot be told what GRUB would boot next: /boot/grub/grub.cfg:7:1: not understood{NAME_ONE}"
    assert (choice.entry, choice.reason) == (None, why)


def test_another_operating_system_is_not_replaced_by_a_kernel(root: str) -> None:
    loader = menu(item("Windows", "", "it is started by its own boot loader"), next="Windows")
    choice = choose(Offer((loader, *offered(root).found), loader), Settings(), root=root)
    assert choice.entry is None
    assert choice.reason.startswith("GRUB would boot Windows, but it is started by its own boot loader")


def test_what_was_installed_last_comes_before_the_newest(root: str) -> None:
    last = BootEntry(id="last", title="last", version="6.6", source=Source.INSTALLKERNEL, kernel="/boot/vmlinuz-6.6")
    offer = Offer((Found(Source.INSTALLKERNEL, (last,), "last"), *offered(root).found))
    choice = choose(offer, Settings(), root=root)
    assert taken(choice) is last and "installed last" in choice.reason
    assert taken(choose(offer, Settings(), newest=True, root=root)).version == "6.12"


def test_a_version_names_the_boot_loaders_entry_that_can_be_booted(root: str) -> None:
    loader = menu(item("broken", "6.6", "there is no /gone"), item("good", "6.6"), next="broken")
    offer = Offer((loader, *offered(root).found), loader)
    assert taken(choose(offer, Settings(), explicit="6.6", root=root)).id == "good"
