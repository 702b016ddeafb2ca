"""What a client may try who plays foul with private data."""

import torch
from by_hand import At, ByHand, Field

from ptrtensor._torch.memory import meta_of
from ptrtensor.wire import messages
from ptrtensor.wire.metadata import TensorMeta

OTHER, LIMITED, OPEN, PLAIN = 1100, 1200, 1300, 1400
"""What else is published, and the same whatever the secret is."""

SEVERAL = 20
"""More than a quota of objects leaves room for."""


def varied_counts(hand: ByHand, secret: int) -> None:
    """A prediction that held on its first run, and more results on its second."""
    split, fields = hand.define("aten::split.Tensor", At(secret), Field(2), expect=[torch.zeros(2), torch.zeros(2)])
    hand.post([hand.command((split, fields), 2000)])
    hand.post([(None, hand.command((split, [secret, 1]), 2004)[1])])


def results_of_unknown_number(hand: ByHand, secret: int) -> None:
    positive = hand.run("aten::gt.Scalar", At(secret), 0, expect=[torch.zeros(4, dtype=torch.bool)])
    found = hand.run("aten::nonzero", At(positive), expect=None)
    hand.run("aten::unbind.int", At(found), expect=None)
    hand.run("aten::unbind.int", At(secret), expect=None)


def failing(hand: ByHand, secret: int) -> None:
    """An index that is out of range for one of the secrets."""
    index = hand.run("aten::_to_copy", At(secret), dtype=torch.int64, expect=[torch.zeros(4, dtype=torch.int64)])
    table = hand.put(torch.arange(3.0))
    target = hand.put(torch.zeros(4))
    looked_up = hand.run("aten::index_select", At(table), 0, At(index), expect=[torch.zeros(4)])
    hand.run("aten::add_.Tensor", At(target), At(looked_up))
    hand.run("aten::neg", At(target), expect=[torch.zeros(4)])
    hand.run("aten::index_select", At(table), 0, At(index), expect=None)
    hand.run("aten::split.Tensor", At(looked_up), 1, expect=None)


def hidden_statistics(hand: ByHand, secret: int) -> None:
    x = hand.run("aten::view", At(secret), [2, 2], expect=[torch.zeros(2, 2)])
    mean, variance = hand.put(torch.zeros(2)), hand.put(torch.ones(2))
    statistics = [torch.zeros(2, 2), torch.zeros(2), torch.zeros(2)]
    hand.run("aten::native_batch_norm", At(x), None, None, At(mean), At(variance), True, 1.0, 1e-5, expect=statistics)


def given_another_storage(hand: ByHand, secret: int) -> None:
    target = hand.put(torch.zeros(4))
    hand.run("aten::set_.source_Tensor", At(target), At(secret))
    hand.run("aten::neg", At(target), expect=[torch.zeros(4)])


def an_alias_from_before(hand: ByHand, secret: int) -> None:
    target = hand.put(torch.zeros(4))
    alias = hand.run("aten::view", At(target), [2, 2], expect=[torch.zeros(2, 2)])
    of_alias = hand.run("aten::select.int", At(alias), 0, 0, expect=[torch.zeros(2)])
    hand.drop(alias)
    hand.run("aten::copy_", At(target), At(secret))
    hand.drop(target)
    hand.run("aten::neg", At(of_alias), expect=[torch.zeros(2)])


def a_name_that_is_used_twice(hand: ByHand, secret: int) -> None:
    """A private result under the name of something public, and the other way round."""
    public = hand.put(torch.zeros(4))
    hand.post([hand.command(hand.define("aten::neg", At(secret), expect=[torch.zeros(4)]), public)])
    private = hand.run("aten::neg", At(secret), expect=[torch.zeros(4)])
    hand.handle(messages.Put(private, meta_of(torch.zeros(4))), bytearray(16))


def numbers_in_order(hand: ByHand, secret: int) -> None:
    """How many numbers are drawn depends on the rates."""
    hand.handle(messages.ManualSeed(3))
    rates = hand.run("aten::exp", At(secret), expect=[torch.zeros(4)])
    hand.run("aten::poisson", At(rates), expect=[torch.zeros(4)], seed=0)
    hand.run("aten::rand_like", At(hand.put(torch.zeros(4))), expect=[torch.zeros(4)], seed=0)


def wrong_predictions(hand: ByHand, secret: int) -> None:
    positive = hand.run("aten::gt.Scalar", At(secret), 0, expect=[torch.zeros(4, dtype=torch.bool)])
    hand.run("aten::masked_select", At(secret), At(positive), expect=[torch.zeros(2)])
    hand.run("aten::masked_select", At(secret), At(positive), expect=[torch.zeros(4)])


def what_is_refused(hand: ByHand, secret: int) -> None:
    hand.run("aten::no_such_operation", At(secret), expect=[torch.zeros(4)])
    hand.run("aten::equal", At(secret), At(secret), expect=None)
    hand.run("aten::_local_scalar_dense", At(hand.run("aten::sum", At(secret), expect=[torch.zeros(())])), expect=None)


def tagged(hand: ByHand, secret: int) -> None:
    index = hand.run("aten::_to_copy", At(secret), dtype=torch.int64, expect=[torch.zeros(4, dtype=torch.int64)])
    looked_up = hand.run("aten::index_select", At(hand.put(torch.arange(3.0))), 0, At(index), expect=[torch.zeros(4)])
    hand.handle(messages.Annotate(looked_up, ("#mine",), "mine"))
    hand.handle(messages.Search(20, ("#mine",), 2000))


def looked_up(hand: ByHand, secret: int) -> int:
    """What fails for one of the secrets."""
    index = hand.run("aten::_to_copy", At(secret), dtype=torch.int64, expect=[torch.zeros(4, dtype=torch.int64)])
    return hand.run("aten::index_select", At(hand.put(torch.arange(3.0))), 0, At(index), expect=[torch.zeros(4)])


def a_view_labelled_before_the_write(hand: ByHand, secret: int) -> None:
    """The view has the label already when it is written to; what it is a view of has not."""
    public = hand.put(torch.zeros(4))
    view = hand.run("aten::view_as", At(public), At(secret), expect=[torch.zeros(4)])
    hand.run("aten::copy_", At(view), At(secret))


def an_alias_that_no_schema_tells_of(hand: ByHand, secret: int) -> None:
    public = hand.put(torch.zeros(4))
    both = hand.run("aten::broadcast_tensors", [At(public), At(secret)], expect=[torch.zeros(4), torch.zeros(4)])
    hand.run("aten::copy_", At(both), At(secret))


def a_public_view_under_a_private_name(hand: ByHand, secret: int) -> None:
    public = hand.put(torch.zeros(4))
    private = hand.run("aten::neg", At(secret), expect=[torch.zeros(4)])
    hand.post([hand.command(hand.define("aten::view", At(public), [4], expect=[torch.zeros(4)]), private)])
    hand.run("aten::copy_", At(private), At(secret))


def a_publication_under_a_private_name(hand: ByHand, secret: int) -> None:
    private = hand.run("aten::neg", At(secret), expect=[torch.zeros(4)])
    hand.handle(messages.Search(30, ("#plain",), private))
    hand.run("aten::copy_", At(private), At(secret))
    hand.handle(messages.Fetch(31, PLAIN))


def a_public_storage_for_what_is_private(hand: ByHand, secret: int) -> None:
    public = hand.put(torch.zeros(4))
    private = hand.run("aten::neg", At(secret), expect=[torch.zeros(4)])
    hand.run("aten::set_.source_Tensor", At(private), At(public))
    hand.run("aten::copy_", At(private), At(secret))


def what_an_instruction_learned(hand: ByHand, secret: int) -> None:
    """Whether its prediction held for the secret."""
    index = hand.run("aten::_to_copy", At(secret), dtype=torch.int64, expect=[torch.zeros(4, dtype=torch.int64)])
    table, short = hand.put(torch.arange(3.0)), hand.put(torch.tensor([0, 1]))
    select, _ = hand.define("aten::index_select", At(table), 0, At(index), expect=[torch.zeros(4)])
    hand.post([hand.command((select, [table, index]), 2000)])
    hand.post([(None, hand.command((select, [table, short]), 2001)[1])])


def names_beyond_the_first(hand: ByHand, secret: int) -> None:
    """Whose values results of an unknown number would take the place of."""
    found = looked_up(hand, secret)
    for name in range(2001, 2008):
        hand.handle(messages.Put(name, meta_of(torch.zeros(4))), bytearray(16))
    hand.post([hand.command(hand.define("aten::unbind.int", At(found), expect=None), 2000)])


def a_published_one_that_was_resized(hand: ByHand, secret: int) -> None:
    positive = hand.run("aten::gt.Scalar", At(secret), 4, expect=[torch.zeros(4, dtype=torch.bool)])
    for name in (secret, PLAIN):
        hand.run("aten::resize_", At(name), [0])
        hand.run("aten::masked_select.out", At(OTHER), At(positive), out=At(name))


def a_published_one_that_failed(hand: ByHand, secret: int) -> None:
    hand.run("aten::add_.Tensor", At(PLAIN), At(looked_up(hand, secret)))
    index = hand.run("aten::_to_copy", At(secret), dtype=torch.int64, expect=[torch.zeros(4, dtype=torch.int64)])
    hand.run("aten::index_add_", At(PLAIN), 0, At(index), At(hand.put(torch.ones(4))))


def an_alias_of_what_failed(hand: ByHand, secret: int) -> None:
    """Whether the second has the label of what was written to the first would say whether there is a first."""
    first = looked_up(hand, secret)
    second = hand.run("aten::view", At(first), [4], expect=[torch.zeros(4)])
    hand.run("aten::copy_", At(first), At(OTHER))
    hand.run("aten::neg", At(second), expect=[torch.zeros(4)])


def an_alias_of_what_failed_in_place(hand: ByHand, secret: int) -> None:
    first = hand.put(torch.zeros(4))
    second = hand.run("aten::view", At(first), [4], expect=[torch.zeros(4)])
    index = hand.run("aten::_to_copy", At(secret), dtype=torch.int64, expect=[torch.zeros(4, dtype=torch.int64)])
    hand.run("aten::index_add_", At(first), 0, At(index), At(hand.put(torch.ones(4))))
    hand.run("aten::copy_", At(first), At(OTHER))
    hand.run("aten::neg", At(second), expect=[torch.zeros(4)])


def a_failed_name_that_is_used_again(hand: ByHand, secret: int) -> None:
    found = looked_up(hand, secret)
    hand.post([hand.command(hand.define("aten::neg", At(secret), expect=[torch.zeros(4)]), found)])
    found = looked_up(hand, secret)
    hand.handle(messages.Put(found, meta_of(torch.zeros(4))), bytearray(16))
    found = looked_up(hand, secret)
    hand.handle(messages.Search(30, ("#plain",), found))


def results_that_are_undefined(hand: ByHand, secret: int) -> None:
    """Of those that succeed; of those that fail all are poisoned."""
    x = hand.run("aten::view", At(looked_up(hand, secret)), [2, 2], expect=[torch.zeros(2, 2)])
    ones = hand.put(torch.ones(2, 1))
    predicted = [torch.zeros(2, 2), None, None]
    for _ in range(3):
        hand.run(
            "aten::native_layer_norm_backward",
            *(At(x), At(x), [2], At(ones), At(ones), None, None, [True, False, False]),
            expect=predicted,
        )


def closed_mixed_with_open(hand: ByHand, secret: int) -> None:
    found = looked_up(hand, secret)
    mixed = hand.run("aten::add.Tensor", At(found), At(OPEN), expect=[torch.zeros(4)])
    hand.run("aten::mul.Tensor", At(mixed), At(LIMITED), expect=[torch.zeros(4)])
    hand.run("aten::nonzero", At(mixed), expect=None)
    hand.run("aten::add_.Tensor", At(OPEN), At(found))
    hand.run("aten::nonzero", At(OPEN), expect=None)
    hand.run("aten::add_.Tensor", At(LIMITED), At(found))
    hand.run("aten::sum", At(LIMITED), expect=[torch.zeros(())])


def refused_on_one(hand: ByHand, secret: int) -> None:
    found = looked_up(hand, secret)
    hand.run("aten::neg", At(OTHER), expect=[torch.zeros(4)])
    both = hand.run("aten::add.Tensor", At(found), At(OTHER), expect=[torch.zeros(4)])
    hand.run("aten::neg", At(both), expect=[torch.zeros(4)])
    hand.run("aten::neg_", At(found))
    hand.run("aten::neg", At(both), expect=None)
    hand.handle(messages.Recover(30))
    hand.run("aten::abs", At(both), expect=[torch.zeros(4)])


def asked_for(hand: ByHand, secret: int) -> None:
    found = looked_up(hand, secret)
    large = hand.run("aten::expand", At(found), [2_000_000, 4], expect=[torch.zeros(4).expand(2_000_000, 4)])
    positive = hand.run("aten::gt.Scalar", At(secret), 4, expect=[torch.zeros(4, dtype=torch.bool)])
    some = hand.run("aten::masked_select", At(secret), At(positive), expect=[None])
    for name in (found, large, some, secret, positive, 4000, LIMITED, OPEN, PLAIN):
        hand.handle(messages.AskRelease(40, name, "why not"))
        hand.handle(messages.ListReleases(41))
    for id in ("1", "2", "7", "", "\0", "x" * 100):
        hand.handle(messages.CollectRelease(42, id))


def timed(hand: ByHand, secret: int) -> None:
    """Of operations that were timed the number is told."""
    hand.handle(messages.Measure(43, True))
    hand.run("aten::neg", At(looked_up(hand, secret)), expect=[torch.zeros(4)])
    hand.handle(messages.Measure(44, False))


def what_was_said_before_it_was_private(hand: ByHand, secret: int) -> None:
    """A public command whose caller asks for the shapes only after a private one has changed them."""
    target = hand.put(torch.zeros(1))
    public = hand.run("aten::add_.Tensor", At(target), At(target), expect=None)
    sizes = [hand.run("aten::_local_scalar_dense", At(one(hand, secret, place)), expect=[None]) for place in (0, 3)]
    hand.run("aten::resize_", At(target), [At(sizes[0]), At(sizes[1]), 0])
    hand.handle(messages.Describe(20, public))


def one(hand: ByHand, secret: int, place: int) -> int:
    whole = hand.run("aten::_to_copy", At(secret), dtype=torch.int64, expect=[torch.zeros(4, dtype=torch.int64)])
    return hand.run("aten::select.int", At(whole), 0, place, expect=[torch.zeros((), dtype=torch.int64)])


def sizes_and_strides(hand: ByHand, secret: int) -> None:
    size = hand.run("aten::_local_scalar_dense", At(one(hand, secret, 3)), expect=[None])
    hand.run("aten::as_strided", At(OPEN), [1, 1], [At(size), 1], 0, expect=[None])
    hand.run("aten::as_strided_", At(LIMITED), [1, 1], [At(size), 1], 0)
    hand.run("aten::new_empty", At(OPEN), [At(size), 0], expect=[None])


def numbers_without_a_seed(hand: ByHand, secret: int) -> None:
    """How many are drawn would show in the generator of the process."""
    torch.manual_seed(0)
    hand.run("aten::poisson", At(hand.run("aten::exp", At(secret), expect=[torch.zeros(4)])), expect=[torch.zeros(4)])
    for _ in range(2):
        hand.run("aten::rand", [1], expect=[torch.zeros(1)])


def numbers_in_order_for_others(hand: ByHand, secret: int) -> None:
    hand.handle(messages.ManualSeed(3))
    rates = hand.run("aten::exp", At(secret), expect=[torch.zeros(4)])
    hand.run("aten::poisson", At(rates), expect=[torch.zeros(4)], seed=0)
    for shown in (LIMITED, OPEN):
        hand.run("aten::rand_like", At(shown), expect=[torch.zeros(4)], seed=0)


def two_names_for_one(hand: ByHand, secret: int) -> None:
    """Not for two tensors that share memory: for one tensor."""
    tagged, lifted = hand.put(torch.zeros(4)), hand.put(torch.zeros(4))
    hand.handle(messages.Annotate(tagged, ("#mine",), "mine"))
    hand.handle(messages.Search(20, ("#mine",), 2000))
    hand.run("aten::lift_fresh", At(lifted), expect=[torch.zeros(4)])
    for name in (tagged, lifted):
        hand.run("aten::copy_", At(name), At(secret))


def counted_numbers(hand: ByHand, secret: int) -> None:
    """How often something ran that was given a number, or would have been."""
    found = hand.run("aten::sum", At(looked_up(hand, secret)), expect=[torch.zeros(())])
    number = hand.run("aten::_local_scalar_dense", At(found), expect=[None])
    hand.handle(messages.Measure(43, True))
    hand.run("aten::full_like", At(PLAIN), At(number), expect=[torch.zeros(4)])
    hand.run("aten::fill_.Scalar", At(hand.put(torch.zeros(4))), At(number))
    hand.handle(messages.Measure(44, False))


def the_order_of_names(hand: ByHand, secret: int) -> None:
    """Whether there was something under a name before shows in where it is listed."""
    found = looked_up(hand, secret)
    for name in range(2000, 2004):
        hand.post([hand.command(hand.define("aten::neg", At(found), expect=[torch.zeros(4)]), name)])
    public = hand.put(torch.ones(3))
    hand.post([hand.command(hand.define("aten::unbind.int", At(public), expect=None), 1999)])
    for _ in range(SEVERAL):
        hand.put(torch.zeros(1))


def a_put_that_fails(hand: ByHand, secret: int) -> None:
    """Onto a name that has a value, or has none."""
    broken = TensorMeta((2, 2), (1, 1), "float32")
    hand.handle(messages.Put(looked_up(hand, secret), broken), bytearray(16))
    for _ in range(SEVERAL):
        hand.put(torch.zeros(1))


ATTACKS = [
    varied_counts,
    results_of_unknown_number,
    failing,
    hidden_statistics,
    given_another_storage,
    an_alias_from_before,
    a_name_that_is_used_twice,
    numbers_in_order,
    wrong_predictions,
    what_is_refused,
    tagged,
    a_view_labelled_before_the_write,
    an_alias_that_no_schema_tells_of,
    a_public_view_under_a_private_name,
    a_publication_under_a_private_name,
    a_public_storage_for_what_is_private,
    what_an_instruction_learned,
    names_beyond_the_first,
    a_published_one_that_was_resized,
    a_published_one_that_failed,
    an_alias_of_what_failed,
    an_alias_of_what_failed_in_place,
    a_failed_name_that_is_used_again,
    results_that_are_undefined,
    closed_mixed_with_open,
    refused_on_one,
    asked_for,
    timed,
    what_was_said_before_it_was_private,
    sizes_and_strides,
    numbers_without_a_seed,
    numbers_in_order_for_others,
    two_names_for_one,
    counted_numbers,
    the_order_of_names,
    a_put_that_fails,
]
