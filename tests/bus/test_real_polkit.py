# SPDX-License-Identifier: MIT
"""The real polkitd, with the project's own actions: what an administrator gets without doing anything, what a rule of
theirs changes, and what a prompt on somebody's screen does.

polkitd looks in fixed places, so it runs in a mount namespace where these are the test's. It has no logind here, so
that nobody sits at the machine: what it answers is the default for whoever is anywhere (allow_any).
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from jeepney.low_level import HeaderFields, MessageType  # type: ignore[import-untyped]
from jeepney.wrappers import new_method_return  # type: ignore[import-untyped]

from tests.bus.conftest import Served
from tests.bus.mocks import POLKIT
from tests.bus.private_bus import BUS, DAEMON, NOBODY, TOP, Caller, CallError, process, until

POLKITD = "/usr/lib/polkit-1/polkitd"
INTERACTIVE = 4  # ALLOW_INTERACTIVE_AUTHORIZATION
ADMIN, ADMIN_KEEP = 2, 4  # PolkitImplicitAuthorization

RULES = """
polkit.addRule(function(action, subject) {
    if (action.id == "org.kexecd.inspect" && subject.user == "daemon")
        return polkit.Result.YES;
    if (action.id == "org.kexecd.load" && subject.user == "daemon")
        return polkit.Result.NO;
});
"""


@pytest.fixture
def polkit(face: Served, tmp_path: Path) -> Iterator[Caller]:
    actions, rules = Path("/usr/share/polkit-1/actions"), Path("/etc/polkit-1/rules.d")
    os.chmod(tmp_path, 0o755)
    (tmp_path / "rules").mkdir()
    (tmp_path / "rules/49-test.rules").write_text(RULES)
    script = f"""
        mount -t tmpfs -o mode=755 none {actions} && cp {TOP}/config/polkit/org.kexecd.policy {actions} &&
        mount -t tmpfs -o mode=755 none {rules} && cp {tmp_path}/rules/* {rules} &&
        exec {POLKITD} --no-debug
    """
    with (
        (tmp_path / "polkitd.log").open("w") as log,
        process(["unshare", "--mount", "sh", "-ec", script], env=face.bus.environment, stdout=log, stderr=log),
        face.bus.caller() as caller,
    ):
        until(lambda: caller.call("NameHasOwner", "s", (POLKIT.bus_name,), to=BUS)[0], 20)
        yield caller


def refused(caller: Caller, member: str, signature: str = "", body: tuple[Any, ...] = (), flags: int = 0) -> str:
    with pytest.raises(CallError) as caught:
        caller.call(member, signature, body, flags=flags)
    return caught.value.name


def test_polkit_takes_each_action_and_asks_for_an_administrators_password(face: Served, polkit: Caller) -> None:
    (actions,) = polkit.call("EnumerateActions", "s", ("en",), to=POLKIT)
    defaults = {action[0].removeprefix("org.kexecd."): action[6:9] for action in actions}
    kept = dict.fromkeys(("cancel", "inspect", "load", "reboot", "unload"), (ADMIN_KEEP,) * 3)
    assert defaults == kept | dict.fromkeys(("reboot-fast", "reboot-now"), (ADMIN,) * 3)
    with face.bus.caller(NOBODY) as nobody:
        for member, signature, body in (
            ("Entries", "", ()),
            ("Load", "sa{sv}", ("", {})),
            ("Unload", "", ()),
            ("Cancel", "", ()),
            ("Reboot", "sa{sv}", ("orderly", {})),
            ("Reboot", "sa{sv}", ("fast", {})),
            ("Reboot", "sa{sv}", ("now", {})),
        ):
            asked = "org.freedesktop.DBus.Error.InteractiveAuthorizationRequired"
            assert refused(nobody, member, signature, body) == asked
    assert face.deeds == []


def test_an_administrators_rule_says_who_else_may(face: Served, polkit: Caller) -> None:
    del polkit
    with face.bus.caller(DAEMON) as daemon:
        daemon.call("Entries")
        assert refused(daemon, "Load", "sa{sv}", ("", {})) == "org.freedesktop.DBus.Error.AccessDenied"
        assert refused(daemon, "Unload") == "org.freedesktop.DBus.Error.InteractiveAuthorizationRequired"
    assert face.deeds == [["entries", "--json"]]


def test_a_prompt_is_taken_off_the_screen_when_whoever_wanted_it_leaves(face: Served, polkit: Caller) -> None:
    """An authentication agent of the user's own process, as pkttyagent is one; nobody types anything."""
    address = face.bus.address
    ready, asked, answered = os.pipe(), os.pipe(), os.pipe()
    agent = os.fork()
    if agent == 0:
        try:
            os.setgroups([])
            os.setresgid(NOBODY, NOBODY, NOBODY)
            os.setresuid(NOBODY, NOBODY, NOBODY)
            _be_an_agent(address, ready[1], asked[1], answered[0])
        finally:
            os._exit(1)
    try:
        for fd in (ready[1], asked[1]):
            os.close(fd)
        assert os.read(ready[0], 100) == b"registered"
        assert os.read(asked[0], 100) == b"begin org.kexecd.reboot"
        assert face.sees()["busy"]
        polkit.call("Unload")  # root's deed beside the prompt
        os.write(answered[1], b"leave")
        assert os.read(asked[0], 6) == b"cancel"  # polkitd may say so by itself too
    finally:
        os.kill(agent, 9)
        os.waitpid(agent, 0)
    until(lambda: not face.sees()["busy"])
    assert face.deeds == [["unload", "--json"]]


def _be_an_agent(address: str, ready: int, asked: int, leave: int) -> None:
    """And, on another connection, the caller for whom a person is to be asked."""
    agent, caller = Caller(address), Caller(address)
    start = Path("/proc/self/stat").read_text().rpartition(")")[2].split()[19]  # proc(5), starttime
    subject = ("unix-process", {"pid": ("u", os.getpid()), "start-time": ("t", int(start))})
    agent.call("RegisterAuthenticationAgent", "(sa{sv})ss", (subject, "C", "/agent"), to=POLKIT)
    os.write(ready, b"registered")
    caller.send("Reboot", "sa{sv}", ("orderly", {}), flags=INTERACTIVE)
    while True:
        message = agent.connection.receive(timeout=30)
        if message.header.message_type is not MessageType.method_call:
            continue
        match message.header.fields[HeaderFields.member]:
            case "BeginAuthentication":
                os.write(asked, b"begin " + message.body[0].encode())
                os.read(leave, 100)
                caller.close()
            case "CancelAuthentication":
                os.write(asked, b"cancel")
                agent.connection.send(new_method_return(message))
