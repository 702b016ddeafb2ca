"""Programs: every kind of argument finds its place; what a worker does not run fails when it is run, not before."""

import pytest
import torch
from by_hand import At, ByHand, Deviceless, Field, Part, argument, aten, fields
from torch import Tensor

from ptrtensor._torch.operations import op_name
from ptrtensor.errors import ProtocolError
from ptrtensor.wire.instruction import (
    Instruction,
    NamedConstant,
    layout,
)
from ptrtensor.worker.program import Program, describe

CPU = torch.device("cpu")

A, B, C = torch.arange(3.0), torch.ones(3), torch.full((3,), 2.0)
OBJECTS: dict[int, Tensor | bool | int | float] = {1: A, 2: B, 3: C, 4: 2.5}

Arguments = tuple[object, ...]
Keywords = dict[str, object]

BINDINGS: dict[str, tuple[Arguments, Keywords, Arguments, Keywords]] = {
    "nothing": ((), {}, (), {}),
    "objects": ((At(1), At(2)), {}, (A, B), {}),
    "the same object twice": ((At(2), At(2)), {}, (B, B), {}),
    "constants": ((True, 1, 1.0, "mean", None, 1 - 2j), {}, (True, 1, 1.0, "mean", None, 1 - 2j), {}),
    "fields": ((Field(7), Field(-2.5)), {}, (7, -2.5), {}),
    "the ends of a field": ((Field(2**63 - 1), Field(-(2**63))), {}, (2**63 - 1, -(2**63)), {}),
    "object, constant, field": ((At(3), 5, Field(1)), {}, (C, 5, 1), {}),
    "a number that an operation returned": ((At(4),), {}, (2.5,), {}),
    "keywords": ((At(1),), {"alpha": Field(2), "other": At(2)}, (A,), {"alpha": 2, "other": B}),
    "a constant keyword": ((At(1),), {"dim": 0}, (A,), {"dim": 0}),
    "named": (
        (torch.float64, NamedConstant("layout", "strided"), NamedConstant("memory_format", "channels_last")),
        {},
        (torch.float64, torch.strided, torch.channels_last),
        {},
    ),
    "the device": ((Deviceless(),), {"device": Deviceless()}, (CPU,), {"device": CPU}),
    "a list of constants": (([1, 2, 3],), {"dim": [0, -1]}, ([1, 2, 3],), {"dim": [0, -1]}),
    "an empty list": (([],), {}, ([],), {}),
    "a list of objects": (([At(1), At(2)], At(3)), {}, ([A, B], C), {}),
    "a list with None": (([None, At(2), None],), {}, ([None, B, None],), {}),
    "a list that mixes": (([At(1), 4, Field(5), None, True],), {}, ([A, 4, 5, None, True],), {}),
    "two lists": (([At(1)], Field(3), [At(2), At(3)]), {}, ([A], 3, [B, C]), {}),
    "a list keyword": (
        (Field(1),),
        {"tensors": [At(1), None], "scalars": [Field(0.5)]},
        (1,),
        {"tensors": [A, None], "scalars": [0.5]},
    ),
}


def program(op: str, args: Arguments, kwargs: Keywords) -> Program:
    named = {name: argument(value) for name, value in kwargs.items()}
    return Program(Instruction(1, op, tuple(argument(value) for value in args), named, False, ()), CPU)


def same(one: object, other: object) -> bool:
    """The same objects at the same places, and numbers of the same type."""
    if isinstance(one, list | tuple) and isinstance(other, list | tuple):
        return len(one) == len(other) and all(same(*pair) for pair in zip(one, other, strict=True))
    return one is other or (type(one) is type(other) and not isinstance(one, Tensor) and one == other)


@pytest.mark.parametrize("case", BINDINGS)
def test_binding(case: str) -> None:
    args, kwargs, bound_args, bound_kwargs = BINDINGS[case]
    bound = program("aten::add.Tensor", args, kwargs)
    given = [field for value in (*args, *kwargs.values()) for field in fields(value)]
    command = bound.layout.pack(1, *given, 9)
    for _ in range(2):  # a second command must not see the first one's values
        got_args, got_kwargs = bound.arguments(bound.layout.unpack(command), OBJECTS)
        assert same(got_args, list(bound_args)), got_args
        assert got_kwargs.keys() == bound_kwargs.keys()
        assert all(same(got_kwargs[name], bound_kwargs[name]) for name in bound_kwargs)


VIEWED: dict[str, tuple[Part, list[list[float]]]] = {
    "rows": (Part(1, 4, (2, 4), (4, 1)), [[4, 5, 6, 7], [8, 9, 10, 11]]),
    "transposed": (Part(1, 0, (2, 3), (1, 4)), [[0, 4, 8], [1, 5, 9]]),
    "behind what begins behind its storage": (Part(2, 1, (1, 2), (4, 1)), [[5, 6]]),
    "expanded": (Part(1, 3, (2, 2), (0, 0)), [[3, 3], [3, 3]]),
    "empty": (Part(1, 0, (0, 4), (4, 1)), []),
}


@pytest.mark.parametrize(("part", "values"), VIEWED.values(), ids=list(VIEWED))
def test_a_view_is_made_of_the_tensor_it_lies_in(part: Part, values: list[list[float]]) -> None:
    base = torch.arange(12.0).view(3, 4)
    objects: dict[int, Tensor | bool | int | float] = {1: base, 2: base[1]}
    args: tuple[object, ...] = (part, [At(1), part], Field(2))
    bound = program("aten::add.Tensor", args, {"other": part})
    given = [field for value in (*args, part) for field in fields(value)]
    made, named = bound.arguments(bound.layout.unpack(bound.layout.pack(1, *given, 9)), objects)
    view, both, number = made
    assert isinstance(both, list) and both[0] is base and number == 2
    for found in (view, both[1], named["other"]):
        assert isinstance(found, Tensor) and found.tolist() == values
        assert found.untyped_storage().data_ptr() == base.untyped_storage().data_ptr()
    width = 2 + 2 * len(part.shape)
    assert bound.object_fields == [1, 1 + width, 2 + width, 3 + 2 * width]


IMPOSSIBLE: dict[str, tuple[Part, str]] = {
    "past the end": (Part(1, 1, (12,), (1,)), "out of bounds"),
    "before the beginning": (Part(1, -1, (1,), (1,)), "storage offset"),
    "before the beginning of what its base is a view of": (Part(2, -5, (1,), (1,)), "storage offset"),
    "backwards": (Part(1, 5, (2,), (-1,)), "Negative strides"),
    "of negative size": (Part(1, 0, (-2,), (1,)), "sizes=[-2]"),
    "larger than can be counted": (Part(1, 0, (2**62, 2**62), (2**62, 1)), ""),
    "of a number": (Part(3, 0, (), ()), "as_strided"),
    "of nothing": (Part(99, 0, (1,), (1,)), "no object 99"),
}


@pytest.mark.parametrize(("part", "reason"), IMPOSSIBLE.values(), ids=list(IMPOSSIBLE))
def test_a_view_that_does_not_lie_within_its_tensor_fails(part: Part, reason: str) -> None:
    hand = ByHand()
    base = hand.put(torch.arange(12.0))
    shifted = hand.run(aten.slice.Tensor, At(base), 0, 4, 8, expect=[torch.zeros(4)])
    total = hand.run(aten.sum.default, At(base), expect=None)
    number = hand.run(aten._local_scalar_dense.default, At(total), expect=None)
    there = {1: base, 2: shifted, 3: number}.get(part.name, part.name)
    assert hand.state(base, shifted, number) == "ooo"
    part = Part(there, part.offset, part.shape, part.stride)
    result = hand.run(aten.neg.default, part, expect=[torch.zeros(1)])
    assert hand.state(result, base, shifted) == "xoo" and reason in hand.why(result)
    written = hand.run(aten.add_.Tensor, part, At(base))
    assert hand.state(written) == "-"
    assert [failure.sequence for failure in hand.failures][:1] == [hand.sequence - 2]


def test_a_write_through_a_view_that_fails_poisons_its_tensor() -> None:
    hand = ByHand()
    base = hand.put(torch.arange(12.0))
    hand.run(aten.add_.Tensor, Part(base, 0, (2,), (1,)), At(hand.put(torch.ones(5))))
    assert hand.state(base) == "x"


def test_commands_of_one_program_do_not_share_lists() -> None:
    bound = program("aten::cat", ([At(1), At(2)],), {})
    (first,), _ = bound.arguments((1, 1, 2, 9), OBJECTS)
    (second,), _ = bound.arguments((1, 3, 3, 10), OBJECTS)
    assert same(first, [A, B]) and same(second, [C, C])


@pytest.mark.parametrize("args", [(At(99),), ([At(1), At(99)],)])
def test_an_unknown_name_is_a_key_error(args: Arguments) -> None:
    with pytest.raises(KeyError):
        program("aten::cat", args, {}).arguments((1, *(99 for _ in fields(args[0])), 9), OBJECTS)


WRITTEN: dict[torch._ops.OpOverload[..., object], tuple[tuple[Arguments, Keywords], list[int]]] = {
    aten.add.Tensor: (((At(1), At(2)), {}), []),
    aten.add_.Tensor: (((At(1), At(2)), {}), [1]),
    aten.add.out: (((At(1), At(2)), {"out": At(3)}), [3]),
    aten.addmm_.default: (((At(1), At(2), At(3)), {"beta": Field(1)}), [1]),
    aten._foreach_add_.List: ((([At(1), At(2)], [At(3), At(3)]), {}), [1, 2]),
    aten._foreach_add_.Scalar: ((([At(1), At(2)], Field(3)), {}), [1, 2]),
    aten.frexp.Tensor_out: (((At(1),), {"mantissa": At(2), "exponent": At(3)}), [2, 3]),
    aten.index_put_.default: (((At(1), [None, At(2)], At(3)), {}), [1]),
    aten._native_batch_norm_legit.default: (((At(1), None, None, At(2), At(3), True, 0.1, 1e-5), {}), [2, 3]),
}


@pytest.mark.parametrize("op", WRITTEN, ids=str)
def test_which_fields_are_written(op: torch._ops.OpOverload[..., object]) -> None:
    (args, kwargs), written = WRITTEN[op]
    assert program(op_name(op), args, kwargs).written_fields == written


@pytest.mark.parametrize(
    ("op", "error"),
    [
        ("aten::no_such_operation", "no operation"),
        ("aten::add.NoSuchOverload", "no operation"),
        ("aten::", "no operation"),
        ("aten::__class__", "no operation"),
        ("aten::add.__init__", "no operation"),
        ("aten::from_file", "beyond tensors"),
    ],
)
def test_an_operation_that_is_not_run_poisons_and_the_session_lives(op: str, error: str) -> None:
    hand = ByHand()
    a = hand.put(A)
    result = hand.run(op, At(a), expect=[A])
    dependent = hand.run(aten.add.Tensor, At(result), At(a), expect=[A])
    other = hand.run(aten.add.Tensor, At(a), At(a), expect=[A])
    assert hand.state(result, dependent, other) == "xxo"
    assert error in hand.why(result) and hand.why(dependent) == hand.why(result)
    assert [failure.sequence for failure in hand.failures] == [0]


@pytest.mark.parametrize("op", ["prim::Print", "profiler::_record_function_enter", "mylib::op", "os::system", ""])
def test_an_operation_that_is_not_torchs_ends_the_session(op: str) -> None:
    with pytest.raises(ProtocolError, match="torch's own"):
        program(op, (At(1),), {})


@pytest.mark.parametrize("kind", ["dtype", "layout", "memory_format"])
@pytest.mark.parametrize("name", ["", "__class__", "nn", "sparse_coo", "qint8"])
def test_an_unknown_constant_ends_the_session(kind: str, name: str) -> None:
    with pytest.raises(ProtocolError, match=kind):
        program("aten::add.Tensor", (NamedConstant(kind, name),), {})  # type: ignore[arg-type]


RESULTS = {
    aten.add.Tensor: (A, [A]),
    aten.add_.Tensor: (A, []),
    aten.max.dim: ((A, B), [A, B]),
    aten.split.Tensor: ([A, B], [A, B]),
    aten._foreach_add_.Scalar: (None, []),
    aten.frexp.Tensor_out: ((A, B), []),
    aten.native_layer_norm_backward.default: ((A, None, B), [A, None, B]),
    aten.equal.default: (True, [True]),
    aten._unique2.default: ((A, B, C), [A, B, C]),
}


@pytest.mark.parametrize("op", RESULTS, ids=str)
def test_fresh_results_in_order(op: torch._ops.OpOverload[..., object]) -> None:
    returned, fresh = RESULTS[op]
    assert same(program(op_name(op), (), {}).results(returned), fresh)


def test_layout_is_numbers_of_eight_bytes() -> None:
    instruction = program(
        "aten::add.Tensor", (At(1), 3, Field(1)), {"alpha": Field(0.5), "x": [At(1), None]}
    ).instruction
    assert layout(instruction).format == "<QQqdQQ"


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (torch.ones(2, 3), "float32[2, 3]"),
        (torch.tensor(True), "bool[]"),
        ([A, None, 3], "[float32[3], None, 3]"),
        ([A] * 6, "[float32[3], float32[3], float32[3], float32[3], ...]"),
        ("mean", "mean"),
    ],
)
def test_arguments_in_an_error_are_shapes_not_values(value: object, text: str) -> None:
    assert describe(value) == text
