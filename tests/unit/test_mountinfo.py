# SPDX-License-Identifier: MIT
from __future__ import annotations

from pathlib import Path

import pytest

from kexecd.kernel import mountinfo
from kexecd.kernel.mountinfo import Kind
from kexecd.model import Mount
from kexecd.teardown.graph import going

# What a Debian 12 guest shows, and some lines of other machines.
TEXT = r"""
22 1 254:0 / / rw,relatime shared:1 - ext4 /dev/vda rw
23 22 0:21 / /proc rw,nosuid - proc proc rw
24 22 0:22 / /sys rw,nosuid shared:7 - sysfs sysfs rw
25 22 0:5 / /dev rw,nosuid - devtmpfs udev rw,size=367k
26 25 0:23 / /dev/pts rw - devpts devpts rw,gid=5
27 22 0:24 / /run rw,nosuid - tmpfs tmpfs rw,size=76k
40 22 254:16 / /data rw,relatime shared:30 - ext4 /dev/vdb rw
41 40 0:40 / /data/scratch rw - tmpfs scratch rw
42 40 254:16 /sub /data/a\040b\134c rw - ext4 /dev/vdb rw
43 22 0:45 / /net rw - nfs4 server:/export rw,vers=4.2
44 22 0:46 / /pool ro - btrfs /dev/vdc rw,space_cache
45 22 0:47 / /merged rw - overlay overlay rw,lowerdir=/usr,upperdir=/data/u,workdir=/data/w
46 27 0:48 / /run/user/1000/doc rw - fuse.portal portal rw
47 22 7:0 / /mnt ro - squashfs /dev/loop0 ro
48 22 254:2 / /usr rw - ext4 /dev/vda2 rw
"""


def by_point() -> dict[str, Mount]:
    return {mount.point: mount for mount in mountinfo.parse(TEXT)}


def test_escaped_names_are_read_as_they_are() -> None:
    assert r"/data/a b\c" in by_point()


def test_lines_that_are_no_mounts_are_passed_over() -> None:
    assert mountinfo.parse("\nnonsense\n1 2 3\n - - -\nx y 0:1 / / rw - a b c\n") == ()


def test_the_real_file_of_this_machine_is_read_whole() -> None:
    with open("/proc/self/mountinfo", encoding="utf-8") as file:
        lines = sum(1 for _ in file)
    assert len(mountinfo.read()) == lines


@pytest.mark.parametrize(
    ("point", "kind"),
    [
        ("/", Kind.DISK),
        ("/proc", Kind.KERNEL),
        ("/run", Kind.VOLATILE),
        ("/net", Kind.NETWORK),
        ("/pool", Kind.DISK),
        ("/merged", Kind.STACKED),
        ("/run/user/1000/doc", Kind.FUSE),
        ("/mnt", Kind.DISK),
    ],
)
def test_the_kind_of_a_mount_is_what_would_be_lost_with_it(point: str, kind: Kind) -> None:
    assert mountinfo.kind(by_point()[point]) is kind


def test_a_disk_is_writable_when_its_filesystem_is_whatever_the_mount_says() -> None:
    points = {mount.point for mount in mountinfo.writable_disks(mountinfo.parse(TEXT))}
    assert points == {"/", "/data", "/pool", "/usr"}  # the bind of /data is the same filesystem, squashfs is read-only


def test_what_runs_from_nothing_is_unmounted_with_all_that_is_mounted_on_it() -> None:
    points = {mount.point for mount in going(mountinfo.parse(TEXT))}
    assert points == {
        "/data", "/data/scratch", r"/data/a b\c", "/net", "/pool", "/merged", "/run/user/1000/doc", "/mnt",
    }


def test_a_fuse_connection_is_named_by_the_device_number() -> None:
    assert mountinfo.fuse_connection(by_point()["/run/user/1000/doc"]) == "48"
    (block,) = mountinfo.parse("43 22 8:17 / /mnt rw - fuseblk /dev/sdb1 rw")
    assert mountinfo.fuse_connection(block) == str(8 << 20 | 17)


def test_a_line_ends_in_a_newline_and_in_nothing_else() -> None:
    (mount,) = mountinfo.parse("43 22 8:17 / /a\rb\x0cc\x85d\u2028e rw - ext4 /dev/sdb1 rw\n")
    assert mount.point == "/a\rb\x0cc\x85d\u2028e"


def test_the_module_never_asks_a_filesystem_about_itself() -> None:
    source = Path(mountinfo.__file__).read_text(encoding="utf-8")
    assert "os.stat" not in source and "statvfs" not in source and "import os" not in source
