"""Download files with `requests`. A file stands in its place whole and checked, or it is not there.

Until then its bytes are in `<path>.part`, and `<path>.part.json` says which file they belong to. A later attempt, of
this process or of the next one, asks the server for the missing bytes alone, on condition that the file has not changed
(RFC 9110, sections 13.1.5 and 14.2).
"""

import hashlib
import json
import os
import re
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urljoin, urlsplit

import requests
from rich.console import Console
from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn, TransferSpeedColumn
from tenacity import RetryCallState, Retrying, retry_if_exception_type, stop_after_attempt
from urllib3.exceptions import HTTPError

from kdcore.system import workspace
from kdcore.system.errors import UserError, check_address, named, shown
from kdcore.system.files import alone, file_sha256

FOLDER = Path("scratch/downloads")
CHUNK = 1 << 16
PASSING = (408, 425, 429)
"""Status codes, besides 5xx, after which it is worth asking again."""
NUMBER = "([0-9]{1,18})"
CHECKSUM = re.compile("sha256:[0-9a-f]{8,64}")
LONGEST_NAME, LONGEST_REASON = 80, 200
LARGEST = 256 * 2**30
"""Most bytes of a file."""


@dataclass(frozen=True)
class Patience:
    """How long to wait for servers."""

    attempts: int = 6
    """Attempts per address, the first one included."""
    first_wait: float = 1.0
    """Seconds before the second attempt. Each wait is twice the one before it, or what the server asks for."""
    longest_wait: float = 30.0
    """Most seconds between two attempts."""
    connect: float = 10.0
    """Seconds to wait for a connection."""
    silence: float = 60.0
    """Seconds to wait for the next byte."""
    slowest: float = 300.0
    """Bytes per second of the body, averaged over every `silence` seconds, below which an attempt is given up."""


PATIENT = Patience()


class _RefusedError(Exception):
    """The address does not serve the file, and asking again would not help."""


class _PassingError(_RefusedError):
    """The attempt failed, and the next one may succeed.

    Args:
        after: seconds that the server asks to wait.
    """

    def __init__(self, message: str, after: float = 0.0) -> None:
        super().__init__(message)
        self.after = after


def fetch(urls: Sequence[str], path: Path, *, checksum: str | None = None, patience: Patience = PATIENT) -> str:
    """Download a file, continuing where an earlier download of it broke off.

    A file that is at `path` already is kept if it has this checksum or, without one, if it is as it was downloaded.
    Other processes that want the same path wait.

    Args:
        urls: http(s) addresses of the same file, tried in this order.
        path: where the file goes; its folder is made.
        checksum: "sha256:<hex>", of which the first eight digits suffice; None trusts what comes.
        patience: how long to wait for servers.

    Returns:
        The file's sha256, which the caller may record where there was no checksum.

    Raises:
        UserError: no address serves the file whole and with this checksum, or the file cannot be written. A wrong file
            is removed; a part that can be continued stays.
    """
    if checksum is not None and not CHECKSUM.fullmatch(checksum):
        raise UserError(f"checksum {checksum!r}: must be sha256:<at least 8 hex digits>")
    for url in urls:
        if not url.startswith(("http://", "https://")):
            raise UserError(f"{url}: only http and https addresses are allowed")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with alone(path, "downloads", lock_file=path.with_name(f"{path.name}.lock")):
            return _sha256_if_right(path, checksum) or _Download(path, checksum, patience).from_any(urls)
    except OSError as error:
        raise UserError(f"{path}: cannot be written ({error.strerror or error})") from error


def cached(url: str) -> Path:
    """Return the path below scratch/, of the workspace, at which the download of an address is kept for later runs."""
    name = re.sub(r"[^\w.-]", "_", Path(unquote(urlsplit(url).path)).name)[-LONGEST_NAME:]
    folder = (workspace.origin() or Path()) / FOLDER
    return folder / f"{hashlib.sha256(url.encode()).hexdigest()[:16]}-{name or 'file'}"


def forget(path: Path) -> None:
    """Remove a downloaded file, so that the next download starts anew."""
    path.unlink(missing_ok=True)
    _record(path).unlink(missing_ok=True)


class _Download:
    """One file that is being downloaded.

    Args:
        path: where the file goes.
        checksum: "sha256:<hex>", or None to trust what comes.
        patience: how long to wait for servers.
    """

    def __init__(self, path: Path, checksum: str | None, patience: Patience) -> None:
        self.path, self.checksum, self.patience = path, checksum, patience
        self.part = path.with_name(f"{path.name}.part")
        self.note = path.with_name(f"{path.name}.part.json")

    def from_any(self, urls: Sequence[str]) -> str:
        """Bring the file to its place from the first address that serves it, and return its sha256."""
        retry = Retrying(
            retry=retry_if_exception_type(_PassingError),
            stop=stop_after_attempt(self.patience.attempts),
            wait=self._wait,
            before_sleep=lambda state: print(
                f"{state.args[0]}: {_error(state)}; again in {self._wait(state):.0f} s", file=sys.stderr
            ),
            reraise=True,
        )
        reasons = []
        for url in urls:
            try:
                retry(self._attempt, url)
                return self._put_in_place()
            except _RefusedError as error:
                reasons.append(f"{url}: {error}")
            if not self._noted().get("validator"):
                self._discard()  # nobody could continue it
        if self.part.is_file():
            reasons.append(f"{self.part} is kept; run it again to go on from there")
        raise UserError("\n".join(reasons))

    def _wait(self, state: RetryCallState) -> float:
        """Return the seconds before the next attempt: twice as many each time, or as many as the server asks for."""
        doubled = self.patience.first_wait * 2 ** (state.attempt_number - 1)
        return min(max(doubled, getattr(_error(state), "after", 0)), self.patience.longest_wait)

    def _attempt(self, url: str) -> None:
        """Ask an address once for the bytes that are missing."""
        noted = self._noted()
        if noted.get("url") != url or not noted.get("validator"):
            noted = {}
        offset = self.part.stat().st_size if noted else 0
        if noted and offset == noted["length"]:
            return  # whole already: the process that fetched it was killed before it could put it in place
        headers = {"Accept-Encoding": "identity"}  # a compressed answer could not be continued
        if offset:
            headers |= {"Range": f"bytes={offset}-", "If-Range": noted["validator"]}
        with _answer(url, headers, self.patience) as response:
            _check_status(response)
            if response.status_code == 200:
                offset, length = 0, _number(response, "Content-Length")
                if length is None and self.checksum is None and "chunked" not in _header(response, "Transfer-Encoding"):
                    raise _RefusedError("does not say how long the file is, so a truncated one could not be told")
                noted = {"url": url, "validator": _validator(response), "length": length}
            else:
                noted["length"] = self._length_of_whole(response, noted, offset)
            if (noted["length"] or 0) > LARGEST:
                raise _RefusedError(f"announces {noted['length']:,} bytes; at most {LARGEST:,} are allowed")
            self._receive(response, offset, noted)

    def _noted(self) -> dict[str, Any]:
        """Return address, validator (ETag or date) and length of the file that the part belongs to; {} if unknown."""
        try:
            noted = json.loads(self.note.read_text()) if self.part.is_file() else {}
        except (OSError, ValueError):  # nothing was begun, or a kill cut the note off
            return {}
        return noted if isinstance(noted, dict) and noted.keys() == {"url", "validator", "length"} else {}

    def _length_of_whole(self, response: requests.Response, noted: dict[str, Any], offset: int) -> int:
        """Return what a partial answer says of the whole file's length, if it continues the part that is here."""
        said = re.fullmatch(rf"bytes {NUMBER}-{NUMBER}/{NUMBER}", _header(response, "Content-Range"))
        if response.status_code == 206 and noted and said and int(said[1]) == offset:
            same_file = _validator(response) in ("", noted["validator"])
            if same_file and noted["length"] in (None, int(said[3])):
                return int(said[3])
        self._discard()
        raise _PassingError("does not go on with the part that is here; it is fetched anew")

    def _receive(self, response: requests.Response, offset: int, noted: dict[str, Any]) -> None:
        """Append the body of an answer to the part, and check how long the part is then."""
        length, received = noted["length"], offset
        since, received_then = time.monotonic(), offset
        with self.part.open("ab" if offset else "wb") as file, _progress() as bar:
            self.note.write_text(json.dumps(noted))
            task = bar.add_task(self.path.name, total=length, completed=offset)
            while received <= LARGEST and (chunk := response.raw.read1(CHUNK, decode_content=False)):
                received += file.write(chunk)
                bar.update(task, completed=received)
                seconds = time.monotonic() - since
                if seconds > self.patience.silence:
                    if received - received_then < self.patience.slowest * seconds:
                        raise _PassingError(f"sends less than {self.patience.slowest:g} bytes per second")
                    since, received_then = time.monotonic(), received
            file.flush()
            os.fsync(file.fileno())
        if length is not None and received < length:
            raise _PassingError(f"broke off after {received:,} of {length:,} bytes")
        if received > (LARGEST if length is None else length):
            self._discard()
            most = f"{LARGEST:,} are allowed" if length is None else f"{length:,} were announced"
            raise _RefusedError(f"sends {received:,} bytes or more, but only {most}; they were removed")

    def _put_in_place(self) -> str:
        """Check the part's checksum and move the part to its place; returns the sha256."""
        sha256 = file_sha256(self.part)
        if not f"sha256:{sha256}".startswith(self.checksum or ""):
            self._discard()
            raise _RefusedError(
                f"has sha256 {sha256}, not {(self.checksum or '').removeprefix('sha256:')}; it was removed"
            )
        _record(self.path).write_text(sha256)
        self.part.replace(self.path)
        self.note.unlink(missing_ok=True)
        return sha256

    def _discard(self) -> None:
        self.part.unlink(missing_ok=True)
        self.note.unlink(missing_ok=True)


class _Session(requests.Session):
    def get_redirect_target(self, resp: requests.Response) -> str | None:
        """Follow redirects only to addresses that may be asked, and leave the bodies of redirects unread."""
        target = super().get_redirect_target(resp)
        if target is not None:
            resp.close()  # requests would read the body, which may have no end
            address = urlsplit(urljoin(resp.url, target)).geturl()  # the scheme in small letters
            check_address(address)
            if resp.url.startswith("https:") and address.startswith("http:"):
                raise _RefusedError("leads from https to http, where anyone may change the file")
        return target


@contextmanager
def _answer(url: str, headers: dict[str, str], patience: Patience) -> Iterator[requests.Response]:
    """Yield a server's answer with its body unread.

    Failures of the connection, here and inside the block, become errors of this module.
    """
    try:
        check_address(url)
        timeout = (patience.connect, patience.silence)
        with _Session() as session, session.get(url, headers=headers, stream=True, timeout=timeout) as response:
            yield response
    except (requests.ConnectionError, requests.Timeout, HTTPError) as error:
        raise _PassingError(f"connection failed ({_cause(error)})") from error
    except (requests.RequestException, ValueError) as error:
        raise _RefusedError(f"cannot be asked ({_cause(error)})") from error


def _check_status(response: requests.Response) -> None:
    """Refuse an answer that holds no bytes of a file."""
    status, said = response.status_code, f"answers {response.status_code} {named(response.reason or '')}".rstrip()
    if status in PASSING or status >= 500:
        raise _PassingError(said, _number(response, "Retry-After") or 0)
    if status not in (200, 206, 416):
        raise _RefusedError(said)
    if status != 416 and _header(response, "Content-Type").startswith("text/html"):
        raise _RefusedError("answers with a web page, not with a file")


def _header(response: requests.Response, name: str) -> str:
    return str(response.headers.get(name, ""))


def _number(response: requests.Response, header: str) -> int | None:
    """Return the number in a header, or None if there is none."""
    said = _header(response, header)
    return int(said) if re.fullmatch(NUMBER, said) else None


def _validator(response: requests.Response) -> str:
    """Return what goes into If-Range, a strong ETag or a date; "" if nothing identifies this version of the file."""
    tag = _header(response, "ETag")
    return tag if tag.startswith('"') else _header(response, "Last-Modified")


def _sha256_if_right(path: Path, checksum: str | None) -> str | None:
    """Return the sha256 of the file at its place, or None if there is none, another one or a damaged one."""
    record = _record(path)
    wanted = checksum or (f"sha256:{record.read_text()}" if record.is_file() else None)
    if wanted is None or not path.is_file():
        return None
    sha256 = file_sha256(path)
    return sha256 if f"sha256:{sha256}".startswith(wanted) else None


def _record(path: Path) -> Path:
    """Return the file that keeps the sha256 of a download."""
    return path.with_name(f"{path.name}.sha256")


def _error(state: RetryCallState) -> BaseException | None:
    return state.outcome.exception() if state.outcome else None


def _cause(error: BaseException) -> str:
    """Return the message of the first error in a chain: the libraries put the whole chain into one line."""
    while error.__context__ is not None:
        error = error.__context__
    said = str(error) or type(error).__name__
    return said if said.isprintable() and len(said) <= LONGEST_REASON else shown(said)


def _progress() -> Progress:
    console = Console(stderr=True)
    columns = (BarColumn(bar_width=20), DownloadColumn(), TransferSpeedColumn(), TimeRemainingColumn())
    return Progress(
        TextColumn("{task.description}"), *columns, console=console, transient=True, disable=not console.is_terminal
    )
