# SPDX-License-Identifier: MIT
"""Storage on storage: a guest whose root is not simply a disk, and the script that lays its disks out.

Made by the real tools, once, in the guest that the plain system boots into first: LUKS and LVM cannot be written from
outside without a device mapper, and what kexecd takes apart must not have been put together by us.
"""

from __future__ import annotations

from dataclasses import dataclass

INSTALLER_CMDLINE = "root=/dev/vd{installer} rw console=ttyS0,115200 fstab=no luks=no cryptopts="
"""The plain system, which must not look for the disks that it is about to make: systemd-fstab-generator(8),
systemd-cryptsetup-generator(8); an empty cryptopts= switches Debian's initramfs script off."""


@dataclass(frozen=True, slots=True)
class Disk:
    """A blank disk, of so many MiB."""

    name: str
    mib: int


@dataclass(frozen=True, slots=True)
class Storage:
    """What lies on what.

    /dev/vda has two partitions: /boot, an ext4 of `boot_mib` that is made with the image, and one of `mib` that `setup`
    takes for the root. /dev/vdb is the data disk of every guest. `disks` follow, blank. While `setup` runs, two more
    come last: the plain system that runs it, and the same once more, unmounted, to copy it from.
    """

    root_device: str
    boot_mib: int
    mib: int
    disks: tuple[Disk, ...]
    settings: tuple[tuple[str, str], ...]
    """Files that lie in the root before the packages are configured: (path, content)."""
    customize: str
    """Run on the host when all packages are installed; the new root is $1."""
    setup: str
    """Run once, as root; {system} stands for the device to copy the root filesystem from."""

    @property
    def _letters(self) -> str:
        return "cdefghij"[len(self.disks) :]

    @property
    def installer_cmdline(self) -> str:
        return INSTALLER_CMDLINE.format(installer=self._letters[0])

    @property
    def setup_script(self) -> str:
        return self.setup.replace("{system}", f"/dev/vd{self._letters[1]}")


LUKS_UUID = "6d0a4f3e-2b7c-4c1e-9a55-0f7e3b1c2d4e"

FSTAB = """\
/dev/mapper/vg0-root / ext4 errors=remount-ro 0 1
LABEL=boot /boot ext4 defaults 0 0
/dev/vdb /data ext4 defaults 0 2
/data/loop.img /srv/loop ext4 loop 0 0
/data/swapfile none swap sw 0 0
LABEL=xfs /srv/xfs xfs defaults 0 0
LABEL=btrfs /srv/btrfs btrfs defaults 0 0
overlay /srv/overlay overlay \
lowerdir=/usr/share,upperdir=/data/upper,workdir=/data/work,x-systemd.requires-mounts-for=/data 0 0
"""

# What udev would load for hardware that has no part in this; each costs a second or so, emulated.
BLACKLIST = "".join(
    f"blacklist {name}\n"
    for name in (
        "ahci", "kvm_amd", "kvm_intel", "drm", "psmouse", "powernow_k8", "button", "i2c_i801", "lpc_ich",
        "aesni_intel", "crc32_pclmul", "crct10dif_pclmul", "ghash_clmulni_intel", "polyval_clmulni",
        "sha1_ssse3", "sha256_ssse3", "sha512_ssse3",
    )  # fmt: skip
)

# For the same reason udev is told of these alone when the root is mounted, and there are two loop devices, not eight.
COLDPLUG = """\
[Service]
ExecStart=
ExecStart=-udevadm trigger --type=subsystems --action=add
ExecStart=-udevadm trigger --type=devices --action=add --subsystem-match=block --subsystem-match=virtio \
    --subsystem-match=virtio-ports --subsystem-match=misc --subsystem-match=net
"""

# And no module is packed with xz.
UNPACK_MODULES = """\
find "$1"/usr/lib/modules -name '*.ko.xz' -exec unxz {} +
for modules in "$1"/usr/lib/modules/*; do
    chroot "$1" depmod "${modules##*/}"
    chroot "$1" update-initramfs -u -k "${modules##*/}"
done
"""

# As little PBKDF2 as there can be, since the CPU is emulated. No write-intent bitmap on the mirror, so that the kernel
# has to say aloud when it was not stopped clean. e2image copies only the blocks that are in use.
SETUP = f"""\
set -eu
key=/etc/keys/root.key
cryptsetup luksFormat --batch-mode --type luks2 --uuid {LUKS_UUID} --cipher aes-xts-plain64 --key-size 256 \
    --sector-size 4096 --pbkdf pbkdf2 --pbkdf-force-iterations 1000 /dev/vda2 "$key"
cryptsetup open --key-file "$key" /dev/vda2 root_crypt
vgcreate --quiet vg0 /dev/mapper/root_crypt
lvcreate --quiet --yes --extents 100%FREE --name root vg0
e2image -ra {{system}} /dev/vg0/root
mdadm --create /dev/md/mirror --run --level=1 --raid-devices=2 --assume-clean --bitmap=none /dev/vdc /dev/vdd
mkfs.xfs -q -L xfs /dev/md/mirror
mkfs.btrfs -q -L btrfs --data raid1 --metadata raid1 /dev/vde /dev/vdf
mkdir -p /data
mount /dev/vdb /data
mkdir /data/upper /data/work
truncate -s 160M /data/loop.img
mke2fs -q -t ext4 -L loop /data/loop.img
dd if=/dev/zero of=/data/swapfile bs=1M count=64 status=none
chmod 600 /data/swapfile
mkswap -q /data/swapfile
umount /data
mdadm --stop /dev/md/mirror
vgchange --quiet --activate n vg0
cryptsetup close root_crypt
sync
"""

LAYERED = Storage(
    root_device="/dev/mapper/vg0-root",
    boot_mib=192,
    mib=1664,
    disks=(Disk("mirror0", 340), Disk("mirror1", 340), Disk("btrfs0", 256), Disk("btrfs1", 256)),
    settings=(
        ("/etc/fstab", FSTAB),
        ("/etc/crypttab", f"root_crypt UUID={LUKS_UUID} /etc/keys/root.key luks,initramfs\n"),
        ("/etc/keys/root.key", "nobody has to type this"),
        ("/etc/modprobe.d/storage.conf", f"{BLACKLIST}options loop max_loop=2\n"),
        ("/etc/systemd/system/systemd-udev-trigger.service.d/storage.conf", COLDPLUG),
        ("/etc/dpkg/dpkg.cfg.d/storage", "force-confold\n"),  # for the next one, which the package also brings
        ("/etc/cryptsetup-initramfs/conf-hook", 'KEYFILE_PATTERN="/etc/keys/*.key"\nASKPASS=n\n'),
        ("/etc/initramfs-tools/conf.d/storage", "UMASK=0077\nRESUME=none\n"),
        ("/usr/share/initramfs-tools/modules.d/storage", "dm_mod\ndm_crypt\nxts\necb\naesni_intel\nalgif_skcipher\n"),
    ),
    customize=UNPACK_MODULES,
    setup=SETUP,
)
"""Root on LVM on LUKS; XFS on a RAID1 of two; Btrfs on two; on the data disk a loop file with a filesystem, an
overlay's upper layer and a swap file."""
