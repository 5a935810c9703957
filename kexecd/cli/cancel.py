# SPDX-License-Identifier: MIT
"""kexecctl cancel: back to normal, as long as nobody has been asked to quit."""

from __future__ import annotations

from argparse import Namespace

from kexecd import control, handoff, loader, state
from kexecd.cli.carry import give_back
from kexecd.cli.output import print_json
from kexecd.config.hooks import read_hooks
from kexecd.errors import Busy, ExitCode, NotRestarted, Refusal
from kexecd.init.detect import detect
from kexecd.lock import hold
from kexecd.model import Act, Ask, Way
from kexecd.record import RUN_DIR
from kexecd.state import Restart
from kexecd.teardown.hooks import HookCall, HookFacts, RunHook
from kexecd.wayback import begin

PATIENCE = 60.0
"""Seconds for a restart that is under way to take back what it has done; a hook may need some."""


def cancel(options: Namespace) -> ExitCode:
    answer = control.demand(RUN_DIR, Ask.CANCEL, seconds=PATIENCE)
    if answer is None:
        with hold(RUN_DIR, "cancel the restart"):
            answer = _from_pid_1()
    if options.json:
        print_json({"cancelled": answer.done, "answer": answer.text})
    elif answer.done:
        print(answer.text)
    if not answer.done:
        raise Busy("cannot cancel the restart", answer.text, instead="it goes on")
    return ExitCode.OK


def _from_pid_1() -> control.Answer:
    """A restart that was left to PID 1, which may not have begun, or has given it up."""
    restart = state.read(RUN_DIR)
    if restart is None or restart.way is not Way.ORDERLY:
        return control.Answer(True, "no restart is under way, and nothing was changed")
    if detect().going_down():
        return control.Answer(False, "PID 1 is taking this machine down already")
    failed = _take_back(restart)
    if failed:
        raise NotRestarted("the restart is cancelled", "; ".join(failed), instead="the rest is as it was before")
    return control.Answer(True, "the restart is cancelled, and everything that was begun is undone")


def _take_back(restart: Restart) -> list[str]:
    facts = HookFacts(
        way=restart.way, act=restart.act, state=restart.state, kernel="", version="", cmdline="", within=0.0
    )
    failed = []
    for hook in reversed(read_hooks()):
        try:
            RunHook(hook, HookCall.PREPARE, facts).undo()
        except Exception as error:  # the others are undone all the same
            failed.append(f"{hook.name} could not be undone: {error}")
    try:
        give_back()
    except Refusal as refusal:
        failed.append(refusal.sentence())
    if restart.act is Act.KEXEC:
        try:
            handoff.forget()
        except OSError as error:
            failed.append(f"the next boot will look for a kexec, as the record of it could not be removed: {error}")
        if trouble := begin.put_back_one_shot():
            failed.append(trouble)
        if restart.loaded:
            loader.unload()
    state.clear(RUN_DIR)
    return failed
