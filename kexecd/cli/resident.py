# SPDX-License-Identifier: MIT
"""The thin client: kexecctl's words go to the daemon, whose copy does with them what kexecctl would do.

It comes before everything else, and imports next to nothing: an interpreter with all of kexecd in it takes most of the
time of a restart to begin. Where nobody listens kexecctl does it itself; and also where whoever listens does not begin
in time. Either of them does it, never both: who begins says so first, and can no longer say so to a caller that has
given up.

A request is one message of a SOCK_SEQPACKET socket (unix(7)), words with a NUL behind each, with four descriptors: the
caller's streams, and its working directory. Answers are BEGUN, and the exit status as a decimal number.
"""

import posix  # and not os, which an interpreter without site has not loaded yet, and loads for longer than ours takes
import sys
from _socket import AF_UNIX, SCM_RIGHTS, SHUT_RD, SHUT_WR, SOCK_SEQPACKET, SOL_SOCKET, socket

from kexecd import __version__

DOOR = "/run/kexecd/request"
BEGUN = b"begun"

ENVIRONMENT = ("COLUMNS", "LANG", "TERM", "PYTEST_CURRENT_TEST", "KEXECD_UNDER_TEST")
"""What goes along of the environment: how the output is to look, and what kexecd.kernel.guard has to know."""

ALONE = ("confirm", "finish", "service", "state")
"""Commands of an init that may be stopping the daemon at this very moment; and one that may be given a descriptor."""

PATIENCE = 5.0
"""Seconds for the daemon to begin; it has nothing else to do."""

FAILURE = 1  # kexecd.errors.ExitCode, which is not worth its import

_LIMIT = 64  # bytes of an answer


def ask(words: list[str], door: str = DOOR) -> int | None:
    """Have the daemon do it: the exit status, or None if nobody has begun, so that it is still to be done."""
    if posix.geteuid() or not words or words[0] in ALONE or words[0].startswith("-"):
        return None
    connection = socket(AF_UNIX, SOCK_SEQPACKET)
    if connection.fileno() <= 2:  # one of our streams is closed, and this is taken for it
        connection.close()
        return None
    try:
        connection.settimeout(PATIENCE)
        try:
            connection.connect(door)
            _send(connection, words)
            begun = _begins(connection)
        except OSError:  # nobody listens, or does so in time
            return None
        return _outcome(connection) if begun else None
    except KeyboardInterrupt:
        return FAILURE
    finally:
        connection.close()


def is_there(door: str = DOOR) -> bool:
    """Whether somebody listens."""
    connection = socket(AF_UNIX, SOCK_SEQPACKET)
    try:
        connection.settimeout(PATIENCE)
        connection.connect(door)
    except OSError:
        return False
    finally:
        connection.close()
    return True


def _send(connection: socket, words: list[str]) -> None:
    about = [_encoded(word) for word in (__version__, sys.stdout.encoding, sys.stdout.errors or "strict")]
    about += [posix.environ.get(name.encode(), b"") for name in ENVIRONMENT]
    here = posix.open(".", posix.O_PATH | posix.O_DIRECTORY | posix.O_CLOEXEC)
    try:
        rights = b"".join(fd.to_bytes(4, sys.byteorder) for fd in (0, 1, 2, here))
        message = b"".join(part + b"\0" for part in (*about, *map(_encoded, words)))
        connection.sendmsg([message], [(SOL_SOCKET, SCM_RIGHTS, rights)])
    finally:
        posix.close(here)


def _encoded(word: str) -> bytes:
    """As os.fsencode() does it."""
    return word.encode(sys.getfilesystemencoding(), sys.getfilesystemencodeerrors())


def _begins(connection: socket) -> bool:
    try:
        return connection.recv(_LIMIT) == BEGUN
    except TimeoutError:
        connection.shutdown(SHUT_RD)  # from now on nobody can say so; but somebody may have at this moment
        return connection.recv(_LIMIT) == BEGUN


def _outcome(connection: socket) -> int:
    posix.chdir("/")  # spared as we are, we must not hold a filesystem by where we were started
    connection.settimeout(None)
    try:
        try:
            said = connection.recv(_LIMIT)
        except KeyboardInterrupt:
            connection.shutdown(SHUT_WR)  # there it is a Ctrl-C too; a second one ends only us
            said = connection.recv(_LIMIT)
    except OSError:
        said = b""
    if not said:
        why = "the process of kexecd that was at it was killed; `kexecctl status` says how far it came"
        print(f"kexecctl: cannot tell what became of it: {why}", file=sys.stderr)
        return FAILURE
    return int(said)
