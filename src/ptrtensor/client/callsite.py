"""Whose line issued an operation: the innermost frame that is neither torch's nor ours."""

import linecache
import sys
from pathlib import Path
from types import CodeType
from typing import Final, NamedTuple


class CallSite(NamedTuple):
    """Cheap to take; turned into text only when something went wrong."""

    code: CodeType
    line: int

    def __str__(self) -> str:
        where = f'File "{self.code.co_filename}", line {self.line}, in {self.code.co_name}'
        return f"{where}\n    {self.source}" if self.source else where

    @property
    def source(self) -> str:
        """The line itself, where its file can be read."""
        return linecache.getline(self.code.co_filename, self.line).strip()


class CallSites:
    """Finds call sites; remembers for each file whether it belongs to a library that is passed over.

    By file and not by code object: those are equal across files when their text is.
    """

    def __init__(self, libraries: tuple[str, ...]) -> None:
        self._libraries = libraries
        self._passed_over: dict[str, bool] = {}

    def current(self) -> CallSite:
        passed_over = self._passed_over
        frame = sys._getframe(1)
        while True:
            code = frame.f_code
            file = code.co_filename
            skip = passed_over.get(file)
            if skip is None:
                skip = passed_over[file] = file.startswith(self._libraries)
            outer = frame.f_back
            if not skip or outer is None:
                return CallSite(code, frame.f_lineno)
            frame = outer


def library_folder(module_file: str) -> str:
    """The folder of a package, with a separator at the end, as code objects' file names begin."""
    return f"{Path(module_file).parent}/"


PTRTENSOR_FOLDER: Final = f"{Path(__file__).parent.parent}/"
