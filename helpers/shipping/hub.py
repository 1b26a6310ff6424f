"""Putting a finished model on the Hugging Face Hub: first what would be sent, then the push."""

import os
import re
from pathlib import Path
from typing import NamedTuple

from helpers.errors import CourseError, InvalidValue
from helpers.files import model_folder, sha256_of
from helpers.shipping.model_card import find_faults, read_metrics

# A model's files; checkpoints and data are never sent.
UPLOADED = ("*.json", "*.safetensors", "*.txt", "*.jinja", "README.md")
_PICKLES = (".bin", ".pt", ".pth", ".pkl", ".pickle", ".ckpt")
_REFUSALS = {
    401: "the token is missing or not valid. Make one with the right to write at "
    "{hub}/settings/tokens, then run `hf auth login` or set HF_TOKEN.",
    403: "the token is known but may not write to {owner!r}. Name an owner that is yours, or make "
    "a token with the right to write there.",
    404: "there is no such repository, or the token may not see it.",
}


class Planned(NamedTuple):
    """A file to send: its name in the repository, size in bytes and SHA-256."""

    path: str
    size: int
    sha256: str


def plan(folder: str | Path) -> list[Planned]:
    """The files of a run's model that a push would send, sorted by name. Uses no network.

    folder: what ``train`` wrote, or the model's own folder.
    Raises CourseError: no model, no card or a faulty one, or a file that is a pickle.
    """
    model = model_folder(folder)
    if not (model / "config.json").is_file() or not list(model.glob("*.safetensors")):
        raise CourseError(
            f"{folder} holds no trained model. Name what a finished run wrote: python -m helpers "
            f"train reviews --out runs/reviews"
        )
    if names := pickles(model):
        raise CourseError(
            f"{model} holds {', '.join(names)}: loading such a file can run any code. Save the "
            f"weights as safetensors and remove it."
        )
    card = model / "README.md"
    if not card.is_file():
        raise CourseError(
            f"{model} has no card, and a model without a description is of no use to others. Write "
            f'one: python -m helpers card {folder} --use "..." --not-for "..."'
        )
    metrics = read_metrics(model.parent) if (model.parent / "metrics.json").is_file() else None
    if faults := find_faults(card.read_text(encoding="utf-8"), metrics):
        raise CourseError(f"{card} has faults: {'; '.join(faults)}. Nothing is sent.")
    paths = sorted({path for pattern in UPLOADED for path in model.glob(pattern)})
    return [Planned(path.name, path.stat().st_size, sha256_of(path)) for path in paths]


def pickles(folder: Path) -> list[str]:
    """Names of the files in ``folder`` that can run any code when they are loaded."""
    return sorted(path.name for path in folder.rglob("*") if path.suffix.lower() in _PICKLES)


def push(folder: str | Path, repository: str, *, public: bool = False) -> str:
    """Send what ``plan`` lists to ``repository`` in one commit; returns the commit's address.

    repository: ``owner/name``; created if it doesn't exist, then private unless ``public``. The
    token is HF_TOKEN or the one that ``hf auth login`` stored; HF_ENDPOINT names another Hub.
    Raises InvalidValue: a malformed name. CourseError: as ``plan``; offline; refused; no network.
    """
    if not re.fullmatch(r"[\w.-]+/[\w.-]+", repository):
        raise InvalidValue(f"repository is {repository!r}; it has the form owner/name.")
    planned, model = plan(folder), model_folder(folder)
    if "1" in (os.environ.get("COURSE_OFFLINE"), os.environ.get("HF_HUB_OFFLINE")):
        raise CourseError(
            "the network is forbidden (COURSE_OFFLINE or HF_HUB_OFFLINE is 1). Unset it to push; "
            "--dry-run checks everything else."
        )
    from huggingface_hub import CommitOperationAdd, HfApi
    from huggingface_hub.errors import HfHubHTTPError

    api = HfApi()
    additions = [CommitOperationAdd(file.path, str(model / file.path)) for file in planned]
    try:
        api.create_repo(repository, private=not public, exist_ok=True)
        commit = api.create_commit(
            repository, additions, commit_message="Model, tokenizer and card"
        )
    except Exception as error:  # versions of the client use different network libraries
        cause = error if isinstance(error, HfHubHTTPError) else error.__cause__ or error
        if isinstance(cause, HfHubHTTPError):
            status = cause.response.status_code
            step = _REFUSALS.get(status, "try again later; if it persists, the answer says why.")
            step = step.format(hub=api.endpoint, owner=repository.split("/")[0])
            answer = " ".join(str(cause).split())[:200]
            message = f"{api.endpoint} refused the push ({status}): {step} It said: {answer}"
            raise CourseError(message) from error
        raise CourseError(
            f"{api.endpoint} could not be reached, or broke off ({type(cause).__name__}: {cause}). "
            f"Nothing is half-published: a push takes effect as a whole. Check the network and "
            f"HF_ENDPOINT, then push again."
        ) from error
    return commit.commit_url
