# SPDX-License-Identifier: MIT
"""What is told of a real kexec in the guest that it led to, against the host's own clock and what ran there."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest
from prometheus_client.parser import text_string_to_metric_families

from tests.vm.doors import guests
from tests.vm.lab.evidence import Kind
from tests.vm.lab.guest import Guest, Mark
from tests.vm.lab.oracle import judge
from tests.vm.lab.recipe import DEBIAN12_SYSTEMD, GENTOO_SYSVINIT, Recipe

KEXECCTL = "/usr/sbin/kexecctl"

PICTURES = Path(__file__).parents[2] / ".cache" / "plots"
"""Where the pictures stay, to be looked at."""

SLOW = """#!/usr/bin/python3
import signal, sys, time
def end(*_):
    time.sleep(float(sys.argv[1]))
    sys.exit(0)
signal.signal(signal.SIGTERM, end)
open(sys.argv[2], "w").close()
while True: signal.pause()
"""
WAIT = "until [ -e /run/{name}.ready ]; do sleep 0.1; done"
STARTED = "setsid /usr/local/bin/{name} {seconds} /run/{name}.ready < /dev/null > /dev/null 2>&1 & " + WAIT
UNIT = """[Service]
ExecStart=/usr/local/bin/{name} {seconds} /run/{name}.ready
[Install]
WantedBy=multi-user.target
"""

LATE = 1.0
"""Seconds by which the host sees a line of the console late: the kernel's first one comes when the console is found."""

BUSY = 0.1
"""Of the time between two lines, by how much more the host may be late where other guests are at work beside it."""


@pytest.fixture(params=[DEBIAN12_SYSTEMD, GENTOO_SYSVINIT], ids=lambda recipe: recipe.name)
def machine(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Guest]:
    recipe: Recipe = request.param
    with guests.start(recipe, tmp_path) as guest:
        yield guest


def slow(guest: Guest, name: str, seconds: float) -> None:
    """A program in the guest that takes so long to quit: a service of systemd, elsewhere in the background of none."""
    guest.put(f"/usr/local/bin/{name}", SLOW.encode(), mode=0o755)
    script = STARTED.format(name=name, seconds=seconds)
    if guest.image.recipe is DEBIAN12_SYSTEMD:
        guest.put(f"/etc/systemd/system/{name}.service", UNIT.format(name=name, seconds=seconds).encode())
        script = f"systemctl enable --now {name}; {WAIT.format(name=name)}"
    guest.run("timeout", "60", "sh", "-c", script, timeout=70)


def restarted(guest: Guest, *way: str) -> Mark:
    nonce = json.loads(guest.run(KEXECCTL, "load", "--json", timeout=90).stdout)["image"]["nonce"]
    old, mark = guest.boot_id(), guest.mark()
    guest.spawn(KEXECCTL, "reboot", *way)
    seen = judge(guest, mark, nonce, old)
    assert seen.kind is Kind.KEXEC and not seen.recovered, seen.explain()
    guest.wait_ready(120)
    return mark


def report(guest: Guest, name: str) -> dict[str, Any]:
    """What the guest tells, its picture kept."""
    told: dict[str, Any] = json.loads(guest.run(KEXECCTL, "report", "--json", timeout=60).stdout)
    picture = guest.run(KEXECCTL, "plot", timeout=60).stdout
    PICTURES.mkdir(parents=True, exist_ok=True)
    (PICTURES / f"{guest.image.recipe.name}-{name}.svg").write_text(picture, encoding="utf-8")
    texts = {element.text for element in ElementTree.fromstring(picture).iter("{http://www.w3.org/2000/svg}text")}
    assert {"gap", "kernel", "initrd", "userspace"} <= texts, texts
    return told


def parts(told: dict[str, Any]) -> dict[str, dict[str, float]]:
    return {part["part"]: part for part in told["timeline"]["parts"]}


def as_the_host_saw_it(guest: Guest, since: Mark) -> object:
    """From the first word of the way down to that of the new kernel, in seconds of the host's own clock."""

    def at(text: str) -> float:
        return next(line.at for line in guest.lines(since) if text in line.text)

    seconds = at("Linux version") - at("kexecd: going down")
    return pytest.approx(seconds, abs=LATE + BUSY * seconds)


def test_a_fast_kexec_is_told_from_the_first_step_to_the_last_service(machine: Guest) -> None:
    slow(machine, "postgres", 1.5)
    slow(machine, "redis-server", 0.7)
    old = machine.uname()
    mark = restarted(machine, "--fast")
    told = report(machine, "fast")
    assert told["how"] == "kexec" and told["as_planned"], told["reason"]
    timeline, found = told["timeline"], parts(told)
    assert list(found)[:5] == ["down", "gap", "kernel", "initrd", "userspace"]
    assert timeline["from_release"] == old and told["release"] == machine.uname()

    # The counter has gone on through the jump. The host's clock saw the same, but for the console's own delay.
    gap = timeline["gap"]
    assert gap["by"] == "counter" and gap["error"] < 0.05, gap
    assert gap["phases"][0] == "sync" and "verdict" in gap["phases"], gap
    assert found["kernel"]["begin"] == as_the_host_saw_it(machine, mark)

    slowest = {slow["name"].split()[0]: slow["seconds"] for phase in timeline["phases"] for slow in phase["slowest"]}
    assert slowest["postgres"] == pytest.approx(1.6, abs=0.7), slowest
    assert slowest["redis-server"] == pytest.approx(0.8, abs=0.6), slowest
    assert slowest["redis-server"] < slowest["postgres"]
    assert timeline["services"], "nobody has told how long a service took to start"
    # The whole axis ends now, or a little earlier.
    uptime = float(machine.run("cut", "-d ", "-f1", "/proc/uptime").stdout)
    assert timeline["parts"][-1]["begin"] + timeline["parts"][-1]["seconds"] <= found["kernel"]["begin"] + uptime

    machine.put("/etc/kexecd/kexecd.yaml", b"metrics:\n  file: /srv/kexecd.prom\n")
    machine.run(KEXECCTL, "metrics", "--write", timeout=60)
    written = machine.run("cat", "/srv/kexecd.prom").stdout
    families = {family.name: family for family in text_string_to_metric_families(written)}
    shown = {sample.labels["part"]: sample.value for sample in families["kexecd_restart_part_seconds"].samples}
    assert shown["gap"] == pytest.approx(gap["seconds"], abs=2 * gap["error"])  # another look at the same clocks
    kept = json.loads(machine.run("cat", "/var/lib/kexecd/up.json").stdout)
    assert kept["boot_id"] == machine.boot_id() and kept["marks"]["userspace"] is not None
    assert families["kexecd_kexecs_since_firmware"].samples[0].value == told["kexecs_since_firmware"]


def test_where_pid_1_takes_the_machine_down_it_is_told_until_all_services_have_stopped(machine: Guest) -> None:
    slow(machine, "postgres", 1.5)
    if machine.image.recipe is DEBIAN12_SYSTEMD:  # this unit alone keeps systemd from forgetting whom it has stopped
        machine.run("systemctl", "mask", "systemd-update-utmp-runlevel.service", timeout=60)
    mark = restarted(machine)
    told = report(machine, "orderly")
    timeline, found = told["timeline"], parts(told)
    assert told["how"] == "kexec" and timeline["way"] == "orderly"
    names = [phase["name"] for phase in timeline["phases"]]
    assert names[-1] == "services" and "hand over" in names, names
    assert found["gap"]["seconds"] < found["down"]["seconds"] + 10
    services = timeline["phases"][-1]
    if machine.image.recipe is DEBIAN12_SYSTEMD:
        units = {slow["name"]: slow["seconds"] for slow in services["slowest"]}
        assert units.get("postgres.service", 0.0) > 1.3, units
    assert found["kernel"]["begin"] == as_the_host_saw_it(machine, mark)
    text = machine.run(KEXECCTL, "report", timeout=60).stdout
    assert "by kexec from Linux" in text and "gap: " in text and "by the processor's time counter" in text, text
