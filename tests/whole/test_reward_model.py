"""Catches a reward model that breaks between its stages, is read otherwise by transformers, or lets bad input pass."""

import json
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForSequenceClassification, AutoTokenizer

from pipeline.lm.model import save_model
from pipeline.run.artifact import verify_chain
from tests.stages.tiny_model import make_model, make_tokenizer
from tests.whole.command import headwater, headwater_here, manifest
from tests.whole.test_preferences import SECTIONS, write_rows


def write_recipe(folder: Path, data: Path, more: dict | None = None, **changes) -> list[str]:
    folder.mkdir(exist_ok=True)
    base = folder / "base"
    if not base.is_dir():
        save_model(make_model(0), make_tokenizer(folder / "tokenizer"), base)
    tree = {
        "recipe": "llm",
        "run": SECTIONS["run"] | {"output_dir": str(folder / "run")},
        "model": {"pretrained": str(base)},
        "preferences": {"path": str(data)},
        "reward_model": SECTIONS["prefer"] | changes,
        "evaluate": {"functions": 0, "multiple_choice": 0, "preferences": 12},
        "export": SECTIONS["export"],
    }
    (folder / "recipe.yaml").write_text(json.dumps(tree | (more or {})))
    return [str(folder / "recipe.yaml")]


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """(the words of the command, the directory of its run, how it ended)."""
    place = tmp_path_factory.mktemp("reward")
    words = write_recipe(place, write_rows(place / "rows.jsonl", False), lora={"r": 4})
    return words, place / "run", headwater("run", *words)


def test_every_stage_is_made_and_its_lineage_holds(finished):
    words, output, done = finished
    assert (done.code, done.err) == (0, "")
    stages = {"base", "tokenize", "reward_model", "evaluate", "export", "report"}
    assert {path.parent.name for path in output.glob("*/artifact.json")} == stages
    assert manifest(output, "reward_model")["made"]["world_size"] == 2
    assert "headwater score" in done.out and "headwater chat" not in done.out
    verify_chain(output / "export")
    assert "up to date, nothing to do" in headwater("run", *words).out


def test_the_card_says_what_it_is_without_this_machines_paths(finished):
    _, output, _ = finished
    card = (output / "export" / "README.md").read_text()
    assert "pipeline_tag: text-classification" in card and "put one number on an answer" in card
    assert str(output.parent) not in card and "## Samples" not in card
    code = card.split("```python\n")[1].split("```")[0]
    compile(code, "card", "exec")


def test_scores_are_of_held_out_pairs_beside_what_length_alone_says(finished):
    _, output, _ = finished
    scores = json.loads((output / "evaluate" / "evaluation.json").read_text())["scores"]
    found = {(score["name"], score["model"]): score for score in scores}
    right, longer = (found["pairs ranked right", model] for model in ("reward model", "the longer answer"))
    assert right["value"] == 1 and right["interval"][0] < 1
    assert longer["value"] == 0, "what is wanted is the shorter answer"


def test_score_prints_what_plain_transformers_says_of_each_answer(finished, tmp_path):
    _, output, _ = finished
    rows = [
        {"prompt": "what is 77?", "completions": ["no thing 3", "the end"]},
        {"prompt": "what is 78?", "completion": "the end"},
    ]
    (tmp_path / "answers.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    done = headwater("score", str(output), "--data", str(tmp_path / "answers.jsonl"))
    assert (done.code, done.err) == (0, "")
    several, single = map(json.loads, done.out.splitlines())
    assert several["order"] == [1, 0] and len(single["rewards"]) == 1 and "right" not in several
    tokenizer = AutoTokenizer.from_pretrained(output / "export")
    model = AutoModelForSequenceClassification.from_pretrained(output / "export").eval()
    assert model.config.num_labels == 1
    for text, expected in zip(rows[0]["completions"], several["rewards"], strict=True):
        turns = [{"role": "user", "content": "what is 77?"}, {"role": "assistant", "content": text}]
        with torch.no_grad():
            given = tokenizer.apply_chat_template(turns, return_tensors="pt", return_dict=True)
            assert float(model(**given).logits[0, 0]) == pytest.approx(expected, abs=1e-5)


def test_score_counts_the_pairs_that_it_ranks_right(finished, tmp_path):
    _, output, _ = finished
    rows = [
        {"prompt": "what is 7?", "chosen": "the end", "rejected": "no thing 3"},
        {"prompt": "what is 8?", "chosen": "no thing 1", "rejected": "the end"},
    ]
    (tmp_path / "pairs.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    done = headwater("score", str(output / "export"), "--data", str(tmp_path / "pairs.jsonl"))
    assert [json.loads(line)["right"] for line in done.out.splitlines()] == [True, False]
    assert done.err.startswith("1 of 2 pairs ranked right: 0.50")


@pytest.mark.parametrize(
    ("row", "said"),
    [
        ({"prompt": "what?", "completions": "one"}, "column 'completions' holds"),
        ({"completion": "one"}, "no column 'prompt'"),
        ({"text": "one"}, "hold no judged answers"),
    ],
)
def test_a_row_without_answers_is_refused_by_its_line(finished, tmp_path, row, said):
    _, output, _ = finished
    (tmp_path / "bad.jsonl").write_text(json.dumps(row) + "\n")
    done = headwater_here("score", str(output), "--data", str(tmp_path / "bad.jsonl"))
    assert done.code == 2 and said in done.err and "bad.jsonl:1" in done.err and "Traceback" not in done.err


def test_a_model_that_writes_is_no_reward_model(finished, tmp_path):
    _, output, _ = finished
    done = headwater_here("score", str(output / "base" / "model"), "--data", str(output.parent / "rows.jsonl"))
    assert done.code == 2 and "no reward model in" in done.err


def test_a_classifier_of_two_is_no_reward_model(finished, tmp_path):
    _, output, _ = finished
    two = AutoModelForSequenceClassification.from_pretrained(output / "base" / "model", num_labels=2)
    two.save_pretrained(tmp_path / "two")
    done = headwater_here("score", str(tmp_path / "two"), "--data", str(output.parent / "rows.jsonl"))
    assert done.code == 2 and "tells 2 classes apart" in done.err


REFUSED = {
    "adapters that are nowhere": (
        {"lora": {"target_modules": ["nowhere"]}},
        None,
        "reward_model.lora.target_modules",
    ),
    "codes": ({"lora": {"r": 4, "quantisation": "int8"}}, None, "trained on its base as it is"),
    "shared rows": ({"sequence_parallel_size": 2}, None, "both sides of a pair stay on one process"),
    "beside prefer": ({}, {"prefer": SECTIONS["prefer"]}, "reward_model writes no text"),
}


@pytest.mark.parametrize(("changes", "more", "said"), REFUSED.values(), ids=REFUSED)
def test_what_cannot_be_is_refused_before_anything_is_made(tmp_path, changes, more, said):
    words = write_recipe(tmp_path, write_rows(tmp_path / "rows.jsonl", False), more, **changes)
    done = headwater_here("run", *words)
    assert done.code == 2 and said in done.err and "Traceback" not in done.err
    assert not (tmp_path / "run").exists()


def test_verdicts_and_margins_that_are_no_numbers_are_refused(tmp_path):
    words = write_recipe(tmp_path, write_rows(tmp_path / "rows.jsonl", True))
    done = headwater("run", *words)
    assert done.code == 2 and "the loss learns from pairs, and the preferences are verdicts" in done.err
    row = {"prompt": "what?", "chosen": "the end", "rejected": "no thing", "margin": "large"}
    (tmp_path / "rows.jsonl").write_text(json.dumps(row) + "\n")
    done = headwater("run", *words, f"run.output_dir={tmp_path / 'other'}")
    assert done.code == 2 and "column 'margin' holds 'large'" in done.err and "rows.jsonl:1" in done.err
