"""Launch of a model's web page (`hf_tl.demo.demo_page`), for `hf-tl demo` and for Spaces."""

import os
import signal
import socket
import sys
from importlib.util import find_spec
from pathlib import Path
from tempfile import TemporaryDirectory

from hf_tl.errors import ConfigError
from hf_tl.reporting.console import say

HOST = "https://huggingface.co"
"""Origin that embeds the pages of Spaces."""
LONGEST_QUEUE = 256
"""Number of requests that may wait for the model; more are refused until some are answered."""
MOST_SESSIONS = 1_000
TERMINATED = 143
STYLE = Path(__file__).with_name("demo.css")


def launch(
    name: str, revision: str | None = None, *, server_name: str | None = None, server_port: int | None = None
) -> None:
    """Launch the web page of a model, and serve it until the process is stopped.

    No data leave the machine: no telemetry, no remote fonts, no public URL.

    Args:
        name: Folder of a saved model, Hub id, or folder or file of an exported model.
        revision: Branch, tag or commit on the Hub.
        server_name: Address to listen on; `GRADIO_SERVER_NAME`, or this machine alone, by default.
        server_port: Port to listen on; `GRADIO_SERVER_PORT`, or the first free one from 7860, by default.

    Raises:
        ConfigError: gradio or the runtime of an exported model is not installed, or the address is not available.
        ModelError: The model does not exist, or cannot be used.
        PublishError: The record of the model is damaged.
    """
    check_gradio()
    if server_name is not None:
        _check_address(server_name, server_port)
    os.environ["GRADIO_ANALYTICS_ENABLED"] = "False"  # gradio reads it on import
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(TERMINATED))  # so that the uploads are removed
    if place := os.environ.get("GRADIO_TEMP_DIR"):
        Path(place).mkdir(parents=True, exist_ok=True)
    with TemporaryDirectory(prefix="hf_tl-demo-", dir=place, ignore_cleanup_errors=True) as uploads:
        folder = Path(uploads).resolve()
        os.environ["GRADIO_TEMP_DIR"] = str(folder)
        _serve(name, revision, folder, server_name, server_port)


def _serve(name: str, revision: str | None, uploads: Path, server_name: str | None, server_port: int | None) -> None:
    from gradio.utils import get_space
    from starlette.middleware import Middleware
    from transformers.utils import logging

    from hf_tl.demo.demo_page import THEME, build_page
    from hf_tl.demo.guard import LARGEST_UPLOAD, PageGuard

    logging.set_verbosity_error()
    page = build_page(name, revision).queue(max_size=LONGEST_QUEUE)
    hosts = HOST if get_space() else ""
    _, url, _ = page.launch(
        server_name=server_name,
        server_port=server_port,
        prevent_thread_lock=True,
        quiet=True,
        share=False,
        footer_links=[],
        run_history=False,
        enable_monitoring=False,
        ssr_mode=False,
        pwa=False,
        mcp_server=False,
        max_file_size=LARGEST_UPLOAD,
        state_session_capacity=MOST_SESSIONS,
        app_kwargs={"middleware": [Middleware(PageGuard, folder=uploads, hosts=hosts)]},
        theme=THEME,
        css_paths=STYLE,
    )
    say(None, f"{name} is shown at {url} (press Ctrl-C to stop)")
    page.block_thread()


def _check_address(server_name: str, server_port: int | None) -> None:
    """Check that the address is available; gradio would try a hundred ports of an unavailable one."""
    family = socket.AF_INET6 if ":" in server_name else socket.AF_INET
    try:
        socket.create_server((server_name, server_port or 0), family=family).close()
    except (OSError, OverflowError) as error:
        port = "" if server_port is None else f" with --server_port {server_port}"
        raise ConfigError(f"--server_name {server_name}{port} is not available: {error}; choose another") from error


def check_gradio() -> None:
    """Check that gradio is installed.

    Raises:
        ConfigError: It is not installed.
    """
    if find_spec("gradio") is None:
        raise ConfigError('a web page needs gradio: pip install "hf-tl[app]"')
