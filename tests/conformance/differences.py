"""What a pointer may not differ in from plain local torch: values, metadata, errors."""

import torch
from torch import Tensor
from torch.utils._pytree import tree_leaves

import ptrtensor as pt


class Difference(Exception):
    """A pointer gave something else than plain torch."""


def compare(expected: object, got: object, worker: pt.Worker, *, with_values: bool = True) -> None:
    """Everything that torch shows of a result is the same, and it is where its inputs were."""
    mine, others = tree_leaves(expected), tree_leaves(got)
    if len(mine) != len(others):
        raise Difference(f"{len(others)} results instead of {len(mine)}")
    for wanted, found in zip(mine, others, strict=True):
        if isinstance(wanted, Tensor):
            compare_tensors(wanted, found, worker, with_values=with_values)
        elif isinstance(found, Tensor) or (wanted != found and wanted == wanted):  # nan equals nothing
            raise Difference(f"{found!r} instead of {wanted!r}")


def compare_tensors(wanted: Tensor, found: object, worker: pt.Worker, *, with_values: bool) -> None:
    if not pt.is_pointer(found) or found.location is not worker:
        raise Difference(f"the result is {type(found).__name__}, not a pointer to its inputs' worker")
    if (shown := described(found)) != described(wanted):
        raise Difference(f"{shown} instead of {described(wanted)}")
    if isinstance(worker, pt.VirtualWorker):
        name = found.id_at_location  # which may make one, for a view
        worker.client.flush()
        real = worker._session.store.objects.get(name)
        if isinstance(real, Tensor):
            said = {name: value for name, value in shown.items() if name not in ("requires_grad", "leaf")}
            differing = {name: value for name, value in described(real).items() if name in said and said[name] != value}
            if differing:
                raise Difference(f"predicted {said}, and at the worker it is {differing}")
    if with_values:
        plain = wanted.detach().resolve_conj().resolve_neg()
        tolerance = 0.0 if plain.element_size() == 1 else None  # of low-dimensional floats torch compares the bits
        try:
            torch.testing.assert_close(found.detach().cpu(), plain, rtol=tolerance, atol=tolerance, equal_nan=True)
        except AssertionError as error:
            raise Difference(str(error)) from None


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
        "leaf": tensor.is_leaf,
    }


def compare_errors(expected: Exception, got: Exception | None) -> None:
    """What plain torch refuses is refused with the same class of error or one derived from it, or as unsupported."""
    if got is None:
        raise Difference(f"accepted, where plain torch raises {type(expected).__name__}: {short(expected)}")
    if not isinstance(got, (type(expected), pt.UnsupportedOpError)):
        raise Difference(f"{type(got).__name__} instead of {type(expected).__name__}: {short(got)} / {short(expected)}")


def short(error: BaseException) -> str:
    return " ".join(str(error).split())[:200]


def is_strided(value: object) -> bool:
    """Whether all tensors in it are of the dense layout, the one that pointers have."""
    return all(
        leaf.layout == torch.strided and not leaf.is_nested and not leaf.is_quantized
        for leaf in tree_leaves(value)
        if isinstance(leaf, Tensor)
    )
