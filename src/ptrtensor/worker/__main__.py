"""`python -m ptrtensor.worker`: a worker process.

With `--listen HOST:PORT` it serves whoever connects on this machine's loopback. A `ProcessWorker` starts it with
`--fd` or `--connect` instead; such a worker ends when its standard input does, that is with its starter, however
that ended. `ptrtensor serve` starts it with `--control`, one for each session.
"""

import argparse
import os
import signal
import socket
import sys
import threading

import torch

from ptrtensor.errors import PtrTensorError
from ptrtensor.transport.addresses import format_address, parse_address
from ptrtensor.version import __version__
from ptrtensor.worker.hosted import host
from ptrtensor.worker.identity import Identity
from ptrtensor.worker.listener import Gate, Refusing, listen, serve_connection, serve_forever, usable_device
from ptrtensor.worker.session import Session


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="ptrtensor-worker", description="A worker that holds tensors.")
    way = parser.add_mutually_exclusive_group(required=True)
    way.add_argument("--listen", metavar="HOST:PORT", help="serve on this loopback address (port 0: any free one)")
    way.add_argument("--fd", type=int, help=argparse.SUPPRESS)
    way.add_argument("--control", type=int, help=argparse.SUPPRESS)
    way.add_argument("--connect", metavar="HOST:PORT", help=argparse.SUPPRESS)
    parser.add_argument("--id", default="worker", help="the worker's name (default: worker)")
    parser.add_argument("--compute-device", default="cpu", help="where it computes, e.g. cuda (default: cpu)")
    parser.add_argument("--threads", type=int, help="threads for one operation (default: torch's choice)")
    options = parser.parse_args(argv)
    identity = Identity(options.id, __version__, str(torch.__version__))
    try:
        if options.threads is not None:
            torch.set_num_threads(options.threads)
        if options.listen is not None:
            return run_listener(options.listen, identity, options.compute_device)
        if options.control is not None:
            return host(options.control, options.compute_device)
        return run_child(options.fd, options.connect, identity, options.compute_device)
    except (PtrTensorError, OSError, ValueError, OverflowError, RuntimeError) as error:
        sys.stderr.write(f"ptrtensor-worker: {' '.join(str(error).split())}\n")
        return 1


def run_listener(address: str, identity: Identity, compute_device: str) -> int:
    host, port = parse_address(address, lowest_port=0)
    usable_device(compute_device)
    with listen(host, port) as listener:
        where = format_address(*listener.getsockname()[:2])
        sys.stdout.write(f"worker {identity.worker} listens on {where}\n")
        sys.stdout.flush()
        try:
            serve_forever(listener, identity, compute_device)
        except KeyboardInterrupt:
            return 130
    return 0


def run_child(fd: int | None, connect: str | None, identity: Identity, compute_device: str) -> int:
    # Ctrl-C in a terminal goes to the whole process group; this process ends with its starter, not before.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    token = sys.stdin.readline().strip()
    threading.Thread(target=end_with_starter, daemon=True).start()
    if fd is not None:
        sock = socket.socket(fileno=fd)
    else:
        sock = socket.create_connection(parse_address(connect))
        sock.sendall(token.encode())
    try:
        usable_device(compute_device)
    except PtrTensorError as error:
        serve_connection(sock, Refusing(str(error)))  # the starter shows it
        return 1
    serve_connection(sock, Gate(Session(identity, compute_device), threading.RLock(), token=token))
    return 0


def end_with_starter() -> None:
    """Standard input ends when the process at its other end does, even by `kill -9`."""
    while os.read(sys.stdin.fileno(), 1024):
        pass
    os._exit(0)


if __name__ == "__main__":
    sys.exit(main())
