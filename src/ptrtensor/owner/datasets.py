"""Files of an owner, as published tensors.

What a session can map stays where it is: `.safetensors` and `.npy`. Anything else is converted once, into a directory
that only the owner's processes can read and that is removed in the end.
"""

import csv
import importlib
import tempfile
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from pathlib import Path
from types import TracebackType
from typing import Final

import msgspec
import numpy as np
import numpy.typing as npt

from ptrtensor.errors import DatasetError
from ptrtensor.wire.control import Publication
from ptrtensor.wire.metadata import TensorMeta, contiguous_stride, intern

Array = npt.NDArray[np.generic]

HEADER_BYTES: Final = 8
MAX_HEADER_BYTES: Final = 100 * 1024 * 1024
"""As safetensors' own reader has it."""

SAFETENSORS_DTYPES: Final = {
    "BOOL": "bool",
    "U8": "uint8",
    "I8": "int8",
    "U16": "uint16",
    "I16": "int16",
    "U32": "uint32",
    "I32": "int32",
    "U64": "uint64",
    "I64": "int64",
    "F16": "float16",
    "BF16": "bfloat16",
    "F32": "float32",
    "F64": "float64",
    "C64": "complex64",
}

NUMPY_DTYPES: Final = frozenset(SAFETENSORS_DTYPES.values()) - {"bfloat16"} | {"complex128"}


class Stored(msgspec.Struct):
    """What the header of a `.safetensors` file says of one tensor."""

    dtype: str
    shape: list[int]
    data_offsets: tuple[int, int]


class Datasets(AbstractContextManager["Datasets"]):
    """What is published, and where its bytes lie."""

    def __init__(self) -> None:
        self._converted = tempfile.TemporaryDirectory(prefix="ptrtensor-")
        self._publications: dict[str, Publication] = {}

    @property
    def publications(self) -> tuple[Publication, ...]:
        return tuple(self._publications.values())

    def add(self, path: Path) -> None:
        """Publish the tensors of a file, or of all files of a directory that can be read.

        :raises DatasetError: a file cannot be read, or there is none.
        """
        if path.is_dir():
            files = sorted(file for file in path.iterdir() if file.suffix in READERS)
            if not files:
                raise DatasetError(f"{path} has no file of these: {', '.join(READERS)}")
            for file in files:
                self.add(file)
            return
        if not path.exists():
            raise DatasetError(f"{path} is not there")
        reader = READERS.get(path.suffix)
        if reader is None:
            raise DatasetError(f"{path} cannot be published: readable are {', '.join(READERS)}")
        try:
            for publication in reader(path.resolve(), Path(self._converted.name)):
                if publication.name in self._publications:
                    raise DatasetError(f"two tensors are called {publication.name!r}: rename {path}")
                self._publications[publication.name] = publication
        except (OSError, ValueError, msgspec.MsgspecError) as error:
            raise DatasetError(f"{path} cannot be published: {error}") from error

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._converted.cleanup()


def published(path: Path, key: str | None, meta: TensorMeta, file: Path, offset: int) -> Publication:
    """A tensor of the file `path`, whose bytes lie in `file`."""
    name = path.stem if key is None else f"{path.stem}/{key}"
    tags = (f"#{path.stem}",) if key is None else (f"#{path.stem}", f"#{key}")
    return Publication(name, tags, f"{path.name}: {meta}", True, str(file), offset, meta)


def from_safetensors(path: Path, converted: Path) -> Iterator[Publication]:
    size = path.stat().st_size
    with path.open("rb") as stream:
        length = int.from_bytes(stream.read(HEADER_BYTES), "little")
        if not 0 < length <= min(MAX_HEADER_BYTES, size - HEADER_BYTES):
            raise ValueError("it is no .safetensors file")
        header = msgspec.json.decode(stream.read(length), type=dict[str, msgspec.Raw])
    for key, raw in header.items():
        if key == "__metadata__":
            continue
        stored = msgspec.json.decode(raw, type=Stored)
        if stored.dtype not in SAFETENSORS_DTYPES:
            raise ValueError(f"{key!r} is of dtype {stored.dtype}, which does not travel")
        meta = contiguous(tuple(stored.shape), SAFETENSORS_DTYPES[stored.dtype])
        begin, end = stored.data_offsets
        offset = HEADER_BYTES + length + begin
        if end - begin != meta.nbytes or begin < 0 or HEADER_BYTES + length + end > size:
            raise ValueError(f"{key!r} lies outside of the file")
        yield published(path, key, meta, path, offset)


def from_npy(path: Path, converted: Path) -> Iterator[Publication]:
    array = np.load(path, mmap_mode="r", allow_pickle=False)
    if isinstance(array, np.memmap) and array.flags.c_contiguous and array.dtype.isnative and array.ndim:
        yield published(path, None, meta_of(array), path, int(array.offset))
    else:
        yield convert(path, None, array, converted)


def from_npz(path: Path, converted: Path) -> Iterator[Publication]:
    with np.load(path, allow_pickle=False) as arrays:
        for key in arrays.files:
            yield convert(path, key, arrays[key], converted)


def from_csv(path: Path, converted: Path) -> Iterator[Publication]:
    """A table of numbers: int64 where all are whole, else float32. A first row of words names the columns."""
    with path.open(newline="", encoding="utf-8-sig") as stream:
        rows = [row for row in csv.reader(stream) if row]
    if not rows:
        raise ValueError("it is empty")
    names = [] if all(is_number(cell) for cell in rows[0]) else rows.pop(0)
    for number, row in enumerate(rows, 2 if names else 1):
        if len(row) != len(names or rows[0]):
            raise ValueError(f"line {number} has {len(row)} cells instead of {len(names or rows[0])}")
        for cell in row:
            if not is_number(cell):
                raise ValueError(f"line {number}: {cell!r} is no number")
    table = np.array(rows, dtype=np.float64)
    whole = all(cell.strip().lstrip("+-").isdigit() for row in rows for cell in row)
    array = np.array(rows, dtype=np.int64) if whole else table.astype(np.float32)
    yield described(convert(path, None, array, converted), names)


def from_parquet(path: Path, converted: Path) -> Iterator[Publication]:
    """A table of numbers, as `from_csv`. Needs pyarrow."""
    try:
        parquet = importlib.import_module("pyarrow.parquet")
    except ModuleNotFoundError as error:
        raise DatasetError(f"{path} needs pyarrow: pip install 'ptrtensor[parquet]'") from error
    table = parquet.read_table(path)
    columns = [column.to_numpy() for column in table.columns]
    for name, column in zip(table.column_names, columns, strict=True):
        if column.dtype.kind not in "biuf":
            raise ValueError(f"column {name!r} is of {column.dtype}, not of numbers")
    whole = all(column.dtype.kind in "biu" for column in columns)
    array = np.stack(columns, 1).astype(np.int64 if whole else np.float32)
    yield described(convert(path, None, array, converted), table.column_names)


READERS: Final[dict[str, Callable[[Path, Path], Iterator[Publication]]]] = {
    ".safetensors": from_safetensors,
    ".npy": from_npy,
    ".npz": from_npz,
    ".csv": from_csv,
    ".parquet": from_parquet,
}


def convert(path: Path, key: str | None, array: Array, converted: Path) -> Publication:
    """Write the values down as they lie in memory."""
    plain = np.array(array, dtype=array.dtype.newbyteorder("="), order="C", ndmin=0, copy=None)
    meta = meta_of(plain)
    with tempfile.NamedTemporaryFile(dir=converted, delete=False) as stream:
        stream.write(plain.tobytes())
    return published(path, key, meta, Path(stream.name), 0)


def described(publication: Publication, columns: list[str]) -> Publication:
    if not columns:
        return publication
    return msgspec.structs.replace(publication, description=f"{publication.description}; columns {', '.join(columns)}")


def meta_of(array: Array) -> TensorMeta:
    if array.dtype.name not in NUMPY_DTYPES:
        raise ValueError(f"values of {array.dtype} are no tensor's")
    return contiguous(array.shape, array.dtype.name)


def contiguous(shape: tuple[int, ...], dtype: str) -> TensorMeta:
    return intern(shape, contiguous_stride(shape), dtype)


def is_number(cell: str) -> bool:
    try:
        float(cell)
    except ValueError:
        return False
    return True
