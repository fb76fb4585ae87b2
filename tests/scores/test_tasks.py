"""Catches tasks of lm-eval asked otherwise than training wrote texts, or whose questions were learnt unseen."""

import json

import numpy as np
import pytest
import torch
from tiny_model import VOCABULARY, make_model, make_tokenizer

from pipeline.data.shards import Shard, ShardWriter
from pipeline.lm.prompts import document_prompt
from pipeline.scores import tasks
from pipeline.scores.score import BASE, Settings
from pipeline.scores.tasks import GRAM, HarnessTasks, check_tasks, contaminated, gram_hashes, name_in
from tests.helpers import refusal
from tokenizer.encode import encode

QUESTIONS = [
    {
        "text": f"what is the end of thing {n}? ",
        "choices": [f"the end is {n}", "nobody called it so"],
        "right": n % 2,
    }
    for n in range(9)
]


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory):
    return make_tokenizer(tmp_path_factory.mktemp("tokenizer"))


@pytest.fixture(scope="module")
def file(tmp_path_factory):
    """A task as people write them, and its questions."""
    folder = tmp_path_factory.mktemp("tasks")
    (folder / "questions.jsonl").write_text("".join(json.dumps(row) + "\n" for row in QUESTIONS))
    task = {
        "task": "ends", "dataset_path": "json", "output_type": "multiple_choice", "test_split": "test",
        "dataset_kwargs": {"data_files": {"test": str(folder / "questions.jsonl")}, "cache_dir": str(folder / "cache")},
        "doc_to_text": "text", "doc_to_choice": "choices", "doc_to_target": "right", "target_delimiter": "",
        "metric_list": [{"metric": "acc", "aggregation": "mean", "higher_is_better": True}],
    }  # fmt: skip
    (folder / "ends.yaml").write_text(json.dumps(task))
    return folder / "ends.yaml"


def settings(**fields):
    known = {
        "seed": 0,
        "window": 48,
        "bf16": False,
        "batch_size": 4,
        "bootstrap_samples": 100,
        "progress": None,
    }
    return Settings(**known | fields)


def likelier(model, tokenizer, question):
    """Which choice has the higher likelihood after the question, as a document of training."""
    sums = []
    for choice in question["choices"]:
        ids = torch.tensor([document_prompt(tokenizer, question["text"] + choice)])
        before = len(document_prompt(tokenizer, question["text"]))
        with torch.inference_mode():
            logps = model(ids).logits[0].log_softmax(-1)
        taken = logps[:-1].gather(-1, ids[0, 1:, None])[:, 0]
        sums.append(float(taken[before - 1 :].sum()))
    return int(np.argmax(sums))


@pytest.mark.parametrize("limit", [None, 4])
def test_a_task_of_a_file_is_asked_as_training_wrote_documents(tokenizer, file, limit):
    model = make_model(3)
    part = HarnessTasks((str(file),), limit, None, [], settings())
    measured = part.measure(model, tokenizer)
    asked = QUESTIONS[:limit]
    right = [likelier(model, tokenizer, question) == question["right"] for question in asked]
    assert 0 < sum(right) < len(right)
    assert measured["ends"]["metrics"]["acc"]["value"] == pytest.approx(np.mean(right))
    [score] = part.scores({BASE: measured})
    assert (score.key, score.count, score.better) == ("ends_acc/base", len(asked), "higher")
    assert score.interval[0] < score.value < score.interval[1]
    for words in (
        "0 examples",
        "with the token that opens a document",
        "0 questions have 13 tokens in a row",
    ):
        assert words in score.protocol
    assert ("the first 4 questions" in score.protocol) == (limit == 4)


def shard_of(directory, tokenizer, texts):
    with ShardWriter(directory, "documents.train", VOCABULARY, "a" * 64) as writer:
        for text in texts:
            ids = np.array([0, *encode(tokenizer.backend_tokenizer, [text])[0], 1])
            writer.add(ids, np.array([len(ids)]), np.array([len(text.encode())]))
    return Shard.open(directory, "documents.train")


def test_questions_that_stand_in_the_training_tokens_are_counted(tokenizer, tmp_path, monkeypatch):
    monkeypatch.setattr(tasks, "AT_ONCE", 7)  # what lies across two pieces counts too
    questions = [
        ["weather and numbers, of which nobody would have called an ending before", "a"],
        ["short"],
        [],
    ]
    shard = shard_of(tmp_path, tokenizer, ["other things", f"before. {questions[0][0]}. after", "short"])
    assert contaminated(questions, tokenizer, [shard]) == [True, False, False]
    cut = " ".join(questions[0][0].split()[:4])  # the beginning alone
    assert len(encode(tokenizer.backend_tokenizer, [cut])[0]) < GRAM
    (tmp_path / "other").mkdir()
    assert contaminated(questions, tokenizer, [shard_of(tmp_path / "other", tokenizer, [cut])]) == [False] * 3
    assert (
        contaminated(questions, tokenizer, []) == [False] * 3 and contaminated([], tokenizer, [shard]) == []
    )


def test_numbers_of_rows_of_tokens_are_their_own():
    ids = np.random.default_rng(0).integers(0, 50_000, 200_000)
    hashes = gram_hashes(ids)
    assert len(hashes) == len(ids) - GRAM + 1 and len(np.unique(hashes)) == len(hashes)
    assert np.array_equal(gram_hashes(ids[5:40].astype(np.uint16)), hashes[5 : 40 - GRAM + 1])
    swapped = ids[:GRAM].copy()
    swapped[[0, 1]] = swapped[[1, 0]]
    assert gram_hashes(swapped) != hashes[0] and len(gram_hashes(ids[: GRAM - 1])) == 0


def test_what_is_no_task_is_refused(tmp_path, file):
    assert name_in(file) == "ends"
    assert "no_such.yaml: [Errno 2]" in refusal(check_tasks, [str(tmp_path / "no_such.yaml")])
    (tmp_path / "group.yaml").write_text("group: several\ntask: [a, b]\n")
    assert "names no task" in refusal(check_tasks, [str(tmp_path / "group.yaml")])
    (tmp_path / "tagged.yaml").write_text("task: mine\ndoc_to_text: !function utils.text\n")
    assert name_in(tmp_path / "tagged.yaml") == "mine"
    said = refusal(check_tasks, ["hellaswagg"])
    assert "'hellaswagg' is no task of lm-eval" in said and "did you mean 'hellaswag'" in said
