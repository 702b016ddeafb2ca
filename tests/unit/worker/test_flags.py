"""The client's flags: each is applied, none outlives its use, none is taken that torch does not have."""

import msgspec
import pytest

from ptrtensor._torch.flags import read_flags
from ptrtensor.errors import ProtocolError
from ptrtensor.wire.messages import Settings
from ptrtensor.worker.flags import ClientFlags


def test_without_settings_nothing_changes() -> None:
    before = read_flags()
    with ClientFlags().applied():
        assert read_flags() == before


@pytest.mark.parametrize(
    "settings",
    [
        Settings(default_dtype="float64"),
        Settings(deterministic=True, deterministic_warn_only=True),
        Settings(fill_uninitialized=False),
        Settings(matmul_precision="medium"),
        Settings(flash_attention=False, memory_efficient_attention=False),
        Settings(math_attention=False, cudnn_attention=False),
        Settings(mkldnn=False),
        Settings(flush_denormal=True),
    ],
    ids=str,
)
def test_each_setting_is_applied_and_restored(settings: Settings) -> None:
    flags = ClientFlags()
    before = read_flags()
    flags.configure(settings)
    assert read_flags() == before
    with flags.applied():
        assert read_flags() == msgspec.structs.astuple(settings) != before
    assert read_flags() == before


def test_settings_are_restored_after_an_error() -> None:
    flags = ClientFlags()
    before = read_flags()
    flags.configure(Settings(default_dtype="float64"))
    with pytest.raises(KeyError), flags.applied():
        raise KeyError
    assert read_flags() == before


@pytest.mark.parametrize(
    "settings",
    [Settings(default_dtype="no_such_dtype"), Settings(default_dtype="int64"), Settings(matmul_precision="fast")],
    ids=str,
)
def test_settings_that_torch_does_not_have_are_refused(settings: Settings) -> None:
    """An integer cannot be torch's default dtype: refused here, not at every message after it."""
    with pytest.raises(ProtocolError):
        ClientFlags().configure(settings)
