"""Plain torch in one process."""

from functools import partial

import torch

from benchmarks.driver import drive
from benchmarks.workload import MEBI, Place
from benchmarks.workloads import copy_locally, ordinary

if __name__ == "__main__":
    place = Place(torch.device("cpu"), lambda: None)
    transfers = {name: partial(copy_locally, 256 * MEBI, 1) for name in ("up", "down")}
    small = {name: partial(copy_locally, 1024, 200) for name in ("up_small", "down_small")}
    drive({**ordinary(place), **transfers, **small}, place.synchronize, str(torch.__version__))
