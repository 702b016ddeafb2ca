"""Every entry of torch's own databases of operations, modules and optimizers, against plain local torch.

This is the slice for every run of the tests: a sample or two of each entry, in every variant, forward and backward.
`make conformance` takes all samples in all dtypes. What fails is listed by name in known_failures.toml; an entry that
fails without being listed fails the test.
"""

import contextlib
import warnings
from collections.abc import Callable, Iterator
from functools import cache

import pytest
from bench import Bench
from databases import DATABASES, KNOWN_FAILURES, Database, examine

SAMPLES = 1
SHARDS = 8


@pytest.fixture(scope="module")
def bench() -> Iterator[Callable[[str], Bench]]:
    """One worker of each kind for all shards, so that what was inferred once is known."""
    with contextlib.ExitStack() as stack:

        @cache
        def make(kind: str) -> Bench:
            return stack.enter_context(contextlib.closing(Bench(kind)))

        yield make


def failing(database: Database, shard: int, bench: Bench) -> dict[str, dict[str, str]]:
    failures = {}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch's own samples call what torch itself deprecates
        for entry in database.entries()[shard::SHARDS]:
            findings = examine(database, entry, bench, SAMPLES)
            name = database.entry_name(entry)
            if name not in database.known_failures and findings.causes:
                failures[name] = findings.causes
    return failures


@pytest.mark.timeout(300)
@pytest.mark.parametrize("kind", ["virtual", "process"])
@pytest.mark.parametrize("shard", range(SHARDS))
@pytest.mark.parametrize("database", DATABASES.values(), ids=list(DATABASES))
def test_every_entry_is_as_local_torch_except_the_known(
    database: Database, shard: int, kind: str, bench: Callable[[str], Bench]
) -> None:
    assert failing(database, shard, bench(kind)) == {}


@pytest.mark.parametrize("database", DATABASES.values(), ids=list(DATABASES))
def test_the_list_names_entries_of_the_database(database: Database) -> None:
    names = [database.entry_name(entry) for entry in database.entries()]
    assert len(names) == database.size
    assert set(database.known_failures) <= set(names)


def test_the_list_is_short() -> None:
    assert set(KNOWN_FAILURES) <= set(DATABASES)
    assert sum(map(len, KNOWN_FAILURES.values())) <= 10
