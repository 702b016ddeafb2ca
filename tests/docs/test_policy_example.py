"""The example of docs/reference/policy.md does what its comments say."""

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from ptrtensor.owner.policy import Policy, read_policy
from ptrtensor.worker.distant_owner import is_refused

ROOT: Final = Path(__file__).parents[2]
MATRIX: Final = torch.eye(3) + 0.1


class Names(TorchDispatchMode):
    """Of the operations that torch runs in the end."""

    found: list[str]

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.found.append(func.name().partition(".")[0])
        return func(*args, **(kwargs or {}))


@pytest.fixture(scope="module")
def policy(tmp_path_factory: pytest.TempPathFactory) -> Policy:
    text = (ROOT / "docs" / "reference" / "policy.md").read_text()
    (example, *_) = re.findall(r"```toml\n(.*?)```", text, re.DOTALL)
    file = tmp_path_factory.mktemp("policy") / "policy.toml"
    file.write_text(example)
    return read_policy(file)


@pytest.mark.parametrize(
    "solve",
    [
        torch.linalg.inv,
        torch.linalg.pinv,
        torch.linalg.det,
        torch.linalg.slogdet,
        torch.linalg.svd,
        torch.linalg.eigh,
        torch.linalg.eigvals,
        torch.linalg.qr,
        torch.linalg.cholesky,
        torch.linalg.lu_factor,
        torch.linalg.matrix_exp,
        lambda matrix: torch.linalg.solve(matrix, matrix),
        lambda matrix: torch.linalg.lstsq(matrix, matrix),
        lambda matrix: torch.linalg.solve_triangular(matrix, matrix, upper=True),
    ],
)
def test_nothing_of_linalg_runs_on_patients(policy: Policy, solve: Callable[[Tensor], object]) -> None:
    refused = policy.grant("alice", ("#patients",)).refused
    make: Callable[[], Names] = Names
    names = make()
    names.found = []
    with names:
        solve(MATRIX)
    assert any(is_refused(name, refused) for name in names.found), names.found
    assert not policy.grant("alice", ("#scans",)).refused


def test_who_may_read_what(policy: Policy) -> None:
    said = {tag: policy.grant("alice", (tag,)).read for tag in ("#patients", "#scans", "#other")}
    assert said == {"#patients": "ask", "#scans": "always", "#other": "never"}
    assert policy.grant("carol", ("#patients",)).read == "never"
    assert (policy.quota_for("alice").sessions, policy.quota_for("carol").objects) == (2, 100_000)
