"""Descriptors that are handed on: systemd's own protocol, between keeper and daemon or systemd and daemon.

    to a child     sd_listen_fds(3): LISTEN_FDS=n, LISTEN_FDNAMES=a:b:..., LISTEN_PID; descriptors 3 to 2+n
    to the keeper  sd_notify(3): a datagram, FDSTORE=1, FDNAME=..., FDPOLL=0, with the descriptor
                   to systemd: to NOTIFY_SOCKET; to our own keeper: on a descriptor that it handed down, since a path
                   can vanish with a login session

Rules: names are `control` (a listening socket; systemd hands over several of this name), `spare` (the one beside the
recordings, from our keeper), `notify`, `alive` (end of file when the keeper is gone), `lock` (the keeper's) and
`stream-ID`; what was inherited is taken once. Imports nothing heavy: the keeper lives on this.
"""

from __future__ import annotations

import fcntl
import os
import socket
from collections.abc import Mapping, Sequence

FIRST = 3
CONTROL = "control"
SPARE = "spare"
NOTIFY = "notify"
ALIVE = "alive"
LOCK = "lock"
STREAM_PREFIX = "stream-"


def inherited(environment: dict[str, str]) -> list[tuple[str, int]]:
    """Take the descriptors that the parent handed on; afterwards they are nobody else's.

    Args:
        environment: `os.environ` or like it; the variables are removed from it.

    Returns:
        (name, descriptor) of each.
    """
    count = environment.pop("LISTEN_FDS", "")
    names = environment.pop("LISTEN_FDNAMES", "").split(":")
    pid = environment.pop("LISTEN_PID", "")
    if not count.isdigit() or (pid and pid != str(os.getpid())):
        return []
    found = []
    for index in range(int(count)):
        os.set_inheritable(FIRST + index, False)
        found.append((names[index] if index < len(names) else "unknown", FIRST + index))
    return found


def bequeath(descriptors: Sequence[tuple[str, int]], environment: Mapping[str, str]) -> dict[str, str]:
    """Put descriptors where the program that this process is about to execute will look for them.

    For use between fork and exec, or right before exec: descriptors 3 and up are overwritten.

    Returns:
        The environment for it.

    Raises:
        OSError: too many descriptors.
    """
    first_free = FIRST + len(descriptors)
    copies = [fcntl.fcntl(fd, fcntl.F_DUPFD_CLOEXEC, first_free) for _, fd in descriptors]
    for index, copy in enumerate(copies):
        os.dup2(copy, FIRST + index, inheritable=True)
    return {
        **environment,
        "LISTEN_FDS": str(len(descriptors)),
        "LISTEN_FDNAMES": ":".join(name for name, _ in descriptors),
        "LISTEN_PID": str(os.getpid()),
    }


class Notifier:
    """Speaks to whoever keeps this process: systemd, our keeper, or nobody.

    Args:
        voice: A connected datagram socket, or None for nobody.
    """

    def __init__(self, voice: socket.socket | None) -> None:
        self._socket = voice

    @classmethod
    def of(cls, handed: Mapping[str, int], address: str) -> Notifier:
        """The one for this process.

        Args:
            handed: What was inherited, by name.
            address: NOTIFY_SOCKET; empty where there is none.

        Raises:
            OSError: systemd does not listen.
        """
        if NOTIFY in handed:
            return cls(socket.socket(fileno=handed[NOTIFY]))
        if not address:
            return cls(None)
        voice = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        voice.connect("\0" + address[1:] if address.startswith("@") else address)
        return cls(voice)

    def tell(self, *lines: str, fds: Sequence[int] = ()) -> None:
        """Send one notification. Blocks for as long as the keeper's queue is full: it does nothing but read it.

        Raises:
            OSError: the keeper is gone.
        """
        if self._socket is not None:
            socket.send_fds(self._socket, ["\n".join(lines).encode()], list(fds))

    def store(self, name: str, fd: int) -> None:
        """Have a descriptor kept over this process's death. It is handed back under its name.

        Raises:
            OSError: the keeper is gone.
        """
        self.tell("FDSTORE=1", f"FDNAME={name}", "FDPOLL=0", fds=[fd])

    def remove(self, name: str) -> None:
        """Have what was stored under a name closed.

        Raises:
            OSError: the keeper is gone.
        """
        self.tell("FDSTOREREMOVE=1", f"FDNAME={name}")
