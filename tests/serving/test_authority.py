"""An authority that the server trusts vouches for clients whose certificates it has never seen."""

import contextlib
from collections.abc import Iterator

import pytest
import torch
from hospital import Hospital, make_keys, open_hospital

import ptrtensor as pt
from ptrtensor.owner import keys


@pytest.fixture(scope="module")
def hospital(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Hospital]:
    """clinic is trusted and has signed for dave and erin; rogue, who signed for mallory, is not."""
    folder = tmp_path_factory.mktemp("authority")
    make_keys(folder)
    for authority, clients in (("clinic", ("dave", "erin")), ("rogue", ("mallory",))):
        keys.new_identity(authority, folder, is_authority=True)
        for client in clients:
            keys.new_identity(client, folder, authority=folder / authority)
    keys.trust(folder / "clinic" / "clinic.pem", folder / "trusted", authority=True)
    with open_hospital(folder, ahead=2) as opened:
        yield opened


def test_whom_it_signed_for_computes_under_the_name_that_it_signed(hospital: Hospital) -> None:
    with contextlib.ExitStack() as stack:
        for client in ("dave", "erin"):
            bob = stack.enter_context(contextlib.closing(hospital.connect(id=f"bob/{client}", who=client)))
            assert (pt.send(torch.ones(2), bob) + 1).tolist() == [2, 2]
        assert sorted(session.peer.name for session in hospital.server.sessions) == ["dave", "erin"]


def test_whom_another_signed_for_is_refused(hospital: Hospital) -> None:
    with pytest.raises(pt.IdentityError, match=r"does not accept this side's certificate"):
        hospital.connect(who="mallory")


def test_the_authority_itself_is_no_client(hospital: Hospital) -> None:
    with pytest.raises(pt.PtrTensorError, match="authority"):
        hospital.connect(who="clinic")
