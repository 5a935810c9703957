# SPDX-License-Identifier: MIT
"""Whatever goes wrong past the commit point, the machine restarts: it is the end of a private one that proves it.

Each step of the plan that the private machine itself would walk, so that a new one cannot escape. What lies before the
commit point needs an image that can be loaded and is in tests/vm/test_faults.py.
"""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.faults import Fault
from tests.private_machine import make_disk, walk

TESTS = Path(__file__).parents[1]


@pytest.fixture(scope="module")
def disk(tmp_path_factory: pytest.TempPathFactory) -> Path:
    files = {"/faults.py": TESTS / "faults.py", "/break_step.py": TESTS / "vm/break_step.py"}
    return make_disk(tmp_path_factory.mktemp("faults"), files)


def places(disk: Path) -> list[tuple[int, str]]:
    said = walk(disk, "list", "after", "--fast", program=("/usr/bin/python3", "/break_step.py")).said
    line = next(line for line in said.splitlines() if line.startswith("["))
    return [(int(number), str(name)) for number, name in json.loads(line)]


@pytest.mark.parametrize("fault", Fault)
def test_after_the_commit_point_the_machine_restarts_whatever_goes_wrong(disk: Path, fault: Fault) -> None:
    found = places(disk)
    assert {"processes", "sync", "unmount", "read-only", "verdict"} <= {name.split("/")[0] for _, name in found}
    for number, name in found:
        seen = walk(disk, str(number), fault, "--fast", "--within=2", program=("/usr/bin/python3", "/break_step.py"))
        assert seen.restarted, f"{name}, {fault}:\n{seen.said}"
        assert '"kind": "commit"' in seen.said, f"{name}, {fault}:\n{seen.said}"
