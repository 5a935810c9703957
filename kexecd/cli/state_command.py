# SPDX-License-Identifier: MIT
"""kexecctl state: hand memory over a restart, and get it back; docs/state.md. `list` and `status` as JSON:

    {"schema": 1, "held": [{"name": "table", "uid": 0, "bytes": 4096, "seals": 0, "sha256": "", "state": "normal",
                            "frozen_at": 0.0}, ...]}
    {"schema": 1, "state": "normal", "carrier": "", "why": "", "count": 1, "bytes": 4096, "rate": 0,
     "live_update": true, "lost": [{"uid": 0, "name": "cache", "why": "..."}, ...],
     "forecast": {"carrier": "file", "why": "...", "seconds": 0.2}}

state: kexecd.model.State. carrier: what will carry it, or has: `memory`, `file`, or nothing yet. rate: bytes a second
to the disk, 0 until it was measured. live_update: whether the running kernel could carry it. forecast: for root, what
would carry it into the image in memory, or else into what would be chosen now; null where that is decided already.
"""

from __future__ import annotations

import contextlib
import os
import sys
from argparse import Namespace
from collections.abc import Callable

from kexecd import client
from kexecd.cli.output import local_time, print_json, print_table, shown, size
from kexecd.errors import Busy, ExitCode, NotLoaded, NotPermitted, Refusal, Unsupported

SECONDS = 40.0  # for an answer: longer than the holder takes to try a memfd out
TYPE_CHECKING = False  # what the type checker takes for true; the module of that name costs as much as many of ours
if TYPE_CHECKING:
    from typing import Any

PART = 1 << 20  # bytes
KMSG = "/dev/kmsg"

_NAMELESS = {"list": "list what is held", "status": "tell what is held", "serve": "hold what is handed over"}

_KINDS: dict[int, type[Refusal]] = {
    1: NotPermitted,  # EPERM
    2: NotLoaded,  # ENOENT
    13: NotPermitted,  # EACCES
    16: Busy,  # EBUSY
}


def state(options: Namespace) -> ExitCode:
    verb, name = options.verb, options.name
    what = f"cannot {verb} {name}" if name else f"cannot {_NAMELESS[verb]}" if verb in _NAMELESS else f"cannot {verb}"
    if (name is None) == (verb in ("put", "get", "drop")):
        why = "it takes a NAME" if name is None else "it takes no NAME"
        raise Refusal(what, why, exit_code=ExitCode.USAGE)
    if options.file is not None and verb not in ("put", "get"):
        raise Refusal(what, "it takes no FILE", exit_code=ExitCode.USAGE)
    if verb == "serve":
        return _serve_in_background() if options.background else _serve()
    try:
        with client.Connection(options.socket, seconds=SECONDS) as connection:
            return _DEEDS[verb](connection, options)
    except client.NotDone as no:
        kind = _KINDS.get(no.errno or 0, Unsupported)
        raise kind(what, no.strerror or "", errno=no.errno or 0) from no
    except TimeoutError as late:
        raise Busy(what, f"its holder has not answered within {SECONDS:g} s") from late
    except (ConnectionError, FileNotFoundError) as error:
        why = f"nobody listens at {options.socket}"
        hint = "the service kexecd-state holds what is handed over; is it started?"
        raise Unsupported(what, why, hint=hint, errno=error.errno or 0) from error


def _put(connection: client.Connection, options: Namespace) -> ExitCode:
    """From a file, or the standard input; or, with --fd, the very memfd that somebody has made."""
    if options.fd is not None:
        held = connection.put(options.name, options.fd)
    else:
        fd = os.memfd_create(options.name, os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
        try:
            _fill(fd, options.file)
            os.lseek(fd, 0, os.SEEK_SET)
            held = connection.put(options.name, fd)
        finally:
            os.close(fd)
    if options.json:
        print_json({"held": [_as_json(held)]})
    else:
        print(f"{held.name} is held: {held.bytes} bytes")
    return ExitCode.OK


def _get(connection: client.Connection, options: Namespace) -> ExitCode:
    fd = connection.get(options.name, uid=options.uid)
    if fd is None:
        why = f"nothing of this name is held for {'this user' if options.uid is None else f'user {options.uid}'}"
        raise NotLoaded(f"cannot get {options.name}", why)
    try:
        _empty(fd, options.file)
    finally:
        os.close(fd)
    return ExitCode.OK


def _drop(connection: client.Connection, options: Namespace) -> ExitCode:
    if not connection.drop(options.name, uid=options.uid):
        why = f"nothing of this name is held for {'this user' if options.uid is None else f'user {options.uid}'}"
        raise NotLoaded(f"cannot drop {options.name}", why)
    return ExitCode.OK


def _list(connection: client.Connection, options: Namespace) -> ExitCode:
    held = connection.list()
    if options.json:
        print_json({"held": [_as_json(one) for one in held]})
        return ExitCode.OK
    rows = [(one.name, str(one.uid), size(one.bytes), one.state, _since(one)) for one in held]
    print_table([("NAME", "USER", "SIZE", "STATE", ""), *rows] if rows else [])
    if not rows:
        print("nothing is held")
    return ExitCode.OK


def _status(connection: client.Connection, options: Namespace) -> ExitCode:
    told = connection.status()
    forecast = _forecast(told, options)
    if options.json:
        print_json({**{key: value for key, value in told.items() if key != "done"}, "forecast": forecast})
        return ExitCode.OK
    print(f"state    {told['state']}")
    print(f"held     {told['count']}, {size(told['bytes'])}")
    if told["carrier"]:
        print(f"carrier  {told['carrier']}: {shown(told['why'])}")
    if forecast:
        takes = f", in about {forecast['seconds']:.1f} s" if forecast["seconds"] else ""
        print(f"would    go by {forecast['carrier']}{takes}: {shown(str(forecast['why']))}")
    print(f"kernel   {'has' if told['live_update'] else 'has no'} live update")
    for one in told["lost"]:
        print(f"lost     {one['name']} of user {one['uid']}: {shown(one['why'])}")
    return ExitCode.OK


def _forecast(told: dict[str, Any], options: Namespace) -> dict[str, Any] | None:
    """What would carry it into what is loaded, or else would be chosen; None where that is decided, or not for us."""
    decided = told["state"] in ("prepared", "frozen")
    if os.geteuid() or decided or not told["count"] or options.socket != client.SOCKET:
        return None
    from kexecd.cli.carry import forecast  # late: most ask for nothing but how far it is

    try:
        found = forecast()
    except Refusal as refusal:
        return {"carrier": "", "why": f"{refusal.what}: {refusal.why}", "seconds": 0.0}
    return {"carrier": str(found.carrier), "why": found.why, "seconds": round(found.seconds, 3)}


def _serve(ready: Callable[[], object] | None = None) -> ExitCode:
    """What the service kexecd-state runs: hold until the jump."""
    from kexecd.config.policy import read_policy
    from kexecd.liveupdate import holder
    from kexecd.liveupdate.store import Limits
    from kexecd.record import RUN_DIR

    policy = read_policy()
    holder.serve(RUN_DIR, limits=Limits(policy.state_count, policy.state_size << 20), ready=ready)
    return ExitCode.OK


def _serve_in_background() -> ExitCode:
    """For an init that waits for the end of what it starts: it has begun when this returns. Raises what _serve does."""
    reader, writer = os.pipe()
    pid = os.fork()
    if pid == 0:
        code = ExitCode.FAILURE
        try:
            os.close(reader)
            os.setsid()
            code = _serve(lambda: _begun(writer))
        except Refusal as refusal:
            print(f"kexecctl: {refusal.sentence()}", file=sys.stderr, flush=True)
            code = refusal.exit_code
        finally:
            os._exit(code)
    os.close(writer)
    if os.read(reader, 1):
        return ExitCode.OK
    return ExitCode(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]))


def _begun(writer: int) -> None:
    """Nobody waits any more; what is to be told from here on goes where the kernel tells its own."""
    for stream, path, flags in ((0, os.devnull, os.O_RDONLY), (1, os.devnull, os.O_WRONLY), (2, KMSG, os.O_WRONLY)):
        with contextlib.suppress(OSError):
            fd = os.open(path, flags | os.O_NOCTTY)
            os.dup2(fd, stream)
            os.close(fd)
    os.write(writer, b".")
    os.close(writer)


def _fill(fd: int, path: str | None) -> None:
    with open(path, "rb") if path else open(sys.stdin.fileno(), "rb", closefd=False) as source:
        while part := source.read(PART):
            view = memoryview(part)
            while view:
                view = view[os.write(fd, view) :]


def _empty(fd: int, path: str | None) -> None:
    position = 0
    with open(path, "wb") if path else open(sys.stdout.fileno(), "wb", closefd=False) as out:
        while part := os.pread(fd, PART, position):
            out.write(part)
            position += len(part)


def _as_json(held: client.Held) -> dict[str, object]:
    return {key: getattr(held, key) for key in sorted(held.__slots__)}


def _since(held: client.Held) -> str:
    return f"came over with the restart of {local_time(held.frozen_at)}" if held.frozen_at else ""


_DEEDS = {"put": _put, "get": _get, "drop": _drop, "list": _list, "status": _status}
