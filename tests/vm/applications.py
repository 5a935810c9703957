# SPDX-License-Identifier: MIT
"""Three applications that make a restart lose something, and how to see afterwards whether it did.

Each writes content that both sides can compute from a seed, so that a checksum made in the new kernel proves it whole.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass

from tests.vm.lab.guest import Guest

MIB = 1 << 20
HASTY_MIB = 200
SEED = b"nothing is lost"

CAREFUL = """
import hashlib, signal, sys, time
def save(*_):
    time.sleep(2)  # what it has to think about before it can write
    with open("/data/careful", "wb") as file:
        file.write(hashlib.shake_256(b"{seed}").digest(1 << 20))
    sys.exit(0)
signal.signal(signal.SIGTERM, save)
open("/run/careful.ready", "w").close()
while True:
    signal.pause()
"""

STUBBORN = """
import signal, time
signal.signal(signal.SIGTERM, signal.SIG_IGN)
file = open("/data/stubborn", "w")
open("/run/stubborn.ready", "w").close()
while True:
    print(time.monotonic(), file=file, flush=True)
    time.sleep(0.1)
"""

HASTY = """
import hashlib, signal
block = hashlib.shake_256(b"{seed}").digest(1 << 20)
file = open("/data/hasty", "wb")
for number in range({mib}):
    file.write(number.to_bytes(4, "big") + block[4:])
file.flush()  # into the page cache, and no further
open("/run/hasty.ready", "w").close()
while True:
    signal.pause()
"""


@dataclass(frozen=True)
class Application:
    name: str
    does: str
    source: str
    unit: bool  # whether it is a unit of its own, or a stray process in somebody else's


APPLICATIONS = (
    Application("careful", "needs 2 s after TERM to write its state", CAREFUL, unit=True),
    Application("stubborn", "ignores TERM, with a file open for writing", STUBBORN, unit=False),
    Application("hasty", f"has written {HASTY_MIB} MB and never synced", HASTY, unit=True),
)


def start(guest: Guest, *names: str) -> None:
    """Start applications in the guest (all of them unless named), and wait until each says that it is at work."""
    chosen = [application for application in APPLICATIONS if not names or application.name in names]
    for application in chosen:
        source = application.source.replace("{seed}", SEED.decode()).replace("{mib}", str(HASTY_MIB))
        path = f"/srv/{application.name}.py"
        guest.put(path, source.encode())
        if application.unit:
            guest.run("systemd-run", "--quiet", f"--unit={application.name}", "/usr/bin/python3", path)
        else:
            guest.spawn("/usr/bin/setsid", "/usr/bin/python3", path)
    for application in chosen:
        wait = f"until [ -e /run/{application.name}.ready ]; do sleep 0.1; done"
        guest.run("timeout", "60", "sh", "-c", wait, timeout=70)


def lost(guest: Guest, *names: str) -> dict[str, str]:
    """The files whose checksum is not what it has to be, with what was found; empty when nothing is lost."""
    found = {}
    for name, expected in expected_sums().items():
        if names and name not in names:
            continue
        done = guest.run("sha256sum", f"/data/{name}", timeout=120, check=False)
        if done.stdout.split(" ")[0] != expected:
            found[name] = (done.stdout or done.stderr).strip()
    return found


def expected_sums() -> dict[str, str]:
    block = hashlib.shake_256(SEED).digest(MIB)
    hasty = hashlib.sha256()
    for number in range(HASTY_MIB):
        hasty.update(number.to_bytes(4, "big") + block[4:])
    return {"careful": hashlib.sha256(block).hexdigest(), "hasty": hasty.hexdigest()}
