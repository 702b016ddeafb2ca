"""A forked child of a process that has workers: they stay the parent's (D18)."""

import os
import signal

from child_processes import is_running, run, start, until_gone

PARENT = """
import gc, os, sys, torch, ptrtensor as pt

workers = pt.VirtualWorker(id="here"), pt.ProcessWorker(id="there")
pointers = [torch.arange(4.0, device=bob.device) for bob in workers]

def in_child(act):
    \"\"\"Run it in a forked child, which may take ten seconds; its exit status.\"\"\"
    sys.stdout.flush()
    pid = os.fork()
    if pid == 0:
        import signal
        signal.alarm(10)
        status = 1
        try:
            act()
            status = 0
        except BaseException:
            import traceback
            traceback.print_exc()
        finally:
            sys.stdout.flush()
            sys.stderr.flush()
            os._exit(status)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])

def check():
    for bob, pointer in zip(workers, pointers):
        assert (pointer * 2).sum().item() == 12
        assert pt.send(torch.ones(2), bob).tolist() == [1, 1]
        bob.synchronize()
"""


def run_parent(code: str) -> str:
    """What the program prints; it must end well and say nothing on standard error."""
    finished = run(PARENT + code)
    assert finished["status"] == 0, finished["errors"]
    assert finished["errors"] == ""
    return finished["output"]


def test_each_use_in_a_child_is_a_named_error_and_the_parent_goes_on() -> None:
    output = run_parent("""
def act():
    for bob, pointer in zip(workers, pointers):
        for name, use in {
            "cpu": pointer.cpu,
            "item": pointer.sum,
            "add": lambda: pointer + 1,
            "in place": lambda: pointer.add_(1),
            "get": lambda: pt.get(pointer),
            "send": lambda: pt.send(torch.ones(2), bob),
            "factory": lambda: torch.zeros(2, device=bob.device),
            "copy_": lambda: pointer.copy_(torch.ones(4)),
            "tag": lambda: pointer.tag("tag"),
            "synchronize": bob.synchronize,
            "recover": bob.recover,
            "stats": bob.stats,
            "search": lambda: bob.search("tag"),
            "manual_seed": lambda: bob.manual_seed(1),
            "objects": lambda: bob.objects,
        }.items():
            try:
                use()
            except pt.PtrTensorError as error:
                assert "fork" in str(error) and bob.id in str(error), (name, error)
                print(bob.id, name)
            else:
                print(bob.id, name, "did not raise")
        assert pointer.shape == (4,) and repr(pointer)
        bob.close()

with_pending = [pointer + 1 for pointer in pointers]
assert in_child(act) == 0
check()
for pending in with_pending:
    assert pending.tolist() == [1, 2, 3, 4]
""")
    assert "did not raise" not in output
    assert len(output.splitlines()) == 30


def test_what_a_child_drops_the_parent_keeps() -> None:
    run_parent("""
def act():
    pointers.clear()
    gc.collect()
    import atexit
    atexit._run_exitfuncs()  # as in a child that ends in the ordinary way

before = [bob.stats()["objects"] for bob in workers]
results = [pointer + 1 for pointer in pointers]
assert in_child(act) == 0
assert [bob.stats()["objects"] for bob in workers] == [count + 1 for count in before]
for result in results:
    assert result.tolist() == [1, 2, 3, 4]
check()
""")


def test_what_failed_is_the_parents_to_tell() -> None:
    run_parent("""
index = torch.tensor([7])
for bob, pointer in zip(workers, pointers):
    pointer.gather(0, pt.send(index, bob))
    bob.stats()

def act():
    import atexit
    atexit._run_exitfuncs()

assert in_child(act) == 0
for bob in workers:
    try:
        bob.synchronize()
    except pt.RemoteOpError:
        pass
    else:
        raise AssertionError("the parent did not hear of it")
""")


def test_a_child_may_have_workers_of_its_own() -> None:
    output = run_parent("""
def act():
    for kind in (pt.VirtualWorker, pt.ProcessWorker):
        mine = kind(id="mine")
        value = torch.ones(2, device=mine.device, requires_grad=True)
        (value * 2).sum().backward()
        assert value.grad.tolist() == [2, 2]
        if kind is pt.ProcessWorker:
            print(mine._process.process.pid)
        else:
            mine.close()

assert in_child(act) == 0
check()
""")
    until_gone(int(output), seconds=20)


def test_a_child_of_a_child() -> None:
    run_parent("""
def act():
    def deeper():
        try:
            pointers[1].cpu()
        except pt.PtrTensorError as error:
            assert "fork" in str(error)
        else:
            raise AssertionError
    assert in_child(deeper) == 0

assert in_child(act) == 0
check()
""")


def test_many_forks_while_other_threads_compute() -> None:
    """Whatever lock another thread held at the fork, the child does not wait for it."""
    run_parent("""
import threading
stop = False
failures = []

def stream(pointer):
    try:
        while not stop:
            value = pointer
            for _ in range(50):
                value = value * 0.5 + 1
            value.sum().item()
    except BaseException as error:
        failures.append(error)

def act():
    for bob, pointer in zip(workers, pointers):
        for use in (
            lambda: pointer + 1,
            pointer.cpu,
            lambda: pt.send(torch.ones(2), bob),
            lambda: bob.manual_seed(1),
            lambda: pointer.tag("tag"),
            bob.synchronize,
        ):
            try:
                use()
            except pt.PtrTensorError as error:
                assert "fork" in str(error)
            else:
                raise AssertionError(use)
        bob.close()
    pt.VirtualWorker(id="mine").close()

sys.setswitchinterval(1e-4)
threads = [threading.Thread(target=stream, args=(pointer,)) for pointer in pointers for _ in range(2)]
for thread in threads:
    thread.start()
try:
    forks = 0
    while forks < 40 and in_child(act) == 0:
        forks += 1
finally:
    stop = True
    for thread in threads:
        thread.join()
assert forks == 40, forks
assert failures == []
check()
""")


def test_a_data_loader_with_processes_gives_the_error_of_its_child() -> None:
    output = run_parent("""
from torch.utils.data import DataLoader, TensorDataset
pointer = pointers[1]
assert [batch.tolist() for (batch,) in DataLoader(TensorDataset(pointer), batch_size=2)] == [[0, 1], [2, 3]]
try:
    list(DataLoader(TensorDataset(pointer), num_workers=1, timeout=30, multiprocessing_context="fork"))
except pt.PtrTensorError as error:
    print("fork" in str(error))
check()
""")
    assert output == "True\n"


def test_a_child_that_outlives_its_parent_does_not_keep_the_worker() -> None:
    program = start(
        PARENT
        + """
pid = os.fork()
if pid == 0:
    import time
    time.sleep(100)
    os._exit(0)
print("child", pid, workers[1]._process.process.pid, flush=True)
workers[0].close()
os._exit(0)
"""
    )
    with program:
        child, worker = map(int, program.says("child ").split())
        try:
            assert program.ends() == 0, program.errors
            until_gone(worker, seconds=20)
            assert is_running(child)
        finally:
            os.kill(child, signal.SIGKILL)
