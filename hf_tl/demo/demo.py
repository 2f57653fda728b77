"""The start of a model's page (`hf_tl.demo.demo_page`), by `hf-tl demo` and in a Space alike."""

import os
import socket
from importlib.util import find_spec
from pathlib import Path

from hf_tl.errors import ConfigError
from hf_tl.reporting.console import say

LARGEST_UPLOAD = "20mb"
STYLE = Path(__file__).with_name("demo.css")


def launch(
    name: str, revision: str | None = None, *, server_name: str | None = None, server_port: int | None = None
) -> None:
    """Start the page of a model, and serve it until the process is told to end.

    Nothing is sent to anybody: no telemetry, no fonts from elsewhere, no public address.

    Args:
        name: a saved model's folder, or a Hub id.
        revision: branch, tag or commit on the Hub.
        server_name: the address to listen on; that of this machine alone by default, or `GRADIO_SERVER_NAME`.
        server_port: the first free one from 7860 by default, or `GRADIO_SERVER_PORT`.

    Raises:
        ConfigError: gradio is not installed, or the address cannot be listened on.
        ModelError: there is no such model.
        PublishError: its record is not whole.
    """
    check_gradio()
    if server_name is not None:
        _check_address(server_name, server_port)
    os.environ["GRADIO_ANALYTICS_ENABLED"] = "False"  # gradio reads it when it is imported
    from transformers.utils import logging

    from hf_tl.demo.demo_page import THEME, build_page

    logging.set_verbosity_error()
    page = build_page(name, revision)
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
        theme=THEME,
        css_paths=STYLE,
    )
    say(None, f"{name} is shown at {url} (Ctrl-C ends it)")
    page.block_thread()


def _check_address(server_name: str, server_port: int | None) -> None:
    """Check that the address can be listened on; gradio would try a hundred ports of one that cannot."""
    family = socket.AF_INET6 if ":" in server_name else socket.AF_INET
    try:
        socket.create_server((server_name, server_port or 0), family=family).close()
    except (OSError, OverflowError) as error:
        port = "" if server_port is None else f" with --server_port {server_port}"
        raise ConfigError(
            f"--server_name {server_name}{port} cannot be listened on: {error}; choose another"
        ) from error


def check_gradio() -> None:
    """Check that gradio is installed.

    Raises:
        ConfigError: it is not.
    """
    if find_spec("gradio") is None:
        raise ConfigError('a page needs gradio: pip install "hf-tl[app]"')
