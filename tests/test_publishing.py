"""Pushing with the real client to a Hub on loopback, and what stops a push."""

import hashlib
import json
import os
import subprocess
import sys

import local_hub
import pytest
import tiny_run
import torch

from helpers import models
from helpers.errors import CourseError, InvalidValue
from helpers.shipping import hub, model_card

WORDS = {"name": "tiny", "intended_use": "Try a push out.", "out_of_scope": "All else there is."}
TOKEN = "hf_token_of_this_test"


@pytest.fixture
def run(tmp_path):
    run = tiny_run.write(tmp_path / "run")
    model_card.write_card(run, model_card.Description(**WORDS))
    return run


@pytest.fixture
def server(tmp_path):
    with local_hub.serve(store=tmp_path / "store", token=TOKEN) as server:
        yield server


def python(code, hub_url, home, **environment):
    """``code`` in a process of its own: the client reads the Hub's address when it is imported."""
    kept = {k: v for k, v in os.environ.items() if not k.startswith("HF_")}
    environment = kept | {
        "HF_ENDPOINT": hub_url, "HF_HUB_DISABLE_XET": "1", "HF_HOME": str(home), **environment,
    }  # fmt: skip
    return subprocess.run(
        [sys.executable, *code], env=environment, capture_output=True, text=True, timeout=120
    )


def push(run, hub_url, home, *options, token=TOKEN, repository="me/tiny", **environment):
    command = ["-m", "helpers", "push", str(run), repository, *options]
    return python(command, hub_url, home, **{"HF_TOKEN": token} | environment)


def test_the_plan_lists_every_file_with_its_size_and_hash(run):
    planned = hub.plan(run)
    assert [file.path for file in planned] == sorted(os.listdir(run / "model"))
    for file in planned:
        content = (run / "model" / file.path).read_bytes()
        assert (file.size, file.sha256) == (len(content), hashlib.sha256(content).hexdigest())


def test_what_was_pushed_comes_back_bit_for_bit(run, server, tmp_path):
    (run / "model" / "checkpoint.txt~").write_text("not part of a model")
    done = push(run, server.url, tmp_path / "home")
    assert done.returncode == 0, done.stderr
    assert f"{server.url}/me/tiny/commit/" in done.stdout
    code = (
        "import sys; from huggingface_hub import snapshot_download;"
        "print(snapshot_download('me/tiny', local_dir=sys.argv[1]))"
    )
    back = python(["-c", code, str(tmp_path / "back")], server.url, tmp_path / "other")
    assert back.returncode == 0, back.stderr
    for file in hub.plan(run):
        sent = (run / "model" / file.path).read_bytes()
        assert (tmp_path / "back" / file.path).read_bytes() == sent, file.path
    assert not (tmp_path / "back" / "checkpoint.txt~").exists()
    model, tokenizer = models.load_trained(tmp_path / "back")
    own, _ = models.load_trained(run / "model")
    batch = tokenizer(["w7 w9 w30"], return_tensors="pt")
    with torch.inference_mode():
        assert torch.equal(model(batch["input_ids"]).logits, own(batch["input_ids"]).logits)
    # Pushed again, with another card: the repository is there, and the card is the new one.
    model_card.write_card(run, model_card.Description(**WORDS | {"name": "second"}))
    done = push(run, server.url, tmp_path / "home")
    assert done.returncode == 0, done.stderr
    assert "# second" in (tmp_path / "store" / "models" / "me" / "tiny" / "README.md").read_text()


@pytest.mark.parametrize(
    ("token", "repository", "expected"),
    [
        ("hf_wrong", "me/tiny", "the token is missing or not valid"),
        (TOKEN, "them/tiny", "may not write to 'them'"),
    ],
)
def test_a_refusal_is_explained(run, server, tmp_path, token, repository, expected):
    done = push(run, server.url, tmp_path / "home", token=token, repository=repository)
    assert done.returncode == 1
    assert expected in done.stderr and "Traceback" not in done.stderr
    assert not server.repositories


def test_without_a_token_the_first_step_is_named(run, server, tmp_path):
    done = push(run, server.url, tmp_path / "home", token="")
    assert done.returncode == 1
    assert "hf auth login" in done.stderr and "Traceback" not in done.stderr


def test_without_a_network_nothing_is_half_published(run, tmp_path):
    with local_hub.serve(store=tmp_path / "store", token=TOKEN) as server:
        gone = server.url
    done = push(run, gone, tmp_path / "home")
    assert done.returncode == 1
    assert "could not be reached" in done.stderr and "Traceback" not in done.stderr


def test_offline_is_respected_and_a_dry_run_still_works(run, tmp_path):
    done = push(run, "http://127.0.0.1:9", tmp_path / "home", COURSE_OFFLINE="1")
    assert done.returncode == 1 and "the network is forbidden" in done.stderr
    done = push(run, "http://127.0.0.1:9", tmp_path / "home", "--dry-run", COURSE_OFFLINE="1")
    assert done.returncode == 0, done.stderr
    planned = hub.plan(run)
    assert all(file.path in done.stdout and file.sha256[:16] in done.stdout for file in planned)
    assert "would go to me/tiny (private, if it is new). Nothing was sent." in done.stdout
    for said in ("text-classification", "licence apache-2.0", "language en", ": 0.8125\n"):
        assert said in done.stdout, said


def test_a_pickle_is_never_sent(run):
    (run / "model" / "pytorch_model.bin").write_bytes(b"")
    with pytest.raises(CourseError, match=r"pytorch_model\.bin.*can run any code"):
        hub.plan(run)


def test_a_model_without_a_card_stays_at_home(tmp_path):
    with pytest.raises(CourseError, match=r"has no card.*helpers card"):
        hub.plan(tiny_run.write(tmp_path / "run"))


def test_a_card_with_other_scores_stays_at_home(run):
    (run / "metrics.json").write_text(
        json.dumps(tiny_run.metrics(test=tiny_run.scores(0.9, 0.9))), encoding="utf-8"
    )
    with pytest.raises(CourseError, match=r"its accuracy is not the one in metrics\.json"):
        hub.plan(run)


def test_a_folder_without_a_model_is_named(tmp_path):
    with pytest.raises(CourseError, match="holds no trained model"):
        hub.plan(tmp_path)


def test_a_repository_has_an_owner(run):
    with pytest.raises(InvalidValue, match="owner/name"):
        hub.push(run, "tiny")
