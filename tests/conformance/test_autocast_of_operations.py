"""Every entry of torch's op_db under autocast: cast as torch casts on the worker's kind of device."""

import contextlib
import warnings
from collections.abc import Iterator
from itertools import islice
from typing import Any

import pytest
import torch
from bench import Bench
from operation_checks import UNINITIALISED, Sample, database, forward_and_backward

SHARDS = 4

UNLIKE_TORCH = {
    "linalg_pinv": "torch casts a product within this operation, which the worker runs whole, in float32",
    "linalg_pinv_hermitian": "torch casts a product within this operation, which the worker runs whole, in float32",
    "nn_functional_bilinear": "torch casts a product within this operation, which the worker runs whole, in float32",
    "linalg_eig": "as without autocast: known_failures.toml",
    "ormqr": "as without autocast: known_failures.toml",
}
"""Entries that give other numbers or metadata."""


@pytest.fixture(scope="module")
def bench() -> Iterator[Bench]:
    with contextlib.closing(Bench("virtual")) as made:
        yield made


@pytest.mark.timeout(300)
@pytest.mark.parametrize("shard", range(SHARDS))
def test_every_operation_is_cast_as_torch_casts_it(shard: int, bench: Bench) -> None:
    differing = {}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        entries = [entry for entry in database().op_db if torch.float32 in entry.supported_dtypes("cpu")]
        for entry in entries[shard::SHARDS]:
            with bench.seeding(database()):
                samples = entry.sample_inputs("cpu", torch.float32, requires_grad=entry.supports_autograd)
                for given in islice(samples, 1):
                    sample = Sample((given.input, *given.args), given.kwargs)
                    with_values = entry.name not in UNINITIALISED
                    try:
                        forward_and_backward(cast(entry, bench), sample, bench, with_values=with_values)
                    except Exception as error:
                        differing[entry.formatted_name] = f"{type(error).__name__}: {str(error)[:300]}"
                        bench.recover()
    assert {name: error for name, error in differing.items() if name not in UNLIKE_TORCH} == {}


def cast(operation: Any, bench: Bench) -> Any:
    def run(*args: Any, **kwargs: Any) -> Any:
        # Local tensors are cast by the one, pointers by the other.
        with torch.autocast("cpu", dtype=torch.bfloat16), bench.worker.autocast():
            return operation(*args, **kwargs)

    return run
