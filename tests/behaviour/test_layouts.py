"""Other layouts than strided: refused by name, wherever they are asked for; never a wrong value."""

from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

import ptrtensor as pt

pytestmark = pytest.mark.filterwarnings("ignore::UserWarning", "ignore::FutureWarning")  # torch's own, of these layouts

SPARSE = torch.eye(2).to_sparse()

REFUSED: dict[str, tuple[Callable[[Tensor], object], str]] = {
    "to_sparse": (lambda p: p.to_sparse(), "sparse_coo"),
    "to_sparse_csr": (lambda p: p.to_sparse_csr(), "sparse_csr"),
    "to_sparse_csc": (lambda p: p.to_sparse_csc(), "sparse_csc"),
    "to_sparse_bsr": (lambda p: p.to_sparse_bsr((2, 2)), "sparse_bsr"),
    "to_sparse_bsc": (lambda p: p.to_sparse_bsc((2, 2)), "sparse_bsc"),
    "sparse_coo_tensor": (lambda p: torch.sparse_coo_tensor(p[:1].long(), p[0], (9,)), "sparse_coo"),
    "sparse_csr_tensor": (lambda p: torch.sparse_csr_tensor(p[0].long(), p[0, :1].long(), p[0, :1]), "sparse_csr"),
    "zeros_like": (lambda p: torch.zeros_like(p, layout=torch.sparse_coo), "sparse_coo"),
    "a local one in a product": (lambda p: SPARSE @ p, "sparse_coo"),
    "a local one copied in": (lambda p: p.copy_(SPARSE), "sparse_coo"),
    "a local one to the device": (lambda p: SPARSE.to(p.device), "sparse_coo"),
    "sparse gradients": (
        lambda p: F.embedding(p.long(), p.requires_grad_(), sparse=True).sum().backward(),
        "sparse_coo",
    ),
    "nested_tensor": (lambda p: torch.nested.nested_tensor([p, p]), "nested"),
    "as_nested_tensor": (lambda p: torch.nested.as_nested_tensor([p, p[:1]]), "nested"),
    "jagged": (lambda p: torch.nested.as_nested_tensor([p, p[:1]], layout=torch.jagged), "jagged"),
    "quantize_per_tensor": (lambda p: torch.quantize_per_tensor(p, 0.1, 0, torch.quint8), "quint8"),
    "quantize_per_channel": (lambda p: torch.quantize_per_channel(p, p[0], p[0].long(), 0, torch.qint8), "qint8"),
    "quantize_per_tensor_dynamic": (lambda p: torch.quantize_per_tensor_dynamic(p, torch.qint8, False), "qint8"),
    "a quantized dtype": (lambda p: p.to(torch.quint8), "quint8"),
    "a dtype of bits": (lambda p: torch.empty(2, dtype=torch.bits8, device=p.device), "bits8"),
    "to_mkldnn": (lambda p: p.to_mkldnn(), "_mkldnn"),
}


@pytest.mark.parametrize("name", list(REFUSED))
def test_refused_by_name_and_everything_else_goes_on(name: str, worker: pt.Worker) -> None:
    act, layout = REFUSED[name]
    pointer = torch.eye(2, device=worker.device)
    with pytest.raises(pt.UnsupportedOpError, match=layout):
        act(pointer)
        worker.synchronize()
    worker.recover()
    assert torch.eye(2, device=worker.device).tolist() == [[1, 0], [0, 1]]


@pytest.mark.parametrize(
    "make",
    [
        lambda device: torch.zeros(2, 2, layout=torch.sparse_coo, device=device),
        lambda device: torch.zeros(2, 2, layout=torch.sparse_csr, device=device),
        lambda device: torch.eye(2).to_sparse_csr().to(device),
        lambda device: torch.nested.nested_tensor([torch.ones(2)]).to(device),
        lambda device: torch.empty(2, dtype=torch.quint8, device=device),
        lambda device: torch.eye(2).to_mkldnn().to(device),
    ],
)
def test_what_involves_no_pointer_torch_itself_refuses(
    make: Callable[[torch.device], Tensor], worker: pt.Worker
) -> None:
    with pytest.raises(NotImplementedError, match="(?i)lazy"):
        make(worker.device)
