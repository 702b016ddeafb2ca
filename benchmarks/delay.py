"""A link with a delay: a process between two others, which hands on every byte so many seconds later."""

import queue
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

CHUNK = 1 << 16


@contextmanager
def delayed(address: str, seconds: float) -> Iterator[str]:
    """An address that leads to this one, `seconds` later in each direction."""
    command = [sys.executable, "-m", "benchmarks.delay", address, str(seconds)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            yield process.stdout.readline().strip()
        finally:
            process.terminate()


def carry(source: socket.socket, target: socket.socket, seconds: float) -> None:
    """Hand on in order, each chunk when it is due."""
    under_way: queue.SimpleQueue[tuple[float, bytes]] = queue.SimpleQueue()

    def receive() -> None:
        while chunk := source.recv(CHUNK):
            under_way.put((time.monotonic() + seconds, chunk))
        under_way.put((0, b""))

    threading.Thread(target=receive, daemon=True).start()
    while True:
        due, chunk = under_way.get()
        if not chunk:
            target.shutdown(socket.SHUT_WR)
            return
        time.sleep(max(0.0, due - time.monotonic()))
        target.sendall(chunk)


def main(address: str, seconds: float) -> None:
    host, _, port = address.rpartition(":")
    with socket.create_server(("127.0.0.1", 0)) as listening:
        sys.stdout.write(f"127.0.0.1:{listening.getsockname()[1]}\n")
        sys.stdout.flush()
        near = listening.accept()[0]
    with near, socket.create_connection((host, int(port))) as far:
        for end in (near, far):
            end.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        back = threading.Thread(target=carry, args=(far, near, seconds))
        back.start()
        carry(near, far, seconds)
        back.join()


if __name__ == "__main__":
    main(sys.argv[1], float(sys.argv[2]))
