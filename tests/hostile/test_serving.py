"""The served page under hostile requests, and its private folder after a kill."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from tests.conftest import REPOSITORY
from vlmbench.config import ServeConfig
from vlmbench.deploy import uploads
from vlmbench.deploy.uploads import PREFIX, private_folder
from vlmbench.types import UserError

pytest.importorskip("gradio", reason="needs the [serve] extra")

from tests.deploy.test_serve import TIMEOUT, UPLOAD_MB, judge, png, scripted, upload
from vlmbench.deploy import gate
from vlmbench.deploy.page import Page

HOLDER = """
import sys, time
from vlmbench.deploy.uploads import private_folder
with private_folder() as folder:
    (folder / "images").mkdir()
    (folder / "images" / "secret.png").write_bytes(b"a part")
    print(folder, flush=True)
    time.sleep(60)
"""


def serve(folder: Path, host: str = "127.0.0.1") -> Page:
    (folder / "run").mkdir(parents=True)
    (folder / "images").mkdir()
    return Page(
        title="a run",
        pair=True,
        notes=[],
        answer=scripted,
        settings=ServeConfig(host=host, port=0, upload_mb=UPLOAD_MB),
        uploads=folder / "images",
        run=folder / "run",
    )


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Page]:
    with serve(tmp_path_factory.mktemp("hostile") / "served") as served:
        yield served


@pytest.fixture
def client(page: Page) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=page.url, timeout=TIMEOUT) as made:
        yield made


def unfinished(page: Page) -> list[Path]:
    return [path for path in page._uploads.iterdir() if path.is_file()]


def wait_until_clean(page: Page) -> None:
    for _ in range(100):
        if not unfinished(page):
            return
        time.sleep(0.05)
    raise AssertionError(unfinished(page))


def connect(page: Page, head: str, body: bytes = b"") -> socket.socket:
    """Open a connection and send a request line, these headers and a part of the body."""
    url = httpx.URL(page.url)
    raw = socket.create_connection((url.host, url.port), timeout=TIMEOUT)
    lines = f"POST /gradio_api/upload HTTP/1.1\r\nhost: {url.netloc.decode()}\r\n{head}\r\n"
    raw.sendall(lines.encode() + body)
    return raw


def status_of(raw: socket.socket) -> int:
    """Return the status of the answer; 0 if the page only closed the connection."""
    with raw:
        first = raw.recv(4096)
    return int(first.split()[1]) if first else 0


FORM = "content-type: multipart/form-data; boundary=x\r\n"
PART = b'--x\r\ncontent-disposition: form-data; name="files"; filename="a.png"\r\n\r\n'


@pytest.mark.parametrize(
    ("head", "body", "statuses"),
    [
        ("transfer-encoding: chunked\r\n", b"5\r\nhello\r\n0\r\n\r\n", {413}),
        ("content-length: 9\r\ntransfer-encoding: chunked\r\n", b"0\r\n\r\n", {400, 413}),
        ("transfer-encoding: chunked\r\ncontent-length: 9\r\n", b"fffff\r\n", {400, 413}),
        ("transfer-encoding: gzip, chunked\r\ncontent-length: 9\r\n", b"", {400, 413, 501}),
        ("content-length: -5\r\n", b"", {400}),
        ("content-length: 1e3\r\n", b"", {400}),
        ("content-length: 99999999999999999999\r\n", b"", {400, 413}),
        ("content-length: 5\r\ncontent-length: 6\r\n", b"hello", {400}),
        ("content-length: 301000\r\n", b"", {413}),
        ("", b"", {413}),
        ("content-length: 5\r\n", b"hello", {400, 422}),
        (f"{FORM}content-length: 5\r\n", b"hello", {400, 422, 500}),
    ],
)
def test_the_length_of_a_request_is_stated_and_kept(
    page: Page, head: str, body: bytes, statuses: set[int]
) -> None:
    assert status_of(connect(page, head, body)) in statuses
    wait_until_clean(page)


def test_many_files_of_one_request_are_limited_together(client: httpx.Client, page: Page) -> None:
    size = int(UPLOAD_MB * 1e6) // 4
    files = [("files", (f"{number}.png", bytes(size))) for number in range(20)]
    assert client.post("/gradio_api/upload", files=files).status_code == 413
    wait_until_clean(page)


def test_uploads_that_never_end_are_few_and_leave_nothing(page: Page, client: httpx.Client) -> None:
    head = f"{FORM}content-length: 100000\r\n"
    waiting = [connect(page, head, PART + b"x" * 1000) for _ in range(gate.MAX_UPLOADS)]
    for _ in range(100):
        if len(unfinished(page)) == gate.MAX_UPLOADS:
            break
        time.sleep(0.05)
    refused = client.post("/gradio_api/upload", files={"files": ("a.png", png(1))})
    assert refused.status_code == 503
    assert "try again" in refused.json()["error"]
    assert client.get("/").status_code == 200  # the page itself answers

    for raw in waiting:
        raw.close()
    wait_until_clean(page)
    assert upload(client, png(1))


def test_a_slow_upload_ends(page: Page, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gate, "UPLOAD_S", 0.3)
    raw = connect(page, f"{FORM}content-length: 100000\r\n", PART + b"x")
    assert status_of(raw) == 408
    wait_until_clean(page)


def test_a_slow_request_ends(page: Page, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gate, "REQUEST_S", 0.3)
    url = httpx.URL(page.url)
    raw = socket.create_connection((url.host, url.port), timeout=TIMEOUT)
    lines = (
        f"POST /gradio_api/call/judge HTTP/1.1\r\nhost: {url.host}\r\ncontent-length: 50\r\n\r\n{{"
    )
    raw.sendall(lines.encode())
    assert status_of(raw) == 408


def test_connections_without_a_request_stop_nobody(page: Page, client: httpx.Client) -> None:
    url = httpx.URL(page.url)
    idle = [socket.create_connection((url.host, url.port)) for _ in range(60)]
    try:
        for raw in idle:
            raw.sendall(b"GET / HT")
        state, _ = judge(client, upload(client, png(1)), upload(client, png(2)))
        assert state == "complete"
    finally:
        for raw in idle:
            raw.close()


def test_kept_images_are_limited(
    page: Page, client: httpx.Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    upload(client, png(1))
    monkeypatch.setattr(gate, "MAX_KEPT", 0)
    answer = client.post("/gradio_api/upload", files={"files": ("a.png", png(1))})
    assert answer.status_code == 503


def test_a_disk_without_room_is_said_in_words(
    page: Page, client: httpx.Client, caplog: pytest.LogCaptureFixture
) -> None:
    aside = page._uploads.with_name("aside")
    page._uploads.rename(aside)
    page._uploads.write_bytes(b"")  # a file, where the folder was: nothing can be written
    try:
        answer = client.post("/gradio_api/upload", files={"files": ("a.png", png(1))})
    finally:
        page._uploads.unlink()
        aside.rename(page._uploads)
    assert answer.status_code == 507
    assert "cannot be stored" in answer.json()["error"]
    assert "make room there" in caplog.text


@pytest.mark.parametrize(
    "name",
    [
        "../../../etc/x.png",
        "..\\..\\x.png",
        "/etc/passwd.png",
        "a/b.png",
        ".png",
        "..",
        "x" * 5000 + ".png",
        "良品 (1).png",
        "部" * 200 + ".png",
        "a\u202egnp.exe.png",
        "con.png",
        "a;rm -rf $HOME.png",
        "<img src=x onerror=alert(1)>.png",
        "a%00b.png",
        "a\nb.png",
        " .png ",
        "-rf.png",
        "\U0001f600.png",
    ],
)
def test_no_name_leads_out_or_breaks_the_page(client: httpx.Client, page: Page, name: str) -> None:
    before = {path for path in page._uploads.parent.rglob("*") if path.is_file()}
    answer = client.post("/gradio_api/upload", files={"files": (name, png(1))})
    new = {path for path in page._uploads.parent.rglob("*") if path.is_file()} - before
    assert all(path.is_relative_to(page._uploads) for path in new)
    if answer.status_code == 200:
        (path,) = answer.json()
        assert Path(path).resolve().is_relative_to(page._uploads.resolve())
        state, found = judge(client, upload(client, png(2)), path)
        assert state in ("complete", "error")
        assert "<img src=x" not in str(found)
    else:
        assert answer.status_code in (400, 413, 422, 507)
    wait_until_clean(page)


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost", "LOCALHOST", "[::1]"])
@pytest.mark.parametrize("port", ["", ":80"])
def test_the_machines_own_names_are_answered(client: httpx.Client, host: str, port: str) -> None:
    assert client.get("/", headers={"host": f"{host}{port}"}).status_code == 200


@pytest.mark.parametrize(
    "host",
    [
        "evil.example",
        "127.0.0.1.evil.example",
        "localhost.evil.example",
        "evil.example:127.0.0.1",
        "localhost:80@evil.example",
        "[::1].evil.example",
        "[::1",
        "0.0.0.0",  # noqa: S104
        "127.1",
        "::1:80:evil",
        "localhost.",
    ],
)
def test_other_names_are_refused(client: httpx.Client, host: str) -> None:
    assert client.get("/", headers={"host": host}).status_code == 400
    headers = {"host": host, "origin": f"http://{host}"}
    assert client.post("/gradio_api/upload", headers=headers).status_code == 400


def test_an_ipv6_page_has_brackets_in_its_address(tmp_path: Path) -> None:
    if not socket.has_ipv6 or not Path("/proc/net/if_inet6").exists():
        pytest.skip("this machine has no IPv6")
    with (
        serve(tmp_path / "served", "::1") as page,
        httpx.Client(base_url=page.url, timeout=TIMEOUT) as client,
    ):
        assert page.url.startswith("http://[::1]:")
        assert judge(client, upload(client, png(1)), upload(client, png(2)))[0] == "complete"
        own = str(client.base_url).rstrip("/")
        files = {"files": ("a.png", png(1))}
        answer = client.post("/gradio_api/upload", files=files, headers={"origin": own})
        assert answer.status_code == 200
        assert client.get("/", headers={"host": "evil.example"}).status_code == 400


# The private folder


@pytest.fixture
def base(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = tmp_path / "tmp"
    folder.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(folder))
    return folder


def start_holder(base: Path) -> tuple[subprocess.Popen[str], Path]:
    environment = {**os.environ, "PYTHONPATH": str(REPOSITORY), "TMPDIR": str(base)}
    process = subprocess.Popen(
        [sys.executable, "-c", HOLDER], env=environment, stdout=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    return process, Path(process.stdout.readline().strip())


def test_a_killed_pages_images_go_at_the_next_start_and_a_living_ones_stay(base: Path) -> None:
    killed, abandoned = start_holder(base)
    living, kept = start_holder(base)
    try:
        killed.send_signal(signal.SIGKILL)
        killed.wait()
        assert (abandoned / "images" / "secret.png").exists()
        with private_folder() as own:
            assert not abandoned.exists()
            assert (kept / "images" / "secret.png").exists()
            assert own.stat().st_mode & 0o777 == 0o700
        assert not own.exists()
    finally:
        living.kill()
        living.wait()


@pytest.mark.parametrize("kind", ["another user's", "link", "file", "just made"])
def test_what_is_not_an_abandoned_folder_of_this_user_stays(
    base: Path, kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    path, target = base / f"{PREFIX}x", base / "target"
    target.mkdir()
    (target / ".lock").touch()
    (target / "photo.png").write_bytes(b"mine")
    if kind == "link":
        path.symlink_to(target)
    elif kind == "file":
        path.write_bytes(b"mine")
    elif kind == "just made":
        path.mkdir()
    else:
        target.rename(path)
        target = path
        monkeypatch.setattr(uploads, "_is_mine", lambda owner: False)

    with private_folder():
        pass
    assert path.exists()
    assert kind == "file" or kind == "just made" or (target / "photo.png").exists()


@pytest.mark.parametrize("days", [-2, 2])
def test_an_old_folder_without_a_lock_goes_whatever_the_clock_says(base: Path, days: int) -> None:
    path = base / f"{PREFIX}x"
    path.mkdir()
    then = time.time() + days * 86400
    os.utime(path, (then, then))
    with private_folder():
        assert not path.exists()


def test_no_room_for_the_folder_is_said_with_a_cure(
    base: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(base / "missing"))
    with pytest.raises(UserError, match=r"export TMPDIR=\$HOME"), private_folder():
        pass
