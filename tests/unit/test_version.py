# SPDX-License-Identifier: MIT
import subprocess
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kexecd.discover.version import compare, kernel_key

# The examples of the specification: https://uapi-group.org/specifications/specs/version_format_specification/
EXAMPLES = """
11 == 11
systemd-123 == systemd-123
bar-123 < foo-123
123a > 123
123.a > 123
123.a < 123.b
123a > 123.a
11α == 11β
B < a
'' < 0
0. > 0
0.0 > 0
0 > ~
'' > ~
1_ == 1
_1 == 1
1_ < 1.2
1_2_3 > 1.3.3
1+ == 1
+1 == 1
1+ < 1.2
1+2+3 > 1.3.3
"""
ORDER = "122.1 123~rc1-1 123 123-a 123-a.1 123-1 123-1.1 123^post1 123.a-1 123.1-1 123a-1 124-1".split()

VERSIONS = st.text(alphabet="019aZ.-~^_ ", max_size=12)


def sign(number: int) -> int:
    return (number > 0) - (number < 0)


@pytest.mark.parametrize("example", EXAMPLES.strip().splitlines())
def test_the_examples_of_the_specification_hold(example: str) -> None:
    a, operator, b = example.replace("''", "").split(" ")
    assert sign(compare(a, b)) == {"<": -1, "==": 0, ">": 1}[operator]
    assert sign(compare(b, a)) == -sign(compare(a, b))


def test_the_chain_of_the_specification_ascends() -> None:
    for older, newer in pairwise(ORDER):
        assert compare(older, newer) < 0, f"{older} should be older than {newer}"


@pytest.mark.parametrize(
    ("older", "newer"),
    [
        ("6.12.9", "6.12.100"),
        ("6.1.0-9-amd64", "6.1.0-56-amd64"),
        ("6.12~rc1-amd64", "6.12-amd64"),
        ("6.12.0-rc7", "6.12.0"),
        ("6.12.0-rc7", "6.12.0-rc10"),
        ("6.11.99", "6.12.0-rc1"),
        ("6.6.9-gentoo", "6.6.30-gentoo-r1"),
        ("6.12.0-0.rc7.59.fc42", "6.12.0-63.fc42"),
        ("", "6.1"),
    ],
)
def test_a_kernel_release_is_newer_than(older: str, newer: str) -> None:
    assert kernel_key(older) < kernel_key(newer)


def test_a_number_of_any_length_is_compared_by_its_value() -> None:
    assert compare("1" * 5000, "2" * 4999) > 0
    assert compare("0" * 5000 + "1", "1") == 0


@given(VERSIONS, VERSIONS, VERSIONS)
def test_the_order_is_total(a: str, b: str, c: str) -> None:
    assert sign(compare(a, b)) == -sign(compare(b, a))
    if compare(a, b) <= 0 and compare(b, c) <= 0:
        assert compare(a, c) <= 0


@pytest.mark.parametrize(
    ("a", "b"), [("6.12.0", "6.12.0-1"), ("1^a", "1.a"), ("1-a", "1.a"), ("a1", "a01b"), ("1~~", "1~"), ("1-_2", "1-2")]
)
def test_systemd_agrees(a: str, b: str) -> None:
    run = subprocess.run(["systemd-analyze", "compare-versions", a, b], capture_output=True, check=False)
    assert sign(compare(a, b)) == {0: 0, 11: 1, 12: -1}[run.returncode]
