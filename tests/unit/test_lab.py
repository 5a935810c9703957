# SPDX-License-Identifier: MIT
"""The VM lab's own judgement, without a VM: what it reads from consoles and sockets, when it builds anew."""

from __future__ import annotations

import base64
import dataclasses
import json
import os
import socket
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.vm.lab import cache, evidence, provision, sysvinit
from tests.vm.lab.accel import TCG
from tests.vm.lab.agent import Agent
from tests.vm.lab.channel import Channel, decode
from tests.vm.lab.console import Console, Line, plain
from tests.vm.lab.errors import AgentError, BuildError, LabTimeout, QemuGone, QmpError
from tests.vm.lab.evidence import Facts, Kind, classify
from tests.vm.lab.hardware import Hardware
from tests.vm.lab.image import project_key
from tests.vm.lab.machine import qemu_arguments
from tests.vm.lab.mirrors import Mirrors, parse_sources
from tests.vm.lab.oracle import Restart
from tests.vm.lab.qmp import Event, Qmp
from tests.vm.lab.recipe import DEBIAN12_OPENRC, DEBIAN12_SYSTEMD, GENTOO_OPENRC_INIT, GENTOO_SYSVINIT, RECIPES
from tests.vm.lab.tools import run_tool

# Evidence ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "line",
    [
        "[    2.1] EXT4-fs (vda): INFO: recovery required on readonly filesystem",
        "[    2.1] EXT4-fs (vda): write access will be enabled during recovery",
        "[    2.2] EXT4-fs (vda): recovery complete",
        "[    2.2] EXT4-fs (vda): orphan cleanup on readonly fs",
        "[    2.2] EXT4-fs (vda): 1 orphan inode deleted",
        "[    2.2] EXT4-fs (dm-0): 3 truncates cleaned up",
        "[    3.0] XFS (vdb): Starting recovery (logdev: internal)",
        "[    3.0] XFS (vdb): Ending recovery (logdev: internal)",
        "[    3.0] XFS (vdb): recovery required on read-only device.",
        "[    3.0] BTRFS info (device vdb): start tree-log replay",
        "[    3.0] BTRFS: log replay required on RO media",
        "[    3.0] FAT-fs (vda1): Volume was not properly unmounted. Some data may be corrupt.",
        "[    3.0] md/raid1:md0: not clean -- starting background reconstruction",
        "data: recovering journal",
        "/dev/vdb: recovering journal",
        "data: Clearing orphaned inode 12 (uid=0, gid=0, mode=0100644, size=1)",
        "/dev/vdb was not cleanly unmounted, check forced.",
        "Dirty bit is set. Fs was not properly unmounted and some data may be corrupt.",
    ],
)
def test_a_line_that_tells_of_a_recovery_is_evidence(line: str) -> None:
    assert len(evidence.replayed([line])) == 1


@pytest.mark.parametrize(
    "line",
    [
        "[    2.1] EXT4-fs (vda): mounted filesystem with ordered data mode. Quota mode: none.",
        "[    2.1] EXT4-fs (vda): re-mounted. Quota mode: none.",
        "Filesystem features: has_journal ext_attr orphan_file orphan_present extent",
        "[    3.0] XFS (vdb): Ending clean mount",
        "[    3.0] BTRFS info (device vdb): using free space tree",
        "[    4.0] NFSD: starting 90-second grace period, client recovery tracking by UMH",
        "[    0.5] pcieport 0000:00:1c.0: AER: device recovery successful",
        "systemd-fsck[201]: data: clean, 11/65536 files, 12955/262144 blocks",
        "Started crash-recovery.service - Automatic recovery of orphans.",
        "[    1.0] PM: hibernation: Journal of orphan complete",
    ],
)
def test_a_line_that_only_sounds_like_it_is_not(line: str) -> None:
    assert evidence.replayed([line]) == ()


def test_the_same_line_from_console_and_journal_counts_once() -> None:
    said = "EXT4-fs (vda): recovery complete"
    assert evidence.replayed([f"[    2.2] {said}", f"<6>[    2.212345] {said}"]) == (
        "EXT4-fs (vda): recovery complete",
    )


def test_the_kernel_that_announced_itself_last_is_the_running_one() -> None:
    banners = ["[    0.0] Linux version 6.1.0-9 (a)", "noise", "[    0.0] Linux version 6.12.1+deb12 (b)"]
    assert evidence.kernel_version(banners) == "6.12.1+deb12"
    assert evidence.kernel_version(["noise"]) is None


def test_what_the_old_system_repaired_is_not_held_against_the_restart() -> None:
    jump = "kexec_core: Starting new kernel"
    lines = [Line(1, "EXT4-fs (sda): recovery complete"), Line(2, jump), Line(3, "new")]
    assert evidence.after_the_restart(lines, []) == (jump, "new")
    assert evidence.after_the_restart(lines[:1], [Event("RESET", 2.5)]) == ()


def test_a_reset_after_a_panic_means_that_the_panic_is_history() -> None:
    panic = Line(5, "[    1.0] Kernel panic - not syncing: VFS: Unable to mount root fs")
    assert evidence.last_words([panic], []) == panic
    assert evidence.last_words([panic], [Event("RESET", 4)]) == panic
    assert evidence.last_words([panic], [Event("RESET", 6)]) is None


def test_a_panic_is_what_the_kernel_says_and_not_what_is_said_of_it() -> None:
    for text in ("Kernel panic - not syncing: x", "[   1.0][    T1] ---[ end Kernel panic - not syncing: x ]---"):
        assert evidence.last_words([Line(1, text)], []), text
    for text in (" * it failed: Kernel panic - not syncing: x", "[ 1.0] kexecctl[4]: Kernel panic - not syncing: x"):
        assert evidence.last_words([Line(1, text)], []) is None, text


FACTS = Facts(
    powered_off=False,
    reset=False,
    old_boot_id="a",
    new_boot_id="b",
    new_cmdline="ro kexecd.nonce=77",
    nonce="77",
)


def test_a_processor_in_a_state_that_no_guest_can_bring_about_is_the_emulators_fault() -> None:
    said = "[   50.932964] RSP: 0018:ffffcdae40153cf8 EFLAGS: 82502446"
    assert "82502446" in evidence.emulator_fault(["noise", said])
    # An oops of the guest's own doing, in the kernel and in a program that set every flag that it may.
    for usual in ("EFLAGS: 00010046", "EFLAGS: 00010246 ORIG_RAX: 0000000000000106", "EFLAGS: 003f7fd7"):
        assert evidence.emulator_fault([f"RSP: 0018:ffffcdae40153cf8 {usual}"]) == ""


@pytest.mark.parametrize(
    ("changes", "kind"),
    [
        ({}, Kind.KEXEC),
        ({"nonce": None}, Kind.KEXEC),
        ({"reset": True}, Kind.FIRMWARE),
        ({"reset": True, "nonce": None}, Kind.FIRMWARE),
        ({"new_cmdline": "ro"}, Kind.NONE),
        ({"new_boot_id": "a"}, Kind.NONE),
        ({"new_boot_id": None, "reset": True}, Kind.NONE),
        ({"powered_off": True, "new_boot_id": None}, Kind.POWEROFF),
    ],
)
def test_a_kexec_needs_another_boot_no_reset_and_our_nonce(changes: dict[str, Any], kind: Kind) -> None:
    assert classify(dataclasses.replace(FACTS, **changes)) is kind


def restart(kind: Kind, **changes: Any) -> Restart:
    plain_one = Restart(
        kind=kind, seconds_to_jump=1.5, seconds_to_reset=None, seconds_to_answer=9.0, recovered=(),
        old_kernel="6.1", new_kernel="6.12", nonce="77", nonce_found=True,
        boot_id_changed=True, last_words=None,
    )  # fmt: skip
    return dataclasses.replace(plain_one, **changes)


def test_a_restart_explains_itself_in_one_sentence() -> None:
    good = restart(Kind.KEXEC)
    assert good.clean
    assert good.explain() == (
        "kexec from 6.1 to 6.12: jumped after 1.5 s, answered after 9.0 s, no filesystem was recovered"
    )
    dirty = restart(Kind.KEXEC, recovered=("EXT4-fs (vda): recovery complete",))
    assert not dirty.clean
    assert "NOT CLEAN: EXT4-fs (vda): recovery complete" in dirty.explain()
    assert "not our kexec" in restart(Kind.NONE, nonce_found=False).explain()
    assert "panic" in restart(Kind.NONE, last_words="Kernel panic", boot_id_changed=False).explain()


Pair = tuple[socket.socket, socket.socket]

# Wire -------------------------------------------------------------------------------------------


@pytest.fixture
def pair() -> Iterator[Pair]:
    ours, theirs = socket.socketpair()
    theirs.settimeout(5)
    yield ours, theirs
    ours.close()
    theirs.close()


def serve(sock: socket.socket, answer: Callable[[dict[str, Any]], list[bytes]]) -> threading.Thread:
    """Answer each record that arrives on `sock` until it is closed."""

    def loop() -> None:
        with sock.makefile("rb") as lines:
            for line in lines:
                for reply in answer(json.loads(line.rpartition(b"\xff")[2])):
                    sock.sendall(reply)

    thread = threading.Thread(target=loop, daemon=True)
    thread.start()
    return thread


def record(value: dict[str, Any]) -> bytes:
    return json.dumps(value).encode() + b"\n"


def test_a_record_survives_being_cut_into_pieces(pair: Pair) -> None:
    channel = Channel(pair[0], "test")
    for piece in (b'{"a"', b': 1}\n{"b": 2}\n{"c', b'": 3}\n'):
        pair[1].sendall(piece)
        time.sleep(0.02)
    deadline = time.monotonic() + 5
    assert [channel.receive(deadline).record for _ in range(3)] == [{"a": 1}, {"b": 2}, {"c": 3}]
    channel.close()


def test_garbage_and_the_agents_delimiter_are_skipped() -> None:
    assert decode(b'\xff{"return": 5}') == {"return": 5}
    assert decode(b'{"retu\xff{"return": 5}') == {"return": 5}
    assert decode(b'{"retu') is None
    assert decode(b"[1]") is None


def test_a_silent_and_a_gone_peer_are_told_apart(pair: Pair) -> None:
    channel = Channel(pair[0], "test")
    with pytest.raises(LabTimeout):
        channel.receive(time.monotonic() + 0.05)
    pair[1].close()
    with pytest.raises(QemuGone):
        channel.receive(time.monotonic() + 5)
    channel.close()


def test_qmp_keeps_events_apart_from_answers(pair: Pair) -> None:
    def answer(command: dict[str, Any]) -> list[bytes]:
        if command["execute"] == "bad":
            return [record({"error": {"desc": "no such thing"}, "id": command["id"]})]
        reset = record({"event": "RESET", "data": {"guest": True, "reason": "guest-reset"}, "timestamp": {}})
        late = record({"return": "late", "id": 0})
        return [reset, late, record({"return": {"status": "running"}, "id": command["id"]})]

    pair[1].sendall(record({"QMP": {"version": {}}}))
    serve(pair[1], answer)
    qmp = Qmp(pair[0], timeout=5)
    seen = qmp.event_count
    before = time.monotonic()
    assert qmp.execute("query-status") == {"status": "running"}
    (event,) = qmp.events(seen)
    assert (event.name, event.reason) == ("RESET", "guest-reset")
    assert before <= event.at <= time.monotonic()
    with pytest.raises(QmpError, match="no such thing"):
        qmp.execute("bad")
    qmp.close()


class FakeAgent:
    """A guest agent that has commands of its own: it finishes each at the second question."""

    def __init__(self) -> None:
        self.commands: list[str] = []
        self.asked = 0

    def __call__(self, command: dict[str, Any]) -> list[bytes]:
        name, arguments = command["execute"], command.get("arguments", {})
        self.commands.append(name)
        if name == "guest-sync-delimited":
            # What an earlier boot still had to say comes first.
            return [record({"return": {"pid": 99}}), b"\xff" + record({"return": arguments["id"]})]
        if name == "guest-exec":
            if arguments["path"] == "missing":
                return [record({"error": {"desc": "Failed to execute child process"}})]
            self.input = base64.b64decode(arguments.get("input-data", ""))
            return [record({"return": {"pid": 7}})]
        self.asked += 1
        if self.asked < 2:
            return [record({"return": {"exited": False}})]
        out = base64.b64encode(b"out:" + self.input).decode()
        return [record({"return": {"exited": True, "exitcode": 3, "out-data": out}})]


def test_the_agent_runs_a_command_and_drops_older_answers(pair: Pair) -> None:
    fake = FakeAgent()
    serve(pair[1], fake)
    agent = Agent(pair[0])
    output = agent.run(("cat",), b"\x00\xff", timeout=5)
    assert (output.exit_code, output.stdout, output.stderr) == (3, b"out:\x00\xff", b"")
    assert fake.commands == ["guest-sync-delimited", "guest-exec", "guest-exec-status", "guest-exec-status"]
    with pytest.raises(AgentError, match="Failed to execute"):
        agent.run(("missing",), timeout=5)
    agent.close()


def test_nothing_is_executed_by_an_agent_that_does_not_answer(pair: Pair) -> None:
    agent = Agent(pair[0])
    assert not agent.answers(0.05)
    pair[1].recv(4096)
    with pytest.raises(LabTimeout):
        agent.run(("rm",), timeout=0.1)
    assert b"guest-exec" not in pair[1].recv(4096)
    agent.close()


# Console ----------------------------------------------------------------------------------------


def test_console_lines_lose_colours_and_keep_their_words() -> None:
    raw = b"\x1bM\r\x1b[K[\x1b[0;32m  OK  \x1b[0m] Reached target \x1b[0;1;39mbasic.target\x1b[0m.\r"
    assert plain(raw) == "[  OK  ] Reached target basic.target."


def test_the_console_waits_for_a_line_and_gives_up_in_time(pair: Pair, tmp_path: Path) -> None:
    console = Console(pair[0], tmp_path / "console.log", ("before the snapshot",))
    pair[1].sendall(b"first\nsec")
    pair[1].sendall(b"ond\n")
    assert console.wait_for(lambda text: text == "second", 1, 5, "second").text == "second"
    with pytest.raises(LabTimeout, match="third"):
        console.wait_for(lambda text: text == "third", 0, 0.05, "third")
    pair[1].close()
    with pytest.raises(QemuGone):
        console.wait_for(lambda text: text == "third", 0, 5, "third")
    console.close()
    assert [line.text for line in console.lines()] == ["before the snapshot", "first", "second"]
    assert (tmp_path / "console.log").read_text().splitlines()[1].endswith(" second")


# Building ---------------------------------------------------------------------------------------


def test_a_changed_recipe_or_script_has_another_key(monkeypatch: pytest.MonkeyPatch) -> None:
    key = DEBIAN12_SYSTEMD.key
    assert DEBIAN12_SYSTEMD.key == key
    assert dataclasses.replace(DEBIAN12_SYSTEMD, packages=(*DEBIAN12_SYSTEMD.packages, "vim")).key != key
    assert dataclasses.replace(DEBIAN12_SYSTEMD, root_mib=4096).key != key
    monkeypatch.setattr(provision, "FSTAB", provision.FSTAB + "tmpfs /tmp tmpfs defaults 0 0\n")
    assert DEBIAN12_SYSTEMD.key != key


def test_the_guest_has_two_kernels_and_no_guest_has_kexec_tools() -> None:
    assert len(DEBIAN12_SYSTEMD.kernels) == 2
    assert not [recipe.name for recipe in RECIPES.values() if "kexec-tools" in recipe.packages]


def test_the_two_gentoo_guests_are_made_from_one_base() -> None:
    assert GENTOO_SYSVINIT.base_key == GENTOO_OPENRC_INIT.base_key
    assert GENTOO_SYSVINIT.base_name == GENTOO_OPENRC_INIT.base_name
    assert GENTOO_SYSVINIT.key != GENTOO_OPENRC_INIT.key
    assert GENTOO_SYSVINIT.base_key != DEBIAN12_OPENRC.base_key
    assert dataclasses.replace(GENTOO_SYSVINIT, suite="trixie").base_key != GENTOO_SYSVINIT.base_key


def test_a_guest_with_a_base_of_its_own_has_one_key_for_both() -> None:
    assert DEBIAN12_SYSTEMD.base_key == DEBIAN12_SYSTEMD.key
    assert DEBIAN12_SYSTEMD.base_name == DEBIAN12_SYSTEMD.name


def test_no_name_in_the_cache_begins_with_another_ones() -> None:
    """Or one would be removed to make room for the other."""
    names = {f"{kind}-{name}-" for recipe in RECIPES.values() for kind, name in
             (("image", recipe.name), ("base", recipe.base_name))}  # fmt: skip
    assert not [(one, other) for one in names for other in names if one != other and other.startswith(one)]


def test_programs_take_the_place_of_links_to_others(tmp_path: Path) -> None:
    """sysvinit's reboot is a link to halt, which must not be what changes."""
    (tmp_path / "sbin").mkdir()
    (tmp_path / "sbin" / "halt").write_text("sysvinit's")
    (tmp_path / "sbin" / "reboot").symlink_to("halt")
    script = tmp_path / "script"
    script.write_text(sysvinit.put_script((("/sbin/reboot", "ours\n"),)))
    run_tool("sh", script, tmp_path, timeout=10)
    assert (tmp_path / "sbin" / "reboot").read_text() == "ours\n"
    assert os.access(tmp_path / "sbin" / "reboot", os.X_OK)
    assert (tmp_path / "sbin" / "halt").read_text() == "sysvinit's"


def test_each_service_of_the_gentoo_guests_is_enabled_somewhere_and_there() -> None:
    written = {script.name for script in (sysvinit.HERE / "init.d").iterdir()}
    enabled = " ".join(sysvinit.RUNLEVELS.values()).split()
    assert len(enabled) == len(set(enabled))
    assert set(enabled) - written == {"cgroups", "savecache"}, "the package's own"
    assert written <= set(enabled)


def test_the_projects_key_follows_content_name_and_mode(tmp_path: Path) -> None:
    (tmp_path / "kexecd").mkdir()
    file = tmp_path / "kexecd" / "a.py"
    file.write_text("1")
    file.chmod(0o644)
    keys = [project_key(tmp_path, ("kexecd", "missing"))]
    file.write_text("2")
    keys.append(project_key(tmp_path, ("kexecd", "missing")))
    file.chmod(0o755)
    keys.append(project_key(tmp_path, ("kexecd", "missing")))
    file.rename(file.with_name("b.py"))
    keys.append(project_key(tmp_path, ("kexecd", "missing")))
    assert len(set(keys)) == 4
    (tmp_path / "kexecd" / "__pycache__").mkdir()
    (tmp_path / "kexecd" / "__pycache__" / "b.pyc").write_text("x")
    assert project_key(tmp_path, ("kexecd", "missing")) == keys[-1]


def test_the_hosts_mirror_is_found_in_both_styles_of_sources() -> None:
    deb822 = "Types: deb\nURIs: http://mirror.example/debian/\nSuites: bookworm\n"
    one_line = (
        "# deb http://old.example/debian x main\n"
        "deb [arch=amd64] https://sec.example/debian-security y main\n"
    )
    other = "deb https://packages.example/tool stable main\n"
    found = parse_sources([deb822, one_line, other])
    assert found == Mirrors("http://mirror.example/debian", "https://sec.example/debian-security")
    assert parse_sources([other]) == Mirrors()
    assert [line.split()[2] for line in found.lines("bookworm", None)] == [
        "bookworm", "bookworm-updates", "bookworm-security",
    ]  # fmt: skip


def test_a_reset_leads_to_a_second_boot() -> None:
    hardware = Hardware(TCG, 512, 2, Path("k"), Path("i"), "ro", ("-device", "x"))
    arguments = qemu_arguments(hardware, Path("/a,b/root.qcow2"), Path("/d"), (3, 4, 5), "booted")
    assert "-no-reboot" not in arguments
    assert arguments[-2:] == ["-loadvm", "booted"]
    assert any("file=/a,,b/root.qcow2" in argument for argument in arguments)


def test_a_half_written_image_never_appears(tmp_path: Path) -> None:
    target = tmp_path / "image-x"
    with pytest.raises(RuntimeError), cache.new_directory(target) as scratch:
        (scratch / "root.img").write_text("half")
        raise RuntimeError
    assert list(tmp_path.iterdir()) == []
    with cache.new_directory(target) as scratch:
        (scratch / "root.img").write_text("whole")
    assert (target / "root.img").read_text() == "whole"


def test_pruning_keeps_the_newest_and_what_is_in_use(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cache, "cache_dir", lambda: tmp_path)
    for age, name in enumerate(("image-a-4", "image-a-3", "image-a-2", "image-a-1", "image-b-1")):
        (tmp_path / name).mkdir()
        os.utime(tmp_path / name, (1000 - age, 1000 - age))
    (tmp_path / "tmp-image-a-9-x").mkdir()
    cache.use(tmp_path / "image-a-1")
    os.utime(tmp_path / "image-a-1", (1, 1))
    cache.prune("image-a-", 2)
    left = sorted(path.name for path in tmp_path.iterdir())
    assert left == ["image-a-1", "image-a-3", "image-a-4", "image-b-1"]


def test_a_tool_that_fails_says_what_it_printed() -> None:
    with pytest.raises(BuildError, match=r"(?s)exit status 3.*the reason"):
        run_tool("sh", "-c", "echo the reason; exit 3", timeout=10)
    with pytest.raises(BuildError, match="not done after"):
        run_tool("sleep", "30", timeout=0.2)
    with pytest.raises(BuildError, match="not installed"):
        run_tool("no-such-tool-anywhere", timeout=1)
