# SPDX-License-Identifier: MIT
"""The last ladder: who does the irreversible act, and who does it when that one fails. Nothing here restarts."""

from __future__ import annotations

import signal
import time
from collections.abc import Iterator

import pytest

from kexecd.errors import NotRestarted
from kexecd.init import finish
from kexecd.init.none import NoInit
from kexecd.kernel import syscalls, sysfs, sysrq
from kexecd.model import Act


class Listening(NoInit):
    """A PID 1 that writes down what it is told, and never does it."""

    def __init__(self, word: str, log: list[str]) -> None:
        super().__init__("a deaf PID 1")
        self.word, self.log = word, log

    def has_last_word(self) -> str:
        return self.word

    def finish(self, act: Act) -> bool:
        self.log.append(f"PID 1: {act}")
        return True


@pytest.fixture
def log(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[str]]:
    """What is tried, in order; each try fails, as it does when one can still read about it."""
    log: list[str] = []
    names = {number: str(act) for act, number in finish._COMMANDS.items()}

    def reboot(command: int) -> None:
        log.append(f"ourselves: {names[command]}")
        raise OSError(16, "busy")

    monkeypatch.setattr(syscalls, "reboot", reboot)
    monkeypatch.setattr(sysfs, "kexec_loaded", lambda: True)
    monkeypatch.setattr(sysrq, "reset", lambda: log.append("the kernel's reset"))
    monkeypatch.setattr(finish, "forbid_in_tests", lambda deed: None)
    monkeypatch.setattr(time, "sleep", lambda seconds: None)
    before = signal.getsignal(signal.SIGTERM)
    yield log
    signal.signal(signal.SIGTERM, before)


def finished(log: list[str], act: Act, *, word: str = "", alone: bool = False) -> list[str]:
    with pytest.raises(NotRestarted):
        finish.finish(Listening(word, log), act, alone=alone, tell=lambda text: None)
    return log


def test_a_jump_is_ours_to_do_and_a_kexec_of_pid_1_comes_second(log: list[str]) -> None:
    assert finished(log, Act.KEXEC) == [
        "ourselves: kexec", "PID 1: kexec", "PID 1: firmware", "ourselves: firmware", "the kernel's reset",
    ]  # fmt: skip


def test_where_pid_1_has_hooks_of_its_own_it_comes_first(log: list[str]) -> None:
    assert finished(log, Act.KEXEC, word="/usr/lib/systemd/system-shutdown has ups")[:2] == [
        "PID 1: kexec", "ourselves: kexec",
    ]  # fmt: skip


def test_before_a_jump_that_did_not_come_about_ends_in_the_firmware_somebody_is_told_once(log: list[str]) -> None:
    with pytest.raises(NotRestarted):
        finish.finish(
            Listening("", log), Act.KEXEC, alone=False, tell=lambda text: None, fallen=lambda: log.append("fallen")
        )
    assert log == ["ourselves: kexec", "PID 1: kexec", "fallen", "PID 1: firmware", "ourselves: firmware",
                   "the kernel's reset"]  # fmt: skip


def test_a_restart_through_the_firmware_has_not_fallen(log: list[str]) -> None:
    with pytest.raises(NotRestarted):
        finish.finish(
            Listening("", log), Act.FIRMWARE, alone=True, tell=lambda text: None, fallen=lambda: log.append("fallen")
        )
    assert "fallen" not in log


def test_but_not_where_its_own_sync_would_hang(log: list[str]) -> None:
    assert finished(log, Act.KEXEC, word="it has a hook", alone=True)[0] == "ourselves: kexec"


def test_a_restart_through_the_firmware_is_pid_1s_who_may_close_what_we_could_not(log: list[str]) -> None:
    assert finished(log, Act.FIRMWARE) == ["PID 1: firmware", "ourselves: firmware", "the kernel's reset"]


def test_alone_nobody_is_asked_as_long_as_there_is_another_way(log: list[str]) -> None:
    assert finished(log, Act.FIRMWARE, alone=True) == ["ourselves: firmware", "PID 1: firmware", "the kernel's reset"]


@pytest.mark.parametrize("word", ["", "/usr/lib/systemd/system-shutdown has ups"])
def test_without_an_image_nobody_tries_to_jump_and_somebody_is_told_first(
    log: list[str], monkeypatch: pytest.MonkeyPatch, word: str
) -> None:
    monkeypatch.setattr(sysfs, "kexec_loaded", lambda: False)
    with pytest.raises(NotRestarted):
        finish.finish(
            Listening(word, log), Act.KEXEC, alone=False, tell=lambda text: None, fallen=lambda: log.append("fallen")
        )
    assert log == ["fallen", "PID 1: firmware", "ourselves: firmware", "the kernel's reset"]
