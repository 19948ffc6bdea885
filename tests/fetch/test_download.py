"""Downloads against a server on this machine that breaks off, changes its files and fails."""

import hashlib
import io
import os
import subprocess
import sys
import threading
import time

import pytest
import requests

from kdcore.fetch import download, web
from kdcore.fetch.download import Patience
from kdcore.system.errors import UserError, check_address
from tests.project import ROOT
from tests.server import sending, serving

CONTENT = bytes(range(256)) * 2000
SHA256 = hashlib.sha256(CONTENT).hexdigest()
OTHER = bytes(reversed(CONTENT))
HALF = len(CONTENT) // 2
QUICK = Patience(attempts=3, first_wait=0.01, longest_wait=0.02, silence=10)


@pytest.fixture
def site():
    with serving() as site:
        yield site


@pytest.fixture
def fetch(tmp_path):
    """Download to a file of this test; returns its sha256."""

    def fetch(*urls, **options):
        return download.fetch(urls, tmp_path / "file", **{"patience": QUICK, **options})

    return fetch


def files(folder):
    return sorted(path.name for path in folder.iterdir() if path.suffix != ".lock")


def statuses(site):
    return [asked.status for asked in site.asked]


@pytest.mark.parametrize("checksum", [
    None, f"sha256:{SHA256}", f"sha256:{SHA256[:8]}", f"md5:{hashlib.md5(CONTENT).hexdigest()}",
])  # fmt: skip
def test_whole(site, fetch, tmp_path, checksum):
    assert fetch(site.add("a", CONTENT), checksum=checksum) == SHA256
    assert (tmp_path / "file").read_bytes() == CONTENT
    assert files(tmp_path) == ["file", "file.sha256"]


def test_empty(site, fetch):
    assert fetch(site.add("a", b"")) == hashlib.sha256(b"").hexdigest()


def test_goes_on_where_it_broke_off(site, fetch, tmp_path):
    url = site.add("a", CONTENT, cuts=[HALF, HALF + 100_000])
    assert fetch(url, checksum=f"sha256:{SHA256}") == SHA256
    assert statuses(site) == [200, 206, 206]
    starts = [int(asked.range.removeprefix("bytes=").removesuffix("-")) for asked in site.asked[1:]]
    assert HALF - download.CHUNK <= starts[0] <= HALF < starts[1]
    assert files(tmp_path) == ["file", "file.sha256"]


def test_parts_that_are_shorter_than_asked(site, fetch):
    """A server may send less than what is left; the length is the whole file's."""
    assert fetch(site.add("a", CONTENT, cuts=[HALF], longest=150_000)) == SHA256
    assert statuses(site) == [200, 206, 206]


def test_goes_on_in_a_later_call(site, fetch, tmp_path):
    url = site.add("a", CONTENT, cuts=[HALF] * 3)
    with pytest.raises(UserError, match=rf"connection failed .*\n{tmp_path}/file\.part is kept; run it again"):
        fetch(url)
    assert files(tmp_path) == ["file.part", "file.part.json"]
    assert fetch(url) == SHA256
    assert statuses(site) == [200, 206, 206, 206]
    assert site.asked[-1].sent <= len(CONTENT) - HALF + download.CHUNK


def test_server_that_ignores_ranges(site, fetch):
    assert fetch(site.add("a", CONTENT, cuts=[HALF], ranges=False)) == SHA256
    assert [(asked.status, bool(asked.range)) for asked in site.asked] == [(200, False), (200, True)]


def test_file_that_changed_starts_over(site, fetch, tmp_path):
    url = site.add("a", OTHER, cuts=[HALF] * 3)
    with pytest.raises(UserError):
        fetch(url)
    site.add("a", CONTENT, tag='"2"')
    assert fetch(url) == SHA256
    assert (site.asked[-1].status, bool(site.asked[-1].range)) == (200, True)


@pytest.mark.parametrize("headers", [
    {"ETag": '"2"'}, {"Content-Range": f"bytes 7-{len(CONTENT) - 1}/{len(CONTENT)}"}, {"Content-Range": "bytes */*"},
    {"Content-Range": f"bytes 262144-{len(CONTENT)}/{len(CONTENT) + 1}"},
])  # fmt: skip
def test_wrong_part_starts_over(site, fetch, headers):
    """A server that serves a part of something else, whatever the condition of the request was."""
    url = site.add("a", CONTENT, cuts=[262_144] * 3)
    with pytest.raises(UserError):
        fetch(url)
    site.add("a", CONTENT, headers=headers)
    site.asked.clear()
    assert fetch(url) == SHA256
    assert [(asked.status, bool(asked.range)) for asked in site.asked] == [(206, True), (200, False)]


def test_more_than_announced(site, fetch, tmp_path):
    chunked = {"Content-Length": "", "Transfer-Encoding": "chunked"}
    url = site.add("a", CONTENT, cuts=[262_144], headers=chunked)
    with pytest.raises(UserError):
        fetch(url, patience=Patience(attempts=1))
    site.add("a", CONTENT, headers={**chunked, "Content-Range": "bytes 262144-262153/262154"})
    with pytest.raises(UserError, match="sent 512,000 bytes, though the file has 262,154; it was removed"):
        fetch(url)
    assert files(tmp_path) == []


def test_weak_tag_is_no_condition(site, fetch, tmp_path):
    url = site.add("a", CONTENT, tag='W/"1"', cuts=[HALF] * 3)
    with pytest.raises(UserError):
        fetch(url)
    assert [asked.range for asked in site.asked] == [None] * 3
    assert files(tmp_path) == []


def test_date_is_a_condition_where_there_is_no_tag(site, fetch):
    date = "Tue, 01 Apr 2025 10:00:00 GMT"
    assert fetch(site.add("a", CONTENT, tag=date, headers={"Last-Modified": date, "ETag": ""}, cuts=[HALF])) == SHA256
    assert statuses(site) == [200, 206]


def test_truncated_by_a_server_that_cannot_go_on(site, fetch, tmp_path):
    with pytest.raises(
        UserError, match=rf"/a: connection failed \(IncompleteRead\({HALF} .*, {len(CONTENT) - HALF} more expected\)\)$"
    ):
        fetch(site.add("a", CONTENT, tag=None, cuts=[HALF] * 3))
    assert files(tmp_path) == []


@pytest.mark.parametrize("headers", [{}, {"Content-Length": "", "Transfer-Encoding": "chunked"}])
def test_larger_than_any_file(site, fetch, tmp_path, monkeypatch, headers):
    """Which an answer without an end would be."""
    monkeypatch.setattr(download, "LARGEST", len(CONTENT))
    url = site.add("a", CONTENT, headers=headers)
    assert fetch(url) == SHA256
    site.add("a", CONTENT + b"x", tag='"2"', headers=headers)
    (tmp_path / "file").unlink()
    with pytest.raises(UserError, match=r"announces 512,001 bytes; at most 512,000|sends more than 512,000 bytes"):
        fetch(url)
    assert not {"file", "file.part", "file.part.json"} & set(files(tmp_path))


def test_chunks_are_counted(site, fetch):
    chunked = {"Content-Length": "", "Transfer-Encoding": "chunked"}
    assert fetch(site.add("a", CONTENT, headers=chunked)) == SHA256
    with pytest.raises(UserError, match="connection failed"):
        fetch(site.add("b", OTHER, tag=None, headers=chunked, cuts=[HALF] * 3), checksum="sha256:" + "0" * 64)


def test_unknown_length_needs_a_checksum(site, fetch):
    url = site.add("a", CONTENT, headers={"Content-Length": "", "Connection": "close"})
    with pytest.raises(UserError, match="does not say how long the file is"):
        fetch(url)
    assert fetch(url, checksum=f"sha256:{SHA256}") == SHA256


@pytest.mark.parametrize("kind", ["sha256", "md5"])
def test_wrong_checksum(site, fetch, tmp_path, kind):
    wanted = "0" * len(hashlib.new(kind).hexdigest())
    found = hashlib.new(kind, CONTENT).hexdigest()
    with pytest.raises(UserError, match=f"/a: has {kind} {found}, not {wanted}; it was removed"):
        fetch(site.add("a", CONTENT), checksum=f"{kind}:{wanted}")
    assert files(tmp_path) == []


def test_wrong_file_then_the_mirror(site, fetch):
    assert fetch(site.add("a", OTHER), site.add("b", CONTENT), checksum=f"sha256:{SHA256}") == SHA256


@pytest.mark.parametrize("status", [401, 403, 404, 410, 204])
def test_refusal_is_final_and_the_mirror_next(site, fetch, status):
    assert fetch(site.add("a", OTHER, statuses=[status] * 9), site.add("b", CONTENT)) == SHA256
    assert statuses(site) == [status, 200]


@pytest.mark.parametrize("status", [408, 429, 500, 502, 503, 504])
def test_failure_that_passes(site, fetch, status):
    assert fetch(site.add("a", CONTENT, statuses=[status, status])) == SHA256
    assert statuses(site) == [status, status, 200]


def test_failure_that_does_not_pass(site, fetch, tmp_path):
    with pytest.raises(UserError) as caught:
        fetch(site.add("a", CONTENT, statuses=[503] * 9), site.add("b", CONTENT, statuses=[404]))
    assert str(caught.value) == f"{site.url}/a: answers 503 Service Unavailable\n{site.url}/b: answers 404 Not Found"
    assert statuses(site) == [503] * 3 + [404]
    assert files(tmp_path) == []


@pytest.mark.parametrize(("asked", "waited"), [({}, [1, 2, 4, 5]), ({"Retry-After": "3"}, [3, 3, 4, 5]),
                                               ({"Retry-After": "9999"}, [5] * 4)])  # fmt: skip
def test_waits(site, fetch, monkeypatch, asked, waited):
    slept = []
    monkeypatch.setattr("tenacity.nap.time.sleep", slept.append)
    url = site.add("a", CONTENT, statuses=[503] * 4, headers=asked)
    fetch(url, patience=Patience(attempts=5, first_wait=1, longest_wait=5))
    assert slept == waited


def test_part_of_another_address_stays_when_the_mirror_fails(site, fetch):
    url = site.add("a", CONTENT, cuts=[HALF] * 3)
    with pytest.raises(UserError, match=r"answers 404 Not Found\n.*is kept"):
        fetch(url, f"{site.url}/b")
    assert fetch(url) == SHA256
    assert site.asked[-1].status == 206


def test_part_of_another_address_is_not_gone_on_with(site, fetch):
    with pytest.raises(UserError):
        fetch(site.add("a", OTHER, cuts=[HALF] * 3))
    assert fetch(site.add("b", CONTENT)) == SHA256
    assert site.asked[-1].range is None


def test_web_page(site, fetch, tmp_path):
    with pytest.raises(UserError, match="answers with a web page, not with a file"):
        fetch(site.add("a", b"<html>", headers={"Content-Type": "text/html; charset=utf-8"}))
    assert files(tmp_path) == []


@pytest.mark.parametrize("checksum", [f"sha256:{SHA256}", f"md5:{hashlib.md5(CONTENT).hexdigest()}"])
@pytest.mark.parametrize("kind", ["application/octet-stream", "application/x-tar", ""])
def test_web_page_that_says_it_is_a_file(site, fetch, tmp_path, kind, checksum):
    page = b"<!DOCTYPE html><html><body>Sign in first</body></html>"
    with pytest.raises(UserError, match=r"/a: has (sha256|md5) \w+, not \w+; it was removed"):
        fetch(site.add("a", page, headers={"Content-Type": kind}), checksum=checksum)
    assert files(tmp_path) == []


def test_redirection(site, fetch):
    site.add("b", CONTENT)
    url = site.add("a", b"", statuses=[302], headers={"Location": "/b"})
    assert fetch(url) == SHA256


@pytest.mark.parametrize(("hops", "refused"), [
    (["https://a.org", "http://b.org"], True), (["https://a.org", "http://b.org", "https://c.org"], True),
    (["https://a.org", "HTTP://b.org"], True),
    (["http://a.org", "https://b.org"], False), (["https://a.org", "https://b.org"], False),
])  # fmt: skip
def test_redirection_to_where_anyone_may_change_the_file(fetch, monkeypatch, hops, refused):
    asked = []

    def send(_, request, **__):
        asked.append(request.url.rstrip("/"))
        response = requests.Response()
        response.raw, response.url = io.BytesIO(), request.url
        response.status_code = 302 if hops[len(asked) :] else 200
        response.headers["Location"] = "".join(hops[len(asked) : len(asked) + 1])
        return response

    monkeypatch.setattr(web._Adapter, "send", send)
    with pytest.raises(UserError, match="leads from https to http" if refused else "does not say how long"):
        fetch(hops[0])
    assert asked == (hops[:1] if refused else hops)


@pytest.mark.parametrize("url", [
    "ftp://a.org/b", "file:///etc/passwd", "FILE:///etc/passwd", "file:/etc/passwd", "data:text/plain,weights", "a/b",
    "http+unix://a", " http://a.org/b", "\thttps://a.org/b", "//a.org/b", "http:a.org/b", "javascript:alert(1)", "",
])  # fmt: skip
def test_other_addresses(fetch, tmp_path, url):
    with pytest.raises(UserError, match="only http and https addresses"):
        fetch("http://127.0.0.1:9/a", url)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
@pytest.mark.parametrize("location", [
    "ftp://a.org/b", "file:///etc/passwd", "FILE:///etc/passwd", "file://127.0.0.1/etc/passwd",
    "data:text/plain,weights", "gopher://a.org/b", "http+unix://a",
])  # fmt: skip
def test_redirection_to_another_protocol(site, fetch, tmp_path, status, location):
    """Followed only to http and https."""
    with pytest.raises(UserError, match=f"^{site.url}/a: cannot be asked"):
        fetch(site.add("a", CONTENT, statuses=[status], headers={"Location": location}))
    assert files(tmp_path) == []


def test_redirection_in_circles(site, fetch, tmp_path):
    with pytest.raises(UserError, match=r"/a: cannot be asked \(Exceeded 30 redirects"):
        fetch(site.add("a", b"", statuses=[302] * 99, headers={"Location": "/a"}))
    assert files(tmp_path) == []


def head(status, *headers):
    return b"\r\n".join([b"HTTP/1.1 " + status, *headers, b"", b""])


@pytest.mark.parametrize(("answer", "message"), [
    ([head(b"200 OK", b"Content-Length: \xb2")], "does not say how long the file is"),
    ([head(b"200 OK", b"Content-Length: " + b"9" * 5000)], "does not say how long the file is"),
    ([head(b"206 OK", b"Content-Range: bytes 0-1/" + b"9" * 5000)], "does not go on with the part"),
    ([head(b"503 X", b"Retry-After: \xb2", b"Content-Length: 0")], "answers 503 X"),
    ([head(b"503 X", b"Retry-After: " + b"9" * 5000, b"Content-Length: 0")], "answers 503 X"),
    ([head(b"302 X", b"Location: http://[bad/")], "leads to 'http://\\[bad/', which is no address"),
    ([head(b"302 X", b"Location: http://a:99999999/")], "cannot be asked \\('http://a:99999999/': names no host"),
    ([head(b"302 X", b"Location: \xff\xfe://")], "Exceeded 30 redirects"),
    ([head(b"404 \x1b[31mRED" + b"A" * 60_000)], r"answers 404 '\\x1b\[31mREDA+\.\.\.$"),
    ([b"\x1b[31m\r\n\r\n"], "connection failed"),
    ([head(b"200 OK", b"Transfer-Encoding: chunked") + b"-5\r\nabc"], "cannot be asked"),
    ([b"", head(b"100 Continue") * 100], "sends more than 1,048,576 bytes that are no part of the file"),
    ([head(b"200 OK", b"Transfer-Encoding: chunked") + b"-1\r\n", b"x" * 9999], "sends more than 1,048,576 bytes"),
], ids=range(13))  # fmt: skip
def test_answers_of_no_sense(site, fetch, capsys, answer, message):
    """Are reasons, in a few words that do nothing to a terminal; and the mirror is next."""
    with sending(*answer) as server:
        with pytest.raises(UserError, match=message) as caught:
            fetch(server.url)
        assert len(str(caught.value)) < 300
        assert (str(caught.value) + capsys.readouterr().err).replace("\n", "").isprintable()
        assert fetch(server.url, site.add("b", CONTENT)) == SHA256


def test_redirection_whose_own_body_has_no_end(site, fetch):
    site.add("b", CONTENT)
    with sending(head(b"302 X", f"Location: {site.url}/b".encode()), bytes(1 << 16)) as server:
        assert fetch(server.url) == SHA256
        assert server.count < 1 << 24  # what the system keeps of it on the way


@pytest.mark.parametrize("begun", [b"", b"HTTP/1.1 200 OK\r\nX: ", head(b"200 OK", b"Content-Length: 100000")])
def test_dripping(fetch, begun):
    """Byte by byte, it would never be silent, nor end."""
    with sending(begun, b"x", pause=0.02) as server:
        start = time.monotonic()
        with pytest.raises(UserError, match="sends less than 300 bytes per second"):
            fetch(server.url, patience=Patience(attempts=2, first_wait=0.01, silence=0.3))
        assert time.monotonic() - start < 5


def test_slow_but_not_too_slow(fetch):
    with sending(head(b"200 OK", b"Content-Length: 1000"), bytes(100), pause=0.05) as server:
        patience = Patience(attempts=1, silence=0.2)
        assert fetch(server.url, patience=patience) == hashlib.sha256(bytes(1000)).hexdigest()


@pytest.mark.parametrize("text", [
    "http://", "https:///a", "http://[bad/x", "http://a:99999999/x", "http://a:0/x", "http://a:b/x", "http://:80/x",
    "http://a b/x", "http://a..b/x", "http://a/\x1b[31m", "http://a/\n", "http://" + "a" * 64, "http://a\\b/x",
    "ftp://a.org/x", "a.org/x", "HTTP://a.org/x", "",
])  # fmt: skip
def test_impossible_addresses(text):
    with pytest.raises(ValueError, match=r"only http and https addresses|names no host, or an impossible one"):
        check_address(text)


@pytest.mark.parametrize("text", [
    "http://a.org", "https://a.org:8080/x?y#z", "http://[::1]:80/x", "http://127.0.0.1/a b", "http://\u00e4.de/x",
])  # fmt: skip
def test_possible_addresses(text):
    assert check_address(text) == text


@pytest.mark.parametrize("text", ["https://user:word@a.org/x", "http://user@a.org", "http://:word@a.org"])
def test_addresses_that_would_publish_a_password(text):
    with pytest.raises(ValueError, match=r"the address at a\.org: holds a user or password.*netrc") as refused:
        check_address(text)
    assert "word@" not in str(refused.value)


@pytest.mark.parametrize("checksum", ["0" * 64, "sha256:00", "sha1:" + "0" * 40, "sha256:" + "g" * 64, "md5:00000000"])
def test_what_is_no_checksum(fetch, checksum):
    with pytest.raises(UserError, match="must be sha256:"):
        fetch("http://a.org/b", checksum=checksum)


def test_file_that_is_there_is_not_downloaded(site, fetch):
    url = site.add("a", CONTENT)
    fetch(url)
    assert [fetch(url), fetch(url, checksum=f"sha256:{SHA256}")] == [SHA256, SHA256]
    assert len(site.asked) == 1


def test_file_that_was_damaged_is_downloaded_again(site, fetch, tmp_path):
    url = site.add("a", CONTENT)
    fetch(url)
    (tmp_path / "file").write_bytes(OTHER)
    assert fetch(url) == SHA256
    assert len(site.asked) == 2


def test_file_that_stays_when_the_right_one_cannot_be_had(site, fetch, tmp_path):
    fetch(site.add("a", OTHER))
    with pytest.raises(UserError, match="answers 404"):
        fetch(f"{site.url}/b", checksum=f"sha256:{SHA256}")
    assert (tmp_path / "file").read_bytes() == OTHER


def test_note_that_a_kill_cut_off(site, fetch, tmp_path):
    (tmp_path / "file.part").write_bytes(OTHER)
    (tmp_path / "file.part.json").write_text('{"url": "')
    assert fetch(site.add("a", CONTENT)) == SHA256


def test_part_that_is_longer_than_the_file(site, fetch, tmp_path):
    url = site.add("a", CONTENT, cuts=[HALF] * 3)
    with pytest.raises(UserError):
        fetch(url)
    (tmp_path / "file.part").write_bytes(CONTENT + b"x")
    assert fetch(url) == SHA256


@pytest.mark.parametrize(("url", "reason"), [
    ("http://127.0.0.1:9/a", r"connection failed \(\[Errno \d+\] Connection refused\)"),
    ("https://127.0.0.1:9/a", r"connection failed \(\[Errno \d+\] Connection refused\)"),
    ("http:///a", r"cannot be asked \('http:///a': names no host, .+\)"), ("http://[a/b", r"cannot be asked \(.+\)"),
])  # fmt: skip
def test_nobody_there(fetch, url, reason):
    with pytest.raises(UserError, match=rf"^.*: {reason}$"):
        fetch(url)


def test_whole_part_takes_its_place_without_asking(site, fetch, tmp_path):
    url = site.add("a", CONTENT, cuts=[HALF] * 3)
    with pytest.raises(UserError):
        fetch(url)
    (tmp_path / "file.part").write_bytes(CONTENT)
    site.asked.clear()
    assert fetch(url) == SHA256
    assert site.asked == []


def test_place_that_cannot_be_written(site, fetch, tmp_path):
    (tmp_path / "file").mkdir()
    with pytest.raises(UserError, match="file: cannot be written"):
        fetch(site.add("a", CONTENT))


def test_kept_by_address():
    one, two = (download.cached(f"https://a.org/{folder}/ckpt.pth?x=1") for folder in "ab")
    assert one != two
    assert (one.parent, one.name[16:]) == (download.FOLDER, "-ckpt.pth")
    assert download.cached("https://a.org/%2e%2e%2fx%00y").name[16:] == "-x_y"
    assert download.cached("https://a.org").name.endswith("-file")


def test_two_at_once_download_once(site, tmp_path):
    pause = threading.Event()
    url = site.add("a", CONTENT, cuts=[HALF], pause=pause)
    found = []
    threads = [
        threading.Thread(target=lambda: found.append(download.fetch([url], tmp_path / "file", patience=QUICK)))
        for _ in range(2)
    ]
    for thread in threads:
        thread.start()
    pause.set()
    for thread in threads:
        thread.join()
    assert found == [SHA256] * 2
    assert statuses(site) == [200, 206]


def test_killed_download_is_gone_on_with(site, fetch, tmp_path):
    url = site.add("a", CONTENT, cuts=[HALF], pause=threading.Event())
    code = (
        "import sys; from pathlib import Path; from kdcore.fetch import download; download.fetch(sys.argv[1:2], Path('file'))"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", code, url], cwd=tmp_path, env={**os.environ, "PYTHONPATH": str(ROOT)}
    )
    part, deadline = tmp_path / "file.part", time.monotonic() + 60
    while process.poll() is None and not (part.is_file() and part.stat().st_size) and time.monotonic() < deadline:
        time.sleep(0.01)
    process.kill()
    assert process.wait() == -9, "the download ended before it could be killed"
    assert not (tmp_path / "file").exists()
    received = part.stat().st_size
    assert fetch(url) == SHA256
    assert [asked.range for asked in site.asked] == [None, f"bytes={received}-"]
