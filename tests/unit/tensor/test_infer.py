"""Inference: what torch really gives on the CPU is what is predicted for pointers, without a command being run."""

import logging
import threading
from collections.abc import Callable, Iterator

import pytest
import torch
from torch import Tensor
from torch._ops import OpOverload
from torch.nn.utils.rnn import pack_padded_sequence

import ptrtensor as pt
from ptrtensor._torch.memory import meta_of, offset_of
from ptrtensor.tensor.cache import Change, Extent
from ptrtensor.tensor.infer import Unpredictable, inferences
from ptrtensor.tensor.operation import operations

aten = torch.ops.aten
Op = OpOverload[..., object]
CPU = torch.device("cpu")

New = Callable[[Tensor], Tensor]
"""Gives a tensor or a pointer to it; views are then made of the one or the other."""
Arguments = tuple[list[object], dict[str, object]]
Case = tuple[Op, Callable[[New], Arguments]]


@pytest.fixture(scope="module")
def bob() -> Iterator[pt.VirtualWorker]:
    worker = pt.VirtualWorker(id="infer-bob")
    yield worker
    worker.close()


def given(*args: object, **kwargs: object) -> Arguments:
    return list(args), kwargs


def f(*shape: int) -> Tensor:
    return torch.linspace(0.1, 1, torch.Size(shape).numel()).reshape(shape)


def places(*numbers: int) -> Tensor:
    return torch.tensor(numbers)


def z(*shape: int) -> Tensor:
    return torch.complex(f(*shape), f(*shape))


PREDICTED: dict[str, Case] = {
    "add": (aten.add.Tensor, lambda new: given(new(f(2, 3)), new(f(2, 3)))),
    "add broadcasts": (aten.add.Tensor, lambda new: given(new(f(2, 1)), new(f(3)))),
    "add promotes": (aten.add.Tensor, lambda new: given(new(f(2)), new(places(1, 2)))),
    "add with a number": (aten.add.Tensor, lambda new: given(new(places(1, 2)), 1.5)),
    "add with a local number": (aten.add.Tensor, lambda new: given(new(places(1, 2)), torch.tensor(1.5))),
    "add keeps strides": (aten.add.Tensor, lambda new: given(new(f(2, 3)).t(), new(f(2, 3)).t())),
    "add of empties": (aten.add.Tensor, lambda new: given(new(f(0, 3)), 1)),
    "add of 0-dim": (aten.add.Tensor, lambda new: given(new(f()), new(f()))),
    "comparison": (aten.gt.Scalar, lambda new: given(new(f(2)), 0.5)),
    "mm": (aten.mm.default, lambda new: given(new(f(2, 3)), new(f(3, 4)))),
    "mm transposed": (aten.mm.default, lambda new: given(new(f(2, 3)), new(f(4, 3)).t())),
    "addmm": (aten.addmm.default, lambda new: given(new(f(4)), new(f(2, 3)), new(f(3, 4)))),
    "bmm": (aten.bmm.default, lambda new: given(new(f(5, 2, 3)), new(f(5, 3, 4)))),
    "sum": (aten.sum.default, lambda new: given(new(f(2, 3)))),
    "sum of integers": (aten.sum.default, lambda new: given(new(places(1, 2)))),
    "sum of some dimensions": (aten.sum.dim_IntList, lambda new: given(new(f(2, 3, 4)), [0, 2], True)),
    "mean with dtype": (aten.mean.dim, lambda new: given(new(f(2, 3)), [1], dtype=torch.float64)),
    "max": (aten.max.dim, lambda new: given(new(f(2, 3)), 1)),
    "argmax": (aten.argmax.default, lambda new: given(new(f(2, 3)), 1, True)),
    "topk": (aten.topk.default, lambda new: given(new(f(2, 6)), 3)),
    "sort": (aten.sort.default, lambda new: given(new(f(2, 3)).t(), 0)),
    "softmax": (aten._softmax.default, lambda new: given(new(f(2, 3)), 1, False)),
    "log_softmax": (aten._log_softmax.default, lambda new: given(new(f(2, 3)), 1, False)),
    "layer norm": (aten.native_layer_norm.default, lambda new: given(new(f(2, 3)), [3], None, None, 1e-5)),
    "batch norm, training": (
        aten.native_batch_norm.default,
        lambda new: given(new(f(2, 3, 4)), None, None, new(f(3)), new(f(3)), True, 0.1, 1e-5),
    ),
    "batch norm, evaluation": (
        aten.native_batch_norm.default,
        lambda new: given(new(f(2, 3, 4)), None, None, new(f(3)), new(f(3)), False, 0.1, 1e-5),
    ),
    "convolution": (
        aten.convolution.default,
        lambda new: given(new(f(1, 2, 5, 5)), new(f(4, 2, 3, 3)), None, [2, 2], [1, 1], [1, 1], False, [0, 0], 1),
    ),
    "convolution, channels last": (
        aten.convolution.default,
        lambda new: given(
            new(f(2, 2, 5, 5).to(memory_format=torch.channels_last)),
            new(f(4, 2, 3, 3)),
            None,
            *([1, 1], [1, 1], [1, 1], False, [0, 0], 1),
        ),
    ),
    "max pool": (aten.max_pool2d_with_indices.default, lambda new: given(new(f(1, 2, 4, 4)), [2, 2])),
    "embedding": (aten.embedding.default, lambda new: given(new(f(5, 3)), new(places(0, 4, 4)))),
    "gather": (aten.gather.default, lambda new: given(new(f(3)), 0, new(places(2, 0)))),
    "index": (aten.index.Tensor, lambda new: given(new(f(3, 4)), [None, new(places(2, 0))])),
    "index by local places": (aten.index.Tensor, lambda new: given(new(f(3, 4)), [places(2, 0)])),
    "cat": (aten.cat.default, lambda new: given([new(f(2, 3)), new(f(1, 3))])),
    "cat promotes": (aten.cat.default, lambda new: given([new(f(2)), new(places(1))])),
    "stack": (aten.stack.default, lambda new: given([new(f(2)), new(f(2))], 1)),
    "where": (aten.where.self, lambda new: given(new(f(3)) > 0.5, new(f(3)), new(f(2, 3)))),
    "clone": (aten.clone.default, lambda new: given(new(f(2, 3)).t())),
    "clone, contiguous": (
        aten.clone.default,
        lambda new: given(new(f(2, 3)).t(), memory_format=torch.contiguous_format),
    ),
    "clone of every second": (aten.clone.default, lambda new: given(new(f(4, 6))[::2, ::2])),
    "to another dtype": (aten._to_copy.default, lambda new: given(new(f(2, 3)).t(), dtype=torch.float16)),
    "fft": (aten._fft_r2c.default, lambda new: given(new(f(2, 8)), [1], 0, True)),
    "svd": (aten._linalg_svd.default, lambda new: given(new(f(3, 2)))),
    "eigenvalues": (aten.linalg_eig.default, lambda new: given(new(f(3, 3)))),
    "dropout": (aten.native_dropout.default, lambda new: given(new(f(4)), 0.5, True)),
    "random, like": (aten.rand_like.default, lambda new: given(new(f(2, 3)).t())),
    "foreach": (aten._foreach_mul.Scalar, lambda new: given([new(f(2)), new(f(3, 1))], 2.0)),
    "undefined results": (
        aten.native_layer_norm_backward.default,
        lambda new: given(
            *(new(f(2, 3)), new(f(2, 3)), [3], new(f(2, 1)), new(f(2, 1)), new(f(3)), new(f(3))), [True, False, False]
        ),
    ),
    # views: with the storage offset
    "transpose": (aten.t.default, lambda new: given(new(f(2, 3)))),
    "select": (aten.select.int, lambda new: given(new(f(4, 6))[1:], 0, 2)),
    "slice": (aten.slice.Tensor, lambda new: given(new(f(4, 6))[:, 1:], 1, 1, 5, 2)),
    "split": (aten.split.Tensor, lambda new: given(new(f(5, 2))[1:], 2)),
    "expand": (aten.expand.default, lambda new: given(new(f(2, 1)), [4, 2, 3])),
    "view": (aten.view.default, lambda new: given(new(f(4, 6))[2:], [3, 4])),
    "view as another dtype": (aten.view.dtype, lambda new: given(new(f(4, 6))[2:], torch.int16)),
    "unbind": (aten.unbind.int, lambda new: given(new(f(2, 3)))),
    "diagonal": (aten.diagonal.default, lambda new: given(new(f(3, 4)), 1)),
    "unfold": (aten.unfold.default, lambda new: given(new(f(8)), 0, 3, 2)),
    "as_strided": (aten.as_strided.default, lambda new: given(new(f(8))[2:], [2, 2], [1, 2], 3)),
    "conjugated view": (aten._conj.default, lambda new: given(new(z(2)))),
    "conjugated twice": (aten._conj.default, lambda new: given(new(z(2)).conj())),
    "negated view": (aten._neg_view.default, lambda new: given(new(f(2)))),
    "real": (aten.view_as_real.default, lambda new: given(new(z(2)))),
    "conjugated sum": (aten.add.Tensor, lambda new: given(new(z(2)).conj(), new(z(2)))),
    # in place: nothing fresh
    "add in place": (aten.add_.Tensor, lambda new: given(new(f(2)), 1)),
    "foreach in place": (aten._foreach_add_.Scalar, lambda new: given([new(f(2)), new(f(3))], 1)),
    "index_put_": (aten.index_put_.default, lambda new: given(new(f(3)), [new(places(0))], new(f(1)))),
    # in place, with other metadata
    "t_": (aten.t_.default, lambda new: given(new(f(2, 3)))),
    "transpose_": (aten.transpose_.default, lambda new: given(new(f(2, 3, 4))[1:], 1, 2)),
    "squeeze_": (aten.squeeze_.dim, lambda new: given(new(f(2, 1)), 1)),
    "unsqueeze_": (aten.unsqueeze_.default, lambda new: given(new(f(4, 6))[1], 0)),
    "as_strided_": (aten.as_strided_.default, lambda new: given(new(f(8)), [2, 2], [1, 2], 3)),
    "resize_ smaller": (aten.resize_.default, lambda new: given(new(f(8)), [2, 3])),
    "resize_ larger": (aten.resize_.default, lambda new: given(new(f(2)), [2, 3])),
    "resize_ to the same": (aten.resize_.default, lambda new: given(new(f(2)), [2])),
    "out that fits": (aten.add.out, lambda new: given(new(f(2)), 1, out=new(f(2)))),
    "out that is resized": (aten.add.out, lambda new: given(new(f(2, 3)), 1, out=new(torch.empty(0)))),
    "two outs": (
        aten.max.dim_max,
        lambda new: given(new(f(2, 3)), 1, max=new(torch.empty(0)), max_values=new(torch.empty(0).long())),
    ),
    "set_": (aten.set_.source_Tensor, lambda new: given(new(f(2)), new(f(4, 6))[1])),
}


def tensors_of(arguments: Arguments) -> list[Tensor]:
    """In the order of the slots."""
    found: list[Tensor] = []
    for value in (*arguments[0], *arguments[1].values()):
        found += [item for item in (value if isinstance(value, list | tuple) else (value,)) if isinstance(item, Tensor)]
    return found


def extent(tensor: Tensor) -> Extent:
    return Extent(meta_of(tensor), offset_of(tensor))


def same(one: Extent | None, other: Extent | None, *, with_offset: bool) -> bool:
    if one is None or other is None:
        return one is other
    return one.meta.same_as(other.meta) and (not with_offset or one.offset == other.offset)


@pytest.mark.parametrize("what", PREDICTED)
def test_the_prediction_is_what_the_cpu_gives(bob: pt.VirtualWorker, what: str) -> None:
    op, make = PREDICTED[what]
    arguments = make(lambda tensor: pt.send(tensor, bob))
    fresh, changes = inferences[CPU](operations[op], (*arguments[0],), arguments[1])

    local = make(lambda tensor: tensor.clone())
    before = [extent(tensor) for tensor in tensors_of(local)]
    real = op(*local[0], **local[1])
    after = [extent(tensor) for tensor in tensors_of(local)]

    written = {id(tensor) for tensor in tensors_of(local)} if op._schema.is_mutable else set()
    flat = [
        item
        for value in (real if isinstance(real, tuple) else (real,))
        for item in (value if isinstance(value, list) else (value,))
    ]
    results = [extent(item) if isinstance(item, Tensor) else None for item in flat if id(item) not in written]
    if operations[op].is_relative:
        base = before[0].offset
        results = [None if result is None else Extent(result.meta, result.offset - base) for result in results]
    if not operations[op].kinds:
        results = []
    view = operations[op].is_view
    assert len(fresh) == len(results)
    assert all(same(one, other, with_offset=view) for one, other in zip(fresh, results, strict=True)), (fresh, results)
    expected = [Change(place, new) for place, (old, new) in enumerate(zip(before, after, strict=True)) if old != new]
    assert [(change.place, change.extent.meta.shape) for change in changes] == [
        (change.place, change.extent.meta.shape) for change in expected
    ]
    assert all(same(one.extent, other.extent, with_offset=True) for one, other in zip(changes, expected, strict=True))


UNPREDICTABLE: dict[str, Case] = {
    "nonzero": (aten.nonzero.default, lambda new: given(new(f(3)))),
    "masked_select": (aten.masked_select.default, lambda new: given(new(f(3)), new(f(3)) > 0.5)),
    "index by a mask": (aten.index.Tensor, lambda new: given(new(f(3)), [new(f(3)) > 0.5])),
    "unique": (aten._unique2.default, lambda new: given(new(f(3)))),
    "repeat_interleave": (aten.repeat_interleave.Tensor, lambda new: given(new(places(1, 2)))),
    "bincount": (aten.bincount.default, lambda new: given(new(places(1, 2)))),
    "a number": (aten.equal.default, lambda new: given(new(f(3)), new(f(3)))),
    "nonzero with out": (aten.nonzero.out, lambda new: given(new(f(3)), out=new(places()))),
    "a packed sequence": (
        aten._pack_padded_sequence.default,
        lambda new: given(new(f(2, 3, 1)), torch.tensor([3, 2]), True),
    ),
}


@pytest.mark.parametrize("what", UNPREDICTABLE)
def test_what_depends_on_values_is_not_predicted(bob: pt.VirtualWorker, what: str) -> None:
    op, make = UNPREDICTABLE[what]
    arguments = make(lambda tensor: pt.send(tensor, bob))
    with pytest.raises(Unpredictable):
        inferences[CPU](operations[op], (*arguments[0],), arguments[1])


@pytest.mark.parametrize("lengths", [[3, 2], [2, 2], [3, 1]])
def test_a_packed_sequence_has_its_own_lengths_each_time(bob: pt.VirtualWorker, lengths: list[int]) -> None:
    packed = pack_padded_sequence(pt.send(f(2, 3, 1), bob), torch.tensor(lengths), batch_first=True)
    expected = pack_padded_sequence(f(2, 3, 1), torch.tensor(lengths), batch_first=True)
    assert packed.data.shape == expected.data.shape
    assert torch.equal(packed.data.cpu(), expected.data)


WRONG: dict[str, Case] = {
    "shapes": (aten.add.Tensor, lambda new: given(new(f(2)), new(f(3)))),
    "matrices": (aten.mm.default, lambda new: given(new(f(2, 3)), new(f(2, 3)))),
    "a dimension": (aten.sum.dim_IntList, lambda new: given(new(f(2)), [3])),
    "a view": (aten.view.default, lambda new: given(new(f(2, 3)).t(), [6])),
    "nothing to join": (aten.cat.default, lambda new: given([])),
}


@pytest.mark.parametrize("what", WRONG)
def test_wrong_arguments_raise_torchs_own_error_here(
    bob: pt.VirtualWorker, what: str, caplog: pytest.LogCaptureFixture
) -> None:
    op, make = WRONG[what]
    local = make(lambda tensor: tensor)
    with pytest.raises((RuntimeError, IndexError, ValueError)) as expected:
        op(*local[0], **local[1])
    arguments = make(lambda tensor: pt.send(tensor, bob))
    with caplog.at_level(logging.DEBUG), pytest.raises((RuntimeError, IndexError, ValueError)) as raised:
        inferences[CPU](operations[op], (*arguments[0],), arguments[1])
    assert type(raised.value) is type(expected.value)
    assert not caplog.records


def test_nothing_is_sent(bob: pt.VirtualWorker, monkeypatch: pytest.MonkeyPatch) -> None:
    p, q = pt.send(f(2, 3), bob), pt.send(f(3, 2), bob)

    def refuse(*args: object) -> None:
        raise AssertionError("something is sent")

    with monkeypatch.context() as patch:
        for way in ("post", "send", "request"):
            patch.setattr(bob.client, way, refuse)
        inferences[CPU](operations[aten.mm.default], (p, q), {})


def test_one_tensor_given_twice_is_one_fake(bob: pt.VirtualWorker) -> None:
    """A change is seen at both places, as torch sees it."""
    p, q = pt.send(f(2, 3), bob), pt.send(torch.empty(0), bob)
    _, changes = inferences[CPU](operations[aten.set_.source_Tensor], (p, q), {})
    assert [change.place for change in changes] == [0]
    _, changes = inferences[CPU](operations[aten.add.out], (p, p), {"out": q})
    assert [change.place for change in changes] == [2]


def test_the_callers_modes_do_not_matter(bob: pt.VirtualWorker) -> None:
    p, q = pt.send(f(2, 3), bob).requires_grad_(), pt.send(f(3, 2), bob)
    with torch.device("meta"), torch.inference_mode():
        fresh, _ = inferences[CPU](operations[aten.mm.default], (p, q), {})
    assert fresh[0] is not None and fresh[0].meta.same_as(meta_of(f(2, 2)))
    assert torch.zeros(1).device == CPU


def test_several_threads(bob: pt.VirtualWorker) -> None:
    p = pt.send(f(2, 3), bob)
    found: list[object] = []

    def infer() -> None:
        for dimension in (0, 1, -1, -2):
            ((extent,), _) = inferences[CPU](operations[aten.cumsum.default], (p, dimension), {})
            found.append(extent)

    threads = [threading.Thread(target=infer) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found == 16 * [Extent(p._meta, 0)]


def test_one_inference_for_each_kind_of_device() -> None:
    assert inferences[CPU] is inferences[torch.device("cpu")]
