"""`TensorMeta`: all that can be known of a tensor without its values."""

import math
from typing import Final
from weakref import ref

import msgspec

from ptrtensor.errors import ProtocolError
from ptrtensor.locks import process_lock
from ptrtensor.wire.limits import MAX_DIMENSIONS

ITEM_BYTES: Final[dict[str, int]] = {
    "bool": 1,
    "uint8": 1,
    "int8": 1,
    "int16": 2,
    "uint16": 2,
    "int32": 4,
    "uint32": 4,
    "int64": 8,
    "uint64": 8,
    "float8_e4m3fn": 1,
    "float8_e4m3fnuz": 1,
    "float8_e5m2": 1,
    "float8_e5m2fnuz": 1,
    "float8_e8m0fnu": 1,
    "float16": 2,
    "bfloat16": 2,
    "float32": 4,
    "float64": 8,
    "complex32": 4,
    "complex64": 8,
    "complex128": 16,
}


class TensorMeta(msgspec.Struct, frozen=True, eq=False, weakref=True, array_like=True):
    """Shape (elements), stride (elements), dtype name and the two lazy bits of a dense tensor.

    Compared by identity, which makes it a cheap part of a key: get it from `intern`. One that was decoded from
    the wire is a plain record; `same_as` compares such.
    """

    shape: tuple[int, ...]
    stride: tuple[int, ...]
    dtype: str
    conj: bool = False
    neg: bool = False

    @property
    def elements(self) -> int:
        return math.prod(self.shape)

    @property
    def nbytes(self) -> int:
        """Bytes of the values, without gaps."""
        return self.elements * ITEM_BYTES[self.dtype]

    @property
    def extent(self) -> int:
        """Bytes from the first value to the last, with the gaps."""
        if 0 in self.shape:
            return 0
        last = sum((size - 1) * step for size, step in zip(self.shape, self.stride, strict=True))
        return (last + 1) * ITEM_BYTES[self.dtype]

    def same_as(self, other: "TensorMeta") -> bool:
        """Equality as [P5.4] has it: strides of dimensions of size 0 or 1 carry no meaning."""
        return (
            self.shape == other.shape
            and self.dtype == other.dtype
            and self.conj == other.conj
            and self.neg == other.neg
            and (
                self.stride == other.stride
                or 0 in self.shape
                or all(
                    mine == theirs
                    for size, mine, theirs in zip(self.shape, self.stride, other.stride, strict=True)
                    if size != 1
                )
            )
        )

    def check(self) -> None:
        """Refuse what no tensor can have; for metadata that came from a peer [P3.4]."""
        if self.dtype not in ITEM_BYTES:
            raise ProtocolError(f"the peer names a dtype that this protocol does not carry: {self.dtype[:40]!r}")
        if len(self.shape) > MAX_DIMENSIONS or len(self.shape) != len(self.stride):
            raise ProtocolError(f"the peer sent {len(self.shape)} sizes with {len(self.stride)} strides")
        if any(size < 0 for size in self.shape) or any(stride < 0 for stride in self.stride):
            raise ProtocolError("the peer sent a negative size or stride")

    def __str__(self) -> str:
        return f"{self.dtype}[{', '.join(map(str, self.shape))}]"


class MetadataTable:
    """Interned metadata: equal content is one object, for as long as anybody holds it.

    The dead are swept out now and then. A `WeakValueDictionary` would run Python at each death, where Ctrl-C is lost.
    """

    SMALLEST_SWEEP: Final = 1024

    def __init__(self) -> None:
        self._table: dict[tuple[object, ...], ref[TensorMeta]] = {}
        self._sweep_at = self.SMALLEST_SWEEP
        self._lock = process_lock()

    def __len__(self) -> int:
        return len(self._table)

    def intern(
        self,
        shape: tuple[int, ...],
        stride: tuple[int, ...],
        dtype: str,
        conj: bool = False,
        neg: bool = False,
    ) -> TensorMeta:
        key = (shape, stride, dtype, conj, neg)
        meta = self._living(key)
        if meta is None:
            with self._lock:
                meta = self._living(key)
                if meta is None:
                    meta = TensorMeta(shape, stride, dtype, conj, neg)
                    self._table[key] = ref(meta)
                    if len(self._table) > self._sweep_at:
                        self._sweep()
        return meta

    def _living(self, key: tuple[object, ...]) -> TensorMeta | None:
        reference = self._table.get(key)
        return None if reference is None else reference()

    def _sweep(self) -> None:
        self._table = {key: reference for key, reference in self._table.items() if reference() is not None}
        self._sweep_at = max(self.SMALLEST_SWEEP, 2 * len(self._table))


def contiguous_stride(shape: tuple[int, ...]) -> tuple[int, ...]:
    """Row after row, in elements, as torch lays out what it makes; of an empty tensor, as torch counts them."""
    stride = [1] * len(shape)
    for place in range(len(shape) - 2, -1, -1):
        stride[place] = stride[place + 1] * max(shape[place + 1], 1)
    return tuple(stride)


_interned: Final = MetadataTable()
intern: Final = _interned.intern


def interned(meta: TensorMeta) -> TensorMeta:
    """The interned object for metadata that was decoded from the wire."""
    return intern(meta.shape, meta.stride, meta.dtype, meta.conj, meta.neg)
