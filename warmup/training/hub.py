"""The trained model on the Hugging Face hub."""

from __future__ import annotations

from pathlib import Path

from warmup.training.outcome import UserError


def refuse_unwritable(repository: str, make: bool) -> None:
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


def push(model: Path, repository: str) -> str:
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
