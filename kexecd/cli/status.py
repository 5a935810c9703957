# SPDX-License-Identifier: MIT
"""kexecctl status: what is loaded, and how this boot was reached."""

from __future__ import annotations

from argparse import Namespace
from dataclasses import asdict

from kexecd import handoff, state
from kexecd.cli.output import local_time, print_json, size
from kexecd.errors import ExitCode
from kexecd.handoff import Arrival, How
from kexecd.init.detect import detect
from kexecd.kernel import sysfs
from kexecd.liveupdate import place
from kexecd.record import RUN_DIR, loaded_record


def status(options: Namespace) -> ExitCode:
    loaded, record, arrival = sysfs.kexec_loaded(), loaded_record(), handoff.arrival()
    restart, armed, held = state.read(RUN_DIR), state.is_armed(RUN_DIR), place.summary(RUN_DIR)
    if options.json:
        print_json(
            {
                "kernel": sysfs.kernel_release(),
                "init": detect().name,
                "state": str(state.now(RUN_DIR, arrived=arrival.how is How.KEXEC)),
                "armed": armed,
                "restart": asdict(restart) if restart else None,
                "loaded": loaded,
                "image": asdict(record) if record else None,
                "arrival": asdict(arrival),
                "held": asdict(held),
            }
        )
        return ExitCode.OK
    print(f"running   {sysfs.kernel_release()}, {detect().name} as PID 1")
    print(f"reached   {_reached(arrival)}")
    if armed:
        print("armed     every restart is to be a kexec")
    if restart:
        print(f"restart   {restart.state} since {local_time(restart.since)}: {restart.way}, to end in a {restart.act}")
    if record:
        initrds = "".join(f" + {file.path}" for file in record.initrds)
        total = record.kernel.size + sum(file.size for file in record.initrds)
        print(f"loaded    {record.kernel.path}{initrds} ({size(total)}) since {local_time(record.loaded_at)}")
        print(f"          {record.cmdline}")
    else:
        print(f"loaded    {'an image that kexecd did not load' if loaded else 'nothing'}")
    if held.count or held.lost:
        lost = f", {held.lost} lost" if held.lost else ""
        print(f"held      {held.count} for applications, {held.state}{lost}: see `kexecctl state status`")
    return ExitCode.OK


def _reached(arrival: Arrival) -> str:
    if arrival.how is How.KEXEC and arrival.pending:
        after = "" if arrival.seconds is None else f", {arrival.seconds:.1f} s after it was asked for"
        surprise = "" if arrival.as_planned else f" (it was to be {arrival.pending.to_version})"
        return f"by kexec from {arrival.from_release}{after}{surprise}"
    return f"{arrival.how}: {arrival.reason}"
