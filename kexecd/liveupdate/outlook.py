# SPDX-License-Identifier: MIT
"""What becomes of handed over memory in the kernel to come, on this machine: everything that it takes, looked up.

Where live update is off it costs nothing, and the very kernel that runs hardly more. Else two kernels are unpacked and
searched: a second or three each.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator

from kexecd.errors import Refusal
from kexecd.kernel.files import open_regular
from kexecd.liveupdate import luo, steps
from kexecd.liveupdate.carrier import Fate, Forecast, Outlook, Wanted, carrier
from kexecd.liveupdate.compatible import outlook_of, refuse_panic
from kexecd.model import Act, LoadMethod, OpenFile

IMAGES = ("/boot/vmlinuz-{}", "/boot/kernel-{}", "/usr/lib/modules/{}/vmlinuz", "/lib/modules/{}/vmlinuz")
"""Where the running kernel's own image may be; whether it is its own is seen by its banner."""


def outlook(kernel: str, cmdline: str) -> Outlook:
    """What becomes of handed over memory in the kernel at this path. With Fate.PANIC it would not come up, whether
    anything was handed over or not: see compatible.refuse_panic()."""
    if not luo.available():
        return Outlook(Fate.LOST, "the running kernel has no live update, or it is not switched on")
    with contextlib.ExitStack() as stack:
        try:
            target = stack.enter_context(_opened(kernel))
        except Refusal as refusal:
            return Outlook(Fate.UNKNOWN, f"{refusal.what}: {refusal.why}")
        images = []
        for path in IMAGES:
            with contextlib.suppress(Refusal):
                images.append(stack.enter_context(_opened(path.format(os.uname().release))))
        banner = f"{os.uname().release} {os.uname().version}"
        return outlook_of(target, cmdline, banner, active=True, images=images)


def decision(
    act: Act, kernel: str, cmdline: str, method: LoadMethod | None, run_dir: str, wanted: Wanted = Wanted.AUTO
) -> Forecast:
    """What carries what is held now into the kernel at this path, why, and in what time.

    method: how that is or will be loaded, None if somebody else has loaded it. Raises Unsupported where the new kernel
    would not come up, and a Refusal where a holder is there and does not answer.
    """
    told = steps.ask(run_dir, {"do": "status"}, seconds=steps.ASKING) or {}
    seen = outlook(kernel, cmdline) if act is Act.KEXEC else Outlook(Fate.LOST, "")
    refuse_panic(seen, kernel)
    size, rate = int(told.get("bytes", 0)), float(told.get("rate", 0))
    return carrier(act, seen, wanted=wanted, method=method, size=size, rate=rate)


@contextlib.contextmanager
def _opened(path: str) -> Iterator[OpenFile]:
    file = open_regular(path, "the kernel")
    try:
        yield file
    finally:
        os.close(file.fd)
