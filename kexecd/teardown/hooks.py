# SPDX-License-Identifier: MIT
"""Call the administrator's hooks: real programs, several at a time, each with a deadline (docs/hooks.md).

The four calls are those of the kernel's live update orchestrator in its first versions, which knew a state of the whole
machine (https://lwn.net/Articles/1033364/); what was merged into Linux 6.19 has them as operations on its sessions.
"""

from __future__ import annotations

import errno
import json
import signal
from collections.abc import Callable, Generator, Iterable
from dataclasses import dataclass, replace
from itertools import groupby

from kexecd.config.hook_rows import HookCall, OnFailure
from kexecd.config.hooks import Hook
from kexecd.config.rows import PRIORITIES
from kexecd.kernel.spawn import Finished, Spawned, start
from kexecd.model import Act, Context, Phase, Running, State, Wait, Way

__all__ = ["HookCall", "HookFacts", "HookFailed", "RunHook", "phases"]

GRACE = 0.4
"""Seconds from TERM to KILL, and from KILL to leaving it behind: both fit into what a step may overstay."""

LAST_CHANCE = 1.0
"""Seconds that a freeze hook gets even if those before it have used up the deadline."""

SCHEMA = 1
LINES, CHARACTERS = 5, 400  # of a hook's output, in a message

_WHY = {
    HookCall.PREPARE: "whoever runs something here may still say no",
    HookCall.FREEZE: "nobody else writes any more: the last chance to",
    HookCall.CANCEL: "there will be no restart: what was prepared is taken back, last first",
    HookCall.FINISH: "the new kernel runs: what was laid aside is taken up again",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class HookFacts:
    """What a hook is told of the restart; an empty text is what is not known. within: seconds."""

    way: Way
    act: Act
    state: State
    kernel: str
    version: str
    cmdline: str
    within: float
    nonce: str = ""


class HookFailed(Exception):
    """A hook did not agree. The text says how it ended and what it said last, without a full stop."""


@dataclass(frozen=True, slots=True)
class RunHook:
    """One call of one hook."""

    hook: Hook
    call: HookCall
    facts: HookFacts

    @property
    def name(self) -> str:
        return f"{self.call} hook {self.hook.name}"

    def describe(self) -> str:
        hook = self.hook
        shown = " ".join(visible(word) for word in hook.command)
        place = shown if hook.origin == hook.command[0] else f"{shown}, {hook.origin}"
        # Elsewhere there is nothing that a hook could prevent.
        failing = f", {hook.on_failure}" if self.call is HookCall.PREPARE else ""
        return f"{self.name} ({place}), {hook.timeout:g} s{failing}"

    def run(self, context: Context) -> Running:
        why = yield from self._answer(context)
        if why and self.hook.on_failure is OnFailure.WARN:
            context.tell(f"{self.name}: {why}, ignoring")
        elif why:
            raise HookFailed(why)

    def undo(self) -> None:
        """Take prepare back by the call `cancel`, in however much of it. Raises HookFailed; waits at most the timeout.

        Nothing of run() is needed for it: it may have been another process's, or never have begun.
        """
        if self.call is not HookCall.PREPARE or HookCall.CANCEL not in self.hook.calls:
            return
        facts = replace(self.facts, state=State.PREPARED)
        try:
            spawned = _start(self.hook, HookCall.CANCEL, facts, self.hook.timeout)
            ended = spawned.wait(self.hook.timeout)
            why = _overstayed(spawned.kill(GRACE), self.hook.timeout) if not ended else _why(spawned.finish())
        except OSError as error:
            why = _not_started(self.hook, error)
        if why:
            raise HookFailed(why)

    def _answer(self, context: Context) -> Generator[Wait, frozenset[int], str]:
        """Call it; returns why that failed, or nothing."""
        seconds = round(max(0.0, min(self.hook.timeout, context.deadline - context.now())), 3)
        until = context.now() + seconds
        try:
            spawned = _start(self.hook, self.call, self.facts, seconds)
        except OSError as error:
            return _not_started(self.hook, error)
        held = True
        try:
            if (yield from _ended(spawned, context.now, until)):
                held = False
                return _why(spawned.finish())
            spawned.ask()
            yield from _ended(spawned, context.now, until + GRACE)
            spawned.end()
            ended = yield from _ended(spawned, context.now, until + 2 * GRACE)
            held = False
            return _overstayed(spawned.kill(0) if ended else spawned.leave(), seconds)
        except OSError as error:
            return _not_started(self.hook, error)
        finally:
            if held:  # another one has vetoed meanwhile, or somebody has cancelled
                spawned.kill(GRACE)


def phases(hooks: Iterable[Hook], call: HookCall, facts: HookFacts, *, base: int, span: int) -> tuple[Phase, ...]:
    """One phase for each priority that a hook with this call has, from `base` to `base + span`.

    In order; cancel goes backwards. Before the commit point, and in the new kernel, the hooks' own timeouts count,
    whatever the deadline is; freeze has to fit into what is left of it.
    """
    last = max(PRIORITIES.values())

    def place(hook: Hook) -> int:
        return last - hook.priority if call is HookCall.CANCEL else hook.priority

    called = sorted((hook for hook in hooks if call in hook.calls), key=lambda hook: (place(hook), hook.name))
    found = []
    for priority, group in groupby(called, key=place):
        steps = tuple(RunHook(hook, call, facts) for hook in group)
        longest = max(step.hook.timeout for step in steps)
        found.append(
            Phase(
                f"{call} hooks",
                base + priority * span // last,
                _WHY[call],
                steps,
                at_least=min(longest, LAST_CHANCE) if call is HookCall.FREEZE else longest,
            )
        )
    return tuple(found)


def visible(text: str) -> str:
    """With whatever a terminal would act upon written out: "\\x1b[2J"."""
    return "".join(char if char.isprintable() else char.encode("unicode_escape").decode() for char in text)


def _start(hook: Hook, call: HookCall, facts: HookFacts, seconds: float) -> Spawned:
    told = {
        "call": call,
        "hook": hook.name,
        "state": facts.state,
        "way": facts.way,
        "act": facts.act,
        "kernel": facts.kernel,
        "version": facts.version,
        "cmdline": facts.cmdline,
        "nonce": facts.nonce,
        "within": facts.within,
        "deadline": seconds,
    }
    # No look at it again: who could have changed it since it was found to be root's alone is root.
    return start(
        hook.command,
        environment={f"KEXECD_{key.upper()}": str(value) for key, value in told.items()},
        stdin=json.dumps({"schema": SCHEMA, **told}).encode() + b"\n",
        listen=True,
    )


def _ended(spawned: Spawned, now: Callable[[], float], until: float) -> Generator[Wait, frozenset[int], bool]:
    """Whether it ends until then."""
    while now() < until:
        readable = yield Wait(spawned.fds, until)
        spawned.hear()
        if spawned.pidfd in readable:
            return True
    return False


def _why(finished: Finished) -> str:
    """Why it did not agree; empty if it did."""
    if finished.exit_code < 0:
        return f"it was ended by signal {_signal(-finished.exit_code)}{_said(finished)}"
    return f"it ended with exit status {finished.exit_code}{_said(finished)}" if finished.exit_code else ""


def _overstayed(killed: Finished, seconds: float) -> str:
    return f"it did not end within {round(seconds, 1):g} s and {killed.errors or 'was killed'}{_said(killed)}"


def _not_started(hook: Hook, error: OSError) -> str:
    lost = " (is the interpreter of its first line there?)" if error.errno == errno.ENOENT else ""
    return f"{visible(hook.command[0])} could not be started: {(error.strerror or str(error)).lower()}{lost}"


def _signal(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:  # a real-time signal between the first and the last
        return str(number)


def _said(finished: Finished) -> str:
    """The last of what it said, as the end of a sentence."""
    lines = [line.strip() for line in finished.output[-LINES * CHARACTERS :].splitlines() if line.strip()]
    text = visible(" | ".join(lines[-LINES:]))
    cut = text if len(text) <= CHARACTERS else "..." + text[-CHARACTERS:]
    return f", saying: {cut}" if cut else ""
