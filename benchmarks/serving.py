"""`make bench-serving`: what serving costs. TLS beside plain TCP and beside the standard library's `ssl` alone; the
audit log beside none; and what a client that floods does to another.

Each round runs all of a group one after the other, and ratios are taken within a round.
"""

import argparse
import contextlib
import json
import socket
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Final

import numpy as np
import torch
from rich.console import Console
from rich.table import Table

import ptrtensor as pt
from benchmarks.system import ENVIRONMENT
from ptrtensor.owner import keys
from ptrtensor.transport.tls import Credentials, context

MEBIBYTES: Final = 256
STEPS: Final = 200
POLICY: Final = '[[rule]]\nread = "always"\n'
FLOOD: Final = """
import sys, torch, ptrtensor as pt
bob = pt.RemoteWorker(sys.argv[1], id="bob/flood", identity="carol", trust="trusts-bob")
{prepare}
print("begun", flush=True)
while True:
    {again}
"""
FLOODS: Final = {
    "beside a flood of products": ("value = torch.ones(512, 512, device=bob.device)", "value @ value"),
    "beside a flood of 4 MiB there and back": ("value = torch.ones(1024 * 1024)", "pt.send(value, bob).cpu()"),
}
"""The first loads the process of its own session, the second the server, which relays for all."""


class Owner:
    """A folder with keys and data, and servers of it."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        for name in ("bob", "alice", "carol"):
            keys.new_identity(name, folder)
        keys.trust(folder / "bob" / "bob.pem", folder / "trusts-bob")
        for name in ("alice", "carol"):
            keys.trust(folder / name / f"{name}.pem", folder / "trusted")
        (folder / "policy.toml").write_text(POLICY)
        np.save(folder / "patients.npy", np.random.default_rng(1).normal(size=(64, 784)).astype(np.float32))

    @contextlib.contextmanager
    def serving(self, *options: str) -> Iterator[str]:
        """The address of a server."""
        command = [sys.executable, "-m", "ptrtensor", "serve", "--id=bob", "--identity=bob", "--listen=127.0.0.1:0"]
        command += ["--data=patients.npy", "--policy=policy.toml", "--threads=1", *options]
        with started(command, self.folder) as line:
            yield line.split()[-1]

    def connect(self, address: str, name: str) -> pt.RemoteWorker:
        return pt.RemoteWorker(
            address, id=f"bob/{name}", identity=self.folder / "alice", trust=self.folder / "trusts-bob"
        )


@contextlib.contextmanager
def started(command: list[str], folder: Path) -> Iterator[str]:
    """The first line that a process prints; the process ends with this."""
    with subprocess.Popen(
        command, cwd=folder, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True, env=ENVIRONMENT
    ) as process:
        assert process.stdout is not None
        try:
            yield process.stdout.readline()
        finally:
            process.terminate()


# --- throughput


def transfer(worker: pt.Worker) -> Callable[[], None]:
    """256 MiB there and back."""
    local = torch.ones(MEBIBYTES * 1024**2 // 4)

    def run() -> None:
        pt.send(local, worker).cpu()

    return run


@contextlib.contextmanager
def raw_echo(credentials: tuple[Credentials, Credentials] | None) -> Iterator[Callable[[], None]]:
    """The floor: a socket of the standard library, with TLS if there are credentials, and nothing else."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        size = MEBIBYTES * 1024**2

        def echo() -> None:
            with contextlib.suppress(OSError):
                accepted, _ = listener.accept()
                if credentials is not None:
                    accepted = context(credentials[0], server=True).wrap_socket(accepted, server_side=True)
                into = memoryview(bytearray(size))
                while True:
                    receive(accepted, into)
                    accepted.sendall(into)

        threading.Thread(target=echo, daemon=True).start()
        plain = socket.create_connection(listener.getsockname())
        sock = plain if credentials is None else context(credentials[1], server=False).wrap_socket(plain)
        data, back = memoryview(bytearray(size)), memoryview(bytearray(size))

        def run() -> None:
            sock.sendall(data)
            receive(sock, back)

        with sock:
            yield run


def receive(sock: socket.socket, into: memoryview) -> None:
    while into:
        count = sock.recv_into(into)
        if not count:
            raise ConnectionResetError
        into = into[count:]


# --- training


def training(worker: pt.Worker, patients: torch.Tensor, read_every: int) -> Callable[[], None]:
    """So many steps of a small network; the loss is read now and then, which is a release."""
    torch.manual_seed(0)
    model = torch.nn.Sequential(torch.nn.Linear(784, 256), torch.nn.ReLU(), torch.nn.Linear(256, 10)).to(worker.device)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    target = pt.send(torch.randint(10, (64,)), worker)

    def run() -> None:
        for step in range(STEPS):
            optimizer.zero_grad()
            loss = torch.nn.functional.cross_entropy(model(patients), target)
            loss.backward()
            optimizer.step()
            if read_every and step % read_every == 0:
                loss.item()
        worker.synchronize()

    return run


def small_steps(worker: pt.Worker) -> Callable[[], None]:
    """A client that waits for each of its values."""
    value = pt.send(torch.ones(100), worker)

    def run() -> None:
        for _ in range(STEPS):
            (value + 1).sum().item()

    return run


def rounds(runs: dict[str, Callable[[], None]], count: int) -> dict[str, list[float]]:
    seconds: dict[str, list[float]] = {name: [] for name in runs}
    for number in range(-1, count):
        for name, run in runs.items():
            began = time.perf_counter()
            run()
            if number >= 0:
                seconds[name].append(time.perf_counter() - began)
    return seconds


def shown(title: str, seconds: dict[str, list[float]], floor: str, unit: Callable[[float], str]) -> Table:
    table = Table(title=title)
    for heading in ("", "median", f"times {floor}", "from ... to"):
        table.add_column(heading)
    for name, taken in seconds.items():
        ratios = sorted(mine / its for mine, its in zip(taken, seconds[floor], strict=True))
        table.add_row(
            name,
            unit(statistics.median(taken)),
            f"{statistics.median(ratios):.2f}",
            f"{ratios[0]:.2f} ... {ratios[-1]:.2f}",
        )
    return table


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.serving", description=__doc__)
    parser.add_argument("results", type=Path, help="where the results are written, as JSON")
    parser.add_argument("--rounds", type=int, default=7)
    options = parser.parse_args()
    console, results = Console(), {}
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as name, contextlib.ExitStack() as stack:
        owner = Owner(Path(name))
        plain = [sys.executable, "-m", "ptrtensor.worker", "--listen=127.0.0.1:0", "--threads=1"]
        quiet = owner.connect(stack.enter_context(owner.serving("--state=quiet.sqlite")), "quiet")
        address = stack.enter_context(owner.serving("--state=state.sqlite", "--audit=audit.jsonl"))
        audited = owner.connect(address, "audited")
        loopback = pt.RemoteWorker(stack.enter_context(started(plain, owner.folder)).split()[-1])
        both = tuple(Credentials(owner.folder / who, owner.folder / trust) for who, trust in WHO)
        throughput = {
            "plain socket": stack.enter_context(raw_echo(None)),
            "socket with ssl": stack.enter_context(raw_echo((both[0], both[1]))),
            "ptrtensor, plain TCP": transfer(loopback),
            "ptrtensor serve, TLS": transfer(quiet),
        }
        results["throughput"] = rounds(throughput, options.rounds)
        console.print(
            shown(
                f"{MEBIBYTES} MiB there and back",
                results["throughput"],
                "socket with ssl",
                lambda seconds: f"{2 * MEBIBYTES / seconds:.0f} MiB/s",
            )
        )
        for title, every in (("no value read", 0), ("the loss of every 10th step", 10), ("of every step", 1)):
            runs = {}
            for worker, kind in ((quiet, "without a log"), (audited, "with --audit")):
                (patients,) = worker.search("#patients")
                runs[kind] = training(worker, patients, every)
            found = results[f"audit, {title}"] = rounds(runs, 3 * options.rounds)  # a few per cent are looked for
            console.print(
                shown(
                    f"{STEPS} training steps, {title}",
                    found,
                    "without a log",
                    lambda seconds: f"{1e3 * seconds / STEPS:.2f} ms a step",
                )
            )
        run = small_steps(audited)
        results["turns"] = rounds({"alone": run}, options.rounds)
        for title, (prepare, again) in FLOODS.items():
            program = FLOOD.format(prepare=prepare, again=again)
            with started([sys.executable, "-c", program, address], owner.folder):
                time.sleep(1)
                results["turns"] |= rounds({title: run}, options.rounds)
        console.print(
            shown("one value after the other", results["turns"], "alone", lambda s: f"{1e3 * s / STEPS:.2f} ms each")
        )
        for worker in (quiet, audited, loopback):
            worker.close()
    options.results.parent.mkdir(parents=True, exist_ok=True)
    options.results.write_text(json.dumps(results, indent=1))
    return 0


WHO: Final = (("bob", "trusted"), ("alice", "trusts-bob"))

if __name__ == "__main__":
    sys.exit(main())
