"""Work prepared one step ahead, while the device computes."""

from __future__ import annotations

import contextlib
import queue
import threading
from collections.abc import Iterable, Iterator
from typing import TypeVar

T = TypeVar("T")
_END = object()
_LOOK_SECONDS = 0.1


@contextlib.contextmanager
def prefetch(items: Iterable[T], depth: int = 1) -> Iterator[Iterator[T]]:
    """Give `items` in order while a thread makes up to `depth` of them beforehand.

    An error in making one is raised where its item would have come. Leaving stops the thread.
    """
    ready: queue.Queue[tuple[object, BaseException | None]] = queue.Queue(depth)
    stop = threading.Event()

    def put(entry: tuple[object, BaseException | None]) -> None:
        while not stop.is_set():
            with contextlib.suppress(queue.Full):
                ready.put(entry, timeout=_LOOK_SECONDS)
                return

    def make() -> None:
        try:
            for item in items:
                put((item, None))
                if stop.is_set():
                    return
            put((_END, None))
        except BaseException as error:
            put((_END, error))

    def read() -> Iterator[T]:
        while True:
            item, error = ready.get()
            if error is not None:
                raise error
            if item is _END:
                return
            yield item  # type: ignore[misc]

    thread = threading.Thread(target=make, name="prepare", daemon=True)
    thread.start()
    try:
        yield read()
    finally:
        stop.set()
        thread.join()
