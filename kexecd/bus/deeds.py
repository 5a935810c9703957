# SPDX-License-Identifier: MIT
"""How a deed is done, and what its answer is on the bus.

A deed is one of kexecctl's command lines in a child of the daemon. A refusal of it is the D-Bus error of its exit
code's name (README, "Exit codes"): org.kexecd.Error.NoEntry for `no-entry`.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Protocol

from kexecd.errors import ExitCode

TYPE_CHECKING = False  # what the type checker takes for true; the module of that name costs as much as many of ours
if TYPE_CHECKING:
    from typing import Any

ERROR = "org.kexecd.Error."


class Deeds(Protocol):
    def run(self, argv: tuple[str, ...], done: Callable[[int, bytes, bytes], None], seconds: float) -> None:
        """Run `kexecctl ARGV` without waiting; `done` gets its exit status, stdout and stderr.

        It is killed after `seconds`, and has none of this process's descriptors: a lock of logind's would be held by
        it. Raises OSError where there is no process to be had.
        """


@dataclass(frozen=True, slots=True)
class Outcome:
    """text: the document as it was printed; fields: what is in it. error: the D-Bus name, empty where it went well."""

    text: str = ""
    fields: Mapping[str, Any] | None = None
    error: str = ""
    why: str = ""

    def field(self, name: str) -> Any:
        return self.fields.get(name) if self.fields else None


def error_name(code: int) -> str:
    """org.kexecd.Error.NotPermitted for ExitCode.NOT_PERMITTED; Failure for what is none."""
    try:
        name = ExitCode(code).name
    except ValueError:
        name = ExitCode.FAILURE.name
    return ERROR + name.title().replace("_", "")


def outcome(code: int, out: bytes, err: bytes, *, reads: bool = False) -> Outcome:
    """Of a deed that has ended.

    reads: its document is the answer whatever the exit status: `entries` exits 3 where nothing would be booted, and
    says why.
    """
    text = out.decode(errors="replace").strip()
    fields = _document(text)
    if refused := fields and fields.get("refused"):
        return Outcome(error=error_name(code or ExitCode.FAILURE), why=_sentence(refused))
    if code == ExitCode.OK or (reads and fields and "schema" in fields):
        return Outcome(text, fields)
    told = err.decode(errors="replace").strip().splitlines()
    if fields and "answer" in fields:
        told.append(str(fields["answer"]))
    return Outcome(error=error_name(code), why=told[-1] if told else f"kexecctl has ended with status {code}")


def _document(text: str) -> dict[str, Any] | None:
    """All of it, or its last line: `reboot` prints a line for each event, and a refusal last."""
    for part in (text, text.rpartition("\n")[2]):
        try:
            document = json.loads(part)
        except (ValueError, RecursionError):
            continue
        if isinstance(document, dict):
            return document
    return None


def _sentence(refused: Any) -> str:
    """As kexecd.errors.Refusal says it, and what to do about it."""
    if not isinstance(refused, dict):
        return "kexecctl has refused"
    what, why, instead, hint, errno = (str(refused.get(key, "")) for key in ("what", "why", "instead", "hint", "errno"))
    code = f" ({errno})" if errno else ""
    return f"{what}: {why}{code}; {instead}" + (f"; hint: {hint}" if hint else "")
