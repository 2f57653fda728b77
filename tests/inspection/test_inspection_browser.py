"""The page of an inspection in a real browser, wide and narrow."""

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from publish.browser import CHROMIUM, DRIVER, FLAGS, needs_chromium, webdriver
from scenes import recompressed, scene, write_scenes

import hf_tl

pytestmark = [needs_chromium, pytest.mark.long]


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("inspection")
    long_name = "a-class-with-a-very-long-name-that-has-no-spaces-at-all-" * 2
    pets = write_scenes(folder / "pets", {"train/cat": 12, f"train/{long_name}": 9, "test/cat": 2})
    recompressed(scene(2, mean=90)).save(pets / "test" / "cat" / f"{'x' * 120}.jpg")
    (pets / "train" / "cat" / "bad.png").write_bytes(b"")
    hf_tl.inspect(str(pets), output_dir=folder / "out")
    return folder / "out" / "inspection.html"


@contextlib.contextmanager
def shown(page: Path, width: int, profile: Path) -> Iterator[Any]:
    options = webdriver.ChromeOptions()
    options.binary_location = CHROMIUM
    for flag in (*FLAGS, f"--user-data-dir={profile}"):
        options.add_argument(flag)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    driver = webdriver.Chrome(options=options, service=webdriver.ChromeService(DRIVER))
    try:
        size = {"width": width, "height": 900, "deviceScaleFactor": 1, "mobile": width < 500}
        driver.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)
        driver.get(page.as_uri())
        yield driver
    finally:
        driver.quit()


@pytest.mark.parametrize("width", [1280, 400])
def test_the_page_is_readable(width: int, page: Path, tmp_path: Path) -> None:
    with shown(page, width, tmp_path / "profile") as driver:
        script = "return document.documentElement.scrollWidth"
        assert driver.execute_script(script) <= width  # nothing is cut off at the side
        sizes = driver.execute_script("return [...document.images].map(image => [image.naturalWidth, image.width])")
        assert len(sizes) >= 18
        assert all(natural > 0 and drawn > 50 for natural, drawn in sizes)
        small = driver.execute_script(
            "return [...document.querySelectorAll('body *')].filter(element => element.innerText && "
            "parseFloat(getComputedStyle(element).fontSize) < 11).length"
        )
        assert small == 0
        assert "of them across splits" in driver.find_element("tag name", "body").text
        assert not driver.get_log("browser")  # neither errors nor blocked requests
