# SPDX-License-Identifier: MIT
"""kexecctl reboot: load, plan, and go down, in one of the three ways."""

from __future__ import annotations

import time
from argparse import Namespace
from collections.abc import Callable
from dataclasses import asdict

from kexecd import handoff, loader
from kexecd.cli import plan as plan_command
from kexecd.cli.choosing import boot_partitions, chosen
from kexecd.cli.descent import go_down
from kexecd.cli.draft import Draft, draw_up
from kexecd.cli.image import load_chosen
from kexecd.cli.output import print_json
from kexecd.errors import ExitCode, Refusal
from kexecd.handoff import PendingHandoff
from kexecd.kernel import sysfs
from kexecd.lock import hold
from kexecd.model import Act, ImageRecord, Way
from kexecd.record import RUN_DIR


def reboot(options: Namespace) -> ExitCode:
    if options.dry_run:
        plan_command.present(options, "/")
        return ExitCode.OK
    with hold(RUN_DIR, "restart this machine"):
        with boot_partitions():
            draft = draw_up(options)
            image, take_back = _prepare(draft, options)
        try:
            if image:
                _write_pending(draft, image)
            if draft.plan.way is Way.ORDERLY:
                draft.init.restart(draft.plan.act)
                _say(options, draft, image)
                return ExitCode.OK
        except BaseException:
            take_back()
            raise
        return go_down(draft, options, take_back)


def _prepare(draft: Draft, options: Namespace) -> tuple[ImageRecord | None, Callable[[], None]]:
    """Have the right image in memory, or none; returns it, and what undoes that."""
    if draft.plan.act is Act.FIRMWARE:
        # An image that stays loaded is taken up by some inits, whoever asked for what.
        loader.unload()
        return None, handoff.forget
    if draft.loaded:
        return draft.loaded, handoff.forget
    assert draft.seen is not None, "a kexec without an image has been refused by draw_up"
    image = load_chosen(options, draft.seen)

    def take_back() -> None:
        loader.unload()
        handoff.forget()

    return image, take_back


def _write_pending(draft: Draft, image: ImageRecord) -> None:
    entry_id = chosen(draft.seen).id if draft.seen else image.entry_id
    pending = PendingHandoff(
        nonce=image.nonce,
        from_boot_id=sysfs.boot_id(),
        from_release=sysfs.kernel_release(),
        to_entry_id=entry_id,
        to_version=image.version,
        way=draft.plan.way,
        requested_at=time.time(),
    )
    try:
        handoff.write(pending)
    except OSError as error:
        what, why = "cannot restart this machine", f"the new boot's record cannot be written in {handoff.STATE_DIR}"
        hint = "look whether that filesystem is full or read-only"
        raise Refusal(what, why, hint=hint, errno=error.errno or 0) from error


def _say(options: Namespace, draft: Draft, image: ImageRecord | None) -> None:
    if options.json:
        print_json({"accepted": str(draft.plan.way), "image": asdict(image) if image else None})
    else:
        print(f"{draft.init.name} takes this machine down now, into {draft.going_to}")
