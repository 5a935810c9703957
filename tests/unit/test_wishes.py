# SPDX-License-Identifier: MIT
"""What this machine does next, as each init tells it, and who wants the firmware."""

from __future__ import annotations

import os
import struct
from pathlib import Path

import pytest

from kexecd.config.settings import Settings
from kexecd.init import wishes
from kexecd.init.wishes import EFIVARS, GLOBAL, LOADER, Going, firmware_wish, heading
from kexecd.model import Act, State, Way
from kexecd.state import Restart
from tests.unit.boot_tree import BootTree

SETTINGS = Settings()


def restart(act: Act, way: Way = Way.ORDERLY, state: State = State.PREPARED) -> Restart:
    return Restart(state=state, way=way, act=act, loaded=True, since=0.0)


@pytest.fixture
def tree(tmp_path: Path) -> BootTree:
    return BootTree(tmp_path)


@pytest.fixture
def openrc(tree: BootTree) -> BootTree:
    tree.write("/run/openrc/softlevel", "default")
    return tree


def pid1(tree: BootTree, program: str, title: str = "") -> None:
    tree.link("/proc/1/exe", program)
    tree.write("/proc/1/comm", os.path.basename(program) + "\n")
    tree.write("/proc/1/cmdline", title)
    if program.endswith("/init"):
        tree.write("/run/initctl")


# What it does next


@pytest.mark.parametrize(
    ("jobs", "going"),
    [
        ("12 reboot.target start waiting\n13 cron.service stop running\n", Going.REBOOT),
        ("12 kexec.target start waiting\n", Going.REBOOT),
        ("12 poweroff.target start waiting\n", Going.DOWN),
        ("12 halt.target start waiting\n", Going.DOWN),
        ("12 exit.target start waiting\n", Going.DOWN),
        ("12 rescue.target start waiting\n", Going.DOWN),
        ("12 emergency.target start waiting\n", Going.DOWN),
        ("12 soft-reboot.target start waiting\n", Going.STAY),
        ("12 kexecd-preload.service stop running\n", Going.STAY),
        ("12 reboot.target stop waiting\n", Going.STAY),
        ("12 not-a-reboot.target start waiting\n", Going.STAY),
        ("", Going.STAY),
        ("nonsense\n", Going.STAY),
    ],
)
def test_systemd_tells_by_its_jobs(jobs: str, going: Going) -> None:
    assert wishes._by_jobs(lambda: jobs, lambda: "").going is going


def test_a_target_of_one_user_that_is_reached_already_has_no_job_any_more() -> None:
    assert wishes._by_jobs(lambda: "", lambda: "rescue.target").going is Going.DOWN
    restart = "12 reboot.target start waiting"
    assert wishes._by_jobs(lambda: restart, lambda: "rescue.target").going is Going.REBOOT, "from single user"


def test_a_systemd_that_does_not_answer_is_not_taken_for_one_that_restarts() -> None:
    def silent() -> str:
        raise OSError("no answer")

    found = wishes._by_jobs(silent)
    assert found.going is Going.STAY and "no answer" in found.why


@pytest.mark.parametrize(
    ("environment", "going"),
    [
        ({"RC_REBOOT": "YES", "RC_GOINGDOWN": "YES", "RC_RUNLEVEL": "shutdown"}, Going.REBOOT),
        ({"RC_REBOOT": "yes"}, Going.REBOOT),
        ({"RC_REBOOT": "", "RC_GOINGDOWN": "YES", "RC_RUNLEVEL": "shutdown"}, Going.DOWN),
        ({"RC_GOINGDOWN": "YES", "RC_RUNLEVEL": "single"}, Going.DOWN),
        ({"RC_RUNLEVEL": "single"}, Going.DOWN),
        ({"RC_RUNLEVEL": "default", "RC_REBOOT": "", "RC_GOINGDOWN": ""}, Going.STAY),
        ({"RC_REBOOT": "no"}, Going.STAY),
        ({}, Going.STAY),
    ],
)
def test_openrc_tells_by_its_environment(openrc: BootTree, environment: dict[str, str], going: Going) -> None:
    pid1(openrc, "/sbin/openrc-init")
    assert heading(environment, None, openrc.root).going is going


@pytest.mark.parametrize(
    ("title", "going"),
    [("init [6]  ", Going.REBOOT), ("init [0]", Going.DOWN), ("/sbin/init [1]", Going.DOWN), ("init [2]", Going.STAY)],
)
def test_debians_openrc_tells_nothing_in_its_first_phase_but_sysvinit_does(
    openrc: BootTree, title: str, going: Going
) -> None:
    pid1(openrc, "/sbin/init", title)
    said = {"RC_RUNLEVEL": "default", "RC_REBOOT": "", "RC_GOINGDOWN": ""}
    assert heading(said, None, openrc.root).going is going


@pytest.mark.parametrize(
    ("level", "going"),
    [("6", Going.REBOOT), ("0", Going.DOWN), ("1", Going.DOWN), ("S", Going.DOWN), ("2", Going.STAY), ("", Going.STAY)],
)
def test_sysv_rc_hands_the_runlevel_on(tree: BootTree, level: str, going: Going) -> None:
    pid1(tree, "/sbin/init")
    assert heading({"RUNLEVEL": level}, None, tree.root).going is going


def test_init_itself_knows_better_than_what_a_shell_has_inherited_from_the_boot(tree: BootTree) -> None:
    pid1(tree, "/sbin/init", "init [2]")
    assert heading({"RUNLEVEL": "6"}, None, tree.root).going is Going.STAY


def test_busybox_does_not_tell_a_reboot_from_a_poweroff_so_that_only_our_own_request_does(openrc: BootTree) -> None:
    pid1(openrc, "/bin/busybox")
    said = {"RC_GOINGDOWN": "YES", "RC_RUNLEVEL": "shutdown"}
    assert heading(said, None, openrc.root).going is Going.DOWN
    assert heading(said, restart(Act.KEXEC), openrc.root).going is Going.REBOOT
    assert heading(said, restart(Act.KEXEC, Way.FAST), openrc.root).going is Going.DOWN
    assert heading(said | {"RC_RUNLEVEL": "single"}, restart(Act.KEXEC), openrc.root).going is Going.DOWN


def test_elsewhere_our_own_request_does_not_turn_a_poweroff_into_a_reboot(openrc: BootTree) -> None:
    pid1(openrc, "/sbin/openrc-init")
    said = {"RC_GOINGDOWN": "YES", "RC_RUNLEVEL": "shutdown"}
    assert heading(said, restart(Act.KEXEC), openrc.root).going is Going.DOWN


def test_without_any_init_that_tells_the_machine_stays(tree: BootTree) -> None:
    assert heading({}, None, tree.root).going is Going.STAY


# Who wants the firmware


def variable(tree: BootTree, name: str, vendor: str, value: bytes) -> None:
    tree.place(f"{EFIVARS}/{name}-{vendor}").write_bytes(struct.pack("<I", 7) + value)


def wish(tree: BootTree, settings: Settings = SETTINGS, asked: Restart | None = None) -> str:
    found = firmware_wish(settings, asked, tree.root)
    return found.why if found else ""


def test_nobody_wants_it_on_an_ordinary_machine(tree: BootTree) -> None:
    variable(tree, "OsIndications", GLOBAL, bytes(8))
    tree.write("/run/systemd/reboot-param", "\n")
    assert wish(tree) == "" and wish(tree, asked=restart(Act.KEXEC)) == ""


@pytest.mark.parametrize("name", ["/nokexec", "/no-kexec-reboot"])
def test_a_file_of_gentoos_or_debians_means_it_once(tree: BootTree, name: str) -> None:
    tree.write(name)
    found = firmware_wish(SETTINGS, None, tree.root)
    assert found and found.file == name and name in found.why


def test_a_link_that_leads_nowhere_is_such_a_file_too(tree: BootTree) -> None:
    tree.link("/nokexec", "/nowhere")
    assert "/nokexec" in wish(tree)


def test_our_own_request_comes_first(tree: BootTree) -> None:
    tree.write("/nokexec")
    found = firmware_wish(SETTINGS, restart(Act.FIRMWARE), tree.root)
    assert found and "--firmware" in found.why and found.file == "", "the file is for another time"


def test_kname_says_where_it_does(tree: BootTree) -> None:
    settings = Settings(disabled=True, origins=(("kernel", "/etc/conf.d/kexec:3"),))
    assert wish(tree, settings) == '/etc/conf.d/kexec:3 switches kexec off with KNAME="-"'
    assert wish(tree, settings, restart(Act.KEXEC)) == "", "somebody has named a kernel to kexecctl"


@pytest.mark.parametrize(
    ("name", "text", "told"),
    [
        ("/run/systemd/reboot-to-firmware-setup", "", "the firmware's setup"),
        ("/run/systemd/reboot-to-boot-loader-menu", "5000000", "the boot loader's menu"),
        ("/run/systemd/reboot-param", "recovery\n", "an argument for the firmware: recovery"),
    ],
)
def test_what_systemctl_reboot_leaves_behind(tree: BootTree, name: str, text: str, told: str) -> None:
    tree.write(name, text)
    assert told in wish(tree)


@pytest.mark.parametrize(
    ("bits", "told"),
    [(1, "its setup"), (4, "an update that lies on"), (0x20, "an operating system"), (0x41, "its setup"), (2, "")],
)
def test_os_indications_are_read_bit_by_bit(tree: BootTree, bits: int, told: str) -> None:
    variable(tree, "OsIndications", GLOBAL, struct.pack("<Q", bits))
    assert told in wish(tree) and bool(wish(tree)) == bool(told)


def test_a_next_boot_entry_and_systemd_boots_menu_are_the_firmwares_business(tree: BootTree) -> None:
    variable(tree, "LoaderConfigTimeoutOneShot", LOADER, "10\0".encode("utf-16-le"))
    assert "systemd-boot's menu" in wish(tree)
    variable(tree, "BootNext", GLOBAL, struct.pack("<H", 0x1A))
    assert "Boot001A" in wish(tree)


@pytest.mark.parametrize("data", [b"", b"\7\0\0\0", b"\7\0"])
def test_a_variable_without_a_value_wishes_nothing(tree: BootTree, data: bytes) -> None:
    for name in ("OsIndications", "BootNext"):
        tree.place(f"{EFIVARS}/{name}-{GLOBAL}").write_bytes(data)
    assert wish(tree) == ""
