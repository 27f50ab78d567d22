"""`pdepth view`: a local server that gives a page and its pictures, to this computer alone."""

from __future__ import annotations

import gzip
import http.client
import io
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from urllib.parse import urlsplit

import numpy as np
import pytest
from typer.testing import CliRunner

from pdepth import cli
from pdepth.report.view import HOST, View, serving

from helpers.pages import N, example, map_example

for module in ("plotly", "pyarrow", "PIL"):
    pytest.importorskip(module)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Results and their images, each of 200 x 150 pixels; one is broken."""
    from PIL import Image

    root = tmp_path_factory.mktemp("run")
    result, rng = example(), np.random.default_rng(0)
    assert result.labels is not None
    for row, label in enumerate(result.labels):
        file = root / "images" / "abcd"[label] / f"{row:03}.png"
        file.parent.mkdir(parents=True, exist_ok=True)
        colour = tuple(map(int, rng.integers(0, 256, 3)))
        Image.new("RGB", (200, 150), colour).save(file)
    files = sorted((root / "images").rglob("*.png"))
    order = np.argsort(result.labels, kind="stable")
    files[3].write_bytes(b"no picture")
    picked = {name: getattr(result, name)[order] for name in ("depth", "undefined", "predictions")}
    picked |= {name: getattr(result, name)[:, order] for name in ("votes", "known")}
    import dataclasses

    meta = {"queries": f"imagefolder:{root / 'images'}", "image_size": "32"}
    dataclasses.replace(result, labels=result.labels[order], meta=meta, **picked).save(
        root / "depth.parquet"
    )
    return root


@pytest.fixture(scope="module")
def address(folder: Path) -> Iterator[str]:
    view = View(folder)
    assert view.note == ""
    with serving(view) as address:
        yield address


def get(
    address: str, name: str = "", method: str = "GET", **headers: str
) -> tuple[http.client.HTTPResponse, bytes]:
    parts = urlsplit(address)
    connection = http.client.HTTPConnection(parts.hostname or "", parts.port)
    connection.putrequest(method, parts.path + name, skip_host="Host" in headers)
    for header, value in headers.items():
        connection.putheader(header, value)
    connection.endheaders()
    answer = connection.getresponse()
    return answer, answer.read()


def test_a_map_is_packed_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """However many requests ask for it, and at the same time."""
    result, packed = map_example(), []
    assert result.map is not None
    result.save(tmp_path / "depth.parquet")
    result.map.save(tmp_path / "map.pdepth")
    view = View(tmp_path)

    def compress(data: bytes) -> bytes:
        packed.append(data)
        return gzip.compress(data)

    monkeypatch.setattr("pdepth.report.html.embedding_map.compress", compress)
    with ThreadPoolExecutor(4) as pool:
        answers = [*pool.map(view.answer, ["map-1"] * 8)]
    assert [gzip.decompress(answer[1]) for answer in answers if answer] == packed * 8
    assert len(packed) == 1
    assert view.answer("map-2") not in answers


def test_the_page_and_what_is_beside_it(address: str) -> None:
    answer, text = get(address)
    assert answer.status == 200
    assert b"Prediction depth of 240" in text
    assert len(text) < 200_000, "columns and plotly are not in it"
    assert b"connect-src 'self'" in text
    for name in ("data", "plotly"):
        answer, content = get(address, name)
        assert answer.status == 200
        assert len(gzip.decompress(content)) > 1000
    assert answer.getheader("Cache-Control") == "no-store"
    assert answer.getheader("X-Content-Type-Options") == "nosniff"


def test_pictures_small_and_in_their_own_size(address: str, folder: Path) -> None:
    from PIL import Image

    answer, content = get(address, "thumbnails/0/7.jpg")
    assert answer.status == 200
    assert Image.open(io.BytesIO(content)).size == (32, 32)
    answer, content = get(address, "images/7")
    assert answer.getheader("Content-Type") == "image/jpeg"
    picture = Image.open(io.BytesIO(content))
    assert picture.size == (200, 150)
    file = sorted((folder / "images").rglob("*.png"))[7]
    assert np.abs(np.asarray(picture).astype(int) - np.asarray(Image.open(file))).max() < 4
    assert get(address, "images/3")[0].status == 404, "a broken one"


@pytest.mark.parametrize(
    "name",
    [
        *(f"images/{N}", "images/-1", "images/1e3", "images/../depth.parquet", "../etc/passwd"),
        *("images/7.gif", "thumbnails/7", "depth.parquet", "%2e%2e/", "images/", "data/"),
        *("//etc/passwd", "images/٣", f"images/{'7' * 5000}", f"neighbors/{'7' * 5000}"),
    ],
)
def test_nothing_else_is_there(address: str, name: str) -> None:
    from urllib.parse import quote

    assert get(address, quote(name, safe="/%"))[0].status == 404


def test_only_whoever_knows_the_token_and_asks_this_server(address: str) -> None:
    parts = urlsplit(address)
    root = f"http://{parts.netloc}/"
    for path in ("", "x/", f"{parts.path.strip('/')[:-1]}/", "favicon.ico", "data"):
        assert get(root, path)[0].status == 404
    for host in ("evil.example", f"evil.example:{parts.port}", HOST, ""):
        assert get(address, Host=host)[0].status == 404
    assert get(address, Host=f"localhost:{parts.port}")[0].status == 200
    assert get(address, method="HEAD")[1] == b""
    for method in ("POST", "PUT", "DELETE", "OPTIONS"):
        assert get(address, method=method)[0].status == 501
    assert urlsplit(address).hostname == HOST
    assert len(parts.path) > 30


def test_broken_requests_are_answered(address: str, capfd: pytest.CaptureFixture[str]) -> None:
    """Whoever sends them: nothing is printed in the terminal, where a traceback would stand."""
    parts = urlsplit(address)
    for target in (
        "x",
        "x?/",
        f"{parts.path}images/{'9' * 5000}",
        f"{parts.path}neighbors/{'9' * 5000}",
    ):
        with socket.create_connection((HOST, parts.port or 0)) as sent:
            sent.sendall(f"GET {target} HTTP/1.1\r\nHost: {parts.netloc}\r\n\r\n".encode())
            assert sent.recv(12) == b"HTTP/1.0 404", target
    assert capfd.readouterr().err == ""


def test_each_server_has_a_token_of_its_own_and_ends(folder: Path) -> None:
    view = View(folder)
    with serving(view) as one, serving(view) as other:
        assert urlsplit(one).path != urlsplit(other).path
    with pytest.raises(OSError, match=r"refused|reset"):
        get(one)


def test_a_port_in_use(folder: Path) -> None:
    with socket.create_server((HOST, 0)) as taken:
        port = taken.getsockname()[1]
        sentence = f"port: expected a free one, got {port}: .*leave --port"
        with pytest.raises(OSError, match=sentence), serving(View(folder), port):
            pass
        result = CliRunner().invoke(cli.app, ["view", str(folder), "--port", str(port)])
    assert result.exit_code == 2
    assert "port: expected a free one" in result.stderr


def test_the_command_serves_until_it_is_interrupted(folder: Path) -> None:
    command = [sys.executable, "-m", "pdepth", "view", str(folder), "--no-browser"]
    with subprocess.Popen(
        command,
        stdout=subprocess.PIPE,
        text=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),  # a shell's & ignores it
    ) as process:
        try:
            assert process.stdout is not None
            address = process.stdout.readline().split()[0]
            assert get(address)[0].status == 200
            process.send_signal(signal.SIGINT)
            assert process.wait(timeout=60) == 130
        finally:
            process.kill()  # of one that goes on, which would be waited for


def test_results_without_pictures(tmp_path: Path) -> None:
    example().save(tmp_path / "depth.parquet")
    with serving(View(tmp_path)) as address:
        assert get(address)[0].status == 200
        assert get(address, "images/0")[0].status == 404
