"""An owner's program that serves its data itself: what it publishes, who finds it, and how it ends."""

import contextlib
import errno
import os
import subprocess
import sys
import tempfile
import textwrap
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from hospital import make_keys
from torch import Tensor

import ptrtensor as pt
from ptrtensor.owner.audit import records
from ptrtensor.worker.publications import mapped

SECONDS = 120

POLICY = """
[[rule]]
clients = ["alice"]
tags = ["#asked"]
read = "ask"

[[rule]]
tags = ["#free"]
private = false
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = tmp_path_factory.mktemp("from-python")
    make_keys(made)
    (made / "policy.toml").write_text(POLICY)
    (made / "wards.csv").write_text("beds,nurses\n10,3\n20,5\n")
    return made


@contextlib.contextmanager
def serving(folder: Path, audit: str, **options: Any) -> Iterator[pt.DataServer]:
    with pt.DataServer(
        "127.0.0.1:0",
        id="bob",
        identity=folder / "bob",
        trust=folder / "trusted",
        policy=folder / "policy.toml",
        state=folder / f"{audit}.sqlite",
        audit=folder / audit,
        threads=1,
        **options,
    ) as server:
        yield server


@pytest.fixture(scope="module")
def server(folder: Path) -> Iterator[pt.DataServer]:
    with serving(folder, "audit.jsonl", data=[folder / "wards.csv"]) as server:
        yield server


def connect(server: pt.DataServer, folder: Path, id: str = "bob", who: str = "alice") -> pt.RemoteWorker:
    return pt.RemoteWorker(server.address, id=id, identity=folder / who, trust=folder / "trusts-bob")


def test_what_the_owner_s_program_publishes(server: pt.DataServer, folder: Path) -> None:
    x = torch.arange(6.0).reshape(2, 3)
    server.publish(x, name="patients", tags=["#patients", "#new"], description="six numbers")
    server.publish(x, name="open", tags=["#open"], private=False)
    x.zero_()
    with contextlib.closing(connect(server, folder)) as bob:
        (patients,) = bob.search("#patients", "#new")
        assert (patients.shape, patients.description, patients.tags) == ((2, 3), "six numbers", {"#patients", "#new"})
        with pytest.raises(pt.PermissionDeniedError, match="computed from patients; without a rule"):
            (patients * 2).cpu()
        (found,) = bob.search("#open")
        assert found.tolist() == [[0, 1, 2], [3, 4, 5]], "a copy"
        assert len(bob.search("#wards")) == 1, "files are published beside it"
        server.publish(x, name="late", tags=["#late"])
        assert bob.search("#late") == [], "this session began before"
        with contextlib.closing(connect(server, folder, "bob/2")) as later:
            assert len(later.search("#late")) == 1
    lines = {str(line["object"]): line for line in records(folder / "audit.jsonl") if line["event"] == "published"}
    assert lines["patients"]["tags"] == ["#patients", "#new"] and lines["patients"]["bytes"] == 24
    assert [lines[name]["private"] for name in ("wards", "patients", "open", "late")] == [True, True, False, True]


def test_the_rule_that_fits_says_whether_it_is_private(server: pt.DataServer, folder: Path) -> None:
    server.publish(torch.ones(2), name="asked", tags=["#asked"], private=False)
    server.publish(torch.ones(2), name="free", tags=["#free"])
    with (
        contextlib.closing(connect(server, folder, "bob/alice")) as alice,
        contextlib.closing(connect(server, folder, "bob/carol", "carol")) as carol,
    ):
        for bob in (alice, carol):
            assert bob.search("#free")[0].tolist() == [1, 1]
        with pytest.raises(pt.PermissionDeniedError, match='rule 1 .* read = "ask"'):
            alice.search("#asked")[0].cpu()
        assert carol.search("#asked")[0].tolist() == [1, 1], "no rule is about her"


@pytest.mark.parametrize(
    "make",
    [
        pytest.param(lambda: torch.arange(6.0).reshape(2, 3).t(), id="transposed"),
        pytest.param(lambda: torch.arange(6)[::2], id="with gaps"),
        pytest.param(lambda: torch.ones(1).expand(3, 2), id="expanded"),
        pytest.param(lambda: torch.tensor(2.5, dtype=torch.bfloat16), id="a number"),
        pytest.param(lambda: torch.empty(0, 3), id="empty"),
        pytest.param(lambda: torch.tensor([1 + 2j]).conj(), id="conjugated"),
        pytest.param(lambda: torch.nn.Parameter(torch.ones(2)), id="a parameter"),
        pytest.param(lambda: torch.tensor([True, False]), id="bool"),
    ],
)
def test_tensors_of_all_kinds(server: pt.DataServer, make: Callable[[], Tensor], request: Any) -> None:
    x = make()
    server.publish(x, name=request.node.name, tags=[])
    publication = server._prepared.datasets.publications[-1]
    found = mapped(publication)
    assert (found.dtype, found.shape) == (x.dtype, x.shape) and torch.equal(found, x.detach().resolve_conj())
    assert found.is_contiguous() and not found.requires_grad
    assert not publication.file or Path(publication.file).stat().st_mode & 0o777 == 0o600


def test_a_pointer_is_fetched(server: pt.DataServer, virtual_worker: pt.VirtualWorker) -> None:
    server.publish(pt.send(torch.ones(3), virtual_worker), name="fetched")
    assert mapped(server._prepared.datasets.publications[-1]).tolist() == [1, 1, 1]


@pytest.mark.parametrize(
    ("given", "error", "said"),
    [
        ({"name": "wards"}, pt.DatasetError, "two tensors are called 'wards': give this one another name"),
        ({"name": "dora:x"}, pt.DatasetError, "':' stands behind another worker's name"),
        ({"name": ""}, pt.DatasetError, "it needs a name"),
        ({"name": 7}, pt.PtrTensorError, "publish\\(\\) takes texts, not 7"),
        ({"name": "\ud800"}, pt.PtrTensorError, "texts that UTF-8 has"),
        ({"tags": "#x"}, pt.PtrTensorError, "a list of tags"),
        ({"tags": [1]}, pt.PtrTensorError, "takes texts"),
        ({"description": None}, pt.PtrTensorError, "takes texts"),
        ({"tags": None}, pt.PtrTensorError, "a list of tags, .* not None"),
        ({"tensor": torch.ones(2, 2).to_sparse()}, pt.UnsupportedOpError, "layout"),
        ({"tensor": [1, 2]}, pt.PtrTensorError, r"takes a tensor, for instance .*, not \[1, 2\] \(list\)"),
        ({"tensor": torch.ones(2, device="meta")}, pt.PtrTensorError, "takes a tensor with values"),
    ],
)
def test_what_cannot_be_published(
    server: pt.DataServer, given: dict[str, Any], error: type[Exception], said: str
) -> None:
    before = server._prepared.datasets.publications, dict(server._server._sessions._publications)
    with pytest.raises(error, match=said):
        server.publish(**{"tensor": torch.ones(2), "name": "x", **given})
    assert (server._prepared.datasets.publications, server._server._sessions._publications) == before


def test_it_ends_in_good_order(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    with serving(folder, "ended.jsonl") as server:
        server.publish(torch.ones(2), name="x", tags=["#x"])
        assert repr(server) == f"<DataServer id:bob on {server.address}>"
        assert len([path for path in tmp_path.rglob("*") if path.is_file()]) == 1
        bob = connect(server, folder, "ending")
        (x,) = bob.search("#x")
        bob.synchronize()
    with pytest.raises(pt.WorkerLostError, match="stopped by its owner"):
        while True:
            pt.send(torch.ones(2), bob).cpu()
    bob.close()
    assert list(tmp_path.iterdir()) == []
    events = [line["event"] for line in records(folder / "ended.jsonl")]
    assert events == ["server started", "published", "session began", "session ended", "server stopped"]
    server.close()
    assert repr(server) == "<DataServer id:bob closed>"
    with pytest.raises(pt.PtrTensorError, match="the server bob is closed"):
        server.publish(torch.ones(2), name="y")


def test_without_room_for_its_log_it_publishes_nothing_and_says_so(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(descriptor: int, written: bytes) -> int:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with pytest.raises(pt.AuditError, match="No space left"), serving(folder, "full.jsonl") as server:
        with monkeypatch.context() as patched:
            patched.setattr(os, "write", full)
            with pytest.raises(pt.AuditError):
                server.publish(torch.ones(2), name="x")
        assert not server._server._sessions._publications
        with pytest.raises(pt.WorkerLostError):
            connect(server, folder, "late")


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"listen": "7700"}, "HOST:PORT"),
        ({"identity": "nobody"}, "nobody is no identity"),
        ({"trust": "nobody"}, "nobody is trusted"),
        ({"data": "wards.csv"}, r"data takes a list of files, for instance \['wards.csv'\]"),
        ({"data": ["nothing.npy"]}, "nothing.npy is not there"),
        ({"policy": "nothing.toml"}, "nothing.toml cannot be read"),
        ({"max_memory": "8 GB"}, "max_memory: a size is"),
        ({"lease": float("nan")}, "lease: nan is no number of seconds"),
        ({"lease": -1}, "lease: -1 is no number of seconds"),
        ({"lease": "300"}, "lease is a number of seconds, not '300'"),
        ({"id": ""}, "id is a text of 1 to 200 printable characters"),
        ({"id": "bob\n"}, "id is a text of 1 to 200 printable characters"),
        ({"identity": None}, "identity takes a path, not None"),
        ({"sessions": 0}, "sessions is a whole number from 1, not 0"),
        ({"threads": 1.5}, "threads is a whole number from 1, not 1.5"),
        ({"compute_device": "cuda:77"}, "'cuda:77'"),
        ({"id": 7}, "takes texts, not 7"),
    ],
)
def test_what_cannot_be_served(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, options: dict[str, Any], said: str
) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    given: dict[str, Any] = {"listen": "127.0.0.1:0", "id": "bob", "identity": folder / "bob"}
    given |= {"trust": folder / "trusted", "state": tmp_path / "state.sqlite", **options}
    with pytest.raises(pt.PtrTensorError, match=said):
        pt.DataServer(**given)
    assert not list(tmp_path.glob("ptrtensor-*"))


@pytest.mark.skipif(os.name != "posix", reason="Windows has no such locks")
def test_two_servers_do_not_share_a_state(server: pt.DataServer, folder: Path) -> None:
    """What was approved at one would be handed out at the other."""
    given: dict[str, Any] = {"identity": folder / "bob", "trust": folder / "trusted"}
    state = folder / "audit.jsonl.sqlite"
    with pytest.raises(pt.PtrTensorError, match=f"the state {state} is another server's"):
        pt.DataServer("127.0.0.1:0", id="bob2", state=state, **given)
    pt.DataServer("127.0.0.1:0", id="bob2", state=folder / "other.sqlite", **given).close()


def run(code: str, folder: Path, **environment: str) -> str:
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(code)],
        cwd=folder,
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        timeout=SECONDS,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.skipif(not hasattr(os, "fork"), reason="there is no fork")
def test_a_program_that_does_not_close_it(folder: Path, tmp_path: Path) -> None:
    """It is closed at the end; a forked child leaves it as it is."""
    printed = run(
        """
        import os, sys, tempfile, torch, ptrtensor as pt
        server = pt.DataServer("127.0.0.1:0", id="bob", identity="bob", trust="trusted", audit="unclosed.jsonl",
                               state="unclosed.sqlite")
        server.publish(torch.ones(2), name="x")
        child = os.fork()
        if child == 0:
            server.close()
            sys.exit(0)
        print(os.waitpid(child, 0)[1])
        (left,) = os.listdir(tempfile.gettempdir())
        print(len(os.listdir(os.path.join(tempfile.gettempdir(), left))))
        bob = pt.RemoteWorker(server.address, id="bob", identity="alice", trust="trusts-bob")
        print(len(bob.search()))
        bob.close()
        """,
        folder,
        TMPDIR=str(tmp_path),
    )
    assert printed == "0\n1\n1\n" and list(tmp_path.iterdir()) == []
    assert [line["event"] for line in records(folder / "unclosed.jsonl")] == [
        "server started",
        "published",
        "session began",
        "session ended",
        "server stopped",
    ]


def test_what_must_be_installed_is_said(folder: Path) -> None:
    """And only by who serves."""
    printed = run(
        """
        import sys
        sys.modules["cryptography"] = None
        import ptrtensor as pt
        try:
            pt.DataServer(id="bob", identity="bob")
        except pt.PtrTensorError as error:
            print(error)
        """,
        folder,
    )
    assert printed == "to serve data needs cryptography: pip install 'ptrtensor[serve]'\n"
