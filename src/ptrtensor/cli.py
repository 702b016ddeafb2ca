"""`ptrtensor`: the commands of those who own data, and of those who use it."""

import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import Annotated, Final

import typer

from ptrtensor.errors import IdentityError, PtrTensorError
from ptrtensor.owner import keys
from ptrtensor.owner.audit import Audit, Chain, records
from ptrtensor.owner.datasets import Datasets
from ptrtensor.owner.hosted_session import Patience
from ptrtensor.owner.logs import log_to_standard_error
from ptrtensor.owner.server import Limits, Server
from ptrtensor.transport.addresses import format_address, parse_address
from ptrtensor.transport.tls import Credentials
from ptrtensor.version import __version__
from ptrtensor.worker.listener import network_listener

app = typer.Typer(no_args_is_help=True, add_completion=False, pretty_exceptions_enable=False)
keys_app = typer.Typer(no_args_is_help=True, help="Identities, and whom to trust.")
app.add_typer(keys_app, name="keys")
audit_app = typer.Typer(no_args_is_help=True, help="What happened, and that nobody changed the record of it.")
app.add_typer(audit_app, name="audit")

HEADING: Final = ("number", "time", "event")

Identity = Annotated[Path, typer.Option(help="Directory of this side's certificate and key.", metavar="DIR")]
AuditFile = Annotated[Path, typer.Argument(help="The log, as `serve --audit` wrote it.", metavar="FILE")]
Trust = Annotated[Path, typer.Option(help="Directory of the certificates that are trusted.", metavar="DIR")]


@contextmanager
def named_errors() -> Iterator[None]:
    """What went wrong in one line, and status 1."""
    try:
        yield
    except (PtrTensorError, OSError) as error:
        typer.echo(f"ptrtensor: {' '.join(str(error).split())}", err=True)
        raise typer.Exit(1) from error


@app.callback(invoke_without_command=True)
def main(version: Annotated[bool, typer.Option("--version", help="Print the version.")] = False) -> None:
    """Torch tensors that live at a worker: serve data, keep them private, and prove what happened."""
    if version:
        typer.echo(__version__)
        raise typer.Exit


@keys_app.command("new")
def new(
    name: Annotated[str, typer.Argument(help="Whose identity it is, for instance bob.")],
    into: Annotated[Path, typer.Option(help="Where the directory NAME is made.", metavar="DIR")] = Path(),
    days: Annotated[int, typer.Option(min=1, max=36500, help="How long it is valid.")] = 730,
    signed_by: Annotated[
        Path | None, typer.Option(help="Identity of an authority that signs it; else it signs itself.")
    ] = None,
    authority: Annotated[bool, typer.Option("--authority", help="It may sign for others.")] = False,
) -> None:
    """Make an identity: a certificate to hand out, and a key that stays where it is."""
    with named_errors():
        made = keys.new_identity(name, into, days=days, authority=signed_by, is_authority=authority)
        certificate = Credentials(made, made).certificate
        typer.echo(f"made {made}; hand out {certificate}, and never the key")
        typer.echo(f"fingerprint {keys.fingerprint(keys.read_certificate(certificate))}")


@keys_app.command("trust")
def trust(
    file: Annotated[Path, typer.Argument(help="A certificate, NAME.pem of an identity.", metavar="FILE")],
    trust: Trust = Path("trusted"),
    authority: Annotated[
        bool, typer.Option("--authority", help="It is an authority's, and I trust all that it signs.")
    ] = False,
) -> None:
    """Put a certificate on the list of those that are trusted."""
    with named_errors():
        added = keys.trust(file, trust, authority=authority)
        typer.echo(f"trusted from now on: {added}")
        typer.echo(f"fingerprint {keys.fingerprint(keys.read_certificate(added))}: compare it with its owner's")


@keys_app.command("show")
def show(file: Annotated[Path, typer.Argument(help="A certificate, NAME.pem of an identity.", metavar="FILE")]) -> None:
    """Say whose certificate it is, until when it is valid, and its fingerprint."""
    with named_errors():
        certificate = keys.read_certificate(file)
        kind = "an authority" if keys.is_authority(certificate) else "an identity"
        typer.echo(f"{keys.name_of(certificate)}, {kind}, valid until {certificate.not_valid_after_utc:%Y-%m-%d}")
        typer.echo(f"fingerprint {keys.fingerprint(certificate)}")


@app.command()
def serve(
    id: Annotated[str, typer.Option(help="The worker's name.")],
    identity: Identity,
    trust: Trust = Path("trusted"),
    listen: Annotated[str, typer.Option(help="Address to listen on; port 0: any free one.", metavar="HOST:PORT")] = (
        "127.0.0.1:7700"
    ),
    data: Annotated[
        list[Path] | None,
        typer.Option(help="File, or directory of files, to publish; may be given again.", metavar="FILE|DIR"),
    ] = None,
    audit: Annotated[
        Path | None, typer.Option(help="Log that is only added to, of all that happens.", metavar="FILE")
    ] = None,
    compute_device: Annotated[str, typer.Option(help="Where operations run, for instance cuda.")] = "cpu",
    threads: Annotated[int | None, typer.Option(min=1, help="Threads for one operation.")] = None,
    sessions: Annotated[int, typer.Option(min=1, help="Sessions at the same time.")] = Limits.sessions,
    lease: Annotated[
        float, typer.Option(min=0, help="Seconds that a session waits for a client whose connection broke.")
    ] = Patience.lease,
) -> None:
    """Serve this machine's data to those whose certificates are trusted, until SIGTERM or Ctrl-C."""
    with named_errors():
        log_to_standard_error()
        credentials = Credentials(identity, trust)
        if keys.is_authority(keys.read_certificate(credentials.certificate)):
            raise IdentityError(
                f"{identity} is an authority: it signs for others and does not serve. Make another identity"
            )
        address = parse_address(listen, lowest_port=0)
        with Datasets() as datasets, network_listener(*address) as listener, audit_log(audit) as written:
            for path in data or []:
                datasets.add(path)
            server = Server(
                id,
                listener,
                credentials,
                datasets.publications,
                compute_device=compute_device,
                threads=threads,
                limits=Limits(sessions=sessions),
                patience=Patience(lease=lease),
                audit=written,
            )
            with until_signalled(server.stop):
                where = format_address(*listener.getsockname()[:2])
                count = len(datasets.publications)
                typer.echo(f"worker {id} serves {count} tensor{'' if count == 1 else 's'} on {where}")
                server.serve_forever()


@audit_app.command("verify")
def verify(file: AuditFile) -> None:
    """Check that no line of an audit log was altered or removed."""
    with named_errors():
        chain = Chain()
        for _ in records(file, chain):
            pass
        typer.echo(f"{file} holds together: {chain.count} record{'' if chain.count == 1 else 's'}, last {chain.last}")


@audit_app.command("show")
def show_records(
    file: AuditFile,
    event: Annotated[str | None, typer.Option(help="Only events of this kind, for instance denied.")] = None,
    client: Annotated[str | None, typer.Option(help="Only this client.")] = None,
    session: Annotated[str | None, typer.Option(help="Only this session.")] = None,
    since: Annotated[str | None, typer.Option(help="Only from this time on, for instance 2026-05-01.")] = None,
) -> None:
    """Print the records of an audit log, each checked."""
    wanted = {"event": event, "client": client, "session": session}
    with named_errors():
        for record in records(file):
            chosen = all(value is None or record.get(name) == value for name, value in wanted.items())
            if chosen and (since is None or str(record["time"]) >= since):
                rest = "  ".join(f"{name}={value}" for name, value in record.items() if name not in HEADING)
                typer.echo(f"{record['number']:>5}  {record['time']}  {record['event']:18}  {rest}")


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


@contextmanager
def until_signalled(stop: Callable[[str], None]) -> Iterator[None]:
    """SIGTERM and Ctrl-C end what runs here in good order."""

    def handle(number: int, frame: FrameType | None) -> None:
        raise StopServingError(signal.Signals(number).name)

    before = {number: signal.signal(number, handle) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        yield
    except StopServingError:
        pass
    finally:
        for number in before:
            signal.signal(number, signal.SIG_IGN)
        stop("the worker was stopped by its owner")
        for number, handler in before.items():
            signal.signal(number, handler)


class StopServingError(BaseException):
    """A signal asked for the end."""
