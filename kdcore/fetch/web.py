"""Asks web servers, of which nothing is believed: no answer goes on for ever, none is read before it is looked at."""

import io
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from http.client import HTTPResponse
from typing import Any
from urllib.parse import urljoin, urlsplit

import requests
from requests.adapters import HTTPAdapter
from urllib3.exceptions import HTTPError

from kdcore.system.errors import check_address, shown

REDIRECTS = 30
"""As many as browsers follow, about."""
UNUSED = 2**20
"""Bytes that a server may send without the file going on: headers, `100 Continue`, chunks without an end."""
LONGEST_REASON = 200


class RefusedError(Exception):
    """An address that does not serve the file; asking again would not help."""


class PassingError(RefusedError):
    """A failure that may pass.

    Args:
        after: seconds that the server asks to wait.
    """

    def __init__(self, message: str, after: float = 0.0) -> None:
        super().__init__(message)
        self.after = after


@dataclass
class Pace:
    """How fast a server sends, and what of it is of use."""

    window: float
    """Seconds of waiting over which the rate is averaged."""
    slowest: float
    """Bytes per second."""
    waited: float = 0.0
    received: int = 0
    """Bytes, in this window."""
    unused: int = 0
    """Bytes since the file went on."""

    def count(self, received: int, seconds: float) -> None:
        """Take note of bytes and how long they were waited for.

        Raises:
            PassingError: they come too slowly.
            RefusedError: nothing of use is among so many.
        """
        self.unused += received
        self.received += received
        self.waited += seconds
        if self.unused > UNUSED:
            raise RefusedError(f"sends more than {UNUSED:,} bytes that are no part of the file")
        if self.waited > self.window:
            if self.received < self.slowest * self.waited:
                raise PassingError(f"sends less than {self.slowest:g} bytes per second")
            self.waited, self.received = 0.0, 0

    def went_on(self) -> None:
        """What was received was of use."""
        self.unused = 0


@contextmanager
def asked(url: str, headers: dict[str, str], timeout: tuple[float, float], pace: Pace) -> Iterator[requests.Response]:
    """The answer at the end of all redirects, its body unread.

    Args:
        url: http(s) address.
        headers: of every request.
        timeout: seconds until a connection, and without a byte.
        pace: of all that comes, to be told when the file went on.

    Raises:
        PassingError: the connection failed, here or while the body was read, or was too slow.
        RefusedError: the address, or one that it leads to, cannot be asked, or what answers is no web server.
    """
    try:
        with _Session(pace) as session:
            _check(url)
            for _ in range(REDIRECTS + 1):
                with session.get(url, headers=headers, stream=True, timeout=timeout) as response:
                    if not response.is_redirect:
                        yield response
                        return
                url = _next(url, response)
            raise RefusedError(f"cannot be asked (Exceeded {REDIRECTS} redirects)")
    except (requests.ConnectionError, requests.Timeout, HTTPError) as error:
        raise PassingError(f"connection failed ({_brief(error)})") from error
    except (requests.RequestException, ValueError) as error:  # the libraries convert much of what a server says
        raise RefusedError(f"cannot be asked ({_brief(error)})") from error


def _check(url: str) -> None:
    try:
        check_address(url)
    except ValueError as error:
        raise RefusedError(f"cannot be asked ({error})") from error


def _next(url: str, response: requests.Response) -> str:
    """Where an answer leads to."""
    said = response.headers["Location"].encode("latin-1").decode(errors="replace")  # http.client reads Latin-1
    try:
        target = urlsplit(urljoin(url, said)).geturl()  # the scheme in small letters
    except ValueError as error:
        raise RefusedError(f"leads to {shown(said)}, which is no address") from error
    _check(target)
    if url.startswith("https:") and target.startswith("http:"):
        raise RefusedError("leads from https to http, where anyone may change the file")
    return target


class _Session(requests.Session):
    def __init__(self, pace: Pace) -> None:
        super().__init__()
        for scheme in ("http://", "https://"):
            self.mount(scheme, _Adapter(pace))

    def get_redirect_target(self, resp: requests.Response) -> None:
        """None: where requests knows of a redirect it reads the whole body, which may have no end, followed or not."""


class _Adapter(HTTPAdapter):
    def __init__(self, pace: Pace) -> None:
        self.pace = pace
        super().__init__()

    def get_connection_with_tls_context(self, *args: Any, **options: Any) -> Any:
        """A pool of connections all bytes of which are counted, from the first header on."""
        pool = super().get_connection_with_tls_context(*args, **options)

        def answer(*args: Any, **options: Any) -> HTTPResponse:
            response = HTTPResponse(*args, **options)
            response.fp = io.BufferedReader(_Counted(response.fp.detach(), self.pace))
            return response

        kind: Any = type(pool).ConnectionCls
        pool.ConnectionCls = type(kind.__name__, (kind,), {"response_class": staticmethod(answer)})
        return pool


class _Counted(io.RawIOBase):
    def __init__(self, raw: io.RawIOBase, pace: Pace) -> None:
        self.raw = raw
        self.pace = pace

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        start = time.monotonic()
        received = self.raw.readinto(buffer) or 0
        self.pace.count(received, time.monotonic() - start)
        return received

    def close(self) -> None:
        self.raw.close()
        super().close()


def _brief(error: BaseException) -> str:
    """Without the chain of causes that the libraries put into one line."""
    while error.args and isinstance(error.args[0], BaseException):
        error = error.args[0]
    cause = getattr(error, "reason", None)
    error = cause if isinstance(cause, BaseException) else error
    said = str(error.args[0]) if error.args else ""
    said = said.rpartition(": ")[2] or type(error).__name__
    return said if said.isprintable() and len(said) <= LONGEST_REASON else shown(said)
