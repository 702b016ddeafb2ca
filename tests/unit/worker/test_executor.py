"""The executor: results under their names; and after a failure poison on everything that cannot be trusted."""

from collections.abc import Callable

import pytest
import torch
from by_hand import At, ByHand, Field, aten
from torch import Tensor

from ptrtensor._torch.memory import meta_of
from ptrtensor.wire import messages
from ptrtensor.worker.identity import Identity
from ptrtensor.worker.session import Session

A = torch.arange(6.0).reshape(2, 3)
UNDEFINED = None


def value(hand: ByHand, name: int) -> list[object]:
    values: list[object] = hand.fetch(name).tolist()
    return values


# --- results


def test_one_result() -> None:
    hand = ByHand()
    assert torch.equal(hand.fetch(hand.run(aten.neg.default, At(hand.put(A)), expect=[A])), -A)


def test_a_tuple_has_names_in_a_row() -> None:
    hand = ByHand()
    largest, places = torch.max(A, 1)
    first = hand.run(aten.max.dim, At(hand.put(A)), 1, expect=[largest, places])
    assert torch.equal(hand.fetch(first), largest) and torch.equal(hand.fetch(first + 1), places)


def test_a_list_has_names_in_a_row() -> None:
    hand = ByHand()
    first = hand.run(aten.split.Tensor, At(hand.put(A)), 2, 1, expect=[A[:, :2], A[:, 2:]])
    assert torch.equal(hand.fetch(first), A[:, :2]) and torch.equal(hand.fetch(first + 1), A[:, 2:])


def test_an_undefined_result_leaves_its_name_unused() -> None:
    hand = ByHand()
    ones = torch.ones(3)
    results = torch.native_layer_norm(A, [3], ones, ones, 1e-5)
    args = [hand.put(tensor) for tensor in (A, A, *results[1:], ones, ones)]
    first = hand.run(
        aten.native_layer_norm_backward.default,
        At(args[0]),
        At(args[1]),
        [3],
        *map(At, args[2:]),
        [True, False, True],
        expect=[A, UNDEFINED, ones],
    )
    assert hand.state(first, first + 1, first + 2) == "o-o"


def test_views_share_memory_with_their_base() -> None:
    hand = ByHand()
    base = hand.put(A)
    view = hand.run(aten.select.int, At(base), 0, 1, expect=[A[1]])
    hand.run(aten.add_.Tensor, At(view), Field(10))
    assert value(hand, base) == [[0, 1, 2], [13, 14, 15]]


def test_in_place_makes_no_name() -> None:
    hand = ByHand()
    target = hand.put(A)
    made = hand.run(aten.mul_.Tensor, At(target), Field(2.0))
    assert hand.state(target, made) == "o-"
    assert torch.equal(hand.fetch(target), A * 2)


def test_out_makes_no_name_and_resizes() -> None:
    hand = ByHand()
    target = hand.put(torch.empty(0))
    made = hand.run(aten.add.out, At(hand.put(A)), Field(1), out=At(target))
    assert hand.state(made) == "-"
    assert torch.equal(hand.fetch(target), A + 1)


def test_two_written_results_make_no_names() -> None:
    hand = ByHand()
    largest, places = hand.put(torch.empty(2)), hand.put(torch.empty(2).long())
    made = hand.run(aten.max.dim_max, At(hand.put(A)), 1, max=At(largest), max_values=At(places))
    assert hand.state(made) == "-"
    assert value(hand, largest) == [2, 5] and value(hand, places) == [2, 2]


def test_foreach_in_place() -> None:
    hand = ByHand()
    targets = [hand.put(A), hand.put(A + 1)]
    hand.run(aten._foreach_add_.ScalarList, [At(name) for name in targets], [Field(1.0), Field(2.0)])
    assert torch.equal(hand.fetch(targets[0]), A + 1) and torch.equal(hand.fetch(targets[1]), A + 3)


def test_a_number_is_a_result() -> None:
    hand = ByHand()
    a = hand.put(A)
    name = hand.run(aten.equal.default, At(a), At(a), expect=None)
    ((reply, _),) = hand.session.handle(messages.Fetch(1, name), memoryview(b""))
    assert reply == messages.Value(1, scalar=True)


def test_a_number_that_was_returned_can_be_an_argument() -> None:
    hand = ByHand()
    a = hand.put(A)
    name = hand.run(aten.equal.default, At(a), At(a), expect=None)
    assert torch.equal(hand.fetch(hand.run(aten.mul.Tensor, At(a), At(name), expect=[A])), A)


# --- the prediction is held against what came (D7)


def test_a_fresh_result_is_laid_out_as_predicted_every_time() -> None:
    hand = ByHand()
    a = hand.put(A)
    columns = torch.empty_strided((2, 3), (1, 2))
    defined = hand.define(aten.neg.default, At(a), expect=[columns])
    hand.post([hand.command(defined, 50)])
    hand.post([(None, hand.command(defined, 51)[1])])
    for name in (50, 51):
        made = hand.store.objects[name]
        assert isinstance(made, Tensor)
        assert made.stride() == (1, 2) and torch.equal(made, -A)


@pytest.mark.parametrize(
    "predicted",
    [torch.empty_strided((1, 3), (77, 1)), torch.empty_strided((1, 3), (1, 1)), torch.empty(1, 3)],
    ids=lambda tensor: str(tensor.stride()),
)
def test_strides_of_single_elements_do_not_count(predicted: Tensor) -> None:
    hand = ByHand()
    made = hand.store.objects[hand.run(aten.neg.default, At(hand.put(A[:1])), expect=[predicted])]
    assert isinstance(made, Tensor) and made.stride() == (3, 1)


COMPLEX = torch.ones(2, dtype=torch.complex64)

WRONG: dict[str, tuple[Callable[[ByHand, list[Tensor | None]], int], list[Tensor | None]]] = {
    "shape": (lambda hand, expect: hand.run(aten.neg.default, At(hand.put(A)), expect=expect), [A.t()]),
    "dimensions": (lambda hand, expect: hand.run(aten.neg.default, At(hand.put(A)), expect=expect), [A[None]]),
    "dtype": (lambda hand, expect: hand.run(aten.neg.default, At(hand.put(A)), expect=expect), [A.double()]),
    "conjugation": (
        lambda hand, expect: hand.run(aten.mul.Tensor, At(hand.put(COMPLEX)), Field(2), expect=expect),
        [COMPLEX.conj()],
    ),
    "no conjugation": (
        lambda hand, expect: hand.run(aten._conj.default, At(hand.put(COMPLEX)), expect=expect),
        [COMPLEX],
    ),
    "negation": (
        lambda hand, expect: hand.run(aten.neg.default, At(hand.put(A)), expect=expect),
        [torch._neg_view(A)],
    ),
    "strides of a view": (
        lambda hand, expect: hand.run(aten.t.default, At(hand.put(A)), expect=expect),
        [torch.empty(3, 2)],
    ),
    "too many": (lambda hand, expect: hand.run(aten.split.Tensor, At(hand.put(A)), 1, expect=expect), [A[:1]] * 3),
    "too few": (lambda hand, expect: hand.run(aten.split.Tensor, At(hand.put(A)), 1, expect=expect), [A[:1]]),
    "nothing": (lambda hand, expect: hand.run(aten.neg.default, At(hand.put(A)), expect=expect), []),
}


@pytest.mark.parametrize("what", WRONG)
def test_a_wrong_prediction_is_an_error_that_names_the_operation(what: str) -> None:
    run, expect = WRONG[what]
    hand = ByHand()
    first = run(hand, expect)
    (failure,) = hand.failures
    assert failure.operation.startswith("aten::")
    assert failure.operation.split("(")[0] in failure.error and "predicted" in failure.error
    names = range(first, first + len(expect))
    assert hand.state(*names) == "x" * len(expect)


def test_a_result_that_its_caller_masked_out_is_not_checked() -> None:
    hand = ByHand()
    made = hand.run(aten.neg.default, At(hand.put(A)), expect=[UNDEFINED])
    assert not hand.failures
    hand.drop(made)
    assert hand.state(made) == "-"


def test_a_wrong_prediction_fails_each_time() -> None:
    """The check is not over after one try: a second command must not run unchecked."""
    hand = ByHand()
    defined = hand.define(aten.neg.default, At(hand.put(A)), expect=[A.double()])
    hand.post([hand.command(defined, 50)])
    hand.post([(None, hand.command(defined, 51)[1])])
    assert hand.state(50, 51) == "xx"


# --- failing operations: whatever they may have written (D10)


def base_and_aliases(hand: ByHand) -> tuple[int, list[int]]:
    """A tensor of ten and all its aliases: itself, another name, a view, a view of the view."""
    ten = torch.arange(10.0)
    base = hand.put(ten)
    same = hand.run(aten.alias.default, At(base), expect=[ten])
    view = hand.run(aten.slice.Tensor, At(base), 0, 5, 10, 1, expect=[ten[5:]])
    inner = hand.run(aten.select.int, At(view), 0, 0, expect=[ten[5]])
    return base, [base, same, view, inner]


Failing = Callable[[ByHand, int], int]


def index_put_(hand: ByHand, target: int) -> int:
    places, values = hand.put(torch.tensor([0, 1, 99])), hand.put(torch.full((3,), -1.0))
    return hand.run(aten.index_put_.default, At(target), [At(places)], At(values))


def scatter_(hand: ByHand, target: int) -> int:
    places, values = hand.put(torch.tensor([0, 1, 99])), hand.put(torch.full((3,), -1.0))
    return hand.run(aten.scatter_.src, At(target), 0, At(places), At(values))


def foreach_add_(hand: ByHand, target: int) -> int:
    wrong = hand.put(torch.ones(3))
    good, addend = hand.put(torch.zeros(10)), hand.put(torch.ones(10))
    return hand.run(aten._foreach_add_.List, [At(target), At(good)], [At(addend), At(wrong)])


def add_out(hand: ByHand, target: int) -> int:
    return hand.run(aten.add.out, At(hand.put(torch.ones(10))), At(hand.put(torch.ones(3))), out=At(target))


def add_(hand: ByHand, target: int) -> int:
    return hand.run(aten.add_.Tensor, At(target), At(hand.put(torch.ones(3))))


FAILING: dict[str, Failing] = {
    "index_put_": index_put_,
    "scatter_": scatter_,
    "_foreach_add_": foreach_add_,
    "add.out": add_out,
    "add_": add_,
}


@pytest.mark.parametrize("through", [0, 1], ids=["the base", "another name"])
@pytest.mark.parametrize("op", FAILING)
def test_a_failed_operation_poisons_every_alias_of_what_it_writes(op: str, through: int) -> None:
    hand = ByHand()
    _, aliases = base_and_aliases(hand)
    other = hand.put(A)
    FAILING[op](hand, aliases[through])
    assert hand.state(*aliases, other) == "xxxxo"
    assert len(hand.failures) == 1
    hand.session.handle(messages.Recover(1), memoryview(b""))
    assert hand.state(*aliases, other) == "xxxxo", "what may be half written cannot be given back"


def test_a_failed_foreach_poisons_all_of_its_targets() -> None:
    hand = ByHand()
    names = [hand.put(torch.zeros(2)) for _ in range(3)]
    addends = [hand.put(torch.ones(2)), hand.put(torch.ones(3)), hand.put(torch.ones(2))]
    hand.run(aten._foreach_add_.List, [At(name) for name in names], [At(name) for name in addends])
    assert hand.state(*names, *addends) == "xxx" + "ooo"


def test_writing_through_a_view_poisons_the_base() -> None:
    hand = ByHand()
    _, aliases = base_and_aliases(hand)
    add_(hand, aliases[2])
    assert hand.state(*aliases) == "xxxx"


def test_inputs_of_a_failed_operation_stay() -> None:
    hand = ByHand()
    a, b = hand.put(torch.ones(2)), hand.put(torch.ones(3))
    result = hand.run(aten.add.Tensor, At(a), At(b), expect=[torch.ones(3)])
    assert hand.state(a, b, result) == "oox"
    assert "size" in hand.why(result)
    assert hand.store.poisoned[result].failure.operation == "aten::add.Tensor(float32[2], float32[3])"
    assert "Traceback" in hand.store.poisoned[result].failure.traceback


def test_all_results_of_a_failed_operation_are_poisoned() -> None:
    hand = ByHand()
    first = hand.run(aten.max.dim, At(hand.put(A)), 7, expect=[A[0], A[0].long()])
    assert hand.state(first, first + 1, first + 2) == "xx-"


def test_a_failed_operation_whose_results_nobody_predicted() -> None:
    hand = ByHand()
    first = hand.run(aten._unique2.default, At(99), expect=None)
    assert hand.state(first, first + 1, first + 2) == "xxx"


# --- operations on what has no value


def test_what_hangs_on_a_failure_is_not_run() -> None:
    hand = ByHand()
    a = hand.put(torch.ones(2))
    bad = hand.run(aten.add.Tensor, At(a), At(hand.put(torch.ones(3))), expect=[torch.ones(3)])
    second = hand.run(aten.neg.default, At(bad), expect=[torch.ones(3)])
    third = hand.run(aten.cat.default, [At(a), At(second)], expect=[torch.ones(5)])
    assert hand.state(a, bad, second, third) == "oxxx"
    assert len(hand.failures) == 1, "a failure is reported once, not again by all that hang on it"
    assert hand.store.poisoned[third].failure == hand.failures[0]


def test_skipped_targets_keep_their_values_for_recover() -> None:
    hand = ByHand()
    _, aliases = base_and_aliases(hand)
    bad = hand.run("aten::no_such_operation", expect=[A])
    made = hand.run(aten.add_.Tensor, At(aliases[2]), At(bad))
    fresh = hand.run(aten.neg.default, At(aliases[0]), expect=[torch.ones(10)])
    assert hand.state(*aliases, fresh, made) == "xxxx" + "x-"
    hand.session.handle(messages.Recover(1), memoryview(b""))
    assert hand.state(*aliases, fresh, bad) == "oooo" + "xx"
    assert value(hand, aliases[0]) == list(range(10)) and value(hand, aliases[2]) == list(range(5, 10))


def test_skipped_out_and_foreach_targets_are_marked() -> None:
    hand = ByHand()
    bad = hand.run("aten::no_such_operation", expect=[A])
    out, one, two = (hand.put(torch.zeros(2)) for _ in range(3))
    hand.run(aten.neg.out, At(bad), out=At(out))
    hand.run(aten._foreach_add_.List, [At(one), At(two)], [At(bad), At(bad)])
    assert hand.state(out, one, two) == "xxx"
    hand.session.handle(messages.Recover(1), memoryview(b""))
    assert hand.state(out, one, two) == "ooo"


def test_after_recover_writing_goes_on() -> None:
    hand = ByHand()
    target = hand.put(torch.zeros(2))
    bad = hand.run("aten::no_such_operation", expect=[A])
    hand.run(aten.add_.Tensor, At(target), At(bad))
    hand.run(aten.add_.Tensor, At(target), Field(1))
    hand.session.handle(messages.Recover(1), memoryview(b""))
    hand.run(aten.add_.Tensor, At(target), Field(2))
    assert value(hand, target) == [2, 2]


def test_a_poisoned_name_can_be_dropped() -> None:
    hand = ByHand()
    bad = hand.run("aten::no_such_operation", expect=[A])
    hand.drop(bad)
    assert hand.state(bad) == "-"


@pytest.mark.parametrize("known", [True, False])
def test_an_unknown_name_is_an_object_not_found(known: bool) -> None:
    hand = ByHand()
    a = hand.put(torch.zeros(2)) if known else 98
    result = hand.run(aten.add.Tensor, At(a), At(99), expect=[torch.zeros(2)])
    hand.run(aten.add_.Tensor, At(a), At(99))
    assert hand.state(result, a) == ("xx" if known else "x-")
    assert "ObjectNotFoundError" in hand.why(result)
    assert ("no object 99" if known else "no object 98") in hand.why(result)
    hand.session.handle(messages.Recover(1), memoryview(b""))
    assert hand.state(a) == ("o" if known else "-")


# --- results that nobody could predict


def test_describe_tells_what_came_once() -> None:
    hand = ByHand()
    a = hand.put(torch.tensor([0, 3, 0, 4]))
    name = hand.run(aten.nonzero.default, At(a), expect=None)
    told = hand.ask(messages.Describe, messages.Described, name)
    (extent,) = told.fresh
    assert extent is not None and extent.meta.same_as(meta_of(torch.ones(2, 1).long())) and extent.offset == 0
    assert told.written == []
    hand.ask(messages.Describe, messages.Missing, name)


def test_describe_tells_what_was_written() -> None:
    hand = ByHand()
    out = hand.put(torch.empty(0).long())
    name = hand.run(aten.nonzero.out, At(hand.put(torch.tensor([0, 3, 0, 4]))), out=At(out), expect=None)
    told = hand.ask(messages.Describe, messages.Described, name)
    assert told.fresh == [] and [extent.meta.shape for extent in told.written] == [(2, 1)]


@pytest.mark.parametrize("why", ["it failed", "it was skipped"])
def test_describe_tells_the_failure_also_where_there_is_no_fresh_result(why: str) -> None:
    hand = ByHand()
    a = 99 if why == "it was skipped" else hand.put(torch.tensor([0, 3]))
    out = hand.put(torch.empty(0))
    name = hand.run(aten.nonzero.out, At(a), out=At(out), expect=None)
    told = hand.ask(messages.Describe, messages.Failed, name)
    assert told.failure.operation.startswith("aten::nonzero.out")


def test_what_is_never_asked_for_goes_with_its_name() -> None:
    hand = ByHand()
    name = hand.run(aten.nonzero.default, At(hand.put(A)), expect=None)
    hand.drop(name)
    assert not hand.store.outcomes and hand.state(name) == "-"


# --- interruption


def test_an_interrupted_operation_is_poisoned_and_the_interruption_goes_on(monkeypatch: pytest.MonkeyPatch) -> None:
    hand = ByHand()
    target = hand.put(torch.zeros(2))
    defined = hand.define(aten.add_.Tensor, At(target), Field(1))
    hand.post([hand.command(defined, 50)])

    def interrupted(*args: object, **kwargs: object) -> object:
        raise KeyboardInterrupt

    program = hand.session._programs[defined[0].number]
    monkeypatch.setattr(program, "kernel", interrupted)
    sequence = hand.sequence
    with pytest.raises(KeyboardInterrupt):
        hand.post([(None, hand.command(defined, 51)[1])])
    hand.sequence = sequence
    hand.post([(None, hand.command(defined, 51)[1])])  # as a client does that does not know what was run
    assert hand.state(target) == "x" and "interrupted" in hand.why(target)
    assert hand.failures == []  # whoever pressed Ctrl-C knows of it


def test_a_missing_key_of_the_caller_s_own_is_no_missing_object() -> None:
    """A signal handler of the program raises it, in this process, while arguments are looked up."""
    hand = ByHand(Session(Identity("bob", "0", str(torch.__version__)), in_process=True))
    target = hand.put(torch.zeros(2))
    defined = hand.define(aten.add_.Tensor, At(target), Field(1))
    hand.post([hand.command(defined, 50)])
    program = hand.session._programs[defined[0].number]
    arguments = program.arguments

    def interrupted(*args: object) -> object:
        raise KeyError("of a signal handler")

    program.arguments = interrupted  # type: ignore[assignment]
    sequence = hand.sequence
    with pytest.raises(KeyError, match="of a signal handler"):
        hand.post([(None, hand.command(defined, 51)[1])])
    program.arguments = arguments
    hand.sequence = sequence
    hand.post([(None, hand.command(defined, 51)[1])])
    assert hand.fetch(target).tolist() == [2, 2]
