"""The demo under attack, by real requests to a real server: hostile files, paths that are no uploads, floods."""

import http.client
import json
import os
import re
import signal
import stat
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple
from urllib.parse import urlsplit

import pytest
import torch

pytest.importorskip("gradio")

import gradio_client
import httpx
from publish.hostile_files import FILES, Hostile, encoded, picture
from publish.records import LABELS, evaluated, make_record
from publish.saving import save_model
from publish.servers import PATIENCE, serving, wait_for

from hf_tl.backbones.load import load_backbone
from hf_tl.demo.guard import LARGEST_CALL, LARGEST_UPLOAD, remove_old_files
from hf_tl.strategy import Strategy

REPOSITORY = Path(__file__).parents[2]
SERVER_MEMORY = 1_000
"""Limit in megabytes for what uploads add to the memory of the server: one image of 50 megapixels takes most of it."""
SECRET = "root:"
PAGE = "How the model was trained"
FORM_START = b'--x\r\nContent-Disposition: form-data; name="files"; filename="a.png"\r\n\r\n'


class Demo(NamedTuple):
    """Running server."""

    url: str
    process: int
    uploads: Path

    def client(self) -> httpx.Client:
        return httpx.Client(base_url=self.url, timeout=PATIENCE)

    def upload(self, name: str, content: bytes) -> str:
        """Upload a file, and return its path on the server."""
        with self.client() as client:
            answer = client.post("/gradio_api/upload", files={"files": (name, content)})
        assert answer.status_code == 200, answer.text
        [path] = answer.json()
        return str(path)

    def call(self, file: object) -> str:
        """Classify a file, and return the server's answer."""
        with self.client() as client:
            answer = client.post("/gradio_api/call/classify", json={"data": [file]})
            if answer.status_code != 200:
                return f"{answer.status_code} {answer.text}"
            return client.get(f"/gradio_api/call/classify/{answer.json()['event_id']}").text

    def classify(self, path: str) -> str:
        return self.call({"path": path, "meta": {"_type": "gradio.FileData"}})

    def get(self, target: str, method: str = "GET", body: bytes | None = None) -> tuple[int, str]:
        """Send a request whose path is not normalized, and return status and text of the answer."""
        connection = http.client.HTTPConnection(urlsplit(self.url).netloc, timeout=PATIENCE)
        connection.request(method, target, body, {"Content-Type": "application/json"})
        answer = connection.getresponse()
        text = answer.read().decode("latin-1")
        connection.close()
        return answer.status, text

    def peak(self) -> int:
        """Return the largest memory of the server until now, in megabytes."""
        status = Path(f"/proc/{self.process}/status").read_text()
        return int(re.findall(r"VmHWM:\s+(\d+)", status)[0]) // 1024

    def check_alive(self) -> None:
        """Check that the page is served and classifies."""
        with self.client() as client:
            assert PAGE in client.get("/").text
        check_classified(self.classify(self.upload("image.png", encoded(picture(), "PNG"))))


def check_classified(answer: str) -> None:
    assert "event: complete" in answer, answer
    assert json.loads(answer.split("data: ")[-1])[0]["label"] in LABELS


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.manual_seed(0)
    model, transforms = load_backbone("timm:test_resnet", LABELS, Strategy.transfer(), pretrained=False)
    return save_model(model, transforms, evaluated(make_record()), tmp_path_factory.mktemp("saved") / "out")


@pytest.fixture(scope="module")
def start(saved: Path, tmp_path_factory: pytest.TempPathFactory) -> Callable[[], object]:
    def run() -> object:
        folder = tmp_path_factory.mktemp("uploads")
        variables = {"PYTHONPATH": str(REPOSITORY), "HF_HUB_OFFLINE": "1", "GRADIO_TEMP_DIR": str(folder)}
        command = ["-m", "hf_tl", "demo", str(saved)]
        return serving(command, os.environ | variables, tmp_path_factory.mktemp("demo")), folder

    return run


@pytest.fixture(scope="module")
def demo(start: Callable[[], object]) -> Iterator[Demo]:
    process, folder = start()
    with process as (url, server):
        [uploads] = folder.glob("hf_tl-demo-*")
        yield Demo(url, server.pid, uploads)


@pytest.mark.parametrize("file", FILES, ids=[file.name[:40] for file in FILES])
def test_a_hostile_file_is_classified_or_refused_in_bounded_memory(demo: Demo, file: Hostile) -> None:
    demo.check_alive()
    before = demo.peak()
    path = demo.upload(file.name, file.content())
    assert Path(path).is_relative_to(demo.uploads)
    answer = demo.classify(path)
    if file.answer is None:
        check_classified(answer)
    else:
        assert "event: error" in answer
        assert re.search(file.answer, answer)
        assert str(demo.uploads) not in answer
        assert "/" not in json.loads(answer.split("data: ")[-1])["error"]
    assert demo.peak() - before < SERVER_MEMORY
    demo.check_alive()


def test_an_upload_is_served_as_an_image_or_as_a_download(demo: Demo) -> None:
    for file in FILES:
        if len(content := file.content()) > 1_000_000:
            continue
        path = demo.upload(file.name, content)
        with demo.client() as client:
            answer = client.get(f"/gradio_api/file={path}")
        assert answer.status_code == 200
        assert answer.content == content
        kind, place = answer.headers["content-type"], answer.headers["content-disposition"]
        assert kind.startswith(("image/", "text/plain")) or place.startswith("attachment")
        assert "svg" not in kind
        assert "html" not in kind
        assert answer.headers["x-content-type-options"] == "nosniff"


def outside(demo: Demo) -> list[str]:
    """Return requests for what is no upload."""
    up = "../" * 12
    paths = [
        "/etc/passwd", f"{demo.uploads}/{up}etc/passwd", f"{demo.uploads}/{up.replace('.', '%2e')}etc/passwd",
        f"{demo.uploads}/{up.replace('/', '%2f')}etc/passwd", "%2fetc%2fpasswd", "%252fetc%252fpasswd",
        "etc/passwd%00.png", "http://127.0.0.1:9/", "https://huggingface.co/robots.txt", "//etc/passwd",
        "file:///etc/passwd", "C:\\Windows\\win.ini", "", "/", ".", str(demo.uploads), f"{demo.uploads}/",
        f"{REPOSITORY}/README.md", "/proc/self/environ", f"/proc/self/root{demo.uploads}/{up}etc/passwd",
    ]  # fmt: skip
    others = [
        "/gradio_api/file/etc/passwd", "/file=/etc/passwd", "/static/../../../../../etc/passwd", "/static/",
        "/static/..%2f..%2f..%2f..%2f..%2f..%2fetc%2fpasswd", "/assets/%2fetc%2fpasswd", "/assets/", "/static", "/..",
        "/assets/../../../__init__.py", "/gradio_api/proxy=http://127.0.0.1:9/", "/gradio_api/dev/reload", "/token",
        "/gradio_api/custom_component/a/client/component/style.css", "/monitoring/summary", "/gradio_api/vibe-code",
        "/gradio_api/deep_link?session_hash=a", "/gradio_api/runs", "/svelte/svelte.js", "/docs", "/openapi.json",
        "/gradio_api/stream/a/0/0/playlist.m3u8", "/pwa_icon/100000",
    ]  # fmt: skip
    return [f"/gradio_api/file={path}" for path in paths] + others


def test_nothing_but_uploads_is_served(demo: Demo) -> None:
    path = demo.upload("image.png", encoded(picture(), "PNG"))
    assert demo.get(f"/gradio_api/file={path}")[0] == 200
    for target in outside(demo):
        status, text = demo.get(target.replace(" ", "%20").replace("\\", "%5C"))
        assert status in (400, 403, 404, 405), target
        assert SECRET not in text
        assert "Traceback" not in text
        assert not re.search(r"\.(png|jpg|py|js)\b", text), f"{target} lists files"
    demo.check_alive()


def test_a_link_in_the_upload_folder_leads_nowhere(demo: Demo) -> None:
    (demo.uploads / "link.png").symlink_to("/etc/passwd")
    status, text = demo.get(f"/gradio_api/file={demo.uploads}/link.png")
    assert SECRET not in text
    assert status in (403, 404)


@pytest.mark.parametrize(
    "target",
    ["run/classify", "api/classify", "process_recording", "vibe-edit", "run-history/connect", "upload/../run/classify"],
)
def test_functions_that_the_page_does_not_need_are_not_served(demo: Demo, target: str) -> None:
    body = json.dumps({"data": [None], "fn_index": 0}).encode()
    assert demo.get(f"/gradio_api/{target}", "POST", body)[0] == 404
    assert demo.get("/login", "POST", body)[0] == 404


@pytest.mark.parametrize(
    "file",
    [
        {"path": "/etc/passwd"},
        {"path": "/etc/passwd", "meta": {"_type": "gradio.FileData"}},
        {"path": "http://127.0.0.1:9/a.png", "meta": {"_type": "gradio.FileData"}},
        {"path": "https://huggingface.co/front/assets/huggingface_logo.svg", "meta": {"_type": "gradio.FileData"}},
        {"url": "http://127.0.0.1:9/a.png", "path": None},
        {"path": ""},
        {"path": "."},
        {},
        "/etc/passwd",
        "data:image/png;base64,aGVsbG8=",
        ["/etc/passwd"],
        7,
    ],
    ids=str,
)
def test_nothing_but_uploads_is_classified(demo: Demo, file: object) -> None:
    answer = demo.call(file)
    assert "event: error" in answer or answer.startswith(("4", "5"))
    assert SECRET not in answer
    assert "Traceback" not in answer


@pytest.mark.parametrize(
    "body",
    [
        b"", b"{", b"null", b"[" * 30_000, b'{"data": [], "fn_index": 99, "session_hash": "a"}',
        b'{"data": [], "fn_index": -1, "session_hash": "a"}',
        b'{"data": [], "fn_index": "classify", "session_hash": "a"}',
        b'{"data": [], "fn_index": 1e400, "session_hash": "a"}', b'{"data": [null, null], "session_hash": "a"}',
        b'{"data": [null, null], "fn_index": 1, "session_hash": "a", "event_data": {"index": 9, "target": 3}}',
    ],
    ids=range(10),
)  # fmt: skip
def test_a_queue_of_unknown_functions(demo: Demo, body: bytes) -> None:
    status, text = demo.get("/gradio_api/queue/join", "POST", body)
    assert status in (200, 400, 404, 422, 500)
    assert "Traceback" not in text
    assert str(REPOSITORY) not in text
    assert demo.get("/gradio_api/call/no_such_function", "POST", b'{"data": []}')[0] in (400, 404, 422, 500)
    demo.check_alive()


@pytest.mark.parametrize("is_chunked", [False, True])
def test_a_request_that_is_too_large_is_refused(demo: Demo, is_chunked: bool) -> None:
    def parts(content: bytes) -> bytes | Iterator[bytes]:
        pieces = (content[start : start + 100_000] for start in range(0, len(content), 100_000))
        return pieces if is_chunked else content

    form = FORM_START + b"%s\r\n--x--\r\n"
    kind = {"Content-Type": "multipart/form-data; boundary=x"}
    with demo.client() as client:
        full = client.post("/gradio_api/upload", content=parts(form % bytes(LARGEST_UPLOAD)), headers=kind)
        assert full.status_code == 200
    for target, content, headers in [
        ("/gradio_api/upload", form % bytes(LARGEST_UPLOAD + 1), kind),
        ("/gradio_api/upload", form % bytes(3 * LARGEST_UPLOAD), kind),
        ("/gradio_api/upload", form % bytes(LARGEST_UPLOAD // 2) * 3, kind),
        ("/gradio_api/queue/join", b"[" + bytes(LARGEST_CALL) + b"]", {"Content-Type": "application/json"}),
    ]:
        try:
            with demo.client() as client:
                assert client.post(target, content=parts(content), headers=headers).status_code == 413
        except httpx.TransportError:  # the server closes the connection while the rest is being sent
            assert len(content) > 2 * LARGEST_UPLOAD
    demo.check_alive()


def test_uploads_are_private_and_removed_with_the_server(start: Callable[[], object]) -> None:
    process, folder = start()
    with process as (url, server):
        [uploads] = folder.glob("hf_tl-demo-*")
        demo = Demo(url, server.pid, uploads)
        demo.check_alive()
        assert stat.S_IMODE(uploads.stat().st_mode) == 0o700
        assert list(uploads.rglob("*.png"))
        server.send_signal(signal.SIGTERM)
        assert server.wait() == 143
    assert not uploads.exists()


def test_every_answer_has_the_headers(demo: Demo) -> None:
    path = demo.upload("image.png", encoded(picture(), "PNG"))
    with demo.client() as client:
        for target in ("/", "/config", "/theme.css", f"/gradio_api/file={path}", "/no/such/page"):
            headers = client.get(target).headers
            assert "default-src 'none'" in headers["content-security-policy"]
            assert "unsafe-eval" not in headers["content-security-policy"]
            assert "frame-ancestors 'self'" in headers["content-security-policy"].split("; ")
            assert headers["x-content-type-options"] == "nosniff"
            assert headers["referrer-policy"] == "same-origin"


def test_gradio_s_client_classifies(demo: Demo, tmp_path: Path) -> None:
    picture().save(tmp_path / "image.png")
    client = gradio_client.Client(demo.url, verbose=False, download_files=str(tmp_path))
    answer, *_ = client.predict(gradio_client.handle_file(tmp_path / "image.png"), api_name="/classify")
    assert answer["label"] in LABELS


def test_an_upload_that_was_broken_off_counts(demo: Demo) -> None:
    connection = http.client.HTTPConnection(urlsplit(demo.url).netloc, timeout=PATIENCE)
    connection.putrequest("POST", "/gradio_api/upload")
    connection.putheader("Content-Type", "multipart/form-data; boundary=x")
    connection.putheader("Content-Length", "1000000")
    connection.endheaders(FORM_START + bytes(200_000))
    broken_off = wait_for(lambda: [file for file in demo.uploads.glob("tmp*") if file.stat().st_size])
    connection.close()
    remove_old_files(demo.uploads, 0, 0)
    assert not any(file.exists() for file in broken_off)
    demo.check_alive()


@pytest.mark.slow
def test_two_hundred_uploads_at_once(demo: Demo) -> None:
    images = {f"{number}.png": encoded(picture(100 + number), "PNG") for number in range(200)}
    demo.check_alive()
    before = demo.peak()
    with ThreadPoolExecutor(200) as pool:
        answers = list(pool.map(lambda name: demo.classify(demo.upload(name, images[name])), images))
        for answer in answers:
            check_classified(answer)
    assert demo.peak() - before < SERVER_MEMORY
    demo.check_alive()


@pytest.mark.slow
def test_two_hundred_largest_uploads_at_once(demo: Demo) -> None:
    demo.check_alive()
    before = demo.peak()

    def upload(number: int) -> int:
        content = number.to_bytes(4, "big") + bytes(LARGEST_UPLOAD - 4)
        with demo.client() as client:
            return client.post("/gradio_api/upload", files={"files": ("a.png", content)}).status_code

    with ThreadPoolExecutor(50) as pool:
        statuses = set(pool.map(upload, range(200)))
    assert statuses <= {200, 503}
    assert 200 in statuses
    assert demo.peak() - before < SERVER_MEMORY
    sizes = [file.stat().st_size for file in demo.uploads.rglob("*") if file.is_file()]
    assert sum(sizes) <= 1 << 30
    demo.check_alive()
