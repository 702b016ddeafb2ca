"""The other end of the pipe in a system's own process: prepare a workload, run rounds of it, say how long they took.

One line of JSON in, one out. Nothing here needs ptrtensor, so that a peer runs it in an environment of its own.
"""

import gc
import json
import os
import sys
import time
from collections.abc import Callable, Mapping
from typing import TextIO

from benchmarks.workload import Run

SHORT_SECONDS = 0.2
"""A shorter round is run once more before: this process was stopped, and comes back to cold caches."""


def drive(preparations: Mapping[str, Callable[[], Run]], synchronize: Run, version: str) -> None:
    """Serve until standard input ends."""
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # what a system prints is no answer
    say(answers, {"version": version, "workloads": list(preparations)})
    run: Run | None = None
    seconds = 0.0
    for line in sys.stdin:
        order = json.loads(line)
        if "prepare" in order:
            run = None
            gc.collect()
            run = preparations[order["prepare"]]()
            synchronize()
            seconds = 0.0
            say(answers, {})
        else:
            assert run is not None
            if seconds < SHORT_SECONDS:
                run()
                synchronize()
            began = time.perf_counter()
            run()
            synchronize()
            seconds = time.perf_counter() - began
            say(answers, {"seconds": seconds})


def say(answers: TextIO, message: Mapping[str, object]) -> None:
    answers.write(json.dumps(message) + "\n")
    answers.flush()
