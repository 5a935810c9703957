# SPDX-License-Identifier: MIT
"""Whether what is chosen can be loaded, and will find what it needs when it runs; whether what is loaded still fits.

Opening the files (kexecd.target) refuses what is damaged or mismatched; its refusal is told here under a check's name.
"""

from __future__ import annotations

import os
from collections.abc import Iterator

from kexecd.errors import BadConfig, NoEntry, Refusal
from kexecd.kernel import sysfs
from kexecd.kernel.files import join_root
from kexecd.model import BootEntry, FileRecord, Source
from kexecd.preflight.facts import Facts
from kexecd.preflight.finding import Flaw, Severity


def boot_entry(facts: Facts) -> Iterator[Flaw]:
    if isinstance(facts.subject.refusal, NoEntry):
        yield _of(facts.subject.refusal)


def image_files(facts: Facts) -> Iterator[Flaw]:
    refusal = facts.subject.refusal
    if refusal and not isinstance(refusal, NoEntry | BadConfig):
        yield _of(refusal)


def command_line(facts: Facts) -> Iterator[Flaw]:
    if isinstance(facts.subject.refusal, BadConfig):
        yield _of(facts.subject.refusal)


def memory(facts: Facts) -> Iterator[Flaw]:
    """kernel/kexec_file.c reads kernel and initrd into memory, and copies them to where they are kept, before it frees
    what it has read."""
    target, free = facts.subject.target, sysfs.mem_available(facts.root)
    if target is None or not free:
        return
    initrds = sum(file.size for file in target.initrds)
    joined = initrds if len(target.initrds) > 1 else 0
    needed = 2 * (target.kernel.size + initrds) + joined
    if needed > free:
        why = f"loading takes {_mib(needed)} of memory for a while, and {_mib(free)} are available"
        yield Flaw(why, "stop something large first, or make the initrd smaller")


def modules(facts: Facts) -> Iterator[Flaw]:
    from kexecd.discover.pairs import MODULES, has_modules  # late, as all that is imported so here: see the table

    version = facts.subject.version
    if version and not has_modules(version, facts.system) and any(map(facts.has_entries, MODULES)):
        why = f"there are no modules for {version} in /lib/modules: what is not built in or in the initrd stays dead"
        yield Flaw(why, f"install the modules of {version}, or load another kernel")


def stale_image(facts: Facts) -> Iterator[Flaw]:
    image = facts.subject.image
    for file in (image.kernel, *image.initrds) if image else ():
        if change := _change(facts, file, image.loaded_at if image else 0.0):
            yield Flaw(f"the image in memory was made of {file.path}, which {change}", "`kexecctl load` loads it anew")


def foreign_image(facts: Facts) -> Iterator[Flaw]:
    if sysfs.kexec_loaded(facts.root) and facts.subject.image is None and not facts.subject.ours_loaded:
        why = "an image is in memory that kexecd has not loaded; nobody can tell what it is, and it will be replaced"
        yield Flaw(why, "look who loads one: kexec-tools, or a script of this machine's init")


def boot_loader(facts: Facts) -> Iterator[Flaw]:
    subject = facts.subject
    entry = subject.choice.entry if subject.choice else None
    if subject.named or entry is None or subject.loader is None or not subject.loader.next:
        return
    would = next((other for other in subject.loader.entries if other.id == subject.loader.next), None)
    if would is not None and (entry.kernel, entry.initrds) != (would.kernel, would.initrds):
        why = f"the boot loader would boot {would.title} ({would.kernel}), and kexec boots {entry.kernel}"
        yield Flaw(why, "name the entry that is meant, or let kexecd.yaml say `choice: boot-loader`")


def boot_counting(facts: Facts) -> Iterator[Flaw]:
    """systemd-bless-boot.service(8) marks what the boot loader has counted; a kexec is counted by nobody."""
    entry = facts.subject.choice.entry if facts.subject.choice else None
    tries = _tries(entry, facts.system) if entry else None
    if entry and tries is not None:
        why = f"the boot loader still counts the boots of {entry.id} ({tries} left), and this one it will not see"
        yield Flaw(why, "let the first boot of a new kernel go through the firmware, with `kexecctl reboot --firmware`")


def remarks(facts: Facts) -> Iterator[Flaw]:
    for remark in facts.subject.target.entry.remarks if facts.subject.target else ():
        yield Flaw(remark, "nothing, if it is meant to be so")


def settings(facts: Facts) -> Iterator[Flaw]:
    for warning in facts.subject.settings.warnings if facts.subject.settings else ():
        yield Flaw(warning, "mend that line; `kexecctl config` shows what it comes to")


def boot_sources(facts: Facts) -> Iterator[Flaw]:
    for problem in facts.subject.problems:
        yield Flaw(problem, "`kexecctl entries -v` shows what was found all the same", Severity.NOTE)


def _of(refusal: Refusal) -> Flaw:
    return Flaw(
        f"{refusal.what}: {refusal.why}", refusal.hint or "`kexecctl entries -v` shows more", code=refusal.exit_code
    )


def _mib(count: int) -> str:
    return f"{count / (1 << 20):.0f} MiB"


def _change(facts: Facts, file: FileRecord, loaded_at: float) -> str:
    """What has become of a file since it was loaded, as the end of a sentence; empty: nothing, or nobody can tell."""
    if not facts.is_local(file.path):
        return ""
    try:
        status = os.stat(join_root(facts.root, file.path))
    except FileNotFoundError:
        return "" if _on_unmounted(facts, file.path) else "is gone"
    except OSError:
        return ""
    return "has changed since" if status.st_size != file.size or status.st_mtime > loaded_at else ""


def _on_unmounted(facts: Facts, path: str) -> bool:
    """Whether it lies on a partition that fstab knows and that is not mounted: then it is not gone."""
    from kexecd.discover import fstab  # late: only for a file that is not there

    mounted = {mount.point for mount in facts.mounts}
    return any(
        path.startswith(f"{row.point.rstrip('/')}/") and row.point not in mounted for row in fstab.read(facts.root)
    )


def _tries(entry: BootEntry, root: str) -> int | None:
    """How many tries the name of its file says that are left; None where none are counted. An id is without them."""
    from kexecd.discover.menu import names, partitions, split_counters  # late: only where something is to be loaded

    if entry.source is Source.UKI:
        files = [entry.kernel.rpartition("/")[2]]
    elif entry.source is Source.BLS:
        files = [name for place in partitions(root) for name in names(f"{place}/loader/entries", ".conf", root, [])]
    else:
        return None
    parts = [split_counters(file.rpartition(".")[0]) for file in files]
    name = entry.id.removesuffix(".conf").removesuffix(".efi")
    return next((left for stem, left, _ in parts if left is not None and stem == name), None)
