"""A worker process on this machine, and the socket to it."""

import contextlib
import os
import secrets
import socket
import subprocess
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Final

from ptrtensor.errors import WorkerLostError

START_SECONDS: Final = 120.0
TOKEN_SECONDS: Final = 5.0
END_SECONDS: Final = 10.0
PACKAGE_PARENT: Final = str(Path(__file__).parents[2])


CLEARED_MEMORY: Final = {
    "GLIBC_TUNABLES": "glibc.malloc.tcache_count=0:glibc.malloc.perturb=255:glibc.malloc.hugetlb=1"
}
"""glibc then fills what it hands out with zeros, so `torch.empty` shows nothing that was freed. In huge pages that
takes a quarter of the time.
"""


def launch(
    options: list[str],
    pass_fds: tuple[int, ...],
    stdin: int,
    settings: Mapping[str, str] = MappingProxyType({}),
    printed: int | None = None,
) -> subprocess.Popen[bytes]:
    """Start `python -m ptrtensor.worker` with these options, and these variables in its environment.

    :param printed: where all goes that it prints; by default where it goes here.
    """
    path = os.pathsep.join(filter(None, (PACKAGE_PARENT, os.environ.get("PYTHONPATH"))))
    # Huge pages for large tensors: first touch of ordinary ones costs as much as receiving them.
    # Threads that wait asleep: two processes share the cores, and spinning ones take them from each other.
    defaults = {"THP_MEM_ALLOC_ENABLE": "1", "OMP_WAIT_POLICY": "PASSIVE"}
    return subprocess.Popen(
        # -P: a module in the working directory that is called as one of Python's is not meant.
        [sys.executable, "-P", "-m", "ptrtensor.worker", *options],
        stdin=stdin,
        stdout=printed,
        stderr=None if printed is None else subprocess.STDOUT,
        pass_fds=pass_fds,
        start_new_session=True,  # Ctrl-C in a terminal is for the starter; the worker ends with it
        env={**defaults, **os.environ, **settings, "PYTHONPATH": path},
    )


class WorkerProcess:
    """Started by running a module, so the starter's script needs no `if __name__ == "__main__"`.

    Its standard input is a pipe from this process that is never written to again: when this process ends, however
    it ends, the pipe does and the worker with it.
    """

    def __init__(self, worker: str, compute_device: str, *, unix: bool = hasattr(socket, "AF_UNIX")) -> None:
        self.token = secrets.token_hex(16)
        options = [f"--id={worker}", f"--compute-device={compute_device}"]  # with "=", for what begins with "-"
        if unix:
            self.socket, theirs = socket.socketpair()
            with theirs:
                try:
                    self._start(["--fd", str(theirs.fileno()), *options], pass_fds=(theirs.fileno(),))
                except BaseException:
                    self.socket.close()
                    raise
        else:
            with socket.create_server(("127.0.0.1", 0)) as listener:
                listener.settimeout(START_SECONDS)
                self._start(["--connect", "{}:{}".format(*listener.getsockname()), *options], pass_fds=())
                self.socket = self._accept(listener)

    def _start(self, options: list[str], pass_fds: tuple[int, ...]) -> None:
        self.process = launch(options, pass_fds, subprocess.PIPE)
        assert self.process.stdin is not None
        with contextlib.suppress(BrokenPipeError):  # it has ended already, which its socket shows
            self.process.stdin.write(f"{self.token}\n".encode())
            self.process.stdin.flush()

    def _accept(self, listener: socket.socket) -> socket.socket:
        """The first connection that knows the token is the worker's."""
        deadline = time.monotonic() + START_SECONDS
        listener.settimeout(0.1)
        while True:
            try:
                sock, _ = listener.accept()
            except TimeoutError as error:
                if self.exit_status is None and time.monotonic() < deadline:
                    continue
                self.end()
                raise WorkerLostError("the worker process did not start") from error
            sock.settimeout(TOKEN_SECONDS)
            with contextlib.suppress(OSError):
                if sock.recv(len(self.token), socket.MSG_WAITALL) == self.token.encode():
                    return sock
            sock.close()

    @property
    def exit_status(self) -> int | None:
        """None while the process runs."""
        return self.process.poll()

    def end(self) -> None:
        """End the process, at once if it does not end by itself. May be called twice."""
        if self.process.stdin is not None:
            with contextlib.suppress(OSError):
                self.process.stdin.close()
        try:
            self.process.wait(END_SECONDS)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()

    def abandon(self) -> None:
        """In a forked child: let go of the pipe, so that the worker ends with its starter and not with this one."""
        if self.process.stdin is not None:
            self.process.stdin.close()
        self.process.returncode = 0
