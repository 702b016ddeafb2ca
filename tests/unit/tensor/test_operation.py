"""What is read from an operation's schema."""

import pytest
import torch
from torch._ops import OpOverload

from ptrtensor.errors import UnsupportedOpError
from ptrtensor.tensor.operation import Kind, Operation, operations

aten = torch.ops.aten
Op = OpOverload[..., object]

FRESH, LIST, WRITTEN, SCALAR = Kind.FRESH, Kind.FRESH_LIST, Kind.WRITTEN, Kind.SCALAR

RETURNS: dict[Op, list[tuple[Kind, int | str]]] = {
    aten.add.Tensor: [(FRESH, -1)],
    aten.add_.Tensor: [(WRITTEN, 0)],
    aten.add.out: [(WRITTEN, "out")],
    aten.t.default: [(FRESH, -1)],
    aten.max.dim: [(FRESH, -1), (FRESH, -1)],
    aten.max.dim_max: [(WRITTEN, "max"), (WRITTEN, "max_values")],
    aten.split.Tensor: [(LIST, -1)],
    aten._foreach_add.Scalar: [(LIST, -1)],
    aten._foreach_add_.Scalar: [],
    aten._foreach_lerp_.List: [],
    aten.equal.default: [(SCALAR, -1)],
    aten.native_layer_norm_backward.default: [(FRESH, -1)] * 3,
    aten.nonzero.out: [(WRITTEN, "out")],
    aten.lstm.input: [(FRESH, -1)] * 3,
    aten.resize_.default: [(WRITTEN, 0)],
}

# Operations by the one thing that this column asks of them.
VIEWS = [
    aten.t.default,
    aten.select.int,
    aten.slice.Tensor,
    aten.split.Tensor,
    aten.detach.default,
    aten.as_strided.default,
]
NO_VIEWS = [aten.add.Tensor, aten.add_.Tensor, aten.clone.default, aten.index.Tensor, aten.resize_.default]
IN_PLACE_VIEWS = [aten.t_.default, aten.transpose_.default, aten.squeeze_.dim, aten.unsqueeze_.default]
RELATIVE = [aten.t.default, aten.select.int, aten.slice.Tensor, aten.split.Tensor]
ABSOLUTE = [op for op in VIEWS if op not in RELATIVE]
WITH_OFFSET = [*ABSOLUTE, *IN_PLACE_VIEWS, aten.as_strided_.default, aten.set_.source_Storage_storage_offset]
WITHOUT_OFFSET = [aten.add.Tensor, aten.mm.default, aten.copy_.default, aten.cat.default]
NUMBERS_AS_FIELDS = [
    aten.add.Tensor,
    aten.mul.Scalar,
    aten.addcmul_.default,
    aten.clamp.default,
    aten.pow.Tensor_Scalar,
    aten._foreach_addcdiv_.Scalar,
    aten._foreach_mul_.ScalarList,
]
NUMBERS_IN_KEY = [aten.sum.dim_IntList, aten.select.int, aten.topk.default, aten.full.default, aten.narrow.default]
RANDOM = [
    aten.rand.default,
    aten.native_dropout.default,
    aten.bernoulli_.float,
    aten.randperm.default,
    aten.normal_.default,
]
CERTAIN = [aten.add.Tensor, aten.empty.memory_format, aten.zeros.default]


@pytest.mark.parametrize("op", RETURNS, ids=str)
def test_returns(op: Op) -> None:
    operation = operations[op]
    assert list(zip(operation.kinds, operation.written_arguments, strict=True)) == RETURNS[op]
    assert operation.returns_one == (RETURNS[op] == [(FRESH, -1)])
    assert operation.returns_scalar == (RETURNS[op] == [(SCALAR, -1)])


@pytest.mark.parametrize(
    ("feature", "with_it", "without_it"),
    [
        ("is_view", VIEWS, NO_VIEWS),
        ("changes_metadata", IN_PLACE_VIEWS, [*VIEWS, aten.add_.Tensor]),
        ("offset_matters", WITH_OFFSET, [*WITHOUT_OFFSET, *RELATIVE]),
        ("is_relative", RELATIVE, [*ABSOLUTE, aten.add.Tensor]),
        ("numbers_are_fields", NUMBERS_AS_FIELDS, NUMBERS_IN_KEY),
        ("draws", RANDOM, CERTAIN),
        (
            "is_in_place",
            [aten.add_.Tensor, aten.clamp_.Tensor, aten.copy_.default],
            [aten.add.Tensor, aten.add.out, aten._foreach_add_.List, aten._fused_sgd_.default, aten.max.dim_max],
        ),
        ("local_arguments", [aten.index.Tensor, aten.index_put_.default], [aten.index_select.default]),
    ],
)
def test_features(feature: str, with_it: list[Op], without_it: list[Op]) -> None:
    assert [op for op in with_it if not getattr(operations[op], feature)] == []
    assert [op for op in without_it if getattr(operations[op], feature)] == []


@pytest.mark.parametrize(
    ("op", "positions", "names"),
    [
        (aten.add.Tensor, [], []),
        (aten.add_.Tensor, [0], ["self"]),
        (aten.add.out, [3], ["out"]),
        (aten._foreach_add_.List, [0], ["self"]),
        (aten.max.dim_max, [3, 4], ["max", "max_values"]),
        (aten._native_batch_norm_legit.default, [3, 4], ["running_mean", "running_var"]),
    ],
    ids=str,
)
def test_what_is_written_to(op: Op, positions: list[int], names: list[str]) -> None:
    operation = operations[op]
    assert (operation.written_positions, operation.written_names) == (positions, names)


def test_every_operation_has_one_number() -> None:
    add, mul = operations[aten.add.Tensor], operations[aten.mul.Tensor]
    assert operations[aten.add.Tensor] is add
    assert add.number != mul.number
    assert (add.name, operations[aten.neg.default].name) == ("aten::add.Tensor", "aten::neg")


def test_what_is_not_torchs_is_refused_with_the_way_round() -> None:
    library = torch.library.Library("unit_test_operation", "FRAGMENT")  # noqa: TOR901
    library.define("double(Tensor x) -> Tensor")
    with pytest.raises(UnsupportedOpError, match="double.*function of torch operations"):
        Operation(torch.ops.unit_test_operation.double.default, 0)
