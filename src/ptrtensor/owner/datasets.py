"""What an owner publishes: files, and tensors of a program.

What a session can map stays where it is: `.safetensors` and `.npy`. Anything else is converted once, into a directory
that only the owner's processes can read and that is removed in the end.
"""

import contextlib
import os
import shutil
import tempfile
import threading
import weakref
from contextlib import AbstractContextManager
from pathlib import Path
from types import TracebackType

from ptrtensor.errors import DatasetError
from ptrtensor.owner.formats import READERS, check_name, written
from ptrtensor.wire.control import Publication
from ptrtensor.wire.metadata import TensorMeta


class Datasets(AbstractContextManager["Datasets"]):
    """What is published, and where its bytes lie."""

    def __init__(self) -> None:
        self._folder = Path(tempfile.mkdtemp(prefix="ptrtensor-"))
        self._remove = weakref.finalize(self, remove, self._folder, os.getpid())
        self._publications: dict[str, Publication] = {}
        self._publishing = threading.Lock()

    @property
    def publications(self) -> tuple[Publication, ...]:
        return tuple(self._publications.values())

    def add(self, path: Path) -> None:
        """Publish the tensors of a file, or of all files of a directory that can be read.

        :raises DatasetError: a file cannot be read, or there is none.
        """
        if path.is_dir():
            files = sorted(file for file in path.iterdir() if file.suffix.lower() in READERS and file.is_file())
            if not files:
                raise DatasetError(f"{path} has no file of these: {', '.join(READERS)}")
            for file in files:
                self.add(file)
            return
        if not path.exists():
            raise DatasetError(f"{path} is not there")
        reader = READERS.get(path.suffix.lower()) if path.is_file() else None
        if reader is None:
            raise DatasetError(f"{path} cannot be published: readable are {', '.join(READERS)}")
        found: dict[str, Publication] = {}
        try:
            for publication in reader(path.absolute(), self._folder):
                if publication.name in self._publications or publication.name in found:
                    raise DatasetError(f"two tensors are called {publication.name!r}: rename {path}")
                found[publication.name] = publication
        except DatasetError:
            raise
        except Exception as error:  # of whatever class the format's own reader raises
            raise DatasetError(f"{path} cannot be published: {str(error) or type(error).__name__}") from error
        if not found:
            raise DatasetError(f"{path} cannot be published: there is no tensor in it")
        self._publications |= found

    def publish(
        self,
        name: str,
        tags: tuple[str, ...],
        description: str,
        private: bool,
        meta: TensorMeta,
        values: memoryview,
    ) -> Publication:
        """Publish what the owner's program has in memory. Any thread may.

        :raises DatasetError: the name is taken or cannot be one, or there is no room on the disk.
        """
        with self._publishing:
            if name in self._publications:
                raise DatasetError(f"two tensors are called {name!r}: give this one another name")
            try:
                check_name(name)
                file = written(values, self._folder)
            except (ValueError, OSError) as error:
                raise DatasetError(f"{name!r} cannot be published: {error}") from error
            publication = Publication(name, tags, description, private, str(file), 0, meta)
            self._publications[name] = publication
            return publication

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._remove()


def remove(folder: Path, process: int) -> None:
    """In a forked child the folder is the parent's."""
    if os.getpid() == process:
        with contextlib.suppress(FileNotFoundError):
            shutil.rmtree(folder)
