# SPDX-License-Identifier: MIT
"""What a plan has for the memory that applications have handed over: two phases, on a machine where somebody holds any.

On others this costs a look for a socket.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from functools import cache

from kexecd.cli.afterword import writable
from kexecd.cli.choosing import Look, boot_partitions, look
from kexecd.cli.steps import bounded
from kexecd.config.policy import Policy, read_policy
from kexecd.errors import Refusal
from kexecd.kernel import sysfs
from kexecd.liveupdate import place
from kexecd.model import Act, ImageRecord, LoadMethod, Phase
from kexecd.record import RUN_DIR, loaded_record

TYPE_CHECKING = False  # what the type checker takes for true; it is imported late
if TYPE_CHECKING:
    from kexecd.liveupdate.carrier import Forecast

DECIDING = 20.0
"""Seconds to look into two kernels; on a slow machine one takes three."""

AFTER_ALL = 60.0
"""Seconds to write down what was to stay in memory."""


def phases(act: Act, policy: Policy, loaded: ImageRecord | None, seen: Look | None) -> tuple[Phase, ...]:
    """One that asks whether everything can be carried, and one that has it carried; none where nobody holds anything.

    loaded: the image that is in memory already and is to be used; seen: else, what it will be made from.
    """
    if not place.exists(RUN_DIR):
        return ()
    from kexecd.liveupdate import steps  # late: most machines have nobody who hands anything over

    decide = _decision(act, policy, loaded, seen)
    return steps.prepare_phase(RUN_DIR, decide, policy.state_if_lost), steps.freeze_phase(RUN_DIR)


def forecast() -> Forecast:
    """What would carry it into the image in memory, or else into what would be chosen now. Raises a Refusal."""
    image = loaded_record()
    with boot_partitions():
        seen = None if image else look("/")
    return _decision(Act.KEXEC, read_policy(), image, seen, measure=True)()


def give_back() -> None:
    """The restart is cancelled: everybody has his memory as it was. Raises a Refusal."""
    if place.exists(RUN_DIR):
        from kexecd.liveupdate import steps  # late: see above

        steps.cancel(RUN_DIR)


def written_after_all() -> str:
    """There is no jump after all, and what memory carries would be gone with it: open the disk once more, and have it
    written down. What came of that, in a sentence without a full stop; empty where nothing was at stake.
    """
    told = place.summary(RUN_DIR)
    if (told.state, told.carrier) != ("frozen", "memory"):
        return ""
    try:
        return bounded(_write_after_all, AFTER_ALL)[0]
    except (TimeoutError, Refusal) as error:
        return f"what applications have handed over is lost with the memory: {error}"


def _write_after_all() -> list[str]:
    """In a child: a disk may not answer."""
    from kexecd.liveupdate import steps  # late: see above
    from kexecd.liveupdate.filestore import LIVE

    what = "cannot write down what applications have handed over"
    if not os.path.isdir(LIVE):  # memory's list of it lies there too
        raise Refusal(what, f"the filesystem of {LIVE} is not mounted any more")
    with writable(LIVE):
        steps.cancel(RUN_DIR)
        told = steps.freeze_and_keep(RUN_DIR, file="there is no jump after all", stay=False, seconds=AFTER_ALL / 2)
    return [told]


def arrived() -> None:
    """The restart that led to this boot is over. Raises a Refusal."""
    if place.exists(RUN_DIR):
        from kexecd.liveupdate import steps  # late: see above

        steps.finish(RUN_DIR)


def _decision(
    act: Act, policy: Policy, loaded: ImageRecord | None, seen: Look | None, *, measure: bool = False
) -> Callable[[], Forecast]:
    """measure: the disk, if the holder has not: who prepares does that himself."""

    @cache
    def decide() -> Forecast:
        from kexecd.liveupdate import luo, outlook  # late: see above
        from kexecd.liveupdate.carrier import Forecast
        from kexecd.liveupdate.filestore import FileStore
        from kexecd.liveupdate.index import Carrier

        image = loaded or (loaded_record() if act is Act.KEXEC else None)  # the load comes before this is asked
        entry = seen.choice.entry if seen else None
        kernel = image.kernel.path if image else entry.kernel if entry else ""
        line = image.cmdline if image else (entry.cmdline if entry else None) or sysfs.running_cmdline()
        method = image.method if image else LoadMethod.KEXEC_FILE_LOAD if seen else None

        def rate() -> float:
            return FileStore().rate() if measure and os.geteuid() == 0 else 0.0

        def work() -> list[str]:
            with boot_partitions():
                forecast = outlook.decision(act, kernel, line, method, RUN_DIR, policy.state_carrier, rate=rate)
            return [forecast.carrier, forecast.why, str(forecast.seconds)]

        if not luo.available():  # no kernel has to be looked into
            return outlook.decision(act, kernel, line, method, RUN_DIR, policy.state_carrier, rate=rate)
        try:
            carrier, why, seconds = bounded(work, DECIDING)
        except TimeoutError:
            return Forecast(Carrier.FILE, f"looking into {kernel} did not end within {DECIDING:g} s")
        return Forecast(Carrier(carrier), why, float(seconds))

    return decide
