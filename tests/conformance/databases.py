"""Torch's three databases of tests, tried entry by entry on a worker."""

import tomllib
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Final, NamedTuple

import module_checks
import operation_checks
import optimizer_checks
from bench import Bench
from differences import short

Checks = Callable[[Any, int | None], Iterator[tuple[str, Callable[[Bench], None]]]]

KNOWN_FAILURES: Final[dict[str, dict[str, str]]] = tomllib.loads(
    Path(__file__).with_name("known_failures.toml").read_text()
)
"""Database to entry to cause."""


class Database(NamedTuple):
    """One of torch's databases: how its entries are found, named and checked."""

    name: str
    entries: Callable[[], list[Any]]
    entry_name: Callable[[Any], str]
    checks: Checks
    size: int
    """Of the torch that constraints.txt pins."""

    @property
    def known_failures(self) -> dict[str, str]:
        return KNOWN_FAILURES.get(self.name, {})


DATABASES: Final = {
    "op_db": Database(
        "op_db",
        lambda: list(operation_checks.database().op_db),
        lambda entry: str(entry.formatted_name),
        operation_checks.checks,
        702,
    ),
    "module_db": Database(
        "module_db",
        lambda: list(module_checks.database().module_db),
        lambda entry: str(entry.name),
        module_checks.checks,
        114,
    ),
    "optim_db": Database(
        "optim_db",
        lambda: list(optimizer_checks.database().optim_db),
        lambda entry: str(entry.optim_cls.__name__),
        optimizer_checks.checks,
        15,
    ),
}


class Findings:
    """What came of one entry: how many samples passed of each check, and how the others failed."""

    def __init__(self) -> None:
        self.passed: Counter[str] = Counter()
        self.failed: Counter[str] = Counter()
        self.causes: dict[str, str] = {}
        """Of each check that failed: what happened with its first sample."""

    def add(self, check: str, failure: str | None) -> None:
        if failure is None:
            self.passed[check] += 1
        else:
            self.failed[check] += 1
            self.causes.setdefault(check, failure)


def examine(database: Database, entry: Any, bench: Bench, limit: int | None = None) -> Findings:
    """All checks on all samples of all dtypes of the CPU; with a limit, on so many samples of one dtype."""
    findings = Findings()
    with bench.seeding(operation_checks.database()):
        for name, check in database.checks(entry, limit):
            try:
                check(bench)
                findings.add(name, None)
            except Exception as error:  # whatever it is, it belongs to this sample and the next must run
                findings.add(name, f"{type(error).__name__}: {short(error)}")
                bench.recover()
    return findings
