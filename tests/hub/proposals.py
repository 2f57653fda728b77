"""Pull requests of the test Hub: drafts with a branch of their own, as created by `create_pull_request`."""

import json
from typing import Any

from hub.endpoints import API, Endpoints
from hub.store import HubError, Repo, User, now
from starlette.requests import Request
from starlette.responses import JSONResponse, Response

PROPOSAL_ROUTES = [
    ("GET|POST", API + r"/discussions(?:/(\d+))?", "discussions"),
    ("POST", API + r"/discussions/(\d+)/status", "discussion_status"),
]


class Proposals(Endpoints):
    """One method per route."""

    async def discussions(self, request: Request, kind: str, repo_id: str, number: str | None = None) -> Response:
        repo = self.repo(request, kind, repo_id)
        known: list[dict[str, Any]] = repo.setdefault("discussions", [])
        if request.method == "POST":
            return JSONResponse(self.open(repo, self.needed_user(request), await request.json()))
        if number is not None:
            return JSONResponse(known[int(number) - 1])
        author = request.query_params.get("author")
        listed = [discussion for discussion in known if author in (None, discussion["author"]["name"])]
        return JSONResponse({"discussions": listed, "count": len(listed), "start": 0})

    @staticmethod
    def open(repo: Repo, user: User, asked: dict[str, Any]) -> dict[str, Any]:
        number = len(repo["discussions"]) + 1
        discussion = {"num": number, "title": asked["title"], "author": {"name": user["name"]}, "createdAt": now()}
        discussion |= {"status": "draft", "isPullRequest": True, "events": [], "diff": "", "filesWithConflicts": []}
        discussion |= {"repo": {"name": repo["id"], "type": "model"}, "changes": {"base": "refs/heads/main"}}
        repo["discussions"].append(discussion)
        repo["refs"][f"refs/pr/{number}"] = repo["refs"]["main"]
        return discussion

    async def discussion_status(self, request: Request, kind: str, repo_id: str, number: str) -> Response:
        discussion = self.repo(request, kind, repo_id)["discussions"][int(number) - 1]
        user, status = self.needed_user(request), json.loads(await request.body())["status"]
        if discussion["author"]["name"] != user["name"]:
            raise HubError(403, "Only the author or a member may do this.")
        discussion["status"] = status
        event = {"id": "1", "type": "status-change", "createdAt": now(), "author": {"name": user["name"]}}
        return JSONResponse({"newStatus": {**event, "data": {"status": status}}})
