"""The table of a run, for a terminal and for the documentation."""

from collections.abc import Sequence
from statistics import median
from typing import Final

from rich.table import Table

from benchmarks.results import Results
from benchmarks.system import LOCAL, OTHERS, OURS, PROGRAMS
from benchmarks.workload import Workload

HEADER: Final = ("system", "median", "least", "most", "× local torch", "× best peer")


def table(results: Results, workloads: Sequence[Workload]) -> Table:
    """For a terminal: a row for each workload and system."""
    made = Table(*HEADER, title=results.machine)
    for workload in workloads:
        figures = results.rounds[workload.name]
        made.add_section()
        made.add_row(f"[bold]{workload.title}", workload.unit)
        for system in systems(results):
            if system in figures:
                spread = (median(figures[system]), min(figures[system]), max(figures[system]))
                made.add_row(system, *map(shown, spread), *ratios(results, workload, system))
    return made


def markdown(results: Results, workloads: Sequence[Workload]) -> str:
    """For the documentation: a row for each workload, medians with the ratio to local torch."""
    names = systems(results)
    lines = [["", *names, "best peer"], ["---", *["---:"] * (len(names) + 1)]]
    for workload in workloads:
        figures = results.rounds[workload.name]
        line = [f"{workload.title}, {workload.unit}"]
        for system in names:
            of_local, _ = ratios(results, workload, system)
            line.append(
                shown(median(figures[system])) + (f" ({of_local})" if of_local else "") if system in figures else ""
            )
        line.append(results.best_peer(workload) or "")
        lines.append(line)
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


def systems(results: Results) -> list[str]:
    return [program.name for program in PROGRAMS if program.name in results.versions]


def ratios(results: Results, workload: Workload, system: str) -> tuple[str, str]:
    """How many times as fast as local torch, and as the best peer."""
    if system not in (*OURS, *OTHERS):
        return "", ""
    peer = results.best_peer(workload) if system in OURS else None
    of_local = results.speed(workload, system, LOCAL)
    of_peer = None if peer is None else results.speed(workload, system, peer)
    return ("" if of_local is None else f"{of_local:.2g}"), ("" if of_peer is None else f"{of_peer:.1f}")


def shown(figure: float) -> str:
    return f"{figure:.0f}" if figure >= 100 else f"{figure:.3g}"
