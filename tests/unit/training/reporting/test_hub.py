"""The hub, simulated by a local server: the right to write is checked before training, and a push that fails costs
nothing.
"""

from __future__ import annotations

import base64
import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import datasets
import huggingface_hub.constants
import pytest
from harness import train

from warmup.errors import UserError
from warmup.training import hub
from warmup.training.reporting.export import check_hub_access, push_to_hub


class Hub(ThreadingHTTPServer):
    """Knows one user by one token.

    created: The bodies of requests that create a repository. files: The files of commits, by path.
    """

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.role, self.refuses = "write", ""
        self.created: list[dict] = []
        self.files: dict[str, bytes] = {}


class Handler(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        known = self.headers.get("Authorization") == "Bearer hf_secret"
        user = {"name": "ada", "auth": {"accessToken": {"role": self.server.role}}}
        if self.path != "/api/whoami-v2":  # there is no such repository yet
            return self.answer(404, {"error": "Repository not found"})
        self.answer(200 if known else 401, user if known else {"error": "Invalid credentials"})

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        if self.server.refuses and self.server.refuses in self.path:
            self.answer(403, {"error": "You have no right to do this"})
        elif self.path == "/api/repos/create":
            self.server.created.append(json.loads(body))
            self.answer(200, {"url": "https://huggingface.co/ada/bert"})
        elif self.path == "/api/models/ada/bert/preupload/main":
            files = [
                {"path": file["path"], "uploadMode": "regular", "shouldIgnore": False}
                for file in json.loads(body)["files"]
            ]
            self.answer(200, {"files": files})
        elif self.path == "/api/validate-yaml":  # of the card
            self.answer(200, {"errors": [], "warnings": []})
        elif self.path.startswith("/api/models/ada/bert/commit/main"):
            lines = [json.loads(line) for line in body.splitlines()]
            values = [line["value"] for line in lines if line["key"] == "file"]
            self.server.files |= {value["path"]: base64.b64decode(value["content"]) for value in values}
            self.answer(200, {"commitUrl": "https://huggingface.co/ada/bert/commit/1", "commitOid": "1"})
        else:
            self.answer(404, {"error": self.path})

    def answer(self, status: int, content: dict) -> None:
        text = json.dumps(content).encode()
        self.send_response(status)
        self.send_header("Content-Length", str(len(text)))
        self.send_header("Content-Type", "application/json")
        self.end_headers()
        self.wfile.write(text)

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    """A hub that this process and those it forks take for the real one. The user is logged in."""
    with Hub() as hub:
        threading.Thread(target=hub.serve_forever, daemon=True).start()
        monkeypatch.setattr(huggingface_hub.constants, "ENDPOINT", f"http://127.0.0.1:{hub.server_port}")
        monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", False)
        monkeypatch.setenv("HF_TOKEN", "hf_secret")
        yield hub
        hub.shutdown()


def test_a_new_repository_is_private_and_created_before_training(server: Hub) -> None:
    check_hub_access("ada/bert", create=True)
    (body,) = server.created
    assert (body["name"], body["organization"]) == ("bert", "ada")
    assert body.get("private") is True or body.get("visibility") == "private"


def test_a_smoke_test_creates_none(server: Hub) -> None:
    check_hub_access("ada/bert", create=False)
    assert server.created == []


def test_without_the_right_to_write_it_is_refused(server: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    server.refuses = "create"
    with pytest.raises(
        UserError, match="^log.push_to_hub: ada cannot write to ada/bert: .*You have no right to do this"
    ):
        check_hub_access("ada/bert", create=True)
    server.role = "read"
    with pytest.raises(UserError, match="^log.push_to_hub: the token of ada may only read; make one that may write$"):
        check_hub_access("ada/bert", create=True)
    monkeypatch.setenv("HF_TOKEN", "hf_other")
    with pytest.raises(UserError, match="^log.push_to_hub: the hub does not know who you are .*; hf auth login"):
        check_hub_access("ada/bert", create=True)


def test_without_a_network_it_is_refused_at_once(server: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(UserError, match="^log.push_to_hub: the hub does not know who you are .OfflineModeIsEnabled"):
        check_hub_access("ada/bert", create=True)


def test_a_hub_that_was_away_for_a_while_gets_the_model(
    server: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """That it could not be reached when a tokenizer was loaded does not count days later."""
    monkeypatch.setattr(datasets.config, "HF_HUB_OFFLINE", False)
    with monkeypatch.context() as patch:
        patch.setattr(hub, "_accepts_connections", lambda: False)
        hub.go_offline_if_unreachable()
    assert huggingface_hub.constants.HF_HUB_OFFLINE
    model = tmp_path / "run" / "model"
    model.mkdir(parents=True)
    (model / "config.json").write_text("{}")
    assert push_to_hub(model, "ada/bert").startswith("  pushed to http")
    assert server.files == {"config.json": b"{}"}


@pytest.fixture
def job(classification: tuple[str, ...]) -> tuple[object, ...]:
    """Two steps."""
    return (
        *classification,
        "--recipe.duration",
        "2 steps",
        "--recipe.warmup",
        "1 steps",
        "--log.push_to_hub",
        "ada/bert",
    )


def test_the_model_of_a_finished_run_is_pushed(server: Hub, job: tuple, tmp_path: Path) -> None:
    run = train(2, tmp_path / "run", *job)
    assert run.codes == [0, 0], run.status
    model = tmp_path / "run" / "model"
    assert server.files == {file.name: file.read_bytes() for file in model.iterdir()}
    assert {"README.md", "model.safetensors", "config.json", "tokenizer.json"} <= server.files.keys()
    assert "pushed to http" in run.stderr and "ada/bert" in run.stderr


def test_a_push_that_fails_costs_nothing(server: Hub, job: tuple, tmp_path: Path) -> None:
    server.refuses = "commit"
    run = train(1, tmp_path / "run", *job)
    assert run.codes == [0] and run.status["outcome"] == "done", run.status
    model = tmp_path / "run" / "model"
    assert (model / "model.safetensors").exists() and server.files == {}
    assert f"push it by hand: hf upload ada/bert {model} ." in run.stderr
    assert json.loads((tmp_path / "run" / "result.json").read_text())["outcome"] == "done"


def test_without_a_login_nothing_is_trained(
    server: Hub, job: tuple, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On any rank: rank 0's answer counts."""
    monkeypatch.setenv("HF_TOKEN", "hf_other")
    run = train(2, tmp_path / "run", *job)
    assert run.codes == [2, 2] and "hf auth login" in run.status["message"]
    assert not (tmp_path / "run").exists() and run.stderr.count("hf auth login") <= 1
