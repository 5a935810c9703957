# SPDX-License-Identifier: MIT
"""Which services of OpenRC have to be stopped by their own script, read from what Gentoo and Alpine ship."""

from __future__ import annotations

from pathlib import Path

import pytest

from kexecd.init.openrc_scripts import does_more, started, to_be_stopped
from tests.unit.boot_tree import BootTree

HEAD = "#!/sbin/openrc-run\n"

ONLY_SIGNAL = [
    "command=/usr/sbin/crond\npidfile=/run/crond.pid\n",
    "start() {\n\tmodprobe loop\n\tmount /x\n}\n",
    'stop() {\n\tebegin "Stopping it"\n\tstart-stop-daemon --stop --quiet --pidfile "${PIDFILE}"\n\teend $?\n}\n',
    "stop()\n{\n    start-stop-daemon --stop --exec /usr/sbin/x \\\n        --retry 15\n    eend $?\n}\n",
    "stop() { default_stop; }\nstart() {\n\tmodprobe loop\n}\n",
    'stop() {\n\tif [ -f "$pidfile" ]; then\n\t\trm -f "$pidfile"  # tidy up; and go\n\tfi\n\treturn 0\n}\n',
    "stop() {\n\tstart-stop-daemon --stop -s TERM --name x\n}\n",
    'retry="TERM/60/KILL/5"\n',
    'retry="SIGTERM/60/SIGKILL/5"\n',
]

MORE = [
    "stop() {\n\tebegin x\n\tmysqladmin shutdown\n\teend $?\n}\n",
    'stop() {\n\tlocal guests=$(virsh list)\n\teend 0\n}\n',
    "stop() {\n\tebegin x && /usr/bin/rrdcached --flush\n}\n",
    "stop_pre() {\n\tsave_state\n}\n",
    "stop_post() {\n\tiptables-save > /var/lib/iptables/rules\n}\n",
    "stop() {\n\tstart-stop-daemon --stop --signal QUIT --pidfile x\n}\n",
    "stop() {\n\tstart-stop-daemon --stop -s SIGINT --pidfile x\n}\n",
    'stopsig="SIGQUIT"\n',
    'retry="SIGQUIT/20/SIGTERM/5"\n',
    'stop() {\n\tif ! something; then\n\t\treturn 1\n\tfi\n}\n',
    "stop() {\n\tfor guest in $GUESTS; do lxc-stop $guest; done\n}\n",
    "stop() {\n\techo `flush`\n}\n",
]


@pytest.mark.parametrize("text", ONLY_SIGNAL)
def test_who_only_signals_and_tidies_up_gets_its_term_directly(text: str) -> None:
    assert not does_more(HEAD + text)


@pytest.mark.parametrize("text", MORE)
def test_who_does_more_is_stopped_by_its_script(text: str) -> None:
    assert does_more(HEAD + text)


def test_a_signal_of_its_own_may_stand_in_conf_d() -> None:
    assert does_more(HEAD, 'stopsig="INT"\nretry="SIGINT/5"\n')


@pytest.fixture
def tree(tmp_path: Path) -> BootTree:
    tree = BootTree(tmp_path)
    for name in ("postgresql", "cron", "net.eth0", "lvm", "dmcrypt", "localmount", "kexec", "kexec-finish", "qemu"):
        tree.write(f"/etc/init.d/{name}", HEAD + ("" if name == "cron" else MORE[0]))
        tree.write(f"/run/openrc/started/{name}")
    tree.link("/etc/runlevels/boot/qemu", "/etc/init.d/qemu")
    return tree


def test_what_others_stand_on_and_what_is_ours_is_never_stopped(tree: BootTree) -> None:
    assert len(started(tree.root)) == 9
    assert to_be_stopped(started(tree.root), tree.root) == ("postgresql",)


def test_lsb_scripts_tell_nothing_and_one_that_cannot_be_read_is_left_to_its_script(tree: BootTree) -> None:
    tree.write("/etc/init.d/postgresql", "#!/bin/sh\n### BEGIN INIT INFO\nstop() {\n\tsave\n}\n")
    assert to_be_stopped(("postgresql", "gone"), tree.root) == ()
    (tree.path / "etc/init.d/odd").mkdir()
    assert to_be_stopped(("odd",), tree.root) == ("odd",)


def test_a_machine_without_openrc_has_no_services(tmp_path: Path) -> None:
    assert started(str(tmp_path)) == ()
