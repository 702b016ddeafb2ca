"""What is private, and all that is computed from it, stays where it is [P11]."""

import contextlib
import io
import pickle
import re
import struct
from collections.abc import Callable, Iterator

import pytest
import torch
from conftest import fresh_id
from torch import Tensor

import ptrtensor as pt


@pytest.fixture
def bob() -> Iterator[pt.VirtualWorker]:
    with contextlib.closing(pt.VirtualWorker(id=fresh_id("bob"))) as bob:
        bob.publish(torch.arange(12.0).reshape(3, 4), name="patients", tags=["#patients"], description="12 numbers")
        bob.publish(torch.arange(4.0), name="open", tags=["#open"], private=False)
        yield bob


@pytest.fixture
def patients(bob: pt.VirtualWorker) -> pt.PointerTensor:
    (found,) = bob.search("#patients")
    return found


def is_private(value: Tensor) -> bool:
    try:
        value.cpu()
    except pt.PermissionDeniedError as error:
        assert "computed from patients" in str(error)
        return True
    return False


def into_zeros(bob: pt.Worker, write: Callable[[Tensor], object]) -> Tensor:
    target = pt.send(torch.zeros(3, 4), bob)
    write(target)
    return target


def test_what_is_not_private_can_be_fetched(bob: pt.VirtualWorker) -> None:
    (found,) = bob.search("#open")
    assert (found + 1).tolist() == [1, 2, 3, 4]
    assert found.description == "" and "#open" in found.tags


@pytest.mark.parametrize(
    "make",
    [
        pytest.param(lambda x: x, id="itself"),
        pytest.param(lambda x: x * 0, id="a result"),
        pytest.param(lambda x: x[1:], id="a view"),
        pytest.param(lambda x: x.T.reshape(-1), id="a view of a view"),
        pytest.param(lambda x: torch.zeros_like(x) + x, id="with something public"),
        pytest.param(lambda x: torch.cat([x.new_ones(1, 4), x]), id="one of a list"),
        pytest.param(lambda x: torch.split(x, 2)[1], id="one of several results"),
        pytest.param(lambda x: x.max(1).indices, id="indices"),
        pytest.param(lambda x: x.new_ones(3, 4).bernoulli_(torch.sigmoid(x)), id="drawn with it"),
        pytest.param(lambda x: x.sum(), id="a number"),
        pytest.param(lambda x: torch.zeros_like(x), id="even what only has its shape"),
        pytest.param(lambda x: torch.linalg.cholesky_ex(x[:3, :3]).info, id="whether it worked"),
    ],
)
def test_what_is_computed_from_it_is_private(patients: pt.PointerTensor, make: Callable[[Tensor], Tensor]) -> None:
    assert is_private(make(patients))


@pytest.mark.parametrize(
    "write",
    [
        pytest.param(lambda target, x: target.copy_(x), id="copy_"),
        pytest.param(lambda target, x: target.add_(x), id="add_"),
        pytest.param(lambda target, x: torch.mul(x, 2, out=target), id="out="),
        pytest.param(lambda target, x: target[1:].copy_(x[1:]), id="through a view"),
        pytest.param(lambda target, x: target.view(-1)[::2].fill_(x[0, 0]), id="a number of it"),
        pytest.param(lambda target, x: target.masked_fill_(x > 3, 1.0), id="where it is large"),
        pytest.param(lambda target, x: torch._foreach_add_([target], [x]), id="a list"),
        pytest.param(
            lambda target, x: target.index_put_((x[:, 0].long() % 3,), target.new_ones(3, 4)), id="at its values"
        ),
    ],
)
def test_what_it_is_written_into_turns_private(
    bob: pt.VirtualWorker, patients: pt.PointerTensor, write: Callable[[Tensor, Tensor], object]
) -> None:
    target = pt.send(torch.zeros(3, 4), bob)
    before, apart = target[2], target + 1
    write(target, patients)
    assert is_private(target) and is_private(before) and is_private(target[0])
    assert apart.tolist() == torch.ones(3, 4).tolist(), "a copy from before is as public as it was"


def test_gradients_and_what_an_optimizer_makes_of_them(bob: pt.VirtualWorker, patients: pt.PointerTensor) -> None:
    weight = pt.send(torch.ones(4, requires_grad=True), bob)
    optimizer = torch.optim.Adam([weight], lr=0.1)
    (patients @ weight).sum().backward()
    assert weight.grad is not None and is_private(weight.grad) and not is_private(weight)
    optimizer.step()
    assert is_private(weight)


def test_statistics_that_a_batch_norm_keeps(bob: pt.VirtualWorker, patients: pt.PointerTensor) -> None:
    """Its kernel writes to them, and its schema does not say so."""
    norm = torch.nn.BatchNorm1d(4).to(bob.device)
    assert norm.running_mean is not None and norm.running_var is not None
    norm.eval()
    assert is_private(norm(patients)) and not is_private(norm.running_mean), "nothing was written"
    norm.train()
    norm(patients)
    assert is_private(norm.running_mean) and is_private(norm.running_var)
    assert norm.weight.tolist() == [1, 1, 1, 1]


def test_a_denied_value_is_as_good_as_before(bob: pt.VirtualWorker, patients: pt.PointerTensor) -> None:
    mean = patients.mean()
    for _ in range(2):
        with pytest.raises(pt.PermissionDeniedError):
            pt.get(mean)
    assert is_private(mean + 1)


@pytest.mark.parametrize(
    "ask",
    [
        pytest.param(lambda x: x.nonzero(), id="nonzero"),
        pytest.param(lambda x: x[x > 3], id="boolean index"),
        pytest.param(lambda x: torch.unique(x), id="unique"),
        pytest.param(lambda x: torch.linalg.cholesky(x[:3, :3]), id="an error that depends on values"),
        pytest.param(lambda x: torch.linalg.inv(x[:3, :3]), id="another"),
        pytest.param(lambda x: bool(x.any()), id="bool"),
        pytest.param(lambda x: int(x[0, 0]), id="int"),
        pytest.param(lambda x: torch.equal(x, x), id="equal"),
        pytest.param(lambda x: torch.allclose(x, x), id="allclose"),
        pytest.param(lambda x: x.tolist(), id="tolist"),
        pytest.param(lambda x: x.to("cpu"), id="to"),
        pytest.param(lambda x: torch.zeros(3, 4).copy_(x), id="copy_ to this process"),
        pytest.param(lambda x: x.numpy(force=True), id="numpy"),
        pytest.param(lambda x: [0, 1, 2][x[0, 0].long()], id="as an index"),
        pytest.param(lambda x: float(x[0, 0]), id="float"),
        pytest.param(lambda x: complex(x[0, 0]), id="complex"),
        pytest.param(lambda x: x[0, 0].item(), id="item"),
        pytest.param(lambda x: f"{x[0, 0]:.3f}", id="formatted"),
        pytest.param(lambda x: 3.0 in x, id="in"),
        pytest.param(lambda x: x.equal(torch.zeros_like(x)), id="equal to something public"),
        pytest.param(lambda x: list(map(float, x[0])), id="a loop over it"),
        pytest.param(lambda x: sorted(x[0]), id="sorted"),
        pytest.param(lambda x: max(x[0]), id="max of Python"),
        pytest.param(lambda x: pickle.dumps(x), id="pickle"),
        pytest.param(lambda x: pickle.dumps({"x": [x + 1]}), id="pickle of a dict"),
        pytest.param(lambda x: torch.save(x, io.BytesIO()), id="torch.save"),
        pytest.param(lambda x: torch.save({"x": x, "n": 1}, io.BytesIO()), id="torch.save of a dict"),
        pytest.param(lambda x: torch.ones(12).repeat_interleave(x.view(-1).long().cpu()), id="repeats"),
    ],
)
def test_every_way_out_is_closed(patients: pt.PointerTensor, ask: Callable[[Tensor], object]) -> None:
    with pytest.raises(pt.PermissionDeniedError):
        ask(patients)


def test_what_is_too_large_to_be_released_is_not_asked_for(patients: pt.PointerTensor) -> None:
    large = patients.reshape(-1)[:1].expand(5 * 2**20)
    assert isinstance(large, pt.PointerTensor)
    with pytest.raises(pt.PtrTensorError, match="takes values of up to 16777216 bytes, and this one has"):
        large.request("for science")


def test_it_does_not_move_to_another_worker(patients: pt.PointerTensor, second_worker: pt.VirtualWorker) -> None:
    with pytest.raises(pt.PermissionDeniedError):
        patients.move(second_worker)
    with pytest.raises(pt.PermissionDeniedError):
        patients.to(second_worker.device)


def test_showing_a_pointer_shows_no_values(patients: pt.PointerTensor) -> None:
    shown = r"PointerTensor\(me:\d+ -> bob\d*:\d+, shape=\(3, 4\), dtype=torch.float32 #patients\)"
    for text in (repr(patients), str(patients), f"{patients}", str([patients])[1:-1]):
        assert re.fullmatch(shown, text)


def test_a_file_of_a_denied_value_holds_nothing_of_it(patients: pt.PointerTensor) -> None:
    secret = patients * 0 + 7.25
    for save in (torch.save, pickle.dump):
        file = io.BytesIO()
        with pytest.raises(pt.PermissionDeniedError):
            save({"x": secret}, file)
        assert struct.pack("<f", 7.25) * 2 not in file.getvalue()


@pytest.mark.parametrize("value", [0.0, 7.0], ids=["fails", "works"])
def test_whether_an_operation_failed_is_private(value: float) -> None:
    """An index out of range; nothing that can be asked for tells the two apart."""
    with contextlib.closing(pt.VirtualWorker(id=fresh_id("bob"))) as bob:
        bob.publish(torch.full((1, 1), value), name="patients", tags=["#patients"])
        (x,) = bob.search("#patients")
        counted = bob.stats()["poisoned"], bob.stats()["objects"]
        index = (x[0] == 0).long() * 10
        looked_up = torch.arange(3.0, device=bob.device)[index]  # out of range, if zero
        bob.synchronize()
        written = pt.send(torch.zeros(1), bob)
        written.copy_(looked_up)
        bob.synchronize()
        assert is_private(looked_up) and is_private(written) and is_private(looked_up + 1)
        assert (bob.stats()["poisoned"], bob.stats()["objects"]) == counted
        assert len(bob.search()) == 1
        bob.recover()
        assert is_private(written)


def test_a_failure_beside_it_is_told(bob: pt.VirtualWorker, patients: pt.PointerTensor) -> None:
    index = pt.send(torch.tensor([10]), bob)
    pt.send(torch.arange(3.0), bob)[index]
    is_private(patients + 1)
    with pytest.raises(pt.RemoteOpError, match="out of range|out of bounds"):
        bob.synchronize()


def test_what_is_private_is_not_listed(bob: pt.VirtualWorker, patients: pt.PointerTensor) -> None:
    """Whether a result is there says whether its operation failed."""
    result = patients * 2
    assert pt.is_pointer(result)
    result.tag("#result")
    bob.synchronize()
    assert bob.search("#result") == [] and len(bob.search("#patients")) == 1
    assert is_private(result)


def test_a_tensor_beside_a_published_one_is_out_of_reach(bob: pt.VirtualWorker) -> None:
    table = torch.arange(8.0)
    bob.publish(table[:4], name="first half", tags=["#half"], private=False)
    (half,) = bob.search("#half")
    with pytest.raises(RuntimeError):
        torch.as_strided(half, (8,), (1,)).cpu()
    assert half.tolist() == [0, 1, 2, 3]


def test_a_published_tensor_is_a_copy(bob: pt.VirtualWorker) -> None:
    table = torch.zeros(3)
    bob.publish(table, name="table", tags=["#table"], private=False)
    table += 1
    (found,) = bob.search("#table")
    assert found.tolist() == [0, 0, 0]


def test_the_generator_of_public_numbers_does_not_show_private_ones(bob: pt.VirtualWorker) -> None:
    """How many numbers `poisson` draws depends on its rates."""

    def state_after(rate: float) -> Tensor:
        bob.publish(torch.full((8,), rate), name="rates", tags=[f"#rates{rate}"])
        (rates,) = bob.search(f"#rates{rate}")
        bob.manual_seed(3)
        torch.poisson(rates)
        bob.synchronize()
        return torch.rand(4, device=bob.device).cpu()

    assert torch.equal(state_after(0.1), state_after(1000.0))


def test_a_published_name_is_taken_anew(bob: pt.VirtualWorker) -> None:
    bob.publish(torch.ones(2), name="patients", tags=["#patients", "#new"])
    (found,) = bob.search("#patients")
    assert found.shape == (2,) and is_private(found)


def test_what_a_published_tensor_made_room_for_is_gone(bob: pt.VirtualWorker) -> None:
    before = bob.stats()["objects"]
    for _ in range(3):
        bob.publish(torch.ones(2), name="public", tags=["#public"], private=False)
        assert len(bob.search("#public")) == 1
    bob.synchronize()
    assert bob.stats()["objects"] == before + 1


def test_no_time_is_told_of_what_is_computed_from_it(bob: pt.VirtualWorker, patients: pt.PointerTensor) -> None:
    """Whether an operation failed would show in it."""
    public = pt.send(torch.ones(2), bob)
    with pt.profile(bob) as found:
        patients.exp(), public.neg()
    assert [timing.operation for timing in found.operations] == ["aten::neg"]


def test_a_failed_write_to_what_is_published_is_not_for_ever(bob: pt.VirtualWorker, patients: pt.PointerTensor) -> None:
    patients.index_add_(0, pt.send(torch.tensor([99]), bob), pt.send(torch.ones(1, 4), bob))
    bob.synchronize()
    (again,) = bob.search("#patients")
    assert again.shape == (3, 4) and is_private(again)


@pytest.mark.parametrize("tags", [[1], "#patients", [None], ["\ud800"]])
def test_tags_are_texts(bob: pt.VirtualWorker, tags: list[str]) -> None:
    with pytest.raises(pt.PtrTensorError):
        bob.publish(torch.ones(2), name="x", tags=tags)


def test_what_cannot_live_at_a_worker_is_not_published(bob: pt.VirtualWorker) -> None:
    with pytest.raises(pt.UnsupportedOpError, match="layout"):
        bob.publish(torch.ones(2, 2).to_sparse(), name="x", tags=["#x"])
