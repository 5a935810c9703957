# SPDX-License-Identifier: MIT
"""What a boot loader was told to boot once: a kexec that boots it uses it up, and the loader never knows.

So it is held back from before the jump: whatever leads back through the firmware then leads to what is booted by
default, and not into the kernel that has just failed. A restart that is given up before puts it back; one that was cut
short, or came to a jump, has used it up as the boot loader would have. What the loader is told after the jump is not
ours: only what could not be taken away before is, where the new boot gives itself up and would be led to once more.

systemd-boot: the variable LoaderEntryOneShot (https://systemd.io/BOOT_LOADER_INTERFACE), which it removes itself when
it boots by it. GRUB: next_entry in its environment block, which its configuration empties then (grub-reboot(8)).
Nothing else of a boot loader is touched, least of all what it boots by default.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import json
import os
import re
import struct
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace

from kexecd.discover import sdboot
from kexecd.discover.grub import grubenv
from kexecd.handoff import ONE_SHOT, STATE_DIR
from kexecd.kernel import files, sysfs
from kexecd.kernel.files import join_root, read_text

SDBOOT = "LoaderEntryOneShot"
GRUB = "next_entry"

GRUB_BLOCKS = ("/boot/grub/grubenv", "/boot/grub2/grubenv")

VARIABLE_LIMIT = 1 << 12  # bytes

# include/uapi/linux/fs.h and asm-generic/ioctl.h; powerpc has other numbers for the directions.
_READ, _WRITE = (2, 4) if os.uname().machine.startswith("ppc") else (2, 1)
_DIRECTION = 29 if os.uname().machine.startswith("ppc") else 30
_LONG = struct.calcsize("l")
FS_IOC_GETFLAGS = _READ << _DIRECTION | _LONG << 16 | ord("f") << 8 | 1
FS_IOC_SETFLAGS = _WRITE << _DIRECTION | _LONG << 16 | ord("f") << 8 | 2
FS_IMMUTABLE_FL = 0x10


def told(root: str = "/") -> str:
    """Which of them is set, as `clear` takes it; empty where none is."""
    if sdboot.variable(SDBOOT, root, []):
        return SDBOOT
    return GRUB if any(_next_entry(path, root) for path in GRUB_BLOCKS) else ""


def clear(name: str, root: str = "/") -> str:
    """Take it away, if it is still there; what went wrong, as a sentence or nothing. Raises nothing."""
    try:
        if name == SDBOOT:
            _remove_variable(join_root(root, f"{sdboot.EFIVARS}/{SDBOOT}-{sdboot.VENDOR}"))
        elif name == GRUB:
            for path in GRUB_BLOCKS:
                _empty(path, root)
        else:
            return f"nobody knows how to take away what the boot loader was told once ({name})"
    except OSError as error:
        why = (error.strerror or str(error)).lower()
        return f"what the boot loader was told to boot once ({name}) could not be taken away: {why}"
    return ""


def hold(name: str, state_dir: str = STATE_DIR, root: str = "/") -> str:
    """Take it away until `put_back`; what went wrong, as a sentence or nothing. Raises nothing."""
    try:
        place, value = _value(name, root)
        held = _Held(sysfs.boot_id(root), name, place, value)
        _write(held, state_dir)
    except OSError as error:
        why = (error.strerror or str(error)).lower()
        return f"what the boot loader was told to boot once ({name}) stays, as it could not be written down: {why}"
    trouble = clear(name, root)
    if trouble:
        with contextlib.suppress(OSError):  # then it stays where it is, whatever comes of the jump
            _write(replace(held, left=True), state_dir)
    return trouble


def put_back(state_dir: str = STATE_DIR, root: str = "/") -> str:
    """What this boot holds back, unless somebody has told the loader something else since. As `hold` otherwise."""
    try:
        held = _read(state_dir, remove=True)
        if held and held.boot_id == sysfs.boot_id(root) and not told(root):
            _set(held.name, held.place, held.value, root)
    except OSError as error:
        why = (error.strerror or str(error)).lower()
        return f"what the boot loader was told to boot once could not be put back: {why}"
    except ValueError:
        return "what the boot loader was told to boot once could not be put back: its record is damaged"
    return ""


def clear_left(from_boot_id: str, state_dir: str = STATE_DIR, root: str = "/") -> str:
    """In the boot that a jump from that one led to: take away what `hold` could not, if it is still the same.

    As `clear` otherwise.
    """
    try:
        held = _read(state_dir)
        if held and held.left and held.boot_id == from_boot_id and _value(held.name, root) == (held.place, held.value):
            return clear(held.name, root)
    except FileNotFoundError:
        return ""  # the variable: the loader has it no more
    except OSError as error:
        return f"what was left of the boot loader's choice cannot be seen: {(error.strerror or str(error)).lower()}"
    except ValueError:
        return "what was left of the boot loader's choice cannot be told: its record is damaged"
    return ""


def used_up(state_dir: str = STATE_DIR, root: str = "/") -> str:
    """In a later boot: what nobody puts back any more, as the loader calls it, and forget it. Raises nothing.

    Empty where there is nothing, and where the loader has been told again what to boot once.
    """
    with contextlib.suppress(OSError, ValueError):
        held = _read(state_dir)
        if held and held.boot_id == sysfs.boot_id(root):
            return ""
    with contextlib.suppress(OSError, ValueError):
        held = _read(state_dir, remove=True)
        return held.entry if held and not told(root) else ""
    return ""


@dataclass(frozen=True, slots=True)
class _Held:
    """What is held back. value: of a variable all bytes, in hexadecimal. left: it could not be taken away."""

    boot_id: str
    name: str
    place: str
    value: str
    left: bool = False

    @property
    def entry(self) -> str:
        """As the loader calls it: a variable has four bytes of attributes before its text. Raises ValueError."""
        if self.name != SDBOOT:
            return self.value
        return bytes.fromhex(self.value)[4:].decode("utf-16-le", errors="replace").rstrip("\0")


def _write(held: _Held, state_dir: str) -> None:
    """Raises OSError."""
    files.write_json(os.path.join(state_dir, ONE_SHOT), asdict(held), mode=0o600)


def _read(state_dir: str, *, remove: bool = False) -> _Held | None:
    """None where nothing is held back. remove: it is gone afterwards, also if it is damaged: that is, a ValueError."""
    path = os.path.join(state_dir, ONE_SHOT)
    if (text := read_text(path)) is None:
        return None
    if remove:
        files.remove(path)
    try:
        fields = json.loads(text)
        boot_id, name, place, value = (fields[key] for key in ("boot_id", "name", "place", "value"))
        if not all(isinstance(text, str) for text in (boot_id, name, place, value)):
            raise TypeError("not a text")
        return _Held(boot_id, name, place, value, left=fields.get("left") is True)
    except (TypeError, KeyError, RecursionError) as error:
        raise ValueError(str(error)) from error


def _value(name: str, root: str) -> tuple[str, str]:
    """Where it is, and what: of a variable all bytes, in hexadecimal. Raises OSError."""
    if name == SDBOOT:
        path = f"{sdboot.EFIVARS}/{SDBOOT}-{sdboot.VENDOR}"
        with open(join_root(root, path), "rb") as file:
            return path, file.read(VARIABLE_LIMIT).hex()
    return next(((path, value) for path in GRUB_BLOCKS if (value := _next_entry(path, root))), ("", ""))


def _set(name: str, place: str, value: str, root: str) -> None:
    """Raises OSError, and ValueError."""
    if name == SDBOOT:
        fd = os.open(join_root(root, place), os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC, 0o644)
        try:
            os.write(fd, bytes.fromhex(value))  # a variable is written by one call, attributes first
        finally:
            os.close(fd)
    elif place in GRUB_BLOCKS:
        escaped = re.sub(r"([\\\n])", r"\\\1", value)
        line = f"{GRUB}={escaped}\n".encode(errors="surrogateescape")
        _rewrite(place, root, lambda text: _without_next_entry(text) + line)


def _next_entry(path: str, root: str) -> str:
    with contextlib.suppress(OSError):
        return (grubenv.parse(read_text(path, root=root) or "") or {}).get(GRUB, "")
    return ""


def _empty(path: str, root: str) -> None:
    if _next_entry(path, root):
        _rewrite(path, root, _without_next_entry)
        if _next_entry(path, root):
            raise OSError(errno.EINVAL, "it is not written as GRUB writes it", path)


def _without_next_entry(text: bytes) -> bytes:
    return b"".join(line for line in text.splitlines(keepends=True) if not line.startswith(GRUB.encode() + b"="))


def _rewrite(path: str, root: str, change: Callable[[bytes], bytes]) -> None:
    """In its place and with its length: GRUB writes to the very blocks that the file had when it was made."""
    fd = os.open(join_root(root, path), os.O_RDWR | os.O_CLOEXEC)
    try:
        before = os.pread(fd, 1 << 16, 0)
        text = change(before.rstrip(b"#"))
        if len(text) > len(before):
            raise OSError(errno.ENOSPC, "there is no room left in it", path)
        os.pwrite(fd, text.ljust(len(before), b"#"), 0)
        os.fsync(fd)
    finally:
        os.close(fd)


def _remove_variable(path: str) -> None:
    """The kernel keeps most variables from an `rm -r` by a flag (Documentation/filesystems/efivarfs.rst)."""
    try:
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except FileNotFoundError:
        return
    try:
        with contextlib.suppress(OSError):  # not where efivarfs is another filesystem, as in a captured tree
            flags = struct.unpack("l", fcntl.ioctl(fd, FS_IOC_GETFLAGS, bytes(_LONG)))[0]
            fcntl.ioctl(fd, FS_IOC_SETFLAGS, struct.pack("l", flags & ~FS_IMMUTABLE_FL))
    finally:
        os.close(fd)
    os.unlink(path)
