"""Requests to the Hub with retries, time limits and explained errors.

huggingface_hub itself retries the requests of an upload (`huggingface_hub.utils.http_backoff`), but not those for the
account, the repository, the validation of the card and the commit. It also waits for answers without a time limit.
"""

import json
import logging
import os
import re
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TypeVar

from huggingface_hub import get_session
from huggingface_hub.errors import (  # type: ignore[attr-defined]
    HfHubHTTPError,
    HTTPError,
    LocalTokenNotFoundError,
    OfflineModeIsEnabled,
)
from huggingface_hub.utils import parse_ratelimit_headers  # type: ignore[attr-defined]

from hf_tl.errors import ConfigError, PublishError

TRIES = 5
PASSING = (408, 429, 500, 502, 503, 504)
"""HTTP status codes of transient errors, as in `http_backoff`."""
LONGEST_WAIT = 300
"""Longest pause in seconds; the Hub's rate limits use windows of five minutes
(https://huggingface.co/docs/hub/rate-limits)."""
TIMEOUT = 20.0
"""Seconds without data after which a request is canceled and retried."""
TIMEOUT_VARIABLE = "HF_TL_HUB_TIMEOUT"
"""Environment variable that overrides the timeout."""
ADVICE = {
    400: "the Hub does not allow the name or the content",
    401: "the token was not accepted; log in with `hf auth login`, or set HF_TOKEN to a valid token",
    402: "the account's plan does not cover it; see https://huggingface.co/settings/billing",
    403: "the token may not do this; use one with write permission for the namespace, and check whether the "
    "account's storage is full",
    404: "the repository or its revision was not found; check both names",
    409: "another push is changing the repository; push again when it is done",
    412: "the repository was changed during the push, which was not applied; look at the change, then push again",
    413: "a file or the commit is too large for the repository",
    429: "too many requests; wait some minutes",
}
QUOTA_ADVICE = "the account's storage is full; free some of it, see https://huggingface.co/settings/billing"
QUOTA_WORDS = ("storage", "quota")
"""Words of a quota error: the Hub answers 403 both to an exceeded quota and to an insufficient token."""

logger = logging.getLogger(__name__)
T = TypeVar("T")


def retried(request: Callable[[], T], *, also: tuple[int, ...] = ()) -> T:
    """Make a request, and retry it after a pause on transient errors; up to 5 attempts in total.

    The pauses are those of `http_backoff`: 1, 2, 4 and 8 seconds, or the Hub's `Retry-After`.

    Args:
        request: Idempotent request: a failed attempt may have been carried out.
        also: Additional status codes of transient errors.

    Raises:
        HTTPError: The error is permanent, or the fifth attempt failed.
    """
    for number in range(1, TRIES):
        try:
            with time_limit():
                return request()
        except HTTPError as error:
            pause = _pause(error, number, also)
            if pause is None:
                raise
            logger.warning(
                "Retrying a request to the Hub in %g s (attempt %d of %d, after %s)",
                pause,
                number + 1,
                TRIES,
                _short(error),
            )
            time.sleep(pause)
    with time_limit():
        return request()


@contextmanager
def time_limit() -> Iterator[None]:
    """Cancel requests of huggingface_hub that receive no data for some seconds.

    `HF_TL_HUB_TIMEOUT` sets the seconds. The limit is set on the client that all requests of huggingface_hub share, so
    that proxies and certificates of a custom client factory stay in place.
    """
    client = get_session()
    before = client.timeout
    client.timeout = timeout()
    try:
        yield
    finally:
        client.timeout = before


def timeout() -> float:
    """Return the seconds of `time_limit`, for requests that need the limit as an argument.

    Raises:
        ConfigError: `HF_TL_HUB_TIMEOUT` is not a number of seconds.
    """
    text = os.environ.get(TIMEOUT_VARIABLE, "")
    try:
        seconds = float(text or TIMEOUT)
    except ValueError:
        seconds = 0
    if not seconds > 0:
        raise ConfigError(f"{TIMEOUT_VARIABLE} takes a number of seconds above 0, found {text!r}")
    return seconds


def _pause(error: HTTPError, number: int, also: tuple[int, ...]) -> float | None:
    """Return the seconds until the next attempt; None for no further attempt."""
    pause = float(2 ** (number - 1))
    if not isinstance(error, HfHubHTTPError):  # no answer, or an incomplete one
        return pause
    response = error.response
    if response.status_code not in PASSING + also:
        return None
    limits = parse_ratelimit_headers(response.headers)
    asked = response.headers.get("Retry-After", "").strip()
    if response.status_code == 429 and limits is not None and limits.remaining == 0:
        pause = limits.reset_in_seconds
    elif asked.isdigit():
        pause = int(asked)
    return pause if pause <= LONGEST_WAIT else None


def _short(error: HTTPError) -> str:
    return str(error.response.status_code) if isinstance(error, HfHubHTTPError) else type(error).__name__


@contextmanager
def explained(action: str) -> Iterator[None]:
    """Turn errors of huggingface_hub into a `PublishError` that says what to do.

    Args:
        action: Action in progress, for example `push to user/flowers`.
    """
    try:
        yield
    except (LocalTokenNotFoundError, HTTPError, ValueError, ConnectionError, PermissionError) as error:
        raise PublishError(f"cannot {action}: {_what_to_do(error)}") from error
    except RuntimeError as error:  # the upload of a large file wraps the cause in this error
        raise PublishError(f"cannot {action}: {_what_to_do(error.__cause__ or error)}") from error


def _what_to_do(error: BaseException) -> str:
    if isinstance(error, LocalTokenNotFoundError):
        return "there is no Hub token; log in with `hf auth login`, or set HF_TOKEN"
    if isinstance(error, OfflineModeIsEnabled):
        return "the Hub's client is offline; unset HF_HUB_OFFLINE"
    if isinstance(error, HfHubHTTPError):
        status, answer = error.response.status_code, error.server_message or error.response.reason_phrase
        return f"{_advice(status, answer)} (status {status}: {answer})"
    if isinstance(error, HTTPError):  # not quoted: its text may contain the request's headers, and with them the token
        return f"the Hub could not be reached ({type(error).__name__}); check the network and HF_ENDPOINT"
    if match := re.search(r"\((\d{3}) ", str(error)):  # xet states the status code in its text
        return f"{_advice(int(match[1]), str(error))} ({error})"
    if isinstance(error, ConnectionError):
        return f"the Hub could not be reached ({error}); check the network"
    return f"the Hub refused it: {messages_of(str(error))}"


def _advice(status: int, answer: str) -> str:
    if status in (402, 403, 413, 507) and any(word in answer.lower() for word in QUOTA_WORDS):
        return QUOTA_ADVICE
    return ADVICE.get(status, "the Hub has an internal error; try again later" if status >= 500 else "see its answer")


def messages_of(text: str) -> str:
    """Return the messages of an answer in JSON, or the text itself."""
    try:
        return "; ".join(entry["message"] for entry in json.loads(text)["errors"])
    except (ValueError, TypeError, KeyError):
        return text
