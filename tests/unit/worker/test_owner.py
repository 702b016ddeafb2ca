"""The owner who is nobody: nothing that is private leaves, and nothing is decided."""

from collections.abc import Callable

import pytest

from ptrtensor.errors import PermissionDeniedError
from ptrtensor.wire.control import Asking, Reading
from ptrtensor.worker.owner import NO_REQUESTS, Owner, private

READING = Reading("the value", 1, "", ("patients",), 1, 8)
ASKING = Asking(1, ("patients",), "x", None, b"", "")
LABELS = frozenset({"scans", "patients"})


@pytest.mark.parametrize(
    ("ask", "said"),
    [
        (lambda owner: owner.check_reading(READING), "its owner has not allowed it to leave"),
        (lambda owner: owner.deny(READING), "its owner has not allowed it to leave"),
        (lambda owner: owner.ask(ASKING), NO_REQUESTS),
        (lambda owner: owner.collect("1f"), NO_REQUESTS),
    ],
)
def test_what_is_denied(ask: Callable[[Owner], object], said: str) -> None:
    with pytest.raises(PermissionDeniedError) as caught:
        ask(Owner())
    assert said in str(caught.value)


def test_what_is_not_limited() -> None:
    owner = Owner()
    owner.check_operation("aten::neg", LABELS)
    owner.check_consumption(10**9)
    owner.note_denial("to run aten::from_file", operation="aten::from_file")
    assert owner.releases() == [] and not owner.is_open(LABELS)


def test_labels_are_named_in_order() -> None:
    assert private("it", LABELS) == "it is private, since it was computed from patients, scans"
