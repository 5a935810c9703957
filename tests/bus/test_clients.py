# SPDX-License-Identifier: MIT
"""Other people's tools find it natural: pydbus, busctl; and the oldest jeepney that there is serves them as well."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.bus.conftest import DEBIAN, Served, serve
from tests.bus.private_bus import Caller, PrivateBus, process, until


@pytest.fixture
def face(bus: PrivateBus, place: Path) -> Iterator[Served]:
    """With the distribution's Python and its jeepney, 0.8 in Debian 12."""
    with serve(bus, place, DEBIAN) as served:
        yield served


def test_pydbus_calls_methods_reads_properties_and_hears_signals(face: Served) -> None:
    face.load()
    face.answers("entries", out={"schema": 1, "entries": [{"id": "a"}]})
    face.answers("plan", out={"schema": 1, "way": "fast"})
    face.answers("load", out={"schema": 1, "image": {"version": "6.1"}})
    face.answers("unload", out={"schema": 1, "unloaded": True})
    face.answers("cancel", out={"schema": 1, "cancelled": True, "answer": "nothing was under way"})
    client = Path(__file__).with_name("pydbus_client.py")
    with process([DEBIAN, str(client)], env=face.bus.environment, stdout=subprocess.PIPE) as started:
        assert started.stdout
        assert started.stdout.readline() == b"listening\n"
        face.say("progress note a word")
        face.restart("prepared")
        seen = json.loads(started.stdout.readline())
    assert seen["states"] == ["prepared"]
    assert {"State": "prepared"} in seen["changes"]
    assert seen["progress"] == [["note", 12.5, "services", "stop", "a word", 0.25]]
    assert (seen["state"], seen["deadline"], seen["image"]["version"]) == ("normal", 0.0, "6.1.0-9")
    assert seen["entries"]["entries"] == [{"id": "a"}]
    assert (seen["plan"]["way"], seen["loaded"]["image"]["version"]) == ("fast", "6.1")
    assert (seen["unloaded"], seen["cancelled"], seen["rebooted"]) == (True, "nothing was under way", None)
    assert "there is no mode 'sideways'" in seen["error"]
    assert face.deeds[1:3] == [["plan", "--json", "--fast", "--within=5.0"], ["load", "--json"]]


def test_busctl_shows_and_calls_it(face: Served) -> None:
    busctl = ["busctl", f"--address={face.bus.address}"]

    def run(*words: str) -> str:
        return subprocess.run([*busctl, *words], capture_output=True, text=True, check=True, timeout=20).stdout

    at = ("org.kexecd", "/org/kexecd", "org.kexecd.Manager1")
    shown = run("introspect", "--no-pager", *at)
    rows = [line.split()[:4] for line in shown.splitlines()]
    assert [".Reboot", "method", "sa{sv}", "-"] in rows
    assert [".StateChanged", "signal", "s", "-"] in rows
    assert [".State", "property", "s", '"normal"'] in rows
    assert "/org/kexecd" in run("tree", "--no-pager", "org.kexecd")
    assert run("get-property", *at, "State") == 's "normal"\n'
    face.answers("unload", out={"schema": 1, "unloaded": False})
    assert run("call", *at, "Unload") == "b false\n"
    assert run("call", *at, "Reboot", "sa{sv}", "fast", "1", "within", "d", "20") == ""
    assert face.deeds == [["unload", "--json"], ["reboot", "--json", "--fast", "--within=20.0"]]


def test_its_memory_with_the_distributions_python(face: Served, root: Caller) -> None:
    root.call("Unload")
    until(lambda: not face.sees()["busy"])
    print(f"RSS with {DEBIAN}: {face.memory / (1 << 20):.1f} MiB")
    assert face.memory < 25 << 20
