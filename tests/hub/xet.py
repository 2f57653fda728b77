"""The xet store of the test Hub, content-addressed, the default way for large files."""

import hashlib
import re
import struct
import time
from collections.abc import Iterator
from itertools import pairwise
from typing import Any

import lz4.frame
from hub.endpoints import API
from hub.proposals import Proposals
from hub.store import Entry, HubError, Repo
from starlette.requests import Request
from starlette.responses import FileResponse, JSONResponse, Response

XET_ROUTES = [
    ("GET", API + "/xet-(read|write)-token/([^/]+)", "xet_token"),
    ("POST", "/v1/xorbs/default/([0-9a-f]{64})", "put_xorb"),
    ("POST", "/v1/shards", "put_shard"),
    ("GET", "/v1/reconstructions/([0-9a-f]{64})", "reconstruct"),
    ("GET", "/xorb/([0-9a-f]{64})", "get_xorb"),
]
BYTE_GROUPS = 2
"""Compression that groups every fourth byte first, which suits floats."""
Term = tuple[str, int, int, int]
"""Xorb, its first chunk, the end of its chunks, and the unpacked size."""


def hex_hash(data: bytes) -> str:
    return "".join(f"{word:016x}" for word in struct.unpack("<4Q", data))


def shard_files(shard: bytes) -> Iterator[tuple[str, str | None, list[Term]]]:
    """Yield each file of a shard: its hash, its SHA-256 and its terms."""
    start = 48
    while shard[start : start + 32] != b"\xff" * 32:
        name, (flags, count) = hex_hash(shard[start : start + 32]), struct.unpack("<II", shard[start + 32 : start + 40])
        terms: list[Term] = []
        for place in range(start + 48, start + 48 + 48 * count, 48):
            _, size, first, end = struct.unpack("<4I", shard[place + 32 : place + 48])
            terms.append((hex_hash(shard[place : place + 32]), first, end, size))
        start += 48 + 48 * count * (2 if flags >> 31 else 1)
        sha = hex_hash(shard[start : start + 32]) if flags >> 30 & 1 else None
        start += 48 if sha else 0
        yield name, sha, terms


def xorb_chunks(xorb: bytes) -> list[tuple[int, int]]:
    """Return the start and the unpacked size of each chunk of a xorb, and the end."""
    chunks, start = [], 0
    while start < len(xorb) and xorb[start] == 0 and xorb[start : start + 7] != b"XETBLOB":
        packed, unpacked = (int.from_bytes(xorb[start + i : start + i + 3], "little") for i in (1, 5))
        chunks.append((start, unpacked))
        start += 8 + packed
    return [*chunks, (start, 0)]


def unpack(chunk: bytes) -> bytes:
    """Unpack a chunk of a xorb, which may be compressed (https://huggingface.co/docs/xet/xorb)."""
    kind, size, content = chunk[4], int.from_bytes(chunk[5:8], "little"), chunk[8:]
    if kind:
        content = lz4.frame.decompress(content)
    if kind != BYTE_GROUPS:
        return content
    grouped, start = bytearray(size), 0
    for group in range(4):  # every fourth byte, starting at the first, second, third and fourth
        length = len(range(group, size, 4))
        grouped[group::4] = content[start : start + length]
        start += length
    return bytes(grouped)


class XetStore(Proposals):
    """One method per route; files from xet are assembled for plain HTTP at the commit."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.terms: dict[str, list[Term]] = {}
        self.xet_of: dict[str, str] = {}
        self.chunks: dict[str, list[tuple[int, int]]] = {}

    async def xet_token(self, request: Request, kind: str, repo_id: str, access: str, revision: str) -> Response:
        self.repo(request, kind, repo_id, write=access == "write" and not revision.startswith("refs/pr/"))
        until = int(time.time()) + 3600
        headers = {"X-Xet-Cas-Url": self.cdn_url, "X-Xet-Access-Token": "xet", "X-Xet-Token-Expiration": str(until)}
        return JSONResponse({"casUrl": self.cdn_url, "exp": until, "accessToken": "xet"}, headers=headers)

    async def put_xorb(self, request: Request, name: str) -> Response:
        data = await request.body()
        self.chunks[name] = xorb_chunks(data)
        self.blob("xorb-" + name).write_bytes(data)
        return JSONResponse({"was_inserted": True})

    async def put_shard(self, request: Request) -> Response:
        for name, sha, terms in shard_files(await request.body()):
            self.terms[name] = terms
            if sha:
                self.xet_of[sha] = name
        return JSONResponse({"result": 1})

    async def get_xorb(self, request: Request, name: str) -> Response:
        return FileResponse(self.blob("xorb-" + name))

    async def reconstruct(self, request: Request, name: str) -> Response:
        if name not in self.terms:
            raise HubError(404, "no such file")
        size = sum(term[3] for term in self.terms[name])
        asked = re.fullmatch(r"bytes=(\d+)-(\d*)", request.headers.get("range", "bytes=0-"))
        assert asked is not None
        if int(asked[1]) >= size:
            return Response(status_code=416)
        return JSONResponse(self.plan(name, int(asked[1]), min(int(asked[2] or size), size - 1)))

    def plan(self, name: str, first: int, last: int) -> dict[str, Any]:
        """Return the chunks of the xorbs that hold the bytes of a file."""
        position, skip, terms = 0, 0, []
        spans: dict[str, list[int]] = {}
        for xorb, begin, end, _ in self.terms[name]:
            kept = []
            for chunk in range(begin, end):
                length = self.chunks[xorb][chunk][1]
                if position + length > first and position <= last:
                    skip = first - position if not kept and not terms else skip
                    kept.append(chunk)
                position += length
            if kept:
                span = {"start": kept[0], "end": kept[-1] + 1}
                length = sum(self.chunks[xorb][chunk][1] for chunk in kept)
                terms.append({"hash": xorb, "unpacked_length": length, "range": span})
                spans.setdefault(xorb, []).extend(span.values())
        fetch = {xorb: [self.place(xorb, min(edges), max(edges))] for xorb, edges in spans.items()}
        return {"offset_into_first_range": skip, "terms": terms, "fetch_info": fetch}

    def place(self, xorb: str, first: int, end: int) -> dict[str, Any]:
        span = {"start": self.chunks[xorb][first][0], "end": self.chunks[xorb][end][0] - 1}
        return {"range": {"start": first, "end": end}, "url": f"{self.cdn_url}/xorb/{xorb}", "url_range": span}

    async def commit(self, request: Request, kind: str, repo_id: str, revision: str) -> Response:
        for match in re.findall(rb'"oid": "([0-9a-f]{64})"', await request.body()):
            if (sha := match.decode()) in self.xet_of and not self.blob(sha).exists():
                self.put_together(sha)
        return await super().commit(request, kind, repo_id, revision)

    def put_together(self, sha: str) -> None:
        whole = bytearray()
        for xorb, first, end, _ in self.terms[self.xet_of[sha]]:
            packed, chunks = self.blob("xorb-" + xorb).read_bytes(), self.chunks[xorb]
            for (start, _), (stop, _) in pairwise(chunks[first : end + 1]):
                whole += unpack(packed[start:stop])
        if hashlib.sha256(whole).hexdigest() != sha:
            raise HubError(400, "xet content has another sha256")
        self.blob(sha).write_bytes(whole)

    def entry(self, repo: Repo, oid: str, path: str, expand: bool) -> Entry:
        entry = super().entry(repo, oid, path, expand)
        sha = entry.get("lfs", {}).get("oid")
        return entry | ({"xetHash": self.xet_of[sha]} if sha in self.xet_of else {})

    async def resolve(self, request: Request, kind: str | None, repo_id: str, revision: str, path: str) -> Response:
        response = await super().resolve(request, kind, repo_id, revision, path)
        if name := self.xet_of.get(response.headers.get("x-linked-etag", "").strip('"')):
            commit = response.headers["x-repo-commit"]
            address = f"{request.base_url}api/{kind or 'models'}/{repo_id}/xet-read-token/{commit}"
            response.headers["X-Xet-Hash"] = name
            response.headers["Link"] = f'<{address}>; rel="xet-auth"'
        return response
