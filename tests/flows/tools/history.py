"""What was seen, in order, with waiting for what is still to come.

Every tool here reports through a History: SIP messages, events, webhooks, calls. A test names what it waits for
and gets it whether it happened a moment ago or happens later; nothing ever sleeps for luck.

Rules
1. Nothing is taken out: two waiters may wait for the same item.
2. `after` limits the search to items added later, as counted by `len(history)`.
3. A wait that fails raises AssertionError with what was seen instead.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from typing import Generic, TypeVar, overload

T = TypeVar("T")


class History(Generic[T]):
    def __init__(self, what: str, show: Callable[[T], str] = repr) -> None:
        self.what = what
        self._show = show
        self._items: list[T] = []
        self._waiters: list[tuple[Callable[[T], bool], asyncio.Future[T]]] = []

    def add(self, item: T) -> None:
        self._items.append(item)
        for wanted, future in self._waiters:
            if not future.done() and wanted(item):
                future.set_result(item)

    async def first(
        self, wanted: Callable[[T], bool] = lambda _: True, *, within_s: float = 5.0, after: int = 0, named: str = ""
    ) -> T:
        for item in self._items[after:]:
            if wanted(item):
                return item
        waiter = (wanted, asyncio.get_running_loop().create_future())
        self._waiters.append(waiter)
        try:
            return await asyncio.wait_for(waiter[1], within_s)
        except TimeoutError:
            seen = "\n  ".join(self._show(item) for item in self._items[after:][-40:]) or "nothing"
            raise AssertionError(
                f"no {named or 'match'} among {self.what} within {within_s} s; seen:\n  {seen}"
            ) from None
        finally:
            self._waiters.remove(waiter)

    def matching(self, wanted: Callable[[T], bool], *, after: int = 0) -> list[T]:
        return [item for item in self._items[after:] if wanted(item)]

    def __len__(self) -> int:
        return len(self._items)

    def __iter__(self) -> Iterator[T]:
        return iter(self._items)

    @overload
    def __getitem__(self, index: int) -> T: ...
    @overload
    def __getitem__(self, index: slice) -> list[T]: ...
    def __getitem__(self, index: int | slice) -> T | list[T]:
        return self._items[index]
