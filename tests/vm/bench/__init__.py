# SPDX-License-Identifier: MIT
"""The benchmark: how long until the jump, kexecd beside systemd's own way down and sysvinit's, in one guest.

    make bench                          everything, about 12 minutes; a table, and .cache/bench.json
    make bench ROWS=idle                some of the rows: idle, busy, crowded, disks
    python3 -m tests.vm.bench.profile   where kexecd's own time goes, idle or in another row

What makes the comparison fair:

- One image, one kernel, one machine. Each run of a row starts from the same snapshot, in which the load is in place and
  the new kernel is in memory already, for whoever jumps, as is the daemon that `kexecctl load` has started. Nothing
  else of kexecd is in the way of systemd's own way down.
- The clock runs from the line that a shell prints before it becomes the contestant to the kernel's "Starting new
  kernel", both as the host sees them arrive on the console. The guest's own clock is emulated and is not asked.
- The contestants take turns, so that a host that slows down slows down all of them. The median counts.
- sysvinit's scripts run under sysvinit: under systemd they would be hindered by a PID 1 that starts again what they
  kill. That machine is the same image with another init=, and kexecd has to show itself there too.
- A disk takes its time as a disk does (loads.Disks): without that nothing would be gained by doing things at once. What
  was written when the contestant began has to be on the disks whoever goes down, and that takes them two seconds.

What is here, in the order in which it is used:

    recipe        the image: the lab's Debian with its peers' programs unpacked into it, and both ways to start it
    crowd         a process that only sleeps, as small as one can be
    loads         the rows: what runs and what is mounted in each
    contestants   the ways down
    stage         machines with their load in place, saved
    race          one run, and all runs of a row
    results       medians, ratios, the table, JSON (pure)
    profile       where kexecd's own time goes

An emulated CPU is 10 to 30 times slower than the host's, so it is the ratios that say something.
"""
