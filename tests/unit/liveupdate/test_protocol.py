# SPDX-License-Identifier: MIT
"""Questions from anybody: understood in full, or refused; nothing else can come of one."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kexecd.liveupdate import protocol
from kexecd.liveupdate.index import NAME, Carrier
from kexecd.liveupdate.protocol import Do, Malformed, Question, parse

ANYTHING = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=70),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=4),
    max_leaves=8,
)
KEYS = st.sampled_from(("do", "name", "uid", "after", "carrier", "why"))
LIKELY = st.sampled_from((*Do, "table", 0, 4711, "file", "memory", [0, "table"], "", "a/b", "..", -1, 1 << 40, True))


@given(st.binary(max_size=300), st.integers(0, 2))
def test_any_bytes_are_a_question_or_malformed(message: bytes, fds: int) -> None:
    try:
        question = parse(message, fds)
    except Malformed:
        return
    assert isinstance(question.do, Do)


@given(st.dictionaries(KEYS, ANYTHING | LIKELY, max_size=6), st.integers(0, 2))
def test_whatever_is_understood_is_within_bounds(told: dict[str, object], fds: int) -> None:
    try:
        question = parse(json.dumps(told).encode(), fds)
    except Malformed as wrong:
        assert not str(wrong).endswith(".")
        return
    assert question.do == told["do"]
    assert bool(NAME.fullmatch(question.name)) == question.do.has_name
    assert question.uid is None or 0 <= question.uid < 0xFFFFFFFF
    assert fds == (question.do is Do.PUT)
    says = question.do is Do.PREPARE or (question.do is Do.FREEZE and "carrier" in told)
    assert (question.carrier is not None) == says
    assert len(question.why) <= 400


@given(
    st.sampled_from((Do.GET, Do.DROP)),
    st.from_regex(NAME, fullmatch=True),
    st.none() | st.integers(0, 0xFFFFFFFE),
)
def test_a_question_that_makes_sense_is_understood(do: Do, name: str, uid: int | None) -> None:
    told = {"do": str(do), "name": name} | ({} if uid is None else {"uid": uid})
    assert parse(json.dumps(told).encode(), 0) == Question(do, name=name, uid=uid)


@pytest.mark.parametrize(
    ("message", "fds", "why"),
    [
        ("x", 0, "the question is not JSON"),
        ("[" * 100000, 0, "the question is not JSON"),
        ("3", 0, "the question is not an object"),
        ('{"do": "sing"}', 0, "`do` has to be one of put, get, drop,"),
        ('{"do": ["put"]}', 0, "`do` has to be one of put, get, drop,"),
        ('{"do": "put", "name": "a"}', 0, "put comes with one descriptor"),
        ('{"do": "get", "name": "a"}', 1, "get comes without a descriptor"),
        ('{"do": "get"}', 0, "a name has 1 to 64 letters"),
        ('{"do": "get", "name": "../../etc"}', 0, "a name has 1 to 64 letters"),
        ('{"do": "get", "name": "a", "uid": -1}', 0, "`uid` has to be the number of a user"),
        ('{"do": "get", "name": "a", "uid": true}', 0, "`uid` has to be the number of a user"),
        ('{"do": "list", "after": ["a", 0]}', 0, "`uid` has to be the number of a user"),
        ('{"do": "list", "after": [0]}', 0, "`after` has to be the user and the name"),
        ('{"do": "prepare"}', 0, "`carrier` has to be one of memory, file"),
        ('{"do": "freeze", "carrier": "pigeon"}', 0, "`carrier` has to be one of memory, file"),
        ('{"do": "status", "please": 1}', 0, "status has no 'please'"),
        ('{"do": "status", "name": "a"}', 0, "status has no 'name'"),
    ],
)
def test_what_makes_no_sense_says_what_is_wrong(message: str, fds: int, why: str) -> None:
    with pytest.raises(Malformed, match=why.replace("(", r"\(")):
        parse(message.encode(), fds)


def test_the_longest_answer_fits_into_a_packet() -> None:
    held = {
        "name": "n" * 64,
        "uid": 0xFFFFFFFE,
        "bytes": 1 << 62,
        "seals": 0x3F,
        "sha256": "0" * 64,
        "state": "updated",
        "frozen_at": 1234567890.123456,
    }
    assert len(protocol.done(held=[held] * 64, more=True)) < protocol.LIMIT
    lost = {"uid": 0xFFFFFFFE, "name": "n" * 64, "why": "w" * 400}
    assert len(protocol.done(lost=[lost] * 64)) < protocol.LIMIT
    assert parse(b'{"do": "freeze", "carrier": "memory"}', 0).carrier is Carrier.MEMORY
