"""What a worker checks of its arguments before anything is done with them."""

from enum import StrEnum
from typing import Any

import numpy as np
import pytest
import torch

import ptrtensor as pt
from ptrtensor.errors import PtrTensorError
from ptrtensor.tensor.arguments import check_state, checked_seed, checked_texts, shown
from ptrtensor.tensor.worker import check_id, check_worker
from ptrtensor.wire import messages

CPU, CUDA = torch.device("cpu"), torch.device("cuda")


class Word(StrEnum):
    BLOOD = "blood"


@pytest.mark.parametrize("value", [None, "x" * 1000, [1] * 1000, torch.ones(50, 50), np.ones((50, 50)), object()])
def test_what_was_given_is_shown_in_a_few_words(value: object) -> None:
    assert f"({type(value).__name__})" in shown(value)
    assert len(shown(value)) < 80 and "\n" not in shown(value)


@pytest.mark.parametrize("id", ["b", "bob", "two words", "Zoë", "127.0.0.1:7700", "--help", "x" * 200])
def test_an_id(id: str) -> None:
    check_id(id)


@pytest.mark.parametrize("id", ["", "a\nb", "\0", "\udfff", "x" * 201, 3, None, b"bob"])
def test_no_id(id: object) -> None:
    with pytest.raises(PtrTensorError, match=r"a worker's id is a text of 1 to 200 printable characters, for instance"):
        check_id(id)


def test_ids_that_are_taken(virtual_worker: pt.Worker) -> None:
    with pytest.raises(PtrTensorError, match="'me' is the id of this process"):
        check_id("me")
    with pytest.raises(PtrTensorError, match="already"):
        check_id(virtual_worker.id)


def test_a_worker(virtual_worker: pt.Worker) -> None:
    check_worker(virtual_worker, "send()")
    for other in ("bob", None, virtual_worker.device, pt.VirtualWorker):
        with pytest.raises(
            PtrTensorError, match=r"^send\(\) takes a worker itself, for instance bob .*, not .*\(\w+\)$"
        ):
            check_worker(other, "send()")
    with pytest.raises(PtrTensorError, match=r"move\(\) takes .* not <LocalWorker id:me> .*; get\(\) brings"):
        check_worker(pt.local_worker, "move()")


class Interrupted(Exception):
    """Stands for Ctrl-C, which may fall behind a message that went out."""


def interrupt_behind(worker: pt.Worker, kind: type, monkeypatch: pytest.MonkeyPatch) -> None:
    send = worker.client.send

    def interrupted(message: Any, payload: Any = None) -> None:
        send(message, payload)
        if isinstance(message, kind):
            monkeypatch.setattr(worker.client, "send", send)
            raise Interrupted

    monkeypatch.setattr(worker.client, "send", interrupted)


class InterruptingOnce(dict[Any, int]):
    def __init__(self, content: dict[Any, int]) -> None:
        super().__init__(content)
        self._armed = True

    def setdefault(self, key: Any, default: int = 0) -> int:
        if self._armed:
            self._armed = False
            raise Interrupted
        return super().setdefault(key, default)


@pytest.mark.parametrize("later", [False, True])
@pytest.mark.parametrize("goes_back", [False, True])
def test_flags_are_told_again_where_that_was_interrupted(
    process_worker: pt.Worker, goes_back: bool, later: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    x, before = pt.send(torch.arange(3), process_worker), torch.get_default_dtype()
    assert (x / 2).cpu().dtype == torch.float32
    if later:
        monkeypatch.setattr(process_worker, "_flags_seen", InterruptingOnce(process_worker._flags_seen))
    else:
        interrupt_behind(process_worker, messages.Configure, monkeypatch)
    torch.set_default_dtype(torch.float64)
    try:
        with pytest.raises(Interrupted):
            x / 2
        if goes_back:
            torch.set_default_dtype(before)
        half = x / 2
        assert half.dtype == half.cpu().dtype == torch.get_default_dtype()
    finally:
        torch.set_default_dtype(before)


@pytest.mark.parametrize("seed", [None, 5])
def test_numbers_stay_random_where_seeding_was_interrupted(
    virtual_worker: pt.Worker, seed: int | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    virtual_worker.manual_seed(3)
    interrupt_behind(virtual_worker, messages.ManualSeed, monkeypatch)
    with pytest.raises(Interrupted):
        virtual_worker.manual_seed(seed)
    drawn = [torch.rand(2, device=virtual_worker.device).tolist() for _ in range(3)]
    assert drawn[0] != drawn[1] != drawn[2] != drawn[0]
    virtual_worker.manual_seed(None)


def test_texts() -> None:
    texts = checked_texts(["", "a", "Zoë \U0001f600", np.str_("n"), Word.BLOOD], "tag()")
    assert texts == ("", "a", "Zoë \U0001f600", "n", "blood")
    assert {type(text) for text in texts} == {str}


@pytest.mark.parametrize("text", [1, None, b"a", ["a"], "\ud800", "a\udfff"])
def test_no_texts(text: object) -> None:
    with pytest.raises(PtrTensorError, match=r"^tag\(\) takes texts"):
        checked_texts(["first", text], "tag()")


@pytest.mark.parametrize("seed", [0, 7, -1, -(2**63), 2**64 - 1, np.int64(7), np.uint64(2**64 - 1), torch.tensor(7)])
def test_a_seed_is_one_that_torch_takes(seed: Any) -> None:
    checked = checked_seed(seed)
    assert type(checked) is int and checked == int(seed)
    torch.Generator().manual_seed(checked)


@pytest.mark.parametrize("seed", [True, np.True_, 1.0, "1", 2**64, -(2**63) - 1, [1], torch.tensor(1.5)])
def test_no_seed(seed: Any) -> None:
    with pytest.raises(
        PtrTensorError, match=r"manual_seed\(\) takes None or an integer from -9223372036854775808 to 18"
    ):
        checked_seed(seed)


def test_a_state_of_a_generator() -> None:
    state = torch.get_rng_state()
    check_state(state, CPU)
    check_state(torch.stack([state, state], 1)[:, 0], CPU)
    check_state(torch.zeros(16, dtype=torch.uint8), CUDA)


@pytest.mark.parametrize(
    ("state", "device"),
    [
        (torch.zeros(5056, dtype=torch.uint8), CPU),
        (torch.zeros(3, dtype=torch.uint8), CPU),
        (torch.zeros(3), CPU),
        (torch.zeros(3), CUDA),
        (torch.zeros(5056, dtype=torch.uint8, device="meta"), CPU),
    ],
)
def test_no_state_of_a_generator(state: torch.Tensor, device: torch.device) -> None:
    with pytest.raises(PtrTensorError, match=r"cannot be the state of a generator .*get_rng_state\(\)"):
        check_state(state, device)
