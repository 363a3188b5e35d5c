"""Request bodies: JSON in, a request struct out (contract README.md, section 2.1).

Runs in: control.
Owns: what null, "", 4.0 and an absent body mean, and the sentence a caller reads when a body is refused.

Rules
1. `null` for a field is the same as its absence. Inside a dict it stays only where the value type has a None of its own.
2. "" for a string with a default is the same as its absence, and for a string without one it is missing. A string whose
   default is UNSET tells "" from absent.
3. A float without a fraction is an integer. Every other change of type is refused.
4. Integers have a limit, so that the ledger and every message can hold them; so have the bytes of what is `Carried`.

Not here: ranges and the order of checks -> the operations in `app/rooms` and `app/legs`.
"""

from collections.abc import Callable
from functools import cache
from typing import Any, TypeVar

import msgspec
from msgspec import inspect

from app.legs.requests import Carried
from shm.errors import CallerError

BODY_LIMIT_BYTES = 1024 * 1024
CARRIED_LIMIT_BYTES = 60_000  # as JSON; fields we do not know are not counted
INTEGER_LIMIT = 2**31 - 1

Shape = Callable[[Any], Any]
Request = TypeVar("Request", bound=msgspec.Struct)
_MISSING = "Object missing required field `"


def decode_body(body: bytes, kind: type[Request]) -> Request:
    """The struct that `body` stands for. Raises CallerError 400, 413."""
    return shape_request(_decode_object(body), kind)


def shape_request(fields: dict[str, Any], kind: type[Request]) -> Request:
    """The same for JSON that is already decoded (a VSI payload). Raises CallerError 400, 413."""
    try:
        request = msgspec.convert(_shaper(kind)(fields), kind)
    except msgspec.ValidationError as error:
        raise CallerError(_sentence(str(error))) from None
    _check_size(request)
    return request


def _check_size(request: msgspec.Struct) -> None:
    for name in request.__struct_fields__:
        value = getattr(request, name)
        if isinstance(value, int) and abs(value) > INTEGER_LIMIT:
            raise CallerError(f"{name}: at most {INTEGER_LIMIT}")
    if isinstance(request, Carried) and len(msgspec.json.encode(request)) > CARRIED_LIMIT_BYTES:
        raise CallerError(f"too large: at most {CARRIED_LIMIT_BYTES} bytes in all fields together", 413)


def decode_json(text: bytes | str) -> Any:
    """Any JSON value. Raises ValueError, also for what is nested too deep or not UTF-8."""
    try:
        return msgspec.json.decode(text)
    except (msgspec.MsgspecError, RecursionError) as error:
        raise ValueError(str(error)) from None


def _decode_object(body: bytes) -> dict[str, Any]:
    if not body.strip():
        return {}
    try:
        value = decode_json(body)
    except ValueError:
        raise CallerError("invalid JSON") from None
    if value is None:
        return {}
    if not isinstance(value, dict):
        raise CallerError("invalid JSON")
    return value


def _sentence(text: str) -> str:
    """`Expected `int`, got `str` - at `$.volume`` -> `volume: expected int, got str`."""
    fault, _, place = text.partition(" - at `$")
    place = place.rstrip("`").lstrip(".")
    if fault.startswith(_MISSING):
        name = fault[len(_MISSING) :].rstrip("`")
        return f"{place}.{name} is required" if place else f"{name} is required"
    fault = fault.replace("`", "")
    return f"{place}: {fault[:1].lower()}{fault[1:]}" if place else fault


@cache
def _shaper(kind: type[msgspec.Struct]) -> Shape:
    return _shape_of(inspect.type_info(kind)) or _unchanged


def _unchanged(value: Any) -> Any:
    return value


def _members(kind: inspect.Type) -> tuple[inspect.Type, ...]:
    return tuple(kind.types) if isinstance(kind, inspect.UnionType) else (kind,)


def _is_text(kind: inspect.Type) -> bool:
    return isinstance(kind, inspect.StrType) or (
        isinstance(kind, inspect.LiteralType) and all(isinstance(value, str) for value in kind.values)
    )


def _shape_of(kind: inspect.Type) -> Shape | None:
    """What has to be done to a value before msgspec judges it; None when nothing has."""
    members = _members(kind)
    for member in members:
        if isinstance(member, inspect.StructType):
            return _object_shape(member)
        if isinstance(member, inspect.ListType | inspect.VarTupleType):
            return _array_shape(member)
        if isinstance(member, inspect.DictType):
            return _map_shape(member)
    kinds = {type(member) for member in members}
    if inspect.IntType in kinds and inspect.FloatType not in kinds:
        return _whole
    return None


def _whole(value: Any) -> Any:
    return int(value) if isinstance(value, float) and value.is_integer() else value


def _object_shape(kind: inspect.StructType) -> Shape:
    shapes: dict[str, tuple[Shape | None, bool]] = {}
    for field in kind.fields:
        tells_empty = not field.required and (field.default, field.default_factory) == (msgspec.NODEFAULT,) * 2
        drops_empty = not tells_empty and any(_is_text(member) for member in _members(field.type))
        shapes[field.encode_name] = (_shape_of(field.type), drops_empty)

    def shape(value: Any) -> Any:
        if not isinstance(value, dict):
            return value
        shaped = {}
        for name, item in value.items():
            if item is None or name not in shapes:
                continue
            change, drops_empty = shapes[name]
            if drops_empty and item == "":
                continue
            shaped[name] = change(item) if change else item
        return shaped

    return shape


def _array_shape(kind: inspect.ListType | inspect.VarTupleType) -> Shape | None:
    change = _shape_of(kind.item_type)
    if change is None:
        return None
    return lambda value: [change(item) for item in value] if isinstance(value, list) else value


def _map_shape(kind: inspect.DictType) -> Shape:
    change = _shape_of(kind.value_type) or _unchanged
    holds_null = any(isinstance(member, inspect.NoneType | inspect.AnyType) for member in _members(kind.value_type))

    def shape(value: Any) -> Any:
        if not isinstance(value, dict):
            return value
        return {name: change(item) for name, item in value.items() if holds_null or item is not None}

    return shape
