# SPDX-License-Identifier: MIT
"""A message bus of the test's own, closed as the system bus is, and callers on it who may be somebody else.

The bus is the real dbus-daemon, with the rules of /usr/share/dbus-1/system.conf and the project's own on top: so a test
that reaches the daemon shows that org.kexecd.conf opens the way, and one that does not, that nothing else does.
"""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import TracebackType
from typing import Any, TypeVar

from jeepney.bus_messages import MatchRule  # type: ignore[import-untyped]
from jeepney.io.blocking import DBusConnection, open_dbus_connection  # type: ignore[import-untyped]
from jeepney.low_level import HeaderFields, Message, MessageType  # type: ignore[import-untyped]
from jeepney.wrappers import DBusAddress, new_method_call  # type: ignore[import-untyped]

TOP = Path(__file__).parents[2]
NOBODY, DAEMON = 65534, 1  # users that each system has; the bus does not let in others

BUS = DBusAddress("/org/freedesktop/DBus", "org.freedesktop.DBus", "org.freedesktop.DBus")
MANAGER = DBusAddress("/org/kexecd", "org.kexecd", "org.kexecd.Manager1")
PEER = DBusAddress("/org/kexecd", "org.kexecd", "org.freedesktop.DBus.Peer")
PROPERTIES = DBusAddress("/org/kexecd", "org.kexecd", "org.freedesktop.DBus.Properties")

CONFIG = """<!DOCTYPE busconfig PUBLIC "-//freedesktop//DTD D-Bus Bus Configuration 1.0//EN"
 "http://www.freedesktop.org/standards/dbus/1.0/busconfig.dtd">
<busconfig>
  <type>{kind}</type>
  <listen>{address}</listen>
  <servicedir>{services}</servicedir>
  <auth>EXTERNAL</auth>
  <policy context="default">
    <allow user="*"/>
    <deny own="*"/>
    <deny send_type="method_call"/>
    <allow send_type="signal"/>
    <allow send_requested_reply="true" send_type="method_return"/>
    <allow send_requested_reply="true" send_type="error"/>
    <allow receive_type="method_call"/>
    <allow receive_type="method_return"/>
    <allow receive_type="error"/>
    <allow receive_type="signal"/>
    <allow send_destination="org.freedesktop.DBus" send_interface="org.freedesktop.DBus"/>
  </policy>
  <policy user="root">
    <allow own="org.freedesktop.login1"/>
    <allow own="org.freedesktop.PolicyKit1"/>
    <allow send_destination="org.freedesktop.login1"/>
    <allow send_destination="org.freedesktop.PolicyKit1"/>
  </policy>
  <include ignore_missing="yes">/usr/share/dbus-1/system.d/org.freedesktop.PolicyKit1.conf</include>
  <include>{top}/config/dbus/org.kexecd.conf</include>
</busconfig>
"""

T = TypeVar("T")


class CallError(Exception):
    """An error that came as an answer."""

    def __init__(self, name: str, text: str) -> None:
        super().__init__(f"{name}: {text}")
        self.name, self.text = name, text


class Caller:
    """Somebody on the bus, who waits for answers."""

    def __init__(self, address: str) -> None:
        self.connection: DBusConnection = open_dbus_connection(bus=address)

    @property
    def name(self) -> str:
        return str(self.connection.unique_name)

    def call(
        self, member: str, signature: str = "", body: tuple[Any, ...] = (), *, to: Any = MANAGER, flags: int = 0
    ) -> tuple[Any, ...]:
        message = new_method_call(to, member, signature or None, body)
        message.header.flags = flags
        return self.answer(self.connection.send_and_get_reply(message, timeout=20))

    def answer(self, reply: Message) -> tuple[Any, ...]:
        if reply.header.message_type is MessageType.error:
            raise CallError(reply.header.fields[HeaderFields.error_name], reply.body[0] if reply.body else "")
        return tuple(reply.body)

    def send(self, member: str, signature: str = "", body: tuple[Any, ...] = (), *, flags: int = 0) -> None:
        """Without waiting for what comes of it."""
        message = new_method_call(MANAGER, member, signature or None, body)
        message.header.flags = flags
        self.connection.send(message)

    def next_answer(self) -> tuple[Any, ...]:
        """To whatever was sent first and has not been answered yet."""
        while True:
            message = self.connection.receive(timeout=20)
            if message.header.message_type is not MessageType.signal:
                return self.answer(message)

    def property(self, name: str) -> Any:
        ((_, value),) = self.call("Get", "ss", ("org.kexecd.Manager1", name), to=PROPERTIES)
        return value

    def listen(self, **rule: str) -> None:
        self.call("AddMatch", "s", (MatchRule(**rule).serialise(),), to=BUS)

    def next_signal(self, member: str, seconds: float = 10.0) -> tuple[Any, ...]:
        end = time.monotonic() + seconds
        while True:
            message = self.connection.receive(timeout=max(0.0, end - time.monotonic()))
            named = message.header.fields.get(HeaderFields.member)
            if message.header.message_type is MessageType.signal and named == member:
                return tuple(message.body)

    def close(self) -> None:
        self.connection.close()

    def __enter__(self) -> Caller:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.close()


class PrivateBus:
    """kind: "system", or "session": that one starts programs by itself, which the system's does by a helper that has to
    be installed. services: where it finds what it could start."""

    def __init__(self, directory: Path, kind: str = "system", services: Path | None = None) -> None:
        # Abstract: whoever is not root can reach it, wherever the directory is.
        self.address = f"unix:abstract=kexecd-test-{os.getpid()}-{directory.name}"
        self._config = directory / "bus.conf"
        services = services or directory / "no services"
        self._config.write_text(CONFIG.format(address=self.address, top=TOP, kind=kind, services=services))
        self._log = directory / "bus.log"
        self._daemon: subprocess.Popen[str] | None = None

    def start(self) -> None:
        with self._log.open("a") as log:
            self._daemon = subprocess.Popen(
                ["dbus-daemon", f"--config-file={self._config}", "--nofork", "--print-address=1"],
                stdout=subprocess.PIPE,
                stderr=log,
                text=True,
            )
        assert self._daemon.stdout
        assert self._daemon.stdout.readline(), self._log.read_text()

    def stop(self) -> None:
        if self._daemon:
            self._daemon.terminate()
            self._daemon.communicate(timeout=10)
            self._daemon = None

    @contextlib.contextmanager
    def stuck(self) -> Iterator[None]:
        """It neither reads nor answers meanwhile."""
        assert self._daemon
        self._daemon.send_signal(signal.SIGSTOP)
        try:
            yield
        finally:
            self._daemon.send_signal(signal.SIGCONT)

    def caller(self, uid: int = 0) -> Caller:
        """The bus takes whoever connects for who they are at that moment (SO_PEERCRED, unix(7))."""
        os.seteuid(uid)
        try:
            return Caller(self.address)
        finally:
            os.seteuid(0)

    @property
    def environment(self) -> dict[str, str]:
        return {**os.environ, "DBUS_SYSTEM_BUS_ADDRESS": self.address}


@contextlib.contextmanager
def process(command: list[str], **options: Any) -> Iterator[subprocess.Popen[bytes]]:
    """A program that runs meanwhile, and no longer."""
    with subprocess.Popen(command, **options) as started:
        try:
            yield started
        finally:
            with contextlib.suppress(ProcessLookupError):
                started.send_signal(signal.SIGTERM)
            try:
                started.wait(5)
            except subprocess.TimeoutExpired:
                started.kill()


def until(condition: Callable[[], T], seconds: float = 10.0) -> T:
    """What `condition` gives as soon as it is true; of others' doings only they themselves could tell."""
    end = time.monotonic() + seconds
    while not (found := condition()):
        assert time.monotonic() < end, "it has not come to that"
        time.sleep(0.01)
    return found
