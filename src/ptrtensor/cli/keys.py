"""`ptrtensor keys`: identities, and whom to trust."""

from pathlib import Path
from typing import Annotated

import typer

from ptrtensor.cli.output import named_errors
from ptrtensor.cli.paths import path
from ptrtensor.owner import keys
from ptrtensor.transport.tls import Credentials

app = typer.Typer(no_args_is_help=True, help="Identities, and whom to trust.")


@app.command("new")
def new(
    name: Annotated[str, typer.Argument(help="Whose identity it is, for instance bob.")],
    into: Annotated[Path, typer.Option(parser=path, help="Where the directory NAME is made.", metavar="DIR")] = Path(),
    days: Annotated[int, typer.Option(min=1, max=36500, help="How long it is valid.")] = 730,
    signed_by: Annotated[
        Path | None, typer.Option(parser=path, help="Identity of an authority that signs it; else it signs itself.")
    ] = None,
    authority: Annotated[bool, typer.Option("--authority", help="It may sign for others.")] = False,
) -> None:
    """Make an identity: a certificate to hand out, and a key that stays where it is."""
    with named_errors():
        made = keys.new_identity(name, into, days=days, authority=signed_by, is_authority=authority)
        certificate = Credentials(made, made).certificate
        typer.echo(f"made {made}; hand out {certificate}, and never the key")
        typer.echo(f"fingerprint {keys.fingerprint(keys.read_certificate(certificate))}")


@app.command("trust")
def trust(
    file: Annotated[Path, typer.Argument(parser=path, help="A certificate, NAME.pem of an identity.", metavar="FILE")],
    trust: Annotated[
        Path, typer.Option(parser=path, help="Directory of the certificates that are trusted.", metavar="DIR")
    ] = Path("trusted"),
    authority: Annotated[
        bool, typer.Option("--authority", help="It is an authority's, and I trust all that it signs.")
    ] = False,
) -> None:
    """Put a certificate on the list of those that are trusted."""
    with named_errors():
        added = keys.trust(file, trust, authority=authority)
        typer.echo(f"trusted from now on: {added}")
        typer.echo(f"fingerprint {keys.fingerprint(keys.read_certificate(added))}: compare it with its owner's")


@app.command("show")
def show(
    file: Annotated[Path, typer.Argument(parser=path, help="A certificate, NAME.pem of an identity.", metavar="FILE")],
) -> None:
    """Say whose certificate it is, until when it is valid, and its fingerprint."""
    with named_errors():
        certificate = keys.read_certificate(file)
        kind = "an authority" if keys.is_authority(certificate) else "an identity"
        typer.echo(f"{keys.name_of(certificate)}, {kind}, valid until {certificate.not_valid_after_utc:%Y-%m-%d}")
        typer.echo(f"fingerprint {keys.fingerprint(certificate)}")
