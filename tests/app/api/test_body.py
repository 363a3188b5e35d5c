from typing import Literal

import msgspec
import pytest

from app.api.body import decode_body
from app.legs.requests import Carried
from shm.errors import CallerError


class Words(msgspec.Struct, Carried):
    text: str = ""
    headers: dict[str, str] = {}


class Inner(msgspec.Struct):
    name: str = ""
    count: int = 0


class Everything(msgspec.Struct):
    text: str = "default"
    word: Literal["a", "b"] = "a"
    number: int = 7
    ratio: float = 0.5
    flag: bool = False
    state: bool | msgspec.UnsetType = msgspec.UNSET
    role: str | msgspec.UnsetType = msgspec.UNSET
    maybe: str | None = None
    inner: Inner | None = None
    inners: list[Inner] = []
    numbers: list[int] = []
    headers: dict[str, str] = {}
    matrix: dict[str, list[str] | None] = {}


class Required(msgspec.Struct):
    leg_id: str
    inner: Inner | None = None


def decode(body, kind=Everything):
    return decode_body(body.encode(), kind)


@pytest.mark.parametrize("body", ["", " \n", "null", "{}", '{"unknown":[1,{}]}', '{"Number":1}'])
def test_nothing_said_means_all_defaults(body):
    assert decode(body) == Everything()


@pytest.mark.parametrize("field", Everything.__struct_fields__)
def test_null_is_absent(field):
    assert decode(f'{{"{field}":null}}') == Everything()


@pytest.mark.parametrize("field", ["text", "word", "maybe"])
def test_empty_text_is_absent(field):
    assert decode(f'{{"{field}":""}}') == Everything()


def test_a_text_that_tells_empty_from_absent():
    assert decode('{"role":""}').role == ""
    assert decode("{}").role is msgspec.UNSET


def test_false_and_zero_are_values_for_who_tells_the_difference():
    assert decode('{"state":false}').state is False
    assert decode('{"number":0}').number == 0


def test_whole_floats_are_integers():
    decoded = decode('{"number":4.0,"numbers":[1.0,2],"inner":{"count":-3.0},"ratio":1}')
    assert (decoded.number, decoded.numbers, decoded.inner.count, decoded.ratio) == (4, [1, 2], -3, 1.0)


def test_null_inside():
    decoded = decode('{"inner":{"name":null},"inners":[{"count":null}],"matrix":{"a":null},"headers":{"X-A":null}}')
    assert decoded.inner == Inner()
    assert decoded.inners == [Inner()]
    assert decoded.matrix == {"a": None}
    assert decoded.headers == {}


def test_last_of_duplicate_keys_wins():
    assert decode('{"number":1,"number":2}').number == 2


@pytest.mark.parametrize(
    ("body", "text"),
    [
        ('{"number":"3"}', "number: expected int, got str"),
        ('{"number":1.5}', "number: expected int, got float"),
        ('{"number":true}', "number: expected int, got bool"),
        ('{"number":""}', "number: expected int, got str"),
        ('{"text":3}', "text: expected str, got int"),
        ('{"flag":1}', "flag: expected bool, got int"),
        ('{"word":"c"}', "word: invalid enum value 'c'"),
        ('{"inner":[]}', "inner: expected object | null, got array"),
        ('{"inners":[{},{"count":"x"}]}', "inners[1].count: expected int, got str"),
        ('{"numbers":[null]}', "numbers[0]: expected int, got null"),
        ('{"headers":{"A":1}}', "headers[...]: expected str, got int"),
    ],
)
def test_wrong_types_are_named(body, text):
    with pytest.raises(CallerError, match="^" + text.replace("[", r"\[").replace("|", r"\|") + "$") as caught:
        decode(body)
    assert caught.value.status == 400


@pytest.mark.parametrize(
    "body",
    [
        "{",
        "[]",
        "3",
        '"text"',
        "true",
        "{} x",
        '{"number":1}{}',
        '{"number":NaN}',
        "{'number':1}",
        "[" * 500_000,
        '{"text":"\\ud800"}',
        "\ufeff{}",
        '{"number":1e999}',
    ],
)
def test_invalid_json(body):
    with pytest.raises(CallerError, match=r"^invalid JSON$"):
        decode(body)


def test_bytes_that_are_not_utf8():
    with pytest.raises(CallerError, match=r"^invalid JSON$"):
        decode_body(b'{"text":"\xff"}', Everything)


@pytest.mark.parametrize("body", ["", "null", "{}", '{"leg_id":null}', '{"leg_id":""}'])
def test_missing_fields_are_named(body):
    with pytest.raises(CallerError, match=r"^leg_id is required$"):
        decode(body, Required)


@pytest.mark.parametrize("number", ["2147483648", "-2147483648", "1e300", "99999999999999999999"])
def test_numbers_nobody_can_mean(number):
    with pytest.raises(CallerError, match=r"^number: at most 2147483647$") as caught:
        decode(f'{{"number":{number}}}')
    assert caught.value.status == 400


@pytest.mark.parametrize(
    "body",
    [
        '{"text":"' + "ä" * 30_000 + '"}',
        '{"text":"' + "\\u0000" * 10_001 + '"}',
        '{"headers":{"A":"' + "x" * 60_000 + '"}}',
    ],
)
def test_more_than_a_message_to_a_worker_holds(body):
    with pytest.raises(CallerError, match=r"^too large: at most 60000 bytes in all fields together$") as caught:
        decode(body, Words)
    assert caught.value.status == 413


def test_unknown_fields_may_be_as_large_as_the_body():
    assert decode('{"unknown":"' + "x" * 500_000 + '"}', Words) == Words()
