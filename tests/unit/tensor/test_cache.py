"""The cache of predictions: bounded, least recently used first out, and each entry has an instruction number."""

import threading

import pytest

from ptrtensor.tensor.cache import SHARED, VIEWS_AT_ONCE, Cache, Extent, Prediction, Template
from ptrtensor.wire.instruction import Instruction, layout
from ptrtensor.wire.limits import MAX_INSTRUCTIONS
from ptrtensor.wire.metadata import TensorMeta


def prediction(number: int, *, is_shared: bool = False) -> Prediction:
    instruction = Instruction(number, "aten::neg", (), {}, False, ())
    return Prediction(Template(instruction, layout(instruction), is_shared), [], [])


def fill(cache: Cache, *names: str) -> dict[str, int]:
    """Add an entry for each name as dispatch does; their numbers."""
    numbers = {}
    for name in names:
        if cache.get((name,)) is None:
            cache.miss(name)
            numbers[name] = cache.number()
            cache.add((name,), prediction(numbers[name]))
    return numbers


def test_it_counts_hits_and_misses() -> None:
    cache = Cache()
    fill(cache, "a", "b", "a", "a", "b", "c")
    assert (cache.hits, cache.misses, len(cache)) == (3, 3, 3)


def test_views_are_remembered_unless_they_are_very_many() -> None:
    """So many entries of a thousand rows each would be gigabytes."""
    cache, extent = Cache(), Extent(TensorMeta((2,), (1,), "float32"), 0)
    cache.add_view(("few",), [extent] * VIEWS_AT_ONCE)
    cache.add_view(("many",), [extent] * (VIEWS_AT_ONCE + 1))
    assert cache.view(("few",)) is not None and cache.view(("many",)) is None


def test_what_was_added_is_found_and_nothing_else() -> None:
    cache = Cache()
    fill(cache, "a", "b")
    found = cache.get(("b",))
    assert found is not None and found.template.instruction.number == 2
    assert cache.get(("c",)) is None and cache.get(("a", "b")) is None


def test_numbers_begin_at_one_and_stay_within_what_a_worker_keeps() -> None:
    cache = Cache()
    numbers = fill(cache, *(str(place) for place in range(MAX_INSTRUCTIONS + 10)))
    assert min(numbers.values()) == 1 and max(numbers.values()) == MAX_INSTRUCTIONS
    assert len(cache) == MAX_INSTRUCTIONS


def test_the_least_recently_used_gives_up_its_number() -> None:
    cache = Cache(capacity=3)
    first = fill(cache, "a", "b", "c")
    cache.get(("a",))
    assert fill(cache, "d") == {"d": first["b"]}
    assert cache.get(("b",)) is None
    assert all(cache.get((name,)) for name in "acd")


def test_numbers_of_living_entries_differ() -> None:
    cache = Cache(capacity=4)
    for turn in range(50):
        fill(cache, str(turn % 7), str(turn % 3), str(turn))
        numbers = [entry.template.instruction.number for entry in cache._entries.values()]
        assert len(set(numbers)) == len(numbers) <= 4


def test_the_number_of_a_shared_instruction_is_given_to_no_other() -> None:
    cache = Cache(capacity=3)
    shared = cache.number()
    for turn in range(10):
        cache.add((turn,), prediction(shared, is_shared=True))
    assert len(cache) == 3
    assert shared not in fill(cache, *"abcdef").values()


def test_shared_instructions_are_bounded_and_their_numbers_come_back() -> None:
    cache = Cache()
    numbers = []
    for shape in range(SHARED + 5):
        numbers.append(cache.number())
        cache.share((shape,), prediction(numbers[-1], is_shared=True).template)
        assert cache.shared((0,)) is not None  # used, so it stays
    assert cache.shared((1,)) is None and cache.shared((SHARED + 4,)) is not None
    assert max(numbers) == SHARED + 1
    assert numbers[SHARED + 1 :] == numbers[1:5]


def test_two_threads_that_infer_the_same_lose_no_number() -> None:
    """Both miss, both take a number, both add; one of the entries is replaced and its number free again."""
    cache = Cache(capacity=2)
    first, second = cache.number(), cache.number()
    cache.add(("a",), prediction(first))
    cache.add(("a",), prediction(second))
    assert sorted(fill(cache, "b", "c").values()) == [1, 2]


def test_numbers_that_are_all_on_their_way() -> None:
    """Two threads hold the only two numbers and have not added their entries: a third gets one all the same."""
    cache = Cache(capacity=2)
    cache.number(), cache.number()
    assert cache.number() in (1, 2)


@pytest.mark.parametrize("capacity", [1, 3])
def test_several_threads(capacity: int) -> None:
    cache = Cache(capacity)
    errors: list[BaseException] = []

    def work(place: int) -> None:
        try:
            for turn in range(500):
                fill(cache, str((turn * (place + 1)) % 7))
        except BaseException as error:
            errors.append(error)

    threads = [threading.Thread(target=work, args=(place,)) for place in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not errors
    assert cache.hits + cache.misses == 2000
