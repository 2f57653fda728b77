"""The demo page in a real browser: from `hf-tl demo`, and from a Space fetched from a Hub."""

import json
import os
import urllib.request
from collections.abc import Iterator
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread

import pytest
import torch

pytest.importorskip("gradio")

from hub.client import environment, run_python
from hub.server import HubServer
from PIL import Image
from publish.browser import Browser, needs_chromium, opened
from publish.records import evaluated, make_record, put
from publish.saving import save_model
from publish.servers import PATIENCE, served, wait_for

from hf_tl.backbones.load import load_backbone
from hf_tl.demo.space import push_with_space
from hf_tl.predicting.predict import predict
from hf_tl.strategy import Strategy

pytestmark = [pytest.mark.slow, needs_chromium]

HOSTILE = (
    "<img src=x onerror=document.title='hit'>",
    "${document.title='hit'} {{7*7}}",
    "</script><script>document.title='hit'</script>",
    "[x](javascript:alert(1)) **bold**",
    "w" * 300,
    "owl",
)
HEADER_OF_SPACES = ("https://fonts.googleapis.com/", "https://huggingface.co/api/spaces/user/bird-page")
"""URLs that gradio requests to draw a header of the Hub above a Space; the policy refuses them, and the page works."""
REPOSITORY = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a saved model with hostile labels, data name and notes."""
    torch.manual_seed(0)
    model, transforms = load_backbone("timm:test_resnet", HOSTILE, Strategy.transfer(), pretrained=False)
    with torch.no_grad():
        model.get_parameter("timm_model.fc.bias")[5] += 3  # a prediction above chance
    record = put(
        evaluated(make_record(labels=HOSTILE)),
        data__name="<b>birds</b><script>document.title='hit'</script>",
        card__intended_use="<script>document.title='hit'</script>",
    )
    return save_model(model, transforms, record, tmp_path_factory.mktemp("hostile") / "out")


@pytest.fixture(scope="module")
def image(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("images") / "image.jpg"
    Image.effect_mandelbrot((400, 300), (-3, -2.5, 2, 2.5), 100).convert("RGB").save(path)
    return path


@pytest.fixture(scope="module")
def address(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    command = ["-m", "hf_tl", "demo", str(folder)]
    variables = os.environ | {"PYTHONPATH": str(REPOSITORY), "HF_HUB_OFFLINE": "1"}
    with served(command, variables, tmp_path_factory.mktemp("demo")) as url:
        yield url


@pytest.fixture
def browser(address: str, tmp_path: Path) -> Iterator[Browser]:
    with opened(address, tmp_path / "profile") as browser:
        yield browser


def expected(folder: Path, image: Path) -> dict[str, int]:
    (prediction,) = predict(folder, image)
    return {label: round(100 * share) for label, share in prediction.ranking}


def check_answer(browser: Browser, folder: Path, image: Path) -> None:
    browser.upload(image)
    bars = wait_for(browser.bars)
    assert next(iter(bars)) == "owl"
    assert bars == expected(folder, image)
    wait_for(lambda: "Activation map for “owl”" in browser.text)


def test_an_uploaded_image_is_classified(browser: Browser, address: str, folder: Path, image: Path) -> None:
    assert "How the model was trained" in browser.text
    check_answer(browser, folder, image)
    second = list(browser.bars())[1]
    browser.click_bar(1)
    wait_for(lambda: f"“{second}”" in browser.text)
    asked = browser.requests()
    assert len(asked) > 10
    assert all(url.startswith(address) for url in asked), "the page asks nobody else"
    assert not browser.refusals(), "the page works under its own policy"


def test_the_policy_stops_what_the_page_does_not_do_itself(browser: Browser, image: Path, folder: Path) -> None:
    attacks = {
        "inline script": "const script = document.createElement('script'); script.text = \"document.title = 'hit'\";"
        "document.body.append(script)",
        "inline event handler": "document.body.setAttribute('onclick', \"document.title = 'hit'\");"
        "document.body.click()",
        "a string as JavaScript": "setTimeout(\"document.title = 'hit'\", 0)",
        "connect-src": "fetch('https://example.com/').catch(() => {})",
        "img-src": "new Image().src = 'https://example.com/a.png'",
        "form-action": "const form = document.createElement('form'); form.action = 'https://example.com/';"
        "document.body.append(form); form.submit()",
    }
    assert not browser.refusals()
    for attack in attacks.values():
        browser.driver.execute_script(attack)
    refusals = ""
    while not all(directive in refusals for directive in attacks):
        refusals += " ".join(wait_for(browser.refusals))
    assert browser.driver.title.startswith("test_resnet on")
    check_answer(browser, folder, image)


def test_another_page_cannot_frame_the_page(address: str, tmp_path: Path) -> None:
    (tmp_path / "index.html").write_text(f"<input type=file><iframe src={address}></iframe>")
    handler = partial(SimpleHTTPRequestHandler, directory=str(tmp_path))
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        Thread(target=server.serve_forever, daemon=True).start()
        with opened(f"http://127.0.0.1:{server.server_port}/", tmp_path / "profile") as browser:
            assert "frame-ancestors" in wait_for(browser.refusals)[0]
        server.shutdown()


def test_what_others_wrote_is_text(browser: Browser, folder: Path, image: Path) -> None:
    images, scripts = browser.elements("img"), browser.elements("script")
    browser.upload(image)
    shown = wait_for(browser.bars)
    assert set(shown) <= set(HOSTILE)
    browser.driver.execute_script("document.querySelectorAll('details').forEach(one => one.open = true)")
    assert all(label in browser.text for label in HOSTILE)
    assert "<b>birds</b><script>document.title='hit'</script>" in browser.text
    assert browser.driver.title.startswith("test_resnet on")
    assert browser.elements("img") <= images + 2, "the image and its map, and no label"
    assert browser.elements("script") == scripts
    assert not browser.elements("dd b, section a, li img")


@pytest.mark.parametrize("fault", ["no image", "truncated", "too large"])
def test_a_bad_upload_is_reported_and_the_page_stays_usable(
    browser: Browser, folder: Path, image: Path, tmp_path: Path, fault: str
) -> None:
    bad = tmp_path / "bad.png"
    if fault == "no image":
        bad.write_text("This is no image.")
    elif fault == "truncated":
        Image.effect_noise((300, 300), 90).save(bad)
        bad.write_bytes(bad.read_bytes()[:20_000])
    else:
        Image.new("1", (12_000, 12_000)).save(bad)
    browser.upload(bad)
    messages = {
        "no image": "no image that Pillow can read",
        "truncated": "truncated",
        "too large": "more than the limit of 50 megapixels",
    }
    wait_for(lambda: messages[fault] in browser.text)
    assert "/tmp" not in browser.text
    check_answer(browser, folder, image)


@pytest.mark.parametrize("meta", [{}, {"meta": {"_type": "gradio.FileData"}}], ids=["plain", "as a file"])
def test_nothing_but_uploads_is_read(address: str, meta: dict[str, object]) -> None:
    """A path on the machine cannot be read by its name, not even an image."""
    body = json.dumps({"data": [{"path": str(REPOSITORY / "model_cards/digits-transfer/stages.png")} | meta]}).encode()
    headers = {"Content-Type": "application/json"}
    call = urllib.request.Request(f"{address}/gradio_api/call/classify", body, headers)
    with urllib.request.urlopen(call) as answer:
        event = json.load(answer)["event_id"]
    with urllib.request.urlopen(f"{address}/gradio_api/call/classify/{event}") as answer:
        assert b"event: error" in answer.read()


def test_a_pushed_space_shows_the_pushed_model(hub: HubServer, folder: Path, image: Path, tmp_path: Path) -> None:
    push_with_space(folder, "user/birds", "user/bird-page")
    fetch = "snapshot_download('user/bird-page', repo_type='space', local_dir='clone')"
    run_python(f"from huggingface_hub import snapshot_download; {fetch}", hub.url, tmp_path)
    patience = {"HF_HUB_ETAG_TIMEOUT": str(PATIENCE), "HF_HUB_DOWNLOAD_TIMEOUT": str(PATIENCE)}
    place = {"SYSTEM": "spaces", "SPACE_ID": "user/bird-page"}
    variables = environment(hub.url, tmp_path / "home", token=None) | {"PYTHONPATH": ""} | patience | place
    with served(["app.py"], variables, tmp_path / "clone") as url, opened(url, tmp_path / "profile") as browser:
        check_answer(browser, folder, image)
        assert not [line for line in browser.refusals() if not any(url in line for url in HEADER_OF_SPACES)]
        with urllib.request.urlopen(url) as answer:
            policy = answer.headers["Content-Security-Policy"]
        assert "frame-ancestors 'self' https://huggingface.co" in policy, "the Hub shows the Space in a frame"
        assert not answer.headers["X-Frame-Options"]
