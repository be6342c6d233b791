"""/proxy/{id}/{port}/…, and where that is."""

from http import HTTPStatus
from typing import Any, Final

from kernelsvc.api.base import ApiHandler
from kernelsvc.api.operations import Bytes, Example, Parameter, operation
from kernelsvc.api.relay import RelayHandler, port_number
from kernelsvc.errors import (
    BadGateway,
    GatewayTimeout,
    KernelStartFailed,
    NoCapacity,
    NoListener,
    PublicAccessDisabled,
    QueueFull,
    RequestTooLarge,
    SessionNotFound,
    ShuttingDown,
    StorageFull,
    TooManyConnections,
    WorkspaceFull,
)
from kernelsvc.models.proxied import PortUrl

_PORT: Final = Parameter("port", "the port", {"type": "integer", "minimum": 1, "maximum": 65535})
_RELAYED: Final[dict[str, Any]] = {
    "passes_on": True,
    "errors": (
        SessionNotFound,
        PublicAccessDisabled,
        TooManyConnections,
        NoListener,
        BadGateway,
        GatewayTimeout,
        RequestTooLarge,
        QueueFull,
        KernelStartFailed,
        NoCapacity,
        WorkspaceFull,
        StorageFull,
        ShuttingDown,
    ),
}
_WITH_BODY: Final = {**_RELAYED, "body": Bytes("*/*"), "example": Example("hello")}


class HostHandler(ApiHandler):
    """/api/sessions/{id}/host"""

    @operation(
        PortUrl,
        query=(_PORT,),
        errors=(SessionNotFound,),
        example=Example(query={"port": "8000"}),
    )
    async def get(self, session_id: str) -> None:
        """Where requests to a port of the session go; `port` is needed."""
        port = port_number(self.get_query_argument("port", ""))
        await self.service.get(self.caller, session_id)
        base = self.context.base_url or f"{self.request.protocol}://{self.request.host}"
        url = f"{base}/proxy/{session_id}/{port}"
        self.answer(PortUrl(url=url, base_url=url, session_id=session_id, port=port))


class ProxyHandler(RelayHandler):
    """/proxy/{id}/{port}/…"""

    @operation(Bytes("*/*"), **_RELAYED)
    async def get(self, session_id: str, port: str, rest: str) -> None:
        """Ask a server in the session, over HTTP or as a WebSocket.

        It is whatever the session's code has listening on that port. Where nothing does, the code
        runs that is stored in the session, finds the request in its environment (ERA_HTTP_METHOD,
        ERA_HTTP_PATH, ERA_HTTP_QUERY, ERA_HTTP_HEADERS, ERA_HTTP_BODY) and prints the answer.
        """
        await self.serve()

    @operation({HTTPStatus.OK: None}, **_RELAYED)
    async def head(self, session_id: str, port: str, rest: str) -> None:
        """What GET would say, without the body."""
        await self.serve()

    @operation(Bytes("*/*"), **_WITH_BODY)
    async def post(self, session_id: str, port: str, rest: str) -> None:
        """The same as GET, with a body."""
        await self.serve()

    @operation(Bytes("*/*"), **_WITH_BODY)
    async def put(self, session_id: str, port: str, rest: str) -> None:
        """The same as GET, with a body."""
        await self.serve()

    @operation(Bytes("*/*"), **_WITH_BODY)
    async def patch(self, session_id: str, port: str, rest: str) -> None:
        """The same as GET, with a body."""
        await self.serve()

    @operation(Bytes("*/*"), **_WITH_BODY)
    async def delete(self, session_id: str, port: str, rest: str) -> None:
        """The same as GET, with a body."""
        await self.serve()

    @operation({HTTPStatus.OK: None}, **_RELAYED)
    async def options(self, session_id: str, port: str, rest: str) -> None:
        """The same as GET; what pages of other origins may do is for the server to say."""
        await self.serve()
