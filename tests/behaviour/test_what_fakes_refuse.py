"""Torch's rules for fake tensors refuse some calls that its CPU kernels take, and let pass some that those refuse."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from comparing import check_equal
from torch import Tensor
from torch.nn import functional as F

import ptrtensor as pt
from ptrtensor.tensor import fakes
from ptrtensor.wire.metadata import TensorMeta

aten = torch.ops.aten


def test_shifting_booleans(worker: pt.Worker) -> None:
    value = torch.tensor([True, False])
    got = pt.send(value, worker) << 1
    assert got.dtype == (value << 1).dtype and got.tolist() == [2, 0]


@pytest.mark.filterwarnings("ignore:indexing with dtype torch.uint8")
def test_a_mask_of_bytes(worker: pt.Worker) -> None:
    mask = torch.tensor([0, 1, 1], dtype=torch.uint8, device=worker.device)
    assert torch.arange(3.0, device=worker.device)[mask].tolist() == [1, 2]


@pytest.mark.parametrize("size", [2, 1 << 21])
def test_what_is_wrong_for_both_is_torchs_own_error_at_the_line(worker: pt.Worker, size: int) -> None:
    left, right = torch.ones(2, size, device=worker.device), torch.ones(3, 1, device=worker.device)
    with pytest.raises(RuntimeError, match="cannot be multiplied") as caught:
        left @ right
    assert not isinstance(caught.value, pt.PtrTensorError)


def test_sparse_results_are_refused_with_the_line_and_the_operation(worker: pt.Worker) -> None:
    with pytest.raises(
        pt.UnsupportedOpError, match=r"(?s)to_sparse.*float32\[3\].*layout.*test_what_fakes_refuse"
    ) as caught:
        torch.ones(3, device=worker.device).to_sparse()
    assert isinstance(caught.value, pt.RemoteOpError)
    worker.recover()


def test_tensors_without_memory_are_refused(worker: pt.Worker) -> None:
    with torch._subclasses.fake_tensor.FakeTensorMode():
        fake = torch.ones(3)
    with pytest.raises(pt.UnsupportedOpError, match="without memory of its own"):
        pt.send(fake, worker)
    with pytest.raises(pt.UnsupportedOpError, match="without memory of its own"):
        torch.func.functionalize(lambda x: pt.send(x, worker))(torch.ones(3))
    with pytest.raises(pt.UnsupportedOpError, match="without memory of its own"):
        torch.vmap(lambda x: pt.send(x, worker))(torch.ones(3))


def test_what_the_wire_would_not_take_is_refused_before(worker: pt.Worker) -> None:
    kept = torch.ones(2, device=worker.device)
    with pytest.raises(pt.UnsupportedOpError, match="70 dimensions"):
        pt.send(torch.ones([1] * 70), worker)
    with pytest.raises(pt.UnsupportedOpError, match="70 dimensions"):
        kept.reshape([1] * 69 + [2])
    with pytest.raises(pt.UnsupportedOpError, match="70000 results"):
        torch.unbind_copy(torch.zeros(70000, device=worker.device))
    worker.recover()
    assert kept.tolist() == [1, 1]


def filled(x: Tensor, places: tuple[Any, ...], values: Tensor) -> Tensor:
    made = x[None].expand(3, 3, 4).clone()
    made[places] = values
    return made


LET_PASS: dict[str, Callable[[Tensor, Tensor], object]] = {
    "max": lambda x, i: x[:0].max(),
    "max of a dimension": lambda x, i: x[:0].max(0),
    "min of a dimension": lambda x, i: x[:, :0].min(-1),
    "median": lambda x, i: x[:0].median(0),
    "index_put": lambda x, i: x.index_put((i,), torch.ones(5, device=x.device)),
    "rows": lambda x, i: x.__setitem__(i, torch.ones(2, 4, device=x.device)),
    "columns": lambda x, i: x.__setitem__((slice(None), i), torch.ones(4, 3, device=x.device)),
    "apart": lambda x, i: filled(x, (i, slice(None), i), x),
    "index_add_": lambda x, i: x.index_add_(-1, i, torch.ones(2, 3, device=x.device)),
    "multinomial": lambda x, i: torch.multinomial(x, 9),
    "bucketize": lambda x, i: torch.bucketize(x, x),
    "softmax": lambda x, i: x.softmax(2),
    "log_softmax": lambda x, i: x.log_softmax(-3),
    "sort": lambda x, i: x.sort(2),
    "argsort": lambda x, i: x.argsort(dim=-3, stable=True),
    "cummax of a number": lambda x, i: x[0, 0].cummax(1),
    "index_select of a number": lambda x, i: x[0, 0].index_select(1, i[:1]),
    "index_reduce of a number": lambda x, i: x[0, 0].index_reduce(1, i[:1], x[0, :1], "prod"),
    "select_scatter, dimension": lambda x, i: x.select_scatter(x[0], 2, 0),
    "select_scatter, place": lambda x, i: x.select_scatter(x[0], 0, 3),
    "slice_scatter": lambda x, i: x.slice_scatter(x, 0, 1),
    "diagonal_scatter": lambda x, i: x.diagonal_scatter(x[0]),
    "pixel_unshuffle": lambda x, i: F.pixel_unshuffle(x[None], 2),
    "native_group_norm": lambda x, i: torch.native_group_norm(x, x[0, :2], None, 3, 4, 1, 2, 1e-5),
    "addmm of more rows": lambda x, i: torch.addmm(x, x[:1], torch.ones(4, 4, device=x.device)),
    "addmm of more dimensions": lambda x, i: torch.addmm(x[None], x, torch.ones(4, 4, device=x.device)),
    "addmm_": lambda x, i: x[:1].addmm_(x, torch.ones(4, 4, device=x.device)),
    "addmv": lambda x, i: torch.addmv(x[None, :, 0], x, x[0]),
    "pow_": lambda x, i: x.pow_(torch.ones(1, 3, 4, device=x.device)),
    "clamp_": lambda x, i: x[:1].clamp_(min=torch.ones(3, 4, device=x.device)),
    "masked_scatter_": lambda x, i: x[:, :1].masked_scatter_(x > 0, x),
    "mask of too few rows": lambda x, i: x.__setitem__(i[:2] >= 0, 5.0),
    "mask of columns": lambda x, i: x.__setitem__((slice(None), i >= 0), x[:, :3]),
    "gt_": lambda x, i: x[:1].gt_(torch.ones(3, 4, device=x.device)),
    "copysign_": lambda x, i: x.copysign_(torch.ones(1, 3, 4, device=x.device)),
    "indices that do not go together": lambda x, i: x.index_put((i[:2], i), x[0]),
    "soft margin": lambda x, i: F.soft_margin_loss(x, x[None]),
    "weights of a cross-entropy": lambda x, i: F.binary_cross_entropy_with_logits(x, x, weight=x[None]),
    "index_select": lambda x, i: x.index_select(0, i[None]),
    "targets of pictures": lambda x, i: F.nll_loss(x[None, :, :, None], i[None, :, None]),
    "put_": lambda x, i: x.put_(i, x),
    "a picture of nothing": lambda x, i: F.adaptive_avg_pool2d(x[None, :, :0], 2),
    "interpolate": lambda x, i: F.interpolate(x[None, :, :0], 2),
    "a kernel of nothing": lambda x, i: F.conv1d(x[None], x[:, :0].reshape(3, 3, 0)),
    "conv_transpose, too small": lambda x, i: F.conv_transpose1d(x[None], x[:, :2, None], padding=3),
    "conv_transpose, padded": lambda x, i: F.conv_transpose1d(x[None], x[:, :2, None], output_padding=1),
}


@pytest.mark.parametrize("name", LET_PASS)
def test_shapes_that_fakes_let_pass_and_torch_does_not(name: str, virtual_worker: pt.VirtualWorker) -> None:
    """At the line; the target is as it was."""
    call = LET_PASS[name]
    with pytest.raises((RuntimeError, IndexError)) as here:
        call(torch.ones(3, 4), torch.arange(3))
    there = torch.ones(3, 4, device=virtual_worker.device)
    with pytest.raises(type(here.value)) as caught:
        call(there, torch.arange(3, device=virtual_worker.device))
    assert not isinstance(caught.value, pt.PtrTensorError) and str(caught.value) == str(here.value)
    assert torch.equal(there.cpu(), torch.ones(3, 4))


FITTING: dict[str, Callable[[Tensor, Tensor], object]] = {
    "max of another dimension": lambda x, i: x[:0].max(1),
    "a number": lambda x, i: x.index_put((i,), torch.tensor(5.0, device=x.device)),
    "one row": lambda x, i: x.index_put((i,), x[0]),
    "one row for each": lambda x, i: x.index_put((i[:, None],), x[0]),
    "columns": lambda x, i: x.t().index_put((i, i), x[:, 0]),
    "apart": lambda x, i: filled(x, (i, slice(None), i), x[:, :3]),
    "behind": lambda x, i: filled(x, (slice(None), i, i), x[:, :3]),
    "a mask": lambda x, i: x.index_put((x > 0,), torch.arange(12.0, device=x.device)),
    "a mask of rows": lambda x, i: x.index_put((i > 0,), x[1:]),
    "nothing chosen": lambda x, i: x.index_put((i[:0],), x[:0]),
    "index_add": lambda x, i: x.index_add(-2, i, x),
    "index_add of a number": lambda x, i: x[0, 0].index_add(0, i[0], x[1, 1]),
    "multinomial": lambda x, i: torch.multinomial(x, 9, replacement=True).shape,
    "softmax of a number": lambda x, i: x[0, 0].softmax(0) + x[0, 0].sort(-1)[0],
    "sort": lambda x, i: x.sort(-2, descending=True),
    "addmm": lambda x, i: torch.addmm(x[:, :1], x, x.t()) + torch.addmm(x[0, :3], x, x.t()),
    "pow_": lambda x, i: x.clone().pow_(x[0]).clamp_(min=x[:1]),
    "masks": lambda x, i: (x.index_put((x > 3,), x[x > 3]), x.index_put((i > 0, i[:2]), x[0, 0])),
    "a batch of nothing": lambda x, i: F.interpolate(F.conv1d(x[None, :0].view(0, 3, 4), x[:2, :3, None]), 3),
    "no classes": lambda x, i: F.nll_loss(x.view(1, 3, 2, 2)[:, :0], i[:2].expand(1, 2, 2) * 0 - 100, reduction="sum"),
    "into a convolution": lambda x, i: aten.convolution.out(
        x[None], x[:, :3, None], None, [1], [0], [1], False, [0], 1, out=x.new_empty(1, 3, 4)
    ),
    "into a group norm": lambda x, i: aten.native_group_norm.out(
        x[None], None, None, 1, 3, 4, 1, 1e-5, out0=x.new_empty(1, 3, 4), out1=x.new_empty(1, 1), out2=x.new_empty(1, 1)
    ),
    "into places": lambda x, i: aten.index_put.out(x, [i], x[0], out=torch.empty_like(x)),
    "no rows": lambda x, i: x.index_select(0, i[:0]),
    "select_scatter": lambda x, i: x.select_scatter(x[0], -2, -3),
    "conv_transpose, padded": lambda x, i: F.conv_transpose1d(x[None], x[:, :2, None], stride=2, output_padding=1),
    "conv_transpose, dilated": lambda x, i: F.conv_transpose1d(x[None], x[..., None], dilation=2, output_padding=1),
    "conv_transpose, next to nothing": lambda x, i: F.conv_transpose1d(x[None], x[:, :2, None], padding=1),
}


@pytest.mark.parametrize("name", FITTING)
def test_shapes_that_are_right(name: str, virtual_worker: pt.VirtualWorker) -> None:
    value, places = torch.arange(1.0, 13).view(3, 4), torch.arange(3)
    expected = FITTING[name](value, places)
    got = FITTING[name](pt.send(value, virtual_worker), pt.send(places, virtual_worker))
    check_equal(got, expected, virtual_worker)


def test_what_is_too_large_to_be_tried_here_is_not(
    virtual_worker: pt.VirtualWorker, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fake_of(meta: TensorMeta, offset: int, device: torch.device, *, real: bool) -> Tensor:
        if real:
            raise RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 308 bytes")
        return make(meta, offset, device, real=real)

    make = fakes.fake_of
    monkeypatch.setattr(fakes, "fake_of", fake_of)
    value = torch.arange(77.0).view(7, 11)
    got = pt.send(value, virtual_worker).select_scatter(torch.ones(11, device=virtual_worker.device), 0, 3)
    check_equal(got, value.select_scatter(torch.ones(11), 0, 3), virtual_worker)
    assert pt.send(value, virtual_worker).median(0)[1].tolist() == value.median(0)[1].tolist()
