# SPDX-License-Identifier: MIT
"""The last act, with somebody else as reboot(2). As a program of its own it is only run where it makes no call."""

from __future__ import annotations

import contextlib
import errno
import os
import subprocess
import time
from collections.abc import Iterator
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path
from types import ModuleType

import pytest

from kexecd import state
from kexecd.errors import ExitCode
from kexecd.kernel import guard, mountinfo, syscalls, sysfs, watchdog
from kexecd.model import Act, State, Way
from kexecd.record import NAME as NAME_OF_IMAGE
from kexecd.record import RUN_DIR
from kexecd.wayback.watchdog import NAME

FILE = Path(__file__).parents[2] / "kexecd" / "jump.py"
PYTHON = "/usr/bin/python3"

READ_ONLY = """\
21 1 253:1 / / ro,relatime shared:1 - ext4 /dev/vda1 ro
22 21 0:20 / /proc rw,nosuid - proc proc rw
23 21 0:21 / /run rw,nosuid - tmpfs tmpfs rw,size=1000k
24 21 0:22 / /srv rw - nfs4 server:/srv rw,vers=4.2
25 21 0:23 / /var/lib/merged rw - overlay overlay rw,lowerdir=/a
"""
WRITABLE = READ_ONLY + """\
30 21 0:40 /@home /home rw,relatime shared:9 - btrfs /dev/vdb rw,subvol=/@home
31 21 0:40 /@srv /data ro,relatime - btrfs /dev/vdb rw,subvol=/@srv
32 21 253:2 / /boot\\040new ro,relatime - ext4 /dev/vda2 rw
33 21 8:1 / /mnt rw - fuseblk /dev/sda1 rw,user_id=0
34 21 0:41 / /pool rw - zfs pool/data rw,xattr
"""


@pytest.fixture(scope="module")
def jump() -> ModuleType:
    spec = spec_from_file_location("jump_under_test", FILE)
    assert spec and spec.loader
    module = module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


class Machine:
    """What jump.py sees of a machine, and what it asked of reboot(2)."""

    def __init__(self, module: ModuleType, directory: Path) -> None:
        self.module, self.directory = module, directory
        self.asked: list[int] = []
        self.unloads, self.unload_answer = 0, 0
        self.restart = ""
        self.answer = errno.EINVAL
        self.mounts, self.loaded = READ_ONLY, "1\n"

    def reboot(self, command: int) -> int:
        self.asked.append(command)
        return self.answer

    def unload(self) -> int:
        self.unloads += 1
        return self.unload_answer

    def main(self, *arguments: str) -> int:
        (self.directory / "state").write_text(self.restart)
        (self.directory / "mountinfo").write_text(self.mounts)
        (self.directory / "loaded").write_text(self.loaded)
        (self.directory / "kmsg").write_text("")
        paths = (str(self.directory / "new-name"), str(self.directory / "loaded"))
        result = self.module.main(
            list(arguments),
            reboot=self.reboot,
            unload=self.unload,
            mountinfo=str(self.directory / "mountinfo"),
            restart=str(self.directory / "state"),
            loaded=paths,
            watchdog=str(self.directory / "watchdog"),
            kmsg=str(self.directory / "kmsg"),
        )
        assert isinstance(result, int)
        return result

    @property
    def kmsg(self) -> str:
        return (self.directory / "kmsg").read_text()


@pytest.fixture
def machine(jump: ModuleType, tmp_path: Path) -> Iterator[Machine]:
    before = descriptors()
    yield Machine(jump, tmp_path)
    for fd in descriptors() - before:  # what stays open until the program ends
        os.close(fd)


def descriptors() -> set[int]:
    return {int(fd) for fd in os.listdir("/proc/self/fd") if os.path.exists(f"/proc/self/fd/{fd}")}


def test_its_numbers_are_those_of_the_rest(jump: ModuleType) -> None:
    for code in ExitCode:
        assert getattr(jump, code.name, code) == code
    assert {"OK", "DIRTY", "NOT_LOADED", "NOT_RESTARTED"} < set(vars(jump))
    assert jump.LINUX_REBOOT_CMD_KEXEC == syscalls.LINUX_REBOOT_CMD_KEXEC
    assert jump.LINUX_REBOOT_CMD_RESTART == syscalls.LINUX_REBOOT_CMD_RESTART
    assert jump.PROC_PID_INIT_INO == guard.PROC_PID_INIT_INO
    assert jump.LOADED == sysfs._LOADED
    assert jump.KEXEC_FILE_UNLOAD == syscalls.KEXEC_FILE_UNLOAD
    numbers = {machine: (row.kexec_load, row.kexec_file_load) for machine, row in syscalls.NUMBERS.items()}
    assert numbers == jump.NUMBERS
    assert (jump.WDIOC_KEEPALIVE, jump.WDIOC_SETTIMEOUT) == (watchdog.KEEPALIVE, watchdog.SETTIMEOUT)
    assert os.path.join(RUN_DIR, NAME) == jump.WATCHDOG
    assert jump.IMAGE == NAME_OF_IMAGE


def asked_for(tmp_path: Path, reached: State, way: Way, act: Act) -> str:
    """What stands in /run/kexecd/state.json then."""
    state.reached(reached, way, act, loaded=True, run_dir=str(tmp_path))
    return (tmp_path / state.NAME).read_text()


def test_a_restart_that_is_to_go_through_the_firmware_is_no_jump_whatever_is_in_memory(
    machine: Machine, tmp_path: Path
) -> None:
    machine.restart = asked_for(tmp_path, State.PREPARED, Way.ORDERLY, Act.FIRMWARE)
    assert machine.main("--jump") == ExitCode.NOT_RESTARTED
    assert machine.asked == [] and "this restart is to go through the firmware" in machine.kmsg
    machine.restart = asked_for(tmp_path, State.PREPARED, Way.ORDERLY, Act.KEXEC)
    machine.main("--jump")
    assert machine.asked == [0x45584543]


# The watchdog over the new kernel


def opens(machine: Machine, monkeypatch: pytest.MonkeyPatch, text: str = "") -> None:
    """Write down a watchdog that is a file: nothing can be set of it, and it does no harm."""
    monkeypatch.setattr(machine.module, "refuse_in_tests", lambda environ: None)
    (machine.directory / "dog").touch()
    (machine.directory / NAME_OF_IMAGE).touch()
    (machine.directory / "watchdog").write_text(text or f"{machine.directory}/dog 330\n")


def holders(file: Path) -> list[int]:
    """The processes that have it open."""
    found = []
    for link in Path("/proc").glob("[0-9]*/fd/*"):
        with contextlib.suppress(OSError):
            if os.path.samestat(link.stat(), file.stat()):
                found.append(int(link.parts[2]))
    return found


@pytest.mark.parametrize("option", ["--jump", "--guard"])
def test_the_watchdog_that_was_written_down_is_left_running(
    machine: Machine, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str], option: str
) -> None:
    opens(machine, monkeypatch)
    machine.main(option)
    said = capfd.readouterr().err
    assert f"{machine.directory}/dog cannot be set to 330 s (ENOTTY)" in said
    assert f"{machine.directory}/dog watches over the new kernel" in said
    assert machine.asked == ([0x45584543] if option == "--jump" else [])


def test_without_one_nothing_is_opened_and_a_jump_goes_on(
    machine: Machine, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    for text in ("/dev/watchdog0", "/dev/watchdog0 soon", "\n"):
        opens(machine, monkeypatch, text)
        machine.main("--jump")
        assert "watch" not in capfd.readouterr().err
    opens(machine, monkeypatch, "/nonexistent/watchdog 330\n")
    machine.main("--jump")
    assert "/nonexistent/watchdog is not set to watch over the new kernel (ENOENT)" in capfd.readouterr().err
    assert len(machine.asked) == 4


def test_an_image_that_others_have_loaded_has_nobody_who_would_switch_it_off(
    machine: Machine, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    opens(machine, monkeypatch)
    (machine.directory / NAME_OF_IMAGE).unlink()
    machine.main("--jump")
    assert "watch" not in capfd.readouterr().err


@pytest.mark.parametrize("option", ["--jump", "--guard"])
def test_a_driver_that_hangs_is_gone_on_without(
    machine: Machine, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str], option: str
) -> None:
    opens(machine, monkeypatch)
    (machine.directory / "dog").unlink()
    os.mkfifo(machine.directory / "dog")  # nobody reads it, so it opens as little as that driver
    monkeypatch.setattr(machine.module, "DRIVER_PATIENCE", 200)
    begin = time.monotonic()
    machine.main(option)
    assert time.monotonic() - begin < 5
    assert f"{machine.directory}/dog does not answer within 0.2 s, going on without" in capfd.readouterr().err
    assert machine.asked == ([0x45584543] if option == "--jump" else [])


def test_a_watchdog_that_stops_when_it_is_closed_stays_open_until_the_program_ends(
    machine: Machine, monkeypatch: pytest.MonkeyPatch
) -> None:
    opens(machine, monkeypatch)
    dog, held = machine.directory / "dog", []

    def reboot(command: int) -> int:
        held.append(holders(dog))
        return errno.EINVAL

    monkeypatch.setattr(machine, "reboot", reboot)
    child = os.fork()
    if child == 0:
        machine.main("--jump")
        os._exit(len(held[0]))
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 1
    end = time.monotonic() + 10
    while holders(dog):
        assert time.monotonic() < end
        time.sleep(0.01)


def test_without_a_process_to_be_had_it_is_told_and_gone_on_without(
    machine: Machine, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    def none() -> int:
        raise OSError(errno.EAGAIN, "Resource temporarily unavailable")

    opens(machine, monkeypatch)
    monkeypatch.setattr(os, "fork", none)
    machine.main("--jump")
    assert f"{machine.directory}/dog is not set to watch over the new kernel (EAGAIN)" in capfd.readouterr().err
    assert machine.asked == [0x45584543]


@pytest.mark.parametrize("options", [("--jump", "--firmware"), ("--guard", "--firmware"), ("--check",), ()])
def test_where_there_is_no_jump_no_watchdog_is_started(
    machine: Machine, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str], options: tuple[str, ...]
) -> None:
    opens(machine, monkeypatch)
    machine.main(*options)
    assert "watches" not in capfd.readouterr().err


# PID 1 jumps itself


def test_the_guard_leaves_the_image_where_a_jump_is_right(machine: Machine) -> None:
    assert machine.main("--guard") == ExitCode.OK
    assert (machine.unloads, machine.asked, machine.kmsg) == (0, [], "")


def test_the_guard_takes_it_away_where_a_disk_can_be_written(machine: Machine) -> None:
    machine.mounts = WRITABLE
    assert machine.main("--guard") == ExitCode.OK
    assert machine.unloads == 1 and machine.asked == []
    assert "took the image out of memory: still writable: /home (/dev/vdb, btrfs); " in machine.kmsg


def test_the_guard_takes_it_away_where_the_firmware_is_wanted(machine: Machine, tmp_path: Path) -> None:
    assert machine.main("--guard", "--firmware") == ExitCode.OK
    assert machine.unloads == 1
    machine.restart = asked_for(tmp_path, State.PREPARED, Way.ORDERLY, Act.FIRMWARE)
    assert machine.main("--guard") == ExitCode.OK
    assert machine.unloads == 2


def test_the_guard_trusts_a_way_down_of_our_own_to_have_judged_and_not_one_of_pid_1(
    machine: Machine, tmp_path: Path
) -> None:
    machine.mounts = WRITABLE
    machine.restart = asked_for(tmp_path, State.FROZEN, Way.FAST, Act.KEXEC)
    assert machine.main("--guard") == ExitCode.OK and machine.unloads == 0
    machine.restart = asked_for(tmp_path, State.FROZEN, Way.ORDERLY, Act.KEXEC)
    assert machine.main("--guard") == ExitCode.OK and machine.unloads == 1


def test_an_image_that_the_guard_cannot_take_away_is_a_failure_that_is_told(machine: Machine) -> None:
    machine.mounts, machine.unload_answer = WRITABLE, errno.EPERM
    assert machine.main("--guard") == ExitCode.FAILURE
    assert "could not take the image out of memory (EPERM)" in machine.kmsg


def test_the_call_that_takes_it_away_asks_first_whether_this_is_a_test(
    jump: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(environ: object) -> None:
        raise jump.Refused(ExitCode.NOT_PERMITTED, "a test")

    monkeypatch.setattr(jump, "refuse_in_tests", refuse)
    monkeypatch.setattr(jump.ctypes, "CDLL", None)
    with pytest.raises(jump.Refused):
        jump.unload()


def test_it_jumps(machine: Machine) -> None:
    machine.main("--jump")
    assert machine.asked == [0x45584543]


def test_it_restarts_through_the_firmware(machine: Machine) -> None:
    machine.loaded = "0\n"
    machine.main("--jump", "--firmware")
    assert machine.asked == [0x01234567]


@pytest.mark.parametrize("arguments", [(), ("--force",), ("--firmware",), ("--check",), ("--jump", "--check")])
def test_without_being_told_to_it_makes_no_call(
    machine: Machine, capfd: pytest.CaptureFixture[str], arguments: tuple[str, ...]
) -> None:
    assert machine.main(*arguments) == ExitCode.OK
    assert machine.asked == []
    assert "kexecd: --jump would restart" in capfd.readouterr().err
    assert machine.kmsg == ""


def test_a_word_that_it_does_not_know_is_not_taken_for_another(machine: Machine) -> None:
    assert machine.main("--jump", "--dry-run") == ExitCode.USAGE
    assert machine.asked == []


def test_no_image_means_no_jump(machine: Machine, capfd: pytest.CaptureFixture[str]) -> None:
    machine.loaded = "0\n"
    assert machine.main("--jump") == ExitCode.NOT_LOADED
    assert machine.main("--check") == ExitCode.NOT_LOADED
    assert machine.main() == ExitCode.OK  # it has said what it would do
    assert machine.asked == []
    assert capfd.readouterr().err.count("no image is loaded") == 3


def test_where_sysfs_is_gone_reboot_has_to_know(jump: ModuleType, tmp_path: Path) -> None:
    assert not jump.image_is_missing((str(tmp_path / "a"), str(tmp_path / "b")))


def test_the_new_name_of_the_file_counts_first(jump: ModuleType, tmp_path: Path) -> None:
    (tmp_path / "new").write_text("1\n")
    (tmp_path / "old").write_text("0\n")
    assert not jump.image_is_missing((str(tmp_path / "new"), str(tmp_path / "old")))


def test_a_disk_that_can_be_written_means_no_jump(machine: Machine, capfd: pytest.CaptureFixture[str]) -> None:
    machine.mounts = WRITABLE
    for arguments in (("--jump",), ("--jump", "--firmware"), ("--check",)):
        assert machine.main(*arguments) == ExitCode.DIRTY
    assert machine.asked == []
    said = capfd.readouterr().err
    assert "did not restart into the loaded kernel: still writable: /home (/dev/vdb, btrfs); " in said


def test_force_jumps_all_the_same(machine: Machine) -> None:
    machine.mounts = WRITABLE
    machine.main("--jump", "--force")
    assert machine.asked == [0x45584543]


def test_what_is_mounted_has_to_be_seen(jump: ModuleType, tmp_path: Path) -> None:
    with pytest.raises(jump.Refused, match=r"cannot be seen \(ENOENT\)") as caught:
        jump.refuse_if_dirty(str(tmp_path / "none"))
    assert getattr(caught.value, "code", None) == ExitCode.DIRTY


def test_a_line_that_makes_no_sense_is_not_taken_for_clean(jump: ModuleType) -> None:
    assert jump.writable_disks("21 1 253:1 / / ro\n") == [("21 1 253:1 / / ro", "a line that makes no sense", "?")]


def test_each_writable_disk_is_named_once(jump: ModuleType) -> None:
    assert jump.writable_disks(READ_ONLY) == []
    points = [point for point, _, _ in jump.writable_disks(WRITABLE)]
    assert points == ["/home", "/boot\\040new", "/mnt", "/pool"]


@pytest.mark.parametrize("text", [READ_ONLY, WRITABLE])
def test_the_verdict_before_it_and_the_last_look_agree(jump: ModuleType, text: str) -> None:
    verdict = mountinfo.writable_disks(mountinfo.parse(text))
    assert {mount.source for mount in verdict} == {source for _, source, _ in jump.writable_disks(text)}


@pytest.mark.parametrize(
    ("number", "code"),
    [
        (errno.EINVAL, ExitCode.NOT_RESTARTED),
        (errno.EPERM, ExitCode.NOT_PERMITTED),
        (errno.EBUSY, ExitCode.BUSY),
        (errno.ENOMEM, ExitCode.NOT_RESTARTED),
    ],
)
def test_a_call_that_returns_is_told_to_all_who_listen(
    machine: Machine, capfd: pytest.CaptureFixture[str], number: int, code: ExitCode
) -> None:
    machine.answer = number
    assert machine.main("--jump") == code
    sentence = "kexecd: did not restart into the loaded kernel: reboot(2) returned, "
    assert sentence in capfd.readouterr().err
    assert f"<4>{sentence}" in machine.kmsg
    assert f"({errno.errorcode[number]})" in machine.kmsg


def test_an_error_of_its_own_is_a_sentence_too(machine: Machine, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(machine.module, "sync", lambda: 1 / 0)
    assert machine.main("--jump") == ExitCode.FAILURE
    assert "ZeroDivisionError" in machine.kmsg


def test_nobody_listening_is_no_reason_to_stay(machine: Machine, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(fd: int, data: bytes) -> int:
        raise BrokenPipeError

    monkeypatch.setattr(machine.module.os, "write", broken)
    machine.main("--jump")
    assert machine.asked == [0x45584543]


def test_a_sync_that_ends_is_waited_for(jump: ModuleType) -> None:
    assert jump.sync(work=lambda: time.sleep(0.05), patience=5000)


def test_a_sync_that_does_not_end_is_not(jump: ModuleType) -> None:
    start = time.monotonic()
    assert not jump.sync(work=lambda: time.sleep(1), patience=50)
    assert time.monotonic() - start < 0.9


def test_a_test_cannot_restart_the_machine_that_it_runs_on(
    jump: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    namespace = tmp_path / "pid"
    namespace.touch()
    jump.refuse_in_tests({"KEXECD_UNDER_TEST": "1"}, str(namespace))
    monkeypatch.setattr(jump, "PROC_PID_INIT_INO", namespace.stat().st_ino)
    jump.refuse_in_tests({}, str(namespace))
    for name in guard.TEST_VARIABLES:
        for where in (str(namespace), "/nonexistent"):
            with pytest.raises(jump.Refused, match="this is a test"):
                jump.refuse_in_tests({name: "1"}, where)


def test_the_call_itself_asks_that_first(jump: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(environ: object) -> None:
        assert environ is os.environ
        raise jump.Refused(ExitCode.NOT_PERMITTED, "a test")

    monkeypatch.setattr(jump, "refuse_in_tests", refuse)
    monkeypatch.setattr(jump.ctypes, "CDLL", None)  # should nobody ask, there is still no library to call
    with pytest.raises(jump.Refused):
        jump.reboot(0)


# As a program of its own


def test_run_by_hand_it_only_says_what_it_would_do() -> None:
    done = subprocess.run([PYTHON, "-I", "-S", str(FILE)], capture_output=True, text=True, check=False, timeout=60)
    assert (done.returncode, done.stdout) == (ExitCode.OK, "")
    assert done.stderr.startswith("kexecd: --jump would ")
    assert done.stderr.count("\n") == 1


def test_its_check_ends_with_a_named_code() -> None:
    command = [PYTHON, "-I", "-S", str(FILE), "--check", "--firmware"]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)
    assert done.returncode in (ExitCode.OK, ExitCode.DIRTY)


def test_it_imports_five_modules_and_what_these_need() -> None:
    code = "import os, sys, errno, ctypes, struct\nbefore = set(sys.modules)\n"
    code += f"act = {{'__name__': 'act'}}\nexec(compile(open({str(FILE)!r}).read(), 'jump.py', 'exec'), act)\n"
    code += "act['main'](['--check', '--force', '--firmware'])\nprint(*sorted(set(sys.modules) - before))"
    beyond = subprocess.check_output([PYTHON, "-I", "-S", "-c", code], text=True, timeout=60)
    assert beyond.split() == []
