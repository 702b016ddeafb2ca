"""Makes docs/reference/coverage.md of the results of a sweep: `python coverage_table.py RESULTS.json PAGE.md`."""

import json
import sys
from collections import defaultdict
from pathlib import Path
from typing import Any

from databases import DATABASES


def main(results: str, page: str) -> None:
    Path(page).write_text(table(json.loads(Path(results).read_text())))


def table(results: dict[str, Any]) -> str:
    """The page: totals on top, then entry by entry how many samples passed of each check."""
    rows: list[dict[str, Any]] = results["rows"]
    lines = [
        "# Coverage",
        "",
        "Torch's own databases of operations, modules and optimizers, tried on pointers and held against plain local",
        f"torch {results['torch']}: values, metadata, gradients and errors. Made by `make conformance coverage-table`;",
        "what is checked stands in [tests/conformance](../../tests/conformance/operation_checks.py).",
        "",
        "| database | worker | entries | without a difference | samples | that differ |",
        "|---|---|---|---|---|---|",
    ]
    for name in DATABASES:
        for kind in sorted({row["kind"] for row in rows}):
            own = [row for row in rows if (row["database"], row["kind"]) == (name, kind)]
            good = sum(not row["failed"] for row in own)
            passed = sum(sum(row["passed"].values()) for row in own)
            failed = sum(sum(row["failed"].values()) for row in own)
            lines.append(f"| `{name}` | {kind} | {len(own)} | {good} | {passed + failed} | {failed} |")
    lines += ["", "## What differs", "", "| entry | why |", "|---|---|"]
    for name, database in DATABASES.items():
        lines += [f"| `{name}` {entry} | {cause} |" for entry, cause in database.known_failures.items()]
    for name in DATABASES:
        lines += ["", f"## {name}", "", "Samples that passed, of each check, on both kinds of worker together.", ""]
        own = [row for row in rows if row["database"] == name]
        checks = list(dict.fromkeys(check for row in own for check in (*row["passed"], *row["failed"])))
        lines += [f"| entry | {' | '.join(checks)} |", f"|---|{'---|' * len(checks)}"]
        by_entry: dict[str, list[dict[str, Any]]] = defaultdict(list)
        for row in own:
            by_entry[row["entry"]].append(row)
        for entry, both in by_entry.items():
            lines.append(f"| {entry} | {' | '.join(cell(both, check) for check in checks)} |")
    return "\n".join(lines) + "\n"


def cell(rows: list[dict[str, Any]], check: str) -> str:
    passed = sum(row["passed"].get(check, 0) for row in rows)
    failed = sum(row["failed"].get(check, 0) for row in rows)
    return f"{passed}, not {failed}" if failed else str(passed or "")


if __name__ == "__main__":
    main(*sys.argv[1:])
