# SPDX-License-Identifier: MIT
"""kexecctl service: what the services of an init call, at the same moments of its life whichever it is.

    start   every restart of this machine is to be a kexec from now on
    stop    this machine goes down, or only the service: load, keep or drop the image
    freeze  all services have stopped and the disks can still be written: the freeze hooks of an orderly restart, and
            what applications have handed over, wherever this machine goes
    status  armed or not, and what the next restart will do, with the reason

stop and freeze are part of a restart that goes on whatever they say: they end within MOST seconds, and with 0; freeze
has CARRYING more where applications have handed memory over.
"""

from __future__ import annotations

import contextlib
import os
from argparse import Namespace
from collections.abc import Callable

from kexecd import handoff, state
from kexecd.cli.keep import Chronicle
from kexecd.cli.output import print_json, shown
from kexecd.cli.preload import Decision, Fate, carry_out, decide, load_now
from kexecd.cli.steps import bounded
from kexecd.cli.turn import wait_for
from kexecd.config.hooks import read_hooks
from kexecd.config.policy import read_policy
from kexecd.config.settings import read_settings
from kexecd.errors import Busy, ExitCode, NotPermitted, Refusal
from kexecd.executor import Executor, RealClock
from kexecd.init import pid1
from kexecd.init.detect import detect
from kexecd.init.pid1 import Pid1
from kexecd.init.wishes import Going, Heading, heading
from kexecd.kernel import sysfs
from kexecd.liveupdate import place
from kexecd.model import Act, Event, EventKind, Plan, State, Way
from kexecd.plan import FREEZE
from kexecd.record import RUN_DIR, loaded_record
from kexecd.report.log import open_log
from kexecd.report.messages import Kind, message
from kexecd.state import Restart
from kexecd.teardown.hooks import HookCall, HookFacts, phases
from kexecd.wayback import begin, settle

MOST = 60.0
"""Seconds that stop and freeze take at most; what is below leaves room in them for children that have to be killed."""

CARRYING = 120.0
"""Seconds for what applications have handed over to be written down: the alternative is to lose it."""

ASKING = 10.0  # to find out what this machine does next
WORKING = 38.0  # to load and prepare
UNDOING = 5.0  # of that, to take back what was begun
DROPPING = 5.0  # to take the image out of memory
TURN = 15.0  # to wait for somebody else who is at it: PID 1 may be faster than who asked it is in writing that down
SHORT_TURN = 2.0
START_TURN = 60.0  # in a boot the hooks may be finishing the last restart


def service(options: Namespace) -> ExitCode:
    if os.geteuid() and options.verb != "status":
        raise NotPermitted(f"cannot {options.verb} the service", "only root may", hint="try again with sudo")
    match options.verb:
        case "start":
            return _start()
        case "stop":
            _survive(lambda: _stop(options.going))
        case "freeze":
            _survive(_freeze)
        case "status":
            return _status(as_json=options.json)
    return ExitCode.OK


def _start() -> ExitCode:
    settings = read_settings()
    if settings.disabled:
        with wait_for(RUN_DIR, "start the service", seconds=START_TURN):
            state.disarm(RUN_DIR)
            _drop_ours()
        _say(f'kexec is switched off: {settings.origin("kernel")} says KNAME="-"')
        return ExitCode.OK
    if not settings.load_during_shutdown:
        with wait_for(RUN_DIR, "start the service", seconds=START_TURN):
            load_now(_say)
            state.arm(RUN_DIR)
        return ExitCode.OK
    state.arm(RUN_DIR)
    if pid1.which() is Pid1.BUSYBOX:
        _warn("busybox's init does not tell a reboot from a poweroff: only `kexecctl reboot` will be a kexec")
    try:
        decision = decide(armed=True)
    except Refusal as refusal:
        _warn(f"as it is now, a restart will go through the firmware: {_why(refusal)}")
        if refusal.hint:
            _write(2, f"  hint: {refusal.hint}")
        return ExitCode.OK
    _say(_outlook(decision))
    return ExitCode.OK


def _stop(going: str) -> None:
    restart = state.read(RUN_DIR)
    found = Heading(Going(going), "it is named") if going != "ask" else _heading()
    if found.going is Going.STAY:
        state.disarm(RUN_DIR)
        # Gentoo's meaning: stopping the service takes back what starting it has promised. Not under a restart of ours.
        if restart is None and os.path.isdir("/run/openrc"):
            _in_time(_drop_ours_in_turn, DROPPING)
        _say(f"from now on a restart goes through the firmware ({found.why})")
        return
    if found.going is Going.DOWN:
        _say(f"no kexec, this machine does not restart: {found.why}")
        _in_time(lambda: _drop("it did not restart then, but went down in another way", restarts=False), DROPPING)
        return
    armed = state.is_armed(RUN_DIR)
    try:
        bounded(lambda: _reboot(armed=armed), WORKING)
        return
    except Refusal as refusal:
        why = _why(refusal)
    except TimeoutError:
        why = f"loading and preparing did not end within {WORKING:g} s"
    except OSError as error:
        why = f"loading failed: {error}"
    text = f"no kexec, this restart goes through the firmware: {why}"
    _warn(text)
    open_log().tell(message(Kind.REFUSED, text))
    _in_time(lambda: _drop(why, meant=True), DROPPING)


def _heading() -> Heading:
    """In a child: init is asked, which may not answer."""

    def ask() -> list[str]:
        found = heading(os.environ, state.read(RUN_DIR))
        return [str(found.going), found.why]

    try:
        going, why = bounded(ask, ASKING)
        return Heading(Going(going), why)
    except (TimeoutError, Refusal, OSError) as error:
        return Heading(Going.STAY, f"nobody could tell what this machine is about to do: {error}")


def _reboot(*, armed: bool) -> None:
    """In a child that is killed when it takes too long. Raises a Refusal."""
    clock = RealClock()
    end = clock.now() + WORKING - UNDOING
    with wait_for(RUN_DIR, "prepare the restart", seconds=TURN):
        decision = decide(armed=armed)
        _say(_outlook(decision))
        if decision.fate is Fate.DROP:
            _drop(decision.why, meant=armed or sysfs.kexec_loaded())
            if decision.wish and (once := decision.wish.file):
                try:
                    os.unlink(once)
                except OSError as error:
                    _warn(f"{once} means the next restart too, as it cannot be removed: {error.strerror}")
            return
        carry_out(decision, _say, seconds=end - clock.now())
        if decision.fate is not Fate.NONE:
            open_log().tell(message(Kind.LOADED, _outlook(decision)))


def _drop(why: str, *, meant: bool = False, restarts: bool = True) -> None:
    """Take whatever image there is out of memory, and tell the next boot why there was no kexec where one was meant.

    restarts: through the firmware, which is written down. The daemon asks when logind says that this machine is about
    to go down, and PID 1 asks again when it stops the service: what was decided is not to be decided again by then.
    """
    from kexecd import loader  # late: most restarts keep what they have

    try:
        with contextlib.suppress(OSError):
            _to_firmware() if restarts else state.clear(RUN_DIR)
        if loader.unload():
            open_log().tell(message(Kind.DROPPED, f"the image is out of memory: {why}"))
    except Refusal as refusal:
        # What is left in memory is not jumped into: whoever comes last looks at the state (kexecd/jump.py).
        with contextlib.suppress(OSError):
            _to_firmware()
        _warn(refusal.sentence())
    # Last: a disk may not answer any more.
    if restarts and (trouble := begin.put_back_one_shot()):
        _warn(trouble)
    pending = handoff.expected()
    if meant or (pending and pending.from_boot_id == sysfs.boot_id()):
        try:
            settle.tell_next_boot(why)
        except OSError as error:
            _warn(f"the next boot will not be told why there was no kexec: {(error.strerror or str(error)).lower()}")


def _to_firmware() -> None:
    state.reached(State.PREPARED, Way.ORDERLY, Act.FIRMWARE, loaded=False, run_dir=RUN_DIR)


def _drop_ours() -> None:
    from kexecd import loader  # late: see above

    if loaded_record():
        loader.unload()
        _say("the image is out of memory")


def _drop_ours_in_turn() -> None:
    with wait_for(RUN_DIR, "stop the service", seconds=SHORT_TURN):
        _drop_ours()


def _freeze() -> None:
    """Once, what is to be done when nobody writes any more: of PID 1's own way down, not of ours."""
    restart = state.read(RUN_DIR)
    ready = restart and restart.state is State.PREPARED and restart.way is Way.ORDERLY and restart.act is Act.KEXEC
    kexec = bool(ready and sysfs.kexec_loaded())
    if restart and kexec:
        _in_time(lambda: _freeze_hooks(restart), MOST - UNDOING)
    if place.exists(RUN_DIR):
        _in_time(lambda: _freeze_state(restart, kexec=kexec), CARRYING)


def _freeze_state(restart: Restart | None, *, kexec: bool) -> None:
    """In a child. What applications have handed over: by what a kexec of ours was prepared with, and else by file."""
    from kexecd.liveupdate import steps  # late: most machines have nobody who hands anything over

    if restart is None:
        found = heading(os.environ, None)
        if found.going is Going.STAY or found.single:
            return
    why = "" if kexec else "no kexec of kexecd's follows"
    systemd = os.path.isdir("/run/systemd/system")
    try:
        told = steps.freeze_and_keep(RUN_DIR, file=why, stay=not systemd, seconds=CARRYING - UNDOING)
    except Refusal as refusal:
        text = f"what applications have handed over will be lost: {_why(refusal)}"
        _warn(text)
        open_log().tell(message(Kind.LOST, text))
        return
    if told:
        _say(told)
        open_log().tell(message(Kind.CARRIED, told))


def _freeze_hooks(restart: Restart) -> None:
    """In a child. The hooks' freeze, of a restart of ours that is all prepared."""
    image, policy = loaded_record(), read_policy()
    facts = HookFacts(
        way=Way.ORDERLY,
        act=Act.KEXEC,
        state=State.PREPARED,
        kernel=image.kernel.path if image else "",
        version=image.version if image else "",
        cmdline=image.cmdline if image else "",
        within=policy.within,
        nonce=image.nonce if image else "",
    )
    # Written first: a hook that is called a second time could write over what it has laid aside.
    state.reached(State.FROZEN, restart.way, restart.act, loaded=restart.loaded, run_dir=RUN_DIR)
    walk = phases(read_hooks(), HookCall.FREEZE, facts, base=FREEZE[0], span=FREEZE[1])
    within = min(policy.within, MOST - 2 * UNDOING)
    chronicle = Chronicle()
    chronicle.stopped(detect().name)

    def emit(event: Event) -> None:
        chronicle(event)
        _tell(event)

    Executor(Plan(facts.way, facts.act, within, walk), emit=emit, clock=RealClock(), committed=True).run()
    chronicle.keep()


def _tell(event: Event) -> None:
    if event.kind is EventKind.STEP:
        _say(event.text)
    elif event.kind in (EventKind.NOTE, EventKind.FAILED):
        _warn(f"{event.step}: {event.text}" if event.step else event.text)


def _status(*, as_json: bool) -> ExitCode:
    armed, arrival = state.is_armed(RUN_DIR), handoff.arrival()
    now = state.now(RUN_DIR, arrived=arrival.how is handoff.How.KEXEC)
    try:
        decision = decide(armed=armed)
        fate, outlook = decision.fate, _outlook(decision)
        if os.geteuid() and sysfs.kexec_loaded():
            outlook = "an image is in memory, and only root can see what becomes of it"
    except Refusal as refusal:
        fate, outlook = Fate.DROP, f"a restart will go through the firmware: {_why(refusal)}"
    if as_json:
        print_json({"armed": armed, "state": now, "image": fate, "next": outlook})
        return ExitCode.OK
    print(f"armed   {'yes' if armed else 'no'}")
    print(f"state   {now}")
    print(f"next    {outlook}")
    return ExitCode.OK


def _outlook(decision: Decision) -> str:
    """What a restart that begins now does, in one line."""
    match decision.fate:
        case Fate.NONE | Fate.DROP:
            return f"a restart goes through the firmware: {decision.why}"
        case Fate.KEEP:
            what = decision.image.kernel.path if decision.image else "an image"
            return f"a restart is a kexec into what is loaded, {what}: {decision.why}"
        case Fate.LOAD:
            entry = decision.seen.choice.entry if decision.seen else None
            return f"a restart is a kexec into {entry.kernel if entry else 'what is chosen then'}: {decision.why}"


def _survive(work: Callable[[], None]) -> None:
    """Whatever breaks, the restart that we are part of goes on."""
    try:
        work()
    except Exception as error:
        _warn(f"kexecd failed, ignoring: {error!r}")


def _in_time(work: Callable[[], None], seconds: float) -> None:
    try:
        bounded(work, seconds)
    except TimeoutError:
        _warn(f"it did not end within {seconds:g} s, going on without")
    except Busy as busy:
        _say(f"{busy.sentence()}, ignoring")
    except Refusal as refusal:
        _warn(refusal.sentence())


def _why(refusal: Refusal) -> str:
    """What the next boot is told: what happens instead is over by then."""
    code = f" ({refusal.errno_name})" if refusal.errno else ""
    why = f"{refusal.why}{code}"
    return why if refusal.exit_code is ExitCode.NOT_RESTARTED else f"{refusal.what}: {why}"


def _say(text: str) -> None:
    _write(1, text)


def _warn(text: str) -> None:
    _write(2, f"kexecctl: {text}")


def _write(fd: int, text: str) -> None:
    """By descriptor, as a child of ours has nothing else that is open; and whoever listened may be gone."""
    with contextlib.suppress(OSError):
        os.write(fd, shown(text).encode(errors="replace") + b"\n")
