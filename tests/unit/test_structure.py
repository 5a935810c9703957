# SPDX-License-Identifier: MIT
"""A module imports only from the rows above it: the tree shows the flow, and this keeps it so."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[2] / "kexecd"

ROWS = (
    ("model", "errors", "client"),
    ("kernel",),
    ("config", "discover"),
    ("record", "lock", "state", "loop"),
    ("bootmount", "target", "loader", "handoff", "teardown", "liveupdate"),
    ("history", "deny"),
    ("plan", "report", "preflight"),
    ("executor",),
    ("standby", "control"),
    ("init",),
    ("wayback",),
    ("bus",),
    ("cli",),
    ("daemon",),
)
"""A room of a row may import itself and every room above; not its neighbours."""

ALONE = ("jump",)  # imports nothing of ours, and nothing imports it


def modules() -> list[Path]:
    return sorted(PACKAGE.rglob("*.py"))


def room(path: Path) -> str:
    return path.relative_to(PACKAGE).parts[0].removesuffix(".py")


def imported_rooms(path: Path) -> set[str]:
    names = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path} has a relative import"
            names |= {f"{node.module}.{alias.name}" for alias in node.names}
    return {name.split(".")[1] for name in names if name.startswith("kexecd.")} - {"__version__"}


@pytest.mark.parametrize("path", modules(), ids=lambda path: str(path.relative_to(PACKAGE)))
def test_a_module_imports_only_from_the_rows_above(path: Path) -> None:
    own = room(path)
    if own == "__init__":
        assert not imported_rooms(path)
        return
    if own in ALONE:
        assert not imported_rooms(path)
        return
    row = next(number for number, row in enumerate(ROWS) if own in row)
    allowed = {name for row in ROWS[:row] for name in row} | {own}
    assert imported_rooms(path) <= allowed


def test_nothing_imports_the_last_act() -> None:
    assert not [path for path in modules() if imported_rooms(path) & set(ALONE)]


def test_a_package_file_holds_nothing_but_its_docstring() -> None:
    for path in PACKAGE.rglob("__init__.py"):
        body = ast.parse(path.read_text(encoding="utf-8")).body
        assert ast.get_docstring(ast.parse(path.read_text(encoding="utf-8"))), path
        rest = body[1:]
        assert all(isinstance(node, ast.Assign) and path.parent == PACKAGE for node in rest), path
