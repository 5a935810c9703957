# SPDX-License-Identifier: MIT
"""(way, act, policy, survey, init) -> the ordered phases. Pure, and meant to be read from top to bottom.

Priorities: 0 is first, 10000 the default of a hook, 20000 last; the act itself is the last thing before the machine is
reset. Phases run in order, the steps of a phase run in parallel.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from kexecd.config.policy import Policy
from kexecd.model import Act, Phase, Plan, Process, Step, Way
from kexecd.teardown.announce import Announce
from kexecd.teardown.filesystems import PATIENCE, ReadOnly, Sync, Unmount, Verify
from kexecd.teardown.processes import QuitProcesses
from kexecd.teardown.survey import Survey

CLOSING = PATIENCE + 2.0
"""Seconds for a phase that closes disks, also past the deadline: enough for one call to use up its patience."""


@dataclass(frozen=True, slots=True)
class ServiceSteps:
    """What the init of this machine contributes; nothing where there are no services that it must be asked about.

    covered: who these steps quit already.
    """

    services: tuple[Step, ...] = ()
    basics: tuple[Step, ...] = ()
    covered: frozenset[Process] = frozenset()


def build(way: Way, act: Act, policy: Policy, survey: Survey, services: ServiceSteps, *, going_to: str) -> Plan:
    """The plan of one way. `going_to` names what comes up afterwards ("Linux 6.12.9"), for the people who are told."""
    phases = {Way.ORDERLY: _orderly, Way.FAST: _fast, Way.NOW: _now}[way](policy, survey, services, going_to)
    return Plan(way, act, policy.within, tuple(sorted(phases, key=lambda phase: phase.priority)))


def _fast(policy: Policy, survey: Survey, services: ServiceSteps, going_to: str) -> tuple[Phase, ...]:
    others = tuple(process for process in survey.processes if process not in services.covered)
    return (
        Phase(
            "announce", 100, "people first: they may still save something",
            (_announcement(policy, survey, going_to),),
        ),
        Phase(
            "services", 6000, "what init would start again is stopped by init; the first TERM is the commit point",
            (*services.services, Sync(early=True)),
            share=0.6, commit=True,
        ),
        Phase(
            "basics", 7000, "what services talk to while they stop: the bus, the log, the device manager",
            services.basics,
            share=0.5,
        ),
        Phase(
            "processes", 8000, "nobody may write any more when the disks are closed",
            (QuitProcesses(policy.grace_processes, others),),
            share=0.8,
        ),
        Phase(
            "sync", 12000, "before unmounting, so that an unmount has nothing left to wait for",
            (Sync(),),
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
        Phase(
            "verdict", 18000, "believe nothing: look again",
            (Verify(),),
            at_least=1.0,
        ),
    )


def _now(policy: Policy, survey: Survey, services: ServiceSteps, going_to: str) -> tuple[Phase, ...]:
    del services  # nobody is asked
    return (
        Phase(
            "announce", 100, "people first, although they cannot do much",
            (_announcement(policy, survey, going_to),),
        ),
        Phase(
            "sync", 12000, "most of the data, while writers still run",
            (Sync(),),
            at_least=math.inf,  # bounded by its own progress
        ),
        Phase(
            "read-only", 15000, "the rest, and writers are turned away: the commit point",
            (ReadOnly(forced=True, preview=survey.mounts),),
            commit=True, at_least=CLOSING,
        ),
        Phase(
            "verdict", 18000, "believe nothing: look again",
            (Verify(),),
            at_least=1.0,
        ),
    )


def _orderly(policy: Policy, survey: Survey, services: ServiceSteps, going_to: str) -> tuple[Phase, ...]:
    del policy, survey, services, going_to  # PID 1 announces, stops, unmounts and jumps in its own order
    return ()


def _announcement(policy: Policy, survey: Survey, going_to: str) -> Announce:
    terminals = survey.terminals if policy.announce else ()
    return Announce(f"This machine restarts now into {going_to}.", terminals)
