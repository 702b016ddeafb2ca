"""What `out=` writes to has memory of its own while a kernel runs: it may be given another shape first, or be written
to before the kernel has read for the last time what was checked.
"""

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
from torch import Tensor

from ptrtensor._torch.memory import storage_key


def with_outputs_apart(kernel: Callable[..., Any], results: Sequence[str]) -> Callable[..., Any]:
    """The same kernel, for a call whose keywords of these names may lie where anything else of it lies.

    :raises ValueError: a list of tensors does.
    """

    def call(*args: object, **kwargs: Any) -> Any:
        places = [storage_key(tensor) for value in (*args, *kwargs.values()) for tensor in tensors(value)]
        shared = {}
        for name in results:
            value = kwargs.get(name)
            if any(places.count(storage_key(tensor)) > 1 or repeats(tensor) for tensor in tensors(value)):
                if not isinstance(value, Tensor):
                    raise ValueError(f"tensors of {name} share memory with others of the call: pass others")
                shared[name] = value
        if not shared:
            return kernel(*args, **kwargs)
        apart = {name: torch.empty(0, dtype=value.dtype, device=value.device) for name, value in shared.items()}
        returned = kernel(*args, **kwargs | apart)
        for name, value in shared.items():
            if value.shape != apart[name].shape:
                value.resize_(apart[name].shape)
            value.copy_(apart[name])
        return returned

    return call


def tensors(value: object) -> Iterator[Tensor]:
    """Those that an argument consists of."""
    for item in value if isinstance(value, list | tuple) else (value,):
        if isinstance(item, Tensor):
            yield item


def repeats(value: Tensor) -> bool:
    """Whether elements of it share memory by a stride of 0."""
    return any(stride == 0 and size > 1 for size, stride in zip(value.shape, value.stride(), strict=True))
