# SPDX-License-Identifier: MIT
"""logind and polkit as python-dbusmock's templates have them, on the private bus."""

from __future__ import annotations

import contextlib
import subprocess
from collections.abc import Iterator

from jeepney.wrappers import DBusAddress  # type: ignore[import-untyped]

from tests.bus.conftest import DEBIAN, Mock
from tests.bus.private_bus import BUS, PrivateBus, process, until

LOGIND = DBusAddress("/org/freedesktop/login1", "org.freedesktop.login1", "org.freedesktop.login1.Manager")
POLKIT = DBusAddress(
    "/org/freedesktop/PolicyKit1/Authority", "org.freedesktop.PolicyKit1", "org.freedesktop.PolicyKit1.Authority"
)


@contextlib.contextmanager
def mocked(bus: PrivateBus, template: str, address: DBusAddress) -> Iterator[Mock]:
    with (
        process(
            [DEBIAN, "-m", "dbusmock", "--system", "--template", template],
            env=bus.environment,
            stdout=subprocess.DEVNULL,
        ),
        bus.caller() as caller,
    ):
        until(lambda: caller.call("NameHasOwner", "s", (address.bus_name,), to=BUS)[0], 20)
        yield Mock(address, caller)
