"""What an owner published, in a session's process: each tensor in memory of its own, mapped from its file."""

import mmap
from pathlib import Path

from torch import Tensor

from ptrtensor._torch.memory import tensor_of
from ptrtensor.errors import PtrTensorError
from ptrtensor.wire.control import Publication


def mapped(publication: Publication) -> Tensor:
    """The tensor. Its file is never written to: a page that a session writes to is copied for that session.

    The storage ends where the tensor does, so that `as_strided` cannot reach what lies beside it in the file.

    :raises PtrTensorError: the file is gone or has become shorter.
    """
    size = publication.meta.nbytes
    if size == 0:
        return tensor_of(publication.meta, memoryview(b""))
    start = publication.offset - publication.offset % mmap.ALLOCATIONGRANULARITY
    try:
        with Path(publication.file).open("rb") as file:
            pages = mmap.mmap(file.fileno(), publication.offset - start + size, access=mmap.ACCESS_COPY, offset=start)
    except (OSError, ValueError) as error:
        raise PtrTensorError(f"the published {publication.name!r} cannot be read: {error}") from error
    return tensor_of(publication.meta, memoryview(pages)[publication.offset - start :])
