# SPDX-License-Identifier: MIT
"""The matrix: every door out of a machine, on every guest.

    table     the doors and the faults, a row each: what is done, where, and how it has to end
    staging   what is arranged in a guest before somebody takes a door
    guests    the guests, a column each, as their administrator has them: kexecd installed, each restart a kexec
    cell      one door taken in one guest, and all that can be said about how it ended
    disks     whether a disk that nobody mounts any more was left clean
    subset    which cells `make test` runs
    report    the table of docs/doors.md, and JSON
    __main__  `make matrix`
"""
