# SPDX-License-Identifier: MIT
"""How far a real systemd has come, and that whoever waits for it survives what becomes of the boot."""

from __future__ import annotations

import re
import select
import subprocess
import time
from pathlib import Path

from kexecd.wayback.usual import SystemdUsual
from tests.namespaces.little_systemd import beside_systemd
from tests.namespaces.stage import eventually

TOP = Path(__file__).parents[2]
LONG = "ExecStart=sleep 1000"


def lines(*words: str) -> str:
    return "[Unit]\nDefaultDependencies=no\n" + "\n".join(words)


def confirm_unit() -> str:
    """Ours, with somebody else who waits; this is a container, and its kernel has another command line."""
    text = (TOP / "units/kexecd-confirm.service").read_text(encoding="utf-8")
    text = re.sub(r"(?m)^(Condition|RequiresMountsFor|Standard|OOMScore).*\n", "", text)
    text = re.sub(r"(?m)^ExecStart=.*", "ExecStart=sleep 1000", text)
    assert "IgnoreOnIsolate=yes" in text and "DefaultDependencies=no" in text
    return text.replace("# SPDX-License-Identifier: MIT\n", "")


def systemctl(*words: str) -> str:
    done = subprocess.run(["systemctl", *words], check=False, capture_output=True, text=True, timeout=30)
    return done.stdout.strip()


@beside_systemd({"good.service": LONG, "bad.service": "ExecStart=false"})
def test_services_are_good_if_they_are_active() -> None:
    eventually(lambda: systemctl("is-active", "bad.service") == "failed")
    assert SystemdUsual().active(("good", "good.service", "bad.service", "none.service")) == {
        "bad.service": "bad.service is failed",
        "none.service": "none.service is inactive",
    }


@beside_systemd({"good.service": LONG})
def test_the_default_target_is_waited_for_until_it_is_active() -> None:
    system = Path("/etc/systemd/system")
    (system / "slow.service").write_text("[Service]\nType=oneshot\nRemainAfterExit=yes\nExecStart=sleep 1.5\n")
    (system / "default.target").write_text(lines("Wants=slow.service", "After=slow.service"))
    systemctl("daemon-reload")
    init = SystemdUsual()
    assert init.reached().why == "default.target is inactive"
    systemctl("start", "--no-block", "default.target")
    begin = time.monotonic()
    while not (reached := init.reached()).far:
        assert "default.target" in reached.why and time.monotonic() - begin < 20
        select.select(init.fds, [], [], 0.5)
    assert time.monotonic() - begin > 1
    init.close()


@beside_systemd({"good.service": LONG, "kexecd-confirm.service": confirm_unit()})
def test_whoever_waits_survives_that_systemd_goes_elsewhere_and_says_where_it_is() -> None:
    pid = systemctl("show", "--property=MainPID", "--value", "kexecd-confirm.service")
    assert int(pid) > 1
    Path("/etc/systemd/system/emergency.target").write_text(lines("AllowIsolate=yes"))
    systemctl("daemon-reload")
    systemctl("isolate", "emergency.target")
    eventually(lambda: systemctl("is-active", "good.service") != "active")
    assert systemctl("show", "--property=MainPID", "--value", "kexecd-confirm.service") == pid
    assert SystemdUsual().reached().why == "systemd is in emergency.target, not in its default target"
