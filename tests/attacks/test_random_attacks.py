"""Attacks that nobody thought of: random ones, in which names are used again and again, see the same on two secrets."""

import random

import pytest
import torch
from by_hand import At, ByHand, Part
from desk import judged
from foul_play import OTHER, PLAIN
from test_attacks_on_privacy import BESIDE, RULES, SECRETS, publication_of, seen_of
from torch import Tensor

from ptrtensor._torch.memory import meta_of
from ptrtensor.owner.policy import Policy, Rule
from ptrtensor.version import __version__
from ptrtensor.wire import messages
from ptrtensor.wire.control import Quota
from ptrtensor.worker.identity import Identity
from ptrtensor.worker.session import Session

POLICY = Policy(rule=(*RULES, Rule(read="ask", refused=("abs",))))

SECRET = 1000
NAMES = [*range(1, 7), SECRET, SECRET, OTHER, PLAIN]

ROW, HALF = torch.zeros(4), torch.zeros(2)
INDEX = torch.zeros(4, dtype=torch.int64)


class Attacker:
    """Does so many things at random, the same for the same seed."""

    def __init__(self, seed: int, steps: int) -> None:
        self.seed = seed
        self.steps = steps

    def __call__(self, hand: ByHand, secret: int) -> None:
        chance = random.Random(self.seed)
        for name in range(1, 7):
            hand.handle(messages.Put(name, meta_of(ROW)), bytearray(16))
        hand.run("aten::_to_copy", At(SECRET), dtype=torch.int64, expect=[INDEX])
        for _ in range(self.steps):
            self.step(hand, chance)

    def step(self, hand: ByHand, chance: random.Random) -> None:
        x, y, z, to = (chance.choice(NAMES) for _ in range(4))
        to = chance.choice(range(1, 7))

        def run(op: str, *args: object, expect: list[Tensor] | None = None, **named: At | torch.dtype) -> None:
            hand.post([hand.command(hand.define(op, *args, expect=expect, draws=False, **named), to)])

        match chance.randrange(24):
            case 0:
                hand.handle(messages.Put(to, meta_of(ROW)), bytearray(16))
            case 1:
                hand.handle(messages.Put(to, meta_of(INDEX)), bytearray(32))
            case 2:
                run("aten::neg", At(x), expect=[ROW])
            case 3:
                run("aten::abs", At(x), expect=[ROW])
            case 4:
                run("aten::view", At(x), [4], expect=[ROW])
            case 5:
                run("aten::view_as", At(x), At(y), expect=[ROW])
            case 6 | 7:
                run("aten::_to_copy", At(chance.choice([SECRET, x])), dtype=torch.int64, expect=[INDEX])
            case 8 | 9:
                run("aten::index_select", At(x), 0, At(y), expect=[ROW])
            case 10:
                run("aten::copy_", At(x), At(y), expect=[])
            case 11:
                run("aten::set_.source_Tensor", At(x), At(y), expect=[])
            case 12:
                run("aten::index_add_", At(x), 0, At(y), At(z), expect=[])
            case 13:
                run("aten::unbind.int", At(x), expect=None)
            case 14:
                run("aten::broadcast_tensors", [At(x), At(y)], expect=[ROW, ROW])
            case 15:
                run("aten::add.out", At(x), At(y), out=At(z), expect=[])
            case 16:
                run("aten::split.Tensor", At(x), 2, expect=[HALF, HALF])
            case 17:
                hand.handle(messages.Search(1, (chance.choice(["#secret", "#plain", "#other", "#open"]),), to))
            case 18:
                hand.drop(x if x < SECRET else to)
            case 19:
                hand.handle(messages.Recover(2))
            case 20:
                run("aten::masked_select.out", At(x), At(y), out=At(z), expect=[])
            case 21:
                run("aten::alias", Part(x, 0, (4,), (1,)), expect=[ROW])
            case 22:
                run("aten::resize_", At(x), [0], expect=[])
            case 23:
                run("aten::gt.Tensor", At(x), At(y), expect=[torch.zeros(4, dtype=torch.bool)])
        for name in (x, to):
            hand.handle(messages.Fetch(3, name))
        hand.handle(messages.Describe(4, to))
        hand.handle(messages.Statistics(5))


@pytest.mark.filterwarnings("ignore:An output with one or more elements was resized")
@pytest.mark.parametrize("objects", [None, 14])
@pytest.mark.parametrize("seed", range(40))
def test_a_random_attack_sees_the_same_whatever_the_secret_is(seed: int, objects: int | None) -> None:
    seen = []
    for secret in SECRETS:
        publications = tuple(publication_of(name, tensor) for name, tensor in {"secret": secret, **BESIDE}.items())
        owner = judged(POLICY, publications, None)
        identity = Identity("bob", __version__, str(torch.__version__))
        session = Session(identity, owner=owner, quota=Quota(None, objects))
        seen.append(seen_of(secret.clone(), Attacker(seed, 60), session))
    for place, (first, second) in enumerate(zip(*seen, strict=True)):
        assert first == second, place
