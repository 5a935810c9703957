# SPDX-License-Identifier: MIT
"""What anybody on the bus may see: the properties of org.kexecd.Manager1, and what of them has changed.

No command line and no nonce: /run/kexecd/image.json is root's alone, and so is what may stand in it.
"""

from __future__ import annotations

from dataclasses import dataclass, field, fields

from kexecd import state
from kexecd.kernel import sysfs
from kexecd.liveupdate import place
from kexecd.model import Act, Event, EventKind, State
from kexecd.record import loaded_record

TYPE_CHECKING = False  # what the type checker takes for true; the module of that name costs as much as many of ours
if TYPE_CHECKING:
    from typing import Any

FIRMWARE = "firmware"
FOREIGN = "an image that kexecd did not load"


@dataclass(frozen=True, slots=True)
class View:
    """image: of what is in memory, as far as it is known, each with its D-Bus type; empty where there is nothing.

    target: what the machine restarts into: the id of a boot entry, "firmware", empty where that is not decided.
    deadline: of a restart past its commit point, seconds of CLOCK_BOOTTIME; 0 without one.
    held: what applications have handed over, as the holder last wrote it; empty where nothing is held.
    """

    state: State = State.NORMAL
    image: dict[str, tuple[str, Any]] = field(default_factory=dict)
    target: str = ""
    deadline: float = 0.0
    held: dict[str, tuple[str, Any]] = field(default_factory=dict)

    def properties(self) -> dict[str, tuple[str, Any]]:
        return {
            "State": ("s", str(self.state)),
            "Image": ("a{sv}", self.image),
            "Target": ("s", self.target),
            "Deadline": ("d", self.deadline),
            "Held": ("a{sv}", self.held),
        }

    def changed_since(self, before: View) -> dict[str, tuple[str, Any]]:
        mine = self.properties()
        names = (each.name for each in fields(self) if getattr(self, each.name) != getattr(before, each.name))
        return {name.capitalize(): mine[name.capitalize()] for name in names}


def view(run_dir: str, *, arrived: bool, deadline: float, root: str = "/") -> View:
    """As it is now. arrived: whether a kexec of ours led to this boot."""
    restart, image = state.read(run_dir), _image(run_dir, root)
    target = str(image.get("entry_id", ("s", FOREIGN))[1]) if image else ""
    if restart and restart.act is Act.FIRMWARE:
        target = FIRMWARE
    return View(state.now(run_dir, arrived=arrived), image, target, deadline, _held(run_dir))


def _held(run_dir: str) -> dict[str, tuple[str, Any]]:
    """Whose it is and what it is called is between its owner and the holder."""
    told = place.summary(run_dir)
    if not told.count and not told.lost:
        return {}
    return {
        "state": ("s", told.state),
        "count": ("u", told.count),
        "lost": ("u", told.lost),
        "carrier": ("s", told.carrier),
        "why": ("s", told.why),
    }


def _image(run_dir: str, root: str) -> dict[str, tuple[str, Any]]:
    if not sysfs.kexec_loaded(root):
        return {}
    record = loaded_record(run_dir, root=root)
    if record is None:
        return {"ours": ("b", False)}
    return {
        "ours": ("b", True),
        "entry_id": ("s", record.entry_id),
        "version": ("s", record.version),
        "kernel": ("s", record.kernel.path),
        "method": ("s", str(record.method)),
        "loaded_at": ("d", record.loaded_at),
    }


class Deadline:
    """What the events of a restart tell about its end: so many seconds from the commit point."""

    def __init__(self) -> None:
        self.at = 0.0
        self._within = 0.0

    def hear(self, event: Event) -> None:
        match event.kind:
            case EventKind.PLAN:
                self.at, self._within = 0.0, _seconds(event.text)
            case EventKind.COMMIT:
                self.at = event.at + self._within if self._within else 0.0
            case EventKind.STATE if event.text == State.NORMAL:
                self.at = 0.0
            case _:
                pass


def _seconds(text: str) -> float:
    """Of a plan's first event: "fast, 10 s"."""
    try:
        return float(text.rpartition(", ")[2].removesuffix(" s"))
    except ValueError:
        return 0.0
