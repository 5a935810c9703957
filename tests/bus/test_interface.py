# SPDX-License-Identifier: MIT
"""What a call comes to: the command line that is run, and what its caller is told."""

from __future__ import annotations

import json
import xml.etree.ElementTree as ET
from typing import Any

import pytest
from jeepney.wrappers import DBusAddress  # type: ignore[import-untyped]

from kexecd.liveupdate import place
from tests.bus.conftest import Served
from tests.bus.private_bus import MANAGER, PROPERTIES, Caller, CallError

ENTRIES = {
    "schema": 1,
    "entries": [{"id": "versioned:6.1.0-9"}, {"id": "-x"}],
    "chosen": {"id": None, "reason": "none"},
}

REFUSED = {
    "schema": 1,
    "refused": {
        "what": "cannot load /boot/vmlinuz",
        "why": "its signature was refused",
        "instead": "nothing was changed",
        "hint": "sign it",
        "errno": "EKEYREJECTED",
        "exit": "bad-signature",
    },
}


def refused(caller: Caller, member: str, signature: str = "", body: tuple[Any, ...] = (), **to: Any) -> CallError:
    with pytest.raises(CallError) as caught:
        caller.call(member, signature, body, **to)
    return caught.value


@pytest.mark.parametrize(
    ("member", "signature", "body", "argv"),
    [
        ("Entries", "", (), ["entries", "--json"]),
        ("Plan", "sa{sv}", ("orderly", {}), ["plan", "--json"]),
        ("Plan", "sa{sv}", ("fast", {"within": ("d", 7.5)}), ["plan", "--json", "--fast", "--within=7.5"]),
        ("Check", "sa{sv}", ("now", {"firmware": ("b", True)}), ["check", "--json", "--now", "--firmware"]),
        ("Check", "sa{sv}", ("orderly", {"firmware": ("b", False)}), ["check", "--json"]),
        ("Load", "sa{sv}", ("", {"interactive": ("b", True)}), ["load", "--json"]),
    ],
)
def test_a_call_is_one_command_line_and_its_document_is_the_answer(
    face: Served, root: Caller, member: str, signature: str, body: tuple[Any, ...], argv: list[str]
) -> None:
    face.answers(argv[0], out=ENTRIES)
    (told,) = root.call(member, signature, body)
    assert json.loads(told) == ENTRIES
    assert face.deeds == [argv]


def test_the_mode_and_the_options_of_a_restart_become_words(face: Served, root: Caller) -> None:
    face.answers("reboot", out='{"kind": "plan"}\n{"kind": "act"}\n')
    for mode, options in (
        ("orderly", {}),
        ("fast", {"within": ("d", 30.0), "firmware": ("b", True)}),
        ("now", {"interactive": ("b", True)}),
    ):
        assert root.call("Reboot", "sa{sv}", (mode, options)) == ()
    assert face.deeds == [
        ["reboot", "--json"],
        ["reboot", "--json", "--fast", "--firmware", "--within=30.0"],
        ["reboot", "--json", "--now"],
    ]


def test_unload_tells_whether_there_was_an_image_and_cancel_what_came_of_it(face: Served, root: Caller) -> None:
    face.answers("unload", out='{\n  "schema": 1,\n  "unloaded": true\n}\n')
    face.answers("cancel", out={"schema": 1, "cancelled": True, "answer": "no restart is under way"})
    assert root.call("Unload") == (True,)
    assert root.call("Cancel") == ("no restart is under way",)


def test_only_an_entry_that_this_machine_has_can_be_loaded(face: Served, root: Caller) -> None:
    face.answers("entries", out=ENTRIES, code=3)  # nothing is chosen, and yet it can be named
    for entry in ("/boot/vmlinuz", "versioned:6.1.0-8", "--kernel=/tmp/mine", "versioned:6.1.0-9 "):
        error = refused(root, "Load", "sa{sv}", (entry, {}))
        assert error.name == "org.kexecd.Error.NoEntry"
        assert repr(entry) in error.text
    assert face.deeds == [["entries", "--json"]] * 4

    root.call("Load", "sa{sv}", ("versioned:6.1.0-9", {}))
    root.call("Load", "sa{sv}", ("-x", {}))
    assert [deed for deed in face.deeds if deed[0] == "load"] == [
        ["load", "--json", "--", "versioned:6.1.0-9"],
        ["load", "--json", "--", "-x"],
    ]


def test_a_refusal_is_the_error_of_its_exit_code_with_its_sentence(face: Served, root: Caller) -> None:
    face.answers("load", out=REFUSED, code=8, err="note: something else\nkexecctl: cannot load\n  hint: sign it\n")
    error = refused(root, "Load", "sa{sv}", ("", {}))
    assert error.name == "org.kexecd.Error.BadSignature"
    assert error.text == (
        "cannot load /boot/vmlinuz: its signature was refused (EKEYREJECTED); nothing was changed; hint: sign it"
    )


def test_a_restart_that_is_given_up_says_so_in_its_last_line(face: Served, root: Caller) -> None:
    events = '{"kind": "plan", "text": "fast, 10 s"}\n{"kind": "failed"}\n'
    face.answers("reboot", out=events + json.dumps(REFUSED) + "\n", code=14)
    assert refused(root, "Reboot", "sa{sv}", ("fast", {})).name == "org.kexecd.Error.NotRestarted"


def test_a_restart_that_could_not_be_made_to_hurry_is_no_success(face: Served, root: Caller) -> None:
    face.answers("reboot", out='{\n "schema": 1,\n "raised": false,\n "answer": "it is too late"\n}\n', code=10)
    error = refused(root, "Reboot", "sa{sv}", ("now", {}))
    assert (error.name, error.text) == ("org.kexecd.Error.Busy", "it is too late")


def test_a_cancel_that_came_too_late_is_an_error(face: Served, root: Caller) -> None:
    out = '{\n "schema": 1,\n "cancelled": false,\n "answer": "too late"\n}\n' + json.dumps(REFUSED) + "\n"
    face.answers("cancel", out=out, code=10)
    assert refused(root, "Cancel").name == "org.kexecd.Error.Busy"


@pytest.mark.parametrize("out", ["", "Traceback", "[]", '{"schema": 1, "refused": 7}', "{" * 5000, "\0\ud7ff"])
def test_a_deed_that_breaks_is_a_failure_with_the_last_thing_that_it_said(face: Served, root: Caller, out: str) -> None:
    face.answers("entries", out=out, code=1, err="Traceback\nValueError: a bug of \0ours\n")
    error = refused(root, "Entries")
    assert error.name == "org.kexecd.Error.Failure"
    assert error.text in ("ValueError: a bug of ours", "kexecctl has refused")


@pytest.mark.parametrize(
    ("member", "signature", "body", "says"),
    [
        ("Reboot", "sa{sv}", ("quickly", {}), "orderly, fast, now"),
        ("Reboot", "sa{sv}", ("", {}), "orderly, fast, now"),
        ("Reboot", "sa{sv}", ("fast", {"force": ("b", True)}), "there is no option 'force'"),
        ("Reboot", "sa{sv}", ("fast", {"within": ("s", "9")}), "has the type d"),
        ("Reboot", "sa{sv}", ("fast", {"within": ("d", float("nan"))}), "1 to 3600 seconds"),
        ("Reboot", "sa{sv}", ("fast", {"within": ("d", 1e300)}), "1 to 3600 seconds"),
        ("Reboot", "sa{sv}", ("fast", {"firmware": ("i", 1)}), "has the type b"),
        ("Reboot", "s", ("fast",), "Reboot takes mode (s), options (a{sv})"),
        ("Reboot", "sa{ss}", ("fast", {}), "Reboot takes mode (s), options (a{sv})"),
        ("Load", "sa{sv}", ("", {"kernel": ("s", "/tmp/mine")}), "there is no option 'kernel'"),
        ("Load", "sa{sv}", ("x" * 5000, {}), "at most 4096 characters"),
        ("Entries", "s", ("/",), "Entries takes nothing"),
    ],
)
def test_arguments_that_make_no_sense_do_nothing_and_the_error_says_what_would(
    face: Served, root: Caller, member: str, signature: str, body: tuple[Any, ...], says: str
) -> None:
    error = refused(root, member, signature, body)
    assert error.name == "org.freedesktop.DBus.Error.InvalidArgs"
    assert says in error.text
    assert face.deeds == []


def test_what_is_not_there_is_named_by_the_error(face: Served, root: Caller) -> None:
    elsewhere = DBusAddress("/org/else", "org.kexecd", "org.kexecd.Manager1")
    other = DBusAddress("/org/kexecd", "org.kexecd", "org.kexecd.Manager2")
    error = "org.freedesktop.DBus.Error."
    assert refused(root, "Entries", to=elsewhere).name == f"{error}UnknownObject"
    assert refused(root, "Entries", to=other).name == f"{error}UnknownInterface"
    assert refused(root, "Explode").name == f"{error}UnknownMethod"
    secret = ("org.kexecd.Manager1", "Secret")
    assert refused(root, "Get", "ss", secret, to=PROPERTIES).name == f"{error}UnknownProperty"
    assert refused(root, "GetAll", "s", ("org.else",), to=PROPERTIES).name == f"{error}UnknownInterface"
    named = ("org.kexecd.Manager1", "State", ("s", "frozen"))
    assert refused(root, "Set", "ssv", named, to=PROPERTIES).name == f"{error}PropertyReadOnly"
    assert face.deeds == []


def test_the_interface_describes_itself_as_it_is(root: Caller) -> None:
    introspect = MANAGER.with_interface("org.freedesktop.DBus.Introspectable")
    (told,) = root.call("Introspect", to=introspect)
    found = {each.attrib["name"]: each for each in ET.fromstring(told)}
    manager = found["org.kexecd.Manager1"]
    assert [method.attrib["name"] for method in manager.iter("method")] == [
        "Load", "Unload", "Reboot", "Cancel", "Plan", "Check", "Entries",
    ]  # fmt: skip
    assert [signal.attrib["name"] for signal in manager.iter("signal")] == ["StateChanged", "Progress"]
    assert [each.attrib["name"] for each in manager.iter("property")] == [
        "State", "Image", "Target", "Deadline", "Held",
    ]  # fmt: skip
    assert not [each for each in ET.fromstring(told).iter("arg") if "h" in each.attrib["type"]]  # pydbus would break it
    (told,) = root.call("Introspect", to=DBusAddress("/", "org.kexecd", introspect.interface))
    assert [node.attrib["name"] for node in ET.fromstring(told).findall("node")] == ["org"]


def test_anybody_can_ask_whether_it_is_there(root: Caller) -> None:
    peer = DBusAddress("/anywhere", "org.kexecd", "org.freedesktop.DBus.Peer")
    assert root.call("Ping", to=peer) == ()


# Properties and signals


def test_the_properties_are_what_lies_in_run_kexecd(face: Served, root: Caller) -> None:
    (nothing,) = root.call("GetAll", "s", ("org.kexecd.Manager1",), to=PROPERTIES)
    assert nothing == {
        "State": ("s", "normal"),
        "Image": ("a{sv}", {}),
        "Target": ("s", ""),
        "Deadline": ("d", 0.0),
        "Held": ("a{sv}", {}),
    }
    face.load()
    face.restart("prepared")
    assert root.property("State") == "prepared"
    assert root.property("Target") == "versioned:6.1.0-9"
    face.restart("prepared", act="firmware")
    assert root.property("Target") == "firmware"


def test_of_the_image_everybody_sees_what_it_is_and_not_its_command_line(face: Served, root: Caller) -> None:
    face.load()
    assert root.property("Image") == {
        "ours": ("b", True),
        "entry_id": ("s", "versioned:6.1.0-9"),
        "version": ("s", "6.1.0-9"),
        "kernel": ("s", "/boot/vmlinuz-6.1.0-9"),
        "method": ("s", "kexec_file_load"),
        "loaded_at": ("d", 1.5),
    }


def test_what_applications_have_handed_over_is_told_but_not_whose_it_is(face: Served, root: Caller) -> None:
    root.listen(type="signal", interface="org.freedesktop.DBus.Properties", path="/org/kexecd")
    told = {"state": "prepared", "carrier": "file", "why": "a test", "count": 1, "lost": 0, "held": [[7, "table"]]}
    place.write_record(str(face.directory / "run"), told)
    seen = {
        "state": ("s", "prepared"),
        "count": ("u", 1),
        "lost": ("u", 0),
        "carrier": ("s", "file"),
        "why": ("s", "a test"),
    }
    assert root.next_signal("PropertiesChanged") == ("org.kexecd.Manager1", {"Held": ("a{sv}", seen)}, [])
    assert root.property("Held") == seen
    face.remove("held.json")
    assert root.next_signal("PropertiesChanged") == ("org.kexecd.Manager1", {"Held": ("a{sv}", {})}, [])


def test_an_image_of_somebody_else_is_seen_as_such(face: Served, root: Caller) -> None:
    face.load(ours=False)
    assert root.property("Image") == {"ours": ("b", False)}
    assert root.property("Target") == "an image that kexecd did not load"


def test_a_change_of_state_is_told_to_everybody_who_listens(face: Served, root: Caller) -> None:
    root.listen(type="signal", interface="org.kexecd.Manager1", path="/org/kexecd")
    root.listen(type="signal", interface="org.freedesktop.DBus.Properties", path="/org/kexecd")
    face.restart("prepared")
    assert root.next_signal("PropertiesChanged") == ("org.kexecd.Manager1", {"State": ("s", "prepared")}, [])
    assert root.next_signal("StateChanged") == ("prepared",)
    face.remove("state.json")
    assert root.next_signal("StateChanged") == ("normal",)


def test_progress_is_told_and_the_deadline_counts_from_the_commit_point(face: Served, root: Caller) -> None:
    root.listen(type="signal", interface="org.kexecd.Manager1")
    root.listen(type="signal", interface="org.freedesktop.DBus.Properties")
    face.say("progress plan fast, 10 s")
    assert root.next_signal("Progress") == ("plan", 12.5, "services", "stop", "fast, 10 s", 0.25)
    face.say("progress commit from here on")
    assert root.next_signal("PropertiesChanged") == ("org.kexecd.Manager1", {"Deadline": ("d", 22.5)}, [])
    assert root.property("Deadline") == 22.5
