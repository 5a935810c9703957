# SPDX-License-Identifier: MIT
"""kexec-tools' services that load or jump by themselves, as Debian and Gentoo install and enable them."""

from __future__ import annotations

from pathlib import Path

import pytest

from kexecd.discover.foreign_scripts import ForeignScript, foreign_scripts
from tests.unit.boot_tree import BootTree

LOADS = '#! /bin/sh\n### BEGIN INIT INFO\n# Provides: kexec-load\n### END INIT INFO\n/sbin/kexec -l "$KERNEL_IMAGE"\n'
JUMPS = "#! /bin/sh\n### BEGIN INIT INFO\n# Required-Stop: reboot\n### END INIT INFO\n/sbin/kexec -e\n"
GENTOO = "#!/sbin/openrc-run\nstop() {\n\tkexec ${KEXEC_OPT_ARGS} -l ${img}\n}\n"
UNIT = "[Service]\nType=oneshot\nExecStart=/usr/sbin/kexec -l /boot/${KNAME}\n"


@pytest.fixture
def tree(tmp_path: Path) -> BootTree:
    return BootTree(tmp_path)


def debian(tree: BootTree) -> None:
    """What installing kexec-tools leaves, whichever the init is."""
    tree.write("/etc/init.d/kexec", JUMPS)
    tree.write("/etc/init.d/kexec-load", LOADS)
    for name in ("rc6.d/K01kexec-load", "rc6.d/K06kexec", "rc2.d/S01kexec-load", "rc2.d/S01kexec"):
        tree.link(f"/etc/{name}", f"../init.d/{name.partition('/')[2][3:]}")


def found(tree: BootTree) -> dict[str, ForeignScript]:
    return {script.path: script for script in foreign_scripts(tree.root)}


def test_sysv_rc_calls_both_of_debians_and_the_one_that_jumps_does_not_look(tree: BootTree) -> None:
    debian(tree)
    scripts = found(tree)
    assert (scripts["/etc/init.d/kexec"].jumps, scripts["/etc/init.d/kexec-load"].jumps) == (True, False)
    assert "without a look" in scripts["/etc/init.d/kexec"].harm
    assert scripts["/etc/init.d/kexec-load"].remedy == "update-rc.d kexec-load disable"


def test_openrc_calls_those_that_are_in_a_runlevel_while_everything_is_mounted(tree: BootTree) -> None:
    debian(tree)
    tree.write("/sbin/openrc")
    assert found(tree) == {}
    tree.link("/etc/runlevels/default/kexec", "/etc/init.d/kexec")
    (script,) = found(tree).values()
    assert script.jumps and script.remedy == "rc-update del kexec default"
    assert "while every filesystem is still mounted" in script.harm


def test_gentoos_loads_and_ours_of_the_same_name_is_not_taken_for_it(tree: BootTree) -> None:
    tree.write("/sbin/openrc")
    tree.write("/etc/init.d/kexec", GENTOO)
    tree.link("/etc/runlevels/default/kexec", "/etc/init.d/kexec")
    (script,) = found(tree).values()
    assert not script.jumps and "a kernel of its own choice" in script.harm
    ours = Path(__file__).parents[2] / "openrc/kexec"
    tree.write("/etc/init.d/kexec", ours.read_text(encoding="utf-8"))
    assert found(tree) == {}


def test_systemd_calls_debians_loader_and_not_what_is_masked(tree: BootTree) -> None:
    debian(tree)
    tree.write("/run/systemd/system/.keep")
    tree.link("/usr/lib/systemd/system/kexec.service", "/dev/null")
    assert list(found(tree)) == ["/etc/init.d/kexec-load"]


def test_systemd_calls_gentoos_unit_if_it_is_enabled(tree: BootTree) -> None:
    tree.write("/run/systemd/system/.keep")
    tree.write("/usr/lib/systemd/system/kexec.service", UNIT)
    assert found(tree) == {}
    tree.link("/etc/systemd/system/multi-user.target.wants/kexec.service", "/usr/lib/systemd/system/kexec.service")
    (script,) = found(tree).values()
    assert "also where the machine does not restart" in script.harm


def test_a_machine_without_kexec_tools_has_none(tree: BootTree) -> None:
    assert foreign_scripts(tree.root) == ()
    tree.link("/etc/rc6.d/K06kexec", "../init.d/kexec")
    assert foreign_scripts(tree.root) == (), "removed, and its link left behind"
