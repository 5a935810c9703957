# SPDX-License-Identifier: MIT
"""What an ordinary restart does with the image: PID 1 takes the machine down, and this is asked while disks are there.

decide() says what is to be done and why, and changes nothing; `kexecctl service status` shows the same. carry_out()
does it, as a plan of the steps that an orderly `kexecctl reboot` has, but for asking PID 1.
"""

from __future__ import annotations

import contextlib
from argparse import Namespace
from collections.abc import Callable
from dataclasses import dataclass, replace
from enum import StrEnum

from kexecd import handoff, state
from kexecd import record as records
from kexecd.cli import carry as carried
from kexecd.cli.check import came_back, turn_of_firmware
from kexecd.cli.choosing import Look, boot_partitions, chosen, look
from kexecd.cli.keep import Chronicle
from kexecd.cli.steps import Load, WriteDown, terms_of, told_the_plan
from kexecd.config.hooks import read_hooks
from kexecd.config.policy import read_policy
from kexecd.config.settings import read_settings
from kexecd.errors import NotLoaded
from kexecd.executor import Executor, RealClock
from kexecd.init.detect import detect
from kexecd.init.wishes import FirmwareWish, firmware_wish
from kexecd.kernel import mountinfo, sysfs
from kexecd.model import Act, Event, EventKind, ImageRecord, Plan, State, Way
from kexecd.plan import PREPARE, Parts, build
from kexecd.record import RUN_DIR, loaded_record
from kexecd.report.events import as_text
from kexecd.teardown.hooks import HookCall, HookFacts, phases
from kexecd.teardown.survey import Survey
from kexecd.wayback import settle

Say = Callable[[str], None]

NOTHING_NAMED = Namespace(
    entry=None, kernel=None, initrd=None, from_root=None, cmdline=None, remove=None, set=None, append=None
)
"""The options of a load that chooses by itself."""


class Fate(StrEnum):
    """What becomes of the image in a restart that begins now."""

    NONE = "none"  # there is none, and none is loaded
    DROP = "drop"
    KEEP = "keep"
    LOAD = "load"


@dataclass(frozen=True, slots=True)
class Decision:
    """why: a sentence without a full stop. asked: the image belongs to a restart of ours that is all prepared.

    image: what we have loaded. seen: what is to be loaded. wish: who wants the firmware.
    """

    fate: Fate
    why: str
    asked: bool = False
    image: ImageRecord | None = None
    seen: Look | None = None
    wish: FirmwareWish | None = None


def decide(*, armed: bool) -> Decision:
    """What a restart that begins now comes to. A Refusal is why it is one through the firmware."""
    settings, restart, image = read_settings(), state.read(RUN_DIR), loaded_record()
    if wish := firmware_wish(settings, restart):
        told = handoff.expected() if restart and restart.act is Act.FIRMWARE else None
        # Who asked for a kexec, and was told why there is none, is to read that again in the next boot.
        mine = told.refused if told and told.from_boot_id == sysfs.boot_id() else ""
        return Decision(Fate.DROP, mine or wish.why, wish=wish)
    asked = restart is not None and restart.act is Act.KEXEC
    if image and asked:
        return Decision(Fate.KEEP, "`kexecctl reboot` has asked for it", asked=True, image=image)
    if image and image.named:
        return Decision(Fate.KEEP, "somebody has named what is loaded", image=image)
    if image:
        with boot_partitions():
            seen = look("/")
            why = stale(image, seen)
            if instead := turn_of_firmware(NOTHING_NAMED, read_policy(), None if why else image, seen):
                return Decision(Fate.DROP, instead, image=image)
        if why:
            return Decision(Fate.LOAD, why, image=image, seen=seen)
        return Decision(Fate.KEEP, "it is what would be chosen now", image=image)
    if sysfs.kexec_loaded():
        if armed and (failed := came_back()):
            return Decision(Fate.DROP, failed)
        return Decision(Fate.KEEP, "another program has loaded it, so the new boot will not know whether it came by it")
    if asked and not armed:
        raise NotLoaded("cannot restart as it was asked for", "somebody has unloaded the image meanwhile")
    if not armed:
        return Decision(Fate.NONE, "nothing is loaded, and no service of kexecd is started that would load")
    if not settings.load_kexec:
        return Decision(Fate.NONE, f"{settings.origin('load_kexec')} does not say LOAD_KEXEC=true")
    if not settings.load_during_shutdown:
        where = settings.origin("load_during_shutdown")
        return Decision(Fate.NONE, f"what was loaded at the start is gone, and {where} says to load nothing later")
    with boot_partitions():
        seen = look("/")
        chosen(seen)
        if instead := turn_of_firmware(NOTHING_NAMED, read_policy(), None, seen):
            return Decision(Fate.DROP, instead)
    return Decision(Fate.LOAD, seen.choice.reason, seen=seen)


def stale(image: ImageRecord, seen: Look) -> str:
    """Why this image is not what would be loaded now, to the last byte; empty if it is. Raises what a load would."""
    from kexecd.target import make_target, opened  # late: only where an image has been chosen by itself

    entry = chosen(seen)
    if entry.id != image.entry_id:
        return f"{entry.id} would be chosen now, and {image.entry_id} is loaded"
    running, machine = sysfs.running_cmdline(), sysfs.architecture()
    with opened(
        make_target(entry, seen.settings, running_cmdline=running, nonce=image.nonce, machine=machine, panic=seen.panic)
    ) as target:
        if target.cmdline != image.cmdline:
            return "the command line would be another one now"
        files, then = (target.kernel, *target.initrds), (image.kernel, *image.initrds)
        if len(files) != len(then):
            return "there would be other initrds now"
        for file, was in zip(files, then, strict=True):
            if (file.path, file.size) != (was.path, was.size) or records.of_file(file) != was:
                return f"{was.path} has changed since it was loaded"
    return ""


def carry_out(decision: Decision, say: Say, *, seconds: float) -> None:
    """Load, write down, have the hooks prepare; within so many seconds. Raises a Refusal, with everything undone."""
    if decision.fate not in (Fate.KEEP, Fate.LOAD):
        return
    chronicle, init = Chronicle(fresh=not decision.asked), detect().name
    if decision.asked:
        chronicle.stopping(init)
        return

    def emit(event: Event) -> None:
        chronicle(event)
        _tell(event, say)

    Executor(_plan(decision, seconds), emit=emit, clock=RealClock()).run()
    if decision.image is None and decision.seen is None:
        with contextlib.suppress(OSError):  # what was expected before is not what comes now
            settle.forget()
    loaded = decision.fate is Fate.LOAD
    state.reached(State.PREPARED, Way.ORDERLY, Act.KEXEC, loaded=loaded, run_dir=RUN_DIR)
    chronicle.stopping(init)


def load_now(say: Say) -> None:
    """Load what would be chosen, unless it is in memory already; for who does not want to wait. Raises a Refusal."""
    image = loaded_record()
    if sysfs.kexec_loaded() and (image is None or image.named):
        say("an image is in memory already, which stays")
        return
    with boot_partitions():
        seen = look("/")
        if image and not stale(image, seen):
            say(f"{image.kernel.path} is in memory already")
            return
        entry = chosen(seen)
        for remark in Load(seen, NOTHING_NAMED, image).load():
            say(remark)
    say(f"{entry.kernel} is in memory now: {seen.choice.reason}")


def _plan(decision: Decision, seconds: float) -> Plan:
    """The steps of an orderly restart, but for asking PID 1, which is at it: each may take what is left of the time."""
    policy, image, seen = read_policy(), decision.image, decision.seen
    entry = seen.choice.entry if seen else None
    facts = HookFacts(
        way=Way.ORDERLY,
        act=Act.KEXEC,
        state=State.NORMAL,
        kernel=entry.kernel if entry else image.kernel.path if image else "",
        version=entry.version if entry else image.version if image else "",
        cmdline=(entry.cmdline or "") if entry else image.cmdline if image else "",
        within=policy.within,
        nonce=image.nonce if image and not entry else "",
    )
    # Undone means no image at all: what was there before is out of date.
    mounted = frozenset(mount.point for mount in mountinfo.read())
    load = (Load(seen, NOTHING_NAMED, mounted=mounted),) if seen else ()
    before, terms = handoff.expected(), terms_of(policy, image if not seen else None, seen)
    write = (WriteDown(Way.ORDERLY, entry.id if entry else "", before, terms),) if seen or image else ()
    prepare = phases(read_hooks(), HookCall.PREPARE, facts, base=PREPARE[0], span=PREPARE[1])
    carry = carried.phases(Act.KEXEC, policy, image if not seen else None, seen)
    parts = Parts(load=load, record=write, prepare=prepare, carry=carry)
    plan = told_the_plan(build(Way.ORDERLY, Act.KEXEC, policy, Survey(), parts, going_to=facts.kernel))
    bounded = tuple(replace(phase, share=1.0, at_least=0.0) for phase in plan.phases)
    return replace(plan, within=seconds, phases=bounded)


def _tell(event: Event, say: Say) -> None:
    if event.kind in (EventKind.STEP, EventKind.NOTE, EventKind.FAILED, EventKind.UNDONE) and (text := as_text(event)):
        say(text)
