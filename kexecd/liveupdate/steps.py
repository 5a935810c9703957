# SPDX-License-Identifier: MIT
"""The steps of a plan that take along what applications have handed over, and the same for PID 1's own way down.

`prepare` asks the holder whether everything could be carried, as long as a restart can still be given up; `freeze` has
it done, when nobody writes any more and the disks are still open. Where nobody holds anything neither has anything to
do, and a machine without a holder restarts as ever.
"""

from __future__ import annotations

import contextlib
import errno
import json
import os
import socket
from collections.abc import Callable, Generator
from dataclasses import dataclass, field

from kexecd import client
from kexecd.config.policy import IfLost
from kexecd.errors import Refusal
from kexecd.liveupdate.carrier import Forecast
from kexecd.liveupdate.index import Carrier
from kexecd.liveupdate.keeper import keep
from kexecd.liveupdate.memory import Lost
from kexecd.liveupdate.place import NAME, RECORD, held
from kexecd.liveupdate.protocol import TEXT, Do
from kexecd.model import Context, Phase, Running, State, Wait

TYPE_CHECKING = False  # what the type checker takes for true; the module of that name costs as much as many of ours
if TYPE_CHECKING:
    from typing import Any

PREPARE, FREEZE = 4998, 11000
"""Behind the administrator's hooks of the same call, which may put something themselves; see kexecd.plan."""

PREPARING = 30.0  # seconds; nothing is down yet
FROZEN_WITHIN = 60.0  # seconds that the writing gets even if the deadline has passed: the alternative is to lose it
ASKING = 5.0  # seconds for what is answered at once

_VERBS: dict[str, str] = {Do.STATUS: "look at", Do.CANCEL: "give back", Do.FINISH: "release"}

_kept: list[int] = []
"""Sessions that this process has open until the jump, beside the holder."""


@dataclass(frozen=True, slots=True)
class PrepareState:
    """Ask whether it can be carried; a "no" gives the restart up, unless the policy goes without.

    decide: what carries it, as far as it is known when it is called: kexecd.liveupdate.outlook.decision.
    """

    run_dir: str
    decide: Callable[[], Forecast]
    if_lost: IfLost = IfLost.REFUSE

    @property
    def name(self) -> str:
        return "prepare what applications have handed over"

    def describe(self) -> str:
        try:
            how = self.decide().sentence()
        except Refusal as refusal:
            how = refusal.why
        return f"see that what applications have handed over can be carried, {how}"

    def run(self, context: Context) -> Running:
        try:
            forecast = self.decide()
            question = {"do": Do.PREPARE, "carrier": forecast.carrier, "why": forecast.why[:TEXT]}
            told = yield from _asked(self.run_dir, question, context)
        except Refusal as refusal:
            if self.if_lost is IfLost.REFUSE:
                raise
            context.tell(f"{refusal.why}; going without, as kexecd.yaml has state.if-lost: go")
            return
        if told and told["count"]:
            context.tell(f"{memfds(told['count'])}, {told['bytes']} bytes, in about {told['seconds']:.1f} s")

    def undo(self) -> None:
        """Whoever has handed something over has it as it was. Raises a Refusal."""
        cancel(self.run_dir)


@dataclass(frozen=True, slots=True)
class FreezeState:
    """Have it carried by what was prepared, else by file. What is lost behind the commit point is told."""

    run_dir: str
    fds: list[int] = field(default_factory=lambda: _kept)  # what has to stay open until the jump

    @property
    def name(self) -> str:
        return "freeze what applications have handed over"

    def describe(self) -> str:
        return "take along what applications have handed over"

    def run(self, context: Context) -> Running:
        told = yield from _asked(self.run_dir, {"do": Do.FREEZE}, context)
        if told is None or not told["count"]:
            return
        context.tell(_frozen(told))
        if told["note"]:
            context.tell(str(told["note"]))
        if told["carrier"] == Carrier.MEMORY:
            # Whoever jumps has it too, should the holder be killed after all.
            self.fds.append(_session(self.run_dir))

    def undo(self) -> None:
        cancel(self.run_dir)


def prepare_phase(run_dir: str, decide: Callable[[], Forecast], if_lost: IfLost = IfLost.REFUSE) -> Phase:
    return Phase(
        "prepare state", PREPARE, "what applications have handed over must not be lost, or there is no restart",
        (PrepareState(run_dir, decide, if_lost),),
        share=0.0, at_least=PREPARING,
    )  # fmt: skip


def freeze_phase(run_dir: str) -> Phase:
    return Phase(
        "state", FREEZE, "nobody writes to it any more, and the disk that may have to take it is still open",
        (FreezeState(run_dir),),
        at_least=FROZEN_WITHIN,
    )  # fmt: skip


def freeze_and_keep(run_dir: str, *, file: str = "", stay: bool = True, seconds: float = FROZEN_WITHIN) -> str:
    """On PID 1's own way down: freeze, and leave a process in our session that has live update's. What was done, in a
    sentence without a full stop; empty if nothing is held. Raises a Refusal.

    file: why it goes by file, whatever was prepared; empty where that counts. stay: whether a process is needed: not
    where nobody kills the holder.
    """
    instead = {"carrier": Carrier.FILE, "why": file[:TEXT]} if file else {}
    told = ask(run_dir, {"do": Do.FREEZE, **instead}, seconds=seconds)
    if told is None or not told["count"]:
        return ""
    if told["carrier"] == Carrier.MEMORY and stay:
        session = _session(run_dir)
        try:
            keep(session)
        finally:
            os.close(session)
    return _frozen(told)


def cancel(run_dir: str) -> None:
    """Everybody has his memory as it was. Raises a Refusal."""
    while _kept:
        with contextlib.suppress(OSError):  # a child of who walks the plan has nothing of that open
            os.close(_kept.pop())
    ask(run_dir, {"do": Do.CANCEL}, seconds=ASKING)


def finish(run_dir: str) -> None:
    """The restart is over. Raises a Refusal."""
    ask(run_dir, {"do": Do.FINISH}, seconds=ASKING)


def state(run_dir: str) -> State:
    """Of what is held; normal where nobody holds anything."""
    try:
        told = ask(run_dir, {"do": Do.STATUS}, seconds=ASKING)
        return State(told["state"]) if told else State.NORMAL
    except (Refusal, ValueError):
        return State.NORMAL


def ask(run_dir: str, question: dict[str, Any], *, seconds: float) -> dict[str, Any] | None:
    """What the holder answers; None if there is none, and none is missed. Raises a Refusal."""
    what = f"cannot {_VERBS.get(question['do'], question['do'])} what applications have handed over"
    try:
        with client.Connection(os.path.join(run_dir, NAME), seconds=seconds) as connection:
            return connection.ask(question)[0]
    except client.NotDone as no:
        raise Lost(what, no.strerror or "", errno=no.errno or 0) from no
    except TimeoutError as late:
        raise Lost(what, f"its holder has not answered within {seconds:g} s", errno=errno.ETIMEDOUT) from late
    except OSError as error:
        _miss(run_dir, what, error)
        return None


def _asked(
    run_dir: str, question: dict[str, Any], context: Context
) -> Generator[Wait, frozenset[int], dict[str, Any] | None]:
    """The same for a step, which does not wait by itself."""
    what = f"cannot {_VERBS.get(question['do'], question['do'])} what applications have handed over"
    caller = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET | socket.SOCK_NONBLOCK)
    try:
        try:
            caller.connect(os.path.join(run_dir, NAME))
            caller.send(json.dumps(question).encode())
        except OSError as error:
            _miss(run_dir, what, error)
            return None
        while context.now() < context.deadline:
            if caller.fileno() in (yield Wait(frozenset((caller.fileno(),)), context.deadline)):
                return _told(caller, what)
        raise Lost(what, "its holder has not answered in time", errno=errno.ETIMEDOUT)
    finally:
        caller.close()


def _told(caller: socket.socket, what: str) -> dict[str, Any]:
    try:
        answer: dict[str, Any] = json.loads(caller.recv(client.LIMIT))
    except (OSError, ValueError) as error:
        raise Lost(what, "its holder has ended meanwhile, and with it what nobody else has") from error
    if not answer["done"]:
        raise Lost(what, str(answer["why"]), errno=int(answer["errno"]))
    return answer


def _miss(run_dir: str, what: str, error: OSError) -> None:
    """Nobody listens. Raises Lost if somebody did, and held something."""
    if names := held(run_dir):
        why = f"their holder has ended, and with it {memfds(len(names))} that it held, as far as nobody else has them"
        hint = f"start it again, let the applications put theirs once more; or remove {os.path.join(run_dir, RECORD)}"
        raise Lost(what, why, hint=hint, errno=error.errno or 0) from error


def memfds(count: int) -> str:
    return f"{count} memfd{'s' * (count != 1)}"


def _frozen(told: dict[str, Any]) -> str:
    return f"{memfds(told['count'])}, {told['bytes']} bytes, go by {told['carrier']}: {told['why']}"


def _session(run_dir: str) -> int:
    with client.Connection(os.path.join(run_dir, NAME), seconds=ASKING) as connection:
        fd = connection.ask({"do": Do.SESSION})[1]
    if fd is None:
        raise Lost("cannot keep live update's session", "its holder has given none")
    return fd
