"""Signatures: calls share a key exactly if their results' metadata must be the same (D6)."""

import math
import struct
from collections.abc import Callable, Iterator

import pytest
import torch
from torch._ops import OpOverload

import ptrtensor as pt
from ptrtensor.errors import SpentPointerError, UnsupportedOpError, WorkerMismatchError
from ptrtensor.tensor.operation import operations
from ptrtensor.tensor.signature import Call, form
from ptrtensor.wire.instruction import (
    ComplexConstant,
    Constant,
    FloatSlot,
    IntegerSlot,
    Items,
    NamedConstant,
    ObjectSlot,
)

aten = torch.ops.aten
Op = OpOverload[..., object]
Arguments = tuple[tuple[object, ...], dict[str, object]]


@pytest.fixture(scope="module")
def bob() -> Iterator[pt.VirtualWorker]:
    worker = pt.VirtualWorker(id="signature-bob")
    yield worker
    worker.close()


class Pointers:
    """Pointers by name; each look at `p` gives the same one."""

    def __init__(self, worker: pt.Worker) -> None:
        self.worker = worker
        self.p = pt.send(torch.zeros(4, 6), worker)
        self.q = pt.send(torch.ones(4, 6), worker)
        self.transposed = pt.send(torch.zeros(6, 4), worker).t()
        self.double = pt.send(torch.zeros(4, 6, dtype=torch.float64), worker)
        self.complex = pt.send(torch.zeros(4, 6, dtype=torch.complex64), worker)
        self.places = pt.send(torch.tensor([0, 1]), worker)


@pytest.fixture(scope="module")
def at(bob: pt.VirtualWorker) -> Pointers:
    return Pointers(bob)


def call(op: Op, arguments: Arguments) -> Call:
    return Call(operations[op], *arguments, None)


def given(*args: object, **kwargs: object) -> Arguments:
    return args, kwargs


Make = Callable[[Pointers], Arguments]
Pair = tuple[Op, Make, Make]

SAME: dict[str, Pair] = {
    "other values": (aten.neg.default, lambda at: given(at.p), lambda at: given(at.q)),
    "other integers of a pointwise operation": (
        aten.add.Tensor,
        lambda at: given(at.p, 1),
        lambda at: given(at.q, -(2**63)),
    ),
    "other floats of a pointwise operation": (
        aten.mul.Tensor,
        lambda at: given(at.p, 0.5),
        lambda at: given(at.p, math.nan),
    ),
    "other scalars of a foreach operation": (
        aten._foreach_add_.ScalarList,
        lambda at: given([at.p, at.q], [1.0, 2.0]),
        lambda at: given([at.q, at.p], [3.0, 4.0]),
    ),
    "other keyword numbers": (
        aten.addcdiv_.default,
        lambda at: given(at.p, at.q, at.double, value=0.1),
        lambda at: given(at.p, at.q, at.double, value=0.2),
    ),
    "not a number": (aten.full.default, lambda at: made(at, math.nan), lambda at: made(at, float("nan"))),
    "a tuple for a list": (aten.sum.dim_IntList, lambda at: given(at.p, [0, 1]), lambda at: given(at.p, (0, 1))),
    "another storage offset, no view": (
        aten.neg.default,
        lambda at: given(at.p[1]),
        lambda at: given(at.p[2]),
    ),
    "other local numbers": (
        aten.add.Tensor,
        lambda at: given(at.p, torch.tensor(1.5)),
        lambda at: given(at.p, torch.tensor(2.5)),
    ),
    "other generators": (
        aten.bernoulli_.float,
        lambda at: given(at.p, 0.5, generator=torch.Generator()),
        lambda at: given(at.p, 0.5, generator=torch.Generator()),
    ),
}

OTHER: dict[str, Pair] = {
    "shape": (aten.neg.default, lambda at: given(at.p), lambda at: given(at.p[0])),
    "strides": (aten.neg.default, lambda at: given(at.p), lambda at: given(at.transposed)),
    "dtype": (aten.neg.default, lambda at: given(at.p), lambda at: given(at.double)),
    "conjugation": (aten.neg.default, lambda at: given(at.complex), lambda at: given(at.complex.conj())),
    "negation": (aten.neg.default, lambda at: given(at.complex.imag), lambda at: given(at.complex.conj().imag)),
    "operation": (aten.neg.default, lambda at: given(at.p), lambda at: given(at.p)),
    "1 and True": (aten.sum.dim_IntList, lambda at: given(at.p, [1], True), lambda at: given(at.p, [1], 1)),
    "1 and 1.0": (aten.full.default, lambda at: made(at, 1), lambda at: made(at, 1.0)),
    "True and 1.0": (aten.full.default, lambda at: made(at, True), lambda at: made(at, 1.0)),
    "0 and False": (aten.full.default, lambda at: made(at, 0), lambda at: made(at, False)),
    "0.0 and -0.0": (aten.full.default, lambda at: made(at, 0.0), lambda at: made(at, -0.0)),
    "0j and -0j": (aten.full.default, lambda at: made(at, complex(0, 0)), lambda at: made(at, complex(0, -0.0))),
    "1 and True of a pointwise operation": (
        aten.add.Tensor,
        lambda at: given(at.p, 1),
        lambda at: given(at.p, True),
    ),
    "1 and 1.0 of a pointwise operation": (aten.add.Tensor, lambda at: given(at.p, 1), lambda at: given(at.p, 1.0)),
    "True and False": (aten.sum.dim_IntList, lambda at: given(at.p, [1], True), lambda at: given(at.p, [1], False)),
    "a number of no pointwise operation": (
        aten.select.int,
        lambda at: given(at.p, 0, 1),
        lambda at: given(at.p, 0, 2),
    ),
    "a number too large for a field": (
        aten.add.Tensor,
        lambda at: given(at.p, 2**63),
        lambda at: given(at.p, 2**63 + 1),
    ),
    "None and a number": (aten.argmax.default, lambda at: given(at.p, None), lambda at: given(at.p, 0)),
    "the length of a list": (aten.cat.default, lambda at: given([at.p, at.q]), lambda at: given([at.p, at.q, at.q])),
    "where lists end": (
        aten._foreach_addcmul_.Tensor,
        lambda at: given([at.p, at.q], [at.p], [at.p], at.p),
        lambda at: given([at.p], [at.q, at.p], [at.p], at.p),
    ),
    "an empty list and none": (aten.sum.dim_IntList, lambda at: given(at.p, []), lambda at: given(at.p, None)),
    "a list with None": (
        aten.index.Tensor,
        lambda at: given(at.p, [at.places, None]),
        lambda at: given(at.p, [None, at.places]),
    ),
    "the name of a keyword": (
        aten.clamp.default,
        lambda at: given(at.p, min=1.0),
        lambda at: given(at.p, max=1.0),
    ),
    "text": (aten.div.Tensor_mode, lambda at: given(at.p, 2, rounding_mode="floor"), lambda at: given(at.p, 2)),
    "other text": (
        aten.div.Tensor_mode,
        lambda at: given(at.p, 2, rounding_mode="floor"),
        lambda at: given(at.p, 2, rounding_mode="trunc"),
    ),
    "a dtype": (
        aten.sum.default,
        lambda at: given(at.p, dtype=torch.float64),
        lambda at: given(at.p, dtype=torch.float32),
    ),
    "a memory format": (
        aten.clone.default,
        lambda at: given(at.p, memory_format=torch.contiguous_format),
        lambda at: given(at.p, memory_format=torch.preserve_format),
    ),
    "twice the same tensor": (aten.add.Tensor, lambda at: given(at.p, at.p), lambda at: given(at.p, at.q)),
    "which two are the same": (
        aten.addmm.default,
        lambda at: given(at.p, at.p, at.q),
        lambda at: given(at.p, at.q, at.p),
    ),
    "the same tensor in and out": (
        aten.neg.out,
        lambda at: given(at.p, out=at.p),
        lambda at: given(at.p, out=at.q),
    ),
    "the storage offset of a view": (
        aten.as_strided.default,
        lambda at: given(at.p[1:2], [1], [1]),
        lambda at: given(at.p[2:3], [1], [1]),
    ),
    "the storage offset of an in-place view": (
        aten.unsqueeze_.default,
        lambda at: given(at.p[1], 0),
        lambda at: given(at.p[2], 0),
    ),
    "a local tensor and a pointer": (
        aten.add.Tensor,
        lambda at: given(at.p, torch.tensor(1.0)),
        lambda at: given(at.p, at.p.sum()),
    ),
    "the dtype of a local number": (
        aten.add.Tensor,
        lambda at: given(at.p, torch.tensor(1.0)),
        lambda at: given(at.p, torch.tensor(1)),
    ),
}


def made(at: Pointers, value: object) -> Arguments:
    """The arguments of `full`, whose key has its number's value."""
    return given([2], value, device=at.worker.device)


@pytest.mark.parametrize("what", SAME)
def test_one_key(at: Pointers, what: str) -> None:
    op, one, other = SAME[what]
    assert call(op, one(at)).key == call(op, other(at)).key


@pytest.mark.parametrize("what", OTHER)
def test_two_keys(at: Pointers, what: str) -> None:
    op, one, other = OTHER[what]
    second = aten.abs.default if what == "operation" else op
    first_key, second_key = tuple(call(op, one(at)).key), tuple(call(second, other(at)).key)
    assert first_key != second_key and len({first_key, second_key}) == 2


def test_each_call_has_a_key_that_can_be_looked_up(at: Pointers) -> None:
    for op, one, other in (*SAME.values(), *OTHER.values()):
        for make in (one, other):
            key = tuple(call(op, make(at)).key)
            assert {key: 1}[tuple(call(op, make(at)).key)] == 1


@pytest.mark.parametrize("change", [torch.float64, torch.float16])
def test_the_default_dtype_is_part_of_what_is_looked_up(bob: pt.VirtualWorker, change: torch.dtype) -> None:
    """It is no argument of anything, and decides what dtype an integer's mean or square root has."""
    p = pt.send(torch.tensor([4, 9]), bob)
    assert torch.sqrt(p).dtype is torch.float32
    torch.set_default_dtype(change)
    assert torch.sqrt(p).dtype is change and torch.sqrt(p).cpu().dtype is change
    torch.set_default_dtype(torch.float32)
    assert torch.sqrt(p).dtype is torch.float32


# --- fields and forms


def test_fields_in_the_order_of_the_arguments(at: Pointers) -> None:
    made = call(aten.addcdiv_.default, given(at.p, at.q, at.double, value=0.5))
    assert made.fields == [at.p.id_at_location, at.q.id_at_location, at.double.id_at_location, 0.5]
    positional, keywords = form(made)
    assert positional == (ObjectSlot(),) * 3 and keywords == {"value": FloatSlot()}


@pytest.mark.parametrize(
    ("op", "arguments", "slots", "fields"),
    [
        (aten.add.Tensor, lambda at: given(at.p, 3), (ObjectSlot(), IntegerSlot()), [3]),
        (aten.add.Tensor, lambda at: given(at.p, True), (ObjectSlot(), Constant(True)), []),
        (aten.add.Tensor, lambda at: given(at.p, 1 + 2j), (ObjectSlot(), ComplexConstant(1, 2)), []),
        (aten.add.Tensor, lambda at: given(at.p, 2**63), (ObjectSlot(), Constant(2**63)), []),
        (aten.add.Tensor, lambda at: given(at.p, -(2**63)), (ObjectSlot(), IntegerSlot()), [-(2**63)]),
        (aten.transpose.int, lambda at: given(at.p, 0, -1), (ObjectSlot(), Constant(0), Constant(-1)), []),
        (aten.select.int, lambda at: given(at.p, 0, 3), (ObjectSlot(), Constant(0), Constant(3)), []),
        (
            aten._foreach_mul_.ScalarList,
            lambda at: given([at.p], [2.0]),
            (Items((ObjectSlot(),)), Items((FloatSlot(),))),
            [2.0],
        ),
        (
            aten.index.Tensor,
            lambda at: given(at.p, [None, at.places]),
            (ObjectSlot(), Items((Constant(None), ObjectSlot()))),
            None,
        ),
        (aten.sum.default, lambda at: given(at.p), (ObjectSlot(),), []),
    ],
)
def test_forms(at: Pointers, op: Op, arguments: Make, slots: tuple[object, ...], fields: list[float] | None) -> None:
    made = call(op, arguments(at))
    assert form(made)[0] == slots
    if fields is not None:
        assert made.fields[1:] == fields and made.fields[0] == at.p.id_at_location
    assert len(made.fields) == sum(
        isinstance(leaf, ObjectSlot | IntegerSlot | FloatSlot)
        for slot in slots
        for leaf in (slot.items if isinstance(slot, Items) else (slot,))
    )
    struct.pack("<" + "".join("d" if isinstance(field, float) else "q" for field in made.fields), *made.fields)


def test_what_concerns_only_this_side_is_not_in_the_form(at: Pointers) -> None:
    made = call(aten.bernoulli_.float, given(at.p, 0.5, generator=torch.Generator()))
    assert made.generator is not None and form(made)[1] == {}
    dtyped = call(aten.sum.default, given(at.p, dtype=torch.float64))
    assert form(dtyped)[1] == {"dtype": NamedConstant("dtype", "float64")}


def test_local_tensors_get_their_names_later(at: Pointers) -> None:
    number = torch.tensor(1.5)
    made = call(aten.add.Tensor, given(at.p, number))
    assert made.locals == [(1, number)] and made.fields == [at.p.id_at_location, 0]
    places = torch.tensor([0, 1])
    made = call(aten.index.Tensor, given(at.p, [None, places]))
    assert [place for place, _ in made.locals] == [1]


@pytest.mark.parametrize(
    ("op", "arguments", "places"),
    [
        (aten.add.Tensor, lambda at: given(at.p, at.q), []),
        (aten.add_.Tensor, lambda at: given(at.p, at.q), [0]),
        (aten.add.out, lambda at: given(at.p, at.q, out=at.double), [2]),
        (aten._foreach_add_.List, lambda at: given([at.p, at.q], [at.q, at.q]), [0, 1]),
        (aten.index_put_.default, lambda at: given(at.p, [None, at.places], at.q), [0]),
    ],
)
def test_written_places(at: Pointers, op: Op, arguments: Make, places: list[int]) -> None:
    assert call(op, arguments(at)).written_places() == places


# --- what is refused


def test_what_does_not_travel_is_refused(at: Pointers, second_worker: pt.VirtualWorker) -> None:
    other = pt.send(torch.zeros(4, 6), second_worker)
    with pytest.raises(WorkerMismatchError, match=rf"{at.worker.id}.*{second_worker.id}"):
        call(aten.add.Tensor, given(at.p, other))
    with pytest.raises(WorkerMismatchError, match="local tensor"):
        call(aten.add.Tensor, given(at.p, torch.zeros(4, 6)))
    with pytest.raises(WorkerMismatchError, match="local tensor"):
        call(aten.add.Tensor, given(at.p, torch.zeros((), device="meta")))
    with pytest.raises(WorkerMismatchError, match=str(second_worker.device)):
        call(aten._to_copy.default, given(at.p, device=second_worker.device))
    with pytest.raises(UnsupportedOpError, match="object"):
        call(aten.add.Tensor, given(at.p, object()))
    with pytest.raises(UnsupportedOpError, match="sparse"):
        form(call(aten._to_copy.default, given(at.p, layout=torch.sparse_coo)))


def test_a_spent_pointer_is_refused(bob: pt.VirtualWorker) -> None:
    p = pt.send(torch.zeros(2), bob)
    pt.get(p)
    with pytest.raises(SpentPointerError, match="test_signature"):
        call(aten.neg.default, given(p))


# --- seeds (D16)


def test_seeds_come_from_the_generator_that_was_given_or_the_default_one(bob: pt.VirtualWorker, at: Pointers) -> None:
    def seed(generator: torch.Generator | None = None) -> int:
        return call(aten.bernoulli_.float, given(at.p, 0.5, generator=generator)).seed()

    torch.manual_seed(5)
    first, second = seed(), seed()
    torch.manual_seed(5)
    assert (seed(), seed()) == (first, second) and first != second
    assert 0 <= first < 2**63
    generator = torch.Generator().manual_seed(5)
    before = torch.get_rng_state()
    assert seed(generator) == first
    assert torch.equal(torch.get_rng_state(), before)


def test_no_seed_is_drawn_while_the_worker_has_its_own_order(second_worker: pt.VirtualWorker) -> None:
    p = pt.send(torch.zeros(2), second_worker)
    second_worker.manual_seed(1)
    before = torch.get_rng_state()
    assert call(aten.bernoulli_.float, given(p, 0.5)).seed() == 0
    assert torch.equal(torch.get_rng_state(), before)
