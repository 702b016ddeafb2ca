"""This process, seen as a worker: the owner of every pointer."""

from collections.abc import Mapping
from typing import Final

import torch
from torch import Tensor


class LocalWorker:
    """Named "me". It owns the pointers; the tensors that live here are ordinary ones and are not listed."""

    def __init__(self, id: str) -> None:
        self.id = id
        self.device = torch.device("cpu")

    @property
    def objects(self) -> Mapping[int, Tensor]:
        return {}

    def __repr__(self) -> str:
        return f"<LocalWorker id:{self.id}>"


local_worker: Final = LocalWorker("me")
