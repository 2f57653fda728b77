"""A small Hugging Face Hub for tests, over real HTTP on loopback, for the official clients.

```python
with HubServer(folder) as server:
    server.url, server.hub.log, server.hub.faults
```

Clients send large files through xet, or with `HF_HUB_DISABLE_XET=1` as plain LFS. Both stores answer on a second port,
another origin like the real ones.
"""

import asyncio
import re
import socket
import threading
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any, Self
from urllib.parse import unquote

import uvicorn
from hub.endpoints import ROUTES
from hub.proposals import PROPOSAL_ROUTES
from hub.store import HubError, User
from hub.xet import XET_ROUTES, XetStore
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.types import Message, Receive, Scope, Send


@dataclass
class Fault:
    """Fault of the next requests to an endpoint.

    >>> Fault("/preupload/", status=429, headers={"Retry-After": "1"}, times=2)
    >>> Fault("/commit/", is_cut=True, is_done=True)  # the commit is accepted and the answer lost
    """

    path: str
    """Regular expression that is searched in the path."""
    status: int | None = None
    """Status of the answer."""
    headers: dict[str, str] = field(default_factory=dict)
    message: str = "a fault of the test"
    """Message of the answer."""
    is_cut: bool = False
    """Whether the connection is cut in the middle of the answer."""
    stall: float = 0.0
    """Seconds before the request is handled."""
    until: Callable[[], bool] = field(default=lambda: True)
    """Condition that must hold before the request is handled."""
    is_done: bool = False
    """Whether the request is carried out before it fails."""
    method: str = ".*"
    times: int = 1


class Hub(XetStore):
    """ASGI application."""

    def __init__(self, root: str | Path, **accounts: Any) -> None:
        super().__init__(root, **accounts)
        self.log: list[tuple[str, str, str, int]] = []
        """Method, path, query and status of every request."""
        self.sent: Counter[str] = Counter()
        """Bytes of the request bodies, by path."""
        self.faults: list[Fault] = []

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        request, path = Request(scope, receive), scope["raw_path"].decode().split("?")[0]  # raw: revisions contain %2F
        fault = self.next_fault(request.method, path)
        if fault:
            await asyncio.sleep(fault.stall)
            while not fault.until():
                await asyncio.sleep(0.01)
        fails = fault is not None and (fault.status is not None or fault.is_cut)
        response: Response = JSONResponse({"error": "a fault of the test"}, 500)
        if fault is None or fault.is_done or not fails:
            response = await self.answer(request, path)
        if fault is not None and fault.status is not None:
            response = JSONResponse({"error": fault.message}, fault.status, fault.headers)
        is_cut = fault is not None and fault.is_cut
        self.log.append((request.method, path, str(request.query_params), 0 if is_cut else response.status_code))
        if is_cut:  # less than announced: uvicorn closes the connection
            await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"1000")]})
            await send({"type": "http.response.body", "body": b"{"})
        else:
            await response(scope, receive, self.counted(path, send))

    def counted(self, path: str, send: Send) -> Send:
        async def count(message: Message) -> None:
            self.sent[path] += len(message.get("body", b""))
            await send(message)

        return count

    def next_fault(self, method: str, path: str) -> Fault | None:
        for fault in self.faults:
            if fault.times and re.fullmatch(fault.method, method) and re.search(fault.path, path):
                fault.times -= 1
                return fault
        return None

    async def answer(self, request: Request, path: str) -> Response:
        try:
            for methods, pattern, handler in (*ROUTES, *PROPOSAL_ROUTES, *XET_ROUTES):
                if request.method in methods.split("|") and (match := re.fullmatch(pattern, path)):
                    return await getattr(self, handler)(request, *(g and unquote(g) for g in match.groups()))
            raise HubError(404, f"no such endpoint: {request.method} {path}")
        except HubError as error:
            return JSONResponse({"error": error.message}, error.status, error.headers)


class HubServer:
    """Hub in a thread of its own, on free ports of loopback."""

    def __init__(self, root: str | Path, tokens: dict[str, User] | None = None) -> None:
        self.hub = Hub(root, tokens=tokens)
        self.sockets = [socket.create_server(("127.0.0.1", 0)) for _ in range(2)]
        # of another name, as the real one: huggingface_hub 1 keeps the token on all ports of a host
        hosts = ("127.0.0.1", "localhost")
        self.url, self.hub.cdn_url = (
            f"http://{host}:{sock.getsockname()[1]}" for host, sock in zip(hosts, self.sockets, strict=True)
        )
        # connections stay open as long as the Hub: closing one while a client reuses it would fail a request
        config = uvicorn.Config(self.hub, log_level="critical", lifespan="off", timeout_keep_alive=60)
        self.server = uvicorn.Server(config)
        self.thread = threading.Thread(target=self.server.run, args=(self.sockets,), daemon=True)

    def __enter__(self) -> Self:
        self.thread.start()
        while not self.server.started:
            time.sleep(0.01)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.server.should_exit = True
        self.thread.join(10)
