# SPDX-License-Identifier: MIT
"""The steps that need to know what was chosen, or who PID 1 is: load, write down, hand over, drop.

The calls that may never return, a load and a write to disk, are made in a child; whoever walks the plan only waits.
"""

from __future__ import annotations

import contextlib
import ctypes
import json
import os
import signal
from argparse import Namespace
from collections.abc import Callable, Generator
from dataclasses import dataclass, field, replace

from kexecd import handoff
from kexecd.cli.choosing import Look, boot_partitions, chosen
from kexecd.errors import ExitCode, NotLoaded, NotRestarted, Refusal
from kexecd.executor import RealClock
from kexecd.handoff import PendingHandoff
from kexecd.init.base import Init
from kexecd.kernel import mountinfo, syscalls, sysfs
from kexecd.kernel.descriptors import readable
from kexecd.kernel.resting import Resting
from kexecd.kernel.spawn import MOST_FDS
from kexecd.model import Act, BootEntry, Context, ImageRecord, Plan, Running, Source, Step, Wait, Way
from kexecd.record import loaded_record
from kexecd.wayback import begin
from kexecd.wayback.begin import LIMIT, Terms

TYPE_CHECKING = False  # what the type checker takes for true; the module of that name costs as much as many of ours
if TYPE_CHECKING:
    from kexecd.config.policy import Policy

PR_SET_PDEATHSIG = 1  # include/uapi/linux/prctl.h

REAPING = 0.5
"""Seconds for a child to end after KILL."""

_clerk: Resting | None = None
"""Who is there for what only has to be written."""


@dataclass(frozen=True, slots=True)
class Load:
    """Put what was chosen into kernel memory.

    before: the image of ours that was there; undone means that it is there again, or else that none is.
    mounted: the mount points of that moment, so that a load that is killed leaves no boot partition mounted.
    """

    seen: Look
    options: Namespace = field(repr=False)
    before: ImageRecord | None = None
    mounted: frozenset[str] = frozenset()
    name: str = "load"

    def describe(self) -> str:
        entry = chosen(self.seen)
        files = " + ".join((entry.kernel, *entry.initrds))
        instead = ", instead of the image that is there" if self.before else ""
        return f"put {files} into memory{instead}"

    def run(self, context: Context) -> Running:
        for remark in (yield from in_child(self.load, context)):
            context.tell(remark)

    def load(self) -> list[str]:
        """The deed itself; returns what a person should know about it. May never return; raises a Refusal."""
        from kexecd.cli.image import load_chosen  # late: hashing and reading are of no use to a plan that loads nothing

        with boot_partitions():
            _, remarks = load_chosen(self.options, self.seen)
        return list(remarks)

    def undo(self) -> None:
        from kexecd import loader  # late: nothing is loaded where an image is in memory already

        loaded = loaded_record()
        if sysfs.kexec_loaded() and not (loaded and loaded == self.before):
            loader.unload()
            if self.before:
                put_back(self.before)
        for mount in reversed(mountinfo.read()):
            if mount.point not in self.mounted and mount.point in self._boot_points():
                with contextlib.suppress(OSError):
                    syscalls.umount(mount.point)

    def _boot_points(self) -> tuple[str, ...]:
        from kexecd.bootmount import ESP_POINTS

        return (self.seen.settings.boot_dir, *ESP_POINTS)


@dataclass(frozen=True, slots=True)
class WriteDown:
    """Write down which kernel is expected, for the boot that follows. `entry_id` empty: the image's own."""

    way: Way
    entry_id: str = ""
    before: PendingHandoff | None = None
    terms: Terms = Terms()
    name: str = "record"

    def describe(self) -> str:
        return f"write down in {handoff.STATE_DIR} which kernel is to come up"

    def run(self, context: Context) -> Running:
        for remark in (yield from in_child(self._write, context, by_clerk=True)):
            context.tell(remark)

    def _write(self) -> list[str]:
        image = loaded_record()
        if image is None:
            raise NotLoaded("cannot restart this machine", "somebody has unloaded the image meanwhile")
        try:
            pending = begin.record(image, self.way, self.terms, self.entry_id)
            begin.write(pending)
        except OSError as error:
            what, why = "cannot restart this machine", f"the new boot's record cannot be written in {handoff.STATE_DIR}"
            hint = "look whether that filesystem is full or read-only"
            raise Refusal(what, why, hint=hint, errno=error.errno or 0) from error
        trouble = begin.hold_one_shot(pending)
        return [trouble] if trouble else []

    def undo(self) -> None:
        trouble = begin.put_back_one_shot()  # first: it needs no lock, which somebody may not let go of
        if self.before:
            with handoff.locked():
                handoff.write(self.before)
        else:
            handoff.forget()
        if trouble:
            raise OSError(trouble)


def terms_of(policy: Policy, image: ImageRecord | None, seen: Look | None, *, trial: bool = False) -> Terms:
    """What the record of a restart says of it, into what is in memory or else what was seen; but for its plan."""
    entry = seen.choice.entry if seen else None
    next_one = bool(seen and seen.loader and entry and seen.loader.next == entry.id)
    return Terms(policy.confirm_limit or (LIMIT if trial else 0.0), trial, not image.named if image else next_one)


def told_the_plan(plan: Plan) -> Plan:
    """The same plan, whose record names its phases."""
    names = tuple(phase.name for phase in plan.phases)

    def told(step: Step) -> Step:
        return replace(step, terms=replace(step.terms, plan=names)) if isinstance(step, WriteDown) else step

    return replace(plan, phases=tuple(replace(phase, steps=tuple(map(told, phase.steps))) for phase in plan.phases))


@dataclass(frozen=True, slots=True)
class DropImage:
    """Take the image out of memory: some inits take it up, whoever asked for what.

    why: why there is no kexec where one was asked for, for the next boot.
    """

    why: str = ""
    name: str = "unload"

    def describe(self) -> str:
        return "take the image out of memory, so that nobody jumps into it"

    def run(self, context: Context) -> Running:
        yield from in_child(lambda: _drop(self.why), context)

    def undo(self) -> None:
        """Nothing: it only runs when the restart can no longer be given up."""


@dataclass(frozen=True, slots=True)
class HandOver:
    """Ask PID 1 for a whole ordinary restart; the last step of a plan that is not ours to finish.

    why: why it is one through the firmware where a kexec was asked for, for the next boot.
    """

    init: Init
    act: Act
    why: str = ""
    name: str = "hand over"

    def describe(self) -> str:
        return self.init.describe_restart(self.act)

    def run(self, context: Context) -> Running:
        yield from in_child(self._ask, context)

    def _ask(self) -> None:
        if self.act is Act.FIRMWARE and self.why:
            _tell_next_boot(self.why)  # first: PID 1 may be faster than we are
        self.init.restart(self.act)
        if self.act is Act.FIRMWARE:
            _drop(self.why)

    def undo(self) -> None:
        """Nothing: it is the last, and when it fails PID 1 has not taken it."""


def put_back(image: ImageRecord) -> None:
    """Load again what was loaded before, from the same files and with the same command line."""
    from kexecd import loader  # late: nothing is loaded where an image is in memory already
    from kexecd.config.policy import read_policy
    from kexecd.config.settings import read_settings
    from kexecd.target import make_target, opened

    panic = read_policy().confirm_panic

    entry = BootEntry(
        id=image.entry_id,
        title=image.entry_id,
        version=image.version,
        source=Source.EXPLICIT,
        kernel=image.kernel.path,
        # What a unified kernel image brought along has no file of its own, and comes with it again.
        initrds=tuple(file.path for file in image.initrds if os.path.isfile(file.path)),
        cmdline=image.cmdline,
    )
    with (
        boot_partitions(),
        opened(make_target(entry, read_settings("/"), running_cmdline="", nonce=image.nonce, panic=panic)) as target,
    ):
        loader.load(target, named=image.named, foreign=image.foreign)


def _drop(why: str) -> None:
    from kexecd import loader  # late: a kexec keeps its image

    loader.unload()
    if why:
        _tell_next_boot(why)
    else:
        from kexecd.wayback import settle  # late: a kexec has no use for it

        settle.forget()


def _tell_next_boot(why: str) -> None:
    """Why there is no kexec where one was asked for. A disk that cannot be written is no reason not to restart."""
    from kexecd.wayback import settle  # late: a kexec has no use for it

    with contextlib.suppress(OSError):
        settle.tell_next_boot(why)


def bounded(work: Callable[[], list[str] | None], seconds: float) -> list[str]:
    """in_child for who has nothing else to do meanwhile: waits at most so long. Raises TimeoutError and Refusals."""
    clock = RealClock()
    running = in_child(work, Context(clock.now, clock.now() + seconds, lambda text: None))
    try:
        wait = next(running)
        while True:
            wait = running.send(clock.wait(wait.fds, wait.until))
    except StopIteration as end:
        return list(end.value)


def keep_clerk(practise: Callable[[], object]) -> None:
    """From now on somebody is there for what only has to be written, to the end of this process. Raises OSError.

    practise: what it does before, of which nothing may come.
    """
    global _clerk  # noqa: PLW0603
    import pickle  # noqa: F401 # so that it is in memory

    def prepare() -> None:
        _end_with_parent()
        with contextlib.suppress(Exception):
            practise()

    _clerk = Resting(_do, prepare)


def in_child(
    work: Callable[[], list[str] | None], context: Context, *, by_clerk: bool = False
) -> Generator[Wait, frozenset[int], list[str]]:
    """Do `work` in a child that is killed at the deadline; returns and raises what it does, of Refusals.

    by_clerk: it can be done by a copy of ours that was made before, where one is kept; so it can be pickled.
    """
    reader, writer = os.pipe()
    clerk = _clerk if by_clerk and _has_clerk(work, writer) else None
    child = clerk.pid if clerk else os.fork()
    if child == 0:
        _work(work, writer)
    ended = os.pidfd_open(child)
    os.close(writer)
    told, done = b"", False
    try:
        while context.now() < context.deadline:
            if not (yield Wait(frozenset((reader,)), context.deadline)):
                continue
            part = os.read(reader, 1 << 16)
            if not part:
                done = True
                return _told(told)
            told += part
        raise TimeoutError("it did not end in time")
    finally:
        os.close(reader)
        if not (clerk and done):
            _kill(child, ended)
        os.close(ended)


def _has_clerk(work: Callable[[], list[str] | None], writer: int) -> bool:
    """Whether it has been given to the clerk."""
    if _clerk is None:
        return False
    import pickle  # late: most have no clerk

    return _clerk.send(pickle.dumps(work), (writer,))


def _kill(child: int, ended: int) -> None:
    global _clerk  # noqa: PLW0603
    if _clerk and _clerk.pid == child:
        _clerk.close()
        _clerk = None
    os.kill(child, signal.SIGKILL)  # our own child, not yet waited for: the number is still its own
    if readable(ended, REAPING):
        os.waitpid(child, 0)  # otherwise it sleeps in the kernel, and is left behind


def _work(work: Callable[[], list[str] | None], writer: int) -> None:
    """In the child. Nothing of the walker's stays open: a copy of its end of a channel would keep that alive."""
    try:
        _end_with_parent()
        os.closerange(3, writer)
        os.closerange(writer + 1, MOST_FDS)
        _answer(work, writer)
    finally:
        os._exit(0)


def _end_with_parent() -> None:
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)


def _do(message: bytes, fds: tuple[int, ...]) -> None:
    """In the clerk: what whoever walks the plan has pickled."""
    import pickle

    def work() -> list[str] | None:
        told: list[str] | None = pickle.loads(message)()
        return told

    (writer,) = fds
    _answer(work, writer)
    os.close(writer)


def _answer(work: Callable[[], list[str] | None], writer: int) -> None:
    record: dict[str, object]
    try:
        record = {"result": work() or []}
    except Refusal as refusal:
        record = {"refused": refusal.as_json(), "errno": refusal.errno, "exit": refusal.exit_code}
    except BaseException as error:
        record = {"refused": NotRestarted("the restart was given up", f"kexecd failed: {error!r}").as_json(), "exit": 1}
    with contextlib.suppress(OSError):
        os.write(writer, json.dumps(record).encode())


def _told(text: bytes) -> list[str]:
    if not text:
        raise NotRestarted("the restart was given up", "the process that did this was killed")
    record = json.loads(text)
    if "refused" in record:
        raise refusal_from(record)
    return [str(line) for line in record["result"]]


def refusal_from(record: dict[str, object]) -> Refusal:
    """The reverse of Refusal.as_json, with its exit code beside it."""
    told = record["refused"]
    assert isinstance(told, dict)
    code = ExitCode(int(str(record["exit"])))
    errno = int(str(record.get("errno", 0)))
    return Refusal(told["what"], told["why"], instead=told["instead"], hint=told["hint"], errno=errno, exit_code=code)
