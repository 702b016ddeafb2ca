"""What torch hands out as it was is zero, where the worker has to see to it itself.

No GPU is needed. On a CPU torch can be told to fill such memory with what is no number: that shows where nobody wrote.
"""

from collections.abc import Iterator
from typing import Any

import pytest
import torch
from by_hand import At, ByHand, aten
from desk import Desk
from torch import Tensor
from torch._ops import OpOverload

from ptrtensor.version import __version__
from ptrtensor.wire.control import Assign, Quota
from ptrtensor.worker import hosted
from ptrtensor.worker.distant_owner import DistantOwner
from ptrtensor.worker.identity import Identity
from ptrtensor.worker.session import Session
from ptrtensor.worker.surface import runnable
from ptrtensor.worker.uninitialised import COPYING, GROWING, HANDING_OUT, clear, is_cleared_by_the_system

A = torch.arange(6.0).reshape(2, 3)


@pytest.fixture(autouse=True)
def unwritten_memory_shows() -> Iterator[None]:
    before = torch.are_deterministic_algorithms_enabled()
    torch.use_deterministic_algorithms(True)
    assert torch.empty(3).isnan().all()
    yield
    torch.use_deterministic_algorithms(before)


def by_hand(*, clears_memory: bool) -> ByHand:
    identity = Identity("bob", __version__, str(torch.__version__))
    return ByHand(Session(identity, clears_memory=clears_memory))


def made_by(hand: ByHand, op: OpOverload[..., Any], args: tuple[object, ...]) -> Tensor:
    expect = op(*args)
    given = [At(hand.put(value)) if isinstance(value, Tensor) else value for value in args]
    return hand.fetch(hand.run(op, *given, expect=[expect]))


@pytest.mark.parametrize(
    ("op", "args"),
    [
        pytest.param(aten.empty.memory_format, ([4],), id="empty"),
        pytest.param(aten.empty_like.default, (A,), id="empty_like"),
        pytest.param(aten.empty_strided.default, ([2], [3]), id="empty_strided"),
        pytest.param(aten.empty_permuted.default, ([2, 3], [1, 0]), id="empty_permuted"),
        pytest.param(aten.new_empty.default, (A, [4]), id="new_empty"),
        pytest.param(aten.new_empty_strided.default, (A, [2], [3]), id="new_empty_strided"),
    ],
)
def test_what_is_handed_out(op: OpOverload[..., Any], args: tuple[object, ...]) -> None:
    assert made_by(by_hand(clears_memory=False), op, args).isnan().all(), "as it was"
    assert not made_by(by_hand(clears_memory=True), op, args).any()


@pytest.mark.parametrize(
    ("op", "size"), [(aten.resize_.default, [6]), (aten.resize_as_.default, A)], ids=["resize_", "resize_as_"]
)
@pytest.mark.parametrize("clears_memory", [False, True])
def test_what_a_tensor_grows_by(op: OpOverload[..., Any], size: object, clears_memory: bool) -> None:
    hand = by_hand(clears_memory=clears_memory)
    grown = hand.put(torch.ones(2))
    hand.run(op, At(grown), At(hand.put(size)) if isinstance(size, Tensor) else size)
    first, rest = hand.fetch(grown).view(-1).tensor_split([2])
    assert rest.numel() == 4 and (not rest.any() if clears_memory else rest.isnan().all())
    assert first.tolist() == [1, 1], "what it had it keeps"


@pytest.mark.parametrize("clears_memory", [False, True])
def test_what_is_handed_out_into_a_view(clears_memory: bool) -> None:
    """And nothing beside it."""
    hand = by_hand(clears_memory=clears_memory)
    whole = hand.put(torch.ones(4))
    part = hand.run(aten.slice.Tensor, At(whole), 0, 1, 3, expect=[torch.ones(4)[1:3]])
    hand.run(aten.new_empty.out, At(hand.put(A)), [2], out=At(part))
    first, *written, last = hand.fetch(whole).tolist()
    assert (first, last) == (1, 1) and (written == [0, 0] if clears_memory else torch.tensor(written).isnan().all())


@pytest.mark.parametrize("op", [aten.resize.default, aten.resize_as.default, aten.set.source_Tensor])
def test_what_does_it_to_a_copy_is_not_run(op: OpOverload[..., Any]) -> None:
    for clears_memory in (True, False):
        hand = by_hand(clears_memory=clears_memory)
        size: object = [2, 3] if op is aten.resize.default else At(hand.put(A))
        made = hand.run(op, At(hand.put(A)), size, expect=[A])
        assert hand.state(made) == ("x" if clears_memory else "o")


def test_what_lies_between_the_elements_of_a_result_that_is_laid_out_anew(monkeypatch: pytest.MonkeyPatch) -> None:
    """A client chooses the strides that it predicts."""
    hand = by_hand(clears_memory=True)
    with monkeypatch.context() as patched:
        patched.setattr(
            torch, "empty_strided", lambda shape, stride, **kind: torch.full((6,), 7.25).as_strided(shape, stride)
        )
        spread = hand.run(aten.neg.default, At(hand.put(torch.ones(2))), expect=[torch.ones(6).as_strided((2,), (3,))])
    whole = hand.run(aten.as_strided.default, At(spread), [6], [1], expect=[torch.ones(6)])
    assert hand.fetch(whole).tolist() == [-1, 0, 0, -1, 0, 0]


def test_all_of_a_storage_is_cleared() -> None:
    memory = torch.full((9,), 7.25)
    clear(memory.as_strided((2,), (3,)), 8)
    assert memory.tolist() == [7.25, 7.25, 0, 0, 0, 0, 0, 0, 0]


def test_no_operation_of_that_kind_was_forgotten() -> None:
    """Of those that a worker runs, by their names."""
    kin = {op for op in runnable() if op.removeprefix("aten::").removeprefix("new_").startswith(("empty", "resize"))}
    assert kin | {"aten::set", "aten::set_"} == HANDING_OUT | GROWING | COPYING


@pytest.mark.parametrize(("device", "cleared"), [("cpu", True), ("cuda", False), ("cuda:1", False), ("mps", False)])
def test_where_the_system_does_it(device: str, cleared: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[Any] = []
    monkeypatch.setattr(hosted, "Session", lambda *given, clears_memory: made.append(clears_memory))
    owner = DistantOwner(Desk(lambda question: None), {}, metered=False)
    hosted.session_of(Assign("bob", "", "alice", (), {}, Quota()), device, owner)
    assert is_cleared_by_the_system(torch.device(device)) is cleared and made == [not cleared]


@pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no GPU")
def test_on_a_gpu() -> None:
    identity = Identity("bob", __version__, str(torch.__version__))
    hand = ByHand(Session(identity, "cuda", clears_memory=True))
    torch.full((100_000,), 7.25, device="cuda")  # freed, and handed out again
    assert not made_by(hand, aten.empty.memory_format, ([100_000],)).any()
