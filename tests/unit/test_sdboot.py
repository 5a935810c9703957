# SPDX-License-Identifier: MIT
import os
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from kexecd.discover import sdboot
from kexecd.discover.sdboot import VENDOR
from tests.unit.test_uki import PLAIN, image


class Machine:
    """A tree with systemd-boot: entries a, b, c and old, in this order, where old is out of tries."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.put("efi/k", "k")
        for name, version in (("a", 3), ("b", 2), ("c", 1), ("old+0-3", 9)):
            self.put(f"efi/loader/entries/{name}.conf", f"linux /k\nsort-key x\nversion {version}\n")

    def put(self, path: str, text: str | bytes) -> None:
        place = self.root / path
        place.parent.mkdir(parents=True, exist_ok=True)
        place.write_bytes(text.encode() if isinstance(text, str) else text)

    def variable(self, name: str, value: str | bytes) -> None:
        data = b"\7\0\0\0" + f"{value}\0".encode("utf-16-le") if isinstance(value, str) else value
        self.put(f"sys/firmware/efi/efivars/{name}-{VENDOR}", data)

    def next(self) -> tuple[str, str]:
        found = sdboot.find(str(self.root), machine="x86_64")
        assert found is not None
        return found.next, found.reason


@pytest.fixture
def machine(tmp_path: Path) -> Machine:
    return Machine(tmp_path)


def test_the_first_is_next_where_nothing_is_set(machine: Machine) -> None:
    assert machine.next() == ("a.conf", "it is the first in systemd-boot's menu")


def test_loader_conf_is_asked_by_pattern(machine: Machine) -> None:
    machine.put("efi/loader/loader.conf", "timeout 3\ndefault [bc]*\n")
    assert machine.next() == ("b.conf", "default in /efi/loader/loader.conf names [bc]*")


def test_a_variable_comes_before_loader_conf_and_once_before_always(machine: Machine) -> None:
    machine.put("efi/loader/loader.conf", "default b.conf")
    machine.variable("LoaderEntryDefault", "C.CONF")
    assert machine.next() == ("c.conf", "LoaderEntryDefault names C.CONF")
    machine.variable("LoaderEntryOneShot", "a.conf")
    assert machine.next() == ("a.conf", "LoaderEntryOneShot names a.conf")


def test_what_was_booted_is_not_what_is_booted_next(machine: Machine) -> None:
    machine.variable("LoaderEntrySelected", "c.conf")
    machine.variable("LoaderEntryLastBooted", "c.conf")
    assert machine.next()[0] == "a.conf"


@pytest.mark.parametrize("where", ["loader.conf", "LoaderEntryDefault"])
def test_saved_is_what_was_booted_last(machine: Machine, where: str) -> None:
    if where == "loader.conf":
        machine.put("efi/loader/loader.conf", "default @saved")
    else:
        machine.variable(where, "@saved")
    assert machine.next()[0] == "a.conf"
    machine.variable("LoaderEntryLastBooted", "c.conf")
    assert machine.next()[0] == "c.conf"


def test_what_is_wanted_and_is_not_there_is_told(machine: Machine) -> None:
    machine.put("efi/loader/loader.conf", "default arch")
    assert machine.next() == (
        "a.conf",
        "it is the first in systemd-boot's menu; default in /efi/loader/loader.conf names arch, which is not there",
    )


@pytest.mark.parametrize("wanted", ["auto-windows", "auto-reboot-to-firmware-setup"])
def test_what_is_no_kernel_is_never_replaced_by_one(machine: Machine, wanted: str) -> None:
    machine.variable("LoaderEntryOneShot", wanted)
    entry, reason = machine.next()
    assert (entry, wanted in reason) == ("", True)


def test_an_entry_out_of_tries_is_the_default_if_it_is_named_and_never_preferred(machine: Machine) -> None:
    machine.put("efi/loader/loader.conf", "default old.conf\npreferred old.conf")
    assert machine.next() == ("old.conf", "default in /efi/loader/loader.conf names old.conf")
    machine.put("efi/loader/loader.conf", "default b.conf\npreferred c.conf")
    assert machine.next()[0] == "c.conf"
    machine.variable("LoaderEntryPreferred", "a.conf")
    assert machine.next()[0] == "a.conf"


def test_an_older_systemd_boot_knows_nothing_of_preferred(machine: Machine) -> None:
    machine.put("efi/loader/loader.conf", "default b.conf\npreferred c.conf")
    machine.variable("LoaderInfo", "systemd-boot 257.13-1")
    assert machine.next()[0] == "b.conf"


def test_older_ones_compare_names_with_their_counters(machine: Machine) -> None:
    machine.variable("LoaderEntryDefault", "old+0-3.conf")
    assert machine.next()[0] == "old.conf"


def test_what_systemd_boot_hides_is_found_and_never_next(machine: Machine) -> None:
    machine.put("efi/loader/entries/z.conf", "linux /gone\nsort-key a")
    machine.put("efi/loader/entries/y.conf", "linux /k\nsort-key a\narchitecture aa64")
    found = sdboot.find(str(machine.root), machine="x86_64")
    assert found is not None
    assert [entry.id for entry in found.entries][:3] == ["z.conf", "y.conf", "a.conf"]
    assert found.next == "a.conf"


def test_both_types_share_one_menu_over_all_partitions(machine: Machine) -> None:
    machine.put("boot/EFI/Linux/u.efi", image(PLAIN))
    found = sdboot.find(str(machine.root))
    assert found is not None
    assert [entry.id for entry in found.entries] == ["u.efi", "a.conf", "b.conf", "c.conf", "old.conf"]
    machine.variable("LoaderEntryOneShot", "u.efi")
    assert machine.next()[0] == "u.efi"


def test_an_image_that_was_cut_short_is_still_what_systemd_boot_tries(machine: Machine) -> None:
    machine.put("boot/EFI/Linux/u.efi", image(PLAIN)[:-600])
    found = sdboot.find(str(machine.root))
    assert found is not None
    assert (found.next, found.entries[0].problems) == ("u.efi", ("the file is truncated: 600 bytes are missing",))


def test_a_machine_without_entries_and_loader_conf_has_no_menu(tmp_path: Path) -> None:
    (tmp_path / "boot").mkdir()
    assert sdboot.find(str(tmp_path)) is None


def test_a_menu_without_entries_has_no_next(tmp_path: Path) -> None:
    (tmp_path / "boot/loader").mkdir(parents=True)
    (tmp_path / "boot/loader/loader.conf").write_text("timeout 3")
    found = sdboot.find(str(tmp_path))
    assert found is not None
    assert (found.entries, found.next, found.reason) == ((), "", "there is nothing in systemd-boot's menu")


@pytest.mark.parametrize("value", [b"", b"\7\0", b"\7\0\0\0", b"\7\0\0\0a", b"\7\0\0\0\0\0", b"\7\0\0\0\0\xd8\0\0"])
def test_a_variable_that_makes_no_sense_names_nothing(machine: Machine, value: bytes) -> None:
    machine.variable("LoaderEntryOneShot", value)
    assert machine.next()[0] == "a.conf"


def test_files_that_are_none_are_told(machine: Machine) -> None:
    efivars = machine.root / "sys/firmware/efi/efivars"
    efivars.mkdir(parents=True)
    os.mkfifo(efivars / f"LoaderEntryOneShot-{VENDOR}")
    (efivars / f"LoaderEntryDefault-{VENDOR}").touch()
    os.truncate(efivars / f"LoaderEntryDefault-{VENDOR}", 10 << 30)
    os.mkfifo(machine.root / "efi/loader/loader.conf")
    found = sdboot.find(str(machine.root))
    assert found is not None
    assert found.next == "a.conf"
    assert found.problems == (
        "/efi/loader/loader.conf cannot be read: not a regular file",
        f"/sys/firmware/efi/efivars/LoaderEntryOneShot-{VENDOR} cannot be read: not a regular file",
        f"/sys/firmware/efi/efivars/LoaderEntryDefault-{VENDOR} cannot be read: larger than 16384 bytes",
    )


def test_it_runs_if_it_says_so(machine: Machine) -> None:
    machine.variable("LoaderInfo", "systemd-boot 257.13-1")
    assert sdboot.runs(str(machine.root))


@pytest.mark.parametrize("info", ["GRUB 2.14", ""])
def test_it_does_not_run_if_another_one_does(machine: Machine, info: str) -> None:
    machine.put("efi/EFI/systemd/systemd-bootx64.efi", "x")
    machine.variable("LoaderInfo" if info else "Boot0001", info or "x")
    assert not sdboot.runs(str(machine.root))


def test_it_does_not_run_where_a_bios_started_the_machine(machine: Machine) -> None:
    machine.put("efi/EFI/systemd/systemd-bootx64.efi", "x")
    (machine.root / "sys/firmware/acpi").mkdir(parents=True)
    assert not sdboot.runs(str(machine.root))


@pytest.mark.parametrize(
    ("files", "runs"),
    [
        (("efi/EFI/systemd/systemd-bootx64.efi",), True),
        (("boot/EFI/BOOT/BOOTX64.EFI", "boot/loader/loader.conf"), True),
        (("boot/EFI/BOOT/BOOTX64.EFI",), False),
        (("boot/loader/loader.conf",), False),
    ],
)
def test_without_variables_its_files_tell(machine: Machine, files: tuple[str, ...], runs: bool) -> None:
    for path in files:
        machine.put(path, "x")
    assert sdboot.runs(str(machine.root)) == runs


PATTERNS = st.text("*?[]!-a\\.conf@saved", max_size=20)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None, max_examples=100)
@given(st.one_of(st.binary(max_size=60), PATTERNS.map("default {}".format).map(str.encode)), st.binary(max_size=40))
def test_any_setting_leads_to_an_entry_or_a_reason(machine: Machine, conf: bytes, value: bytes) -> None:
    machine.put("efi/loader/loader.conf", conf)
    machine.variable("LoaderEntryOneShot", b"\7\0\0\0" + value)
    entry, reason = machine.next()
    assert reason
    assert entry in ("", "a.conf", "b.conf", "c.conf", "old.conf")
