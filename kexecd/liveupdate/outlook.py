# SPDX-License-Identifier: MIT
"""What becomes of handed over memory in the kernel to come, on this machine: everything that it takes, looked up.

Where live update is off it costs nothing, and the very kernel that runs hardly more. Else two kernels are unpacked and
searched: a second or three each.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Iterator

from kexecd.config.policy import StateCarrier
from kexecd.errors import Refusal
from kexecd.kernel.files import join_root, open_regular, read_text
from kexecd.liveupdate import luo, steps
from kexecd.liveupdate.carrier import Fate, Forecast, Outlook, carrier
from kexecd.liveupdate.compatible import DEBUGFS, outlook_of, refuse_panic
from kexecd.liveupdate.index import Carrier
from kexecd.model import Act, LoadMethod, OpenFile

IMAGES = ("/boot/vmlinuz-{}", "/boot/kernel-{}", "/usr/lib/modules/{}/vmlinuz", "/lib/modules/{}/vmlinuz")
"""Where the running kernel's own image may be; whether it is its own is seen by its banner."""


_seen: dict[tuple[str, tuple[int, ...], str], Outlook] = {}
"""What was found out already, by path, stamp and command line: whoever is forked from here need not look again."""


def outlook(kernel: str, cmdline: str) -> Outlook:
    """What becomes of handed over memory in the kernel at this path. With Fate.PANIC it would not come up, whether
    anything was handed over or not: see compatible.refuse_panic()."""
    if not luo.available():
        return Outlook(Fate.LOST, "the running kernel has no live update, or it is not switched on")
    try:
        with _opened(kernel) as target:
            return outlook_of_file(target, cmdline)
    except Refusal as refusal:
        return Outlook(Fate.UNKNOWN, f"{refusal.what}: {refusal.why}")


def outlook_of_file(target: OpenFile, cmdline: str, root: str = "/") -> Outlook:
    """The same of a kernel that is open. root: of the machine that runs."""
    key = (target.path, target.stamp, cmdline)
    if key not in _seen:
        release, version = (
            (read_text(f"/proc/sys/kernel/{name}", root=root) or "").strip() for name in ("osrelease", "version")
        )
        with contextlib.ExitStack() as stack:
            images = []
            for path in IMAGES:
                with contextlib.suppress(Refusal):
                    images.append(stack.enter_context(_opened(path.format(release), root)))
            _seen[key] = outlook_of(
                target, cmdline, f"{release} {version}", active=True, images=images, debugfs=join_root(root, DEBUGFS)
            )
    return _seen[key]


def decision(
    act: Act,
    kernel: str,
    cmdline: str,
    method: LoadMethod | None,
    run_dir: str,
    wanted: StateCarrier = StateCarrier.AUTO,
    *,
    rate: Callable[[], float] = lambda: 0.0,
) -> Forecast:
    """What carries what is held now into the kernel at this path, why, and in what time.

    method: how that is or will be loaded, None if somebody else has loaded it. Raises Unsupported where the new kernel
    would not come up, and a Refusal where a holder is there and does not answer. rate: bytes a second to the disk, for
    where the holder has not measured it.
    """
    told = steps.ask(run_dir, {"do": "status"}, seconds=steps.ASKING) or {}
    if not told.get("count"):
        return Forecast(Carrier.FILE, "nothing is held")
    seen = outlook(kernel, cmdline) if act is Act.KEXEC else Outlook(Fate.LOST, "")
    refuse_panic(seen, kernel)
    size, measured = int(told["bytes"]), float(told["rate"])
    found = carrier(act, seen, wanted=wanted, method=method, size=size, rate=measured)
    if found.carrier is Carrier.MEMORY or measured:
        return found  # the disk need not be measured, which takes as long as eight megabytes do
    return carrier(act, seen, wanted=wanted, method=method, size=size, rate=rate())


@contextlib.contextmanager
def _opened(path: str, root: str = "/") -> Iterator[OpenFile]:
    file = open_regular(path, "the kernel", root=root)
    try:
        yield file
    finally:
        os.close(file.fd)
