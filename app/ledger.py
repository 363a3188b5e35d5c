"""The ledger: what control must find again after its own death and no other process knows (design.md, section 2).

Runs in: control.
Owns: one SQLite table of facts (kind, key, body); bodies are msgpack of whatever struct the owner of a kind chose.

Rules
1. It survives a process, not a power cut: WAL, synchronous off. A put that has returned is in the page cache of the kernel.
2. One writer, control, alone: EXCLUSIVE locking, so that a put is one write and no lock calls. A successor opens it after the
   kernel has let go of its predecessor's lock.
3. A write that fails (disk full) is logged and calls go on: the fact then lives in memory only.
4. A put of an existing (kind, key) keeps the fact's place in the order.

Not here: what is in a body -> its owner (`app/rooms`, `app/legs`, `app/events`).
"""

import sqlite3
from pathlib import Path
from typing import TypeVar

import msgspec

from app.logs import log

LOCK_TIMEOUT_S = 5.0
MEMORY = ":memory:"

Fact = TypeVar("Fact", bound=msgspec.Struct)
_encode = msgspec.msgpack.Encoder().encode

_PUT = "INSERT INTO facts (kind, key, body) VALUES (?, ?, ?) ON CONFLICT (kind, key) DO UPDATE SET body = excluded.body"
_DROP = "DELETE FROM facts WHERE kind = ? AND key = ?"
_LOAD = "SELECT key, body FROM facts WHERE kind = ? ORDER BY place"


class Ledger:
    """`path` of the database file; MEMORY for tests. Raises OSError, sqlite3.Error when it cannot be opened."""

    def __init__(self, path: str) -> None:
        if path != MEMORY:
            Path(path).touch(0o600)
            Path(path).chmod(0o600)  # it holds callers' secrets; SQLite gives its other files the same mode
        self._database = sqlite3.connect(path, timeout=LOCK_TIMEOUT_S, isolation_level=None)
        for pragma in ("locking_mode = EXCLUSIVE", "journal_mode = WAL", "synchronous = OFF"):
            self._database.execute(f"PRAGMA {pragma}")
        self._database.execute(
            "CREATE TABLE IF NOT EXISTS facts "
            "(place INTEGER PRIMARY KEY, kind TEXT NOT NULL, key TEXT NOT NULL, body BLOB NOT NULL, UNIQUE (kind, key))"
        )

    def put(self, kind: str, key: str, value: msgspec.Struct) -> None:
        """Remember; an earlier fact of that kind and key is replaced."""
        self._write(_PUT, (kind, key, _encode(value)))

    def drop(self, kind: str, key: str) -> None:
        """Forget; unknown facts are no error."""
        self._write(_DROP, (kind, key))

    def _write(self, statement: str, values: tuple[str | bytes, ...]) -> None:
        try:
            self._database.execute(statement, values)
        except sqlite3.OperationalError as error:
            log.error("ledger_write_failed", kind=values[0], error=str(error))

    def load(self, kind: str, of_type: type[Fact]) -> dict[str, Fact]:
        """All facts of a kind in the order they were first put."""
        decode = msgspec.msgpack.Decoder(of_type).decode
        return {key: decode(body) for key, body in self._database.execute(_LOAD, (kind,))}

    def clear(self) -> None:
        """Forget everything: a new server starts on the file of an earlier one (contract rooms.md, A1 rule L7)."""
        self._database.execute("DELETE FROM facts")

    def close(self) -> None:
        self._database.close()
