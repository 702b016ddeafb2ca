"""What happens again and again is told of now and then, and nothing of it is lost."""

import pytest

from ptrtensor import tally
from ptrtensor.tally import Tally


def test_it_tells_at_powers_of_two_and_of_the_rest_when_it_is_asked() -> None:
    told: list[tuple[str, int]] = []
    counted = Tally(lambda what, count: told.append((what, count)))
    for number in range(11):
        counted.add("kind", f"no. {number}")
        if number == 4:
            counted.add("another", "it")
    assert told == [("no. 0", 1), ("no. 1", 1), ("no. 3", 2), ("it", 1), ("no. 7", 4)]
    counted.tell()
    assert told[-1] == ("no. 10", 3) and counted.count == 12
    counted.tell()
    assert len(told) == 6
    counted.add("kind", "again")
    assert told[-1] == ("again", 1)


def test_the_first_are_told_of_one_by_one_whatever_they_are() -> None:
    told: list[tuple[str, int]] = []
    counted = Tally(lambda what, count: told.append((what, count)), singly=5)
    for number in range(4):
        counted.add("kind", f"no. {number}")
    counted.add("another", "it")
    for number in range(4, 10):
        counted.add("kind", f"no. {number}")
    assert told == [("no. 0", 1), ("no. 1", 1), ("no. 2", 1), ("no. 3", 1), ("it", 1), ("no. 7", 4)]
    counted.tell()
    assert told[-1] == ("no. 9", 2)
    counted.add("kind", "again")
    counted.add("kind", "again")
    counted.add("kind", "again")
    assert [count for _, count in told[-3:]] == [1, 1, 1], "after that it begins anew"


def test_several_at_once() -> None:
    told: list[int] = []
    counted = Tally(told.append)
    for times in (3, 1, 1, 1, 1, 1, 100):
        counted.add("kind", times=times)
    assert told == [3, 1, 4, 100] and counted.count == 108


def test_too_many_kinds_are_one() -> None:
    told: list[int] = []
    counted = Tally(told.append)
    for number in range(1000):
        counted.add(number)
    counted.tell()
    assert sum(told) == 1000 and len(told) < 100 + 12


def test_after_an_hour_all_is_counted_anew(monkeypatch: pytest.MonkeyPatch) -> None:
    told: list[int] = []
    counted = Tally(told.append)
    for _ in range(3):
        counted.add("kind")
    monkeypatch.setattr(tally, "SECONDS", -1.0)
    counted.add("kind")
    assert told == [1, 1, 1, 1]
