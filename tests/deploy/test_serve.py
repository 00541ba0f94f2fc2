"""stage=serve over loopback, with a real HTTP client: it judges uploads and nothing else."""

from __future__ import annotations

import io
import json
import socket
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.conftest import Outcome, image
from vlmbench.config import ServeConfig
from vlmbench.runs.folder import RunDir
from vlmbench.types import Judgement, Prediction, Task

pytest.importorskip("gradio", reason="needs the [serve] extra")

from vlmbench.data.images import open_image
from vlmbench.deploy.evidence import Evidence
from vlmbench.deploy.page import Page

TIMEOUT = 30.0
UPLOAD_MB = 0.2
EVIL = "<script>alert(1)</script>"


def scripted(paths: Any) -> Evidence:
    """Open the images as a run does, and return a scripted answer: no model is tested here."""
    for path in paths:
        open_image(path)
    said = Prediction(
        id="dropped",
        task=Task.JUDGE_PAIR,
        group="",
        view="raw",
        expected="",
        predicted="normal",
        scores={"normal": -0.1, "abnormal": -2.5},
    )
    one = Judgement(
        id="dropped",
        task=Task.JUDGE_PAIR,
        images=tuple(map(str, paths)),
        prediction=said,
        score=0.25,
        calibrated=True,
        threshold=0.1,
        decision="abnormal",
        sentence=f"abnormal: {EVIL}",
    )
    return Evidence(
        judgement=one,
        controls=(replace(one, score=0.05, decision="normal"), replace(one, score=0.3)),
    )


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Page]:
    folder = tmp_path_factory.mktemp("served")
    (folder / "run").mkdir()
    (folder / "run" / "config.yaml").write_text("secret: 1")
    (folder / "uploads").mkdir()
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("GRADIO_TEMP_DIR", str(folder / "uploads"))
        served = Page(
            title=f"a run {EVIL}",
            pair=True,
            notes=[f"a note {EVIL}"],
            answer=scripted,
            settings=ServeConfig(port=0, upload_mb=UPLOAD_MB),
            uploads=folder / "uploads",
            run=folder / "run",
        )
        with served:
            yield served


@pytest.fixture
def client(page: Page) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=page.url, timeout=TIMEOUT) as made:
        yield made


def png(seed: int) -> bytes:
    target = io.BytesIO()
    image(seed, (40, 40)).save(target, "PNG")
    return target.getvalue()


def upload(client: httpx.Client, content: bytes, name: str = "a.png") -> str:
    answer = client.post("/gradio_api/upload", files={"files": (name, content)})
    assert answer.status_code == 200, answer.text
    (path,) = answer.json()
    return str(path)


def judge(client: httpx.Client, *paths: str | None) -> tuple[str, Any]:
    """("complete", [html, json]) or ("error", words)."""
    data = [
        None if path is None else {"path": path, "meta": {"_type": "gradio.FileData"}}
        for path in paths
    ]
    begun = client.post("/gradio_api/call/judge", json={"data": data})
    if begun.status_code != 200:
        return str(begun.status_code), begun.json()
    with client.stream("GET", f"/gradio_api/call/judge/{begun.json()['event_id']}") as stream:
        lines = [line for line in stream.iter_lines() if line]
    return lines[-2].removeprefix("event: "), json.loads(lines[-1].removeprefix("data: "))


def test_a_pair_is_judged_with_its_evidence(client: httpx.Client) -> None:
    state, (html, plain) = judge(client, upload(client, png(1)), upload(client, png(2), "b.png"))
    assert state == "complete"
    assert plain["images"] == ["a.png", "b.png"]
    assert (plain["decision"], plain["label"], plain["score"]) == ("abnormal", "normal", 0.25)
    assert plain["controls"] == {
        "blank_reference": {"label": "normal", "score": 0.05},
        "swapped": {"label": "abnormal", "score": 0.3},
    }
    for words in (
        "overflow-wrap: anywhere",  # a long word of the model ends at the edge of a phone
        "<strong>abnormal</strong>",
        "abnormal: 25.0 % (calibrated); the threshold is 10.0 %",
        "The likelier label is normal",
        "with a grey image instead of the reference: normal, abnormal 5.0 %",
        "with the two images swapped: abnormal, abnormal 30.0 %",
    ):
        assert words in html
    assert EVIL not in html
    assert "&lt;script&gt;alert(1)" in html


@pytest.mark.parametrize(
    ("content", "name", "words"),
    [
        (b"no image", "a.png", "a.png: not a readable image"),
        (png(1)[:200], "a.png", "a.png: the image is damaged"),
        (png(1), "a.bin", "a.bin: the file holds a PNG image; rename it"),
        (
            b"<svg xmlns='http://www.w3.org/2000/svg'/>",
            "a.svg",
            "a.svg: not a readable image",
        ),
        (b"GIF89a" + bytes(20), "a.gif", "a.gif: not a readable image"),
    ],
    ids=["text", "cut short", "wrong name", "svg", "gif"],
)
def test_what_is_no_image_is_refused_in_words(
    client: httpx.Client, content: bytes, name: str, words: str
) -> None:
    state, error = judge(client, upload(client, png(1)), upload(client, content, name))
    assert state == "error"
    assert error["error"].startswith(words)
    assert "uploads" not in error["error"]


def test_a_missing_image_is_asked_for(client: httpx.Client) -> None:
    state, error = judge(client, upload(client, png(1)), None)
    assert (state, error["error"]) == ("error", "drop both images first")


@pytest.mark.parametrize("size", [int(UPLOAD_MB * 1e6) + 1, 5_000_000])
def test_a_file_that_is_too_large_is_not_taken(client: httpx.Client, size: int) -> None:
    answer = client.post("/gradio_api/upload", files={"files": ("a.png", bytes(size))})
    assert answer.status_code == 413


def test_an_upload_without_its_length_is_not_taken(client: httpx.Client) -> None:
    head = {"content-type": "multipart/form-data; boundary=x"}
    answer = client.post(
        "/gradio_api/upload", content=(bytes(1000) for _ in range(10)), headers=head
    )
    assert answer.status_code == 413


def test_no_file_is_judged_that_was_not_uploaded(client: httpx.Client, page: Page) -> None:
    own = upload(client, png(1))
    outside = page._run / "part.png"
    outside.write_bytes(png(3))
    elsewhere = page._run.parent / "part.png"
    elsewhere.write_bytes(png(3))
    for path in (
        str(outside),
        str(elsewhere),
        "/etc/passwd",
        f"{own}/../../../part.png",
        "conf/config.yaml",
    ):
        state, _ = judge(client, own, path)
        assert state == "error", path


@pytest.mark.parametrize(
    "path", ["http://127.0.0.1:9/a.png", "https://example.com/a.png", "file:///etc/passwd"]
)
def test_nothing_is_fetched_from_elsewhere(client: httpx.Client, path: str) -> None:
    assert judge(client, path, path) == ("400", {"error": "images must be uploaded"})


def test_no_file_can_be_read_but_uploads(client: httpx.Client, page: Page) -> None:
    own = upload(client, png(1))
    assert client.get(f"/gradio_api/file={own}").content == png(1)
    secret = page._run / "config.yaml"
    for path in (
        f"/gradio_api/file={secret}",
        f"/gradio_api/file={own}/../../../run/config.yaml",
        "/gradio_api/file=/etc/passwd",
        "/gradio_api/file=pyproject.toml",
        "/gradio_api/file=http://127.0.0.1:9/",
        "/gradio_api/proxy=http://127.0.0.1:9/",
        "/gradio_api/file/etc/passwd",
        "/file=/etc/passwd",
        "/static/%2e%2e/%2e%2e/%2e%2e/%2e%2e/etc/passwd",
        "/assets/..%2f..%2f..%2f..%2fetc%2fpasswd",
        "/monitoring",
        "/docs",
        "/openapi.json",
        "/gradio_api/vibe-code/",
    ):
        answer = client.get(path)
        assert answer.status_code in (403, 404), path
        assert "root:" not in answer.text
        assert "secret" not in answer.text


def test_other_sites_and_names_may_not_use_it(client: httpx.Client) -> None:
    files = {"files": ("a.png", png(1))}
    assert (
        client.post(
            "/gradio_api/upload", files=files, headers={"origin": "http://evil.example"}
        ).status_code
        == 403
    )
    own = str(client.base_url).rstrip("/")
    assert (
        client.post("/gradio_api/upload", files=files, headers={"origin": own}).status_code == 200
    )
    assert client.get("/", headers={"host": "evil.example"}).status_code == 400


def test_the_page_loads_nothing_from_elsewhere(client: httpx.Client) -> None:
    answer = client.get("/")
    assert answer.status_code == 200
    policy = answer.headers["content-security-policy"]
    assert "default-src 'self'" in policy
    assert "http" not in policy
    assert EVIL not in answer.text
    assert "fonts.googleapis" not in answer.text + client.get("/theme.css").text


def test_it_is_reached_on_loopback_alone(page: Page) -> None:
    assert page.url.startswith("http://127.0.0.1:")
    assert ServeConfig().host == "127.0.0.1"


@pytest.mark.slow
@pytest.mark.parametrize("view", ["raw", "rt"])
def test_a_finished_run_is_served_and_keeps_nothing_of_the_images(
    finished: RunDir,
    cli: Any,
    monkeypatch: pytest.MonkeyPatch,
    shared_cache: Path,
    view: str,
) -> None:
    """The whole stage: the run's own model answers what is dropped, until the page is stopped."""
    found: dict[str, Any] = {}

    def visit(self: Page) -> None:
        with httpx.Client(base_url=self.url, timeout=TIMEOUT) as client:
            found["answer"] = judge(client, upload(client, png(1)), upload(client, png(2), "b.png"))
        found["uploads"] = self._uploads
        derived = self._uploads.with_name("derived")
        found["derived"] = [path for path in derived.rglob("*") if path.is_file()]

    monkeypatch.setattr(Page, "wait", visit)
    cached = {path for path in shared_cache.rglob("*") if path.is_file()}
    arguments = ("stage=serve", f"run={finished.path}", "serve.port=0", f"serve.view={view}")
    outcome: Outcome = cli(*arguments)
    assert outcome.code == 0, outcome.err
    assert "open http://127.0.0.1:" in outcome.out
    state, (html, plain) = found["answer"]
    assert state == "complete"
    assert plain["decision"] in ("normal", "abnormal")
    assert set(plain["controls"]) == {"blank_reference", "swapped"}
    assert "The model writes" in html
    assert not found["uploads"].parent.exists()
    assert found["derived"] == []
    assert {path for path in shared_cache.rglob("*") if path.is_file()} == cached


@pytest.mark.slow
@pytest.mark.parametrize(
    ("host", "cure"),
    [("127.0.0.1", "another program uses this port"), ("192.0.2.1", "set serve.host=127.0.0.1")],
)
def test_an_address_that_cannot_be_listened_on_is_refused_before_anything_is_loaded(
    cli: Callable[..., Outcome],
    finished: RunDir,
    monkeypatch: pytest.MonkeyPatch,
    host: str,
    cure: str,
) -> None:
    monkeypatch.setattr("vlmbench.deploy.serve.load_run", None)
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        address = (f"serve.host={host}", f"serve.port={taken.getsockname()[1]}")
        outcome = cli("stage=serve", f"run={finished.path}", *address)
    assert outcome.code == 2
    assert outcome.err.startswith(f"error: {' '.join(address)}: ")
    assert cure in outcome.err
    assert outcome.err.count("\n") == 1
