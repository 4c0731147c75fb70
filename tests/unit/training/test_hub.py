"""A hub that cannot be reached."""

from __future__ import annotations

import socket
import time

import datasets
import pytest
from huggingface_hub import constants

from warmup.errors import UserError
from warmup.training import hub
from warmup.training.models.build import load_config


@pytest.fixture
def endpoint(monkeypatch: pytest.MonkeyPatch) -> socket.socket:
    """What stands for the hub, which does not accept connections yet; the libraries are to use it."""
    server = socket.socket()
    server.bind(("127.0.0.1", 0))
    monkeypatch.setattr(constants, "ENDPOINT", f"http://127.0.0.1:{server.getsockname()[1]}")
    for module in (constants, datasets.config):
        monkeypatch.setattr(module, "HF_HUB_OFFLINE", False)
    for name in ("http_proxy", "https_proxy", "all_proxy", "HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(time, "sleep", lambda seconds: None)
    return server


def test_without_it_a_model_is_refused_at_once_and_in_one_line(
    endpoint: socket.socket, capfd: pytest.CaptureFixture
) -> None:
    began = time.perf_counter()
    with (
        endpoint,
        pytest.raises(UserError, match="^model: there is no folder a/b, so that it would .* cannot be reached"),
    ):
        load_config("a/b")
    assert time.perf_counter() - began < 5 and capfd.readouterr() == ("", "")
    # What was downloaded before is found all the same.
    assert constants.HF_HUB_OFFLINE and datasets.config.HF_HUB_OFFLINE
    hub.go_online_again()
    assert not constants.HF_HUB_OFFLINE and not datasets.config.HF_HUB_OFFLINE


def test_who_is_offline_by_choice_remains_so(endpoint: socket.socket, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(datasets.config, "HF_HUB_OFFLINE", True)
    with endpoint:
        hub.go_offline_if_unreachable()
    hub.go_online_again()
    assert not constants.HF_HUB_OFFLINE and datasets.config.HF_HUB_OFFLINE
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    hub.go_offline_if_unreachable()
    hub.go_online_again()
    assert constants.HF_HUB_OFFLINE


def test_where_it_answers_it_is_asked(endpoint: socket.socket) -> None:
    endpoint.listen()
    with endpoint:
        hub.go_offline_if_unreachable()
    assert not constants.HF_HUB_OFFLINE and not datasets.config.HF_HUB_OFFLINE


def test_behind_a_proxy_it_is_asked(endpoint: socket.socket, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("https_proxy", "http://127.0.0.1:1")
    with endpoint:
        hub.go_offline_if_unreachable()
    assert not constants.HF_HUB_OFFLINE
