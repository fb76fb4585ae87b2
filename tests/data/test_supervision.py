"""Catches a look at the data that shows other tokens as taught, other figures, or needs a model to be there."""

import json
import subprocess
import sys

import numpy as np
import pytest

from pipeline.data.supervision import supervision
from pipeline.publish.html import outcome
from tests.chat_templates import TURNS
from tests.helpers import ROOT


@pytest.fixture
def shard(make_shard, ours):
    """Three rows of 2, 3 and 8 tokens, of which the last 1, 1 and 2 are taught."""
    ids = ours("the thing that ends")["input_ids"]
    documents = [(ids * 9)[:length] for length in (2, 3, 8)]
    targets = [
        [0] * (len(row) - taught) + [1] * taught for row, taught in zip(documents, (1, 1, 2), strict=True)
    ]
    return make_shard(documents, targets, name="conversations")


def test_figures_and_rows(shard, ours):
    found = supervision(shard, ours, sequence_length=4)
    expected = dict(
        rows=3, tokens=13, taught_tokens=4, taught_share=round(4 / 13, 4), shortest=2, median=3, longest=8
    )
    expected |= dict(longer_than_sequence_length=1, tokens_beyond_sequence_length=4)
    assert {key: found[key] for key in expected} == expected
    for index, segments in enumerate(found["shown"]):
        taught = shard.targets_of(index)
        assert [flag for _, flag in segments] == [False, True]
        assert segments[1][0] == ours.decode(
            shard.tokens[shard.offsets[index] :][: len(taught)][np.array(taught) == 1]
        )


def test_as_many_rows_are_shown_as_there_are_and_as_were_asked_for(shard, ours):
    assert len(supervision(shard, ours, 4, shown=2)["shown"]) == 2
    assert len(supervision(shard, ours, 4, shown=9)["shown"]) == 3
    assert supervision(shard, ours, 4, shown=0)["shown"] == []


def test_the_report_marks_what_is_taught_and_escapes_it():
    figures = {"rows": 1, "taught_tokens": 1, "shown": [[["<b>", False], ["</pre>so", True]]]}
    part = outcome.taught({"train": figures, "held_out": figures | {"shown": []}})
    assert '<span class="prompt">&lt;b&gt;</span><span class="taught">&lt;/pre&gt;so</span>' in part.body
    assert outcome.taught({}) is None


def recipe_for(tmp_path, ours):
    ours.save_pretrained(tmp_path / "model")
    config = {"model_type": "llama", "vocab_size": len(ours), "max_position_embeddings": 64}
    (tmp_path / "model" / "config.json").write_text(json.dumps(config))
    lines = [json.dumps({"messages": [{"role": "user", "content": f"{n}?"}, *TURNS[1:]]}) for n in range(30)]
    (tmp_path / "d.jsonl").write_text("\n".join(lines))
    (tmp_path / "r.yaml").write_text(
        f"recipe: llm\nrun: {{output_dir: {tmp_path}/run}}\nmodel: {{pretrained: {tmp_path}/model}}\n"
        f"chat: {{path: {tmp_path}/d.jsonl}}\n"
        "finetune: {max_steps: 1, train_batch_size: 2, learning_rate: 1.0e-3, sequence_length: 8}\n"
    )
    return tmp_path / "r.yaml"


def shown(*arguments):
    command = [sys.executable, "-m", "pipeline", "data", *map(str, arguments)]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=120)


def test_headwater_data_shows_what_is_taught_without_a_model_or_a_run(tmp_path, ours):
    """The folder of the model holds no weights."""
    done = shown(recipe_for(tmp_path, ours), "--show", "1")
    assert done.returncode == 0, done.stderr
    assert "conversations are messages (4 messages in the first)" in done.stdout
    assert ">>The sky.<|end|><<" in done.stdout and ">>The ground.<|end|><<" in done.stdout
    assert "conversations.train: " in done.stdout and "longer than finetune.sequence_length" in done.stdout
    assert not (tmp_path / "run").exists()


def test_headwater_data_says_what_is_missing(tmp_path):
    for recipe, missing in (
        ("vae/digits", "no conversations to look at"),
        ("llm/quickstart", "stage tokenizer"),
    ):
        done = shown(recipe, f"run.output_dir={tmp_path}/none")
        assert done.returncode == 2 and missing in done.stderr, done.stderr
