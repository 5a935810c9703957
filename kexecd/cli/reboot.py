# SPDX-License-Identifier: MIT
"""kexecctl reboot: choose, plan, and go down, in one of the three ways."""

from __future__ import annotations

from argparse import Namespace

from kexecd import control
from kexecd.cli.choosing import names_image
from kexecd.cli.descent import go_down
from kexecd.cli.draft import draw_up
from kexecd.cli.output import print_json
from kexecd.errors import Busy, ExitCode
from kexecd.lock import hold
from kexecd.model import Ask, State, Way
from kexecd.record import RUN_DIR
from kexecd.state import read
from kexecd.teardown.sync import begin_ahead

PATIENCE = 10.0
"""Seconds for a restart that is under way to answer."""


def reboot(options: Namespace) -> ExitCode:
    if options.dry_run:
        from kexecd.cli import plan as plan_command  # late: only for a look

        plan_command.present(options, "/")
        return ExitCode.OK
    try:
        with hold(RUN_DIR, "restart this machine"):
            _refuse_a_second(options)
            if options.fast or options.now:
                begin_ahead()
            draft = draw_up(options)
            return go_down(draft, force=options.force, as_json=options.json)
    except Busy as busy:
        return _raise_to_now(options, busy)


def _refuse_a_second(options: Namespace) -> None:
    """PID 1 that is at it already is only overtaken by --now. Raises Busy."""
    restart = read(RUN_DIR)
    if restart and restart.way is Way.ORDERLY and restart.state is State.PREPARED and not options.now:
        raise Busy(
            "cannot restart this machine",
            "PID 1 has been asked to already",
            hint="`kexecctl cancel` takes it back if PID 1 has not begun, `kexecctl reboot --now` does not wait for it",
        )


def _raise_to_now(options: Namespace, busy: Busy) -> ExitCode:
    """A second request may only make the first one hurry."""
    if not options.now or options.firmware or names_image(options):
        raise busy
    answer = control.demand(RUN_DIR, Ask.NOW, seconds=PATIENCE)
    if answer is None:
        raise busy
    if options.json:
        print_json({"raised": answer.done, "answer": answer.text})
    else:
        print(f"a restart is under way: {answer.text}")
    return ExitCode.OK if answer.done else ExitCode.BUSY
