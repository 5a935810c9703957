# SPDX-License-Identifier: MIT
"""What the scripts of openrc/ do when an init calls them, run by the shell that runs them, in a /run and a /sys of the
test's own. kexecctl and the last act only write down that they were called: what these do is tested elsewhere, and all
of it together in the guests (tests/vm/doors).
"""

from __future__ import annotations

import os
import subprocess
import time
from pathlib import Path

import pytest

from kexecd.init import openrc_scripts
from kexecd.init.openrc_scripts import StopScripts
from tests.namespaces.isolated import isolated
from tests.namespaces.stage import command, eventually, notes, walk

OPENRC = Path(__file__).parents[2] / "openrc"

# What openrc-run gives to a script, of which none has to do what it does there.
OPENRC_RUN = """
yesno() { case $1 in [Yy][Ee][Ss]) return 0 ;; esac; return 1; }
einfo() { echo "$@"; }
eerror() { echo "$@" >&2; }
default_status() { echo as always; }
service_started() { return 0; }
ebegin() { :; }
eend() { return "$1"; }
readlink() { echo "${PID1:-/sbin/openrc-init}"; }
"""


class Stage:
    """Scripts as they are installed, and a log of what they call."""

    def __init__(self, directory: Path) -> None:
        self.directory, self.log = directory, directory / "log"

    def begin(self, *, loaded: int = 1) -> None:
        for point in ("/run", "/sys", "/var/lib"):
            command("mount", "-t", "tmpfs", "-o", "mode=755", "own", point)
        os.makedirs("/sys/kernel")
        os.makedirs("/run/kexecd")
        os.makedirs("/var/lib/kexecd")
        Path("/sys/kernel/kexec_loaded").write_text(f"{loaded}\n")
        command("mount", "--bind", "/dev/null", "/dev/kmsg")
        for name in ("kexecctl", "python", "start-stop-daemon"):
            program = self.directory / name
            program.write_text(f'#!/bin/sh\necho "{name} $*" >> {self.log}\necho said by {name}\nexit ${{STATUS:-0}}\n')
            program.chmod(0o755)

    def call(self, script: str, verb: str, **environment: str) -> tuple[int, list[str]]:
        """Returns its exit status, and what it has called."""
        text = (OPENRC / script).read_text(encoding="utf-8")
        for key, value in (
            ("@SBINDIR@", str(self.directory)),
            ("@LIBDIR@", "/lib"),
            ("@PYTHON@", str(self.directory / "python")),
        ):
            text = text.replace(key, value)
        file = self.directory / "script"
        file.write_text(f"{OPENRC_RUN}{text}\n{verb}\n" if text.startswith("#!/sbin/openrc-run") else text)
        words = ["/bin/sh", str(file), *([] if text.startswith("#!/sbin/openrc-run") else [verb])]
        self.log.write_text("")
        ours = {"PATH": f"{self.directory}:/usr/bin:/bin", **environment}
        done = subprocess.run(words, env=ours, capture_output=True, text=True, check=False, timeout=30)
        self.said = done.stdout + done.stderr
        return done.returncode, self.log.read_text().splitlines()


ASKED = '{\n  "act": "kexec"\n}\n'
JUMP = "python -I -S /lib/kexecd/jump.py --jump"
RESET = f"{JUMP} --firmware"


@pytest.fixture
def stage(tmp_path: Path) -> Stage:
    return Stage(tmp_path)


# Upstream's OpenRC


@isolated
def test_a_service_that_stops_never_fails_and_one_that_starts_tells_whether_it_could(stage: Stage) -> None:
    stage.begin()
    assert stage.call("kexec", "start") == (0, ["kexecctl service start"])
    assert "said by kexecctl" in stage.said
    assert stage.call("kexec", "start", STATUS="3")[0] == 3
    assert stage.call("kexec", "stop", STATUS="3") == (0, ["kexecctl service stop --going ask"])
    assert stage.call("kexec", "status") == (0, ["kexecctl service status"])


@isolated
def test_the_last_service_jumps_in_a_restart_and_in_nothing_else(stage: Stage) -> None:
    stage.begin()
    for pid1 in ("/sbin/openrc-init", "/sbin/init"):
        assert stage.call("kexec-jump", "start", RC_REBOOT="YES", PID1=pid1) == (0, [JUMP])
        assert stage.call("kexec-jump", "start", RC_REBOOT="", PID1=pid1) == (0, [])
        assert stage.call("kexec-jump", "start", PID1=pid1) == (0, [])
    assert stage.call("kexec-jump", "start", RC_REBOOT="YES", STATUS="14")[0] == 0, "whatever came of it"


@isolated
def test_without_an_image_it_starts_no_python(stage: Stage) -> None:
    stage.begin(loaded=0)
    assert stage.call("kexec-jump", "start", RC_REBOOT="YES") == (0, [])


@isolated
def test_the_new_name_of_the_kernels_file_counts_too(stage: Stage) -> None:
    stage.begin(loaded=0)
    os.mkdir("/sys/kernel/kexec")
    Path("/sys/kernel/kexec/loaded").write_text("1\n")
    os.unlink("/sys/kernel/kexec_loaded")
    assert stage.call("kexec-jump", "start", RC_REBOOT="YES") == (0, [JUMP])


@isolated
def test_an_openrc_init_that_may_have_been_asked_for_a_kexec_is_not_left_to_hang(stage: Stage) -> None:
    stage.begin(loaded=0)
    Path("/run/kexecd/armed").touch()
    assert stage.call("kexec-jump", "start", RC_REBOOT="YES") == (0, [RESET])
    assert stage.call("kexec-jump", "start", RC_REBOOT="YES", PID1="/sbin/init") == (0, [])
    assert stage.call("kexec-jump", "start", RC_REBOOT="") == (0, [])


@isolated
def test_below_busybox_only_what_kexecctl_has_asked_for_is_known_to_be_a_restart(stage: Stage) -> None:
    stage.begin()
    assert stage.call("kexec-jump", "start", PID1="/bin/busybox") == (0, [])
    Path("/run/kexecd/state.json").write_text(ASKED.replace("kexec", "firmware"))
    assert stage.call("kexec-jump", "start", PID1="/bin/busybox") == (0, [])
    Path("/run/kexecd/state.json").write_text(ASKED)
    assert stage.call("kexec-jump", "start", PID1="/bin/busybox") == (0, [JUMP])


@isolated
def test_what_led_to_a_boot_is_only_looked_for_where_something_was_asked_for(stage: Stage) -> None:
    stage.begin()
    for script in ("kexec-finish", "lsb/kexecd-finish"):
        assert stage.call(script, "start") == (0, [])
    Path("/var/lib/kexecd/pending.json").touch()
    for script in ("kexec-finish", "lsb/kexecd-finish"):
        for status in ("0", "1"):
            assert stage.call(script, "start", STATUS=status) == (0, ["kexecctl finish"])
            assert "said by kexecctl" in stage.said


@isolated
def test_a_boot_is_only_waited_for_after_a_kexec_and_in_the_background(stage: Stage) -> None:
    stage.begin()
    line = stage.directory / "cmdline"
    line.write_text("root=/dev/vda quiet\n")
    command("mount", "--bind", str(line), "/proc/cmdline")
    for script in ("kexec-confirm", "lsb/kexecd-confirm"):
        assert stage.call(script, "start") == (0, [])
        assert stage.call(script, "stop") == (0, [])
    line.write_text("root=/dev/vda kexecd.nonce=0123 quiet\n")
    result, (call,) = stage.call("kexec-confirm", "start")
    assert result == 0 and "--background --make-pidfile --pidfile /run/kexecd-confirm.pid" in call
    assert call.endswith(f"--exec {stage.directory}/kexecctl -- confirm")
    pidfile = Path("/run/kexecd-confirm.pid")
    pidfile.write_text(f"{os.getpid()}\n")
    result, (call,) = stage.call("kexec-confirm", "stop", STATUS="1")
    assert result == 0 and call.startswith("start-stop-daemon --stop ")
    pidfile.unlink()
    # Debian's calls the real one.
    (stage.directory / "kexecctl").write_text(f'#!/bin/sh\necho "kexecctl $*" >> {stage.log}\nexec sleep 60\n')
    assert stage.call("lsb/kexecd-confirm", "start")[0] == 0
    eventually(lambda: stage.log.read_text() == "kexecctl confirm\n")
    assert stage.call("lsb/kexecd-confirm", "status")[0] == 0
    process = Path(f"/proc/{int(pidfile.read_text())}/comm")
    eventually(lambda: process.read_text() == "sleep\n")
    assert stage.call("lsb/kexecd-confirm", "stop")[0] == 0
    assert not process.exists()


@isolated
def test_the_freeze_hooks_cost_nothing_where_no_restart_was_asked_for(stage: Stage) -> None:
    stage.begin()
    assert stage.call("kexec-finish", "stop") == (0, [])
    assert stage.call("lsb/kexecd-hooks", "stop", RUNLEVEL="6") == (0, [])
    Path("/run/kexecd/state.json").write_text(ASKED.replace("kexec", "firmware"))
    assert stage.call("kexec-finish", "stop") == (0, [])
    Path("/run/kexecd/state.json").write_text(ASKED)
    assert stage.call("kexec-finish", "stop", STATUS="1") == (0, ["kexecctl service freeze"])
    assert stage.call("lsb/kexecd-hooks", "stop", RUNLEVEL="6", STATUS="1") == (0, ["kexecctl service freeze"])


# Debian's two


@isolated
def test_debians_preload_does_the_same_and_has_the_states_of_the_lsb(stage: Stage) -> None:
    stage.begin()
    assert stage.call("lsb/kexecd-preload", "start", STATUS="3") == (3, ["kexecctl service start"])
    assert stage.call("lsb/kexecd-preload", "stop", STATUS="3") == (0, ["kexecctl service stop --going ask"])
    assert stage.call("lsb/kexecd-preload", "restart") == (0, ["kexecctl service start"])
    assert stage.call("lsb/kexecd-preload", "status")[0] == 3
    Path("/run/kexecd/armed").touch()
    assert stage.call("lsb/kexecd-preload", "status")[0] == 0
    assert stage.call("lsb/kexecd-preload", "nonsense") == (2, [])


@isolated
def test_debians_jump_by_sysv_rc_is_for_runlevel_6(stage: Stage) -> None:
    stage.begin()
    assert stage.call("lsb/kexecd-jump", "stop", RUNLEVEL="6", STATUS="13") == (0, [JUMP])
    for level in ("0", "1", ""):
        assert stage.call("lsb/kexecd-jump", "stop", RUNLEVEL=level) == (0, [])
    assert stage.call("lsb/kexecd-jump", "start", RUNLEVEL="6") == (0, [])


@isolated
def test_debians_jump_and_freeze_by_openrc_are_not_for_its_first_phase(stage: Stage) -> None:
    stage.begin()
    os.mkdir("/run/openrc")
    Path("/run/kexecd/state.json").write_text(ASKED)
    for script, call in (("lsb/kexecd-jump", JUMP), ("lsb/kexecd-hooks", "kexecctl service freeze")):
        assert stage.call(script, "start", RC_REBOOT="YES") == (0, [])
        assert stage.call(script, "stop", RC_REBOOT="", RUNLEVEL="6") == (0, [])
        assert stage.call(script, "stop", RC_REBOOT="YES") == (0, [call])


@isolated
def test_debians_do_nothing_where_systemd_is(stage: Stage) -> None:
    stage.begin()
    os.makedirs("/run/systemd/system")
    Path("/var/lib/kexecd/pending.json").touch()
    Path("/run/kexecd/state.json").write_text(ASKED)
    for name in ("preload", "jump", "hooks", "confirm", "finish"):
        for verb in ("start", "stop"):
            assert stage.call(f"lsb/kexecd-{name}", verb, RUNLEVEL="6", RC_REBOOT="YES") == (0, [])


@isolated
def test_debians_do_nothing_once_the_package_is_removed(stage: Stage) -> None:
    stage.begin()
    (stage.directory / "kexecctl").unlink()
    for name in ("preload", "hooks", "finish"):
        assert stage.call(f"lsb/kexecd-{name}", "stop", RUNLEVEL="6") == (0, [])


# Stopping others by their scripts


def service(directory: Path, name: str, body: str) -> None:
    file = directory / name
    file.write_text(f"#!/bin/sh\n{body}\n")
    file.chmod(0o755)


@isolated
def test_services_are_stopped_by_their_scripts_all_at_once_and_without_their_dependencies(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(openrc_scripts, "SCRIPTS", str(tmp_path))
    for name in ("a", "b", "c"):
        service(tmp_path, name, f'sleep 0.5; echo "$*" > {tmp_path}/{name}.done')
    _, events, seconds = walk(StopScripts("services", ("a", "b", "c"), 5.0))
    assert 0.5 <= seconds < 1.2
    assert [(tmp_path / f"{name}.done").read_text() for name in "abc"] == ["--nodeps stop\n"] * 3
    assert notes(events) == ""


@isolated
def test_a_script_that_fails_or_is_not_there_keeps_no_other_from_it_and_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(openrc_scripts, "SCRIPTS", str(tmp_path))
    service(tmp_path, "bad", "echo it is stuck >&2; exit 1")
    service(tmp_path, "good", f"touch {tmp_path}/good.done")
    _, events, _ = walk(StopScripts("services", ("bad", "gone", "good"), 5.0))
    assert "bad did not stop well: it is stuck" in notes(events)
    assert "gone could not be stopped: no such file or directory" in notes(events)
    assert (tmp_path / "good.done").exists()


@isolated
def test_a_script_that_hangs_is_ended_with_all_that_it_has_started_when_the_grace_is_over(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(openrc_scripts, "SCRIPTS", str(tmp_path))
    service(tmp_path, "stuck", f"trap '' TERM; echo $$ > {tmp_path}/pid; sleep 60 & wait; wait")
    begin = time.monotonic()
    _, events, _ = walk(StopScripts("services", ("stuck",), 0.5))
    assert time.monotonic() - begin < 4
    assert "still stopping after 0.5 s: stuck" in notes(events)
    pid = (tmp_path / "pid").read_text().strip()
    eventually(lambda: not Path(f"/proc/{pid}").exists())


@isolated
def test_a_daemon_that_has_ended_because_it_was_idle_is_no_service_that_has_failed(stage: Stage) -> None:
    stage.begin()
    end = "start-stop-daemon --stop --pidfile /run/kexecd.pid"
    for pid, called, told in (("", [], "idle"), ("999999999", [], "idle"), ("1", [end], "as always")):
        Path("/run/kexecd.pid").write_text(pid)
        assert stage.call("kexecd", "stop") == (0, called)
        assert stage.call("kexecd", "status") == (0, [])
        assert told in stage.said
