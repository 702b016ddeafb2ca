"""The annotations of public names can be read at run time, as documentation and validation libraries do."""

import inspect
import typing
from collections.abc import Callable

import pytest

import ptrtensor as pt


def annotated() -> dict[str, Callable[..., object]]:
    """Every public function, and every public method of a public class that ptrtensor itself defines."""
    found: dict[str, Callable[..., object]] = {}
    for name in pt.__all__:
        public = getattr(pt, name)
        if inspect.isfunction(public):
            found[name] = public
        elif inspect.isclass(public):
            for base in public.__mro__:
                if base.__module__.startswith("ptrtensor"):
                    methods = [item for item in vars(base).items() if inspect.isfunction(item[1])]
                    found |= {f"{name}.{method}": each for method, each in methods if not method.startswith("_")}
    return found


@pytest.mark.parametrize("name", annotated())
def test_annotations_can_be_read(name: str) -> None:
    function = annotated()[name]
    hints = typing.get_type_hints(function)
    assert "return" in hints
    assert hints.keys() - {"return"} == inspect.signature(function).parameters.keys() - {"self"}


@pytest.mark.parametrize("verb", [pt.send, pt.get, pt.move])
def test_each_verb_says_what_it_does_for_tensors_and_for_modules(verb: Callable[..., object]) -> None:
    assert len(typing.get_overloads(verb)) == 2
