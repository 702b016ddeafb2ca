"""What was published, in a session: the file's values, in memory of its own, of exactly the tensor's size."""

import mmap
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from ptrtensor._torch.memory import COPIED_BELOW_BYTES
from ptrtensor._torch.names import DTYPES
from ptrtensor.errors import PtrTensorError
from ptrtensor.wire.control import Publication
from ptrtensor.wire.metadata import TensorMeta, contiguous_stride, intern
from ptrtensor.worker.publications import mapped

SMALL = 1000
LARGE = COPIED_BELOW_BYTES + 1000
SIZES = pytest.mark.parametrize("size", [SMALL, LARGE], ids=["small", "large"])
OFFSETS = pytest.mark.parametrize(
    "offset",
    [0, 8, 13, mmap.ALLOCATIONGRANULARITY - 1, mmap.ALLOCATIONGRANULARITY, 3 * mmap.ALLOCATIONGRANULARITY + 64],
)


def meta_for(shape: tuple[int, ...], dtype: str) -> TensorMeta:
    return intern(shape, contiguous_stride(shape), dtype)


def publication(file: Path, meta: TensorMeta, offset: int = 0) -> Publication:
    return Publication("hospital/rows", (), "", True, str(file), offset, meta)


def file_of(tmp_path: Path, size: int, offset: int = 0, behind: int = 100) -> Path:
    """So many bytes at that offset, with others before and behind them."""
    file = tmp_path / "data"
    file.write_bytes(b"\xee" * offset + bytes(place % 251 for place in range(size)) + b"\xee" * behind)
    return file


@SIZES
@OFFSETS
def test_the_bytes_at_the_offset(tmp_path: Path, size: int, offset: int) -> None:
    tensor = mapped(publication(file_of(tmp_path, size, offset), meta_for((size,), "uint8"), offset))
    assert torch.equal(tensor, torch.arange(size).remainder(251).to(torch.uint8))


@pytest.mark.parametrize("behind", [0, 1])
def test_the_last_bytes_of_a_file(tmp_path: Path, behind: int) -> None:
    file = file_of(tmp_path, SMALL, 5, behind)
    assert mapped(publication(file, meta_for((SMALL,), "uint8"), 5))[-1] == (SMALL - 1) % 251


@SIZES
@pytest.mark.parametrize("dtype", sorted(set(DTYPES) - {"bool", "complex32"}))
def test_any_dtype_and_shape(tmp_path: Path, size: int, dtype: str) -> None:
    kind = DTYPES[dtype]
    shape = (size // kind.itemsize // 4, 2, 2)
    used = shape[0] * 4 * kind.itemsize
    file = file_of(tmp_path, size, 64)
    tensor = mapped(publication(file, meta_for(shape, dtype), 64))
    assert tensor.shape == shape and tensor.dtype == kind and tensor.is_contiguous()
    assert tensor.view(torch.uint8).flatten().tolist() == list(file.read_bytes()[64 : 64 + used])


def test_a_number(tmp_path: Path) -> None:
    file = tmp_path / "number"
    file.write_bytes(b"\xee" * 3 + np.float64(2.5).tobytes())
    tensor = mapped(publication(file, meta_for((), "float64"), 3))
    assert tensor.shape == () and tensor.item() == 2.5


@pytest.mark.parametrize("shape", [(0,), (3, 0), (0, 5, 2)])
@pytest.mark.parametrize("offset", [0, 100])
def test_no_values(tmp_path: Path, shape: tuple[int, ...], offset: int) -> None:
    file = tmp_path / "empty"
    file.write_bytes(bytes(offset))
    tensor = mapped(publication(file, meta_for(shape, "int16"), offset))
    assert tensor.shape == shape and tensor.dtype == torch.int16


@SIZES
@OFFSETS
def test_the_storage_is_the_tensor_s_and_no_more(tmp_path: Path, size: int, offset: int) -> None:
    tensor = mapped(publication(file_of(tmp_path, size, offset, behind=10_000), meta_for((size,), "uint8"), offset))
    assert tensor.untyped_storage().nbytes() == size
    assert tensor.storage_offset() == 0
    for sizes, start in [((size + 1,), 0), ((1,), size), ((size,), 1)]:
        with pytest.raises(RuntimeError, match="out of bounds for storage"):
            tensor.as_strided(sizes, (1,), start)
    with pytest.raises(RuntimeError):
        tensor.as_strided((1,), (1,), -1)


@SIZES
def test_a_write_does_not_reach_the_file_nor_another_session(tmp_path: Path, size: int) -> None:
    file = file_of(tmp_path, size, 10)
    before = file.read_bytes()
    published = publication(file, meta_for((size,), "uint8"), 10)
    mine, theirs = mapped(published), mapped(published)
    mine.zero_()
    assert mine.sum() == 0
    assert torch.equal(theirs, torch.arange(size).remainder(251).to(torch.uint8))
    assert torch.equal(mapped(published), theirs)
    del mine
    assert file.read_bytes() == before


@SIZES
def test_a_file_that_only_its_owner_may_write_is_mapped(tmp_path: Path, size: int) -> None:
    file = file_of(tmp_path, size)
    file.chmod(0o400)
    mapped(publication(file, meta_for((size,), "uint8"))).add_(1)


def resident_bytes() -> int:
    return int(Path("/proc/self/statm").read_text().split()[1]) * mmap.PAGESIZE


@pytest.mark.skipif(sys.platform != "linux", reason="needs /proc")
def test_what_is_not_used_is_not_read(tmp_path: Path) -> None:
    file = tmp_path / "hole"
    size = 2**31
    with file.open("wb") as stream:
        stream.truncate(size)
        stream.seek(size - 8)
        stream.write(bytes(range(8)))
    before = resident_bytes()
    tensor = mapped(publication(file, meta_for((size,), "uint8")))
    assert tensor[-8:].tolist() == list(range(8)) and tensor[size // 2] == 0
    assert resident_bytes() - before < size // 8


@pytest.mark.parametrize("size", [0, 50, 99])
def test_a_file_that_has_become_shorter(tmp_path: Path, size: int) -> None:
    file = tmp_path / "short"
    file.write_bytes(bytes(size))
    with pytest.raises(PtrTensorError, match="the published 'hospital/rows' cannot be read: "):
        mapped(publication(file, meta_for((90,), "uint8"), 10))


def test_a_file_that_ends_long_before_the_offset(tmp_path: Path) -> None:
    file = tmp_path / "short"
    file.write_bytes(bytes(10))
    with pytest.raises(PtrTensorError, match="cannot be read"):
        mapped(publication(file, meta_for((90,), "uint8"), 5 * mmap.ALLOCATIONGRANULARITY))


@pytest.mark.parametrize("what", ["gone", "a directory"])
def test_a_file_that_is_none_any_more(tmp_path: Path, what: str) -> None:
    file = tmp_path / "data"
    if what == "a directory":
        file.mkdir()
    with pytest.raises(PtrTensorError, match="the published 'hospital/rows' cannot be read: "):
        mapped(publication(file, meta_for((90,), "uint8")))
