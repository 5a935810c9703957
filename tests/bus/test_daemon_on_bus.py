# SPDX-License-Identifier: MIT
"""The whole daemon on a bus: real deeds of kexecctl, asked for over D-Bus.

In a mount namespace of its own, with its own /run/kexecd and /var/lib/kexecd; nothing here loads, unloads or restarts,
which would be the machine's.
"""

from __future__ import annotations

import json
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from kexecd.kernel import sysfs
from tests.bus.conftest import DEBIAN
from tests.bus.private_bus import BUS, NOBODY, TOP, Caller, CallError, PrivateBus, process, until

START = "import sys; from kexecd.daemon.main import serve; sys.exit(serve('/run/kexecd', idle=float(sys.argv[1])))"

SCRIPT = """
    for place in /run/kexecd /var/lib/kexecd; do
        mkdir -p $place && mount -t tmpfs -o mode=755 none $place
    done
    exec "$@"
"""

MIB = 1 << 20


@contextmanager
def daemon(bus: PrivateBus, idle: float) -> Iterator[subprocess.Popen[bytes]]:
    command = ["unshare", "--mount", "sh", "-ec", SCRIPT, "sh", DEBIAN, "-c", START, str(idle)]
    with process(command, cwd=TOP, env=bus.environment) as started, bus.caller() as caller:
        until(lambda: caller.call("NameHasOwner", "s", ("org.kexecd",), to=BUS)[0], 20)
        yield started


@pytest.fixture
def served(bus: PrivateBus) -> Iterator[subprocess.Popen[bytes]]:
    with daemon(bus, 60.0) as started:
        yield started


@pytest.fixture
def caller(bus: PrivateBus, served: subprocess.Popen[bytes]) -> Iterator[Caller]:
    del served
    with bus.caller() as someone:
        yield someone


def memory(pid: int) -> int:
    status = Path(f"/proc/{pid}/status").read_text()
    return int(status.partition("VmRSS:")[2].split()[0]) << 10


def test_what_kexecctl_would_print_comes_over_the_bus(caller: Caller) -> None:
    begin = time.monotonic()
    (entries,) = caller.call("Entries")
    took = time.monotonic() - begin
    assert set(json.loads(entries)) >= {"schema", "entries", "chosen", "boot_loader"}
    (plan,) = caller.call("Plan", "sa{sv}", ("fast", {"firmware": ("b", True), "within": ("d", 7.0)}))
    told = json.loads(plan)
    assert (told["way"], told["act"], told["within"]) == ("fast", "firmware", 7.0)
    (answer,) = caller.call("Cancel")
    assert answer == "no restart is under way, and nothing was changed"
    print(f"Entries took {took:.3f} s")


def test_a_refusal_of_kexecctls_is_an_error_on_the_bus(caller: Caller) -> None:
    with pytest.raises(CallError) as caught:
        caller.call("Load", "sa{sv}", ("/etc/passwd", {}))
    assert caught.value.name == "org.kexecd.Error.NoEntry"


def test_who_is_nobody_sees_the_state_and_does_nothing(bus: PrivateBus, served: subprocess.Popen[bytes]) -> None:
    del served
    with bus.caller(NOBODY) as nobody:
        assert nobody.property("State") == "normal"
        for member in ("Entries", "Unload", "Cancel"):
            with pytest.raises(CallError) as caught:
                nobody.call(member)
            assert caught.value.name == "org.freedesktop.DBus.Error.AccessDenied"


def test_how_far_a_restart_has_come_is_told(caller: Caller, served: subprocess.Popen[bytes]) -> None:
    caller.listen(type="signal", interface="org.kexecd.Manager1")
    run = Path(f"/proc/{served.pid}/root/run/kexecd")
    event = {"kind": "note", "at": 1.5, "phase": "p", "step": "s", "text": "a word", "seconds": 0.5}
    (run / "events.jsonl").write_text(json.dumps(event) + "\n")
    assert caller.next_signal("Progress") == ("note", 1.5, "p", "s", "a word", 0.5)
    restart = {"state": "prepared", "way": "orderly", "act": "kexec", "loaded": False, "since": time.time()}
    (run / "state.new").write_text(json.dumps({"schema": 1, "boot_id": sysfs.boot_id(), **restart}))
    (run / "state.new").rename(run / "state.json")
    assert caller.next_signal("StateChanged") == ("prepared",)
    assert caller.property("State") == "prepared"


def test_it_stays_small(caller: Caller, served: subprocess.Popen[bytes]) -> None:
    for _ in range(20):
        caller.call("Entries")
    print(f"RSS of the daemon with the bus: {memory(served.pid) / MIB:.1f} MiB")
    assert memory(served.pid) < 25 * MIB


def test_it_leaves_when_idle_and_when_it_is_told_to(bus: PrivateBus) -> None:
    with daemon(bus, 0.5) as idle:
        assert idle.wait(10) == 0
    with daemon(bus, 60.0) as told:
        told.terminate()
        assert told.wait(10) == 0


def test_the_first_call_starts_it(tmp_path: Path) -> None:
    """By org.kexecd.service, as `make install` fills it in."""
    services, sbin = tmp_path / "services", tmp_path / "sbin"
    for directory in (services, sbin):
        directory.mkdir()
    told = (TOP / "config/dbus/org.kexecd.service").read_text().replace("@SBINDIR@", str(sbin))
    (services / "org.kexecd.service").write_text(told)
    launcher = sbin / "kexecd"
    launcher.write_text(
        f"""#!/bin/sh
        cd {TOP}
        export DBUS_SYSTEM_BUS_ADDRESS="$DBUS_STARTER_ADDRESS"
        exec unshare --mount sh -ec '{SCRIPT}' sh {DEBIAN} -c "{START}" 0.5
        """
    )
    launcher.chmod(0o755)
    bus = PrivateBus(tmp_path, "session", services)
    bus.start()
    try:
        with bus.caller() as caller:
            begin = time.monotonic()
            assert caller.property("State") == "normal"
            print(f"the first answer came {time.monotonic() - begin:.2f} s after the call that started it")
            until(lambda: not caller.call("NameHasOwner", "s", ("org.kexecd",), to=BUS)[0])
            assert caller.property("State") == "normal"  # and again, when it has left
            until(lambda: not caller.call("NameHasOwner", "s", ("org.kexecd",), to=BUS)[0])
    finally:
        bus.stop()
