"""`make bench`: every workload on every system in one run, interleaved; JSON and a table.

A round of each system follows a round of the one before, so a machine that slows down slows them all, and ratios are
taken within a round. What a system has no natural form of stays empty.
"""

import argparse
import json
import os
import platform
import subprocess
import sys
from contextlib import ExitStack
from pathlib import Path
from typing import Final

from rich.console import Console
from rich.progress import Progress

from benchmarks.results import Results
from benchmarks.system import ENVIRONMENT, PROGRAMS, ROOT, System
from benchmarks.table import table
from benchmarks.workloads import BY_NAME, WORKLOADS

WARM_ROUNDS: Final = 1
STUDIES: Final = ("growth", "waits")


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument("results", type=Path, help="where the results are written, as JSON")
    parser.add_argument("--rounds", type=int, default=5, help="counted rounds of each workload (default: 5)")
    parser.add_argument("--only", action="append", choices=list(BY_NAME), help="this workload; may be given often")
    parser.add_argument("--system", action="append", choices=[program.name for program in PROGRAMS])
    parser.add_argument("--study", action="append", choices=STUDIES, help="only these; without --only no workload")
    options = parser.parse_args()
    names = options.only or ([] if options.study else list(BY_NAME))
    programs = [
        program
        for program in PROGRAMS
        if program.is_installed and (options.system is None or program.name in options.system)
    ]
    results = Results(machine(), {}, {}, {})
    with ExitStack() as stack, Progress() as progress:
        systems = [stack.enter_context(System(program)) for program in programs]
        results.versions.update({system.program.name: system.version for system in systems})
        task = progress.add_task("", total=len(names) * (options.rounds + WARM_ROUNDS))
        for name in names:
            progress.update(task, description=BY_NAME[name].title)
            measured = [system for system in systems if name in system.workloads]
            for system in measured:
                system.prepare(name)
            for number in range(-WARM_ROUNDS, options.rounds):
                for system in measured:
                    seconds = system.run()
                    if number >= 0:
                        results.add(name, system.program.name, BY_NAME[name].measured(seconds))
                progress.advance(task)
    for study in options.study or ([] if options.only else STUDIES):
        Console().print(f"{study} ...")
        command = [sys.executable, "-m", f"benchmarks.{study}"]
        output = subprocess.run(
            command, cwd=ROOT, env=ENVIRONMENT, stdout=subprocess.PIPE, text=True, check=True
        ).stdout
        results.studies[study] = json.loads(output)
    options.results.parent.mkdir(parents=True, exist_ok=True)
    options.results.write_text(results.as_json())
    Console().print(table(results, [workload for workload in WORKLOADS if workload.name in names]))
    for name, study in results.studies.items():
        Console().print(name, study)
    return 0


def machine() -> str:
    lines = Path("/proc/cpuinfo").read_text().splitlines() if sys.platform == "linux" else []
    model = next((line.partition(": ")[2] for line in lines if line.startswith("model name")), platform.machine())
    return f"{os.cpu_count()} cores of {model}, Python {platform.python_version()}, {platform.system()}"


if __name__ == "__main__":
    sys.exit(main())
