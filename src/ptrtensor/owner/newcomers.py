"""Connections that belong to no session yet, each in a thread of its own."""

import contextlib
import socket
import threading
import time
from collections.abc import Callable, Iterable
from typing import Protocol

from ptrtensor.owner.session_process import shut_down

Welcome = Callable[[socket.socket, socket.socket], None]


class Newcomers:
    """Those whom the server will know sooner or later, or turns away when it stops."""

    def __init__(self) -> None:
        self._guards: dict[threading.Thread, socket.socket] = {}
        self._is_closed = False
        self._lock = threading.Lock()

    def receive(self, sock: socket.socket, welcome: Welcome) -> None:
        """Call it in a thread, with the connection and with a second hold on it: TLS takes the first for itself.

        :raises OSError: there are too many open files, or nobody is received any more.
        :raises RuntimeError: there are too many threads.
        """
        with contextlib.ExitStack() as undone:
            guard = undone.enter_context(sock.dup())
            thread = threading.Thread(target=self._run, args=(welcome, sock, guard), daemon=True)
            with self._lock:
                if self._is_closed:
                    raise ConnectionAbortedError("the worker was stopped")
                thread.start()
                self._guards[thread] = guard
            undone.pop_all()

    def _run(self, welcome: Welcome, sock: socket.socket, guard: socket.socket) -> None:
        try:
            welcome(sock, guard)
        finally:
            with self._lock:
                self._guards.pop(threading.current_thread(), None)
                guard.close()

    def turn_away(self, seconds: float) -> None:
        """Receive nobody any more, and wait until those who were received are gone: for so long while they are told
        why, and once more when they can neither hear nor be heard.
        """
        with self._lock:
            self._is_closed = True
        for ways in (socket.SHUT_RD, socket.SHUT_RDWR):
            with self._lock:
                threads = list(self._guards)
                for guard in self._guards.values():
                    shut_down(guard, ways)
            join_all(threads, seconds)


class Joined(Protocol):
    """A thread, or what has one."""

    def join(self, seconds: float, /) -> None:
        """Wait until it ends, for so long."""


def join_all(threads: Iterable[Joined], seconds: float) -> None:
    """Wait until they end, for so long in all."""
    deadline = time.monotonic() + seconds
    for thread in threads:
        thread.join(max(0.0, deadline - time.monotonic()))
