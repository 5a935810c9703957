# SPDX-License-Identifier: MIT
"""Services without an init that is asked: everybody gets a TERM, in the order of the classes."""

from __future__ import annotations

from kexecd.config.policy import Policy
from kexecd.model import Process, ProcessClass
from kexecd.plan import ServiceSteps
from kexecd.teardown.classes import Classifier, QuitClass, Roll

CLASSES = (ProcessClass.GUEST, ProcessClass.SESSION, ProcessClass.SERVICE)
"""The rest is quit by the last step, which finds everybody."""


def by_class(policy: Policy, processes: tuple[Process, ...]) -> ServiceSteps:
    """A step for each class that has somebody in it among `processes`."""
    classifier = Classifier.here()
    members: dict[ProcessClass, list[Process]] = {}
    for process in processes:
        members.setdefault(classifier(process), []).append(process)
    roll = Roll([each for each in CLASSES if each in members])
    graces = (policy.grace_guests, policy.grace_sessions, policy.grace_services)
    guests, sessions, services = (
        (QuitClass(each, grace, tuple(members[each]), roll),) if each in members else ()
        for each, grace in zip(CLASSES, graces, strict=True)
    )
    covered = frozenset(process for each in CLASSES for process in members.get(each, ()))
    return ServiceSteps(guests, sessions, services, covered=covered)
