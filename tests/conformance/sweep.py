"""The whole of torch's databases on both kinds of worker: `python tests/conformance/sweep.py RESULTS.json`.

Entries are shared out among processes, one for each core. The results are what coverage.md is made of
(coverage_table.py).
"""

import argparse
import json
import os
import sys
import warnings
from concurrent.futures import ProcessPoolExecutor, as_completed
from multiprocessing import get_context
from pathlib import Path
from typing import Any, Final

import torch
from bench import Bench
from databases import DATABASES, examine
from rich.progress import Progress

KINDS: Final = ("virtual", "process")

_benches: Final[dict[str, Bench]] = {}
"""Those of a process of the pool, by kind."""


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("results", type=Path, help="where the results are written, as JSON")
    parser.add_argument("--limit", type=int, help="samples of each entry, in one dtype (default: all, in all dtypes)")
    parser.add_argument("--database", choices=list(DATABASES), action="append", help="only this one")
    parser.add_argument("--kind", choices=KINDS, action="append", help="only this kind of worker")
    parser.add_argument("--processes", type=int, default=os.cpu_count() or 1)
    options = parser.parse_args(argv)
    jobs = [
        (kind, name, place, options.limit)
        for kind in options.kind or KINDS
        for name in options.database or DATABASES
        for place in range(DATABASES[name].size)
    ]
    rows = []
    with (
        ProcessPoolExecutor(options.processes, get_context("spawn"), prepare) as pool,
        Progress() as progress,
    ):
        task = progress.add_task("samples: 0", total=len(jobs))
        samples = 0
        for job in as_completed([pool.submit(run, *job) for job in jobs]):
            row = job.result()
            rows.append(row)
            samples += sum(row["passed"].values()) + sum(row["failed"].values())
            progress.update(task, advance=1, description=f"samples: {samples}")
    rows.sort(key=lambda row: (row["database"], row["entry"], row["kind"]))
    results = {"torch": str(torch.__version__), "limit": options.limit, "rows": rows}
    options.results.parent.mkdir(parents=True, exist_ok=True)
    options.results.write_text(json.dumps(results, indent=1))
    return report(rows)


def prepare() -> None:
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")  # torch's own samples call what torch itself deprecates


def run(kind: str, name: str, place: int, limit: int | None) -> dict[str, Any]:
    """One entry on a worker of one kind, in a process of the pool."""
    database = DATABASES[name]
    entry = database.entries()[place]
    if kind not in _benches:
        _benches[kind] = Bench(kind)
    findings = examine(database, entry, _benches[kind], limit)
    return {
        "kind": kind,
        "database": name,
        "entry": database.entry_name(entry),
        "passed": dict(findings.passed),
        "failed": dict(findings.failed),
        "causes": findings.causes,
    }


def report(rows: list[dict[str, Any]]) -> int:
    """Names what failed without being known, and what is known and passes; the status of the program."""
    unlisted = [row for row in rows if row["failed"] and row["entry"] not in DATABASES[row["database"]].known_failures]
    for row in unlisted:
        sys.stdout.write(f"{row['database']} {row['entry']} on {row['kind']}: {row['causes']}\n")
    failed = {(row["database"], row["entry"]) for row in rows if row["failed"]}
    tried = {row["database"] for row in rows}
    for name in tried:
        for entry in DATABASES[name].known_failures:
            if (name, entry) not in failed:
                sys.stdout.write(f"{name} {entry} passes: take it out of known_failures.toml\n")
    samples = sum(sum(row["passed"].values()) for row in rows)
    sys.stdout.write(f"{samples} samples passed, {len(failed)} entries failed in some sample\n")
    return 1 if unlisted else 0


if __name__ == "__main__":
    sys.exit(main())
