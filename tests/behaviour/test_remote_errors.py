"""An operation that fails at the worker: when the caller hears of it, in which words, and what is spoilt (D10)."""

import contextlib
import inspect
import itertools
from collections.abc import Callable, Iterator

import pytest
import torch
from collecting import collect
from torch import Tensor, nn
from torch.nn import functional as F

import ptrtensor as pt

_numbers = itertools.count(1)


@pytest.fixture(scope="module", params=["virtual", "process"])
def shared(request: pytest.FixtureRequest) -> Iterator[pt.Worker]:
    """A worker for the whole file: failures do not hurt it."""
    name = f"failing-{request.param}-{next(_numbers)}"
    made = pt.VirtualWorker(id=name) if request.param == "virtual" else pt.ProcessWorker(id=name)
    with contextlib.closing(made):
        yield made


@pytest.fixture
def bob(shared: pt.Worker) -> Iterator[pt.Worker]:
    yield shared
    shared.recover()


def line() -> int:
    """The number of the line that calls this."""
    frame = inspect.currentframe()
    assert frame is not None and frame.f_back is not None
    return frame.f_back.f_lineno


def fail(worker: pt.Worker) -> Tensor:
    """The result, two numbers, of an operation that fails at the worker and could not be known to."""
    return torch.ones(2, device=worker.device).gather(0, torch.full((2,), 7, device=worker.device))


FAILING: dict[str, tuple[str, Callable[[pt.Worker], Tensor]]] = {
    "embedding": (
        r"aten::embedding\(float32\[4, 2\], int64\[1\].*\) failed at worker .*: IndexError: index out of range",
        lambda bob: F.embedding(torch.tensor([9], device=bob.device), torch.ones(4, 2, device=bob.device)),
    ),
    "cholesky": (
        r"aten::linalg_cholesky_ex.*|aten::_linalg_check_errors.*",
        lambda bob: torch.linalg.cholesky(-torch.eye(3, device=bob.device)),
    ),
    "gather": (
        r"aten::gather\(float32\[2\], 0, int64\[2\].*\) failed at worker .*: RuntimeError: index 7 is out of bounds",
        fail,
    ),
}


@pytest.mark.parametrize("name", FAILING)
def test_the_error_shows_the_callers_line_the_operation_and_the_workers_traceback(name: str, bob: pt.Worker) -> None:
    message, call = FAILING[name]
    with pytest.raises(pt.RemoteOpError, match=message) as caught:
        call(bob).cpu()
    said = str(caught.value)
    assert isinstance(caught.value, RuntimeError)
    assert bob.id in said
    assert f'File "{__file__}", line ' in said
    assert inspect.getsource(call).split("lambda bob: ")[-1].splitlines()[-1].strip().rstrip(",") in said
    assert any(note.startswith("The worker's traceback:\nTraceback (most recent call last)") for note in notes(caught))


def notes(caught: pytest.ExceptionInfo[pt.RemoteOpError]) -> list[str]:
    return list(getattr(caught.value, "__notes__", []))


def test_the_line_is_exact(bob: pt.Worker) -> None:
    values, indices = torch.ones(2, device=bob.device), torch.full((2,), 7, device=bob.device)
    bad, issued = values.gather(0, indices), line()
    with pytest.raises(pt.RemoteOpError) as caught:
        (bad + 1).cpu()
    assert f'File "{__file__}", line {issued}, in test_the_line_is_exact' in str(caught.value)
    assert "bad, issued = values.gather(0, indices), line()" in str(caught.value)


def test_the_line_is_the_users_where_a_module_of_torch_issued_the_operation(bob: pt.Worker) -> None:
    model = nn.Sequential(nn.Embedding(4, 2), nn.Linear(2, 1))
    pt.send(model, bob)
    indices = torch.tensor([9], device=bob.device)
    bad, issued = model(indices), line()
    with pytest.raises(pt.RemoteOpError, match=rf'"{__file__}", line {issued}, in test_the_line_is_the_users'):
        bad.cpu()


def test_the_traceback_is_the_workers_alone(bob: pt.Worker) -> None:
    try:
        raise KeyError("an error of the caller")
    except KeyError:
        bad = fail(bob)
    with pytest.raises(pt.RemoteOpError) as caught:
        bad.cpu()
    assert "an error of the caller" not in "".join(notes(caught))


# --- when


WAITS: dict[str, Callable[[Tensor], object]] = {
    "cpu": lambda bad: bad.cpu(),
    "get": pt.get,
    "item": lambda bad: bad.sum().item(),
    "float": lambda bad: float(bad[0]),
    "bool": lambda bad: bool(bad.all()),
    "tolist": lambda bad: bad.tolist(),
    "equal": lambda bad: torch.equal(bad, bad),
    "a shape that depends on it": lambda bad: bad.nonzero(),
    "copy_": lambda bad: torch.zeros(2).copy_(bad),
    "formatting": lambda bad: f"{bad.sum().item():.2f}",
}


@pytest.mark.parametrize("name", WAITS)
def test_raised_where_the_caller_first_waits_for_the_value(name: str, bob: pt.Worker) -> None:
    bad = fail(bob) + 1
    assert bad.shape == (2,)
    assert "shape=(2,)" in repr(bad)
    for _ in range(2):  # and each time
        with pytest.raises(pt.RemoteOpError, match="gather"):
            WAITS[name](bad)
    bob.synchronize()  # seen


def test_a_move_to_another_worker_waits_too(bob: pt.Worker, second_worker: pt.Worker) -> None:
    bad = fail(bob)
    assert pt.is_pointer(bad)
    with pytest.raises(pt.RemoteOpError, match="gather"):
        pt.move(bad, second_worker)
    assert dict(second_worker.objects) == {}


def test_raised_at_synchronize_once(bob: pt.Worker) -> None:
    bad, issued = fail(bob), line()
    good = torch.ones(2, device=bob.device) + 1
    assert good.tolist() == [2, 2]
    with pytest.raises(pt.RemoteOpError, match="gather") as caught:
        bob.synchronize()
    assert f'"{__file__}", line ' in str(caught.value)
    assert issued > 0
    bob.synchronize()
    with pytest.raises(pt.RemoteOpError, match="gather"):
        bad.cpu()


def test_raised_at_synchronize_though_the_results_are_dead(bob: pt.Worker) -> None:
    fail(bob)
    with pytest.raises(pt.RemoteOpError, match="gather"):
        pt.synchronize()
    pt.synchronize()


@pytest.mark.parametrize("kind", ["virtual", "process"])
def test_raised_at_close_if_nobody_saw_it(kind: str, make_worker: Callable[[str], pt.Worker]) -> None:
    bob = make_worker(kind)
    bad = fail(bob)
    with pytest.raises(pt.RemoteOpError, match="gather") as caught:
        bob.close()
    assert f'"{__file__}", line ' in str(caught.value)
    bob.close()
    with pytest.raises(pt.WorkerLostError, match="closed"):
        bad.cpu()


@pytest.mark.parametrize("kind", ["virtual", "process"])
def test_not_raised_at_close_if_somebody_saw_it(kind: str, make_worker: Callable[[str], pt.Worker]) -> None:
    bob = make_worker(kind)
    with pytest.raises(pt.RemoteOpError):
        fail(bob).cpu()
    bob.close()


def test_questions_that_no_value_answers_do_not_raise(bob: pt.Worker) -> None:
    collect()
    before = bob.stats()["poisoned"]
    bad = fail(bob)
    assert bob.stats()["poisoned"] == before + 1
    assert bad.id_at_location not in bob.objects  # type: ignore[attr-defined]
    assert bob.search("no such tag") == []
    del bad
    assert bob.stats()["poisoned"] == before


def test_synchronous_mode_raises_in_the_line_itself(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PTRTENSOR_SYNC", "1")
    with contextlib.closing(pt.VirtualWorker(id="synchronous")) as bob:
        indices = torch.full((2,), 7, device=bob.device)
        values = torch.ones(2, device=bob.device)
        with pytest.raises(pt.RemoteOpError, match="gather"):
            values.gather(0, indices)
        assert (values + 1).tolist() == [2, 2]


def test_several_failures_are_one_error_with_notes(bob: pt.Worker) -> None:
    bad = [fail(bob) for _ in range(3)]
    embedded = F.embedding(torch.tensor([9], device=bob.device), torch.ones(4, 2, device=bob.device))
    with pytest.raises(pt.RemoteOpError, match="gather") as caught:
        bob.synchronize()
    also = [note for note in notes(caught) if note.startswith("Also: ")]
    assert len(also) == 3
    assert "embedding" in also[-1]
    assert all(f'"{__file__}", line ' in note for note in also)
    bob.synchronize()
    del bad, embedded


def test_very_many_failures_are_counted(bob: pt.Worker) -> None:
    for _ in range(20):
        fail(bob)
    with pytest.raises(pt.RemoteOpError) as caught:
        bob.synchronize()
    assert "and 14 more failures" in notes(caught)


def test_the_line_of_each_of_very_many_failures_is_known(bob: pt.Worker) -> None:
    bad = [fail(bob) for _ in range(300)]
    with pytest.raises(pt.RemoteOpError):
        bob.synchronize()
    for late in bad[::50]:
        with pytest.raises(pt.RemoteOpError, match=r"(?s)gather.*issued by.*, in fail\n"):
            late.cpu()


# --- what is spoilt


def test_dependants_are_spoilt_and_all_else_is_alive(bob: pt.Worker, second_worker: pt.Worker) -> None:
    before = torch.arange(4.0, device=bob.device)
    elsewhere = torch.arange(4.0, device=second_worker.device)
    bad = fail(bob)
    chain = bad
    for _ in range(40):
        chain = (chain * 2).relu()
    dependants = [chain, bad.sum(), torch.cat([before, bad]), bad.reshape(1, 2), bad.detach(), before[:2].add(bad)]
    after = before * 2
    for dependant in dependants + dependants:
        with pytest.raises(pt.RemoteOpError, match="gather"):
            dependant.cpu()
    assert before.tolist() == [0, 1, 2, 3]
    assert after.tolist() == [0, 2, 4, 6]
    assert (after + before).sum().item() == 18
    assert (elsewhere + 1).tolist() == [1, 2, 3, 4]


def test_every_result_of_a_failed_operation_is_spoilt(bob: pt.Worker) -> None:
    values, vectors = torch.linalg.eigh(torch.full((3, 3), float("nan"), device=bob.device))
    for bad in (values, vectors, vectors[0]):
        with pytest.raises(pt.RemoteOpError, match="eigh"):
            bad.cpu()


def test_a_pointer_that_could_not_be_got_is_not_spent(bob: pt.Worker) -> None:
    bad = fail(bob)
    for _ in range(2):
        with pytest.raises(pt.RemoteOpError, match="gather"):
            pt.get(bad)


def half_written(target: Tensor) -> None:
    """Writes some elements of a vector of four and fails at another."""
    indices = torch.tensor([0, 1, 9, 2], device=target.device)
    target.scatter_(0, indices, torch.full((4,), 5.0, device=target.device))


def test_a_half_written_tensor_is_spoilt_under_every_name(bob: pt.Worker) -> None:
    base = torch.zeros(8, device=bob.device)
    view, far, other = base[:4], base.reshape(2, 4)[1], torch.zeros(4, device=bob.device)
    half_written(view)
    late = base[4:]
    for alias in (base, view, far, late, base.detach(), view.reshape(2, 2)):
        with pytest.raises(pt.RemoteOpError, match=r"scatter_.src\(float32\[4\]"):
            alias.cpu()
    assert other.tolist() == [0, 0, 0, 0]
    bob.recover()
    for alias in (base, view, far):  # its values are not to be trusted, whatever one recovers
        with pytest.raises(pt.RemoteOpError, match="scatter_"):
            alias.cpu()


def test_a_half_written_base_spoils_its_views(bob: pt.Worker) -> None:
    base = torch.zeros(4, device=bob.device)
    view = base[2:]
    half_written(base)
    with pytest.raises(pt.RemoteOpError, match="scatter_"):
        view.cpu()


def test_a_half_written_result_that_was_given(bob: pt.Worker) -> None:
    given = torch.zeros(2, device=bob.device)
    alias = given.view(1, 2)
    indices = torch.tensor([0, 7], device=bob.device)
    torch.gather(torch.ones(2, device=bob.device), 0, indices, out=given)
    for spoilt in (given, alias):
        with pytest.raises(pt.RemoteOpError, match="gather"):
            spoilt.cpu()


# --- recover


def test_what_did_not_run_leaves_values_that_recover_gives_back(bob: pt.Worker) -> None:
    target = torch.arange(4.0, device=bob.device)
    view, doubled = target[:2], target * 2
    target[2:].add_(fail(bob))
    target.mul_(100)
    result = target + 1
    for spoilt in (target, view, result):
        with pytest.raises(pt.RemoteOpError, match="gather"):
            spoilt.cpu()
    assert doubled.tolist() == [0, 2, 4, 6]
    bob.recover()
    assert target.tolist() == [0, 1, 2, 3]
    assert view.tolist() == [0, 1]
    target.add_(1)
    assert view.tolist() == [1, 2]
    with pytest.raises(pt.RemoteOpError, match="gather"):  # it never came into being
        result.cpu()


def test_recover_counts_what_was_reported_as_seen(bob: pt.Worker) -> None:
    fail(bob)
    bob.recover()
    bob.synchronize()
    bob.recover()


def test_recover_of_one_worker_leaves_the_others(bob: pt.Worker, second_worker: pt.Worker) -> None:
    fail(second_worker)
    bob.recover()
    with pytest.raises(pt.RemoteOpError, match="gather"):
        second_worker.synchronize()


def batches() -> list[tuple[Tensor, Tensor]]:
    """Words of a vocabulary of ten and their classes; the third batch has a word that does not exist."""
    torch.manual_seed(3)
    made = [(torch.randint(10, (4,)), torch.randint(3, (4,))) for _ in range(6)]
    made[2][0][1] = 10
    return made


def classifier() -> nn.Module:
    torch.manual_seed(4)
    return nn.Sequential(nn.Embedding(10, 5), nn.Linear(5, 3))


def trained_here(make_optimizer: Callable[[nn.Module], torch.optim.Optimizer]) -> nn.Module:
    """Without the bad batch."""
    model = classifier()
    optimizer = make_optimizer(model)
    for number, (words, classes) in enumerate(batches()):
        if number != 2:
            optimizer.zero_grad()
            F.cross_entropy(model(words), classes).backward()
            optimizer.step()
    return model


@pytest.mark.parametrize("foreach", [False, True])
def test_a_training_loop_drops_a_bad_step_and_goes_on(foreach: bool, bob: pt.Worker) -> None:
    def make_optimizer(model: nn.Module) -> torch.optim.Optimizer:
        return torch.optim.SGD(model.parameters(), lr=0.5, foreach=foreach)

    model = pt.send(classifier(), bob)
    optimizer = make_optimizer(model)
    dropped = []
    for number, (words, classes) in enumerate(batches()):
        before = [parameter.detach().clone() for parameter in model.parameters()]
        optimizer.zero_grad()
        loss = F.cross_entropy(model(pt.send(words, bob)), pt.send(classes, bob))
        loss.backward()
        optimizer.step()
        try:
            loss.item()
        except pt.RemoteOpError as error:
            dropped.append(number)
            assert "embedding" in str(error)
            bob.recover()
            for parameter, old in zip(model.parameters(), before, strict=True):
                assert torch.equal(parameter.cpu(), old.cpu())
    assert dropped == [2]
    for parameter, expected in zip(model.parameters(), trained_here(make_optimizer).parameters(), strict=True):
        assert torch.equal(parameter.detach().cpu(), expected)
    bob.synchronize()


def test_a_training_loop_that_looks_before_the_step_may_use_any_optimizer(bob: pt.Worker) -> None:
    """An optimizer with a state runs several operations on it, of which some have good inputs in a bad step."""

    def make_optimizer(model: nn.Module) -> torch.optim.Optimizer:
        return torch.optim.Adam(model.parameters(), lr=0.1)

    model = pt.send(classifier(), bob)
    optimizer = make_optimizer(model)
    for words, classes in batches():
        optimizer.zero_grad()
        loss = F.cross_entropy(model(pt.send(words, bob)), pt.send(classes, bob))
        loss.backward()
        try:
            loss.item()
        except pt.RemoteOpError:
            bob.recover()
            continue
        optimizer.step()
    for parameter, expected in zip(model.parameters(), trained_here(make_optimizer).parameters(), strict=True):
        torch.testing.assert_close(parameter.detach().cpu(), expected)


# --- in backward


def test_a_failure_in_backward(bob: pt.Worker) -> None:
    indices = torch.tensor([0, 9], device=bob.device)
    pointer = pt.send(torch.ones(2, requires_grad=True), bob)
    other = pt.send(torch.ones(2, requires_grad=True), bob)
    middle = pointer * 3
    middle.register_hook(lambda gradient: gradient.gather(0, indices))
    loss = (middle * other).sum()
    loss.backward()
    assert loss.item() == 6
    assert pointer.grad is not None and other.grad is not None
    assert other.grad.tolist() == [3, 3]
    with pytest.raises(pt.RemoteOpError, match="gather") as caught:
        pointer.grad.cpu()
    assert "middle.register_hook(lambda gradient: gradient.gather(0, indices))" in str(caught.value)


def test_a_failure_of_the_engine_shows_the_line_of_backward(bob: pt.Worker) -> None:
    pointer = pt.send(torch.ones(2, requires_grad=True), bob)
    # The graph saves the indices; what it gets back is out of range.
    with torch.autograd.graph.saved_tensors_hooks(lambda saved: saved, lambda saved: saved + 100):
        gathered = pointer.gather(0, torch.tensor([0, 1], device=bob.device))
    _, issued = gathered.sum().backward(), line()
    assert pointer.grad is not None
    with pytest.raises(pt.RemoteOpError, match="scatter_add") as caught:
        pointer.grad.cpu()
    assert f'File "{__file__}", line {issued}, in test_a_failure_of_the_engine' in str(caught.value)


def test_backward_from_a_spoilt_loss(bob: pt.Worker) -> None:
    pointer = pt.send(torch.ones(2, requires_grad=True), bob)
    untouched = pt.send(torch.ones(2, requires_grad=True), bob)
    loss = (pointer * fail(bob)).sum() + untouched.sum()
    loss.backward(torch.ones((), device=bob.device))
    assert pointer.grad is not None and untouched.grad is not None
    with pytest.raises(pt.RemoteOpError, match="gather"):
        pointer.grad.cpu()
    assert untouched.grad.tolist() == [1, 1]
    assert pointer.tolist() == [1, 1]
