"""Addresses of workers, as text."""

import ipaddress
import re
from typing import Final

from ptrtensor.errors import PtrTensorError

ADDRESS: Final = re.compile(r"(?:\[([^\[\]\s]*:[^\[\]\s]*)\]|([^\[\]:\s]+)):([0-9]{1,9})")


def parse_address(address: object, *, lowest_port: int = 1) -> tuple[str, int]:
    """Host and port of ``HOST:PORT``.

    :raises PtrTensorError: it has another form.
    """
    found = ADDRESS.fullmatch(address) if isinstance(address, str) else None
    if found is None or not lowest_port <= int(found[3]) <= 65535:
        raise PtrTensorError(
            f"a worker's address is HOST:PORT, for instance 127.0.0.1:7700 or [::1]:7700, with a port from "
            f"{lowest_port} to 65535, not {address!r}"
        )
    return found[1] or found[2], int(found[3])


def is_loopback(host: str) -> bool:
    """Whether it is this machine and no other can be meant: of other names a resolver may say anything."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host.lower() == "localhost"


def format_address(host: str, port: int) -> str:
    """The same as text, which `parse_address` takes."""
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
