"""What every room below knows of a pointer: whose it is, what it stands for, and its metadata."""

from collections.abc import Callable

from torch import Tensor

from ptrtensor.client.reference import Reference
from ptrtensor.tensor.view import View
from ptrtensor.tensor.worker import Worker
from ptrtensor.wire.metadata import TensorMeta


class Pointer(Tensor):
    """The state of a pointer without its behaviour, which is `PointerTensor`'s.

    It exists so that dispatch and inference can name the type without importing the class that calls them.
    """

    _worker: Worker
    _reference: Reference | View
    _meta: TensorMeta
    _viewed: bool = False
    """Whether a view of it was ever made."""
    _reshaped: bool = False
    """Whether it was reshaped in place with views about, or one of its views was."""


Wrap = Callable[[Worker, Reference | View, TensorMeta, int], Pointer]
"""Makes a pointer: worker, reference, metadata, storage offset in elements."""
