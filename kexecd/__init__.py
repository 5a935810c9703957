# SPDX-License-Identifier: MIT
"""kexecd restarts a Linux machine into a new kernel through kexec(2), and loses nothing on the way.

The flow, which is also the order of the modules and of who may import whom (tests/unit/test_structure.py holds it):

    model  errors       the nouns, and the refusals
    kernel/             what the kernel offers: system calls, /proc, /sys, image formats; no policy
    config/ discover/   what the administrator wants; what could be booted, and the choice (never each other)
    record lock         what is in memory now; one restart at a time
    target loader       one entry made final, and put into kernel memory
    bootmount handoff   the boot partition for a look; what the new boot is compared with
    teardown/           the steps of the way down
    history deny        what became of earlier restarts; the kernels that have failed
    plan report/        the ordered phases for this machine, now; what happened, for people and programs
    executor            runs any plan
    init/               how this machine's PID 1 is asked and hooked
    wayback/            what a new boot has to show, and what is remembered of it
    cli/                kexecctl
    jump                the last act, a file that stands alone
"""

__version__ = "0.1.0"
