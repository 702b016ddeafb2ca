"""An empty path is no way to say the current directory."""

from pathlib import Path
from typing import Any

import pytest

import ptrtensor as pt
from ptrtensor.paths import path_of


@pytest.mark.parametrize("value", ["a/b", ".", "/", Path("a"), Path()])
def test_a_path(value: str | Path) -> None:
    assert path_of(value, "trust") == Path(value)


@pytest.mark.parametrize("value", ["", None, 3, b"a", ["a"]])
def test_no_path(value: object) -> None:
    with pytest.raises(pt.PtrTensorError, match=r"^trust takes a path, not .*: the current directory is '\.'$"):
        path_of(value, "trust")


@pytest.mark.parametrize("option", ["identity", "trust", "policy", "state", "audit", "data"])
def test_a_server_is_not_started_with_an_empty_one(option: str, tmp_path: Path) -> None:
    """It would publish, or trust, whatever lies where it was started."""
    options: dict[str, Any] = {"identity": tmp_path, option: [""] if option == "data" else ""}
    with pytest.raises(pt.PtrTensorError, match=f"{option} takes a path"):
        pt.DataServer("127.0.0.1:0", id="bob", **options)


@pytest.mark.parametrize("option", ["identity", "trust"])
def test_nor_is_a_client(option: str, tmp_path: Path) -> None:
    options: dict[str, Any] = {"identity": tmp_path, "trust": tmp_path, option: ""}
    with pytest.raises(pt.PtrTensorError, match=f"{option} takes a path"):
        pt.RemoteWorker("127.0.0.1:1", id="bob", **options)
