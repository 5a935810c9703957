# SPDX-License-Identifier: MIT
"""The requests to device-mapper and md, as far as they can be made without either; guests make them for real."""

from __future__ import annotations

import errno
import os
import struct
import threading
import time
from pathlib import Path

import pytest

from kexecd.errors import NotPermitted
from kexecd.kernel import dm, guard, md


def test_the_request_is_laid_out_as_the_kernel_reads_it() -> None:
    request = dm.remove_request("vg-root")
    assert len(request) == 312 and dm.DM_DEV_REMOVE == 0xC138FD04
    assert struct.unpack_from("=5I", request) == (4, 0, 0, 312, 312)
    assert request[48:56] == b"vg-root\0" and not any(request[56:])
    assert request[20:48] == bytes(28)


def test_a_name_that_does_not_fit_is_refused_and_not_cut_off() -> None:
    assert dm.remove_request("x" * 127)
    with pytest.raises(OSError, match="x") as caught:
        dm.remove_request("x" * 128)
    assert caught.value.errno == errno.ENAMETOOLONG


@pytest.fixture
def array(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(md, "forbid_in_tests", lambda deed: None)
    directory = tmp_path / "md127" / "md"
    directory.mkdir(parents=True)
    (directory / "array_state").write_text("active\n", encoding="utf-8")
    (directory / "safe_mode_delay").write_text("0.204\n", encoding="utf-8")
    return directory


@pytest.mark.parametrize("state", ["clean", "read-auto", "readonly", "inactive"])
def test_a_clean_array_is_not_waited_for(array: Path, state: str) -> None:
    (array / "array_state").write_text(f"{state}\n", encoding="utf-8")
    begin = time.monotonic()
    md.wait_clean("md127", "5", top=str(array.parents[1]))
    assert time.monotonic() - begin < 1
    assert (array / "safe_mode_delay").read_text(encoding="utf-8").startswith(md.SOON)


def test_an_array_that_becomes_clean_at_last_is_seen_to_be(array: Path) -> None:
    later = threading.Timer(0.1, lambda: (array / "array_state").write_text("clean\n", encoding="utf-8"))
    later.start()
    md.wait_clean("md127", "0.3", top=str(array.parents[1]))
    later.join()


def test_an_array_that_does_not_is_given_up_in_time(array: Path) -> None:
    begin = time.monotonic()
    with pytest.raises(OSError, match="md127") as caught:
        md.wait_clean("md127", "0.2", top=str(array.parents[1]))
    assert caught.value.errno == errno.ETIME and time.monotonic() - begin < 1


def test_an_array_without_a_safe_mode_is_waited_for_all_the_same(array: Path) -> None:
    os.unlink(array / "safe_mode_delay")
    (array / "array_state").write_text("clean\n", encoding="utf-8")
    md.wait_clean("md127", "1", top=str(array.parents[1]))


def test_an_array_that_is_gone_needs_no_stopping(array: Path) -> None:
    md.stop(str(array / "no-such-device"))


def test_no_test_closes_a_device_of_the_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(guard, "_in_initial_pid_namespace", lambda: True)
    with pytest.raises(NotPermitted):
        dm.remove("x")
    with pytest.raises(NotPermitted):
        md.stop("/dev/md127")
    with pytest.raises(NotPermitted):
        md.wait_clean("md127")
