"""Paths of the command line."""

from pathlib import Path

import typer

from ptrtensor.errors import PtrTensorError
from ptrtensor.paths import path_of


def path(text: str | Path) -> Path:
    """For an option or an argument; a default is given as it is."""
    try:
        return path_of(text, "it")
    except PtrTensorError as error:
        raise typer.BadParameter(str(error)) from error
