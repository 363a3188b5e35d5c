"""The room WebSocket `/v1/rooms/{room_id}/ws`: let in here, served by a stream process (contract rooms.md A20, media.md section 3).

Runs in: control.
Owns: the moment at which the connection changes hands.

Rules
1. Who is refused is told by HTTP, from here. The 101 and all that follows come from the stream process.
2. Once a stream process may have the connection, nothing is written to it here any more: if that went wrong, it breaks.

Not here: what a client is -> `app/services/clients.py`; its frames -> `workers/stream/sockets.py`.
"""

from falcon.asgi import Request, WebSocket

from app.api import websocket
from app.services.clients import Clients
from shm.errors import CallerError

REQUEST_LIMIT_BYTES = 32 * 1024  # it travels in one message


class RoomSocket:
    """The endpoint."""

    path = "/v1/rooms/{room_id}/ws"

    def __init__(self, clients: Clients) -> None:
        self._clients = clients

    def check(self, _req: Request, parameters: dict[str, str]) -> str:
        """The room's id. Raises CallerError 404."""
        self._clients.check(parameters["room_id"])
        return parameters["room_id"]

    async def serve(self, req: Request, _ws: WebSocket, room_id: str) -> None:
        connection: websocket.Connection = req.scope[websocket.SCOPE_KEY]
        request = connection.upgrade_request()
        if len(request) > REQUEST_LIMIT_BYTES:
            raise CallerError("more than a request was sent before the upgrade")
        client_id = await self._clients.admit(room_id)
        try:
            await self._clients.hand_over(client_id, request, connection.descriptor)
        finally:
            connection.let_go()
