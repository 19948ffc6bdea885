"""A web server on this machine whose files break off, change and fail as a test wants."""

import itertools
import socketserver
import sys
import threading
import time
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


@dataclass
class File:
    """What an address serves."""

    content: bytes
    tag: str | None = '"1"'
    """ETag."""
    ranges: bool = True
    """Whether parts are served."""
    longest: int | None = None
    """Bytes of a part at most."""
    cuts: list[int] = field(default_factory=list)
    """After how many bytes the first answers break off."""
    statuses: list[int] = field(default_factory=list)
    """The first answers, instead of the file."""
    headers: dict[str, str] = field(default_factory=dict)
    """Of every answer; they replace those of the same name, and "" removes them."""
    pause: threading.Event | None = None
    """What an answer that is cut waits for before it breaks off."""


@dataclass
class Asked:
    """One request and its answer."""

    path: str
    range: str | None
    status: int
    sent: int = 0
    """Bytes of the body."""


class Site:
    """The files by their paths, and what was asked of them."""

    def __init__(self, url):
        self.url = url
        self.files = {}
        self.asked = []

    def add(self, name, content, **options):
        self.files[f"/{name}"] = File(content, **options)
        return f"{self.url}/{name}"


class Handler(BaseHTTPRequestHandler):
    """Answers from the server's site."""

    protocol_version = "HTTP/1.1"

    def do_GET(self):
        site, wanted = self.server.site, self.headers.get("Range")
        file = site.files.get(self.path)
        if file is None or file.statuses:
            return self.fail(site, wanted, file.statuses.pop(0) if file else 404, file)
        same = self.headers.get("If-Range") == file.tag
        start = int(wanted.removeprefix("bytes=").removesuffix("-")) if wanted and file.ranges and same else 0
        if start and start >= len(file.content):
            return self.fail(site, wanted, 416, file)
        body = file.content[start:]
        headers = {"Content-Length": str(len(body))} | ({"ETag": file.tag} if file.tag else {})
        if start:
            body = body[: file.longest]
            headers["Content-Length"] = str(len(body))
            headers["Content-Range"] = f"bytes {start}-{start + len(body) - 1}/{len(file.content)}"
        headers |= file.headers
        asked = Asked(self.path, wanted, 206 if start else 200)
        site.asked.append(asked)
        self.send_response(asked.status)
        for name, value in headers.items():
            if value:
                self.send_header(name, value)
        self.end_headers()
        self.send_body(file, asked, body, start, chunked=headers.get("Transfer-Encoding") == "chunked")
        return None

    def send_body(self, file, asked, body, start, *, chunked):
        cut = file.cuts.pop(0) if file.cuts else None
        if cut is not None:
            body = body[: max(cut - start, 0)]
        asked.sent = len(body)
        end = b"0\r\n\r\n" if cut is None else b""
        self.wfile.write(b"%x\r\n%s\r\n%s" % (len(body), body, end) if chunked else body)
        self.wfile.flush()
        if cut is not None:
            if file.pause:
                file.pause.wait(60)
            self.close_connection = True

    def fail(self, site, wanted, status, file):
        site.asked.append(Asked(self.path, wanted, status))
        self.send_response(status)
        for name, value in (file.headers if file else {}).items():
            self.send_header(name, value)
        self.send_header("Content-Length", "0")
        self.end_headers()

    def log_message(self, *_):
        pass


class Server(ThreadingHTTPServer):
    """Says nothing of clients that hang up."""

    def handle_error(self, request, client_address):
        if not isinstance(sys.exc_info()[1], ConnectionError):
            super().handle_error(request, client_address)


@contextmanager
def serving():
    with Server(("127.0.0.1", 0), Handler) as server:
        server.daemon_threads = True
        server.site = Site(f"http://127.0.0.1:{server.server_port}")
        thread = threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True)
        thread.start()
        yield server.site
        server.shutdown()
        thread.join()


class Sent(socketserver.ThreadingTCPServer):
    """Answers with bytes as they are, whatever is asked, and counts them."""

    daemon_threads = True
    count = 0

    def finish_request(self, request, client_address):
        request.recv(1 << 16)
        try:
            for part in self.parts:
                request.sendall(part)
                self.count += len(part)
                time.sleep(self.pause)
        except ConnectionError:
            pass


@contextmanager
def sending(content, endless=b"", pause=0.0):
    """A server that sends this, then the same bytes for ever, with seconds of pause; yields it, with its `url`."""
    with Sent(("127.0.0.1", 0), None) as server:
        server.parts = [content] if not endless else itertools.chain([content], itertools.repeat(endless))
        server.pause = pause
        server.url = f"http://127.0.0.1:{server.server_address[1]}/a"
        thread = threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True)
        thread.start()
        yield server
        server.shutdown()
        thread.join()
