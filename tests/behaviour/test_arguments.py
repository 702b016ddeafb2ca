"""Arguments of a wrong kind: refused at the call in words that help, and the session goes on."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

import ptrtensor as pt
from ptrtensor.client import outbox

verbs: Any = pt
"""The module without its types, which refuse most of these calls already."""


@pytest.mark.parametrize("value", [[1, 2], None, 3.0, np.ones((2, 2)), "x"])
def test_what_is_no_tensor_and_no_module(value: object, worker: pt.Worker) -> None:
    calls: dict[str, Callable[[], object]] = {
        "send": lambda: verbs.send(value, worker),
        "get": lambda: verbs.get(value),
        "move": lambda: verbs.move(value, worker),
    }
    for verb, call in calls.items():
        with pytest.raises(pt.PtrTensorError, match=rf"^{verb}\(\) takes .* not .*\({type(value).__name__}\)"):
            call()


@pytest.mark.parametrize("place", ["id", "device", "local", None])
def test_what_is_no_worker(place: str | None, worker: pt.Worker) -> None:
    places = {"id": worker.id, "device": worker.device, "local": pt.local_worker, None: None}
    other: Any = places[place]
    pointer, module = pt.send(torch.ones(2), worker), pt.send(nn.Linear(2, 1), worker)
    calls: dict[str, list[Callable[[], object]]] = {
        "send": [lambda: verbs.send(torch.ones(2), other), lambda: verbs.send(nn.Linear(2, 1), other)],
        "move": [lambda: pointer.move(other), lambda: verbs.move(pointer, other), lambda: verbs.move(module, other)],
    }
    for verb, each in calls.items():
        for call in each:
            with pytest.raises(pt.PtrTensorError, match=rf"^{verb}\(\) takes a worker itself"):
                call()
    assert pointer.tolist() == [1, 1] and module(pointer).location is worker


def test_what_is_here_is_not_moved(worker: pt.Worker) -> None:
    module = nn.Linear(2, 1)
    local: list[Any] = [torch.ones(2), module]
    for value in local:
        with pytest.raises(pt.UnsupportedOpError, match=r"use send\(\)"):
            pt.move(value, worker)
    assert not pt.is_pointer(module.weight)
    assert pt.move(nn.ReLU(), worker)(torch.ones(2)).tolist() == [1, 1], "nothing is here of a module without tensors"


def test_a_module_of_which_a_part_is_here_is_moved(worker: pt.Worker, second_worker: pt.Worker) -> None:
    module = nn.Sequential(pt.send(nn.Linear(2, 1), worker), nn.Linear(1, 1))
    pt.move(module, second_worker)
    assert {parameter.device for parameter in module.parameters()} == {second_worker.device}


@pytest.mark.parametrize("text", [3, None, "\ud800"])
def test_what_is_no_text(text: Any, worker: pt.Worker) -> None:
    pointer = pt.send(torch.ones(2), worker).tag("kept").describe("as it was")
    calls: dict[str, Callable[[], object]] = {
        "tag": lambda: pointer.tag("more", text),
        "describe": lambda: pointer.describe(text),
        "search": lambda: worker.search(text),
    }
    for name, call in calls.items():
        with pytest.raises(pt.PtrTensorError, match=rf"^{name}\(\) takes texts"):
            call()
    assert (pointer.tags, pointer.description) == ({"kept"}, "as it was")
    assert len(worker.search("kept")) == 1


@pytest.mark.parametrize("seed", [True, 1.5, "one", 2**64])
def test_what_is_no_seed(seed: Any, worker: pt.Worker) -> None:
    with pytest.raises(pt.PtrTensorError, match=r"^manual_seed\(\) takes None or an integer"):
        worker.manual_seed(seed)
    assert not worker.sequential
    assert torch.rand(2, device=worker.device).shape == (2,)


def test_a_seed_of_numpy(worker: pt.Worker) -> None:
    drawn = []
    for seed in (np.int64(5), 5):
        worker.manual_seed(seed)
        drawn.append(torch.rand(3, device=worker.device).tolist())
    worker.manual_seed(None)
    assert drawn[0] == drawn[1]


@pytest.mark.parametrize("state", [torch.zeros(3), torch.zeros(3, dtype=torch.uint8), torch.ones(5056).byte()])
def test_what_is_no_state_of_a_generator(state: torch.Tensor, worker: pt.Worker) -> None:
    lazy = torch.get_device_module(worker.device)
    worker.manual_seed(1)
    before = lazy.get_rng_state(worker.device)
    for wrong in (state, pt.send(state, worker)):
        with pytest.raises(pt.PtrTensorError, match=r"get_rng_state\(\)"):
            lazy.set_rng_state(wrong, worker.device)
    assert torch.equal(lazy.get_rng_state(worker.device), before)
    worker.manual_seed(None)


def test_a_call_that_is_too_much_to_say(worker: pt.Worker, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is refused at the caller's line, and costs no session."""
    monkeypatch.setattr(outbox, "MAX_BATCH_BYTES", 4096)
    rows = list(pt.send(torch.ones(200, 2), worker))
    with pytest.raises(pt.UnsupportedOpError, match=r"aten::stack .* call it on parts of its list"):
        torch.stack(rows)
    assert torch.cat([torch.stack(rows[:50]), torch.stack(rows[50:100])]).sum().item() == 200
    worker.synchronize()
