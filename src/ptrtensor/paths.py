"""Paths as a program or a shell gives them."""

import os
from pathlib import Path

from ptrtensor.errors import PtrTensorError


def path_of(value: object, name: str) -> Path:
    """The path that was given as `name`. An empty one, of a variable that is not set, would be the current directory.

    :raises PtrTensorError: it is empty, or no path.
    """
    if not isinstance(value, str | os.PathLike) or not os.fspath(value):
        raise PtrTensorError(f"{name} takes a path, not {value!r}: the current directory is '.'")
    return Path(value)
