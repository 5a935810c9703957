# SPDX-License-Identifier: MIT
"""The D-Bus face in a process of its own, as the daemon has it, with deeds that are only written down.

    python -m tests.bus.server ADDRESS DIRECTORY

DIRECTORY/run is its /run/kexecd and DIRECTORY/root the root of the machine that it sees. A deed is a line in
DIRECTORY/deeds and what DIRECTORY/answers/COMMAND says: {"code", "out", "err", "seconds"}. It ends with its stdin.
"""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Callable
from pathlib import Path

from kexecd.bus.manager import Face
from kexecd.loop import Ended, Loop
from kexecd.model import Event, EventKind


class WrittenDown:
    """Deeds: each in a child, as the daemon's are."""

    def __init__(self, loop: Loop, directory: Path) -> None:
        self._loop, self._directory = loop, directory

    def run(self, argv: tuple[str, ...], done: Callable[[int, bytes, bytes], None], seconds: float) -> None:
        with (self._directory / "deeds").open("a") as deeds:
            deeds.write(json.dumps(argv) + "\n")
        answer = self._directory / "answers" / argv[0]
        told = json.loads(answer.read_text()) if answer.exists() else {}

        def work(writer: int) -> int:
            os.closerange(3, writer)
            os.closerange(writer + 1, 4096)
            time.sleep(told.get("seconds", 0.0))
            with open(writer, "w", closefd=False, encoding="utf-8") as out:
                out.write(told.get("out", '{"schema": 1}'))
            return int(told.get("code", 0))

        def ended(end: Ended) -> None:
            done(end.code, end.output, told.get("err", "").encode())

        self._loop.child(work, ended, seconds=seconds)


def main(address: str, directory: str) -> int:
    loop, place = Loop(), Path(directory)
    log = place / "log"

    def tell(text: str) -> None:
        with log.open("a") as file:
            file.write(text + "\n")

    deeds = WrittenDown(loop, place)
    face = Face.connect(loop, deeds, address=address, run_dir=str(place / "run"), root=str(place / "root"), tell=tell)
    if face is None:
        print("no bus", flush=True)
        return 1

    def command() -> None:
        """What the daemon does by itself: told by the test."""
        words = os.read(0, 4096).decode().split()
        match words[:1]:
            case []:
                loop.stop()
            case ["progress"]:
                face.progress(Event(EventKind(words[1]), 12.5, "services", "stop", " ".join(words[2:]), 0.25))
                print("told", flush=True)
            case ["chatter"]:
                for number in range(20_000):
                    face.progress(Event(EventKind.NOTE, float(number), text="x" * 1000))
                print("told", flush=True)
            case ["retire"]:
                face.retire(lambda quiet: print("quiet" if quiet else "called", flush=True))
            case ["see"]:
                print(json.dumps({"named": face.named, "busy": face.busy, "inhibits": face.inhibits}), flush=True)

    os.set_blocking(0, True)
    loop.watch(0, command)
    print("ready", flush=True)
    loop.run()
    face.close()
    return 0


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
