"""Guards what `app/api/websocket.py` leans on in gunicorn's WebSocket: a change there must be seen here first."""

import inspect

import pytest
from gunicorn.asgi import protocol
from gunicorn.asgi import websocket as gunicorn_websocket

from app.api import websocket


def original():
    return websocket.Connection.__mro__[1]


@pytest.mark.parametrize("size", [0, 1, 3, 4, 5, 65536])
def test_unmasking_gives_what_gunicorn_gives(size):
    payload, mask = bytes(index % 251 for index in range(size)), b"\x01\x80\xff\x33"
    theirs = original()._unmask(None, payload, mask)
    ours = websocket.Connection._unmask(type("Fake", (), {})(), payload, mask)
    assert ours == theirs
    assert type(ours) is bytes


def test_each_frame_with_payload_or_without_passes_unmask():
    source = inspect.getsource(original()._read_frame)
    assert source.count("self._unmask(payload, masking_key)") == 1


def test_names_it_leans_on():
    assert list(inspect.signature(original()._unmask).parameters) == ["self", "payload", "masking_key"]
    made = original()(None, {}, None, None)
    assert (made._denied, made.accepted, made.closed) == (False, False, False)
    made._close_event.set()
    assert "if not self.accepted and not self._denied" in inspect.getsource(original().run)


def test_the_class_is_looked_up_at_each_upgrade():
    assert "from gunicorn.asgi.websocket import WebSocketProtocol" in inspect.getsource(
        protocol.ASGIProtocol._handle_websocket
    )
    websocket.install()
    assert gunicorn_websocket.WebSocketProtocol is websocket.Connection
