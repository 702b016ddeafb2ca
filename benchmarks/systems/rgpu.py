"""rgpu: torch tensors on a remote device, served by a process of this machine on its CPU."""

import os
import socket
import subprocess
import sys
import time
from importlib.metadata import version

import torch

from benchmarks.driver import drive
from benchmarks.workload import Place
from benchmarks.workloads import ordinary

if __name__ == "__main__":
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    server = subprocess.Popen([sys.executable, "-m", "rgpu.server", "--device", "cpu", "--port", str(port)])
    try:
        while True:
            try:
                socket.create_connection(("127.0.0.1", port)).close()
                break
            except ConnectionRefusedError:
                time.sleep(0.1)
        os.environ["RGPU_OPSERVER"] = f"127.0.0.1:{port}"
        __import__("rgpu")  # registers its device with torch
        one = torch.ones(1, device="rgpu")

        def synchronize() -> None:
            one.cpu()

        drive(ordinary(Place(torch.device("rgpu"), synchronize)), synchronize, version("rgpu"))
    finally:
        server.terminate()
