# SPDX-License-Identifier: MIT
"""The one rule that keeps the tests from taking down the machine they run on.

Every wrapper of an irreversible call asks here first. A test may do the real thing in a pid namespace of its own or in
a virtual machine; in the initial pid namespace it is refused, whoever runs it.
"""

from __future__ import annotations

import os

from kexecd.errors import NotPermitted

PROC_PID_INIT_INO = 0xEFFFFFFC  # include/linux/proc_ns.h
TEST_VARIABLES = ("PYTEST_CURRENT_TEST", "KEXECD_UNDER_TEST")
PID_NAMESPACE = "/proc/self/ns/pid"


def forbid_in_tests(deed: str) -> None:
    """Raise NotPermitted where a test would do `deed` ("restart the machine") to the machine itself."""
    if any(name in os.environ for name in TEST_VARIABLES) and _in_initial_pid_namespace():
        raise NotPermitted(
            f"refusing to {deed}",
            "this is a test, and it runs in the machine's own pid namespace",
            hint="run it in a virtual machine or in a pid namespace, or clear " + " and ".join(TEST_VARIABLES),
        )


def _in_initial_pid_namespace() -> bool:
    try:
        return os.stat(PID_NAMESPACE).st_ino == PROC_PID_INIT_INO
    except OSError:
        return True  # nobody can tell, and only one of the two answers does harm
