"""A way between client and worker that breaks again and again."""

import contextlib
import select
import socket
import struct
import threading
import time
from collections.abc import Iterator
from itertools import repeat

AT_ONCE = struct.pack("ii", 1, 0)
"""SO_LINGER: what is on its way is thrown away, and the peer is told so."""


class CuttingProxy:
    """Cuts a connection when so many bytes have crossed it, counted over both directions; then serves the next."""

    def __init__(self, port: int, after: Iterator[int] = repeat(1 << 60), at: int = 0) -> None:  # noqa: B008
        """`at` is the port where it listens itself; 0: any free one."""
        self.cuts = 0
        self.bytes = 0
        self._target = ("127.0.0.1", port)
        self._stalled = self._redirected = self._closed = False
        self._after = after
        self._listener = socket.create_server(("127.0.0.1", at))
        self.port: int = self._listener.getsockname()[1]
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def stall(self) -> None:
        """Let nothing through any more, without closing anything: a way on which all is lost."""
        self._stalled = True

    def redirect(self, port: int) -> None:
        """Cut what is there, and lead to somebody else from now on."""
        self._target = ("127.0.0.1", port)
        self._redirected = True

    def close(self) -> None:
        self._closed = True
        with contextlib.suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        self._thread.join(20)

    def _run(self) -> None:
        while True:
            try:
                near, _ = self._listener.accept()
            except OSError:
                return
            with near, contextlib.suppress(OSError), socket.create_connection(self._target) as far:
                if self._relay(near, far, next(self._after)):
                    self.cuts += 1
                    for sock in (near, far):
                        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, AT_ONCE)

    def _relay(self, near: socket.socket, far: socket.socket, most: int) -> bool:
        """Whether the connection was cut, rather than closed by one of its ends."""
        other = {near: far, far: near}
        while most > 0 and not self._closed:
            if self._redirected:
                self._redirected = False
                return True
            if self._stalled:
                time.sleep(0.05)
                continue
            for source in select.select([near, far], [], [], 0.1)[0]:
                data = source.recv(min(most, 65536))
                if not data:
                    return False
                other[source].sendall(data)
                most -= len(data)
                self.bytes += len(data)
                if most <= 0:
                    break
        return True
