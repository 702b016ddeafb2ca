"""`torch.load(file, map_location=bob.device)`: the tensors of a file at a worker."""

import io
from typing import Any

import pytest
import torch
from comparing import check_equal, check_tensor
from torch import Tensor, nn

import ptrtensor as pt


def loaded(value: object, where: Any, **options: Any) -> Any:
    file = io.BytesIO()
    torch.save(value, file)
    file.seek(0)
    return torch.load(file, map_location=where, **options)


BASE = torch.arange(24.0).reshape(2, 3, 4)

TENSORS: dict[str, Tensor] = {
    "plain": BASE,
    "a view with an offset": BASE[1],
    "transposed": BASE.transpose(0, 2),
    "expanded": torch.ones(1).expand(3, 2),
    "a number": torch.tensor(3),
    "empty": torch.empty(0, 3),
    "bool": torch.tensor([True, False]),
    "half": torch.ones(3).half(),
    "bfloat16": torch.ones(3).bfloat16(),
    "complex": torch.randn(3, dtype=torch.complex64),
    "conjugated": torch.randn(3, dtype=torch.complex64).conj(),
    "negated": torch.randn(3, dtype=torch.complex64).conj().imag,
    "requires grad": torch.ones(2, requires_grad=True),
    "channels last": torch.randn(1, 2, 3, 3).to(memory_format=torch.channels_last),
}


@pytest.mark.parametrize("name", list(TENSORS))
def test_tensors(name: str, worker: pt.Worker) -> None:
    got, expected = loaded(TENSORS[name], worker.device), loaded(TENSORS[name], "cpu")
    check_equal(got, expected, worker)
    assert got.is_conj() == expected.is_conj() and got.is_neg() == expected.is_neg()
    check_equal(got + got, expected + expected, worker)


@pytest.mark.parametrize("where", [str, lambda device: device, lambda device: {"cpu": str(device)}])
def test_ways_to_name_the_worker(where: Any, worker: pt.Worker) -> None:
    check_equal(loaded({"a": [BASE], "b": "text"}, where(worker.device)), {"a": [BASE], "b": "text"}, worker)


def test_what_shares_memory_in_the_file_shares_it_there(worker: pt.Worker) -> None:
    base, row = loaded((BASE, BASE[1]), worker.device)
    base.zero_()
    check_tensor(row, torch.zeros(3, 4))


def test_a_checkpoint_goes_on_as_locally(worker: pt.Worker) -> None:
    def step(model: nn.Module, optimizer: torch.optim.Optimizer) -> None:
        optimizer.zero_grad()
        model(torch.ones(2, 3, device=next(model.parameters()).device)).square().sum().backward()
        optimizer.step()

    local = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.Linear(4, 1))
    optimizer = torch.optim.Adam(local.parameters())
    step(local, optimizer)
    state = loaded({"model": local.state_dict(), "optimizer": optimizer.state_dict()}, worker.device)
    remote = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.Linear(4, 1)).to(worker.device)
    there = torch.optim.Adam(remote.parameters())
    remote.load_state_dict(state["model"])
    there.load_state_dict(state["optimizer"])
    step(local, optimizer)
    step(remote, there)
    check_equal(list(remote.parameters()), list(local.parameters()), worker)


def test_a_whole_module(worker: pt.Worker) -> None:
    local = nn.Linear(3, 2)
    remote = loaded(local, worker.device, weights_only=False)
    assert isinstance(remote.weight, nn.Parameter)
    check_equal(remote(torch.ones(1, 3, device=worker.device)), local(torch.ones(1, 3)), worker)


def test_a_device_of_nobody(virtual_worker: pt.VirtualWorker) -> None:
    device = virtual_worker.device
    virtual_worker.close()
    with pytest.raises(pt.WorkerLostError):
        loaded(BASE, device)
    with pytest.raises(pt.PtrTensorError, match="lazy"):
        loaded(BASE, "lazy:99")


def test_a_storage_of_this_process_is_refused(virtual_worker: pt.VirtualWorker) -> None:
    pointer = torch.empty(0, device=virtual_worker.device)
    with pytest.raises(pt.UnsupportedOpError, match="storage"):
        pointer.set_(torch.ones(3).untyped_storage(), 0, (3,), (1,))


def test_others_load_as_before() -> None:
    assert torch.equal(loaded(BASE, None), BASE) and loaded(BASE, "meta").device.type == "meta"


def test_a_place_that_nobody_knows_is_torchs_own_error() -> None:
    with pytest.raises(RuntimeError, match="tagged with elsewhere"):
        loaded(BASE, "elsewhere")
