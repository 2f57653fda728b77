"""TCP connections of all launched processes to the main process, which the launcher's rendezvous brings together."""

import contextlib
import hmac
import ipaddress
import os
import pickle
import secrets
import socket
import weakref
from collections.abc import Sequence
from datetime import timedelta
from multiprocessing.connection import Connection, wait
from typing import Any

from hf_tl.errors import ConfigError

JOIN_TIMEOUT = timedelta(minutes=10)
"""Time in which all processes must have started."""
_HANDSHAKE_SECONDS = 5.0
_TOKEN_BYTES, _RANK_BYTES = 32, 4
_KEEPALIVE = {"TCP_KEEPIDLE": 10, "TCP_KEEPINTVL": 5, "TCP_KEEPCNT": 4}
"""Seconds of silence, seconds between probes, and probes without an answer, after which a machine counts as lost."""
_sockets: "weakref.WeakSet[Connection | socket.socket]" = weakref.WeakSet()


class Entrance:
    """Server socket of the main process, to which the others connect with a token that only they know."""

    def __init__(self, store: Any, key: str) -> None:
        """Open the socket, and publish its address and the token in a store of torch."""
        dual = socket.has_dualstack_ipv6()
        family = socket.AF_INET6 if dual else socket.AF_INET
        self._socket = socket.create_server(("", 0), family=family, backlog=512, dualstack_ipv6=dual)
        _sockets.add(self._socket)
        self._token = secrets.token_bytes(_TOKEN_BYTES)
        self._store = store  # the main process may serve it
        store.set(key, f"{_own_address()} {self._socket.getsockname()[1]} {self._token.hex()}")

    def fileno(self) -> int:
        """Return the descriptor to wait for."""
        return self._socket.fileno()

    def accept(self) -> tuple[int, Connection] | None:
        """Return the rank and the connection of a process that has connected; None if it does not know the token."""
        visitor, _ = self._socket.accept()
        with visitor, contextlib.suppress(OSError):
            visitor.settimeout(_HANDSHAKE_SECONDS)
            greeting = visitor.recv(_TOKEN_BYTES + _RANK_BYTES)
            if hmac.compare_digest(greeting[:_TOKEN_BYTES], self._token):
                return int.from_bytes(greeting[_TOKEN_BYTES:], "big"), _connection(visitor)
        return None

    @property
    def closed(self) -> bool:
        """Whether no more connections are accepted."""
        return self.fileno() == -1

    def close(self) -> None:
        """Accept no more connections."""
        self._socket.close()


def meet(number: int) -> tuple[int, int, Entrance | Connection]:
    """Bring all launched processes together.

    Args:
        number: Number of the meeting, the same on all processes.

    Returns:
        Rank of this process, number of processes, and on the main process the entrance for the others, on others the
        connection to the main process.

    Raises:
        ConfigError: The processes do not reach each other.
    """
    from torch.distributed.rendezvous import rendezvous

    key = f"hf_tl/{number}"
    try:
        store, rank, size = next(rendezvous("env://", timeout=JOIN_TIMEOUT))
        if rank == 0:
            return rank, size, Entrance(store, key)
        host, port, token = store.get(key).decode().split()
        link = socket.create_connection((host, int(port)), timeout=JOIN_TIMEOUT.total_seconds())
        link.sendall(bytes.fromhex(token) + rank.to_bytes(_RANK_BYTES, "big"))
        return rank, size, _connection(link)
    except (OSError, RuntimeError, ValueError) as error:  # torch raises RuntimeError, also for a time-out
        minutes = JOIN_TIMEOUT.total_seconds() / 60
        raise ConfigError(
            f"expected {os.environ['WORLD_SIZE']} processes that connect to each other within {minutes:.0f} minutes, "
            f"found: {error}; see what the other processes printed, set RANK, WORLD_SIZE, MASTER_ADDR and MASTER_PORT "
            "for each process, and allow TCP connections between the machines"
        ) from error


def send(link: Connection, message: Any) -> None:
    """Send a message; if the other process is gone, nothing happens."""
    with contextlib.suppress(OSError):
        link.send_bytes(pickle.dumps(message))


def receive(link: Connection) -> Any:
    """Return the next message, or None if the other process is gone."""
    try:
        return pickle.loads(link.recv_bytes())
    except (EOFError, OSError):
        link.close()
        return None


def ready(sources: Sequence[Connection | Entrance], seconds: float | None = None) -> list[Any]:
    """Wait for messages, ends and visitors; return their sources, none after the time."""
    return wait(sources, seconds)  # type: ignore[arg-type]


def _connection(link: socket.socket) -> Connection:
    link.settimeout(None)
    link.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    for name, value in _KEEPALIVE.items():
        if hasattr(socket, name):
            link.setsockopt(socket.IPPROTO_TCP, getattr(socket, name), value)
    connection = Connection(link.detach())
    _sockets.add(connection)
    return connection


def _own_address() -> str:
    """Return the address under which the processes of other machines reach this one."""
    master, port = os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"])
    family, kind, protocol, _, address = socket.getaddrinfo(master, port, type=socket.SOCK_DGRAM)[0]
    with socket.socket(family, kind, protocol) as probe:
        probe.connect(address)  # sends nothing
        host = probe.getsockname()[0]
    return master if ipaddress.ip_address(host).is_loopback else host


def _close_inherited() -> None:
    """Close the sockets in a forked process, such as a loader worker, which would keep them open after their owner."""
    for inherited in list(_sockets):
        inherited.close()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_close_inherited)
