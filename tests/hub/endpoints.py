"""Endpoints of the Hub that huggingface_hub 2.4 calls to push a model and to load one."""

import base64
import hashlib
import json
import re
from fnmatch import fnmatch
from typing import Any
from urllib.parse import parse_qs

import yaml
from hub.store import Entry, HubError, Repo, Store, front_matter, now
from starlette.requests import Request
from starlette.responses import FileResponse, JSONResponse, RedirectResponse, Response

LFS_NAMES = (  # the real Hub uses .gitattributes; these are its defaults for models and data
    "safetensors|bin|pt|pth|onnx|npy|npz|pkl|h5|parquet|arrow|zip|gz|tar|zst|jpg|jpeg|png|webp|msgpack|model|ckpt|joblib"
)
LICENSES = {"apache-2.0", "mit", "bsd-3-clause", "gpl-3.0", "cc-by-4.0", "cc-by-sa-4.0", "cc0-1.0", "other", "unknown"}
SDKS = {"gradio", "streamlit", "docker", "static"}
COLORS = {"red", "yellow", "green", "blue", "indigo", "purple", "pink", "gray"}
SPACE_CARD = (
    "---\ntitle: {name}\nemoji: 🚀\ncolorFrom: red\ncolorTo: gray\nsdk: {sdk}\napp_file: app.py\npinned: false\n---\n"
)
API = r"/api/(models|datasets|spaces)/([^/]+/[^/]+)"
WEB = r"/(?:(datasets|spaces)/)?([^/]+/[^/]+)"
SHA = "([0-9a-f]{64})"
ROUTES = [
    ("GET", "/api/whoami-v2", "whoami"),
    ("POST", "/api/validate-yaml", "validate_yaml"),
    ("POST", "/api/repos/create", "create_repo"),
    ("GET", API + "(?:/revision/([^/]+))?", "repo_info"),
    ("GET", API + "/tree/([^/]+)(?:/(.+))?", "tree"),
    ("POST", API + "/paths-info/([^/]+)", "paths_info"),
    ("GET", API + "/refs", "refs"),
    ("GET", API + "/commits/([^/]+)", "commits"),
    ("POST|DELETE", API + "/(branch|tag)/([^/]+)", "branch_or_tag"),
    ("POST", API + "/preupload/([^/]+)", "preupload"),
    ("POST", API + "/commit/([^/]+)", "commit"),
    ("POST", WEB + r"\.git/info/lfs/objects/batch", "lfs_batch"),
    ("POST", f"/lfs-verify/{SHA}", "lfs_verify"),
    ("PUT", f"/cdn/{SHA}", "cdn_put"),
    ("GET|HEAD", f"/cdn/{SHA}", "cdn_get"),
    ("GET|HEAD", WEB + "/(?:resolve|raw)/([^/]+)/(.+)", "resolve"),
]


def space_mistakes(metadata: dict[str, Any]) -> list[str]:
    """Return the errors that the Hub finds in a Space's card (https://huggingface.co/docs/hub/spaces-config-reference)."""
    mistakes = [] if metadata.get("sdk") in SDKS else [f'"sdk" must be one of {sorted(SDKS)}']
    mistakes += [
        f'"{key}" must be one of {sorted(COLORS)}'
        for key in ("colorFrom", "colorTo")
        if metadata.get(key, "red") not in COLORS
    ]
    return mistakes + (['"short_description" is too long'] if len(metadata.get("short_description", "")) > 60 else [])


def is_true(request: Request, key: str) -> bool:
    return request.query_params.get(key, "").lower() in ("1", "true")


class Endpoints(Store):
    """One method per route."""

    cdn_url = ""

    # -- account and repositories
    async def whoami(self, request: Request) -> Response:
        user = self.needed_user(request)
        token = {"displayName": "test", "role": user["role"]}
        token |= {"fineGrained": user["fineGrained"]} if "fineGrained" in user else {}
        return JSONResponse(
            {
                **{"type": "user", "id": user["name"], "name": user["name"], "fullname": user["name"], "isPro": False},
                "orgs": [{"type": "org", "name": name} for name in user.get("orgs", [])],
                "auth": {"type": "access_token", "accessToken": token},
            }
        )

    async def validate_yaml(self, request: Request) -> Response:
        errors, warnings = [], []
        try:
            body = await request.json()
            metadata = front_matter(body["content"])
            if not metadata:
                warnings.append({"message": "empty or missing yaml metadata in repo card"})
            elif not isinstance(metadata, dict) or metadata.get("license", "mit") not in LICENSES:
                errors.append({"message": f'metadata must be a mapping, and "license" one of {sorted(LICENSES)}'})
            elif body.get("repoType") == "space":
                errors += [{"message": message} for message in space_mistakes(metadata)]
        except yaml.YAMLError as error:
            errors.append({"message": f"invalid YAML metadata: {error}"})
        return JSONResponse({"errors": errors, "warnings": warnings}, 400 if errors else 200)

    async def create_repo(self, request: Request) -> Response:
        user, body = self.needed_user(request), await request.json()
        kind, namespace = body.get("type", "model") + "s", body.get("organization") or user["name"]
        repo_id = f"{namespace}/{body['name']}"
        out = {"url": self.web_url(request, kind, repo_id), "name": repo_id, "id": repo_id}
        if kind == "spaces" and body.get("sdk") not in SDKS:
            raise HubError(400, f'"sdk" must be one of {sorted(SDKS)}')
        if user["role"] != "write" or namespace not in self.namespaces(user):
            raise HubError(403, f'You don\'t have the rights to create a repo under the namespace "{namespace}"')
        if (kind, repo_id) in self.repos:
            return JSONResponse({"error": "You already created this repo", **out}, 409)
        repo: Repo = {"type": kind, "id": repo_id, "refs": {}, "tags": {}, "commits": {}, "created": now()}
        self.repos[kind, repo_id] = repo | {"private": body.get("visibility") == "private"}
        attributes = "".join(f"*.{end} filter=lfs diff=lfs merge=lfs -text\n" for end in LFS_NAMES.split("|")).encode()
        files = {".gitattributes": self.regular(attributes)}
        if kind == "spaces":  # the Hub writes the card of a new Space
            files["README.md"] = self.regular(SPACE_CARD.format(name=body["name"], sdk=body["sdk"]).encode())
        self.add_commit(self.repos[kind, repo_id], "main", files, "initial commit", user["name"])
        return JSONResponse(out)

    @staticmethod
    def web_url(request: Request, kind: str, repo_id: str) -> str:
        return f"{request.base_url}{'' if kind == 'models' else kind + '/'}{repo_id}"

    def describe(self, repo: Repo, oid: str, blobs: bool = False) -> dict[str, Any]:
        files = repo["commits"][oid]["files"]
        card = (front_matter(self.read(files["README.md"]).decode()) if "README.md" in files else None) or {}
        has_config = "config.json" in files and files["config.json"]["size"] < self.lfs_threshold
        config = json.loads(self.read(files["config.json"])) if has_config else {}
        siblings = []
        for path, entry in sorted(files.items()):
            lfs = {"lfs": {**entry["lfs"], "sha256": entry["blob"]}} if "lfs" in entry else {}
            siblings.append(
                {"rfilename": path, **({"size": entry["size"], "blobId": entry["oid"]} | lfs if blobs else {})}
            )
        out = {"id": repo["id"], "author": repo["id"].split("/")[0], "sha": oid, "createdAt": repo["created"]}
        out |= {"lastModified": repo["commits"][oid]["date"], "private": repo["private"], "gated": False}
        out |= {"disabled": False, "downloads": 0, "likes": 0, "tags": card.get("tags", []), "cardData": card}
        out |= {"siblings": siblings, "usedStorage": sum(entry["size"] for entry in files.values())}
        if repo["type"] == "spaces":
            host = repo["id"].replace("/", "-")
            out |= {"sdk": card.get("sdk"), "models": card.get("models", []), "subdomain": host}
            out["runtime"] = {"stage": "BUILDING", "hardware": {"current": None, "requested": "cpu-basic"}}
        if repo["type"] == "models":
            out["config"] = {key: config[key] for key in ("architectures", "model_type") if key in config}
            out |= {key: card.get(key) for key in ("pipeline_tag", "library_name", "model-index")}
        return out

    async def repo_info(self, request: Request, kind: str, repo_id: str, revision: str | None = None) -> Response:
        repo = self.repo(request, kind, repo_id)
        return JSONResponse(self.describe(repo, self.revision(repo, revision), is_true(request, "blobs")))

    async def refs(self, request: Request, kind: str, repo_id: str) -> Response:
        repo = self.repo(request, kind, repo_id)
        branches = [{"name": n, "ref": f"refs/heads/{n}", "targetCommit": c} for n, c in repo["refs"].items()]
        tags = [{"name": n, "ref": f"refs/tags/{n}", "targetCommit": c} for n, c in repo["tags"].items()]
        return JSONResponse({"branches": branches, "converts": [], "pullRequests": [], "tags": tags})

    async def commits(self, request: Request, kind: str, repo_id: str, revision: str) -> Response:
        history = self.history(self.repo(request, kind, repo_id), revision)
        return JSONResponse([{key: c[key] for key in ("id", "title", "message", "date", "authors")} for c in history])

    async def branch_or_tag(self, request: Request, kind: str, repo_id: str, what: str, name: str) -> Response:
        repo, body = self.repo(request, kind, repo_id, write=True), json.loads(await request.body() or b"{}")
        known = repo["refs" if what == "branch" else "tags"]
        new = body.get("tag", name)  # the URL of a tag contains the revision to tag
        if (request.method == "DELETE") != (new in known):
            status = 404 if request.method == "DELETE" else 409
            raise HubError(status, f"Reference exists already or does not exist: {new}")
        if request.method == "DELETE":
            del known[new]
        else:
            known[new] = self.revision(repo, name if what == "tag" else body.get("startingPoint"))
        return Response()

    # -- upload: preupload, LFS batch, PUT and verify, then the commit as lines of JSON
    async def preupload(self, request: Request, kind: str, repo_id: str, revision: str) -> Response:
        repo, out = self.repo(request, kind, repo_id, write=not revision.startswith("refs/pr/")), []
        files = self.files(repo, revision)
        ignored = self.read(files[".gitignore"]).decode().split() if ".gitignore" in files else []
        for file in (await request.json())["files"]:
            path = file["path"]
            is_lfs = file["size"] > self.lfs_threshold or bool(re.search(rf"\.({LFS_NAMES})$|tfevents", path))
            entry = files.get(path, {})
            oid = entry.get("lfs", entry).get("oid")  # the client uses it to skip unchanged files
            mode = "lfs" if is_lfs else "regular"
            is_ignored = any(fnmatch(path, pattern) for pattern in ignored)
            out.append({"path": path, "uploadMode": mode, "shouldIgnore": is_ignored, "oid": oid})
        return JSONResponse({"files": out})

    async def lfs_batch(self, request: Request, kind: str, repo_id: str) -> Response:
        body = await request.json()
        self.repo(request, kind, repo_id, write=not body.get("ref", {}).get("name", "").startswith("refs/pr/"))
        objects = []
        for wanted in body["objects"]:
            oid = wanted["oid"]
            upload = {"upload": {"href": f"{self.cdn_url}/cdn/{oid}"}}
            verify = {"verify": {"href": f"{request.base_url}lfs-verify/{oid}"}}
            # Without "actions" the client uploads nothing.
            actions = {} if self.blob(oid).exists() else {"actions": {**upload, **verify}}
            objects.append({"oid": oid, "size": wanted["size"], "authenticated": True, **actions})
        return JSONResponse({"transfer": "basic", "objects": objects})

    async def cdn_put(self, request: Request, sha: str) -> Response:
        if self.regular(await request.body())["blob"] != sha:
            raise HubError(400, "the body has another sha256")
        return Response()

    async def lfs_verify(self, request: Request, sha: str) -> Response:
        self.needed_user(request)
        if not self.blob(sha).exists() or self.blob(sha).stat().st_size != (await request.json())["size"]:
            raise HubError(404, "LFS object not found")
        return JSONResponse({"success": True})

    async def commit(self, request: Request, kind: str, repo_id: str, revision: str) -> Response:
        repo = self.repo(request, kind, repo_id, write=not revision.startswith("refs/pr/"))
        user = self.needed_user(request)
        head, *items = map(json.loads, (await request.body()).splitlines())
        base = self.revision(repo, revision)
        if head["value"].get("parentCommit", base) != base:
            raise HubError(412, "A commit has happened since. Please refresh and try again.")
        files = dict(self.files(repo, revision))
        for item in items:
            self.apply(files, item["key"], item["value"])
        title, text = head["value"]["summary"], head["value"]["description"]
        oid = self.add_commit(repo, revision, files, title, user["name"], text)
        url = f"{self.web_url(request, kind, repo_id)}/commit/{oid}"
        return JSONResponse({"success": True, "commitOid": oid, "commitUrl": url, "hookOutput": ""})

    def apply(self, files: dict[str, Entry], key: str, value: dict[str, Any]) -> None:
        """Apply one line of a commit: an added file, an LFS file, a deleted file or folder."""
        path = value["path"]
        if key == "file":
            files[path] = self.regular(base64.b64decode(value["content"]))
        elif key == "lfsFile":
            if not self.blob(value["oid"]).exists():
                raise HubError(400, f"LFS pointer to a file that was not uploaded: {path} {value['oid']}")
            files[path] = self.lfs(value["oid"])
        else:
            folder = path.rstrip("/") + "/"
            gone = [p for p in files if p == path or (key == "deletedFolder" and p.startswith(folder))]
            if not gone:
                raise HubError(404, "A file with this name doesn't exist", "EntryNotFound")
            for name in gone:
                del files[name]

    # -- browse and download
    def entry(self, repo: Repo, oid: str, path: str, expand: bool) -> dict[str, Any]:
        commit = repo["commits"][oid]
        entry = commit["files"].get(path)
        tree_oid = hashlib.sha1((oid + path).encode()).hexdigest()
        out = {"type": "file" if entry else "directory", "path": path, "size": 0, "oid": tree_oid}
        out |= {key: value for key, value in (entry or {}).items() if key != "blob"}
        last = {"id": oid, "title": commit["title"], "date": commit["date"]}
        return out | ({"lastCommit": last} if expand else {})

    async def tree(self, request: Request, kind: str, repo_id: str, revision: str, path: str | None = None) -> Response:
        repo = self.repo(request, kind, repo_id)
        oid, prefix = self.revision(repo, revision), path.rstrip("/") + "/" if path else ""
        paths: dict[str, None] = {}
        for file in sorted(name for name in self.files(repo, revision) if name.startswith(prefix)):
            parts = file[len(prefix) :].split("/")
            depth = len(parts) if is_true(request, "recursive") else 1
            paths |= {prefix + "/".join(parts[:length]): None for length in range(1, depth + 1)}
        if prefix and not paths:
            raise HubError(404, f'{path} does not exist on "{revision}"', "EntryNotFound", oid)
        return JSONResponse([self.entry(repo, oid, name, is_true(request, "expand")) for name in paths])

    async def paths_info(self, request: Request, kind: str, repo_id: str, revision: str) -> Response:
        repo, form = self.repo(request, kind, repo_id), parse_qs((await request.body()).decode())
        oid, files = self.revision(repo, revision), self.files(repo, revision)
        is_known = {
            p: p in files or any(f.startswith(p.rstrip("/") + "/") for f in files) for p in form.get("paths", [])
        }
        expand = form.get("expand") == ["true"]
        return JSONResponse([self.entry(repo, oid, path, expand) for path, known in is_known.items() if known])

    async def resolve(self, request: Request, kind: str | None, repo_id: str, revision: str, path: str) -> Response:
        repo = self.repo(request, kind, repo_id)
        oid, entry = self.revision(repo, revision), self.files(repo, revision).get(path)
        if entry is None:
            raise HubError(404, "Entry not found", "EntryNotFound", oid)
        headers = {"X-Repo-Commit": oid}
        if "lfs" not in entry:
            return FileResponse(self.blob(entry["blob"]), headers={**headers, "ETag": f'"{entry["oid"]}"'})
        headers |= {"X-Linked-Size": str(entry["size"]), "X-Linked-ETag": f'"{entry["blob"]}"'}
        return RedirectResponse(f"{self.cdn_url}/cdn/{entry['blob']}", 302, headers=headers)

    async def cdn_get(self, request: Request, sha: str) -> Response:
        if "authorization" in request.headers or not self.blob(sha).exists():
            raise HubError(400, "no such object, or a Hub token sent to the CDN")
        return FileResponse(self.blob(sha), headers={"ETag": f'"{sha}"'})  # answers HEAD and Range, too
