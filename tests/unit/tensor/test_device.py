"""Workers as devices: indices 1 to 127, each one worker's, and none given to another while its pointers live (F1)."""

import threading
from collections.abc import Callable, Iterator

import pytest
import torch
from collecting import collect
from torch import Tensor

import ptrtensor as pt
from ptrtensor.errors import PtrTensorError, WorkerLostError
from ptrtensor.tensor.device import MAX_INDEX, CurrentDevice, DeviceModule, Devices
from ptrtensor.tensor.worker import devices as shared


class Alive:
    """What pointers hold."""


class Owner:
    """A worker as far as its device is concerned."""

    def __init__(self, id: str) -> None:
        self.id = id
        self.alive = Alive()
        self.generator: Tensor | None = None

    def read_generator(self) -> Tensor | None:
        return self.generator

    def write_generator(self, state: Tensor) -> None:
        self.generator = state


@pytest.fixture
def devices() -> Devices[Owner]:
    return Devices()


def added(devices: Devices[Owner], *names: str) -> list[tuple[Owner, torch.device]]:
    made = []
    for name in names:
        owner = Owner(name)
        device = devices.register(owner)
        made.append((owner, device))
    return made


def index_of(devices: Devices[Owner], name: str) -> int | None:
    ((_, device),) = added(devices, name)
    return device.index


# --- indices


def test_indices_begin_at_one(devices: Devices[Owner]) -> None:
    made = added(devices, "a", "b", "c")
    assert [device for _, device in made] == [torch.device("lazy", index) for index in (1, 2, 3)]
    assert [devices.worker(device) for _, device in made] == [owner for owner, _ in made] == devices.all()


def test_the_128th_is_refused(devices: Devices[Owner]) -> None:
    made = added(devices, *(str(place) for place in range(MAX_INDEX)))
    assert [device.index for _, device in made] == list(range(1, 128))
    with pytest.raises(PtrTensorError, match=r"'one more': torch has room for 127 workers.*close\(\)"):
        devices.register(Owner("one more"))
    devices.release(made.pop(40)[0])
    assert index_of(devices, "instead") == 41


def test_two_of_one_name(devices: Devices[Owner]) -> None:
    ((owner, _),) = added(devices, "a")
    with pytest.raises(PtrTensorError, match="there is a worker 'a' already"):
        devices.register(Owner("a"))
    devices.release(owner)
    added(devices, "a")


def test_an_index_is_taken_as_soon_as_it_is_given(devices: Devices[Owner]) -> None:
    """Two threads that make workers at once must not get one device, nor one name: data would go to the wrong one."""
    one, other = Owner("a"), Owner("b")
    assert devices.register(one) != devices.register(other)
    with pytest.raises(PtrTensorError, match="already"):
        devices.register(Owner("a"))


def test_an_index_is_given_again_when_nothing_of_its_worker_lives(devices: Devices[Owner]) -> None:
    (owner, device), _ = added(devices, "a", "b")
    pointer = owner.alive
    devices.release(owner)
    del owner
    assert index_of(devices, "c") == 3
    del pointer
    assert index_of(devices, "d") == 1


def test_an_index_is_given_again_when_only_garbage_holds_it(devices: Devices[Owner]) -> None:
    made = added(devices, *(str(place) for place in range(MAX_INDEX)))
    owner, _ = made.pop(6)
    cycle: list[object] = [owner.alive]
    cycle.append(cycle)
    devices.release(owner)
    collect()
    del owner, cycle
    assert index_of(devices, "after the collection") == 7


def test_release_is_for_the_owner_only(devices: Devices[Owner]) -> None:
    ((owner, device),) = added(devices, "a")
    devices.release(Owner("somebody else"))
    assert devices.worker(device) is owner
    devices.release(owner)
    devices.release(owner)


@pytest.mark.parametrize("index", [0, 5, 127])
def test_an_index_that_is_nobodys(devices: Devices[Owner], index: int) -> None:
    added(devices, "a", "b")
    with pytest.raises(PtrTensorError, match=rf"device lazy:{index} \(lazy:1 is a, lazy:2 is b\).*index 0"):
        devices.worker(torch.device("lazy", index))


def test_an_index_when_there_are_no_workers(devices: Devices[Owner]) -> None:
    with pytest.raises(PtrTensorError, match="there are no workers"):
        devices.worker(torch.device("lazy", 1))


def test_a_closed_workers_index(devices: Devices[Owner]) -> None:
    ((owner, device),) = added(devices, "a")
    devices.release(owner)
    with pytest.raises(WorkerLostError, match="was worker 'a', which is closed"):
        devices.worker(device)


# --- with real workers


@pytest.mark.parametrize("device", ["lazy", "lazy:0", "lazy:126"])
def test_factories_on_an_index_that_is_nobodys(virtual_worker: pt.VirtualWorker, device: str) -> None:
    with pytest.raises(PtrTensorError, match="no worker has the device|, which is closed"):  # of another test
        torch.zeros(2, device=device)


def test_a_type_without_an_index_is_an_error(virtual_worker: pt.VirtualWorker) -> None:
    with pytest.raises(PtrTensorError, match="no worker has the index 0"):
        torch.zeros(2, device="lazy")


def test_a_pointer_keeps_the_index_of_its_closed_worker(make_worker: Callable[[str], pt.Worker]) -> None:
    first = make_worker("virtual")
    pointer, device = pt.send(torch.ones(2), first), first.device
    first.close()
    second = make_worker("virtual")
    assert second.device != device
    with pytest.raises(WorkerLostError, match="closed"):
        pointer + 1
    with pytest.raises(WorkerLostError, match="closed"):
        torch.zeros(2, device=device)
    assert pointer.device == device


def test_an_index_comes_back_with_the_last_pointer() -> None:
    first = pt.VirtualWorker(id="device-first")
    pointer, device = pt.send(torch.ones(2), first), first.device
    first.close()
    del first, pointer
    collect()
    with_same_device = []
    for place in range(MAX_INDEX):  # the lowest that is free, whatever other tests hold
        worker = pt.VirtualWorker(id=f"device-{place}")
        with_same_device.append(worker)
        if worker.device == device:
            break
    assert with_same_device[-1].device == device
    for worker in with_same_device:
        worker.close()


def test_workers_made_at_once_have_different_devices() -> None:
    made: list[pt.Worker] = []
    barrier = threading.Barrier(8)

    def make(place: int) -> None:
        barrier.wait()
        made.append(pt.VirtualWorker(id=f"at-once-{place}"))

    threads = [threading.Thread(target=make, args=(place,)) for place in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    taken = [worker.device for worker in made]
    for worker in made:
        worker.close()
    assert len(set(taken)) == 8


def test_of_two_workers_of_one_name_the_second_is_refused_and_closed(virtual_worker: pt.VirtualWorker) -> None:
    before = shared.all()
    with pytest.raises(PtrTensorError, match="already"):
        pt.VirtualWorker(id=virtual_worker.id)
    assert shared.all() == before
    assert shared.worker(virtual_worker.device) is virtual_worker


def test_a_name_is_free_until_it_is_registered(devices: Devices[Owner]) -> None:
    devices.check_free("a")
    ((owner, _),) = added(devices, "a")
    with pytest.raises(PtrTensorError, match="there is a worker 'a' already"):
        devices.check_free("a")
    devices.check_free("b")
    devices.release(owner)
    devices.check_free("a")


# --- torch.lazy


@pytest.fixture
def module(devices: Devices[Owner]) -> DeviceModule[Owner]:
    return DeviceModule(devices)


def test_torch_finds_the_module(virtual_worker: pt.VirtualWorker) -> None:
    module = torch.get_device_module("lazy")
    assert module is torch.get_device_module(virtual_worker.device)
    assert module.is_initialized() and module.is_available()
    assert module.device_count() > virtual_worker.device.index


def test_counts(devices: Devices[Owner], module: DeviceModule[Owner]) -> None:
    assert not module.is_available() and module.device_count() == 1
    made = added(devices, "a", "b", "c")
    devices.release(made[1][0])
    assert module.is_available() and module.device_count() == 4


@pytest.mark.parametrize("device", [2, torch.device("lazy", 2)])
def test_current_device(module: DeviceModule[Owner], device: int | torch.device) -> None:
    assert module.current_device() == 0
    with module.device(device):
        assert module.current_device() == 2
        with module.device(None), CurrentDevice(module, 3):
            assert module.current_device() == 3
        assert module.current_device() == 2
    assert module.current_device() == 0
    module.set_device(device)
    assert module.current_device() == 2


def test_generator_states_are_the_workers(devices: Devices[Owner], module: DeviceModule[Owner]) -> None:
    (owner, device), _ = added(devices, "a", "b")
    assert module.get_rng_state(device).numel() == 0, "seeds travel with the commands"
    module.set_rng_state(module.get_rng_state(device), device)
    assert owner.generator is None
    owner.generator = torch.tensor([1, 2], dtype=torch.uint8)
    state = module.get_rng_state(1)
    assert torch.equal(state, owner.generator)
    module.set_rng_state(torch.tensor([3], dtype=torch.uint8), device)
    assert owner.generator.tolist() == [3]
    with module.device(1):
        assert module.get_rng_state().tolist() == [3]
    with pytest.raises(PtrTensorError, match="no worker"):
        module.get_rng_state()


@pytest.fixture
def with_default_device() -> Iterator[None]:
    yield
    torch.set_default_device(None)  # not to "cpu", which would leave a mode on the stack


def test_what_torch_asks_of_a_device_module(virtual_worker: pt.VirtualWorker, with_default_device: None) -> None:
    with torch.random.fork_rng(devices=[virtual_worker.device.index], device_type="lazy"):
        drawn = torch.rand(3)
    assert torch.equal(torch.rand(3), drawn)
    torch.set_default_device(virtual_worker.device)
    assert pt.is_pointer(torch.zeros(2))
