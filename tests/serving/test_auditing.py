"""What a server writes down, and that it does not act where it cannot write."""

import errno
import os
from pathlib import Path

import numpy as np
import pytest
import torch
from hospital import open_hospital
from waiting import eventually

import ptrtensor as pt
from ptrtensor.owner.audit import Audit, records


@pytest.fixture
def data(tmp_path: Path) -> Path:
    np.save(tmp_path / "patients.npy", np.ones((3, 4), dtype=np.float32))
    return tmp_path / "patients.npy"


def test_the_record_of_a_session(tmp_path: Path, data: Path) -> None:
    audit = Audit(tmp_path / "audit.jsonl")
    with open_hospital(tmp_path, data, audit=audit) as hospital:
        with pytest.raises(pt.IdentityError):
            hospital.connect(who="eve")
        bob = hospital.connect()
        (patients,) = bob.search("#patients")
        for _ in range(5):
            with pytest.raises(pt.PermissionDeniedError):
                (patients * 2).cpu()
        with pytest.raises(pt.PermissionDeniedError):
            patients.nonzero()
        assert pt.send(torch.ones(2), bob).tolist() == [1, 1]
        bob.close()
        assert eventually(lambda: not hospital.server.sessions)
    audit.close()
    found = list(records(tmp_path / "audit.jsonl"))
    events = [str(record["event"]) for record in found]
    assert events[:3] == ["server started", "published", "connection refused"]
    assert events[3] == "session began" and events[-2:] == ["session ended", "server stopped"]
    assert found[1] | {"object": "patients", "private": True, "bytes": 48, "tensor": "float32[3, 4]"} == found[1]
    began, ended = found[3], found[-2]
    assert began["client"] == ended["client"] == "alice" and began["session"] == ended["session"]
    assert len(str(began["fingerprint"])) == 64 and ended["reason"] == "its client left"
    denied = [record for record in found if record["event"] == "denied"]
    assert all(record["session"] == began["session"] and record["objects"] == ["patients"] for record in denied)
    values = [record["count"] for record in denied if record["what"] == "the value"]
    assert values == [1] * 5 and len(denied) == 6
    product = {"operation": "aten::mul.Tensor", "tensor": "float32[3, 4]", "bytes": 48}
    assert all(record | product == record for record in denied if record["what"] == "the value")
    (shape,) = (record for record in denied if record["what"] != "the value")
    assert shape["operation"] == "aten::nonzero"
    assert all(isinstance(record["object"], int) for record in denied)


def test_a_server_that_cannot_write_its_log_stops(tmp_path: Path, data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    audit = Audit(tmp_path / "audit.jsonl")
    with open_hospital(tmp_path, data, audit=audit) as hospital:
        bob = hospital.connect()
        (patients,) = bob.search("#patients")

        def full(descriptor: int, written: bytes) -> int:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

        with monkeypatch.context() as patched:
            patched.setattr(os, "write", full)
            with pytest.raises(pt.WorkerLostError, match="cannot write its audit log"):
                while True:
                    with pytest.raises(pt.PermissionDeniedError):
                        patients.cpu()
        with pytest.raises(pt.WorkerLostError):
            hospital.connect(id="late")
        bob.close()
    audit.close()
