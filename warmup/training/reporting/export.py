"""The trained model as a normal Hugging Face folder, and on the hub."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors import SafetensorError
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from warmup.errors import UserError, one_line
from warmup.training import hub
from warmup.training.data.tokenizers.load import with_model_max_length
from warmup.training.files import staged_folder


def export_model(
    folder: Path,
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    card: str,
    weights: dict[str, torch.Tensor] | None = None,
    pictures: Mapping[str, bytes] | None = None,
) -> Path:
    """Write the folder `model` in a run directory, which from_pretrained and pipeline load. Only rank 0 calls it.

    Args:
        folder: The run directory. A model that an earlier attempt to finish the run left there is replaced.
        model: The model, for its configuration.
        tokenizer: Its tokenizer.
        card: The text of the model's README.md.
        weights: The weights by name, shared ones only once; None for the model's own.
        pictures: Content of files that the card shows, by name.

    Returns:
        The path of the model's folder.

    Raises:
        UserError: There is no space left.
        OSError: The folder cannot be written.
    """
    target = folder / "model"
    try:
        with staged_folder(target) as stage:
            model.save_pretrained(stage, state_dict=weights)
            with_model_max_length(tokenizer, model).save_pretrained(stage)
            (stage / "README.md").write_text(card, encoding="utf-8")
            for name, content in (pictures or {}).items():
                (stage / name).write_bytes(content)
    except SafetensorError as error:  # its text hides "no space left" behind sizes that do not match
        raise UserError(f"{target}: cannot be written, is there space left? ({error})") from error
    return target


def check_hub_access(repository: str, create: bool) -> None:
    """Check that the user is logged in to the hub and may write to a repository.

    Args:
        repository: Its name, "user/name".
        create: Whether to create it as a private one if it does not exist, which tests the right to write.

    Raises:
        UserError: The user is not logged in, or may not write.
    """
    from huggingface_hub import HfApi

    try:
        user = HfApi().whoami()
    except Exception as error:  # an error of the network or of the hub, or no token
        raise UserError(
            f"log.push_to_hub: the hub does not know who you are ({_error_text(error)}); hf auth login, or set HF_TOKEN"
        ) from error
    role = user.get("auth", {}).get("accessToken", {}).get("role")
    if role == "read":
        raise UserError(f"log.push_to_hub: the token of {user['name']} may only read; make one that may write")
    if not create:
        return
    try:
        HfApi().create_repo(repository, private=True, exist_ok=True)
    except Exception as error:
        text = f"{user['name']} cannot write to {repository}: {_error_text(error)}"
        raise UserError(f"log.push_to_hub: {text}") from error


def push_to_hub(model: Path, repository: str) -> str:
    """Upload the folder of an exported model.

    Returns:
        A line for the user. A failure is a warning in it and not an error, because the run itself is complete.
    """
    from huggingface_hub import HfApi

    hub.go_online_again()  # it was asked for when the run began, which may be days ago
    try:
        commit = HfApi().upload_folder(repo_id=repository, folder_path=model, commit_message=f"Add {model.parent.name}")
    except Exception as error:
        command = f"hf upload {repository} {model} ."
        return f"warning: log.push_to_hub: {_error_text(error)}; the model is in {model}; push it by hand: {command}"
    return f"  pushed to {commit.repo_url}"


def _error_text(error: Exception) -> str:
    return f"{type(error).__name__}: {one_line(error)}"
