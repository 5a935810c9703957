# SPDX-License-Identifier: MIT
"""kexecd restarts a Linux machine into a new kernel through kexec(2), and loses nothing on the way.

The flow, which is also the order of the modules and of who may import whom (tests/unit/test_structure.py holds it):

    model  errors                 the nouns, and the refusals
    kernel/                       what the kernel offers: system calls, /proc, /sys, image formats; no policy
    config/ | discover/           what the administrator wants | what could be booted
    target loader handoff teardown/   one boot target, into memory; the steps of the way down
    plan                          the ordered phases for this machine, now
    executor                      runs any plan
    init/                         how this machine's PID 1 is asked and hooked
    cli/                          kexecctl
    jump                          the last act, a file that stands alone
"""

__version__ = "0.1.0"
