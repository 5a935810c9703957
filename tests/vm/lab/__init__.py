# SPDX-License-Identifier: MIT
"""The VM lab: builds a guest, boots it under QEMU, drives it, and judges how it restarted.

    python3 -m tests.vm.lab build      build and cache everything (about a minute the first time)
    python3 -m tests.vm.lab boot       boot from power-on, with times
    python3 -m tests.vm.lab shell      commands in a booted guest

A test reads like this:

    snapshot = booted(build(DEBIAN12_SYSTEMD))                  # session fixture; cached in .cache/vm
    with Guest.from_snapshot(snapshot, workdir=tmp_path) as guest:
        old, mark = guest.boot_id(), guest.mark()
        guest.spawn("systemctl", "reboot")
        restart = judge(guest, mark, nonce, old)
        assert restart.kind is Kind.KEXEC and restart.clean, restart.explain()

What is here, in the order in which it is used:

    recipe      what a guest is made of, and the key that names it; provision: the scripts that make it so; sysvinit:
                those for guests without systemd, gentoo/ the services of those that are like Gentoo
    loaders     GRUB, systemd-boot or none: what installs it, and its firmware
    storage     what the root and further disks are made of, and the script that lays them out
    mirrors     the host's Debian mirror
    tools       bounded runs of the host's tools; progress: signs of life on stderr
    cache       .cache/vm: one builder at a time, atomic, pruned, sparing what is in use
    image       base tar -> project installed on top -> disks (bootdisk), kernel, initrd; packaged: installed and
                enabled as by the guest's administrator
    accel       KVM if a guest really boots under it, else TCG
    hardware    the virtual machine as data
    machine     one QEMU process and its sockets: console, qmp and agent, the last two over channel
    snapshot    a saved guest; booted: the cached one that every test starts from
    guest       what tests talk to; every failure carries the last 60 console lines
    delivery    the project, put into a guest whose image was made without it
    evidence    what a restart leaves in console and events (pure); oracle: waits for a restart and judges it
    crew        many guests at a time, in a process each; notes: what a long run has seen, for the next to go on from
    errors      how all of it fails

Needs root, and from Debian: qemu-system-x86, qemu-utils, mmdebstrap, e2fsprogs; gdisk and ovmf for guests with a
boot loader. Python's standard library is enough. LAB_ACCEL=kvm or tcg in the environment overrides the probe.
"""
