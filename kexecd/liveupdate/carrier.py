# SPDX-License-Identifier: MIT
"""Which of the two carries what applications have handed over, why, and how long that takes: told before a restart.

The kernel's live update where it can, because there nothing has to be copied; files where it cannot. Neither is tried
in hope: what would be lost in the new kernel, or keep that from coming up, is known beforehand.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

from kexecd.config.policy import StateCarrier
from kexecd.liveupdate.index import Carrier
from kexecd.model import Act, LoadMethod

PRESERVING = 4 << 30
"""Bytes a second that the kernel takes note of: 256 MiB in 0.04 to 0.06 s, Linux 7.3.4 in an emulated machine."""


class Fate(StrEnum):
    """What becomes of memory that is handed to the next kernel, and of that kernel."""

    CARRIED = "carried"
    LOST = "lost"  # it starts, without what it was handed
    PANIC = "panic"  # it does not start
    UNKNOWN = "unknown"  # nobody can tell


@dataclass(frozen=True, slots=True)
class Outlook:
    fate: Fate
    why: str  # a sentence without a full stop


@dataclass(frozen=True, slots=True)
class Forecast:
    """why: a sentence without a full stop. seconds: how long everything takes that is held now; 0.0 if unknown."""

    carrier: Carrier
    why: str
    seconds: float = 0.0

    def sentence(self) -> str:
        takes = f", in about {self.seconds:.1f} s" if self.seconds else ""
        return f"by {self.carrier}{takes}: {self.why}"


def carrier(
    act: Act,
    outlook: Outlook,
    *,
    wanted: StateCarrier = StateCarrier.AUTO,
    method: LoadMethod | None = LoadMethod.KEXEC_FILE_LOAD,
    size: int = 0,
    rate: float = 0.0,
) -> Forecast:
    """outlook: of the kernel to come, kexecd.liveupdate.compatible. method: how it is or will be loaded; None: somebody
    else has loaded it. size: bytes that are held; rate: bytes a second to the disk, where that has been measured.
    """
    if why := _why_not_memory(act, outlook, wanted, method):
        return Forecast(Carrier.FILE, why, size / rate if rate else 0.0)
    return Forecast(Carrier.MEMORY, outlook.why, size / PRESERVING)


def _why_not_memory(act: Act, outlook: Outlook, wanted: StateCarrier, method: LoadMethod | None) -> str:
    if act is Act.FIRMWARE:
        return "a restart through the firmware empties the memory"
    if wanted is StateCarrier.FILE:
        return "kexecd.yaml says `carrier: file`"
    if method is None:
        return "nobody can tell how the image in memory was loaded, and with kexec_load(2) nothing is handed over"
    if method is LoadMethod.KEXEC_TOOLS:
        return "the image was loaded by kexec-tools with kexec_load(2), which hands nothing over"
    return "" if outlook.fate is Fate.CARRIED else outlook.why
