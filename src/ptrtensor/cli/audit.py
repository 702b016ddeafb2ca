"""`ptrtensor audit`: what happened, and that nobody changed the record of it."""

from datetime import datetime
from pathlib import Path
from typing import Annotated, Final

import typer

from ptrtensor.cli.output import named_errors, printable
from ptrtensor.cli.paths import path
from ptrtensor.owner.audit import Chain, Event, Fields, records

app = typer.Typer(no_args_is_help=True, help="What happened, and that nobody changed the record of it.")

HEADING: Final = ("number", "time", "event")

AuditFile = Annotated[Path, typer.Argument(parser=path, help="The log, as `serve --audit` wrote it.", metavar="FILE")]


@app.command("verify")
def verify(file: AuditFile) -> None:
    """Check that no line of an audit log was altered or removed."""
    with named_errors():
        chain = Chain()
        for _ in records(file, chain):
            pass
        typer.echo(f"{file} holds together: {chain.count} record{'' if chain.count == 1 else 's'}, last {chain.last}")


@app.command("show")
def show_records(
    file: AuditFile,
    event: Annotated[Event | None, typer.Option(help="Only events of this kind.", metavar="EVENT")] = None,
    client: Annotated[str | None, typer.Option(help="Only this client.")] = None,
    session: Annotated[str | None, typer.Option(help="Only this session.")] = None,
    object: Annotated[str | None, typer.Option(help="Only what has to do with this publication.")] = None,
    since: Annotated[
        datetime | None,
        typer.Option(help="Only from this time on (UTC).", formats=["%Y-%m-%d", "%Y-%m-%dT%H:%M", "%Y-%m-%dT%H:%M:%S"]),
    ] = None,
) -> None:
    """Print the records of an audit log, each checked."""
    wanted = {"event": event, "client": client, "session": session}
    with named_errors():
        for record in records(file):
            chosen = all(value is None or record.get(name) == value for name, value in wanted.items())
            chosen = chosen and (object is None or object in named(record))
            if chosen and (since is None or str(record["time"]) >= since.isoformat()):
                rest = "  ".join(f"{name}={printable(value)}" for name, value in record.items() if name not in HEADING)
                typer.echo(f"{record['number']:>5}  {record['time']}  {record['event']:18}  {rest}")


def named(record: Fields) -> tuple[object, ...]:
    """The publications that it has to do with."""
    objects = record.get("objects", ())
    return (record.get("object"), *(objects if isinstance(objects, list) else ()))
