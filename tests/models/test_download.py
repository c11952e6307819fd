"""Downloads of published checkpoints, from a local server."""

import argparse
import dataclasses
import importlib
import io
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
import torch
import torchvision

import attrlib
from attrlib.errors import Cancelled, ModelError
from attrlib.models import download

NAME = "idsds:resnet18"
module = importlib.import_module("attrlib.models.download")


class Server:
    """Serves one body; `announced` may differ from its length."""

    def __init__(self) -> None:
        self.body, self.announced, self.asked = b"", None, 0
        outer = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                outer.asked += 1
                self.send_response(200 if outer.body else 404)
                length = len(outer.body) if outer.announced is None else outer.announced
                if length:
                    self.send_header("Content-Length", str(length))
                self.end_headers()
                self.wfile.write(outer.body)

            def log_message(self, *_args: object) -> None:
                pass

        self.http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        threading.Thread(target=self.http.serve_forever, daemon=True).start()


def checkpoint() -> tuple[bytes, dict[str, torch.Tensor]]:
    """A file as published: wrapped keys, and a Namespace beside the weights."""
    network = torchvision.models.resnet18(num_classes=5)
    state = network.state_dict()
    wrapped = {f"module.{key}": value for key, value in state.items()}
    file = io.BytesIO()
    torch.save({"epoch": 3, "state_dict": wrapped, "args": argparse.Namespace(lr=0.001)}, file)
    return file.getvalue(), state


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Server]:
    monkeypatch.setenv("ATTRLIB_CACHE", str(tmp_path))
    found = Server()
    published = dataclasses.replace(module.PUBLISHED["resnet18"], url=f"http://127.0.0.1:{found.http.server_port}/resnet18.pth.tar")
    monkeypatch.setitem(module.PUBLISHED, "resnet18", published)
    yield found
    found.http.shutdown()
    found.http.server_close()


def test_a_downloaded_model_is_loaded_by_name_and_not_downloaded_again(server: Server) -> None:
    server.body, state = checkpoint()
    with pytest.raises(ModelError, match="attrlib download idsds:resnet18"):
        attrlib.load_model(NAME, "cpu")
    seen: list[tuple[int, int]] = []
    path = download(NAME, lambda done, total: seen.append((done, total)))
    assert path.read_bytes() == server.body
    assert seen[-1] == (len(server.body), len(server.body))
    assert download(NAME) == path
    assert server.asked == 1
    model = attrlib.load_model(NAME, "cpu")
    assert model.deletion_tuned
    assert len(model.class_names) == 5
    assert all(torch.equal(value, state[key]) for key, value in model.module.state_dict().items())


def test_a_file_that_has_changed_since_the_download_is_refused(server: Server) -> None:
    server.body, _ = checkpoint()
    path = download(NAME)
    path.write_bytes(server.body[:-1] + b"?")
    with pytest.raises(ModelError, match="has changed since it was downloaded"):
        attrlib.load_model(NAME, "cpu")


@pytest.mark.parametrize(
    ("body", "announced", "words"),
    [
        (b"", None, "Not Found"),
        (b"half", 8, "4 of 8 bytes"),
        (b"more than that", 4, "of 4 bytes|14"),
        (b"unknown", 0, "announces 0 bytes"),
        (b"huge", 10**13, "announces 10000000000000 bytes"),
    ],
)
def test_an_incomplete_download_leaves_no_files(server: Server, tmp_path: Path, body: bytes, announced: int | None, words: str) -> None:
    server.body, server.announced = body, announced
    if announced == 4:
        # Bytes beyond the announced length are not read, so the file is complete.
        assert download(NAME).read_bytes() == body[:4]
        return
    with pytest.raises(ModelError, match=words):
        download(NAME)
    assert list((tmp_path / "checkpoints").iterdir()) == []


def test_a_cancelled_download_leaves_no_files(server: Server, tmp_path: Path) -> None:
    server.body = bytes(3 << 20)

    def stop(_done: int, _total: int) -> None:
        raise Cancelled("cancelled")

    with pytest.raises(Cancelled):
        download(NAME, stop)
    assert list((tmp_path / "checkpoints").iterdir()) == []


def test_an_unknown_name_and_an_unreachable_server(server: Server) -> None:
    with pytest.raises(ModelError, match="Did you mean idsds:resnet18"):
        download("idsds:resnet81")
    server.http.shutdown()
    server.http.server_close()
    with pytest.raises(ModelError, match="connect to the internet and try again, or download http://127"):
        download(NAME)
