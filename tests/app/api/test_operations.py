import pytest

from app.api.operations import Operation, bind, overlay
from app.api.unbuilt import CONTRACT


async def handler(subject): ...


def test_a_built_operation_keeps_the_words_of_its_line():
    built = bind([Operation(method="POST", path="/v1/rooms", handler=handler)], "subject")
    [line] = [line for line in overlay(CONTRACT, built) if (line.method, line.path) == ("POST", "/v1/rooms")]
    assert (line.status, line.command, line.handler, line.subject) == (201, "create_room", handler, "subject")


def test_what_the_contract_does_not_know_cannot_be_built():
    with pytest.raises(ValueError, match="not in the contract"):
        overlay(CONTRACT, [Operation(method="GET", path="/v1/rooms/{id}", handler=handler)])


def test_commands_and_places_are_named_once():
    commands = [line.command for line in CONTRACT if line.command]
    assert len(commands) == len(set(commands))
    assert len({(line.method, line.path) for line in CONTRACT}) == len(CONTRACT)


def test_words_that_differ_from_the_contract_are_noticed():
    with pytest.raises(ValueError, match="is called create_room"):
        overlay(CONTRACT, [Operation(method="POST", path="/v1/rooms", command="make_room")])
