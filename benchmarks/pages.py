"""The documentation's share of a run: the tables as Markdown, and two plots.

`python -m benchmarks.pages RESULTS.json FOLDER` writes them into the folder.
"""

import argparse
from collections.abc import Mapping
from pathlib import Path
from statistics import median
from typing import Final

from matplotlib import pyplot

from benchmarks.results import Results
from benchmarks.system import OTHERS, OURS
from benchmarks.table import markdown, shown
from benchmarks.workloads import WORKLOADS

PLOTTED: Final = ("op_value", "chain_add")


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.pages", description=__doc__)
    parser.add_argument("results", type=Path)
    parser.add_argument("folder", type=Path)
    options = parser.parse_args()
    results = Results.read(options.results)
    pyplot.switch_backend("svg")
    pyplot.rcParams["svg.hashsalt"] = "ptrtensor"  # the same figures give the same file
    (options.folder / "performance-table.md").write_text(page(results))
    plot_operations(results, options.folder / "performance-operations.svg")
    plot_waits(results.studies["waits"], options.folder / "performance-waits.svg")


def page(results: Results) -> str:
    versions = ", ".join(f"{name} {version}" for name, version in results.versions.items())
    parts = [
        "# The last run of `make bench`\n",
        f"On {results.machine}. {versions}. One thread in each process.\n",
        "Medians; in brackets how many times as fast as local torch in the same rounds.\n",
        markdown(results, [workload for workload in WORKLOADS if workload.name in results.rounds]),
        "## Round trips\n",
        "Milliseconds for a training step (MLP 784-256-10, batch 64) over a link with a simulated round trip of so\n"
        "many milliseconds. The one wait for the end of all steps is taken off.\n",
        study(results.studies["waits"], "round trip"),
        "## Growth\n",
        *(study({title: figures}, "") for title, figures in results.studies["growth"].items()),
    ]
    return "\n".join(parts)


def study(rows: Mapping[str, Mapping[str, float]], corner: str) -> str:
    columns = list(next(iter(rows.values())))
    lines = [[corner, *columns], ["---", *["---:"] * len(columns)]]
    lines += [[name, *(shown(figures[column]) for column in columns)] for name, figures in rows.items()]
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


def plot_operations(results: Results, path: Path) -> None:
    """Microseconds of an operation, by system."""
    systems = [name for name in (*OURS, *OTHERS) if name in results.versions]
    figure, axes = pyplot.subplots(figsize=(7, 3.2), layout="constrained")
    height = 0.8 / len(PLOTTED)
    for place, workload in enumerate(PLOTTED):
        rounds = results.rounds[workload]
        heights = [number + place * height for number, name in enumerate(systems) if name in rounds]
        title = next(each.title for each in WORKLOADS if each.name == workload)
        axes.barh(heights, [median(rounds[name]) for name in systems if name in rounds], height, label=title)
    axes.set_yticks([number + 0.4 - height / 2 for number in range(len(systems))], systems)
    axes.invert_yaxis()
    axes.set_xscale("log")
    axes.set_xlabel("microseconds (less is better)")
    axes.legend(fontsize="small")
    figure.savefig(path, metadata={"Date": None})


def plot_waits(programs: Mapping[str, Mapping[str, float]], path: Path) -> None:
    """Milliseconds of a step against the round trip."""
    figure, axes = pyplot.subplots(figsize=(7, 3.2), layout="constrained")
    for program, figures in programs.items():
        axes.plot([float(trip) for trip in figures], list(figures.values()), marker="o", label=program)
    axes.set_yscale("log")
    axes.set_xlabel("round trip, ms")
    axes.set_ylabel("ms per step")
    axes.legend(fontsize="small")
    figure.savefig(path, metadata={"Date": None})


if __name__ == "__main__":
    main()
