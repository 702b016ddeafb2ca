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


def drive(preparations: Mapping[str, Callable[[], Run]], synchronize: Run, version: str) -> None:
    """Serve until standard input ends."""
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # what a system prints is no answer
    say(answers, {"version": version, "workloads": list(preparations)})
    run: Run | None = None
    for line in sys.stdin:
        order = json.loads(line)
        if "prepare" in order:
            run = None
            gc.collect()
            run = preparations[order["prepare"]]()
            synchronize()
            say(answers, {})
        else:
            assert run is not None
            began = time.perf_counter()
            run()
            synchronize()
            say(answers, {"seconds": time.perf_counter() - began})


def say(answers: TextIO, message: Mapping[str, object]) -> None:
    answers.write(json.dumps(message) + "\n")
    answers.flush()
