# SPDX-License-Identifier: MIT
"""Whether a newer microcode is installed than the processor runs.

Which one runs: /sys/devices/system/cpu/cpu0/microcode (Documentation/ABI/testing/sysfs-devices-system-cpu). Intel's
files are called by family, model and stepping and begin with a header (Intel SDM volume 3, 10.11.1); AMD's are
containers of a table of processors and of patches (arch/x86/kernel/cpu/microcode/amd.c). A virtual machine runs none of
its own, and compressed files are not looked into.
"""

from __future__ import annotations

import os
import struct
from collections.abc import Iterator
from dataclasses import dataclass

from kexecd.kernel.files import join_root, read_text

RUNNING = "/sys/devices/system/cpu/cpu0/microcode"
FIRMWARE = ("/lib/firmware", "/usr/lib/firmware")

LARGEST = 16 << 20  # bytes of a file; AMD's largest has some hundred kilobytes

_INTEL = struct.Struct("<9I12x")  # header version, revision, date, signature, checksum, loader, flags, data, total size
_INTEL_DATA = 2000  # bytes where a header says 0

_AMD_MAGIC, _AMD_TABLE, _AMD_PATCH = b"DMA\0", 0, 1
_AMD_SECTION = struct.Struct("<2I")  # type, bytes
_AMD_ROW = struct.Struct("<3I2H")  # the processor's signature, two of errata, what patches call it, reserved
_AMD_HEADER = struct.Struct("<2IH2B3IH")  # ..., the revision in second place and the processor in the last one


@dataclass(frozen=True, slots=True)
class Newer:
    running: int
    installed: int
    file: str


def newer(root: str = "/") -> Newer | None:
    """The newest that is installed, if it is newer than what runs. Raises OSError and ValueError for odd files."""
    fields = _cpuinfo(root)
    if "hypervisor" in fields.get("flags", "").split():
        return None
    try:
        family, model, stepping = (int(fields[name]) for name in ("cpu family", "model", "stepping"))
        running = int(_read(root, f"{RUNNING}/version"), 16)
        platform = int(_read(root, f"{RUNNING}/processor_flags") or "0", 16)
    except (KeyError, ValueError):
        return None
    signature = _signature(family, model, stepping)
    match fields.get("vendor_id"):
        case "GenuineIntel":
            names = [f"intel-ucode/{family:02x}-{model:02x}-{stepping:02x}"]
        case "AuthenticAMD":
            names = ["amd-ucode/microcode_amd.bin", f"amd-ucode/microcode_amd_fam{family:x}h.bin"]
        case _:
            return None
    found = []
    for top in FIRMWARE:
        for name in names:
            path = f"{top}/{name}"
            if data := _bytes(join_root(root, path)):
                revisions = _amd(data, signature) if data.startswith(_AMD_MAGIC) else _intel(data, signature, platform)
                found += [Newer(running, revision, path) for revision in revisions]
    best = max(found, key=lambda one: one.installed, default=None)
    return best if best and best.installed > running else None


def _signature(family: int, model: int, stepping: int) -> int:
    """EAX of CPUID leaf 1, out of what /proc/cpuinfo makes of it (lib/cpu.c)."""
    base = min(family, 15)
    return stepping | (model & 15) << 4 | base << 8 | (model >> 4) << 16 | (family - base) << 20


def _intel(data: bytes, signature: int, platform: int) -> Iterator[int]:
    at = 0
    while at + _INTEL.size <= len(data):
        _, revision, _, processor, _, _, flags, size, total = _INTEL.unpack_from(data, at)
        if processor == signature and (not platform or flags & platform):
            yield revision
        at += max((total if size else 0) or _INTEL.size + _INTEL_DATA, _INTEL.size)


def _amd(data: bytes, signature: int) -> Iterator[int]:
    at = len(_AMD_MAGIC)
    called: set[int] = set()
    while at + _AMD_SECTION.size <= len(data):
        if data[at:].startswith(_AMD_MAGIC):  # another container behind this one
            at, called = at + len(_AMD_MAGIC), set()
            continue
        kind, size = _AMD_SECTION.unpack_from(data, at)
        at += _AMD_SECTION.size
        if kind == _AMD_TABLE:
            rows = data[at : at + size // _AMD_ROW.size * _AMD_ROW.size]
            called = {row[3] for row in _AMD_ROW.iter_unpack(rows) if row[0] == signature}
        elif kind == _AMD_PATCH and at + _AMD_HEADER.size <= len(data):
            header = _AMD_HEADER.unpack_from(data, at)
            if header[-1] in called:
                yield header[1]
        at += size


def _cpuinfo(root: str) -> dict[str, str]:
    """Of the first processor."""
    block = _read(root, "/proc/cpuinfo").partition("\n\n")[0]
    pairs = (line.partition(":") for line in block.splitlines())
    return {key.strip(): value.strip() for key, _, value in pairs}


def _bytes(path: str) -> bytes:
    if not os.path.isfile(path):
        return b""
    with open(path, "rb") as file:
        return file.read(LARGEST)


def _read(root: str, path: str) -> str:
    try:
        return (read_text(path, root=root) or "").strip()
    except OSError:
        return ""
