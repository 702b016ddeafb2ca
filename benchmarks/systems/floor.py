"""The floor: a bare socket between two processes, which carries as many bytes and computes nothing."""

import socket
import sys
from collections.abc import Callable
from functools import partial
from multiprocessing import get_context

from benchmarks.driver import drive
from benchmarks.workload import MEBI, Run

COMMAND = 40
"""Bytes of a command with three names."""

BULK = 256 * MEBI


def receive(link: socket.socket, buffer: memoryview) -> None:
    while len(buffer):
        got = link.recv_into(buffer)
        if not got:
            raise EOFError
        buffer = buffer[got:]


def serve(link: socket.socket) -> None:
    """Each order: how many bytes follow, and how many are to come back."""
    order = bytearray(16)
    space = memoryview(bytearray(BULK))
    while True:
        try:
            receive(link, memoryview(order))
        except EOFError:
            return
        takes, gives = int.from_bytes(order[:8], "big"), int.from_bytes(order[8:], "big")
        receive(link, space[:takes])
        link.sendall(space[:gives])


class Floor:
    def __init__(self, kind: str) -> None:
        if kind == "unix":
            self._link, other = socket.socketpair()
        else:
            with socket.create_server(("127.0.0.1", 0)) as listening:
                self._link = socket.create_connection(listening.getsockname())
                other = listening.accept()[0]
            for end in (self._link, other):
                end.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        get_context("spawn").Process(target=serve, args=(other,), daemon=True).start()
        other.close()
        self._space = memoryview(bytearray(BULK))
        self.synchronize()

    def synchronize(self) -> None:
        self._exchange(0, 1)

    def _exchange(self, takes: int, gives: int) -> None:
        order = takes.to_bytes(8, "big") + gives.to_bytes(8, "big")
        if takes < MEBI:
            self._link.sendall(order + self._space[:takes])
        else:
            self._link.sendall(order)
            self._link.sendall(self._space[:takes])
        receive(self._link, self._space[:gives])

    def preparations(self) -> dict[str, Callable[[], Run]]:
        return {
            "op_value": partial(self._repeat, 200, COMMAND, 4000),
            "chain_add": partial(self._repeat, 1000 // 32, 32 * COMMAND, 0),
            "up": partial(self._repeat, 1, BULK, 1),
            "down": partial(self._repeat, 1, 0, BULK),
            "up_small": partial(self._repeat, 200, 1024, 1),
            "down_small": partial(self._repeat, 200, 0, 1024),
        }

    def _repeat(self, times: int, takes: int, gives: int) -> Run:
        def run() -> None:
            for _ in range(times):
                self._exchange(takes, gives)

        return run


if __name__ == "__main__":
    floor = Floor(sys.argv[1])
    drive(floor.preparations(), floor.synchronize, sys.version.split()[0])
