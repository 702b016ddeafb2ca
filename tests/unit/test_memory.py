"""Memory for what is received: a tensor of torch's own, whatever modes are about."""

import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensorMode

from ptrtensor._torch import memory
from ptrtensor._torch.memory import COPIED_BELOW_BYTES, allocate, meta_of, tensor_of
from ptrtensor.errors import MessageTooLargeError

SIZES = [0, 1, COPIED_BELOW_BYTES - 8, COPIED_BELOW_BYTES, COPIED_BELOW_BYTES + 8]


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("dtype", [torch.uint8, torch.bool, torch.float64])
def test_what_is_received_is_a_tensor_that_can_be_resized(size: int, dtype: torch.dtype) -> None:
    if dtype is torch.float64:
        size = size // 8 * 8
    payload = allocate(size)
    assert len(payload) == size and not payload.readonly
    payload[:] = bytes(place % 2 for place in range(size))
    meta = meta_of(torch.empty(size // dtype.itemsize, dtype=dtype, device="meta"))
    tensor = tensor_of(meta, payload)
    assert meta_of(tensor) is meta and tensor.untyped_storage().nbytes() == size
    assert bytes(tensor.view(torch.uint8).tolist()[:10]) == bytes(payload[:10])
    del payload
    assert tensor.untyped_storage().resizable()
    assert tensor.resize_(size + 100).numel() == size + 100


def test_a_matrix_in_the_order_of_its_columns() -> None:
    wanted = torch.arange(1024.0 * 512).view(1024, 512).t()
    payload = allocate(wanted.nbytes)
    payload[:] = memory.bytes_of(wanted)
    assert torch.equal(tensor_of(meta_of(wanted), payload), wanted)


def test_modes_of_the_caller_do_not_reach_it() -> None:
    with FakeTensorMode(), torch.device("meta"), torch.inference_mode():
        payload = allocate(COPIED_BELOW_BYTES)
    meta = meta_of(torch.empty(COPIED_BELOW_BYTES, dtype=torch.uint8))
    payload[:] = bytes(COPIED_BELOW_BYTES)
    tensor = tensor_of(meta, payload)
    assert type(tensor) is torch.Tensor and tensor.device.type == "cpu" and not tensor.is_inference()
    assert tensor.sum() == 0


def test_no_memory() -> None:
    with pytest.raises(MessageTooLargeError, match="no memory for a payload of 1125899906842624 bytes"):
        allocate(2**50)


def test_without_huge_pages(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(memory, "madvise", None)
    assert len(allocate(COPIED_BELOW_BYTES)) == COPIED_BELOW_BYTES
