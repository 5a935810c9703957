# SPDX-License-Identifier: MIT
"""kexecctl confirm: after a kexec, wait until this boot is found good, or give it up within its limit.

A service starts it as early as Python can run, and it ends by itself. --accept is a person's word that this boot is
good, however far it has come: then nobody waits any more.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import shlex
import signal
from argparse import Namespace

from kexecd import handoff
from kexecd.cli.output import print_json
from kexecd.config.policy import Policy, read_policy
from kexecd.errors import ExitCode, NotPermitted, Refusal
from kexecd.handoff import How, PendingHandoff
from kexecd.init.base import Init
from kexecd.init.detect import detect
from kexecd.init.systemd_units import systemctl
from kexecd.kernel.descriptors import readable
from kexecd.kernel.spawn import run
from kexecd.record import RUN_DIR
from kexecd.report import log
from kexecd.report.messages import Kind, message
from kexecd.wayback import giveup, settle, usual
from kexecd.wayback.child import within
from kexecd.wayback.confirm import End, Outcome, Wait
from kexecd.wayback.health import Wanted
from kexecd.wayback.watchdog import Watch

MCL_CURRENT, MCL_FUTURE = 1, 2  # include/uapi/asm-generic/mman-common.h

SETTLING = 30.0
"""Seconds for the records to be written."""

ANSWERING = 10.0
"""Seconds for systemd to say whether it keeps a watchdog."""

AGAIN = 5.0
"""Seconds after a failure of our own."""

OFF = ("0", "off", "infinity")
"""RuntimeWatchdogUSec of a systemd that keeps none (systemd-system.conf(5))."""


def confirm(options: Namespace) -> ExitCode:
    if os.geteuid() != 0:
        raise NotPermitted("cannot confirm this boot", "only root may", hint="try again with sudo")
    if options.accept:
        return _accept(options)
    policy, trouble = _policy()
    _stay()
    if trouble:
        _tell(f"{trouble}; going on with what holds without it")
    outcome = _waited(policy, detect(), _stop_requests())
    _report(options, outcome)
    if outcome.end is End.CONFIRMED and (trouble := within("the report", SETTLING, lambda: _kept(policy))):
        _tell(f"the report of this boot is not kept: {trouble}")
    return ExitCode.OK


def _kept(policy: Policy) -> str:
    """The way up, for `kexecctl report`, and the metrics where the policy wants them."""
    from kexecd.cli.metrics import published  # late: of no use until this boot is good

    return published(policy)


def _waited(policy: Policy, init: Init, stop: int) -> Outcome:
    """A bug of ours must neither leave a boot alone nor end one that may be good."""
    while True:
        try:
            return Wait(
                usual=usual.of_this_machine(),
                wanted=_wanted(policy),
                deeds=_Deeds(init),
                limit=policy.confirm_limit,
                tell=_tell,
                watch=Watch(_pid_1_wants_watchdog) if policy.confirm_watchdog else None,
                stop=stop,
            ).run()
        except Exception:
            import traceback  # late: only for a bug

            _tell(f"kexecd failed, and tries again: {traceback.format_exc()}")
            if readable(stop, AGAIN):
                return Outcome(End.STOPPED, "whoever stops services has stopped this one")


class _Deeds:
    def __init__(self, init: Init) -> None:
        self._init = init
        self._giving_up = giveup.RealDeeds(init, RUN_DIR, handoff.STATE_DIR)

    def confirmed(self, pending: PendingHandoff, why: str) -> str:
        if trouble := within("the records", SETTLING, lambda: _settled(pending, why)):
            return f"this boot is good, and that could not be written down: {trouble}"
        log.say(message(Kind.CONFIRMED, f"this boot is confirmed: {why}", nonce=pending.nonce))
        return ""

    def left(self, pending: PendingHandoff, *, leaving: bool) -> str:
        if not (leaving or self._init.going_down()):
            return "this boot is not waited for any more, and stays unconfirmed; `kexecctl confirm` goes on"
        return within("the records", SETTLING, lambda: _unconfirmed(pending))

    def give_up(self, why: str) -> None:
        giveup.give_up(why, self._giving_up, _tell_loudly)


def _unconfirmed(pending: PendingHandoff) -> str:
    try:
        settle.unconfirmed(pending.nonce)
    except OSError as error:
        return str(error)
    return ""


def _settled(pending: PendingHandoff, why: str) -> str:
    """Write down that it is good; what went wrong with that."""
    try:
        settle.confirmed(pending.nonce, why)
    except OSError as error:
        return str(error)
    return ""


def _accept(options: Namespace) -> ExitCode:
    arrival = handoff.arrival()
    if arrival.how is not How.KEXEC or arrival.pending is None or arrival.pending.settled:
        _report(options, Outcome(End.NOTHING, "nothing waits to be confirmed"))
        return ExitCode.OK
    why = "somebody has said that it is good"
    if trouble := _settled(arrival.pending, why):
        raise Refusal("cannot confirm this boot", trouble, instead="it is not confirmed")
    _report(options, Outcome(End.CONFIRMED, why))
    return ExitCode.OK


def _policy() -> tuple[Policy, str]:
    """The administrator's, or what holds without it and why: a boot is watched over all the same."""
    try:
        return read_policy(), ""
    except Refusal as refusal:
        return Policy(), f"{refusal.what}: {refusal.why}"


def _wanted(policy: Policy) -> Wanted:
    commands = tuple(tuple(shlex.split(line)) for line in policy.confirm_commands)
    return Wanted(commands, policy.confirm_units, policy.confirm_reach)


def _pid_1_wants_watchdog() -> bool:
    """Whether systemd is to keep a watchdog in all this time; it opens one whenever its driver comes."""
    if not os.path.isdir("/run/systemd/system"):
        return False
    with contextlib.suppress(OSError, Refusal):
        words = (systemctl()[0], "show", "--property=RuntimeWatchdogUSec", "--value")
        return run(words, seconds=ANSWERING).output.strip() not in OFF
    return True  # it does not say, and two must not have one watchdog


def _stay() -> None:
    """Hold no filesystem by where we are, and be there when memory is short or the disk that we came from is gone."""
    os.chdir("/")
    with contextlib.suppress(OSError), open("/proc/self/oom_score_adj", "w", encoding="ascii") as file:
        file.write("-1000")
    ctypes.CDLL(None).mlockall(MCL_CURRENT | MCL_FUTURE)


def _stop_requests() -> int:
    """A descriptor that is readable when somebody wants us to end."""
    reader, writer = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
    signal.set_wakeup_fd(writer, warn_on_full_buffer=False)
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: None)
    return reader


def _report(options: Namespace, outcome: Outcome) -> None:
    if options.json:
        print_json({"end": outcome.end, "reason": outcome.why})
    else:
        print(f"{outcome.end}: {outcome.why}", flush=True)


def _tell(text: str) -> None:
    log.say(message(Kind.NOTE, text))


def _tell_loudly(text: str) -> None:
    """Where it is read at a console too, and by whoever reads the kernel's log."""
    told = message(Kind.GIVEN_UP, text)
    log.say(told)
    log.tell_kernel(told)
