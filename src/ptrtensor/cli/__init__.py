"""`ptrtensor`: the commands of those who own data, and of those who use it."""

from typing import Annotated

import typer

from ptrtensor.cli import audit, keys, requests
from ptrtensor.cli.serve import serve
from ptrtensor.cli.status import status
from ptrtensor.version import __version__

app = typer.Typer(no_args_is_help=True, add_completion=False, pretty_exceptions_enable=False)
app.add_typer(keys.app, name="keys")
app.command()(serve)
app.command()(status)
app.add_typer(requests.app, name="requests")
app.add_typer(audit.app, name="audit")


@app.callback(invoke_without_command=True)
def main(version: Annotated[bool, typer.Option("--version", help="Print the version.")] = False) -> None:
    """Torch tensors that live at a worker: serve data, keep them private, and prove what happened."""
    if version:
        typer.echo(__version__)
        raise typer.Exit
