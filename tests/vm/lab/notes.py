# SPDX-License-Identifier: MIT
"""What a long run has seen so far, as JSON: for people, and for a run that goes on where another was cut off."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any


def keep(project: str, found: Mapping[str, object], path: Path) -> None:
    """Write it, whole or not at all. project: the key of what was installed in the guests."""
    scratch = path.with_suffix(".new")
    scratch.write_text(json.dumps({"project": project, **found}, indent=1) + "\n", encoding="utf-8")
    scratch.replace(path)


def kept(project: str, path: Path) -> Mapping[str, Any]:
    """What is there of this very project; nothing, if it is of another."""
    if not path.exists():
        return {}
    found = json.loads(path.read_text(encoding="utf-8"))
    return found if found.get("project") == project else {}
