"""The trained model as a normal Hugging Face folder, and on the hub."""

from __future__ import annotations

import shutil
from pathlib import Path

import torch
from safetensors import SafetensorError
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from warmup.errors import UserError
from warmup.training.data.tokenizers.load import with_model_max_length


def export_model(
    folder: Path,
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    card: str,
    weights: dict[str, torch.Tensor] | None = None,
) -> Path:
    """Write `folder`/model as a whole: from_pretrained and pipeline load it. Call on rank 0.

    card: what its README.md says. weights: those to write, which share memory once; by default the model's.
    """
    target, stage, old = folder / "model", folder / ".model.stage", folder / ".model.old"
    for left in (stage, old):
        shutil.rmtree(left, ignore_errors=True)
    try:
        model.save_pretrained(stage, state_dict=weights)
        with_model_max_length(tokenizer, model).save_pretrained(stage)
        (stage / "README.md").write_text(card, encoding="utf-8")
        if target.exists():  # of an earlier attempt to end this run
            target.rename(old)
        try:
            stage.rename(target)
        except OSError:
            if old.exists():
                old.rename(target)
            raise
    except SafetensorError as error:  # which hides "no space left" behind sizes that do not match
        raise UserError(f"{target}: cannot be written, is there space left? ({error})") from error
    finally:
        shutil.rmtree(stage, ignore_errors=True)
        shutil.rmtree(old, ignore_errors=True)
    return target


def check_hub_access(repository: str, make: bool) -> None:
    """Raise UserError unless the user is logged in and may write to the repository. make: create it where it is not
    there yet, which shows that at once.
    """
    from huggingface_hub import HfApi

    try:
        user = HfApi().whoami()
    except Exception as error:  # of the network, of its answers, or that there is no token
        raise UserError(
            f"log.push_to_hub: the hub does not know who you are ({_line(error)}); hf auth login, or set HF_TOKEN"
        ) from error
    role = user.get("auth", {}).get("accessToken", {}).get("role")
    if role == "read":
        raise UserError(f"log.push_to_hub: the token of {user['name']} may only read; make one that may write")
    if not make:
        return
    try:
        HfApi().create_repo(repository, private=True, exist_ok=True)
    except Exception as error:
        raise UserError(f"log.push_to_hub: {user['name']} cannot write to {repository}: {_line(error)}") from error


def push_to_hub(model: Path, repository: str) -> str:
    """Upload an exported model. Returns in words what came of it: a run that is done stays so without it."""
    from huggingface_hub import HfApi

    try:
        commit = HfApi().upload_folder(repo_id=repository, folder_path=model, commit_message=f"Add {model.parent.name}")
    except Exception as error:
        by_hand = f"hf upload {repository} {model} ."
        return f"warning: log.push_to_hub: {_line(error)}; the model is in {model}; push it by hand: {by_hand}"
    return f"  pushed to {commit.repo_url}"


def _line(error: Exception) -> str:
    return f"{type(error).__name__}: {' '.join(str(error).split())[:300]}"
