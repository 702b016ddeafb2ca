"""Threads that do something at the same time."""

import threading
from collections.abc import Callable
from typing import Final

SECONDS: Final = 60.0
"""After so long a test gives up what should happen at once."""


def together(act: Callable[[int], None], count: int) -> None:
    """Run it in so many threads at once; the first error of any is this one's."""
    errors: list[BaseException] = []
    barrier = threading.Barrier(count)

    def run(place: int) -> None:
        barrier.wait()
        try:
            act(place)
        except BaseException as error:
            errors.append(error)

    threads = [threading.Thread(target=run, args=(place,), daemon=True) for place in range(count)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(SECONDS)
        assert not thread.is_alive(), "a thread waits for ever"
    if errors:
        raise errors[0]
