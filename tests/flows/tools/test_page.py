"""The reader of the page of examples is strict where it should be."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.flows.tools.page import Shell, matches, steps


def test_blocks_come_with_what_they_show_and_what_they_ask_for() -> None:
    page = "# A\n\n```sh\nfirst\n```\n\n<!-- the phone calls -->\n```sh\nsecond\n```\n```json\n{}\n[]\n```\n"
    assert [(one.order, one.shell, one.shown) for one in steps(page)] == [
        ("", "first\n", []),
        ("the phone calls", "second\n", ["{}", "[]"]),
    ]
    assert [one.line for one in steps(page)] == [3, 8]
    with pytest.raises(AssertionError, match="is not run"):
        steps("# A\n\n```sh\nnever closed\n")


@pytest.mark.parametrize(
    ("shown", "printed", "is_match"),
    [
        ('{"a":1,"b":"…"}', '{"a":1,"b":"x"}', True),
        ('{"a":1,"b":…}', '{"a":1,"b":[2]}', True),
        ('{"a":1}', '{"a":2}', False),
        ('{"a":1}', '{"a":1,"b":2}', False),
        ('{"a":1,"b":2}', '{"b":2,"a":1}', False),
        ('{"a":1}', '{"a":true}', False),
        ('{"…":{"n":0},"…":{"n":1}}', '{"x":{"n":0},"y":{"n":1}}', True),
        ('{"…":{"n":0},"…":{"n":1}}', '{"x":{"n":0},"y":{"n":0}}', False),
        ('["pb-…"]', '["pb-12"]', True),
        ('["pb-…"]', '["tts-12"]', False),
        ("genuine {…}", "genuine {1}", True),
        ("genuine {…}", "forged {1}", False),
    ],
)
def test_lines_match_by_what_is_fixed(shown: str, printed: str, is_match: bool) -> None:
    assert matches([shown], [printed]) is is_match


def test_lines_are_neither_missing_nor_too_many_unless_the_page_says_so() -> None:
    assert not matches(["a"], ["a", "b"])
    assert not matches(["a", "b"], ["a"])
    assert matches(["a", "…", "d"], ["a", "b", "c", "d"])
    assert not matches(["a", "…", "d"], ["a"])


async def test_a_shell_keeps_what_was_set_and_tells_which_command_failed(tmp_path: Path) -> None:
    async with Shell(tmp_path, {"PATH": "/usr/bin:/bin"}) as shell:
        assert await shell.run("A=1\n") == []
        assert await shell.run("echo $A; echo error >&2\n") == ["1", "error"]
        with pytest.raises(AssertionError, match="cat nothing"):
            await shell.run("cat nothing\necho after\n")
        with pytest.raises(AssertionError, match="failed"):
            await shell.run("B=$(false | cat)\n")
        assert await shell.run("echo $A\n") == ["1"]


async def test_what_a_page_leaves_running_ends_with_its_shell(tmp_path: Path) -> None:
    async with Shell(tmp_path, {"PATH": "/usr/bin:/bin"}) as shell:
        (pid,) = await shell.run("sleep 60 &\necho $!\n")
        assert (Path("/proc") / pid).exists()
    assert not (Path("/proc") / pid).exists() or "Z" in (Path("/proc") / pid / "stat").read_text()
