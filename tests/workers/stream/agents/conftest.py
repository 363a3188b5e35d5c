"""These modules live on uvloop, so they are tested on it."""

from tests.workers.stream.conversing import http, pytest_asyncio_loop_factories

__all__ = ["http", "pytest_asyncio_loop_factories"]
