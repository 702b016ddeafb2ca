"""A listener: where it listens, where it computes, and what it says instead of serving."""

import pytest
import torch

import ptrtensor as pt
from ptrtensor.errors import PtrTensorError
from ptrtensor.wire.messages import Refused, Synchronize
from ptrtensor.worker.listener import Refusing, check_device, usable_device


def test_a_usable_device() -> None:
    assert usable_device("cpu") == torch.device("cpu")


@pytest.mark.parametrize("name", ["meta", "lazy", "lazy:1", "no such device", "", "cuda:-2", "mps:77", "\ud800"])
def test_a_device_where_nothing_can_be_computed(name: str) -> None:
    with pytest.raises(PtrTensorError, match=r"^this worker cannot compute on .*: .+") as caught:
        usable_device(name)
    assert repr(name) in str(caught.value)
    assert len(str(caught.value).splitlines()) == 1


@pytest.mark.parametrize("name", ["cpu", "cpu:0"])
def test_a_device_that_is_there(name: str) -> None:
    check_device(name)


@pytest.mark.parametrize("name", ["meta", "lazy", "no such device", "", "cuda:-2", "cuda:77", "mps:77", "\ud800"])
def test_a_device_that_is_not_there(name: str, virtual_worker: pt.VirtualWorker) -> None:
    with pytest.raises(PtrTensorError, match=r"^(nothing can be computed on|there is no device) .*: .+") as caught:
        check_device(name)
    assert repr(name) in str(caught.value)
    assert len(str(caught.value).splitlines()) == 1


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is CUDA")
def test_cuda_where_there_is_none() -> None:
    with pytest.raises(PtrTensorError, match="cannot compute on 'cuda': .*(CUDA|NVIDIA)"):
        usable_device("cuda")


def test_every_message_is_refused() -> None:
    assert list(Refusing("no room").handle(Synchronize(1), memoryview(b""))) == [(Refused("no room"), None)]
