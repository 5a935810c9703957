# SPDX-License-Identifier: MIT
"""What we put into kernel memory, written down: the kernel tells that there is an image, but not which.

/run/kexecd/image.json is the ImageRecord and the boot id, so that a record of another boot describes nothing.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict

from kexecd.kernel import files, sysfs
from kexecd.model import FileRecord, ImageRecord, LoadMethod, OpenFile

TYPE_CHECKING = False  # what the type checker takes for true; the module of that name costs as much as many of ours
if TYPE_CHECKING:
    from typing import Any

RUN_DIR = "/run/kexecd"
NAME = "image.json"


def of_file(file: OpenFile) -> FileRecord:
    """Read through the descriptor that is loaded from, without moving its position. Raises OSError."""
    import hashlib  # late: it loads OpenSSL, and only a load has a use for it

    digest, buffer, position = hashlib.sha256(), memoryview(bytearray(1 << 20)), 0
    while count := os.preadv(file.fd, [buffer], position):
        digest.update(buffer[:count])
        position += count
    return FileRecord(file.path, file.size, digest.hexdigest())


def write(record: ImageRecord, run_dir: str, root: str = "/") -> None:
    """Raises OSError."""
    fields = {"boot_id": sysfs.boot_id(root), **asdict(record)}
    files.write_json(os.path.join(run_dir, NAME), fields, mode=0o600)


def read(run_dir: str, root: str = "/") -> ImageRecord | None:
    """The record of this boot; None where there is none, or none that can be read."""
    try:
        fields = json.loads(files.read_text(os.path.join(run_dir, NAME)) or "null")
        return _parse(fields) if fields["boot_id"] == sysfs.boot_id(root) else None
    except (OSError, ValueError, TypeError, KeyError, RecursionError):
        return None


def loaded_record(run_dir: str = RUN_DIR, *, root: str = "/") -> ImageRecord | None:
    """What we loaded, if that was in this boot and an image is still there.

    Whether another program has loaded its own since then cannot be seen: the kernel does not say which image it has.
    """
    return read(run_dir, root) if sysfs.kexec_loaded(root) else None


def remove(run_dir: str) -> None:
    """Raises OSError, but not for a record that is not there."""
    if os.path.isdir(run_dir):
        files.remove(os.path.join(run_dir, NAME))


@contextmanager
def set_aside(run_dir: str, root: str = "/") -> Iterator[None]:
    """Have no record while it is open which image is loaded: after a crash a wrong one would be worse.

    It comes back if what is done here fails and leaves an image, the earlier one, loaded. Raises OSError.
    """
    path = os.path.join(run_dir, NAME)
    aside = f"{path}.earlier"
    if os.path.exists(path):
        os.replace(path, aside)
    elif os.path.exists(aside):
        os.unlink(aside)  # of a load that was cut short; nobody knows how far it came
    try:
        yield
    except BaseException:
        if os.path.exists(aside) and sysfs.kexec_loaded(root):
            os.replace(aside, path)
        raise
    finally:
        if os.path.exists(aside):
            os.unlink(aside)


def _parse(fields: dict[str, Any]) -> ImageRecord:
    return ImageRecord(
        entry_id=str(fields["entry_id"]),
        version=str(fields["version"]),
        kernel=_parse_file(fields["kernel"]),
        initrds=tuple(_parse_file(file) for file in fields["initrds"]),
        cmdline=str(fields["cmdline"]),
        nonce=str(fields["nonce"]),
        method=LoadMethod(fields["method"]),
        loaded_at=float(fields["loaded_at"]),
        named=bool(fields.get("named", True)),  # of an older kexecd: then it is better not chosen anew
        foreign=bool(fields.get("foreign", False)),
    )


def _parse_file(fields: dict[str, Any]) -> FileRecord:
    return FileRecord(str(fields["path"]), int(fields["size"]), str(fields["sha256"]))
