# SPDX-License-Identifier: MIT
"""kexecctl metrics: for Prometheus; and what is kept once a boot is settled, the way up and the metrics' file."""

from __future__ import annotations

from argparse import Namespace

from kexecd import deny, handoff, history
from kexecd.cli.output import print_json
from kexecd.cli.report import gather
from kexecd.config.policy import Policy, read_policy
from kexecd.errors import ExitCode, Refusal
from kexecd.kernel import files
from kexecd.report import up
from kexecd.report.metrics import exposition
from kexecd.report.metrics import metrics as samples
from kexecd.report.story import Story


def metrics(options: Namespace) -> ExitCode:
    if options.write:
        if trouble := published(read_policy()):
            raise Refusal("cannot keep the report of this boot", trouble)
        return ExitCode.OK
    story, past = gather(), history.attempts()
    if options.json:
        rows = [
            {"name": metric.name, "labels": dict(labels), "value": value}
            for metric in samples(story, past, denied=_denied())
            for labels, value in metric.samples
        ]
        print_json({"metrics": rows})
        return ExitCode.OK
    print(exposition(story, past, denied=_denied()), end="")
    return ExitCode.OK


def published(policy: Policy, state_dir: str = handoff.STATE_DIR) -> str:
    """When this boot is settled: keep its way up, and write the metrics where policy says. Returns what went wrong.

    Asks PID 1, and may wait for it.
    """
    try:
        story = gather(state_dir)
        up.write(story.up, state_dir)
        _write(policy, story, state_dir)
    except OSError as error:
        return (error.strerror or str(error)).lower()
    return ""


def updated(policy: Policy, state_dir: str = handoff.STATE_DIR) -> str:
    """The metrics alone, while the boot is not over, because something else was settled. Returns what went wrong."""
    try:
        if policy.metrics_file:
            _write(policy, gather(state_dir), state_dir)
    except OSError as error:
        return (error.strerror or str(error)).lower()
    return ""


def _write(policy: Policy, story: Story, state_dir: str) -> None:
    """Where policy says; nowhere else. Raises OSError."""
    if policy.metrics_file:
        text = exposition(story, history.attempts(state_dir), denied=_denied(state_dir))
        files.write_atomic(policy.metrics_file, text.encode(), mode=0o644)


def _denied(state_dir: str = handoff.STATE_DIR) -> int:
    try:
        return len(deny.denials(state_dir))
    except handoff.Unreadable:
        return 0
