# SPDX-License-Identifier: MIT
"""What is remembered of a restart in a real guest, where the kernel is not to blame: it is not denied for it.

What becomes of bad kernels: tests/vm/campaign.
"""

from __future__ import annotations

import json
from typing import Any

from kexecd.kernel.cmdline import canonical
from tests.vm.doors.staging import UNLOAD
from tests.vm.lab.evidence import Kind
from tests.vm.lab.guest import Guest
from tests.vm.lab.oracle import Restart
from tests.vm.test_first_light import kexecctl, restart

LATE = f"""\
import os, signal, time
def unload(*_):
    os.system({UNLOAD!r})
    os._exit(0)
signal.signal(signal.SIGTERM, unload)
print("ready", flush=True)
while True:
    signal.pause()
"""


def told(guest: Guest, *words: str) -> Any:
    done = kexecctl(guest, *words, "--json")
    assert done.exit_code == 0, done.stderr
    return json.loads(done.stdout)


def attempts(guest: Guest) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = told(guest, "history")["attempts"]
    return found


def finished(guest: Guest) -> list[dict[str, Any]]:
    """The attempts, when this boot has been told what became of the last; no service of kexecd's runs in this guest."""
    done = kexecctl(guest, "finish")
    assert done.exit_code == 0, done.stderr
    return attempts(guest)


def test_a_good_kexec_is_confirmed_and_one_in_which_the_image_vanished_denies_no_kernel(guest: Guest) -> None:
    before = canonical(guest.cmdline())
    seen = restart(guest, "--fast")
    assert seen.kind is Kind.KEXEC, seen.explain()
    (good,) = finished(guest)
    assert good["outcome"] == "confirmed" and good["boot_id"] == guest.boot_id(), good
    assert guest.cmdline().endswith("panic=30 rd.shell=0 rd.emergency=reboot")
    assert canonical(guest.cmdline()) == before

    guest.put("/root/late.py", LATE.encode())
    guest.spawn("/usr/bin/python3", "/root/late.py")
    lost: Restart = restart(guest, "--fast", nonce=False)
    assert lost.kind is Kind.FIRMWARE and not lost.recovered, lost.explain()
    _, refused = finished(guest)
    assert refused["outcome"] == "refused", refused
    assert "the jump did not come about" in refused["reason"], refused
    assert told(guest, "deny", "list")["denied"] == []
    assert kexecctl(guest, "check", "--ignore", "last-kexec").exit_code == 0
