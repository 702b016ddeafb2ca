"""Torch's rules for fake tensors refuse some calls that its CPU kernels take: the worker is asked then."""

import pytest
import torch

import ptrtensor as pt


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
