"""A page of examples as a test runs it: its shell blocks, one after the other in one bash, and the replies shown below them.

Rules
1. A block in `sh` may have a second block right below it: what it prints, line by line. Without one it prints nothing.
2. A line that is JSON matches one with the same keys in the same order and the same values; `…` in the page matches whatever is
   there: a value, or a part of a string or line. A line that is `…` alone matches any number of lines.
3. A comment `<!-- … -->` right above a block is an order to the test, who has the phone in its hand.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import re
import secrets
import signal
from asyncio.subprocess import PIPE, STDOUT, Process
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

BLOCK = re.compile(
    r"(?:^<!-- (?P<order>.*?) -->\n)?^```sh\n(?P<shell>.*?)^```\n(?:^```(?:json|text)\n(?P<shown>.*?)^```\n)?",
    re.MULTILINE | re.DOTALL,
)
BARE_ELLIPSIS = re.compile(r"(?<=[:,\[])…(?=[,\]}])")


@dataclass(frozen=True)
class Step:
    line: int  # of the block in the page
    order: str
    shell: str
    shown: list[str]


def steps(page: str) -> list[Step]:
    found = [
        Step(
            line=page.count("\n", 0, match.start("shell")),
            order=match["order"] or "",
            shell=match["shell"],
            shown=(match["shown"] or "").splitlines(),
        )
        for match in BLOCK.finditer(page)
    ]
    assert len(found) == page.count("\n```sh\n"), "a block that does not look like the others is not run"
    return found


class Shell:
    """One bash for the whole page: what a block sets is there in the next one."""

    def __init__(self, folder: Path, environment: dict[str, str]) -> None:
        self._folder, self._environment = folder, environment
        self._process: Process | None = None

    async def __aenter__(self) -> Self:
        self._process = await asyncio.create_subprocess_exec(
            "bash",
            cwd=self._folder,
            env=self._environment,
            stdin=PIPE,
            stdout=PIPE,
            stderr=STDOUT,
            start_new_session=True,
        )
        return self

    async def __aexit__(self, *_: object) -> None:
        """With all that a page which failed in the middle has left running."""
        assert self._process is not None
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self._process.pid, signal.SIGKILL)
        await self._process.wait()

    async def run(self, shell: str, *, within_s: float = 40.0) -> list[str]:
        """The lines it prints on stdout and stderr. Fails when any command of it does."""
        assert self._process is not None
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        end = f"end-{secrets.token_hex(8)}"
        failed = "FAILED=; trap 'FAILED=\"$FAILED line $LINENO: $BASH_COMMAND;\"' ERR; set -o pipefail"
        self._process.stdin.write(f'{failed}\n{shell}\ntrap - ERR; echo "{end}$FAILED"\n'.encode())
        lines: list[str] = []
        async with asyncio.timeout(within_s):
            while not (line := (await self._process.stdout.readline()).decode()).startswith(end):
                assert line, "bash ended:\n" + "\n".join(lines)
                lines.append(line.rstrip("\n"))
        assert line.rstrip("\n") == end, f"failed: {line[len(end) :]}\n" + "\n".join(lines)
        return lines


def matches(shown: list[str], printed: list[str]) -> bool:
    """By rule 2."""
    if "…" in shown:
        first, last = shown.index("…"), len(shown) - shown.index("…") - 1
        whole = len(printed) >= first + last
        return (
            whole
            and matches(shown[:first], printed[:first])
            and matches(shown[first + 1 :], printed[len(printed) - last :])
        )
    return len(shown) == len(printed) and all(map(_line_matches, shown, printed))


def _line_matches(shown: str, printed: str) -> bool:
    try:
        return _value_matches(_read(BARE_ELLIPSIS.sub('"…"', shown)), _read(printed))
    except ValueError:
        return _text_matches(shown, printed)


def _read(text: str) -> Any:
    """An object becomes the tuple of its (key, value): the page may have the key `…` more than once."""
    return json.loads(text, object_pairs_hook=tuple)


def _value_matches(shown: Any, real: Any) -> bool:
    if shown == "…":
        return True
    if type(shown) is not type(real):
        return False
    if isinstance(shown, list | tuple):
        return len(shown) == len(real) and all(map(_value_matches, shown, real))
    return _text_matches(shown, real) if isinstance(shown, str) else bool(shown == real)


def _text_matches(shown: str, real: str) -> bool:
    return re.fullmatch(".*".join(map(re.escape, shown.split("…"))), real, re.DOTALL) is not None
