"""Breadth: every entry of torch's own database of operations, forward and backward, against plain local torch.

What fails is listed by name in known_failures.toml beside this file. An entry that fails without being listed fails
the test, and so does one that is listed and passes. `python tests/conformance/test_op_db_breadth.py virtual` (or
`process`) runs all of it and prints the share that passes, with the names of the rest.
"""

import contextlib
import itertools
import sys
import tomllib
import warnings
from collections.abc import Callable, Iterator
from functools import cache
from importlib import import_module
from pathlib import Path
from typing import Any, Final, cast

import pytest
import torch
from torch import Tensor
from torch.utils._pytree import tree_leaves, tree_map

import ptrtensor as pt

KNOWN_FAILURES: Final[dict[str, str]] = tomllib.loads(Path(__file__).with_name("known_failures.toml").read_text())
"""Name of the entry to the cause."""

ENTRIES: Final = 702
"""In op_db of the torch that constraints.txt pins."""

SHARDS: Final = 8
SAMPLES: Final = 3

UNINITIALISED: Final = frozenset({"empty", "empty_like", "empty_permuted", "empty_strided", "new_empty"}) | {
    "new_empty_strided"
}
"""Operations whose values are whatever the memory held."""

CPU: Final = torch.device("cpu")

Sample = tuple[Any, tuple[Any, ...], dict[str, Any]]


class Difference(Exception):
    """A pointer gave something else than plain torch."""


class Harness:
    """Runs entries of the database on a worker of one kind."""

    def __init__(self, kind: str) -> None:
        self._kind = kind
        self._numbers = itertools.count(1)
        self._worker = self._make()

    def failures(self, entries: list[Any]) -> dict[str, str]:
        """Name to cause, for those of the entries that do not pass."""
        found = {}
        with pytest.MonkeyPatch.context() as patch, warnings.catch_warnings():
            warnings.simplefilter("ignore")  # torch's own samples call what torch itself deprecates
            # Entries that draw random numbers seed this process's generator only, and flush lazy tensors (F2).
            patch.setattr(database(), "wrapper_set_seed", self._seeded)
            patch.setattr("torch._lazy.mark_step", lambda *args, **kwargs: None)
            for entry in entries:
                try:
                    self._check(entry)
                except Exception as error:  # whatever it is, it belongs to this entry and the next must run
                    found[entry.formatted_name] = f"{type(error).__name__}: {' '.join(str(error).split())[:200]}"
                    self._recover()
        return found

    def close(self) -> None:
        with contextlib.suppress(pt.PtrTensorError):
            self._worker.close()

    def _make(self) -> pt.Worker:
        name = f"op-db-{self._kind}-{next(self._numbers)}"
        return pt.VirtualWorker(id=name) if self._kind == "virtual" else pt.ProcessWorker(id=name)

    def _recover(self) -> None:
        """Go on with the same worker, or with another where that one died."""
        try:
            self._worker.recover()
        except pt.PtrTensorError:
            self.close()
            self._worker = self._make()

    def _seeded(self, op: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        torch.manual_seed(42)
        self._worker.manual_seed(42)
        return op(*args, **kwargs)

    def _sent(self, value: object) -> object:
        """Tensors are at the worker, and "cpu" means the worker."""
        if isinstance(value, Tensor):
            return pt.send(value.detach().clone().requires_grad_(value.requires_grad), self._worker)
        return self._worker.device if value in ("cpu", CPU) else value

    def _check(self, entry: Any) -> None:
        dtypes = entry.supported_dtypes("cpu")
        if not dtypes:
            return
        dtype = torch.float32 if torch.float32 in dtypes else min(dtypes, key=str)
        differentiable = entry.supports_autograd and dtype in entry.supported_backward_dtypes("cpu")
        torch.manual_seed(0)
        for sample in itertools.islice(entry.sample_inputs("cpu", dtype, requires_grad=differentiable), SAMPLES):
            self._check_sample(entry, (sample.input, sample.args, sample.kwargs))

    def _check_sample(self, entry: Any, sample: Sample) -> None:
        here, there = mapped(copied, sample), mapped(self._sent, sample)
        try:
            expected = self._seeded(entry, here[0], *here[1], **here[2])
        except Exception:  # a sample that plain torch does not take on this machine says nothing of pointers
            return
        # A factory that is called without a device is called in the worker's context.
        with contextlib.nullcontext() if tensors(there) else self._worker:
            result = self._seeded(entry, there[0], *there[1], **there[2])
        with_values = entry.name not in UNINITIALISED
        compare(expected, result, self._worker, with_values=with_values)
        outputs = [(mine, other) for mine, other in zip(tensors(expected), tensors(result), strict=True)]
        outputs = [(mine, other) for mine, other in outputs if mine.requires_grad]
        inputs = [(mine, other) for mine, other in zip(tensors(here), tensors(there), strict=True)]
        inputs = [(mine, other) for mine, other in inputs if mine.requires_grad]
        if outputs and inputs:
            gradients = [torch.randn_like(mine.detach().resolve_conj().resolve_neg()) for mine, _ in outputs]
            try:
                expected_gradients = torch.autograd.grad(
                    [mine for mine, _ in outputs], [mine for mine, _ in inputs], gradients, allow_unused=True
                )
            except Exception:  # as above
                return
            result_gradients = torch.autograd.grad(
                [other for _, other in outputs],
                [other for _, other in inputs],
                [pt.send(gradient, self._worker) for gradient in gradients],
                allow_unused=True,
            )
            compare(expected_gradients, result_gradients, self._worker, with_values=with_values)


def database() -> Any:
    """Imported late: it takes seconds."""
    return import_module("torch.testing._internal.common_methods_invocations")


def mapped(function: Callable[[object], object], sample: Sample) -> Sample:
    return cast(Sample, tree_map(function, sample))


def copied(value: object) -> object:
    if not isinstance(value, Tensor):
        return value
    return value.detach().clone().requires_grad_(value.requires_grad)


def tensors(value: object) -> list[Tensor]:
    return [leaf for leaf in tree_leaves(value) if isinstance(leaf, Tensor)]


def compare(expected: object, result: object, worker: pt.Worker, *, with_values: bool) -> None:
    """Everything that torch shows of a result is the same, and it is where its inputs were."""
    mine, others = tree_leaves(expected), tree_leaves(result)
    if len(mine) != len(others):
        raise Difference(f"{len(others)} results instead of {len(mine)}")
    for wanted, found in zip(mine, others, strict=True):
        if not isinstance(wanted, Tensor):
            if wanted != found and wanted == wanted:  # nan equals nothing
                raise Difference(f"{found!r} instead of {wanted!r}")
            continue
        if not pt.is_pointer(found) or found.location is not worker:
            raise Difference(f"the result is {type(found).__name__}, not a pointer to its inputs' worker")
        if (shown := described(found)) != described(wanted):
            raise Difference(f"{shown} instead of {described(wanted)}")
        if with_values:
            plain = wanted.detach().resolve_conj().resolve_neg()
            tolerance = 0.0 if plain.element_size() == 1 else None  # of low-dimensional floats torch compares the bits
            torch.testing.assert_close(found.detach().cpu(), plain, rtol=tolerance, atol=tolerance, equal_nan=True)


def described(tensor: Tensor) -> dict[str, object]:
    """Metadata; the strides of empty tensors and of dimensions of size 1 say nothing (D7)."""
    dimensions = zip(tensor.shape, tensor.stride(), strict=True)
    return {
        "shape": tuple(tensor.shape),
        "strides": [stride for size, stride in dimensions if size > 1 and tensor.numel()],
        "dtype": tensor.dtype,
        "conj": tensor.is_conj(),
        "neg": tensor.is_neg(),
        "requires_grad": tensor.requires_grad,
    }


@pytest.fixture(scope="module")
def harness() -> Iterator[Callable[[str], Harness]]:
    """One harness of each kind for all shards, so that what was inferred once is known."""
    with contextlib.ExitStack() as stack:

        @cache
        def make(kind: str) -> Harness:
            return stack.enter_context(contextlib.closing(Harness(kind)))

        yield make


@pytest.mark.parametrize("kind", ["virtual", "process"])
@pytest.mark.parametrize("shard", range(SHARDS))
def test_every_entry_is_as_local_torch_except_the_known(
    kind: str, shard: int, harness: Callable[[str], Harness]
) -> None:
    entries = database().op_db[shard::SHARDS]
    failures = harness(kind).failures(entries)
    unlisted = {name: cause for name, cause in failures.items() if name not in KNOWN_FAILURES}
    mended = [
        entry.formatted_name
        for entry in entries
        if entry.formatted_name in KNOWN_FAILURES and entry.formatted_name not in failures
    ]
    assert unlisted == {}
    assert mended == [], "these pass: take them out of known_failures.toml"


def test_the_list_names_entries_of_the_database() -> None:
    names = [entry.formatted_name for entry in database().op_db]
    assert set(KNOWN_FAILURES) <= set(names)
    assert len(names) == len(set(names)) == ENTRIES


def main(kind: str) -> None:
    """Print the share that passes."""
    torch.set_num_threads(1)
    entries = database().op_db
    with contextlib.closing(Harness(kind)) as harness:
        failures = harness.failures(entries)
    for name, cause in failures.items():
        sys.stdout.write(f"{name}: {cause}\n")
    passing = len(entries) - len(failures)
    sys.stdout.write(f"{kind}: {passing} of {len(entries)} entries pass ({passing / len(entries):.1%})\n")


if __name__ == "__main__":
    main(sys.argv[1])
