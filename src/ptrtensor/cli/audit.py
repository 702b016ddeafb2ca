"""`ptrtensor audit`: what happened, and that nobody changed the record of it."""

import re
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Final

import typer

from ptrtensor.cli.output import named_errors, printable
from ptrtensor.cli.paths import path
from ptrtensor.errors import AuditError, PtrTensorError
from ptrtensor.owner.audit import Chain, Event, Fields, moment_of, records

app = typer.Typer(no_args_is_help=True, help="What happened, and that nobody changed the record of it.")

HEADING: Final = ("number", "time", "event")

AuditFile = Annotated[Path, typer.Argument(parser=path, help="The log, as `serve --audit` wrote it.", metavar="FILE")]


SINCE: Final = [
    *(f"%Y-%m-%d{time}" for time in ("", "T%H:%M", "T%H:%M:%S", "T%H:%M:%S.%f")),
    *(f"%Y-%m-%d{time}%z" for time in ("T%H:%M:%S", "T%H:%M:%S.%f")),
]
"""The last as the log has it."""


@app.command("verify")
def verify(
    file: AuditFile,
    noted: Annotated[
        str | None,
        typer.Option(help="A last hash that `verify` printed before: the log must still have it.", metavar="HASH"),
    ] = None,
) -> None:
    """Check that no line of an audit log was altered or removed."""
    with named_errors():
        chain = Chain()
        wanted = noted_hash(noted)
        numbers = {chain.last: "before the first record"}
        for record in records(file, chain):
            if chain.last == wanted:
                numbers[wanted] = f"of record {record['number']}"
        if wanted is not None and wanted not in numbers:
            raise AuditError(
                f"{file} holds together by itself, but none of its {chain.count} records has the noted hash {wanted}: "
                "it was made anew or cut off since then, or is another log"
            )
        found = "" if wanted is None else f"; the noted hash is that {numbers[wanted]}"
        typer.echo(
            f"{file} holds together: {chain.count} record{'' if chain.count == 1 else 's'}, last {chain.last}{found}"
        )


def noted_hash(text: str | None) -> str | None:
    """:raises PtrTensorError: it is none."""
    if text is None:
        return None
    wanted = text.strip().lower()
    if not re.fullmatch("[0-9a-f]{64}", wanted):
        raise PtrTensorError(
            f"--noted takes a hash as `audit verify` prints it, of 64 hexadecimal digits, not {text!r}"
        )
    return wanted


@app.command("show")
def show_records(
    file: AuditFile,
    event: Annotated[Event | None, typer.Option(help="Only events of this kind.", metavar="EVENT")] = None,
    client: Annotated[str | None, typer.Option(help="Only this client.")] = None,
    session: Annotated[str | None, typer.Option(help="Only this session.")] = None,
    object: Annotated[str | None, typer.Option(help="Only what has to do with this publication.")] = None,
    since: Annotated[
        datetime | None,
        typer.Option(help="Only from this time on (UTC, unless it says otherwise).", formats=SINCE),
    ] = None,
) -> None:
    """Print the records of an audit log, each checked."""
    begin = since.replace(tzinfo=since.tzinfo or UTC) if since is not None else None
    wanted = {"event": event, "client": client, "session": session}
    with named_errors():
        for record in records(file):
            chosen = all(value is None or record.get(name) == value for name, value in wanted.items())
            chosen = chosen and (object is None or object in named(record))
            if chosen and (begin is None or moment_of(record) >= begin):
                typer.echo(line_of(record))


def line_of(record: Fields) -> str:
    """The record for a terminal: some of its words are clients', or of whoever made the log anew."""
    rest = "  ".join(f"{printable(name)}={printable(value)}" for name, value in record.items() if name not in HEADING)
    return f"{record['number']:>5}  {printable(record['time'])}  {printable(record['event']):18}  {rest}"


def named(record: Fields) -> tuple[object, ...]:
    """The publications that it has to do with."""
    objects = record.get("objects", ())
    return (record.get("object"), *(objects if isinstance(objects, list) else ()))
