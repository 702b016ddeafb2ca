"""What an owner published, in a session's process: each tensor in memory of its own, mapped from its file."""

import mmap
import weakref
from pathlib import Path

from torch import Tensor

from ptrtensor._torch.memory import tensor_of
from ptrtensor.errors import PtrTensorError
from ptrtensor.wire.control import Publication
from ptrtensor.worker.memory_limit import raise_limit


def mapped(publication: Publication) -> Tensor:
    """The tensor. Its file is never written to: a page that a session writes to is copied for that session.

    It does not count for the session's memory, and its storage ends where the tensor does: `as_strided` cannot reach
    what lies beside it in the file.

    :raises PtrTensorError: the file is gone or has become shorter.
    """
    size = publication.meta.nbytes
    if size == 0:
        return tensor_of(publication.meta, memoryview(b""))
    start = publication.offset - publication.offset % mmap.ALLOCATIONGRANULARITY
    try:
        with Path(publication.file).open("rb") as file:
            pages = map_beside_the_limit(file.fileno(), start, publication.offset - start + size)
    except (OSError, ValueError) as error:
        reason = (
            error.strerror if isinstance(error, OSError) else error
        )  # without its path, which is no client's business
        raise PtrTensorError(f"the published {publication.name!r} cannot be read: {reason}") from None
    return tensor_of(publication.meta, memoryview(pages)[publication.offset - start :])


def map_beside_the_limit(file: int, start: int, size: int) -> mmap.mmap:
    """:raises OSError: it cannot be mapped. :raises ValueError: the file is shorter."""
    counted = -(-size // mmap.PAGESIZE) * mmap.PAGESIZE
    raise_limit(counted)
    try:
        pages = mmap.mmap(file, size, access=mmap.ACCESS_COPY, offset=start)
    except BaseException:
        raise_limit(-counted)
        raise
    weakref.finalize(pages, raise_limit, -counted)
    return pages
