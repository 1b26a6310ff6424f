"""Putting a finished model on the Hugging Face Hub: first what would be sent, then the push."""

import os
import re
from dataclasses import dataclass
from pathlib import Path

from helpers.errors import CourseError, InvalidValue
from helpers.files import model_folder, sha256_of
from helpers.shipping.model_card import find_faults, read_metrics

UPLOADED = (  # the files of a model; checkpoints and data are never sent
    "*.json",
    "*.safetensors",
    "*.txt",
    "*.jinja",
    "README.md",
)
REFUSED = (".bin", ".pt", ".pth", ".pkl", ".pickle", ".ckpt")  # loading one can run any code


@dataclass(frozen=True)
class Planned:
    """A file to send: its name in the repository, size in bytes and SHA-256."""

    path: str
    size: int
    sha256: str


def plan(folder: str | Path) -> list[Planned]:
    """The files of a run's model that a push would send, sorted by name. Uses no network.

    folder: what ``train`` wrote, or the model's own folder.
    Raises CourseError: no model, no card or an incomplete one, or a file that is a pickle.
    """
    model = model_folder(folder)
    if not (model / "config.json").is_file() or not list(model.glob("*.safetensors")):
        raise CourseError(
            f"{folder} holds no trained model. Name what a finished run wrote: python -m helpers "
            f"train reviews --out runs/reviews"
        )
    if pickles := sorted(p.name for p in model.rglob("*") if p.suffix.lower() in REFUSED):
        raise CourseError(
            f"{model} holds {', '.join(pickles)}: loading such a file can run any code. Save "
            f"the weights as safetensors and remove it."
        )
    card = model / "README.md"
    if not card.is_file():
        raise CourseError(
            f"{model} has no card, and a model without a description is of no use to others. Write "
            f'one: python -m helpers card {folder} --use "..." --not-for "..."'
        )
    metrics = read_metrics(model.parent) if (model.parent / "metrics.json").is_file() else None
    if faults := find_faults(card.read_text(encoding="utf-8"), metrics):
        raise CourseError(f"the card {card} is not complete: {'; '.join(faults)}.")
    paths = sorted({path for pattern in UPLOADED for path in model.glob(pattern)})
    return [
        Planned(path.name, path.stat().st_size, sha256_of(path)) for path in paths if path.is_file()
    ]


def push(
    folder: str | Path,
    repository: str,
    *,
    token: str | None = None,
    public: bool = False,
    endpoint: str | None = None,
    message: str = "Model, tokenizer and card",
) -> str:
    """Send what ``plan`` lists to ``repository`` in one commit; returns the commit's address.

    repository: ``owner/name``; created if it doesn't exist. token: one with write access; None:
    HF_TOKEN, or the one that ``hf auth login`` stored. public: for a repository that is created;
    by default it is private. endpoint: another Hub (default: HF_ENDPOINT).
    Raises InvalidValue: a malformed name. CourseError: as ``plan``; offline; refused; no network.
    """
    if not re.fullmatch(r"[\w.-]+/[\w.-]+", repository):
        raise InvalidValue(f"repository is {repository!r}; it has the form owner/name.")
    planned, model = plan(folder), model_folder(folder)
    if os.environ.get("COURSE_OFFLINE") == "1" or os.environ.get("HF_HUB_OFFLINE") == "1":
        raise CourseError(
            "the network is forbidden (COURSE_OFFLINE or HF_HUB_OFFLINE is 1). Unset it to push; "
            "--dry-run checks everything else."
        )
    from huggingface_hub import CommitOperationAdd, HfApi
    from huggingface_hub.errors import HfHubHTTPError

    api = HfApi(endpoint=endpoint, token=token)
    additions = [CommitOperationAdd(file.path, str(model / file.path)) for file in planned]
    try:
        api.create_repo(repository, private=not public, exist_ok=True)
        commit = api.create_commit(repository, additions, commit_message=message)
    except HfHubHTTPError as error:
        raise _explain(error, repository, api.endpoint) from error
    except Exception as error:
        cause = error.__cause__ or error
        if isinstance(cause, HfHubHTTPError):
            raise _explain(cause, repository, api.endpoint) from error
        if not _is_of_the_network(error):
            raise
        raise CourseError(
            f"{api.endpoint} could not be reached, or broke off ({type(cause).__name__}: {cause}). "
            f"Nothing is half-published: a push takes effect as a whole. Check the network and "
            f"HF_ENDPOINT, then push again."
        ) from error
    return commit.commit_url


def _is_of_the_network(error: Exception) -> bool:
    """Versions of huggingface_hub use different HTTP libraries, which raise different errors."""
    library = type(error).__module__.split(".")[0]
    return isinstance(error, OSError | RuntimeError) or library.startswith(("httpx", "requests"))


def _explain(error: Exception, repository: str, endpoint: str) -> CourseError:
    status = getattr(getattr(error, "response", None), "status_code", None)
    owner = repository.split("/")[0]
    if status == 401:
        step = (
            f"the token is missing or not valid. Make one with the right to write at "
            f"{endpoint}/settings/tokens, then run `hf auth login` or set HF_TOKEN."
        )
    elif status == 403:
        step = (
            f"the token is known but may not write to {owner!r}. Name an owner that is yours, or "
            f"make a token with the right to write there."
        )
    elif status == 404:
        step = f"there is no {repository}, or the token may not see it."
    else:
        step = "try again later; if it persists, the answer says why."
    answer = " ".join(str(error).split())[:200]
    return CourseError(f"{endpoint} refused the push ({status}): {step} It said: {answer}")
