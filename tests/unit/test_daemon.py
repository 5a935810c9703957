# SPDX-License-Identifier: MIT
"""The daemon lives as long as it is of use, and knows what a restart does without asking it."""

from __future__ import annotations

import contextlib
import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from kexecd import record, state
from kexecd.daemon import child, main
from kexecd.daemon.deeds import PAUSE, Deeds
from kexecd.daemon.requests import Door
from kexecd.errors import Busy, ExitCode
from kexecd.kernel import inotify, sysfs
from kexecd.loop import Loop
from kexecd.model import Act, Event, EventKind, FileRecord, ImageRecord, LoadMethod, State, Way
from kexecd.report import events
from tests.unit.resident import NOBODY, SECONDS, call, daemon

TOP = Path(__file__).parents[2]
RSS = 25 << 10  # KiB


def echo(words: list[str]) -> int:
    print(*words, flush=True)
    return len(words)


def test_it_ends_when_nobody_needs_it(tmp_path: Path) -> None:
    with daemon(tmp_path, echo, idle=0.1) as there:
        assert there.wait() == 0
        assert not (tmp_path / "request").exists()


def test_it_stays_as_long_as_it_is_asked(tmp_path: Path) -> None:
    with daemon(tmp_path, echo, idle=0.5) as there:
        end = time.monotonic() + 1.5
        while time.monotonic() < end:
            assert call(there.door, "plan").wait() == 1
        assert there.wait() == 0


def test_it_stays_as_long_as_a_request_takes(tmp_path: Path) -> None:
    def wait_for_more(words: list[str]) -> int:
        print("begun", flush=True)
        os.read(0, 1)
        return len(words)

    reader, writer = os.pipe()
    with daemon(tmp_path, wait_for_more, idle=1.0) as there:
        caller = call(there.door, "plan", prepare=lambda: os.dup2(reader, 0))
        assert caller.line() == "begun"
        time.sleep(2.5)
        assert Path(there.door).exists()
        os.write(writer, b"x")
        assert caller.wait() == 1
        assert there.wait() == 0
    os.close(reader)
    os.close(writer)


@pytest.mark.parametrize("kept", ["armed", "image"])
def test_it_stays_while_every_restart_is_to_be_a_kexec_or_an_image_waits_for_one(
    tmp_path: Path, kept: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    image = ImageRecord("id", "6.1", FileRecord("/boot/vmlinuz", 1, ""), (), "", "n", LoadMethod.KEXEC_FILE_LOAD, 0.0)
    if kept == "armed":
        state.arm(str(tmp_path))
    else:
        record.write(image, str(tmp_path))
        monkeypatch.setattr(sysfs, "kexec_loaded", lambda root="/": True)
    with daemon(tmp_path, echo, idle=0.1) as there:
        time.sleep(0.5)
        assert call(there.door, "plan").wait() == 1
        if kept == "armed":
            state.disarm(str(tmp_path))
        else:
            record.remove(str(tmp_path))
        assert there.wait() == 0


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_ends_it_and_its_door_is_gone(tmp_path: Path, number: int) -> None:
    with daemon(tmp_path, echo) as there:
        there.signal(number)
        assert there.wait() == 0
        assert not (tmp_path / "request").exists()
        assert call(there.door, "plan").wait() == NOBODY


def test_there_is_only_one(tmp_path: Path) -> None:
    with daemon(tmp_path, echo) as there:
        with pytest.raises(Busy, match="another one listens"):
            Door(Loop(), str(tmp_path), current=lambda: True, over=lambda: None)
        assert call(there.door, "plan").wait() == 1


def test_it_does_not_take_away_the_door_of_its_successor(tmp_path: Path) -> None:
    with daemon(tmp_path, echo) as there:
        os.unlink(there.door)
        Path(there.door).touch()
        there.signal(signal.SIGTERM)
        assert there.wait() == 0
        assert Path(there.door).exists()


def test_one_that_was_overtaken_by_an_upgrade_does_nothing_more(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    installed = tmp_path / "installed.py"
    installed.touch()
    monkeypatch.setattr(main, "_stamp", lambda: tuple(os.stat(installed)))
    with daemon(tmp_path, echo) as there:
        assert call(there.door, "plan").wait() == 1
        os.utime(installed, (1, 1))
        assert call(there.door, "plan").wait() == NOBODY
        assert there.wait() == 0


def test_words_on_its_command_line_make_no_sense(capsys: pytest.CaptureFixture[str]) -> None:
    assert main.main(["--now"]) == ExitCode.USAGE
    assert capsys.readouterr().err == "usage: kexecd\n"


SURVEYED = """\
import sys; sys.path.insert(0, {top!r})
from kexecd import record, state
from kexecd.daemon import child, main
main.warm_up()
before = set(sys.modules)
from kexecd.cli.main import main as kexecctl
status = kexecctl({words!r})
print("status", status, *sorted(set(sys.modules) - before), file=sys.stderr)
"""


@pytest.mark.parametrize(
    "words", [["status", "--json"], ["plan", "--firmware", "--fast", "--json"], ["cancel", "--help"]], ids=" ".join
)
def test_a_copy_has_nothing_left_to_import_but_what_shows_who_runs(words: list[str]) -> None:
    code = SURVEYED.format(top=str(TOP), words=words)
    done = subprocess.run([sys.executable, "-I", "-c", code], capture_output=True, text=True, timeout=60, check=False)
    modules = done.stderr.splitlines()[-1].split()[2:] if done.returncode == 0 and "status" in done.stderr else []
    assert not [name for name in modules if name.startswith("kexecd")]
    assert not {"json", "argparse", "resource", "yaml"} & set(modules), done.stderr


def test_it_is_small(capsys: pytest.CaptureFixture[str]) -> None:
    code = (
        f"import sys; sys.path.insert(0, {str(TOP)!r})\n"
        "import ctypes, gc\n"
        "import kexecd.bus.manager\n"
        "from kexecd.daemon import main\n"
        "main.warm_up(); gc.collect(); gc.freeze(); ctypes.CDLL(None).malloc_trim(0)\n"
        "print(open('/proc/self/status').read())\n"
    )
    command = ["/usr/bin/python3", "-I", "-c", code]
    said = subprocess.run(command, stdout=subprocess.PIPE, text=True, timeout=60, check=True).stdout
    found = re.search(r"VmRSS:\s+(\d+) kB", said)
    assert found
    with capsys.disabled():
        print(f"\nkexecd: {int(found[1]) / 1024:.1f} MiB resident, of {RSS >> 10}")
    assert int(found[1]) < RSS


def ended(argv: tuple[str, ...], tmp_path: Path, *, seconds: float = SECONDS) -> tuple[int, bytes, bytes]:
    loop = Loop()
    found: list[tuple[int, bytes, bytes]] = []

    def done(code: int, out: bytes, err: bytes) -> None:
        found.append((code, out, err))
        loop.stop()

    deeds = Deeds(loop, str(tmp_path))
    deeds.run(argv, done, seconds)
    loop.run()
    deeds.close()
    return found[0]


def test_a_deed_is_done_as_kexecctl_does_it(tmp_path: Path) -> None:
    code, out, err = ended(("config", "--root", str(tmp_path), "--json"), tmp_path)
    assert (code, json.loads(out)["schema"], err) == (0, 1, b"")


def test_a_deed_that_is_refused_says_so_on_both_streams(tmp_path: Path) -> None:
    code, out, err = ended(("load", "--json", "--kernel", "/no/such/file"), tmp_path)
    assert code == ExitCode.BAD_IMAGE
    assert json.loads(out)["refused"]["exit"] == "bad-image"
    assert err.startswith(b"kexecctl: cannot use /no/such/file")


def test_a_deed_whose_words_make_no_sense_ends_as_kexecctl_does(tmp_path: Path) -> None:
    code, out, err = ended(("plan", "--nonsense"), tmp_path)
    assert (code, out) == (ExitCode.USAGE, b"")
    assert b"--nonsense" in err


def test_a_deed_that_takes_too_long_is_killed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def forever(words: list[str]) -> int:
        print("begun", flush=True)
        time.sleep(SECONDS)
        return len(words)

    monkeypatch.setattr(child, "main", forever)
    assert ended(("plan",), tmp_path, seconds=0.3) == (128 + signal.SIGKILL, b"begun\n", b"")


class Watching:
    """What a Deeds tells, until it has told enough."""

    def __init__(self, run_dir: Path) -> None:
        self.loop = Loop()
        self.states: list[State] = []
        self.events: list[Event] = []
        self.deeds = Deeds(self.loop, str(run_dir))
        self.deeds.on_state = self.states.append
        self.deeds.on_event = self.events.append

    def close(self) -> None:
        self.deeds.close()

    def until(self, enough: Callable[[], bool]) -> None:
        end = time.monotonic() + SECONDS

        def look() -> None:
            if enough() or time.monotonic() > end:
                self.loop.stop()
            else:
                self.loop.after(0.01, look)

        self.loop._stopped = False
        look()
        self.loop.run()
        assert enough()


@pytest.fixture
def watching(tmp_path: Path) -> Iterator[Watching]:
    watching = Watching(tmp_path)
    yield watching
    watching.close()


def event(text: str) -> Event:
    return Event(EventKind.NOTE, 1.5, text=text)


def say(file: Path, *texts: str) -> None:
    with file.open("a") as lines:
        lines.write("".join(json.dumps(events.as_json(event(text))) + "\n" for text in texts))


def test_states_are_told_when_they_are_reached_and_once(tmp_path: Path, watching: Watching) -> None:
    run_dir = str(tmp_path)
    assert watching.deeds.state is State.NORMAL
    state.reached(State.PREPARED, Way.FAST, Act.KEXEC, loaded=False, run_dir=run_dir)
    watching.until(lambda: watching.states == [State.PREPARED])
    state.reached(State.FROZEN, Way.FAST, Act.KEXEC, loaded=False, run_dir=run_dir)
    watching.until(lambda: watching.states == [State.PREPARED, State.FROZEN])
    state.clear(run_dir)
    watching.until(lambda: watching.states[2:] == [State.NORMAL])
    state.write(
        state.Restart(state=State.PREPARED, way=Way.FAST, act=Act.KEXEC, loaded=False, since=0.0), run_dir
    )
    watching.until(lambda: watching.states[3:] == [State.PREPARED])


def test_past_the_commit_point_the_way_down_is_left_alone(tmp_path: Path, watching: Watching) -> None:
    file = tmp_path / events.EVENTS_FILE
    file.write_text(json.dumps(events.as_json(Event(EventKind.COMMIT, 1.0))) + "\n")
    watching.until(lambda: [event.kind for event in watching.events] == [EventKind.COMMIT])
    say(file, "what nobody is there to hear")
    state.reached(State.FROZEN, Way.FAST, Act.KEXEC, loaded=False, run_dir=str(tmp_path))
    watching.loop.after(4 * PAUSE, watching.loop.stop)
    watching.loop._stopped = False
    watching.loop.run()
    assert len(watching.events) == 1 and not watching.states


def test_events_are_told_from_now_on_whole_and_in_order(tmp_path: Path) -> None:
    file = tmp_path / events.EVENTS_FILE
    say(file, "of an earlier restart")
    with contextlib.closing(Watching(tmp_path)) as watching:
        say(file, "first", "second")
        watching.until(lambda: watching.events == [event("first"), event("second")])
        with file.open("a") as lines:
            line = json.dumps(events.as_json(event("in two pieces"))) + "\n"
            lines.write(line[:20])
            lines.flush()
            watching.until(lambda: len(watching.events) == 2)
            lines.write(line[20:])
        watching.until(lambda: watching.events[2:] == [event("in two pieces")])
        file.open("w").close()  # a new restart
        say(file, "new")
        watching.until(lambda: watching.events[3:] == [event("new")])
        file.unlink()
        say(file, "newer", "{")
        watching.until(lambda: watching.events[4:] == [event("newer"), event("{")])


def test_lines_that_are_no_events_are_passed_over(tmp_path: Path, watching: Watching) -> None:
    file = tmp_path / events.EVENTS_FILE
    file.write_text('nonsense\n[]\n{"kind": "no such"}\n')
    say(file, "sense")
    watching.until(lambda: watching.events == [event("sense")])


def test_more_changes_than_the_kernel_keeps_are_changes_all_the_same(tmp_path: Path) -> None:
    fd = inotify.watch(str(tmp_path))
    most = int(Path("/proc/sys/fs/inotify/max_queued_events").read_text())
    for number in range(most // 2 + 10):
        (tmp_path / str(number)).touch()
        (tmp_path / str(number)).unlink()
    found = set[str]()
    while seen := inotify.names(fd):
        found |= seen
    os.close(fd)
    assert inotify.LOST in found
    assert "0" in found


def test_a_directory_that_is_not_there_cannot_be_watched(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        inotify.watch(str(tmp_path / "none"))


