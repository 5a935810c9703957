# SPDX-License-Identifier: MIT
"""How the lab fails: each error says what the lab was doing and, where a guest was running, what the guest
said last.
"""

from __future__ import annotations


class LabError(Exception):
    """The lab itself could not do what it was asked."""


class BuildError(LabError):
    """A tool that builds images failed or ran out of time; the message holds the end of its output."""


class LabTimeout(LabError):
    """A deadline passed while the lab waited for the guest."""


class QemuGone(LabError):
    """QEMU's process ended, or closed one of its sockets, while it was needed."""


class QmpError(LabError):
    """QEMU answered a QMP command with an error."""


class AgentError(LabError):
    """The guest agent answered a command with an error."""


class CommandFailed(LabError):
    """A command in the guest exited with a status other than 0."""
