# SPDX-License-Identifier: MIT
"""(way, act, policy, survey, parts) -> the ordered phases. Pure, and meant to be read from top to bottom.

Priorities: 0 is first, 10000 the default of a hook, 20000 last; the act itself is the last thing before the machine is
reset. Phases run in order, the steps of a phase run in parallel. What lies below COMMIT_POINT can be undone, and is
when something there fails; the first phase that does not is where the machine begins to go down.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

from kexecd.config.policy import Policy
from kexecd.model import Act, Phase, Plan, Process, State, Step, Way
from kexecd.teardown.announce import Announce
from kexecd.teardown.filesystems import PATIENCE, SETTLING, ReadOnly, Settle, Unmount, look
from kexecd.teardown.processes import QuitProcesses
from kexecd.teardown.survey import Survey
from kexecd.teardown.sync import Sync
from kexecd.teardown.verdict import Verify

COMMIT_POINT = 5000
"""A TERM cannot be taken back: this is where the first one is sent."""

CLOSED = 11000
"""Behind this nobody writes any more but the kernel."""

PREPARE = (1000, 3999)
FREEZE = (9000, 2000)
"""Where the hooks of the administrator go, from priority 0 to 20000 of theirs: the first priority, and how many."""

CLOSING = PATIENCE + 2.0
"""Seconds for a phase that closes disks, also past the deadline: enough for one call to use up its patience."""

LOADING = 120.0
"""Seconds for an image: a large initrd from a slow disk, read twice. Nothing is down yet, and nobody in a hurry."""

STARTING = 5.0
"""Seconds for what only has to be begun."""

ASKING = 30.0
"""Seconds for PID 1 to accept a restart."""


@dataclass(frozen=True, slots=True)
class ServiceSteps:
    """What the init of this machine contributes; nothing where there are no services that it must be asked about.

    covered: who these steps quit already. remark: what a person should know about how they do it, as a sentence.
    """

    guests: tuple[Step, ...] = ()
    sessions: tuple[Step, ...] = ()
    services: tuple[Step, ...] = ()
    hold: tuple[Step, ...] = ()
    applications: tuple[Step, ...] = ()
    basics: tuple[Step, ...] = ()
    covered: frozenset[Process] = frozenset()
    remark: str = ""


@dataclass(frozen=True, slots=True)
class Parts:
    """What the steps of a plan are taken from, beside what is seen on this machine.

    load, record: put what is to be booted into memory, if it is not there, and write down that it will be.
    drop: what a restart through the firmware does with an image. hand_over: asks PID 1 to do the whole work.
    prepare, freeze: the administrator's hooks, in phases of their own.
    keep: writes down what has happened, for the new boot's report; as late as a disk takes it.
    carry: asks for, and takes along, what applications have handed over; two phases, the second past the commit point.
    """

    services: ServiceSteps = ServiceSteps()
    load: tuple[Step, ...] = ()
    record: tuple[Step, ...] = ()
    drop: tuple[Step, ...] = ()
    hand_over: tuple[Step, ...] = ()
    prepare: tuple[Phase, ...] = ()
    freeze: tuple[Phase, ...] = ()
    carry: tuple[Phase, ...] = ()
    keep: tuple[Step, ...] = ()

    @property
    def asking(self) -> tuple[Phase, ...]:
        """What of `carry` comes before the commit point."""
        return tuple(phase for phase in self.carry if phase.priority < COMMIT_POINT)

    @property
    def carrying(self) -> tuple[Phase, ...]:
        return tuple(phase for phase in self.carry if phase.priority >= COMMIT_POINT)


def build(way: Way, act: Act, policy: Policy, survey: Survey, parts: Parts, *, going_to: str) -> Plan:
    """The plan of one way. `going_to` names what comes up afterwards ("Linux 6.12.9"), for the people who are told."""
    rest = {Way.ORDERLY: _orderly, Way.FAST: _fast, Way.NOW: _now}[way](policy, survey, parts, going_to)
    phases = _marked((*_image(parts), *rest))
    return Plan(way, act, policy.within, phases, _marked(_closing(survey, parts)) if way is Way.FAST else ())


def _image(parts: Parts) -> tuple[Phase, ...]:
    return (
        Phase(
            "load", 50, "first of all, as long as every disk is there and everything can still be left as it is",
            parts.load,
            share=0.0, at_least=LOADING, essential=True,
        ),
        Phase(
            "record", 60, "the new kernel is told what it was to be",
            parts.record,
            share=0.0, at_least=LOADING, essential=True,
        ),
    )


def _fast(policy: Policy, survey: Survey, parts: Parts, going_to: str) -> tuple[Phase, ...]:
    services = parts.services
    others = tuple(process for process in survey.processes if process not in services.covered)
    return (
        *parts.prepare,
        *parts.asking,
        Phase(
            "announce", 4999, "people, as soon as it is certain: they may still save something",
            _announcement(policy, survey, going_to),
        ),
        Phase(
            "guests", 5000, "virtual machines and containers have a whole system of their own to shut down",
            services.guests,
            share=0.5,
        ),
        Phase(
            "sessions", 5500, "people's programs, while the services that they use are there",
            services.sessions,
            share=0.4,
        ),
        Phase(
            "services", 6000, "what only init can stop as it wants to be stopped, and what init would start again",
            services.services,
            share=0.6,
        ),
        Phase(
            "hold", 6500, "from here on init starts nothing again, and nobody waits for it",
            services.hold,
        ),
        Phase(
            "applications", 7000, "everybody else, all at once, while the bus and the log are there",
            (*services.applications, *parts.drop, Sync(early=True)),
            share=0.7,
        ),
        Phase(
            "basics", 7500, "what services talk to while they stop: the bus, the log, the device manager",
            services.basics,
            share=0.5,
        ),
        Phase(
            "processes", 8000, "nobody may write any more when the disks are closed",
            (QuitProcesses(policy.grace_processes, others),),
            share=0.8,
        ),
        *parts.freeze,
        *parts.carrying,
        Phase(
            "sync", 12000, "before unmounting, so that an unmount has nothing left to wait for",
            (*parts.keep, Sync(ahead=look)),
            at_least=math.inf,  # bounded by its own progress
        ),
        Phase(
            "unmount", 14000, "an unmounted filesystem is clean for certain",
            (Unmount(survey.graph),),
            at_least=CLOSING,
        ),
        Phase(
            "read-only", 15000, "the root and what is still held cannot be unmounted, but closed",
            (ReadOnly(preview=survey.mounts),),
            at_least=CLOSING,
        ),
        *_end(survey),
    )


def _now(policy: Policy, survey: Survey, parts: Parts, going_to: str) -> tuple[Phase, ...]:
    return (
        *parts.asking,
        Phase(
            "announce", 4999, "people, although they cannot do much",
            _announcement(policy, survey, going_to),
        ),
        *_closing(survey, parts),
    )


def _closing(survey: Survey, parts: Parts) -> tuple[Phase, ...]:
    return (
        *parts.carrying,
        Phase(
            "sync", 12000, "most of the data, while writers still run",
            (*parts.drop, *parts.keep, Sync()),
            at_least=math.inf,  # bounded by its own progress
        ),
        Phase(
            "read-only", 15000, "the rest, and writers are turned away",
            (ReadOnly(forced=True, preview=survey.mounts),),
            at_least=CLOSING,
        ),
        *_end(survey),
    )


def _end(survey: Survey) -> tuple[Phase, ...]:
    return (
        Phase(
            "settle", 16000, "an array that is not marked clean is checked for hours in the next boot",
            (Settle(),) if survey.has_arrays else (),
            at_least=SETTLING + 1.0,
        ),
        Phase(
            "verdict", 18000, "believe nothing: look again",
            (Verify(),),
            at_least=1.0,
        ),
    )


def _orderly(policy: Policy, survey: Survey, parts: Parts, going_to: str) -> tuple[Phase, ...]:
    del policy, survey, going_to  # PID 1 announces, stops, unmounts and jumps in its own order
    return (
        *parts.prepare,
        *parts.asking,
        Phase(
            "keep", 4998, "for the new boot's report, before it cannot be taken back any more",
            parts.keep,
            share=0.0, at_least=STARTING,
        ),
        Phase(
            "hand over", 4999, "the rest is PID 1's, in its own order",
            parts.hand_over,
            share=0.0, at_least=ASKING,
        ),
    )


def _announcement(policy: Policy, survey: Survey, going_to: str) -> tuple[Step, ...]:
    if not policy.announce or not survey.terminals:
        return ()
    return (Announce(f"This machine restarts now into {going_to}.", survey.terminals),)


def _marked(phases: tuple[Phase, ...]) -> tuple[Phase, ...]:
    """In order and without those that have nothing to do; marked where it is decided, and which states are reached."""
    ordered = sorted((phase for phase in phases if phase.steps), key=lambda phase: phase.priority)
    before = [phase for phase in ordered if phase.priority < COMMIT_POINT]
    open_ = [phase for phase in ordered if COMMIT_POINT <= phase.priority <= CLOSED]
    after = [phase for phase in ordered if phase.priority > CLOSED]
    if before:
        before[-1] = replace(before[-1], reaches=State.PREPARED)
    if open_:
        open_[-1] = replace(open_[-1], reaches=State.FROZEN)
    down = [*open_, *after]
    if down:
        down[0] = replace(down[0], commit=True)
    return (*before, *down)
