"""Downloads that go on where they broke off. A file is there whole and as announced, or it is not there.

Until a file is whole its bytes are in `<path>.part`, and what the server said of it in `<path>.part.json`. A later
attempt, of this process or of the next one, asks for the missing bytes alone, on condition that the file is still the
same (RFC 9110, sections 13.1.5 and 14.2).
"""

import hashlib
import json
import os
import re
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from urllib.parse import unquote, urlsplit

import requests
from rich.console import Console
from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn, TransferSpeedColumn
from tenacity import RetryCallState, Retrying, retry_if_exception_type, stop_after_attempt

from kdcore.fetch.web import Pace, PassingError, RefusedError, asked
from kdcore.system.errors import UserError, named
from kdcore.system.files import alone, file_digests

FOLDER = Path("scratch/downloads")
CHUNK = 1 << 16
PASSING = (408, 425, 429)
"""Answers, besides 5xx, that may be another one soon."""
NUMBER = "([0-9]{1,18})"
CHECKSUM = re.compile("sha256:[0-9a-f]{8,64}|md5:[0-9a-f]{32}")
LONG_NAME = 80
LARGEST = 256 * 2**30
"""Bytes of a file; an answer may have no end."""


@dataclass(frozen=True)
class Patience:
    """How long servers are waited for."""

    attempts: int = 6
    """Per address, the first one included."""
    first_wait: float = 1.0
    """Seconds before the second attempt; each wait is twice the one before it, or what the server asks for."""
    longest_wait: float = 30.0
    """Seconds."""
    connect: float = 10.0
    """Seconds until a connection is given up."""
    silence: float = 60.0
    """Seconds without a byte until a connection is given up."""
    slowest: float = 300.0
    """Bytes per second, averaged over the seconds of `silence`, below which a server counts as silent."""


PATIENT = Patience()


@dataclass(frozen=True)
class _Announced:
    """What a server said of a file of which a part is here."""

    url: str
    validator: str
    """Strong ETag, or date of the last change: goes into If-Range."""
    length: int | None
    """Of the whole file, in bytes."""


def fetch(urls: Sequence[str], path: Path, *, checksum: str | None = None, patience: Patience = PATIENT) -> str:
    """Download a file, going on where an earlier download of it broke off.

    A file that is at `path` already, with this checksum or as it was downloaded, is not downloaded again; any other is
    replaced. Other processes that want the same path wait.

    Args:
        urls: http(s) addresses of the same file, tried in this order.
        path: where it goes; its folder is made.
        checksum: "sha256:<hex>", of which the first eight digits suffice, or "md5:<hex>"; None trusts what comes.
        patience: how long to wait for servers.

    Returns:
        The file's sha256, which the caller may record where there was no checksum.

    Raises:
        UserError: no address serves the file whole and with this checksum, or the file cannot be written. A wrong file
            is removed; a part that can be continued stays.
    """
    if checksum is not None and not CHECKSUM.fullmatch(checksum):
        raise UserError(f"checksum {checksum!r}: must be sha256:<at least 8 hex digits> or md5:<32 hex digits>")
    for url in urls:
        if not url.startswith(("http://", "https://")):
            raise UserError(f"{url}: only http and https addresses can be downloaded")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with alone(path, "downloads", lock_file=path.with_name(f"{path.name}.lock")):
            return _Download(path, checksum, patience).run(urls)
    except OSError as error:
        raise UserError(f"{path}: cannot be written ({error.strerror or error})") from error


def cached(url: str) -> Path:
    """Where the download of an address is kept: in a file of its own below scratch/, for later runs."""
    name = re.sub(r"[^\w.-]", "_", Path(unquote(urlsplit(url).path)).name)[-LONG_NAME:]
    return FOLDER / f"{hashlib.sha256(url.encode()).hexdigest()[:16]}-{name or 'file'}"


def forget(path: Path) -> None:
    """Remove a download, so that the next one starts anew."""
    path.unlink(missing_ok=True)
    _record(path).unlink(missing_ok=True)


class _Download:
    """One file on its way.

    Args:
        path: where it goes.
        checksum: what it must have.
        patience: how long to wait for servers.
    """

    def __init__(self, path: Path, checksum: str | None, patience: Patience) -> None:
        self.path = path
        self.checksum = checksum
        self.patience = patience
        self.part = path.with_name(f"{path.name}.part")
        self.announced = path.with_name(f"{path.name}.part.json")
        self.record = _record(path)

    def run(self, urls: Sequence[str]) -> str:
        """Bring the file to its place from the first address that serves it; returns its sha256."""
        found = self._already()
        if found is not None:
            return found
        reasons = []
        for url in urls:
            try:
                return self._from(url)
            except RefusedError as error:
                reasons.append(f"{url}: {error}")
        if self.part.is_file():
            reasons.append(f"{self.part} is kept; run it again to go on from there")
        raise UserError("\n".join(reasons))

    def _already(self) -> str | None:
        """The sha256 of the file at its place, or None where there is none, another one or a damaged one."""
        if not self.path.is_file():
            return None
        found = file_digests(self.path, "sha256", "md5")
        recorded = f"sha256:{self.record.read_text()}" if self.record.is_file() else None
        wanted = self.checksum or recorded
        return found["sha256"] if wanted and _fits(found, wanted) else None

    def _from(self, url: str) -> str:
        attempts = Retrying(
            retry=retry_if_exception_type(PassingError),
            stop=stop_after_attempt(self.patience.attempts),
            wait=self._wait,
            before_sleep=self._announce_wait,
            reraise=True,
        )
        try:
            attempts(self._attempt, url)
        except RefusedError:
            begun = self._begun()
            if begun is None or not begun.validator:
                self._forget()  # nobody could go on with it
            raise
        return self._take_place()

    def _wait(self, state: RetryCallState) -> float:
        error = state.outcome.exception() if state.outcome else None
        asked = error.after if isinstance(error, PassingError) else 0.0
        doubled = self.patience.first_wait * 2 ** (state.attempt_number - 1)
        return min(max(doubled, asked), self.patience.longest_wait)

    def _announce_wait(self, state: RetryCallState) -> None:
        error = state.outcome.exception() if state.outcome else None
        print(f"{state.args[0]}: {error}; again in {self._wait(state):.0f} s", file=sys.stderr)

    def _attempt(self, url: str) -> None:
        begun = self._begun()
        part = begun if begun and begun.url == url and begun.validator else None
        offset = self.part.stat().st_size if part else 0
        if part and offset == part.length:
            return  # whole, but its process ended before it took its place
        headers = {"Accept-Encoding": "identity"}  # bytes as they lie there: compressed ones could not be continued
        if part and offset:
            headers |= {"Range": f"bytes={offset}-", "If-Range": part.validator}
        timeout = (self.patience.connect, self.patience.silence)
        pace = Pace(self.patience.silence, self.patience.slowest)
        with asked(url, headers, timeout, pace) as response:
            _check_answer(response)
            offset, announced = self._where(response, url, part, offset)
            self._receive(response, offset, announced, pace)

    def _begun(self) -> _Announced | None:
        """What was announced of the part that is here."""
        try:
            return _Announced(**json.loads(self.announced.read_text())) if self.part.is_file() else None
        except (OSError, ValueError, TypeError):
            return None  # nothing was begun, or a kill cut its note off: begin anew

    def _where(
        self, response: requests.Response, url: str, part: _Announced | None, offset: int
    ) -> tuple[int, _Announced]:
        """At which byte the answer begins, and what it says of the whole file."""
        validator = _validator(response)
        if response.status_code == 200:
            whole = _Announced(url, validator, _number(response, "Content-Length"))
            chunked = "chunked" in response.headers.get("Transfer-Encoding", "")
            if whole.length is None and not chunked and self.checksum is None:
                raise RefusedError("does not say how long the file is, so a truncated one could not be told")
            return 0, whole
        said = re.fullmatch(rf"bytes {NUMBER}-{NUMBER}/{NUMBER}", response.headers.get("Content-Range", ""))
        same = said and part and validator in ("", part.validator) and part.length in (None, int(said[3]))
        if response.status_code == 206 and said and part and same and int(said[1]) == offset:
            return offset, _Announced(url, part.validator, int(said[3]))
        self._forget()
        raise PassingError("does not go on with the part that is here; it is fetched anew")

    def _receive(self, response: requests.Response, offset: int, announced: _Announced, pace: Pace) -> None:
        if (announced.length or 0) > LARGEST:
            raise RefusedError(f"announces {announced.length:,} bytes; at most {LARGEST:,} are allowed")
        with self.part.open("ab" if offset else "wb") as file, _progress() as bar:
            self.announced.write_text(json.dumps(asdict(announced)))
            task = bar.add_task(self.path.name, total=announced.length, completed=offset)
            for chunk in response.raw.stream(CHUNK, decode_content=False):
                pace.went_on()
                file.write(chunk)
                bar.advance(task, len(chunk))
                if file.tell() > LARGEST:
                    break
            file.flush()
            os.fsync(file.fileno())
        received = self.part.stat().st_size
        if received > LARGEST:
            self._forget()
            raise RefusedError(f"sends more than {LARGEST:,} bytes; they were removed")
        if announced.length is not None and received < announced.length:
            raise PassingError(f"broke off after {received:,} of {announced.length:,} bytes")
        if announced.length is not None and received > announced.length:
            self._forget()
            raise RefusedError(f"sent {received:,} bytes, though the file has {announced.length:,}; it was removed")

    def _take_place(self) -> str:
        found = file_digests(self.part, "sha256", "md5")
        if self.checksum is not None and not _fits(found, self.checksum):
            self._forget()
            kind, _, wanted = self.checksum.partition(":")
            raise RefusedError(f"has {kind} {found[kind]}, not {wanted}; it was removed")
        self.record.write_text(found["sha256"])
        self.part.replace(self.path)
        self.announced.unlink(missing_ok=True)
        return found["sha256"]

    def _forget(self) -> None:
        self.part.unlink(missing_ok=True)
        self.announced.unlink(missing_ok=True)


def _check_answer(response: requests.Response) -> None:
    """Refuse an answer that holds no bytes of a file."""
    status, said = response.status_code, f"answers {response.status_code} {named(response.reason or '')}".rstrip()
    if status in PASSING or status >= 500:
        raise PassingError(said, _number(response, "Retry-After") or 0)
    if status not in (200, 206, 416):
        raise RefusedError(said)
    if status != 416 and response.headers.get("Content-Type", "").startswith("text/html"):
        raise RefusedError("answers with a web page, not with a file")


def _number(response: requests.Response, header: str) -> int | None:
    """What a header says, if it is a number of any sense."""
    said = response.headers.get(header, "")
    return int(said) if re.fullmatch(NUMBER, said) else None


def _validator(response: requests.Response) -> str:
    """What goes into If-Range; "" where the server says nothing by which a file can be known again."""
    tag = response.headers.get("ETag", "")
    return tag if tag.startswith('"') else response.headers.get("Last-Modified", "")


def _record(path: Path) -> Path:
    """What a file's sha256 was when it came."""
    return path.with_name(f"{path.name}.sha256")


def _fits(found: dict[str, str], checksum: str) -> bool:
    kind, _, wanted = checksum.partition(":")
    return found[kind].startswith(wanted)


def _progress() -> Progress:
    console = Console(stderr=True)
    return Progress(
        TextColumn("{task.description}"),
        BarColumn(bar_width=20),
        DownloadColumn(),
        TransferSpeedColumn(),
        TimeRemainingColumn(),
        console=console,
        transient=True,
        disable=not console.is_terminal,
    )
