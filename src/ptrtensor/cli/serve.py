"""`ptrtensor serve`: the data owner's worker."""

import contextlib
import logging
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Final

import typer

from ptrtensor.cli.output import named_errors
from ptrtensor.cli.signals import Signals
from ptrtensor.errors import IdentityError, PtrTensorError
from ptrtensor.owner import keys
from ptrtensor.owner.audit import Audit
from ptrtensor.owner.datasets import Datasets
from ptrtensor.owner.hosted_session import Patience
from ptrtensor.owner.logs import log_to_standard_error
from ptrtensor.owner.policy import Policy, bytes_of, read_policy
from ptrtensor.owner.server import Limits, Server
from ptrtensor.owner.state import State
from ptrtensor.transport.addresses import format_address, parse_address
from ptrtensor.transport.tls import Credentials
from ptrtensor.worker.listener import check_device, network_listener

log: Final = logging.getLogger("ptrtensor.serve")


def serve(
    id: Annotated[str, typer.Option(help="The worker's name.")],
    identity: Annotated[Path, typer.Option(help="Directory of this side's certificate and key.", metavar="DIR")],
    trust: Annotated[Path, typer.Option(help="Directory of the certificates that are trusted.", metavar="DIR")] = Path(
        "trusted"
    ),
    listen: Annotated[str, typer.Option(help="Address to listen on; port 0: any free one.", metavar="HOST:PORT")] = (
        "127.0.0.1:7700"
    ),
    data: Annotated[
        list[Path] | None,
        typer.Option(help="File, or directory of files, to publish; may be given again.", metavar="FILE|DIR"),
    ] = None,
    policy: Annotated[
        Path | None, typer.Option(help="Rules of what may leave; without it nothing may.", metavar="FILE")
    ] = None,
    state: Annotated[Path, typer.Option(help="Where requests and the day's quotas are kept.", metavar="FILE")] = Path(
        "state.sqlite"
    ),
    audit: Annotated[
        Path | None, typer.Option(help="Log that is only added to, of all that happens.", metavar="FILE")
    ] = None,
    compute_device: Annotated[str, typer.Option(help="Where operations run, for instance cuda.")] = "cpu",
    threads: Annotated[int | None, typer.Option(min=1, help="Threads for one operation.")] = None,
    sessions: Annotated[int, typer.Option(min=1, help="Sessions at the same time.")] = Limits.sessions,
    max_memory: Annotated[
        str | None, typer.Option(help="Memory for each session, for instance 8GiB.", metavar="SIZE")
    ] = None,
    max_objects: Annotated[int, typer.Option(min=1, help="Objects in each session.")] = Limits.objects,
    lease: Annotated[
        float, typer.Option(min=0, help="Seconds that a session waits for a client whose connection broke.")
    ] = Patience.lease,
) -> None:
    """Serve this machine's data to those whose certificates are trusted, until SIGTERM, SIGHUP or Ctrl-C."""
    with named_errors(), Signals() as signals:
        log_to_standard_error()
        credentials = Credentials(identity, trust)
        if keys.is_authority(keys.read_certificate(credentials.certificate)):
            raise IdentityError(
                f"{identity} is an authority: it signs for others and does not serve. Make another identity"
            )
        address = parse_address(listen, lowest_port=0)
        check_device(compute_device)
        rules = Policy() if policy is None else read_policy(policy)
        limits = Limits(sessions=sessions, memory=memory_of(max_memory), objects=max_objects)
        patience = Patience(lease=lease_of(lease))
        with (
            Datasets() as datasets,
            network_listener(*address) as listener,
            audit_log(audit) as written,
            contextlib.closing(State(state)) as kept,
        ):
            for path in data or []:
                datasets.add(path)
            with contextlib.ExitStack() as stack:
                with signals.held_back():  # a server that has begun must be stopped
                    server = Server(
                        id,
                        listener,
                        credentials,
                        datasets.publications,
                        compute_device=compute_device,
                        threads=threads,
                        limits=limits,
                        patience=patience,
                        policy=rules,
                        state=kept,
                        audit=written,
                    )
                    stack.callback(server.stop, "the worker was stopped by its owner")
                    stack.callback(signals.ignore)
                for number in rules.idle_rules(datasets.publications):
                    log.warning(
                        "nothing published has the tags of a rule", extra={"policy": str(policy), "rule": number}
                    )
                where = format_address(*listener.getsockname()[:2])
                count = len(datasets.publications)
                typer.echo(f"worker {id} serves {count} tensor{'' if count == 1 else 's'} on {where}")
                server.serve_forever()


def memory_of(text: str | None) -> int | None:
    """:raises PtrTensorError: it is no size."""
    try:
        return None if text is None else bytes_of(text)
    except ValueError as error:
        raise PtrTensorError(f"--max-memory: {error}") from error


def lease_of(seconds: float) -> float:
    """:raises PtrTensorError: nobody can wait for so long."""
    if seconds > threading.TIMEOUT_MAX:
        raise PtrTensorError(f"--lease: {seconds:g} is no number of seconds that a session can wait")
    return seconds


@contextmanager
def audit_log(path: Path | None) -> Iterator[Audit | None]:
    """The log, on the disk when this ends; None where none is kept."""
    if path is None:
        yield None
        return
    log = Audit(path)
    try:
        yield log
    finally:
        log.close()
