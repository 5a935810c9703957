# SPDX-License-Identifier: MIT
"""server.py SOCKET [KEXECD-SOCKET]: a key-value server whose table outlives restarts of the machine.

A line is a question, a line the answer: SET key value -> OK, GET key -> VALUE value | NONE, SUM -> SUM count writes
checksum. FROZEN: this machine restarts, try again on the other side.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import sys

from table import Frozen, Table

from kexecd import client


def answer(table: Table, line: bytes) -> bytes:
    match line.split():
        case [b"SET", key, value]:
            try:
                table.set(key, value)
            except Frozen:
                return b"FROZEN"
            return b"OK"
        case [b"GET", key]:
            found = table.get(key)
            return b"NONE" if found is None else b"VALUE " + found
        case [b"SUM"]:
            return f"SUM {len(table)} {table.writes} {table.checksum()}".encode()
        case _:
            return b"WHAT?"


async def serve(path: str, table: Table) -> None:
    async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(ConnectionError):
            while line := await reader.readline():
                writer.write(answer(table, line) + b"\n")
                await writer.drain()
        writer.close()

    with contextlib.suppress(FileNotFoundError):
        os.unlink(path)
    server = await asyncio.start_unix_server(talk, path)
    async with server:
        await server.serve_forever()


if __name__ == "__main__":
    asyncio.run(serve(sys.argv[1], Table("keyvalue", path=sys.argv[2] if len(sys.argv) > 2 else client.SOCKET)))
