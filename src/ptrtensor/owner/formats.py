"""The files that an owner may publish: how the tensors in each kind of them are found."""

import csv
import importlib
import os
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Final

import msgspec
import numpy as np
import numpy.typing as npt

from ptrtensor.errors import DatasetError
from ptrtensor.wire.control import Publication
from ptrtensor.wire.limits import MAX_DIMENSIONS
from ptrtensor.wire.metadata import TensorMeta, contiguous_stride, intern

Array = npt.NDArray[np.generic]

NPY_MAGIC: Final = b"\x93NUMPY"
ZIP_MAGIC: Final = b"PK"
MOST: Final = 2**63 - 1

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


def published(path: Path, key: str | None, meta: TensorMeta, file: Path, offset: int) -> Publication:
    """A tensor of the file `path`, whose bytes lie in `file`.

    :raises ValueError: it is called as if it were another worker's.
    """
    name = path.stem if key is None else f"{path.stem}/{key}"
    check_name(name)
    tags = (f"#{path.stem}",) if key is None else (f"#{path.stem}", f"#{key}")
    return Publication(name, tags, f"{path.name}: {meta}", True, str(file), offset, meta)


def check_name(name: str) -> None:
    """:raises ValueError: it is none, is no text, or another worker's [P13.3]."""
    if not name:
        raise ValueError("it needs a name")
    name.encode()  # one that is no text, as the name of a file may be, travels nowhere
    if ":" in name:
        raise ValueError(f"{name!r} is no name for it, since ':' stands behind another worker's name: rename it")


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
    with path.open("rb") as stream:
        if stream.read(len(NPY_MAGIC)) != NPY_MAGIC:
            raise ValueError("it is no .npy file")
    array = np.load(path, mmap_mode="r", allow_pickle=False)
    if isinstance(array, np.memmap) and array.flags.c_contiguous and array.dtype.isnative and array.ndim:
        yield published(path, None, meta_of(array), path, int(array.offset))
    else:
        yield convert(path, None, array, converted)


def from_npz(path: Path, converted: Path) -> Iterator[Publication]:
    with path.open("rb") as stream:
        if stream.read(len(ZIP_MAGIC)) != ZIP_MAGIC:
            raise ValueError("it is no .npz file")
        stream.seek(0)
        with np.load(stream, allow_pickle=False) as arrays:
            for key in arrays.files:
                array = arrays[key]
                if not isinstance(array, np.ndarray):
                    raise ValueError(f"{key!r} is no array")
                yield convert(path, key, array, converted)


def from_csv(path: Path, converted: Path) -> Iterator[Publication]:
    """A table of numbers: int64 where all are whole, else float32, or float64 where that would round whole numbers. A
    first row without a number names the columns; one with a slip in it is a row of data, which nobody must be told.
    """
    rows: list[list[str]] = []
    names: list[str] = []
    with path.open(newline="", encoding="utf-8-sig") as stream:
        reader = csv.reader(stream)
        end = 0
        for row in reader:
            line, end = end + 1, reader.line_num
            if not row:
                continue
            if not (rows or names) and any(row) and not any(map(is_number, row)):
                names = row
                continue
            width = len(names or (rows or [row])[0])
            if len(row) != width:
                raise ValueError(f"line {line} has {len(row)} cells instead of {width}")
            for cell in row:
                if not is_number(cell):
                    raise ValueError(f"line {line}: {cell!r} is no number")
            rows.append(row)
    if not rows:
        raise ValueError("it has names and no numbers" if names else "it is empty")
    whole = all(cell.strip().lstrip("+-").isdigit() for row in rows for cell in row)
    array = whole_numbers(rows) if whole else single(fractions(rows))
    yield described(convert(path, None, array, converted), names)


def whole_numbers(rows: list[list[str]]) -> Array:
    """:raises ValueError: one is beyond int64."""
    for row in rows:
        for cell in row:
            if not -(2**63) <= int(cell) < 2**63:
                raise ValueError(f"{cell} is a whole number beyond int64")
    return np.array(rows, dtype=np.int64)


def fractions(rows: list[list[str]]) -> npt.NDArray[np.float64]:
    """:raises ValueError: one is beyond float64."""
    array = np.array(rows, dtype=np.float64)
    for row, column in np.argwhere(np.isinf(array)):
        cell = rows[row][column]
        if "inf" not in cell.lower():
            raise ValueError(f"{cell[:40]} is too large a number")
    return array


def from_parquet(path: Path, converted: Path) -> Iterator[Publication]:
    """A table of numbers, as `from_csv`. Needs pyarrow."""
    try:
        parquet = importlib.import_module("pyarrow.parquet")
    except ModuleNotFoundError as error:
        raise DatasetError(f"{path} needs pyarrow: pip install 'ptrtensor[parquet]'") from error
    table = parquet.read_table(path)
    for name, column in zip(table.column_names, table.columns, strict=True):
        if column.null_count:
            raise ValueError(f"column {name!r} misses {column.null_count} values")
    columns = [column.to_numpy() for column in table.columns]
    for name, column in zip(table.column_names, columns, strict=True):
        if column.dtype.kind not in "biuf":
            raise ValueError(f"column {name!r} is of {column.dtype}, not of numbers")
        if column.dtype == np.uint64 and column.max(initial=0) > np.iinfo(np.int64).max:
            raise ValueError(f"column {name!r} has whole numbers beyond int64")
    whole = all(column.dtype.kind in "biu" for column in columns)
    array = np.stack([column.astype(np.int64) if whole else single(column) for column in columns], 1)
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
    return published(path, key, meta, written(memoryview(plain.tobytes()), converted), 0)


def written(values: memoryview, folder: Path) -> Path:
    """A file of these bytes, which nobody else may read.

    :raises OSError: there is no room for it; then there is no part of it either.
    """
    with tempfile.NamedTemporaryFile(dir=folder, delete=False) as stream:
        try:
            stream.write(values)
            stream.flush()
        except BaseException:
            os.unlink(stream.name)
            raise
    return Path(stream.name)


def described(publication: Publication, columns: list[str]) -> Publication:
    if not columns:
        return publication
    return msgspec.structs.replace(publication, description=f"{publication.description}; columns {', '.join(columns)}")


def meta_of(array: Array) -> TensorMeta:
    if array.dtype.name not in NUMPY_DTYPES:
        raise ValueError(f"values of {array.dtype} are no tensor's")
    return contiguous(array.shape, array.dtype.name)


def contiguous(shape: tuple[int, ...], dtype: str) -> TensorMeta:
    """:raises ValueError: no tensor has such a shape."""
    elements = 1
    for size in shape:
        if type(size) is not int or not 0 <= size <= MOST:
            raise ValueError(f"a tensor has no size {size!r}")
        elements *= max(size, 1)
    if elements * 16 > MOST or len(shape) > MAX_DIMENSIONS:
        raise ValueError(f"a tensor of {len(shape)} dimensions and {elements} elements is too large")
    return intern(shape, contiguous_stride(shape), dtype)


def single(values: npt.NDArray[Any]) -> Array:
    """As float32; as float64, where that would round whole numbers, such as those that name somebody.

    :raises ValueError: a number is too large for float32.
    """
    with np.errstate(over="ignore"):
        narrow = values.astype(np.float32)
    if (np.isinf(narrow) & np.isfinite(values)).any():
        raise ValueError("a number is too large for float32")
    whole = np.isfinite(values) & (np.abs(values) < 2**53) & (values == np.round(values))
    return values.astype(np.float64) if (whole & (narrow != values)).any() else narrow


def is_number(cell: str) -> bool:
    try:
        float(cell)
    except ValueError:
        return False
    return True
