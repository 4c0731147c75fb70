"""The Hugging Face hub, where it may not be reached."""

from __future__ import annotations

import os
import socket
import time
import urllib.parse
import urllib.request
from contextlib import suppress
from typing import Any

import datasets
from huggingface_hub import constants
from huggingface_hub.errors import LocalEntryNotFoundError

from warmup.errors import UserError

_TRIES = 2
_SECONDS = 5.0  # of a try
_before: dict[Any, bool] = {}
"""HF_HUB_OFFLINE of the modules with the settings of libraries, as it was before `go_offline_if_unreachable`."""


def go_offline_if_unreachable() -> None:
    """Let the hub's libraries take what has been downloaded before, at once, if the hub cannot be reached.

    They would try to for about half a minute for each file, and print each attempt. This holds until `go_online_again`,
    so that all parts of a model are of one revision.

    Each rank decides for itself: the first names are loaded before ranks are connected, and data on one rank of each
    machine. Where ranks get different data or tokenizers by that, their keys differ, which ends the run.
    """
    if not constants.HF_HUB_OFFLINE and not _accepts_connections():
        for module in (constants, datasets.config):
            _before[module], module.HF_HUB_OFFLINE = module.HF_HUB_OFFLINE, True


def go_online_again() -> None:
    """Undo `go_offline_if_unreachable`: what could not be reached once may be there by now."""
    for module, offline in _before.items():
        module.HF_HUB_OFFLINE = offline
    _before.clear()


def _accepts_connections() -> bool:
    if {"http", "https", "all"} & set(urllib.request.getproxies()):  # one of them connects for us
        return True
    url = urllib.parse.urlsplit(constants.ENDPOINT)
    address = url.hostname or "", url.port or (80 if url.scheme == "http" else 443)
    for number in range(_TRIES):
        time.sleep(number)
        with suppress(OSError), socket.create_connection(address, _SECONDS):
            return True
    return False


def check_reachable(name: str, flag: str, error: Exception) -> None:
    """Raise UserError if that something cannot be loaded is because the hub cannot be reached.

    Args:
        name: What was to be loaded, from a folder or from the hub.
        flag: The option that named it.
        error: What loading it raised.
    """
    offline = isinstance(error.__cause__, LocalEntryNotFoundError) or isinstance(error, ConnectionError)
    if offline or "couldn't connect to" in str(error):
        missing = "" if name.startswith("hub:") or os.path.isdir(name) else f"there is no folder {name}, so that "
        raise UserError(
            f"{flag}: {missing}{'it' if missing else name} would have to be downloaded, and huggingface.co cannot be "
            "reached; give a folder, or download it where there is a network, with the same HF_HOME"
        ) from error
