"""`ptrtensor status`: how a worker is, for its owner."""

import datetime
from pathlib import Path
from typing import Annotated

import typer

from ptrtensor.cli.output import named_errors, printable
from ptrtensor.cli.paths import path
from ptrtensor.owner.status import ask_status
from ptrtensor.transport.addresses import parse_address


def status(
    address: Annotated[str, typer.Argument(help="Where the worker listens.", metavar="HOST:PORT")],
    identity: Annotated[Path, typer.Option(parser=path, help="Directory of the worker's own identity.", metavar="DIR")],
    seconds: Annotated[float, typer.Option(min=0.1, help="How long to wait for an answer.")] = 10.0,
) -> None:
    """Say how a worker is, to its owner: who connects with the identity that it serves with."""
    with named_errors():
        found = ask_status(*parse_address(address), identity, seconds)
        uptime = datetime.timedelta(seconds=round(found.seconds))
        typer.echo(
            f"worker {printable(found.worker)} is up {uptime} (ptrtensor {found.ptrtensor}, torch {found.torch})"
        )
        typer.echo(f"publications: {found.publications}, sessions: {len(found.sessions)}")
        for session in found.sessions:
            work = f"{session.operations} operations ({session.operations_per_second:.0f}/s)"
            holds = f"{session.objects} objects of {session.object_bytes} bytes"
            does = f"{work}  {holds}" if session.answers else "gives no answer"
            typer.echo(f"{session.number}  {printable(session.client)}  {session.seconds:.0f} s  {does}")
