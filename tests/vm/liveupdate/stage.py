# SPDX-License-Identifier: MIT
"""The guests: the example server holds its table in a memfd, kexecd-state holds that, and both are services."""

from __future__ import annotations

import atexit
import functools
import json
import shutil
import struct
import tempfile
from dataclasses import dataclass, replace
from pathlib import Path

from tests.vm.lab.booted import booted
from tests.vm.lab.cache import REPO
from tests.vm.lab.delivery import deliver
from tests.vm.lab.guest import Guest
from tests.vm.lab.image import BARE, INSTALL_TIMEOUT, Install, build, project_key
from tests.vm.lab.kernel.build import build as build_kernel
from tests.vm.lab.oracle import Restart, judge
from tests.vm.lab.recipe import DEBIAN12_SYSTEMD, GENTOO_OPENRC_INIT, Recipe
from tests.vm.lab.snapshot import Snapshot
from tests.vm.lab.tools import run_tool

KEXECCTL = "/usr/sbin/kexecctl"
EXAMPLE = REPO / "examples" / "keyvalue"
PLACE = "/opt/keyvalue"
SOCKET = "/run/keyvalue"
LAST = "/data/last"
KERNEL, TWIN = "/opt/kernel", "/opt/twin"

MEMORY_MIB = 1536
"""Room for 356 MiB of memfds, twice."""

LIVE = "kho=on liveupdate=on kho_scratch=16M,64M,64M"

# Names of their own: what these are made of does not push other tests' images out of the cache.
SYSTEMD = replace(DEBIAN12_SYSTEMD, name="live-systemd", base="debian12-systemd")
OPENRC = replace(GENTOO_OPENRC_INIT, name="live-openrc")

# A client that never waits for the restart: what is acknowledged is on the disk before the next one is asked for.
WRITER = f"""\
import os, signal, sys
sys.path.insert(0, "{PLACE}")
from shell import Client

signal.signal(signal.SIGTERM, signal.SIG_IGN)
client, number = Client("{SOCKET}"), 0
last = os.open("{LAST}", os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_DSYNC, 0o600)
while True:
    number += 1
    client.ask(b"SET last %d" % number)
    os.pwrite(last, b"%d" % number, 0)
"""

UNIT = """\
[Unit]
Wants=kexecd-state.service
After=kexecd-state.service
[Service]
Environment=PYTHONPATH=/usr/lib/kexecd
ExecStart=/usr/bin/python3 {program}
[Install]
WantedBy=multi-user.target
"""

SCRIPT = """\
#!/sbin/openrc-run
command=/usr/bin/python3
command_args="{program}"
command_background=yes
pidfile=/run/{name}.pid
export PYTHONPATH=/usr/lib/kexecd
depend()
{{
	need kexecd-state
}}
"""

SYSTEMD_READY = """\
export SYSTEMCTL_SKIP_SYSV=1
set -e
systemctl daemon-reload
systemctl enable kexecd-confirm.service
systemctl enable --now kexecd-freeze.service kexecd-finish.service kexecd-state.service keyvalue.service
"""
OPENRC_READY = """\
set -e
rc-update --quiet add kexec-jump shutdown
rc-update --quiet add kexec-confirm sysinit
rc-update --quiet add kexec-finish default
rc-update --quiet add kexecd-state default
rc-update --quiet add keyvalue default
openrc default
"""


@dataclass(frozen=True, slots=True)
class Sum:
    """What the example server says of its table."""

    keys: int
    writes: int
    checksum: str


def start(recipe: Recipe, workdir: Path, *, live: bool, words: str = LIVE) -> Guest:
    """A guest with all of it, on Debian's kernel or, with `words`, on one with live update; the caller stops it."""
    return Guest.from_snapshot(_staged(recipe, live, words if live else ""), workdir=workdir)


@functools.cache
def _staged(recipe: Recipe, live: bool, words: str) -> Snapshot:
    """Once a run: what is delivered is the project as it is then."""
    directory = Path(tempfile.mkdtemp(prefix="lab-live-"))
    atexit.register(shutil.rmtree, directory, ignore_errors=True)
    kernel = build_kernel().image if live else None
    snapshot = booted(build(recipe, BARE), memory_mib=MEMORY_MIB, cpus=1, extra_cmdline=words, kernel=kernel)
    with Guest.from_snapshot(snapshot, workdir=directory) as guest:
        _prepare(guest, live=live)
        return guest.snapshot(snapshot.name)  # in the place of the one that it came from


def _prepare(guest: Guest, *, live: bool) -> None:
    systemd = not guest.image.recipe.init.is_upstream_openrc
    deliver(guest, None if systemd else Install(project_key(), _with_openrc))
    for path in EXAMPLE.glob("*.py"):
        guest.put(f"{PLACE}/{path.name}", path.read_bytes())
    guest.put(f"{PLACE}/writer.py", WRITER.encode())
    programs = {"keyvalue": f"{PLACE}/server.py {SOCKET}", "writer": f"{PLACE}/writer.py"}
    for name, program in programs.items():
        if systemd:
            guest.put(f"/etc/systemd/system/{name}.service", UNIT.format(program=program).encode())
        else:
            guest.put(f"/etc/init.d/{name}", SCRIPT.format(name=name, program=program).encode(), mode=0o755)
    if live:
        guest.put(KERNEL, build_kernel().image.read_bytes())
    guest.run("/bin/sh", "-c", SYSTEMD_READY if systemd else OPENRC_READY, timeout=120)


def _with_openrc(rootdir: Path) -> None:
    options = (f"DESTDIR={rootdir}", "PREFIX=/usr", "INITS=openrc")
    run_tool("make", "-C", REPO, "install", *options, timeout=INSTALL_TIMEOUT)


def fill(guest: Guest, count: int) -> None:
    """Have the server begin with so many keys, as it would have written them: an emulated one takes minutes for it."""
    records = b"".join(_record(b"key-%d" % number, b"value-of-%d" % (number * 7919)) for number in range(count))
    content = struct.pack("<8sQ", b"keyvalue", 16 + len(records)) + records
    guest.put("/opt/table", content + bytes(-len(content) % (1 << 20)))
    rc = guest.image.recipe.init.is_upstream_openrc
    stop, start = [f"rc-service keyvalue {verb}" if rc else f"systemctl {verb} keyvalue" for verb in ("stop", "start")]
    state = f"{KEXECCTL} state"
    guest.run("sh", "-ec", f"{stop}; {state} drop keyvalue; {state} put keyvalue /opt/table; {start}", timeout=180)


def _record(key: bytes, value: bytes) -> bytes:
    """As examples/keyvalue/table.py has it."""
    return struct.pack("<II", len(key), len(value)) + key + value


def begin(guest: Guest, name: str) -> None:
    """Have the init start a service."""
    command = ("systemctl", "start", name)
    guest.run(*(("rc-service", name, "start") if guest.image.recipe.init.is_upstream_openrc else command), timeout=60)


def shell(guest: Guest, *words: str) -> str:
    """What the example's client says."""
    return guest.run("/usr/bin/python3", f"{PLACE}/shell.py", SOCKET, *words, timeout=600).stdout.strip()


def table(guest: Guest) -> Sum:
    keys, _, writes, _, checksum = shell(guest, "sum").split()
    return Sum(int(keys), int(writes), checksum)


def status(guest: Guest) -> dict[str, object]:
    """`kexecctl state status`."""
    told: dict[str, object] = json.loads(guest.run(KEXECCTL, "state", "status", "--json", timeout=60).stdout)
    return told


def restart(guest: Guest, *words: str, load: tuple[str, ...] | None = None) -> Restart:
    """Through kexecctl; load: what to load before, by itself the kernel with live update where that runs."""
    old = guest.boot_id()
    if load is None:
        load = ("--kernel", KERNEL) if guest.uname().endswith("-kexecd") else ()
    done = guest.run(KEXECCTL, "load", *load, "--json", timeout=120)
    nonce = json.loads(done.stdout)["image"]["nonce"]
    mark = guest.mark()
    guest.spawn("/bin/sh", "-c", f"exec {KEXECCTL} reboot {' '.join(words)} > /run/said 2>&1")
    return judge(guest, mark, nonce, old, timeout=180)
