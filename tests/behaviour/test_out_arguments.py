"""`out=` that shares its storage with an argument, or with another result: as with local tensors."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

import ptrtensor as pt

Program = Callable[[Tensor], object]


def columns_of_values_and_places(m: Tensor) -> None:
    places = torch.zeros(4, dtype=torch.int64, device=m.device)
    torch.cummax(m[:, 0], 0, out=(m[:, 1], places))


def parts_of_one_buffer(m: Tensor) -> Tensor:
    buffer = torch.zeros(8, device=m.device)
    torch.aminmax(m, dim=1, out=(buffer[:4], buffer[4:]))
    return buffer


PROGRAMS: dict[str, Program] = {
    "product of columns": lambda m: torch.mm(m[:, :4], m[:4, :2].clone(), out=m[:, 4:6]),
    "product, over what is added": lambda m: torch.addmm(m[:, :4], m[:4, :4].clone(), m[:4, :4].clone(), out=m[:, :4]),
    "sum of columns": lambda m: torch.sum(m[:, 1:], 1, out=m[:, 0]),
    "columns put together": lambda m: torch.cat([m[:, :1], m[:, 1:2]], 1, out=m[:, 2:4]),
    "product of vectors in columns": lambda m: torch.linalg.cross(m[:, :3], m[:, 1:4].clone(), out=m[:, 3:6]),
    "least and greatest in columns": lambda m: torch.aminmax(m, dim=1, out=(m[:, 0], m[:, 1])),
    "least and greatest in parts of a buffer": parts_of_one_buffer,
    "values and places": columns_of_values_and_places,
    "cumulated over itself": lambda m: torch.cumsum(m, 0, out=m),
    "triangle over itself": lambda m: torch.tril(m, out=m),
    "softmax over itself": lambda m: torch.softmax(m, 1, out=m),
    "division over itself": lambda m: torch.div(m, m[0, 0] + 2, rounding_mode="trunc", out=m),
    "rows of one matrix": lambda m: torch.mv(m[:, :4], m[0, :4].clone(), out=m[:, 5]),
}


@pytest.mark.parametrize("name", PROGRAMS)
def test_as_with_local_tensors(name: str, virtual_worker: pt.VirtualWorker) -> None:
    torch.manual_seed(0)
    local = torch.randn(4, 6)
    there = local.clone().to(virtual_worker.device)
    mine, theirs = PROGRAMS[name](local), PROGRAMS[name](there)
    assert torch.equal(there.cpu(), local)
    if isinstance(mine, Tensor) and isinstance(theirs, Tensor):
        assert torch.equal(theirs.cpu(), mine)
