"""TensorMeta: interning, equality, and what is refused of a peer's."""

import threading

import msgspec
import pytest

from ptrtensor.errors import ProtocolError
from ptrtensor.wire.limits import MAX_DIMENSIONS
from ptrtensor.wire.metadata import ITEM_BYTES, MetadataTable, TensorMeta, intern, interned

# --- interning


def test_equal_content_is_one_object() -> None:
    assert intern((2, 3), (3, 1), "float32") is intern((2, 3), (3, 1), "float32")


@pytest.mark.parametrize(
    "other",
    [
        TensorMeta((3, 2), (3, 1), "float32"),
        TensorMeta((2, 3), (1, 2), "float32"),
        TensorMeta((2, 3), (3, 1), "float64"),
        TensorMeta((2, 3), (3, 1), "float32", conj=True),
        TensorMeta((2, 3), (3, 1), "float32", neg=True),
    ],
    ids=["shape", "stride", "dtype", "conj", "neg"],
)
def test_any_difference_is_another_object(other: TensorMeta) -> None:
    assert interned(other) is not intern((2, 3), (3, 1), "float32")
    assert interned(other) is interned(other)


def test_interned_metadata_is_a_key_by_identity() -> None:
    meta = intern((7,), (1,), "int8")
    assert {meta: 1}[intern((7,), (1,), "int8")] == 1
    assert TensorMeta((7,), (1,), "int8") not in {meta}


def test_the_table_forgets_what_nobody_holds() -> None:
    table = MetadataTable()
    kept = [table.intern((size,), (2,), "float32") for size in range(10)]
    for size in range(3 * table.SMALLEST_SWEEP):
        table.intern((size,), (1,), "float32")
    assert len(table) <= table.SMALLEST_SWEEP + 1
    assert all(table.intern((size,), (2,), "float32") is meta for size, meta in enumerate(kept))


def test_the_table_grows_with_what_is_held() -> None:
    table = MetadataTable()
    held = [table.intern((size,), (1,), "float32") for size in range(3 * table.SMALLEST_SWEEP)]
    assert len(table) == len(held)
    assert table.intern((5,), (1,), "float32") is held[5]


def test_threads_get_one_object() -> None:
    table = MetadataTable()
    barrier = threading.Barrier(8)
    found: list[TensorMeta] = []

    def intern_all() -> None:
        barrier.wait()
        found.extend([table.intern((size,), (1,), "float32") for size in range(200)])

    threads = [threading.Thread(target=intern_all) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len({id(meta) for meta in found}) == 200


# --- what it says


@pytest.mark.parametrize(
    ("shape", "dtype", "elements", "nbytes"),
    [
        ((), "float32", 1, 4),
        ((0,), "float64", 0, 0),
        ((2, 3), "float32", 6, 24),
        ((2, 3), "bool", 6, 6),
        ((4, 0, 5), "int64", 0, 0),
        ((3,), "complex128", 3, 48),
        ((2**40, 2**40), "int8", 2**80, 2**80),
    ],
)
def test_sizes(shape: tuple[int, ...], dtype: str, elements: int, nbytes: int) -> None:
    meta = TensorMeta(shape, (1,) * len(shape), dtype)
    assert (meta.elements, meta.nbytes) == (elements, nbytes)


@pytest.mark.parametrize(
    ("meta", "text"),
    [
        (TensorMeta((2, 3), (3, 1), "float32"), "float32[2, 3]"),
        (TensorMeta((), (), "bool"), "bool[]"),
    ],
)
def test_text(meta: TensorMeta, text: str) -> None:
    assert str(meta) == text


# --- equality


@pytest.mark.parametrize(
    ("mine", "theirs", "same"),
    [
        # [P5.4]: the stride of a dimension of size 1 says nothing
        (TensorMeta((1,), (1,), "int8"), TensorMeta((1,), (99,), "int8"), True),
        (TensorMeta((2, 1), (1, 1), "int8"), TensorMeta((2, 1), (1, 2), "int8"), True),
        (TensorMeta((1, 2), (7, 1), "int8"), TensorMeta((1, 2), (2, 1), "int8"), True),
        (TensorMeta((2, 1), (1, 1), "int8"), TensorMeta((2, 1), (2, 1), "int8"), False),
        # nor does any stride of a tensor without elements
        (TensorMeta((0,), (1,), "int8"), TensorMeta((0,), (5,), "int8"), True),
        (TensorMeta((3, 0), (1, 1), "int8"), TensorMeta((3, 0), (9, 4), "int8"), True),
        # everything else does
        (TensorMeta((2, 3), (3, 1), "int8"), TensorMeta((2, 3), (3, 1), "int8"), True),
        (TensorMeta((2, 3), (3, 1), "int8"), TensorMeta((2, 3), (1, 2), "int8"), False),
        (TensorMeta((2,), (1,), "int8"), TensorMeta((3,), (1,), "int8"), False),
        (TensorMeta((2,), (1,), "int8"), TensorMeta((2, 1), (1, 1), "int8"), False),
        (TensorMeta((2,), (1,), "int8"), TensorMeta((2,), (1,), "uint8"), False),
        (TensorMeta((2,), (1,), "complex64"), TensorMeta((2,), (1,), "complex64", conj=True), False),
        (TensorMeta((2,), (1,), "float32", neg=True), TensorMeta((2,), (1,), "float32"), False),
        (TensorMeta((), (), "int8"), TensorMeta((), (), "int8"), True),
        (TensorMeta((), (), "int8"), TensorMeta((1,), (1,), "int8"), False),
    ],
)
def test_same_as(mine: TensorMeta, theirs: TensorMeta, same: bool) -> None:
    assert mine.same_as(theirs) is same
    assert theirs.same_as(mine) is same


# --- what comes from a peer


@pytest.mark.parametrize("dtype", sorted(ITEM_BYTES))
def test_every_dtype_passes_the_check_and_the_wire(dtype: str) -> None:
    meta = TensorMeta((2, 1), (1, 1), dtype)
    meta.check()
    decoded = msgspec.msgpack.decode(msgspec.msgpack.encode(meta), type=TensorMeta)
    decoded.check()
    assert decoded.same_as(meta)
    assert interned(decoded) is interned(meta)


@pytest.mark.parametrize(
    "meta",
    [
        TensorMeta((2,), (1,), "float31"),
        TensorMeta((2,), (1,), ""),
        TensorMeta((2,), (1,), "Tensor"),
        TensorMeta((2,), (1,), "x" * 100_000),
        TensorMeta((-1,), (1,), "int8"),
        TensorMeta((2, -3), (1, 1), "int8"),
        TensorMeta((2,), (-1,), "int8"),
        TensorMeta((2,), (), "int8"),
        TensorMeta((), (1,), "int8"),
        TensorMeta((1,) * (MAX_DIMENSIONS + 1), (1,) * (MAX_DIMENSIONS + 1), "int8"),
    ],
    ids=["dtype", "no dtype", "name of torch", "long dtype", "size", "later size", "stride", "few", "many", "deep"],
)
def test_check_refuses(meta: TensorMeta) -> None:
    with pytest.raises(ProtocolError) as caught:
        meta.check()
    assert len(str(caught.value)) < 500


def test_as_many_dimensions_as_allowed_pass() -> None:
    TensorMeta((1,) * MAX_DIMENSIONS, (1,) * MAX_DIMENSIONS, "int8").check()


@pytest.mark.parametrize(
    ("shape", "stride", "extent"),
    [
        ((), (), 4),
        ((3,), (1,), 12),
        ((2, 3), (3, 1), 24),
        ((2, 3), (100, 1), 412),
        ((5,), (0,), 4),
        ((2, 0), (9, 1), 0),
    ],
)
def test_the_extent_has_the_gaps(shape: tuple[int, ...], stride: tuple[int, ...], extent: int) -> None:
    assert TensorMeta(shape, stride, "float32").extent == extent
