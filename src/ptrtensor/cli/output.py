"""How the commands speak: what went wrong in one line, and the texts of others without effect on a terminal."""

from collections.abc import Iterator
from contextlib import contextmanager

import typer

from ptrtensor.errors import PtrTensorError


@contextmanager
def named_errors() -> Iterator[None]:
    """What went wrong in one line, and status 1."""
    try:
        yield
    except (PtrTensorError, OSError) as error:
        told = " ".join([str(error), *getattr(error, "__notes__", [])])
        typer.echo(f"ptrtensor: {printable(' '.join(told.split()))}", err=True)
        raise typer.Exit(1) from error


def printable(text: object) -> str:
    """The text in one line that does nothing to a terminal: what a client wrote may want to."""
    return "".join(letter if letter.isprintable() else repr(letter)[1:-1] for letter in str(text))
