# SPDX-License-Identifier: MIT
"""What one call of `plan` or `reboot` comes to, before anything is done: the image, the plan, and who ends it."""

from __future__ import annotations

from argparse import Namespace
from dataclasses import dataclass, replace

from kexecd import handoff
from kexecd.cli import carry as carried
from kexecd.cli.choosing import Look, boot_partitions, chosen, look_for, names_image, target_for
from kexecd.cli.keep import Keep
from kexecd.cli.steps import DropImage, HandOver, Load, WriteDown, terms_of, told_the_plan
from kexecd.config.hooks import read_hooks
from kexecd.config.policy import Policy, read_policy
from kexecd.errors import ExitCode, Refusal
from kexecd.init import finish
from kexecd.init.base import Init
from kexecd.init.detect import detect
from kexecd.kernel import sysfs
from kexecd.model import Act, BootEntry, ImageRecord, Phase, Plan, State, Way
from kexecd.plan import FREEZE, PREPARE, Parts, build
from kexecd.record import loaded_record
from kexecd.teardown.hooks import HookCall, HookFacts, phases
from kexecd.teardown.survey import Survey, survey
from kexecd.wayback.begin import Terms


@dataclass(frozen=True, slots=True)
class Draft:
    """loaded: the image that is in memory already and is to be used; seen: else, what it will be made from.

    warnings: what the checks have to say about this restart, as sentences.
    """

    init: Init
    policy: Policy
    plan: Plan
    loaded: ImageRecord | None
    seen: Look | None
    warnings: tuple[str, ...] = ()

    @property
    def going_to(self) -> str:
        return going_to(self.plan.act, self.loaded, self.seen)

    @property
    def reason(self) -> str:
        if self.loaded:
            return "`kexecctl load` put it there"
        return self.seen.choice.reason if self.seen else "it was asked for"

    def last(self) -> str:
        """What happens after the last phase, in words."""
        if self.plan.way is Way.ORDERLY:
            return f"{self.init.name} stops everything, in its own order, and restarts"
        return finish.describe(self.init, self.plan.act, alone=self.plan.way is Way.NOW)


def draw_up(options: Namespace, *, root: str = "/") -> Draft:
    """The draft for the options of `plan` and `reboot`. Raises what the deed itself would be refused with."""
    init, policy = detect(root), read_policy(root)
    if options.within is not None:
        if not 0 < options.within <= 3600:
            raise Refusal("cannot restart", "--within takes 1 to 3600 seconds", exit_code=ExitCode.USAGE)
        policy = replace(policy, within=options.within)
    act = Act.FIRMWARE if options.firmware else Act.KEXEC
    way = Way.NOW if options.now else Way.FAST if options.fast else Way.ORDERLY
    loaded = seen = None
    instead, warnings = "", tuple[str, ...]()
    if way is Way.ORDERLY and root == "/":
        init.refuse_beforehand(act)
    if act is Act.KEXEC:
        loaded = None if names_image(options) or root != "/" else loaded_record()
        if loaded:
            instead = _instead(options, policy, loaded, None, root)
        else:
            with boot_partitions(root):
                seen = look_for(options, root)
                chosen(seen)
                instead = _instead(options, policy, None, seen, root)
        if instead:
            act, loaded, seen = Act.FIRMWARE, None, None
            warnings = (f"no kexec, this restart goes through the firmware: {instead}",)
    here = survey(root)
    if act is Act.KEXEC and root == "/":
        from kexecd.cli.check import before_restart  # late: of no use to a restart through the firmware

        warnings = before_restart(options, policy, loaded, here)
    terms = terms_of(policy, loaded, seen, trial=getattr(options, "trial", False))
    parts = Parts(drop=(DropImage(instead),))
    if act is Act.KEXEC:
        parts = _image_parts(options, way, seen, here, root, terms)
    if way is Way.FAST and root == "/":
        parts = replace(parts, services=init.services(policy, here.processes))
        warnings += (parts.services.remark,) if parts.services.remark else ()
    prepare, freeze = _hooks(way, act, policy, loaded, seen, root)
    carry = carried.phases(act, policy, loaded, seen) if root == "/" else ()
    parts = replace(parts, hand_over=(HandOver(init, act, instead),), prepare=prepare, freeze=freeze, carry=carry)
    parts = replace(parts, keep=(Keep(way),))
    plan = told_the_plan(build(way, act, policy, here, parts, going_to=going_to(act, loaded, seen)))
    return Draft(init, policy, plan, loaded, seen, warnings)


def _instead(options: Namespace, policy: Policy, loaded: ImageRecord | None, seen: Look | None, root: str) -> str:
    """Why this is to be a restart through the firmware although a kexec was asked for; empty where it is not.

    What somebody has named is refused where it has to be: the firmware would boot something else.
    """
    from kexecd.cli.check import turn_of_firmware  # late: of no use to a restart through the firmware

    if root != "/" or names_image(options) or (loaded and loaded.named):
        return ""
    return turn_of_firmware(options, policy, loaded, seen)


def _hooks(
    way: Way, act: Act, policy: Policy, loaded: ImageRecord | None, seen: Look | None, root: str
) -> tuple[tuple[Phase, ...], tuple[Phase, ...]]:
    """The administrator's hooks that prepare and that freeze; --now asks nobody, so also none of them."""
    hooks = read_hooks(root) if way is not Way.NOW else ()
    entry = seen.choice.entry if seen else None
    facts = HookFacts(
        way=way,
        act=act,
        state=State.NORMAL,
        kernel=loaded.kernel.path if loaded else entry.kernel if entry else "",
        version=loaded.version if loaded else entry.version if entry else "",
        cmdline=loaded.cmdline if loaded else (entry.cmdline or "") if entry else "",
        within=policy.within,
        nonce=loaded.nonce if loaded else "",
    )
    late = replace(facts, state=State.PREPARED)
    return (
        phases(hooks, HookCall.PREPARE, facts, base=PREPARE[0], span=PREPARE[1]),
        phases(hooks, HookCall.FREEZE, late, base=FREEZE[0], span=FREEZE[1]),
    )


def _image_parts(options: Namespace, way: Way, seen: Look | None, here: Survey, root: str, terms: Terms) -> Parts:
    pending = handoff.expected() if root == "/" else None
    if seen is None:
        return Parts(record=(WriteDown(way, before=pending, terms=terms),))
    before = loaded_record() if root == "/" else None
    mounted = frozenset(mount.point for mount in here.mounts)
    record = WriteDown(way, chosen(seen).id, pending, terms)
    return Parts(load=(Load(seen, options, before, mounted),), record=(record,))


def going_to(act: Act, loaded: ImageRecord | None, seen: Look | None) -> str:
    """What comes up afterwards, for people."""
    if act is Act.FIRMWARE:
        return "the firmware"
    entry: BootEntry | None = seen.choice.entry if seen else None
    version = loaded.version if loaded else entry.version if entry else ""
    kernel = loaded.kernel.path if loaded else entry.kernel if entry else ""
    return f"Linux {version}" if version else kernel


@dataclass(frozen=True, slots=True)
class Line:
    """The command line that the new kernel gets, beside the running one; without the nonce, which is drawn at the load.

    remarks: what opening the files has brought to light, as sentences.
    """

    text: str
    running: str
    remarks: tuple[str, ...] = ()

    def difference(self) -> tuple[tuple[str, ...], tuple[str, ...]]:
        """The parameters that come, and those that go."""
        from kexecd.kernel import cmdline  # late: only a plan that is printed shows it

        return cmdline.difference(self.running, self.text)


def command_line(draft: Draft, options: Namespace, root: str = "/") -> Line | None:
    """Of what will be booted, None where that is the firmware; opening the target finds what the load would be refused
    for, its length with the nonce counted in."""
    from kexecd.kernel import cmdline  # late: only a plan that is printed shows it
    from kexecd.target import opened

    running = sysfs.running_cmdline(root)
    if draft.loaded:
        return Line(cmdline.to_show(draft.loaded.cmdline), running)
    if draft.seen is None:
        return None
    with opened(target_for(options, draft.seen, root)) as target:
        return Line(cmdline.to_show(target.cmdline), running, target.entry.remarks)
