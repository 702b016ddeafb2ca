"""Closed forms: what hot operations return, computed instead of inferred, so that a new size costs no inference (D6).

A rule gets the arguments as they were given and returns the fresh results, or None where the general way must decide:
for what it does not know, and for what torch refuses. The tests hold every rule against fakes.
"""

from typing import Final

from ptrtensor.tensor.cache import Extent
from ptrtensor.tensor.operation import Args, Kwargs, Operation
from ptrtensor.tensor.rules import arithmetic, products, views
from ptrtensor.tensor.rules.table import rules
from ptrtensor.wire.limits import MAX_DIMENSIONS

RULES: Final = (arithmetic, products, views)
"""The modules that fill the table when they are imported."""

NUMBERS: Final = frozenset({"alpha", "beta", "value"})
"""Keyword arguments that change values only."""

MAX_ELEMENTS: Final = 2**48


def closed_form(operation: Operation, args: Args, kwargs: Kwargs) -> list[Extent] | None:
    """The fresh results by a rule; None where there is none for such a call."""
    rule = rules.get(operation.op)
    results = None if rule is None or kwargs.keys() - NUMBERS else rule(*args, **kwargs)
    return results if results is not None and all(map(is_possible, results)) else None


def is_possible(result: Extent) -> bool:
    """What is too large for torch or for the wire the general way refuses, in the right words."""
    return len(result.meta.shape) <= MAX_DIMENSIONS and result.meta.elements <= MAX_ELEMENTS
