"""Middleware of a model's page: which paths it serves, how much it takes, and the security headers of its answers.

gradio serves more than the page needs: it fetches any public URL (`file=https://...`), processes videos and stores
sessions for links. Uploads that were broken off would stay on the disk. So paths are allowed by name, and the disk is
limited by size.
"""

import base64
import hashlib
import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from starlette.concurrency import run_in_threadpool
from starlette.datastructures import Headers, MutableHeaders
from starlette.exceptions import HTTPException
from starlette.responses import PlainTextResponse

if TYPE_CHECKING:
    from starlette.types import ASGIApp, Message, Receive, Scope, Send

UPLOAD_PATH, FILE_PREFIX = "/gradio_api/upload", "/gradio_api/file="
PATHS = re.compile(
    r"/|/(assets|static)/.+|/(config|theme\.css|favicon\.ico|manifest\.json|robots\.txt)"
    r"|/gradio_api/(info|upload|upload_progress|startup-events|app_id|cancel|reset|theme\.css)"
    r"|/gradio_api/(queue/(join|data)|heartbeat/\w+|call/\w+(/\w+)?)"
)
"""Paths that the page, gradio's client and curl use, besides the uploads."""
LARGEST_UPLOAD = 20 << 20
LARGEST_CALL = 64 << 10
"""Size in bytes of a request that is no upload."""
LARGEST_FOLDER, MOST_FILES = 1 << 30, 1_000
"""Size in bytes and number of the uploads and activation maps that are kept; older ones are removed."""
ENVELOPE = 64 << 10
"""Size in bytes of what a form adds to its file."""
POLICY = (
    "default-src 'none'; script-src 'self'{scripts}; style-src 'self' 'unsafe-inline'; img-src 'self' data: blob:; "
    "media-src 'self' blob:; font-src 'self'; connect-src 'self'; manifest-src 'self'; base-uri 'self'; "
    "form-action 'none'; frame-ancestors 'self'{hosts}"
)
"""Content security policy. gradio needs inline styles; of inline scripts, only those of the page itself run."""
INLINE_SCRIPT = re.compile(rb"<script(?![^>]*\ssrc=)[^>]*>(.*?)</script>", re.DOTALL)


class PageGuard:
    """ASGI middleware around a page.

    Args:
        app: Application of the page.
        folder: Folder of the uploads.
        hosts: Origins that may embed the page.
    """

    def __init__(self, app: "ASGIApp", folder: Path, hosts: str = "") -> None:
        self.app = app
        self.folder = folder
        self.hosts = f" {hosts}" if hosts else ""
        self.arriving = 0
        """Size in bytes of the uploads that are being received."""

    async def __call__(self, scope: "Scope", receive: "Receive", send: "Send") -> None:
        """Answer a request."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        path = scope["path"]
        answer = Answer(send, self.hosts).send
        if not (PATHS.fullmatch(path.removesuffix("/") or "/") or self._is_upload(path)):
            await PlainTextResponse("Not found", 404)(scope, receive, answer)
        elif path.removesuffix("/") == UPLOAD_PATH:
            await self._upload(scope, receive, answer)
        else:
            await self.app(scope, Body(receive, LARGEST_CALL).receive, answer)

    def _is_upload(self, path: str) -> bool:
        """Return whether a path is that of a file in the folder of the uploads."""
        _, prefix, file = path.partition(FILE_PREFIX)
        return bool(prefix) and "\0" not in file and Path(file).resolve().is_relative_to(self.folder)

    async def _upload(self, scope: "Scope", receive: "Receive", send: "Send") -> None:
        body = Body(receive, LARGEST_UPLOAD + ENVELOPE)

        async def counted() -> "Message":
            message = await body.receive()
            self.arriving += len(message.get("body", b""))
            if self.arriving > LARGEST_FOLDER:
                raise HTTPException(503, "Too many uploads at once; try again in a minute")
            return message

        try:
            await self.app(scope, counted, send)
        finally:
            self.arriving -= body.size
            await run_in_threadpool(remove_old_files, self.folder)


class Body:
    """Body of a request, which may have at most `limit` bytes."""

    def __init__(self, receive: "Receive", limit: int) -> None:
        self._receive = receive
        self.limit = limit
        self.size = 0

    async def receive(self) -> "Message":
        """Return the next part.

        Raises:
            HTTPException: The request is too large.
        """
        message = await self._receive()
        self.size += len(message.get("body", b""))
        if self.size > self.limit:
            raise HTTPException(413, f"Expected at most {self.limit:,} bytes; choose a smaller file")
        return message


class Answer:
    """Response that gets the security headers; one of HTML is held until its inline scripts are known."""

    def __init__(self, send: "Send", hosts: str) -> None:
        self._send = send
        self.hosts = hosts
        self.page: Message | None = None
        """Start of a response of HTML."""
        self.body = b""

    async def send(self, message: "Message") -> None:
        """Send a message of the response."""
        if message["type"] == "http.response.start":
            if Headers(raw=message["headers"]).get("content-type", "").startswith("text/html"):
                self.page = message
            else:
                await self._send_start(message)
        elif self.page is None:
            await self._send(message)
        else:
            self.body += message.get("body", b"")
            if not message.get("more_body"):
                await self._send_start(self.page)
                await self._send({"type": "http.response.body", "body": self.body})

    async def _send_start(self, message: "Message") -> None:
        headers = MutableHeaders(scope=message)
        scripts = "".join(f" '{digest}'" for digest in script_digests(self.body))
        headers["Content-Security-Policy"] = POLICY.format(scripts=scripts, hosts=self.hosts)
        headers["X-Content-Type-Options"] = "nosniff"
        headers["Referrer-Policy"] = "same-origin"
        await self._send(message)


def script_digests(page: bytes) -> Iterator[str]:
    """Yield the digests of a page's inline scripts, as a content security policy names them.

    >>> list(script_digests(b"<script src=a.js></script><script>1</script>"))
    ['sha256-a4ayc/80/OGda4BO/1o/V0etpOqiLx1JwB5S3beHW0s=']
    """
    for script in INLINE_SCRIPT.findall(page):
        yield f"sha256-{base64.b64encode(hashlib.sha256(script).digest()).decode()}"


def remove_old_files(folder: Path, size: int = LARGEST_FOLDER, files: int = MOST_FILES) -> None:
    """Remove the oldest files of a folder until it has at most this size in bytes and number of files."""
    entries = []
    for parent, _, names in os.walk(folder):
        for name in names:
            path = Path(parent, name)
            try:
                status = path.stat()
            except FileNotFoundError:  # gradio removes files too
                continue
            entries.append((status.st_mtime_ns, status.st_size, path))
    total = 0
    for number, (_, bytes_of_file, path) in enumerate(sorted(entries, reverse=True)):
        total += bytes_of_file
        if total > size or number >= files:
            path.unlink(missing_ok=True)
            if path.parent != folder:
                remove_empty(path.parent)


def remove_empty(folder: Path) -> None:
    """Remove a folder if it is empty."""
    try:
        folder.rmdir()
    except OSError:
        return
