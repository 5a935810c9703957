# SPDX-License-Identifier: MIT
"""A refusal is a typed "no": what was not done, why, what happens instead, what to do about it.

Library code raises one; only the command line and the daemon turn it into a message and an exit status, so one failure
makes one message. Exit codes are part of the interface: a name and a number once given are not changed (README).
"""

from __future__ import annotations

import errno as errnos
from enum import IntEnum


class ExitCode(IntEnum):
    """What kexecctl exits with; the names are what `--json` prints."""

    OK = 0
    FAILURE = 1  # something of ours broke: a bug
    USAGE = 2  # the command line makes no sense
    NO_ENTRY = 3  # nothing to boot was found, or not the one that was asked for
    BAD_CONFIG = 4  # a configuration file cannot be taken as it is
    BAD_IMAGE = 5  # kernel or initrd is missing, unreadable, truncated, of the wrong kind
    NOT_PERMITTED = 6  # not root, no CAP_SYS_BOOT
    FORBIDDEN = 7  # the system forbids kexec: sysctl, load limit, lockdown, security module
    BAD_SIGNATURE = 8  # the kernel image's signature was refused
    NO_MEMORY = 9  # no room for the image
    BUSY = 10  # somebody else is loading, or restarting this machine
    UNSUPPORTED = 11  # this kernel, architecture or init cannot do it
    NOT_LOADED = 12  # a kexec was asked for and no image is in memory
    DIRTY = 13  # something would be lost
    NOT_RESTARTED = 14  # the restart was asked for and did not happen

    @property
    def label(self) -> str:
        return self.name.lower().replace("_", "-")


class Refusal(Exception):
    """Why kexecd does not do what it was asked to.

    what: the deed that is refused ("cannot load /boot/vmlinuz-6.1").
    why: its cause, in the words of the person who has to mend it.
    instead: what happens now ("nothing was changed").
    hint: what to do about it; may be empty.
    errno: the kernel's answer, 0 where there was none.
    """

    exit_code = ExitCode.FAILURE

    def __init__(
        self,
        what: str,
        why: str,
        *,
        instead: str = "nothing was changed",
        hint: str = "",
        errno: int = 0,
        exit_code: ExitCode | None = None,
    ) -> None:
        self.what, self.why, self.instead, self.hint, self.errno = what, why, instead, hint, errno
        if exit_code is not None:
            self.exit_code = exit_code
        super().__init__(self.sentence())

    @property
    def errno_name(self) -> str:
        return errnos.errorcode.get(self.errno, str(self.errno)) if self.errno else ""

    def sentence(self) -> str:
        """One sentence: what, why, what happens instead."""
        code = f" ({self.errno_name})" if self.errno else ""
        return f"{self.what}: {self.why}{code}; {self.instead}"

    def as_json(self) -> dict[str, object]:
        return {
            "what": self.what,
            "why": self.why,
            "instead": self.instead,
            "hint": self.hint,
            "errno": self.errno_name,
            "exit": self.exit_code.label,
        }


class NoEntry(Refusal):
    exit_code = ExitCode.NO_ENTRY


class BadConfig(Refusal):
    exit_code = ExitCode.BAD_CONFIG


class BadImage(Refusal):
    exit_code = ExitCode.BAD_IMAGE


class NotPermitted(Refusal):
    exit_code = ExitCode.NOT_PERMITTED


class Forbidden(Refusal):
    exit_code = ExitCode.FORBIDDEN


class BadSignature(Refusal):
    exit_code = ExitCode.BAD_SIGNATURE


class NoMemory(Refusal):
    exit_code = ExitCode.NO_MEMORY


class Busy(Refusal):
    exit_code = ExitCode.BUSY


class Unsupported(Refusal):
    exit_code = ExitCode.UNSUPPORTED


class NotLoaded(Refusal):
    exit_code = ExitCode.NOT_LOADED


class NotRestarted(Refusal):
    exit_code = ExitCode.NOT_RESTARTED
