"""What a session's process answers by itself, what it asks its server, and how often it tells of denials."""

import time
from collections.abc import Callable, Sequence

import pytest
from desk import Desk

from ptrtensor.errors import PermissionDeniedError, QuotaExceededError
from ptrtensor.wire.control import (
    DENIALS_TOLD_SINGLY,
    KINDS_OF_DENIALS,
    Answer,
    Asking,
    Collected,
    Collecting,
    Consumption,
    Denial,
    Filed,
    Grant,
    Listing,
    Offence,
    Question,
    Reading,
    Verdict,
)
from ptrtensor.wire.limits import MAX_REFUSAL_CHARACTERS
from ptrtensor.wire.messages import Release
from ptrtensor.wire.metadata import TensorMeta
from ptrtensor.worker.distant_owner import DistantOwner, is_one_of, is_refused

GRANTS = {
    "closed": Grant("never", rule="rule 1 of its owner's policy"),
    "asked": Grant("ask", rule="rule 2 of its owner's policy"),
    "limited": Grant("always", limited=True, rule="rule 3 of its owner's policy"),
    "open": Grant("always"),
    "narrow": Grant(operations=("mean", "aten::sum", "add*"), refused=("add_",), rule="rule 5 of its owner's policy"),
}
HUGE = TensorMeta((2**62, 2**62), (2**62, 1), "float32")
RELEASE = Release("1f", "pending", "for science", "2026-01-01", "")


def labels(*names: str) -> frozenset[str]:
    return frozenset(names)


def owner_of(
    answer: Callable[[Question], Answer | None] = lambda question: None, *, metered: bool = False
) -> tuple[DistantOwner, list[Question]]:
    desk = Desk(answer)
    desk.owner = DistantOwner(desk, GRANTS, metered=metered)
    return desk.owner, desk.asked


def read(owner: DistantOwner, *names: str) -> None:
    owner.check_reading(Reading("the value", 7, "float32[2]", tuple(sorted(names)), 2, 8, "aten::neg"))


def asking(*names: str) -> Asking:
    return Asking(7, names, "for science", None, b"", "", "aten::mean")


# --- reading


@pytest.mark.parametrize(
    ("names", "said"),
    [
        (["closed"], 'rule 1 of its owner\'s policy says read = "never" for closed: it cannot be asked for either'),
        (["asked"], 'rule 2 of its owner\'s policy says read = "ask" for asked: ask for it with .request(reason)'),
        (["open", "closed"], "for closed: it cannot be asked for either"),
        (["asked", "open"], "for asked: ask for it"),
        (["unknown"], 'says read = "never" for unknown'),
    ],
)
def test_what_the_grants_do_not_allow_is_denied_here(names: list[str], said: str) -> None:
    owner, asked = owner_of()
    with pytest.raises(PermissionDeniedError) as caught:
        read(owner, *names)
    assert said in str(caught.value) and f"computed from {', '.join(sorted(names))}" in str(caught.value)
    assert asked == [Denial("the value", tuple(sorted(names)), 1, 7, "aten::neg", "float32[2]", 8)]


@pytest.mark.parametrize(
    ("names", "said"),
    [
        (
            ["asked", "open"],
            r'rule 2 of .* says read = "ask" for asked: .*torch.where.* or ask for .* \.request\(reason\)$',
        ),
        (
            ["closed"],
            r'rule 1 of .* says read = "never" for closed: .*multiply by a mask, torch.where, \S+inv_ex and its kin\)$',
        ),
        (["limited"], r'rule 3 of .* says read = "always" with a limit for limited: .*multiply by a mask'),
        (["unknown"], r'says read = "never" for unknown: .*multiply by a mask'),
    ],
)
def test_what_depends_on_values_is_denied_with_the_rule_and_the_way_round(names: list[str], said: str) -> None:
    owner, asked = owner_of()
    with pytest.raises(PermissionDeniedError, match=said):
        owner.deny(Reading("a shape", 7, "", tuple(sorted(names)), 0, 0, "aten::nonzero"))
    assert asked == [Denial("a shape", tuple(sorted(names)), 1, 7, "aten::nonzero")]


def test_what_they_allow_is_asked_for_each_time() -> None:
    owner, asked = owner_of(lambda question: Verdict())
    for _ in range(2):
        read(owner, "open", "limited")
    assert asked == [Reading("the value", 7, "float32[2]", ("limited", "open"), 2, 8, "aten::neg")] * 2


@pytest.mark.parametrize("answer", [Verdict("no more today"), Filed([]), Collected(None, b"", "")])
def test_whatever_else_is_answered_is_no_permission(answer: Answer) -> None:
    owner, asked = owner_of(lambda question: answer if isinstance(question, Reading) else None)
    with pytest.raises(PermissionDeniedError, match="no more today|the server gave no answer to that"):
        read(owner, "limited")
    assert asked[1:] == [Denial("the value", ("limited",), 1, 7, "aten::neg", "float32[2]", 8)]


@pytest.mark.parametrize(
    ("names", "is_open"),
    [(["open"], True), (["limited"], False), (["open", "limited"], False), (["open", "closed"], False), (["x"], False)],
)
def test_what_is_open(names: list[str], is_open: bool) -> None:
    owner, asked = owner_of()
    assert owner.is_open(labels(*names)) is is_open and asked == []


# --- requests


def test_a_request_goes_to_the_server() -> None:
    answers: dict[type, Answer] = {
        Asking: Filed([RELEASE]),
        Listing: Filed([RELEASE] * 2),
        Collecting: Collected(None, b"", "x"),
    }
    owner, asked = owner_of(lambda question: answers[type(question)])
    assert owner.ask(asking("asked", "open")) == [RELEASE]
    assert owner.releases() == [RELEASE] * 2
    assert owner.collect("1f") == Collected(None, b"", "x")
    assert asked == [asking("asked", "open"), Listing(), Collecting("1f")]


@pytest.mark.parametrize("answer", [Verdict("no"), Verdict()])
def test_a_request_that_is_refused(answer: Verdict) -> None:
    owner, asked = owner_of(lambda question: None if isinstance(question, Denial) else answer)
    requests: Sequence[Callable[[], object]] = (
        lambda: owner.ask(asking("asked")),
        owner.releases,
        lambda: owner.collect("x" * 10_000),
        owner.invite,
        lambda: owner.unseal(b"box"),
    )
    for request in requests:
        with pytest.raises(PermissionDeniedError) as caught:
            request()
        assert len(str(caught.value)) < 200
    assert [question for question in asked if isinstance(question, Denial)] == [
        Denial("a request", ("asked",), 1, 7, "aten::mean", "", 0),
        Denial("what was asked for", request="x" * 100),
        Denial("to receive what moves"),
        Denial("to receive what moves", size=3),
    ]


def test_what_may_not_be_asked_for_is_not_sent() -> None:
    owner, asked = owner_of()
    with pytest.raises(
        PermissionDeniedError, match="closed may not be read, nor asked for: rule 1 of its owner's policy"
    ):
        owner.ask(asking("asked", "closed"))
    assert asked == [Denial("a request", ("asked", "closed"), 1, 7, "aten::mean", "", 0)]


# --- denials


def told(asked: list[Question]) -> list[tuple[str, int]]:
    return [(question.what, question.count) for question in asked if isinstance(question, Denial)]


def denied(owner: DistantOwner, what: str, *names: str, name: int = 7) -> None:
    with pytest.raises(PermissionDeniedError):
        owner.deny(Reading(what, name, "", names, 0, 0, "aten::nonzero"))


def test_denials_are_told_one_by_one() -> None:
    owner, asked = owner_of()
    for name in range(DENIALS_TOLD_SINGLY):
        denied(owner, "a shape", "closed", name=name)
    assert asked == [Denial("a shape", ("closed",), 1, name, "aten::nonzero") for name in range(DENIALS_TOLD_SINGLY)]


def test_of_very_many_a_series_is_told_of_with_the_last_of_it() -> None:
    owner, asked = owner_of()
    for name in range(2 * DENIALS_TOLD_SINGLY):
        denied(owner, "the value", "closed", name=name)
    assert asked[-1] == Denial("the value", ("closed",), 24, 1023, "aten::nonzero")
    owner.say_goodbye()
    assert asked[-1] == Denial("the value", ("closed",), 976, 1999, "aten::nonzero")
    said = len(asked)
    owner.say_goodbye()
    assert len(asked) == said and sum(count for _, count in told(asked)) == 2 * DENIALS_TOLD_SINGLY


def test_what_is_refused_of_what_is_not_private_is_told_as_well() -> None:
    owner, asked = owner_of()
    owner.note_denial("more memory than there is", 2**64 - 1, labels("b", "a"), "aten::" + "x" * 1000, HUGE)
    owner.note_denial("to run aten::from_file", operation="aten::from_file")
    assert asked == [
        Denial("more memory than there is", ("a", "b"), 1, 2**64 - 1, "aten::" + "x" * 94, str(HUGE), 2**63 - 1),
        Denial("to run aten::from_file", operation="aten::from_file"),
    ]


def test_an_offence_is_told() -> None:
    owner, asked = owner_of()
    owner.note_offence("the client sent what is no message")
    owner.note_offence("?" * 10_000_000)
    assert asked == [Offence("the client sent what is no message"), Offence("?" * MAX_REFUSAL_CHARACTERS)]


def test_who_asks_for_two_things_in_turns_does_not_fill_the_log_either() -> None:
    owner, asked = owner_of()
    for _ in range(DENIALS_TOLD_SINGLY):
        denied(owner, "the value", "closed")
        denied(owner, "a shape", "closed")
        denied(owner, "a shape", "closed", "open")
    owner.say_goodbye()
    assert len(asked) <= DENIALS_TOLD_SINGLY + 3 * 3
    assert sum(count for _, count in told(asked)) == 3 * DENIALS_TOLD_SINGLY, "none is lost"


def test_nor_who_asks_for_ever_other_things() -> None:
    owner, asked = owner_of()
    for number in range(5000):
        denied(owner, "the value", "closed", f"label {number}")
        owner.note_denial(f"to run aten::x{number}")
    owner.say_goodbye()
    assert len(asked) < DENIALS_TOLD_SINGLY + KINDS_OF_DENIALS and sum(count for _, count in told(asked)) == 10_000


# --- operations


@pytest.mark.parametrize(
    ("op", "names", "runs"),
    [
        ("aten::mean", ["narrow"], True),
        ("aten::mean.dim", ["narrow"], True),
        ("aten::mean_", ["narrow"], False),
        ("aten::sum.dim_IntList", ["narrow"], True),
        ("aten::add.Tensor", ["narrow"], True),
        ("aten::addmm", ["narrow"], True),
        ("aten::add_.Tensor", ["narrow"], False),
        ("aten::neg", ["narrow"], False),
        ("aten::neg", ["open", "narrow"], False),
        ("aten::neg", ["open"], True),
        ("aten::neg", ["unknown"], True),
        ("x::mean", ["narrow"], False),
    ],
)
def test_which_operations_run(op: str, names: list[str], runs: bool) -> None:
    owner, asked = owner_of()
    for _ in range(2):
        if runs:
            owner.check_operation(op, labels(*names))
        else:
            with pytest.raises(
                PermissionDeniedError, match=r"may not be run on .* narrow: rule 5 of its owner's policy"
            ):
                owner.check_operation(op, labels(*names))
    assert asked == []


@pytest.mark.parametrize(
    ("op", "patterns", "found"),
    [
        ("aten::neg", ("*",), True),
        ("torch_nn::relu", ("*",), True),
        ("torch_nn::relu", ("relu",), False),
        ("torch_nn::relu", ("torch_nn::*",), True),
        ("aten::neg", ("ne?",), True),
        ("aten::neg", ("Neg", "neg_", ""), False),
        ("aten::neg", (), False),
    ],
)
def test_patterns_of_operations(op: str, patterns: tuple[str, ...], found: bool) -> None:
    assert is_one_of(op, patterns) is found


@pytest.mark.parametrize(
    ("op", "patterns", "found"),
    [
        ("aten::linalg_inv_ex", ("linalg_*",), True),
        ("aten::_linalg_solve_ex", ("linalg_*",), True),
        ("aten::_linalg_svd", ("linalg_svd",), True),
        ("aten::neg_", ("neg",), True),
        ("aten::_foreach_neg_", ("foreach_neg",), True),
        ("aten::neg", ("neg_", "_neg"), False),
        ("aten::negative", ("neg",), False),
        ("x::_neg", ("neg",), False),
        ("x::_neg", ("x::neg",), True),
    ],
)
def test_a_refusal_is_of_all_names_that_torch_has_for_it(op: str, patterns: tuple[str, ...], found: bool) -> None:
    assert is_refused(op, patterns) is found


# --- quotas


def consumption(asked: list[Question]) -> list[Consumption]:
    return [question for question in asked if isinstance(question, Consumption)]


def test_a_session_asks_at_once_whether_it_may() -> None:
    """Else one session after the other would each have half a second."""
    owner, asked = owner_of(lambda question: Verdict("no more operations today"), metered=True)
    for _ in range(3):
        with pytest.raises(QuotaExceededError, match="no more operations today"):
            owner.check_consumption(1)
    assert len(asked) == 1


def test_what_is_used_is_told_now_and_then(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = [time.monotonic()]
    monkeypatch.setattr("ptrtensor.worker.distant_owner.time.monotonic", lambda: clock[0])
    owner, asked = owner_of(lambda question: Verdict(), metered=True)
    for _ in range(1000):
        owner.check_consumption(1)
    assert len(asked) == 1
    clock[0] += 1.0
    owner.check_consumption(5)
    assert [one.operations for one in consumption(asked)] == [1, 1004]
    owner.check_consumption(3)
    owner.say_goodbye()
    assert [one.operations for one in consumption(asked)] == [1, 1004, 3]
    assert all(one.seconds >= 0 for one in consumption(asked))


def test_a_few_operations_that_take_long_count(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = [time.monotonic()]
    monkeypatch.setattr("ptrtensor.worker.distant_owner.time.monotonic", lambda: clock[0])
    verdicts = iter([Verdict(), Verdict(), Verdict("no more seconds today")])
    owner, asked = owner_of(lambda question: next(verdicts), metered=True)
    owner.check_consumption(1)
    clock[0] += 3600
    owner.check_consumption(1)
    clock[0] += 3600
    with pytest.raises(QuotaExceededError, match="no more seconds today"):
        owner.check_consumption(1)
    assert len(asked) == 3


def test_a_new_day_ends_it(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = [time.monotonic()]
    monkeypatch.setattr("ptrtensor.worker.distant_owner.time.monotonic", lambda: clock[0])
    verdicts = iter([Verdict("no more"), Verdict()])
    owner, _ = owner_of(lambda question: next(verdicts), metered=True)
    with pytest.raises(QuotaExceededError):
        owner.check_consumption(1)
    clock[0] += 1.0
    owner.check_consumption(1)


def test_nothing_is_counted_where_nothing_is_limited() -> None:
    owner, asked = owner_of()
    owner.say_goodbye()
    assert asked == []
