"""Collecting garbage for certain."""

import gc


def collect() -> None:
    """All garbage there is: `gc.collect()` alone returns at once, with 0, while another thread collects."""
    while True:
        cycle: list[object] = []
        cycle.append(cycle)
        del cycle
        if gc.collect():
            return
