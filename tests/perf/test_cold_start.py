# SPDX-License-Identifier: MIT
"""How much CPU it takes to begin: late in a shutdown, and on a machine with one slow core, this is what is felt.

The least of several runs, since the machine's own work beside it only ever adds. The budgets are shares of what Python
itself takes in the same minute (tests/perf/peer.py).
"""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from tests.perf.peer import PYTHON, RUNS, milliseconds

TOP = Path(__file__).parents[2]

KEXECCTL = f"import sys; sys.path.insert(0, {str(TOP)!r}); from kexecd.cli.main import main; sys.exit(main())"
# What a restart comes to before it looks at the machine: the whole of it is measured in test_own_overhead.py.
BEGIN = f"""\
import sys; sys.path.insert(0, {str(TOP)!r})
from kexecd.cli.main import parser
parser("reboot").parse_args(["reboot", "--fast"])
import kexecd.cli.reboot
"""
COMMANDS = {
    "jump.py": ((PYTHON, "-I", "-S", str(TOP / "kexecd" / "jump.py")), 0.5),
    "kexecctl --version": ((PYTHON, "-I", "-c", KEXECCTL, "--version"), 0.7),
    "kexecctl status": ((PYTHON, "-I", "-c", KEXECCTL, "status"), 2.5),
    "kexecctl reboot": ((PYTHON, "-I", "-c", BEGIN), 3.0),
}

LATE = (
    "bz2", "hashlib", "lzma", "psutil", "shutil", "subprocess", "yaml",
    "kexecd.bootmount", "kexecd.cli.image", "kexecd.discover.select", "kexecd.discover.sources",
)
"""What a restart into an image that is in memory has no use for."""

pytestmark = pytest.mark.perf


@pytest.mark.parametrize("name", COMMANDS)
def test_it_begins_within_its_budget(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    command, share = COMMANDS[name]
    milliseconds(command)  # writes the byte code, and brings the files into memory
    pairs = [(milliseconds(command), milliseconds()) for _ in range(RUNS)]
    least, peer = (min(times) for times in zip(*pairs, strict=True))
    with capsys.disabled():
        print(f"\n{name}: {least:.1f} ms of CPU, {least / peer:.2f} of Python's own {peer:.1f} ms, of {share} allowed")
    assert least <= share * peer


def test_a_restart_begins_without_what_only_a_choice_or_a_load_needs() -> None:
    code = f"{BEGIN}print(*[name for name in {LATE!r} if name in sys.modules])"
    done = subprocess.run([PYTHON, "-I", "-c", code], stdout=subprocess.PIPE, text=True, check=True, timeout=60)
    assert done.stdout.split() == []
