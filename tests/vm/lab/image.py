# SPDX-License-Identifier: MIT
"""Builds guests' disks: a Debian root, the project installed on top, ext4 images without a loop device.

Two layers, cached apart: the base (slow, changes with the recipe) is a tar; the image (seconds, changes with
the project) is two raw disks and the kernel and initrd that the firmware boots. Needs root, mmdebstrap, tar,
e2fsprogs.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import tempfile
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

from tests.vm.lab import cache, provision, sysvinit
from tests.vm.lab.bootdisk import DISK_TIMEOUT, make_blank, make_boot_disk, make_ext4, make_root_disk
from tests.vm.lab.cache import REPO
from tests.vm.lab.errors import BuildError
from tests.vm.lab.mirrors import KEYRING, host_mirrors
from tests.vm.lab.progress import step
from tests.vm.lab.recipe import Recipe
from tests.vm.lab.tools import run_tool

PROJECT_PATHS = (
    "kexecd", "units", "openrc", "config", "packaging", "docs", "README.md", ".ci", "Makefile", "pyproject.toml",
)  # fmt: skip
"""What `make install` and the package install, or are made with: a change in any of it makes a new image."""

BASE_TIMEOUT = 900.0
INSTALL_TIMEOUT = 180.0
KEPT_IMAGES = 2
KEPT_BASES = 1


@dataclass(frozen=True)
class Install:
    """A way to put something into a guest's root, and a key that changes whenever its outcome would."""

    key: str
    run: Callable[[Path], None]


@dataclass(frozen=True)
class GuestImage:
    """A guest's disks in the cache. Never written to: guests get throw-away overlays."""

    recipe: Recipe
    key: str
    directory: Path

    @property
    def root(self) -> Path:
        """The root disk, /dev/vda, a raw image: ext4, or partitions that a boot loader is to be installed on."""
        return self.directory / "root.img"

    @property
    def data(self) -> Path:
        """The data disk, /dev/vdb on /data, an empty raw ext4 image."""
        return self.directory / "data.img"

    @property
    def system(self) -> Path:
        """The root filesystem, a raw ext4 image, where the recipe's storage is laid out in the guest: then the root
        disk has none yet.
        """
        return self.directory / "system.img"

    @property
    def disks(self) -> tuple[Path, ...]:
        """The recipe's further disks, blank."""
        storage = self.recipe.storage
        return tuple(self.directory / f"{disk.name}.img" for disk in storage.disks) if storage else ()

    @property
    def kernel(self) -> Path:
        """The kernel that QEMU puts into memory where no boot loader does."""
        return self.directory / "vmlinuz"

    @property
    def initrd(self) -> Path:
        """That kernel's initrd."""
        return self.directory / "initrd.img"


def install_project(rootdir: Path) -> None:
    """Install the project into a guest's root, as its user would."""
    run_tool("make", "-C", REPO, "install", f"DESTDIR={rootdir}", "PREFIX=/usr", timeout=INSTALL_TIMEOUT)


def project_key(repo: Path = REPO, paths: Iterable[str] = PROJECT_PATHS) -> str:
    """Twelve hex digits over the names, modes and contents of everything that `make install` installs."""
    digest = hashlib.sha256()
    for name in paths:
        top = repo / name
        files = sorted(top.rglob("*")) if top.is_dir() else [top]
        for file in files:
            if "__pycache__" in file.parts or not file.is_file():
                continue
            digest.update(f"{file.relative_to(repo)}\0{file.stat().st_mode & 0o111:o}\0".encode())
            digest.update(hashlib.sha256(file.read_bytes()).digest())
    return digest.hexdigest()[:12]


def project() -> Install:
    """The project as it is in this checkout now."""
    return Install(project_key(), install_project)


BARE = Install("bare", lambda rootdir: None)
"""Nothing on top: the guest as Debian makes it."""


def build(recipe: Recipe, install: Install | None = None) -> GuestImage:
    """The image of a recipe with `install` (the project, unless told otherwise) on top, from the cache or
    newly built.
    """
    install = project() if install is None else install
    key = f"{recipe.key}-{install.key}"
    image = GuestImage(recipe, key, cache.cache_dir() / f"image-{recipe.name}-{key}")
    try:
        cache.use(image.directory)
    except FileNotFoundError:
        with cache.build_lock():
            if not image.directory.is_dir():
                tar = base(recipe)
                with step(f"image {image.key}"), cache.new_directory(image.directory) as scratch:
                    _fill(GuestImage(recipe, key, scratch), tar, install)
            cache.use(image.directory)
            cache.prune(f"image-{recipe.name}-", KEPT_IMAGES)
    return image


def base(recipe: Recipe) -> Path:
    """The tar of a recipe's packages, from the cache or newly made."""
    target = cache.cache_dir() / f"base-{recipe.base_name}-{recipe.base_key}.tar"
    if not target.exists():
        with step(f"base system {target.stem} (mmdebstrap)"):
            cache.new_file(target, lambda tar: _mmdebstrap(recipe, tar))
    os.utime(target)
    cache.prune(f"base-{recipe.base_name}-", KEPT_BASES)
    return target


def _mmdebstrap(recipe: Recipe, tar: Path) -> None:
    keyring = KEYRING if KEYRING.exists() else None
    with tempfile.TemporaryDirectory(prefix="lab-hooks-") as directory:
        hooks = []
        for name, script in recipe.base_scripts().items():
            path = Path(directory, name)
            path.write_text(script)
            hooks.append(f'--{name}-hook=sh {path} "$1"')
        run_tool(
            "mmdebstrap",
            "--variant=minbase",
            "--format=tar",
            f"--include={','.join((*recipe.packages, *recipe.kernels))}",
            *(f"--dpkgopt=path-exclude={pattern}" for pattern in provision.PATH_EXCLUDES),
            *hooks,
            recipe.suite,
            tar,
            *host_mirrors().lines(recipe.suite, keyring),
            timeout=BASE_TIMEOUT,
        )


def _fill(image: GuestImage, base: Path, install: Install) -> None:
    root = image.directory / "root"
    try:
        root.mkdir(mode=0o755)
        run_tool(
            "tar",
            "-C",
            root,
            "--numeric-owner",
            "--xattrs",
            "--xattrs-include=*",
            "-xpf",
            base,
            timeout=DISK_TIMEOUT,
        )
        _run_script(sysvinit.put_script(image.recipe.programs or ()), root)
        install.run(root)
        _settle(image, root)
        shutil.copyfile(_kernel_file(root, image.recipe, "vmlinuz"), image.kernel)
        shutil.copyfile(_kernel_file(root, image.recipe, "initrd.img", "initramfs"), image.initrd)
        _make_disks(image, root)
        make_ext4(image.data, image.recipe.data_mib, "data")
    finally:
        shutil.rmtree(root)


def _make_disks(image: GuestImage, root: Path) -> None:
    recipe, storage = image.recipe, image.recipe.storage
    if storage is None:
        make_root_disk(image.root, recipe.loader, recipe.root_mib, root)
        return
    boot = image.directory / "boot"
    (root / "boot").rename(boot)
    try:
        (root / "boot").mkdir()
        make_boot_disk(image.root, storage.boot_mib, storage.mib, boot)
        make_ext4(image.system, recipe.root_mib, "root", root)
    finally:
        shutil.rmtree(boot)
    for path, disk in zip(image.disks, storage.disks, strict=True):
        make_blank(path, disk.mib)


def _settle(image: GuestImage, root: Path) -> None:
    machine_id = hashlib.sha256(image.key.encode()).hexdigest()[:32]
    _run_script(provision.settle_script(machine_id, image.recipe.enabled_units), root)


def _run_script(text: str, root: Path) -> None:
    with tempfile.NamedTemporaryFile("w", prefix="lab-script-") as script:
        script.write(text)
        script.flush()
        run_tool("sh", script.name, root, timeout=INSTALL_TIMEOUT)


def _kernel_file(root: Path, recipe: Recipe, *kinds: str) -> Path:
    version = recipe.boots or recipe.firmware_kernel
    found = sorted(path for kind in kinds for path in (root / "boot").glob(f"{kind}-{version}*"))
    if len(found) != 1:
        names = ", ".join(path.name for path in found) or "nothing"
        raise BuildError(f"{recipe.name}: expected one /boot/{kinds[0]}-{version}*, found {names}")
    return found[0]
