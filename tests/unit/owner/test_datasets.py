"""Files of an owner: each kind gives its values back, and whatever is wrong with a file is a `DatasetError`."""

import importlib
import io
import json
import os
import stat
import struct
import sys
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import numpy.typing as npt
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from ptrtensor._torch.names import DTYPES
from ptrtensor.errors import DatasetError
from ptrtensor.owner.datasets import Datasets
from ptrtensor.owner.formats import MAX_HEADER_BYTES, READERS, SAFETENSORS_DTYPES
from ptrtensor.wire.control import Publication
from ptrtensor.wire.metadata import TensorMeta
from ptrtensor.worker.publications import mapped

Array = npt.NDArray[Any]


@pytest.fixture
def datasets() -> Iterator[Datasets]:
    with Datasets() as made:
        yield made


def values(publication: Publication) -> bytes:
    """What lies in the file where the tensor is said to be."""
    with Path(publication.file).open("rb") as stream:
        stream.seek(publication.offset)
        found = stream.read(publication.meta.nbytes)
    assert len(found) == publication.meta.nbytes
    return found


def only(datasets: Datasets) -> Publication:
    (publication,) = datasets.publications
    return publication


def published(datasets: Datasets, path: Path) -> Tensor:
    """The one tensor of a file, as a session has it."""
    datasets.add(path)
    tensor = mapped(only(datasets))
    assert tensor.is_contiguous() and only(datasets).meta.stride == tensor.contiguous().stride()
    return tensor


def write(path: Path, content: bytes | str) -> Path:
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return path


def raw_safetensors(header: bytes, data: bytes = b"") -> bytes:
    return struct.pack("<Q", len(header)) + header + data


def safetensors(header: dict[str, object], data: bytes = b"") -> bytes:
    return raw_safetensors(json.dumps(header).encode(), data)


def entry(
    shape: object = (2,), dtype: object = "F32", data_offsets: object = (0, 8), **more: object
) -> dict[str, object]:
    return {"dtype": dtype, "shape": shape, "data_offsets": data_offsets, **more}


def npy(array: Array, allow_pickle: bool = False) -> bytes:
    stream = io.BytesIO()
    np.save(stream, array, allow_pickle=allow_pickle)
    return stream.getvalue()


def raw_npy(header: str, data: bytes = bytes(16), version: bytes = b"\x01\x00") -> bytes:
    return b"\x93NUMPY" + version + struct.pack("<H", len(header)) + header.encode() + data


def npy_header(descr: str = "'<f4'", shape: str = "(4,)") -> str:
    return f"{{'descr': {descr}, 'fortran_order': False, 'shape': {shape}, }}\n"


def npz(compressed: bool = False, **arrays: Array) -> bytes:
    stream = io.BytesIO()
    save: Any = np.savez_compressed if compressed else np.savez
    save(stream, **arrays)
    return stream.getvalue()


def zipped(name: str, content: bytes) -> bytes:
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w") as archive:
        archive.writestr(name, content)
    return stream.getvalue()


def flipped(data: bytes, place: int) -> bytes:
    return data[:place] + bytes([data[place] ^ 0xFF]) + data[place + 1 :]


ARROW: Any = importlib.import_module("pyarrow")


def parquet(path: Path, **columns: object) -> Path:
    importlib.import_module("pyarrow.parquet").write_table(ARROW.table(columns), path)
    return path


# --- what a session may know


def test_a_tensor_alone_in_its_file(datasets: Datasets, tmp_path: Path) -> None:
    path = write(tmp_path / "rows.npy", npy(np.zeros((2, 3), np.float32)))
    datasets.add(path)
    found = only(datasets)
    assert (found.name, found.tags, found.private) == ("rows", ("#rows",), True)
    assert found.description == "rows.npy: float32[2, 3]"
    assert str(tmp_path) not in found.description


def test_one_tensor_of_several(datasets: Datasets, tmp_path: Path) -> None:
    datasets.add(write(tmp_path / "train.npz", npz(x=np.zeros((2, 3)), y=np.zeros(2, np.int64))))
    assert [(found.name, found.tags, found.description) for found in datasets.publications] == [
        ("train/x", ("#train", "#x"), "train.npz: float64[2, 3]"),
        ("train/y", ("#train", "#y"), "train.npz: int64[2]"),
    ]


def test_publications_travel_between_processes(datasets: Datasets, tmp_path: Path) -> None:
    datasets.add(write(tmp_path / "rows.npy", npy(np.arange(6.0).reshape(2, 3))))
    decoded = msgspec.msgpack.decode(msgspec.msgpack.encode(only(datasets)), type=Publication)
    assert torch.equal(mapped(decoded), torch.arange(6.0, dtype=torch.float64).view(2, 3))


# --- safetensors


def test_each_tensor_of_a_safetensors_file(datasets: Datasets, tmp_path: Path) -> None:
    first, second = np.arange(6, dtype="<f4").reshape(2, 3), np.array([True, False, True])
    header = {
        "__metadata__": {"format": "pt"},
        "mask": entry([3], "BOOL", [24, 27]),
        "x": entry([2, 3], "F32", [0, 24]),
        "number": entry([], "U8", [27, 28]),
        "empty": entry([0, 4], "I64", [28, 28]),
    }
    path = write(tmp_path / "model.safetensors", safetensors(header, first.tobytes() + second.tobytes() + b"\x07"))
    datasets.add(path)
    found = {one.name: one for one in datasets.publications}
    assert list(found) == ["model/mask", "model/x", "model/number", "model/empty"]
    assert all(Path(one.file) == path for one in found.values())
    assert values(found["model/x"]) == first.tobytes()
    assert mapped(found["model/x"]).tolist() == first.tolist()
    assert mapped(found["model/mask"]).tolist() == second.tolist()
    assert mapped(found["model/number"]).item() == 7
    assert mapped(found["model/empty"]).shape == (0, 4)


@pytest.mark.parametrize("dtype", SAFETENSORS_DTYPES)
def test_each_dtype_of_safetensors(datasets: Datasets, tmp_path: Path, dtype: str) -> None:
    kind = DTYPES[SAFETENSORS_DTYPES[dtype]]
    wanted = torch.tensor([0, 1, 1, 0, 1, 0]).to(kind).view(3, 2)
    data = wanted.view(torch.uint8).numpy().tobytes()
    content = safetensors({"x": entry([3, 2], dtype, [0, len(data)])}, data)
    found = published(datasets, write(tmp_path / "x.safetensors", content))
    assert found.dtype == kind and torch.equal(found, wanted)


def test_what_the_library_writes(datasets: Datasets, tmp_path: Path) -> None:
    tensors = {
        "a": torch.randn(3, 4),
        "b": torch.randn(5).to(torch.bfloat16),
        "c": torch.arange(3),
        "d": torch.tensor(2),
    }
    importlib.import_module("safetensors.torch").save_file(tensors, tmp_path / "x.safetensors", {"by": "test"})
    datasets.add(tmp_path / "x.safetensors")
    assert {one.name for one in datasets.publications} == {f"x/{key}" for key in tensors}
    for one in datasets.publications:
        assert torch.equal(mapped(one), tensors[one.name.removeprefix("x/")])


GOOD = safetensors({"x": entry()}, bytes(8))
HUGE = 10**30

SAFETENSORS_OFFENCES: list[tuple[str, bytes]] = [
    ("empty file", b""),
    ("less than a length", GOOD[:7]),
    ("length only", GOOD[:8]),
    ("header cut", GOOD[:20]),
    ("data cut", GOOD[:-1]),
    ("no header", raw_safetensors(b"")),
    ("header longer than the file", struct.pack("<Q", len(GOOD) - 7) + GOOD[8:]),
    ("header of 2**64 - 1 bytes", struct.pack("<Q", 2**64 - 1) + GOOD[8:]),
    ("header shorter than it is", struct.pack("<Q", 10) + GOOD[8:]),
    ("no JSON", raw_safetensors(b"x" * 20)),
    ("no UTF-8", raw_safetensors(b'{"\xff": 1}')),
    ("a list", raw_safetensors(b"[]")),
    ("entry is a list", safetensors({"x": [1]})),
    ("entry is null", safetensors({"x": None})),
    ("no dtype", safetensors({"x": {"shape": [2], "data_offsets": [0, 8]}}, bytes(8))),
    ("no offsets", safetensors({"x": {"shape": [2], "dtype": "F32"}}, bytes(8))),
    ("unknown dtype", safetensors({"x": entry(dtype="F31")}, bytes(8))),
    ("dtype is a number", safetensors({"x": entry(dtype=1)}, bytes(8))),
    ("shape of texts", safetensors({"x": entry(["2"])}, bytes(8))),
    ("shape of fractions", safetensors({"x": entry([2.5])}, bytes(10))),
    ("three offsets", safetensors({"x": entry(data_offsets=[0, 8, 8])}, bytes(8))),
    ("one offset", safetensors({"x": entry(data_offsets=[0])}, bytes(8))),
    ("fewer bytes than values", safetensors({"x": entry(data_offsets=[0, 7])}, bytes(8))),
    ("more bytes than values", safetensors({"x": entry(data_offsets=[0, 9])}, bytes(9))),
    ("offsets the wrong way round", safetensors({"x": entry(data_offsets=[8, 0])}, bytes(8))),
    ("behind the end", safetensors({"x": entry(data_offsets=[1, 9])}, bytes(8))),
    ("far behind the end", safetensors({"x": entry(data_offsets=[2**62, 2**62 + 8])}, bytes(8))),
    ("beyond 64 bits", safetensors({"x": entry(data_offsets=[HUGE, HUGE + 8])}, bytes(8))),
    ("in the header", safetensors({"x": entry(data_offsets=[-8, 0])}, bytes(8))),
    ("before the file", safetensors({"x": entry(data_offsets=[-1000, -992])}, bytes(8))),
    ("empty before the file", safetensors({"x": entry([0], data_offsets=[-1000, -1000])}, bytes(8))),
    ("empty behind the end", safetensors({"x": entry([0], data_offsets=[9, 9])}, bytes(8))),
    ("a negative size", safetensors({"x": entry([-2])}, bytes(8))),
    ("two negative sizes", safetensors({"x": entry([-1, -2])}, bytes(8))),
    ("a negative size of nothing", safetensors({"x": entry([0, -2], data_offsets=[0, 0])}, bytes(8))),
    ("a size beyond 64 bits", safetensors({"x": entry([0, 2**70], data_offsets=[0, 0])}, bytes(8))),
    ("a size that no tensor has", safetensors({"x": entry([0, 2**63], data_offsets=[0, 0])}, bytes(8))),
    (
        "a size of 5001 digits",
        raw_safetensors(b'{"x":{"dtype":"U8","shape":[0,1%s],"data_offsets":[0,0]}}' % (b"0" * 5000)),
    ),
    ("65 dimensions", safetensors({"x": entry([1] * 64 + [2])}, bytes(8))),
    ("deep", raw_safetensors(b'{"x":' + b"[" * 100_000 + b"]" * 100_000 + b"}")),
    ("deep in an entry", raw_safetensors(b'{"x":{"y":' + b"[" * 100_000 + b"]" * 100_000 + b"}}")),
    ("half a letter", raw_safetensors(b'{"\\ud800":{"dtype":"F32","shape":[2],"data_offsets":[0,8]}}', bytes(8))),
    ("no tensor", safetensors({})),
    ("metadata only", safetensors({"__metadata__": {"format": "pt"}})),
]


def refused(datasets: Datasets, path: Path) -> str:
    """Why a file cannot be published; the file is named."""
    with pytest.raises(DatasetError) as caught:
        datasets.add(path)
    assert path.name in str(caught.value)
    return str(caught.value)


@pytest.mark.parametrize(
    "content", [case[1] for case in SAFETENSORS_OFFENCES], ids=[case[0] for case in SAFETENSORS_OFFENCES]
)
def test_a_safetensors_file_with_something_wrong(datasets: Datasets, tmp_path: Path, content: bytes) -> None:
    refused(datasets, write(tmp_path / "x.safetensors", content))


def test_a_header_too_long_is_not_read(datasets: Datasets, tmp_path: Path) -> None:
    path = tmp_path / "x.safetensors"
    with path.open("wb") as stream:
        stream.write(struct.pack("<Q", MAX_HEADER_BYTES + 1))
        stream.truncate(8 + 2 * MAX_HEADER_BYTES)
    assert "no .safetensors file" in refused(datasets, path)


def outcome(path: Path) -> str:
    """Any file is published and can be mapped, or is refused: nothing else."""
    with Datasets() as datasets:
        try:
            datasets.add(path)
        except DatasetError as error:
            return str(error)
        msgspec.msgpack.encode(datasets.publications)
        for one in datasets.publications:
            mapped(one)
        return ""


@pytest.fixture(scope="module")
def scratch(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("scratch")


sizes = st.one_of(st.integers(0, 6), st.integers(-3, 70), st.sampled_from([2**31, 2**63 - 1, 2**64]))


@settings(deadline=None)
@given(
    shape=st.lists(sizes, max_size=4),
    begin=st.integers(-20, 40),
    length=st.one_of(st.none(), st.integers(-5, 60)),
    dtype=st.sampled_from(["F32", "U8", "BF16", "C64"]),
)
def test_any_header_is_published_or_refused(
    scratch: Path, shape: list[int], begin: int, length: int | None, dtype: str
) -> None:
    """With the length that the shape needs, or another."""
    if length is None:
        length = {"F32": 4, "U8": 1, "BF16": 2, "C64": 8}[dtype]
        for size in shape:
            length *= size
    content = safetensors({"x": entry(shape, dtype, [begin, begin + length])}, bytes(64))
    outcome(write(scratch / "any.safetensors", content))


# --- npy


NPY_DTYPES = "?,u1,i1,u2,i2,u4,i4,u8,i8,f2,f4,f8,c8,c16".split(",")


@pytest.mark.parametrize("dtype", NPY_DTYPES)
@pytest.mark.parametrize("order", ["<", ">"])
@pytest.mark.parametrize("layout", ["C", "F"])
def test_each_dtype_of_numpy(datasets: Datasets, tmp_path: Path, dtype: str, order: str, layout: str) -> None:
    array: Array = np.array([[0, 1, 1], [1, 0, 2]]).astype(order + dtype)
    array = np.asfortranarray(array) if layout == "F" else array
    path = write(tmp_path / "x.npy", npy(array))
    found = published(datasets, path)
    assert found.numpy().dtype == array.dtype.newbyteorder("=")
    assert np.array_equal(found.numpy(), array)
    stays = layout == "C" and array.dtype.isnative
    assert (only(datasets).file == str(path)) == stays


@pytest.mark.parametrize("shape", [(), (0,), (0, 3), (3, 0), (1,), (1, 1, 1), (2, 0, 3), (4, 3, 2), (1,) * 64])
@pytest.mark.parametrize("dtype", ["<f8", ">f8"])
def test_each_shape_of_numpy(datasets: Datasets, tmp_path: Path, shape: tuple[int, ...], dtype: str) -> None:
    array = np.arange(np.prod(shape), dtype=dtype).reshape(shape)
    found = published(datasets, write(tmp_path / "x.npy", npy(array)))
    assert found.shape == shape and np.array_equal(found.numpy(), array)


def test_a_large_array_stays_where_it_is(datasets: Datasets, tmp_path: Path) -> None:
    array = np.random.default_rng(0).random((500, 600))
    path = write(tmp_path / "x.npy", npy(array))
    found = published(datasets, path)
    assert np.array_equal(found.numpy(), array)
    assert values(only(datasets)) == array.tobytes()
    found.zero_()
    assert np.array_equal(np.load(path), array)


ONES = npy(np.ones(100))

NPY_OFFENCES: list[tuple[str, bytes]] = [
    ("empty file", b""),
    ("magic only", ONES[:6]),
    ("cut in the version", ONES[:7]),
    ("cut in the length", ONES[:9]),
    ("cut in the header", ONES[:100]),
    ("header only", ONES[:128]),
    ("data cut", ONES[:-1]),
    ("text", b"1 2 3\n" * 30),
    ("unknown version", b"\x93NUMPY\x09\x00" + ONES[8:]),
    ("objects", npy(np.array([{}], dtype=object), allow_pickle=True)),
    ("objects in the header only", raw_npy(npy_header("'|O'"))),
    ("a pickle", b"\x80\x04\x95\x0b\x00\x00\x00\x00\x00\x00\x00\x8c\x07builtins."),
    ("texts", npy(np.array(["a", "b"]))),
    ("bytes", npy(np.array([b"a", b"b"]))),
    ("dates", npy(np.array(["2020-01-01"], "M8[D]"))),
    ("durations", npy(np.array([1], "m8[s]"))),
    ("records", npy(np.zeros(2, [("a", "f4"), ("b", "i8")]))),
    ("float128", npy(np.zeros(2, "g"))),
    ("complex256", npy(np.zeros(2, "G"))),
    ("no values at all", raw_npy(npy_header("'|V0'"))),
    ("a dtype that is none", raw_npy(npy_header("'zz'"))),
    ("a header that is no dictionary", raw_npy("[1, 2]\n")),
    ("a header with other keys", raw_npy("{'descr': '<f4'}\n")),
    ("a header that is no Python", raw_npy("{'descr': '<f4', \n")),
    ("a header of open brackets", raw_npy("{'descr': '<f4', (((((\n")),
    ("a deep header", raw_npy("(" * 5000)),
    ("a header of signs", raw_npy("-" * 9000 + "1")),
    ("a negative size", raw_npy(npy_header(shape="(-4,)"))),
    ("two negative sizes", raw_npy(npy_header(shape="(-2, -2)"))),
    ("more than the file has", raw_npy(npy_header(shape=f"({2**40},)"))),
    ("a size beyond 64 bits", raw_npy(npy_header(shape=f"({HUGE},)"))),
    ("sizes beyond 64 bits together", raw_npy(npy_header(shape=f"({2**40}, {2**40})"))),
    ("a size beyond 64 bits of nothing", raw_npy(npy_header(shape=f"(0, {HUGE})"))),
    ("a size that is true", raw_npy(npy_header(shape="(True,)"))),
    ("a size that is a text", raw_npy(npy_header(shape="('4',)"))),
    ("65 dimensions", raw_npy(npy_header(shape="(" + "1," * 64 + "4)"))),
    ("an npz file", npz(x=np.ones(3))),
    ("another zip file", zipped("a.txt", b"hello")),
]


@pytest.mark.parametrize("content", [case[1] for case in NPY_OFFENCES], ids=[case[0] for case in NPY_OFFENCES])
def test_an_npy_file_with_something_wrong(datasets: Datasets, tmp_path: Path, content: bytes) -> None:
    refused(datasets, write(tmp_path / "x.npy", content))


def test_a_pickle_is_never_loaded(datasets: Datasets, tmp_path: Path) -> None:
    class Evil:
        def __reduce__(self) -> tuple[Callable[[str], None], tuple[str]]:
            return os.mkdir, (str(tmp_path / "was-loaded"),)

    content = npy(np.array([Evil()], dtype=object), allow_pickle=True)
    refused(datasets, write(tmp_path / "x.npy", content))
    refused(datasets, write(tmp_path / "x.npz", zipped("x.npy", content)))
    assert not (tmp_path / "was-loaded").exists()


# --- npz


@pytest.mark.parametrize("compressed", [False, True])
def test_each_array_of_an_npz_file(datasets: Datasets, tmp_path: Path, compressed: bool) -> None:
    arrays: dict[str, Array] = {
        "x": np.random.default_rng(0).random((200, 300)),
        "fortran": np.asfortranarray(np.arange(6).reshape(2, 3)),
        "big": np.arange(5, dtype=">i2"),
        "number": np.array(2.5),
        "empty": np.zeros((0, 3), np.float16),
    }
    datasets.add(write(tmp_path / "all.npz", npz(compressed, **arrays)))
    found = {one.name.removeprefix("all/"): one for one in datasets.publications}
    assert list(found) == list(arrays)
    for key, array in arrays.items():
        assert np.array_equal(mapped(found[key]).numpy(), array), key
        assert values(found[key]) == np.ascontiguousarray(array, array.dtype.newbyteorder("=")).tobytes()
        assert Path(found[key].file).parent != tmp_path


PACKED = npz(x=np.ones(1000))
COMPRESSED = npz(True, x=np.random.default_rng(0).random(1000))

NPZ_OFFENCES: list[tuple[str, bytes]] = [
    ("empty file", b""),
    ("cut", PACKED[: len(PACKED) // 2]),
    ("cut at the end", PACKED[:-1]),
    ("the first bytes", PACKED[:10]),
    ("a byte of the values altered", flipped(PACKED, 1000)),
    ("a compressed byte altered", flipped(flipped(COMPRESSED, len(COMPRESSED) // 2), 60)),
    ("an npy file", npy(np.ones(3))),
    ("text", b"hello" * 30),
    ("a text in it", zipped("notes.txt", b"hello")),
    ("an array that is none", zipped("x.npy", b"hello")),
    ("an array of no bytes", zipped("x.npy", b"")),
    ("an array that is cut", zipped("x.npy", ONES[:-1])),
    ("objects", npz(x=np.array([{}], dtype=object))),
    ("texts", npz(x=np.array(["a"]))),
    ("sizes beyond 64 bits", zipped("x.npy", raw_npy(npy_header(shape=f"(0, {HUGE})")))),
    ("a petabyte", zipped("x.npy", raw_npy(npy_header(shape=f"({2**50},)")))),
    ("no array", npz()),
]


@pytest.mark.parametrize("content", [case[1] for case in NPZ_OFFENCES], ids=[case[0] for case in NPZ_OFFENCES])
def test_an_npz_file_with_something_wrong(datasets: Datasets, tmp_path: Path, content: bytes) -> None:
    refused(datasets, write(tmp_path / "x.npz", content))


# --- csv


@pytest.mark.parametrize(
    ("content", "wanted", "columns"),
    [
        ("1,2\n3,4\n", torch.tensor([[1, 2], [3, 4]]), ""),
        ("1,2\n3,4", torch.tensor([[1, 2], [3, 4]]), ""),
        ("1,2\r\n3,4\r\n", torch.tensor([[1, 2], [3, 4]]), ""),
        ("a,b\n1,2\n", torch.tensor([[1, 2]]), "; columns a, b"),
        ("\ufeffa,b\n1,2\n", torch.tensor([[1, 2]]), "; columns a, b"),
        ('"a, b",é\n1,2\n', torch.tensor([[1, 2]]), "; columns a, b, é"),
        (",age\n1,2\n", torch.tensor([[1, 2]]), "; columns , age"),
        ("16777217,0.5\n", torch.tensor([[16777217, 0.5]], dtype=torch.float64), ""),
        ("16777218,0.5\n", torch.tensor([[16777218, 0.5]]), ""),
        ("1,2.5\n-3,4\n", torch.tensor([[1, 2.5], [-3, 4]]), ""),
        ("x\n1e3\n-2.5E-1\n", torch.tensor([[1000], [-0.25]]), "; columns x"),
        ("x\nnan\ninf\n", torch.tensor([[torch.nan], [torch.inf]]), "; columns x"),
        ("+1, -2 ,3\n", torch.tensor([[1, -2, 3]]), ""),
        ("\n\n1,2\n\n3,4\n\n", torch.tensor([[1, 2], [3, 4]]), ""),
        ('"1","2"\n', torch.tensor([[1, 2]]), ""),
        ("7\n", torch.tensor([[7]]), ""),
        (f"{-(2**63)},{2**63 - 1}\n", torch.tensor([[-(2**63), 2**63 - 1]]), ""),
        (f"{2**53 + 1}\n", torch.tensor([[2**53 + 1]]), ""),
    ],
)
def test_a_table_of_numbers(datasets: Datasets, tmp_path: Path, content: str, wanted: Tensor, columns: str) -> None:
    found = published(datasets, write(tmp_path / "t.csv", content))
    assert found.dtype == wanted.dtype and torch.equal(found.nan_to_num(5.5), wanted.nan_to_num(5.5))
    size = ", ".join(map(str, wanted.shape))
    kind = str(wanted.dtype).removeprefix("torch.")
    assert only(datasets).description == f"t.csv: {kind}[{size}]{columns}"


CSV_OFFENCES: list[tuple[str, bytes | str, str]] = [
    ("empty", "", "empty"),
    ("blank lines", "\n\r\n\n", "empty"),
    ("names only", "a,b\n", ""),
    ("words", "a,b\n1,2\n3,x\n", "line 3: 'x' is no number"),
    ("a slip in the first row", "51,1l9,0\n52,120,1\n", "line 1: '1l9' is no number"),
    ("a number among the names", "id,2019\n1,2\n", "line 1: 'id' is no number"),
    ("too large a number", "1e400,1\n", "1e400 is too large a number"),
    ("words without names", "1,2\nx,4\n", "line 2: 'x' is no number"),
    ("words behind blank lines", "a,b\n\n\n1,x\n", "line 4: 'x' is no number"),
    ("a missing value", "a,b\n1,\n", "line 2: '' is no number"),
    ("a missing value in the first row", "1,,3\n4,5,6\n", ""),
    ("a cell too few", "1,2\n3\n", "line 2 has 1 cells instead of 2"),
    ("a cell too many", "a,b\n1,2\n1,2,3\n", "line 3 has 3 cells instead of 2"),
    ("fewer names than cells", "a\n1,2\n", "line 2 has 2 cells instead of 1"),
    ("semicolons", "a;b\n1;2\n", "'1;2' is no number"),
    ("decimal commas", 'a\n"1,5"\n', "'1,5' is no number"),
    ("hexadecimal", "1\n0x10\n", "'0x10' is no number"),
    ("a superscript", "1\n²\n", "'²' is no number"),
    ("no UTF-8", b"a\xe9\n1\n", "utf-8"),
    ("UTF-16", "a\n1\n".encode("utf-16"), "utf-8"),
    ("a whole number beyond 64 bits", f"{2**64}\n", "is a whole number beyond int64"),
    ("5000 digits", "1" * 5000 + "\n", ""),
    ("a cell of 200000 digits", "1" * 200_000 + ",1\n", ""),
    ("a quote that does not end", '1,2\n"3,4\n5,6\n', "line 2"),
]


@pytest.mark.parametrize(
    ("content", "message"), [case[1:] for case in CSV_OFFENCES], ids=[case[0] for case in CSV_OFFENCES]
)
def test_a_csv_file_with_something_wrong(
    datasets: Datasets, tmp_path: Path, content: bytes | str, message: str
) -> None:
    assert message in refused(datasets, write(tmp_path / "t.csv", content))


@pytest.mark.parametrize("cell", ["1e300", "-1e39", "3.5e38"])
def test_a_number_that_float32_cannot_hold_is_no_warning(tmp_path: Path, cell: str) -> None:
    """It is infinite then, or refused."""
    outcome(write(tmp_path / "t.csv", f"{cell},1\n"))


cells = st.one_of(
    st.integers(-(2**70), 2**70).map(str),
    st.floats(allow_subnormal=False, width=32).map(str),
    st.sampled_from(["", " ", "a", '"', '""', "1_0", "٣", "\0", "1;2", "\r", "é", "+", "1 2", "'1'"]),
)


@settings(deadline=None)
@given(rows=st.lists(st.lists(cells, min_size=1, max_size=3), max_size=4))
def test_any_table_is_published_or_refused(scratch: Path, rows: list[list[str]]) -> None:
    outcome(write(scratch / "any.csv", "\n".join(",".join(row) for row in rows)))


# --- parquet


def test_a_parquet_table_of_whole_numbers(datasets: Datasets, tmp_path: Path) -> None:
    path = parquet(
        tmp_path / "t.parquet", a=[1, 2**53 + 1], b=ARROW.array([True, False]), c=ARROW.array([3, 4], "int8")
    )
    assert published(datasets, path).tolist() == [[1, 1, 3], [2**53 + 1, 0, 4]]
    assert only(datasets).description == "t.parquet: int64[2, 3]; columns a, b, c"


def test_a_parquet_table_of_numbers(datasets: Datasets, tmp_path: Path) -> None:
    path = parquet(tmp_path / "t.parquet", a=[1, 2, 3], b=[0.5, float("nan"), -1])
    found = published(datasets, path)
    assert found.dtype == torch.float32
    assert torch.equal(found.nan_to_num(7), torch.tensor([[1, 0.5], [2, 7], [3, -1]]))


def test_a_parquet_table_of_many_pieces(datasets: Datasets, tmp_path: Path) -> None:
    wanted = np.random.default_rng(0).random((10_000, 3)).astype(np.float32)
    table = ARROW.table({"abc"[place]: wanted[:, place] for place in range(3)})
    importlib.import_module("pyarrow.parquet").write_table(table, tmp_path / "t.parquet", row_group_size=999)
    assert np.array_equal(published(datasets, tmp_path / "t.parquet").numpy(), wanted)


def test_a_parquet_table_without_rows(datasets: Datasets, tmp_path: Path) -> None:
    path = parquet(tmp_path / "t.parquet", a=ARROW.array([], "int64"), b=ARROW.array([], "float64"))
    assert published(datasets, path).shape == (0, 2)


UNSUITABLE: list[tuple[str, list[object], str]] = [
    ("texts", ["x", "y"], "string"),
    ("a null among whole numbers", [1, None], "int64"),
    ("a null among numbers", [1.5, None], "float64"),
    ("a null among booleans", [True, None], "bool"),
    ("nulls", [None, None], "null"),
    ("dates", [1, 2], "date32"),
    ("times", [1, 2], "timestamp[s]"),
    ("durations", [1, 2], "duration[s]"),
    ("bytes", [b"x", b"y"], "binary"),
    ("no rows of texts", [], "string"),
    ("more than int64 holds", [2**64 - 1, 1], "uint64"),
]


@pytest.mark.parametrize(("cells", "kind"), [case[1:] for case in UNSUITABLE], ids=[case[0] for case in UNSUITABLE])
def test_a_parquet_column_that_is_not_of_numbers(
    datasets: Datasets, tmp_path: Path, cells: list[object], kind: str
) -> None:
    path = parquet(tmp_path / "t.parquet", fine=ARROW.array(range(len(cells)), "int64"), odd=ARROW.array(cells, kind))
    assert "odd" in refused(datasets, path)


@pytest.mark.parametrize("cells", [[[1], [2]], [{"x": 1}, {"x": 2}]], ids=["lists", "records"])
def test_a_parquet_column_that_is_no_column(datasets: Datasets, tmp_path: Path, cells: list[object]) -> None:
    assert "odd" in refused(datasets, parquet(tmp_path / "t.parquet", odd=cells))


def test_whole_numbers_of_both_kinds_are_not_rounded(datasets: Datasets, tmp_path: Path) -> None:
    number = 2**53 + 1
    path = parquet(tmp_path / "t.parquet", a=ARROW.array([number], "uint64"), b=ARROW.array([number], "int64"))
    assert published(datasets, path).tolist() == [[number, number]]


def test_a_parquet_file_without_columns(datasets: Datasets, tmp_path: Path) -> None:
    refused(datasets, parquet(tmp_path / "t.parquet"))


def test_a_parquet_file_with_something_wrong(tmp_path: Path) -> None:
    whole = parquet(tmp_path / "whole.parquet", a=[1, 2], b=[3, 4]).read_bytes()
    cut = tmp_path / "cut.parquet"
    for size in range(0, len(whole), 7):
        assert outcome(write(cut, whole[:size])), f"the first {size} bytes were published"
    for place in range(0, len(whole), 3):
        outcome(write(cut, flipped(whole, place)))


def test_parquet_needs_pyarrow(datasets: Datasets, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = parquet(tmp_path / "t.parquet", a=[1])
    monkeypatch.setitem(sys.modules, "pyarrow.parquet", None)
    assert "needs pyarrow: pip install 'ptrtensor[parquet]'" in refused(datasets, path)


# --- files and directories


@pytest.mark.parametrize("name", ["data.txt", "data", ".npy", "data.npy.gz", "data.pt", "data.pkl"])
def test_a_file_of_another_kind(datasets: Datasets, tmp_path: Path, name: str) -> None:
    message = refused(datasets, write(tmp_path / name, npy(np.ones(3))))
    assert all(suffix in message for suffix in READERS)


@pytest.mark.parametrize("suffix", READERS)
def test_a_file_that_is_not_there(datasets: Datasets, tmp_path: Path, suffix: str) -> None:
    refused(datasets, tmp_path / f"nothing{suffix}")


@pytest.mark.parametrize("suffix", READERS)
def test_a_link_to_itself(datasets: Datasets, tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"loop{suffix}"
    path.symlink_to(path)
    refused(datasets, path)


def test_a_link_has_its_own_name(datasets: Datasets, tmp_path: Path) -> None:
    """As in caches, where files are called by their contents."""
    blob = write(tmp_path / "0a1b2c", npy(np.arange(3)))
    link = tmp_path / "rows.npy"
    link.symlink_to(blob)
    assert published(datasets, link).tolist() == [0, 1, 2]
    assert only(datasets).name == "rows"


def test_a_path_is_found_from_anywhere(datasets: Datasets, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write(tmp_path / "rows.npy", npy(np.arange(3)))
    monkeypatch.chdir(tmp_path)
    datasets.add(Path("rows.npy"))
    monkeypatch.chdir("/")
    assert mapped(only(datasets)).tolist() == [0, 1, 2]


def test_all_files_of_a_directory_that_can_be_read(datasets: Datasets, tmp_path: Path) -> None:
    write(tmp_path / "b.npy", npy(np.arange(3)))
    write(tmp_path / "a.csv", "1,2\n")
    write(tmp_path / "notes.txt", "not data")
    write(tmp_path / "c.npz", npz(x=np.arange(2)))
    datasets.add(tmp_path)
    assert [one.name for one in datasets.publications] == ["a", "b", "c/x"]


@pytest.mark.parametrize("names", [[], ["notes.txt"]])
def test_a_directory_without_data(datasets: Datasets, tmp_path: Path, names: list[str]) -> None:
    for name in names:
        write(tmp_path / name, "")
    assert "has no file of these: .safetensors, " in refused(datasets, tmp_path)


def test_one_bad_file_of_a_directory_is_named(datasets: Datasets, tmp_path: Path) -> None:
    write(tmp_path / "a.csv", "1,2\n")
    write(tmp_path / "b.csv", "x,y\nz,1\n")
    with pytest.raises(DatasetError, match=r"b\.csv cannot be published: line 2: 'z' is no number"):
        datasets.add(tmp_path)


@pytest.mark.parametrize("what", ["file", "key"])
def test_nothing_is_called_as_if_it_were_another_worker_s(datasets: Datasets, tmp_path: Path, what: str) -> None:
    """Such labels may go home to that worker."""
    if what == "file":
        path = write(tmp_path / "alice:trial.npy", npy(np.arange(3)))
    else:
        path = write(tmp_path / "x.safetensors", safetensors({"10:00": entry()}, bytes(8)))
    with pytest.raises(DatasetError, match="':' stands behind another worker's name: rename it"):
        datasets.add(path)
    assert datasets.publications == ()


def test_a_file_whose_name_is_no_text(datasets: Datasets, tmp_path: Path) -> None:
    path = tmp_path / os.fsdecode(b"caf\xe9.npy")
    path.write_bytes(npy(np.ones(2)))
    with pytest.raises(DatasetError, match="cannot be published"):
        datasets.add(path)


@pytest.mark.parametrize("again", ["same file", "same name", "key"])
def test_two_tensors_of_one_name(datasets: Datasets, tmp_path: Path, again: str) -> None:
    first = write(tmp_path / "x.npy", npy(np.arange(3)))
    other = tmp_path / "other"
    other.mkdir()
    path, name = {
        "same file": (first, "x"),
        "same name": (write(other / "x.csv", "1,2\n"), "x"),
        "key": (write(other / "y.npz", npz(z=np.arange(2))), "y/z"),
    }[again]
    datasets.add(first if again != "key" else path)
    with pytest.raises(DatasetError, match=f"two tensors are called '{name}': rename {path}"):
        datasets.add(path)
    assert [one.name for one in datasets.publications] == [name]


def test_what_was_converted_is_the_owner_s_alone_and_is_removed(tmp_path: Path) -> None:
    with Datasets() as datasets:
        datasets.add(write(tmp_path / "x.csv", "1,2\n"))
        file = Path(only(datasets).file)
        assert stat.S_IMODE(file.stat().st_mode) == 0o600
        assert stat.S_IMODE(file.parent.stat().st_mode) == 0o700
        assert values(only(datasets)) == np.array([1, 2], np.int64).tobytes()
    assert not file.parent.exists()
    assert (tmp_path / "x.csv").exists()


def test_where_there_is_no_room_no_part_of_a_copy_stays(datasets: Datasets) -> None:
    meta = TensorMeta((2,), (1,), "float32")
    first = datasets.publish("x", ("#x",), "", False, meta, memoryview(bytes(8)))
    assert datasets.publications == (first,) and values(first) == bytes(8)

    resource = pytest.importorskip("resource", reason="there is no limit of a file's size")
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (4, before[1]))
    try:
        with pytest.raises(DatasetError, match="'y' cannot be published: .*File too large"):
            datasets.publish("y", (), "", True, meta, memoryview(bytes(8)))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert datasets.publications == (first,)
    assert [path.name for path in Path(first.file).parent.iterdir()] == [Path(first.file).name]
