"""`ptrtensor serve`: the data owner's worker."""

import contextlib
import logging
from pathlib import Path
from typing import Annotated, Final

import typer

from ptrtensor.cli.output import named_errors
from ptrtensor.cli.paths import path
from ptrtensor.cli.signals import Signals
from ptrtensor.owner.logs import log_to_standard_error
from ptrtensor.owner.options import Options, lease_of, memory_of
from ptrtensor.owner.serving import Prepared

log: Final = logging.getLogger("ptrtensor.serve")


def serve(
    id: Annotated[str, typer.Option(help="The worker's name.")],
    identity: Annotated[
        Path, typer.Option(parser=path, help="Directory of this side's certificate and key.", metavar="DIR")
    ],
    trust: Annotated[
        Path, typer.Option(parser=path, help="Directory of the certificates that are trusted.", metavar="DIR")
    ] = (Options.trust),
    listen: Annotated[str, typer.Option(help="Address to listen on; port 0: any free one.", metavar="HOST:PORT")] = (
        Options.listen
    ),
    data: Annotated[
        list[Path] | None,
        typer.Option(
            parser=path, help="File, or directory of files, to publish; may be given again.", metavar="FILE|DIR"
        ),
    ] = None,
    policy: Annotated[
        Path | None, typer.Option(parser=path, help="Rules of what may leave; without it nothing may.", metavar="FILE")
    ] = None,
    state: Annotated[
        Path, typer.Option(parser=path, help="Where requests and the day's quotas are kept.", metavar="FILE")
    ] = (Options.state),
    audit: Annotated[
        Path | None, typer.Option(parser=path, help="Log that is only added to, of all that happens.", metavar="FILE")
    ] = None,
    compute_device: Annotated[
        str, typer.Option(help="Where operations run, for instance cuda.")
    ] = Options.compute_device,
    threads: Annotated[int | None, typer.Option(min=1, help="Threads for one operation.")] = None,
    sessions: Annotated[int, typer.Option(min=1, help="Sessions at the same time.")] = Options.sessions,
    max_memory: Annotated[
        str | None, typer.Option(help="Memory for each session, for instance 8GiB.", metavar="SIZE")
    ] = None,
    max_objects: Annotated[int, typer.Option(min=1, help="Objects in each session.")] = Options.max_objects,
    lease: Annotated[
        float, typer.Option(min=0, help="Seconds that a session waits for a client whose connection broke.")
    ] = Options.lease,
) -> None:
    """Serve this machine's data to those whose certificates are trusted, until SIGTERM, SIGHUP or Ctrl-C."""
    with named_errors(), Signals() as signals:
        log_to_standard_error()
        options = Options(
            id=id,
            identity=identity,
            trust=trust,
            listen=listen,
            data=tuple(data or ()),
            policy=policy,
            state=state,
            audit=audit,
            compute_device=compute_device,
            threads=threads,
            sessions=sessions,
            max_memory=memory_of(max_memory, "--max-memory"),
            max_objects=max_objects,
            lease=lease_of(lease, "--lease"),
        )
        with Prepared(options) as ready, contextlib.ExitStack() as stack:
            with signals.held_back():  # a server that has begun must be stopped
                server = ready.server()
                stack.callback(signals.ignore)
            publications = ready.datasets.publications
            for number in ready.policy.idle_rules(publications):
                log.warning("nothing published has the tags of a rule", extra={"policy": str(policy), "rule": number})
            count = len(publications)
            typer.echo(f"worker {id} serves {count} tensor{'' if count == 1 else 's'} on {ready.address}")
            server.serve_forever()
