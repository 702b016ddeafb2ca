"""The owner's side of a session in this process: what it asks is answered at once, by the clerk of a real server."""

import socket
from collections.abc import Callable

import msgspec

from ptrtensor.owner.clerk import Clerk
from ptrtensor.owner.policy import Policy
from ptrtensor.owner.sealing import Sealer
from ptrtensor.owner.state import State
from ptrtensor.transport.tls import Peer
from ptrtensor.wire.control import Answer, FromServer, Publication, Question, Quota, Ready, Reported
from ptrtensor.worker.channel import Channel, from_session
from ptrtensor.worker.distant_owner import DistantOwner

ALICE = Peer("alice", "a" * 64, False)
CAROL = Peer("carol", "c" * 64, False)


class NoSealer(Sealer):
    """Without an identity nothing is sealed."""

    def __init__(self) -> None:
        self.name = "bob"


class Desk(Channel[FromServer]):
    """The control channel of a session, without a process behind it."""

    owner: DistantOwner

    def __init__(self, answer: Callable[[Question], Answer | None]) -> None:
        self.asked: list[Question] = []
        self._answer = answer

    def send(self, message: Question, passed: socket.socket | None = None) -> None:
        self.asked.append(message)
        # As it arrives: not everything travels.
        arrived = from_session.decode(msgspec.msgpack.encode(message))
        assert not isinstance(arrived, Ready | Reported)
        answered = self._answer(arrived)
        if answered is not None:
            self.owner.hear(answered)


def judged(
    policy: Policy,
    publications: tuple[Publication, ...],
    state: State | None,
    *,
    peer: Peer = ALICE,
    record: Callable[..., None] = lambda event, **fields: None,
) -> DistantOwner:
    """The owner as a client's session sees it under this policy."""
    shown = policy.shown_to(peer.name, publications)
    named = {one.name: one for one in publications}
    desk = Desk(Clerk(policy, named, state, peer, "session", NoSealer(), record).answer)
    metered = policy.session_quota(peer.name, Quota()).metered
    desk.owner = DistantOwner(desk, {one.name: policy.grant(peer.name, one.tags) for one in shown}, metered=metered)
    return desk.owner
