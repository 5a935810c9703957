# SPDX-License-Identifier: MIT
"""The units that are installed, with a real systemd: it takes them, and every restart comes to what it should.

PID 1 of these tests goes down for real, up to the program that would kill, unmount and restart: in the place of that
one is a script that writes down what it was to do.
"""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import time
from pathlib import Path

from tests.namespaces.little_systemd import beside_systemd
from tests.namespaces.stage import eventually
from tests.packaging.installed import install

UNITS = ("kexecd", "kexecd-preload", "kexecd-freeze", "kexecd-confirm", "kexecd-finish", "kexecd-state")
SYSTEM = Path("/etc/systemd/system")
SHUTDOWN = Path("/usr/lib/systemd/systemd-shutdown")
VERB, CALLS, SAID = Path("/run/verb"), Path("/run/calls"), Path("/run/said")
TOP = Path("/run/installed")
STATE = Path("/run/kexecd/state.json")

DAWDLES = "ExecStart=sleep 1000\nExecStop=sh -c 'sleep 0.3; echo ordinary >> /run/calls'"
IDLE = {"idle.service": "ExecStart=sleep 1000"}


def test_systemd_finds_nothing_wrong_with_them(tmp_path: Path) -> None:
    top = install(tmp_path)
    names = [*(f"{unit}.service" for unit in UNITS), "systemd-reboot.service"]
    done = subprocess.run(
        ["systemd-analyze", "verify", "--recursive-errors=one", *names],
        env={**os.environ, "SYSTEMD_UNIT_PATH": f"{top}/systemd/system:"},
        capture_output=True, text=True, check=False, timeout=60,
    )  # fmt: skip
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


def put_in_place(*, loaded: bool) -> None:
    """Install; have an image in memory, or not; PID 1 writes down what it comes to instead of doing it."""
    install(TOP)
    script(TOP / "usr/sbin/kexecctl", f'echo "$@" >> {CALLS}')
    script(TOP / "usr/sbin/kexecd", "systemd-notify --ready; exec sleep 1000")
    for name in ("sys/kernel", "usr/lib/systemd/system-shutdown"):
        mount("-t", "tmpfs", "none", f"/{name}")
    script(TOP / "shutdown", f'echo "$1" > {VERB}.new; mv {VERB}.new {VERB}; exec sleep 1000')
    mount("--bind", str(TOP / "shutdown"), str(SHUTDOWN))
    for point in ("usr-lib-systemd-systemd\\x2dshutdown", "usr-lib-systemd-system\\x2dshutdown", "usr-bin-systemctl"):
        # What is there in the place of something else stays to the end.
        write(SYSTEM / f"{point}.mount.d/stays.conf", "[Unit]\nDefaultDependencies=no\n")
    Path("/sys/kernel/kexec_loaded").write_text(f"{loaded:d}\n", encoding="ascii")
    subprocess.run(["cp", "-a", f"{TOP}/systemd/system/.", SYSTEM], check=True, timeout=10)
    write(SYSTEM / "systemd-reboot.service.d/seen.conf", f"[Service]\nStandardOutput=append:{SAID}\n")
    for unit in UNITS:  # in a container they have nothing to do, and this is one, as far as systemd can see
        path = SYSTEM / f"{unit}.service"
        write(path, path.read_text(encoding="utf-8").replace("ConditionVirtualization=!container\n", ""))
    write(SYSTEM / "kexecd.service.d/notify.conf", "[Service]\nNotifyAccess=all\n")
    Path("/run/systemd/container").unlink()
    systemctl("daemon-reload")


def script(path: Path, body: str) -> None:
    path.unlink(missing_ok=True)
    path.write_text(f"#!/bin/sh\n{body}\n", encoding="utf-8")
    path.chmod(0o755)


def write(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")


def mount(*words: str) -> None:
    subprocess.run(["mount", *words], check=True, timeout=10)


def systemctl(*words: str) -> None:
    subprocess.run(["systemctl", *words], check=True, timeout=30)


def comes_to() -> str:
    """What PID 1 does when everything is stopped: the word that it gives to systemd-shutdown(8)."""
    eventually(VERB.exists, 30)
    return VERB.read_text(encoding="utf-8").strip()


def said() -> str:
    return SAID.read_text(encoding="utf-8") if SAID.exists() else ""


@beside_systemd(IDLE)
def test_a_restart_with_an_image_in_memory_is_a_kexec() -> None:
    put_in_place(loaded=True)
    systemctl("start", "--no-block", "reboot.target")
    assert comes_to() == "kexec"


@beside_systemd(IDLE)
def test_without_an_image_it_is_a_restart_as_ever() -> None:
    put_in_place(loaded=False)
    systemctl("start", "--no-block", "reboot.target")
    assert (comes_to(), said()) == ("reboot", "")


@beside_systemd(IDLE)
def test_ctrl_alt_del_and_a_signal_are_no_other_doors() -> None:
    put_in_place(loaded=True)
    os.kill(1, signal.SIGINT)
    assert comes_to() == "kexec"


@beside_systemd(IDLE)
def test_the_firmware_that_was_asked_for_is_what_comes() -> None:
    put_in_place(loaded=True)
    write(STATE, '{\n  "act": "firmware",\n  "state": "prepared"\n}\n')
    systemctl("start", "--no-block", "reboot.target")
    assert comes_to() == "reboot"
    assert said() == (
        "kexecd: this machine restarts through the firmware, with an image in memory: that is what was asked for\n"
    )


@beside_systemd(IDLE)
def test_a_parameter_for_the_firmware_goes_to_the_firmware() -> None:
    put_in_place(loaded=True)
    write(Path("/run/systemd/reboot-param"), "tryboot\n")
    systemctl("start", "--no-block", "reboot.target")
    assert comes_to() == "reboot"
    assert "it was given a parameter" in said()


@beside_systemd(IDLE)
def test_the_setup_of_the_firmware_is_reached_without_efi() -> None:
    put_in_place(loaded=True)
    Path("/run/systemd/reboot-to-firmware-setup").touch()
    systemctl("start", "--no-block", "reboot.target")
    assert comes_to() == "reboot"
    assert "its setup was asked for" in said()


EFI = Path("/sys/firmware/efi/efivars")
INDICATIONS = EFI / "OsIndications-8be4df61-93ca-11d2-aa0d-00e098032b8c"


def boot_variable(value: int) -> None:
    mount("-t", "tmpfs", "none", "/sys/firmware")
    EFI.mkdir(parents=True)
    INDICATIONS.write_bytes((7).to_bytes(4, "little") + value.to_bytes(8, "little"))


@beside_systemd(IDLE)
def test_the_setup_of_the_firmware_is_reached_with_efi() -> None:
    put_in_place(loaded=True)
    boot_variable(0x1)
    systemctl("start", "--no-block", "reboot.target")
    assert comes_to() == "reboot"
    assert "its setup, an update or a recovery was asked for" in said()


@beside_systemd(IDLE)
def test_other_indications_to_the_firmware_are_none_of_that() -> None:
    put_in_place(loaded=True)
    boot_variable(0x10)  # EFI_OS_INDICATIONS_CAPSULE_RESULT_VAR_SUPPORTED
    systemctl("start", "--no-block", "reboot.target")
    assert comes_to() == "kexec"


@beside_systemd(IDLE)
def test_a_decision_that_hangs_is_a_restart_as_ever() -> None:
    put_in_place(loaded=True)
    script(TOP / "systemd/kexecd-reboot", "exec sleep 1000")
    write(SYSTEM / "systemd-reboot.service.d/short.conf", "[Service]\nTimeoutStartSec=1s\n")
    systemctl("daemon-reload")
    begin = time.monotonic()
    systemctl("start", "--no-block", "reboot.target")
    assert comes_to() == "reboot"
    assert time.monotonic() - begin < 10


@beside_systemd(IDLE)
def test_a_decision_that_is_not_there_is_a_restart_as_ever() -> None:
    put_in_place(loaded=True)
    (TOP / "systemd/kexecd-reboot").unlink()
    systemctl("start", "--no-block", "reboot.target")
    assert comes_to() == "reboot"


@beside_systemd(IDLE)
def test_a_pid_1_that_cannot_be_told_restarts_as_ever() -> None:
    put_in_place(loaded=True)
    script(TOP / "systemctl", "echo no bus >&2; exit 1")
    mount("--bind", str(TOP / "systemctl"), "/usr/bin/systemctl")
    os.kill(1, signal.SIGRTMIN + 5)
    assert comes_to() == "reboot"


@beside_systemd(IDLE)
def test_a_poweroff_stays_one() -> None:
    put_in_place(loaded=True)
    systemctl("start", "--no-block", "poweroff.target")
    assert (comes_to(), said()) == ("poweroff", "")


@beside_systemd(IDLE)
def test_a_halt_stays_one() -> None:
    put_in_place(loaded=True)
    systemctl("start", "--no-block", "halt.target")
    assert (comes_to(), said()) == ("halt", "")


@beside_systemd({"dawdles.service": DAWDLES})
def test_the_image_is_loaded_first_and_the_hooks_freeze_when_everybody_has_stopped() -> None:
    look = f"findmnt -no TARGET /boot >> {CALLS}"
    put_in_place(loaded=False)
    write(STATE, '{\n  "act": "kexec"\n}\n')
    script(TOP / "usr/sbin/kexecctl", f'echo "$@" >> {CALLS}; [ "$2" = start ] || {look}')
    mount("-t", "tmpfs", "none", "/boot")
    for target in ("sysinit.target", "basic.target"):  # the real ones; nothing that they want is started
        shutil.copy(f"/usr/lib/systemd/system/{target}", SYSTEM)
    systemctl("daemon-reload")
    systemctl("start", "--job-mode=ignore-dependencies", "local-fs.target", "sysinit.target", "basic.target")
    systemctl("start", "kexecd-freeze.service")
    systemctl("start", "kexecd-preload.service", "dawdles.service")
    assert calls() == ["service start"]
    systemctl("start", "--no-block", "reboot.target")
    assert comes_to() == "reboot"
    stop, freeze = ["service stop --going ask", "/boot"], ["service freeze", "/boot"]
    assert sorted(calls()[1:-2]) == sorted([*stop, "ordinary"]), calls()
    assert calls()[-2:] == freeze, calls()
    assert subprocess.run(["findmnt", "/boot"], check=False, stdout=subprocess.DEVNULL).returncode == 1


def calls() -> list[str]:
    return CALLS.read_text(encoding="utf-8").splitlines()


@beside_systemd(IDLE)
def test_without_a_restart_in_hand_nothing_is_frozen() -> None:
    put_in_place(loaded=False)
    systemctl("start", "kexecd-freeze.service")
    systemctl("start", "--no-block", "reboot.target")
    assert comes_to() == "reboot"
    assert not CALLS.exists()


@beside_systemd(IDLE)
def test_nobody_freezes_them_by_hand() -> None:
    put_in_place(loaded=False)
    systemctl("start", "kexecd-freeze.service")
    done = subprocess.run(["systemctl", "stop", "kexecd-freeze.service"], check=False, capture_output=True, timeout=30)
    assert done.returncode and b"configured to refuse manual start/stop" in done.stderr, done.stderr


@beside_systemd(IDLE)
def test_a_boot_is_only_finished_where_something_is_pending() -> None:
    put_in_place(loaded=False)
    mount("-t", "tmpfs", "none", "/var/lib")
    systemctl("start", "kexecd-finish.service")
    assert not CALLS.exists()
    write(Path("/var/lib/kexecd/pending.json"), "{}")
    systemctl("start", "kexecd-finish.service")
    assert calls() == ["finish"]
