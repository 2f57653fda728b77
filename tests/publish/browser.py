"""A page in a real browser: Debian's Chromium without a window."""

import json
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from publish.servers import PATIENCE, wait_for

webdriver = pytest.importorskip("selenium.webdriver")
By = pytest.importorskip("selenium.webdriver.common.by").By

CHROMIUM, DRIVER = shutil.which("chromium"), shutil.which("chromedriver")
FLAGS = (
    *("--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-sync"),
    *("--disable-background-networking", "--disable-component-update", "--window-size=1280,1300"),
)

needs_chromium = pytest.mark.skipif(CHROMIUM is None or DRIVER is None, reason="needs Chromium and its driver")


class Browser:
    """Browser with an open page."""

    def __init__(self, url: str, profile: Path) -> None:
        options = webdriver.ChromeOptions()
        options.binary_location = CHROMIUM
        for flag in (*FLAGS, f"--user-data-dir={profile}"):
            options.add_argument(flag)
        options.set_capability("goog:loggingPrefs", {"performance": "ALL", "browser": "ALL"})
        self.driver = webdriver.Chrome(options=options, service=webdriver.ChromeService(DRIVER))
        self.driver.set_page_load_timeout(PATIENCE)
        self.driver.get(url)
        wait_for(lambda: self.driver.find_elements(By.CSS_SELECTOR, "input[type=file]"))

    @property
    def text(self) -> str:
        """Return the visible text."""
        return self.driver.find_element(By.TAG_NAME, "body").text

    def upload(self, image: Path) -> None:
        """Upload an image, in place of an earlier one."""
        if clear := self.driver.find_elements(By.CSS_SELECTOR, "[aria-label='Clear']"):
            clear[0].click()
        wait_for(lambda: self.driver.find_elements(By.CSS_SELECTOR, "input[type=file]"))[0].send_keys(str(image))

    def bars(self) -> dict[str, int]:
        """Return the classes on the page, with their percentages."""
        # in one step: the page may redraw them meanwhile
        rows = self.driver.execute_script(
            "return [...document.querySelectorAll('.confidence-set')].map("
            "row => [row.querySelector('.text').innerText, row.querySelector('.confidence').innerText])"
        )
        return {label: int(share.rstrip("%")) for label, share in rows}

    def click_bar(self, index: int) -> None:
        """Click the bar of a class."""
        self.driver.find_elements(By.CSS_SELECTOR, ".confidence-set")[index].click()

    def elements(self, tag: str) -> int:
        """Return the number of elements of a tag in the page's body."""
        return len(self.driver.find_elements(By.CSS_SELECTOR, f"body {tag}"))

    def refusals(self) -> list[str]:
        """Return what the console says about the content security policy since the last call."""
        lines = [entry["message"] for entry in self.driver.get_log("browser")]
        return [line for line in lines if "Content Security Policy" in line]

    def requests(self) -> list[str]:
        """Return the URLs that the page has requested."""
        messages = [json.loads(entry["message"])["message"] for entry in self.driver.get_log("performance")]
        sent = [message["params"] for message in messages if message["method"] == "Network.requestWillBeSent"]
        # a new browser's own first page requests chrome:// and the like
        return [url for url in (parameters["request"]["url"] for parameters in sent) if url.startswith(("http", "ws"))]


@contextmanager
def opened(url: str, profile: Path) -> Iterator[Browser]:
    """Yield a page in a browser of its own."""
    browser = Browser(url, profile)
    try:
        yield browser
    finally:
        browser.driver.quit()
