"""Catches preference tuning that breaks between its stages, compares with another reference, or lets bad input pass."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM

from pipeline.data.shards import Shard
from pipeline.lm.config import Lora
from pipeline.lm.model import save_model
from pipeline.lm.tuning.quantised import dequantise, quantise
from pipeline.run.artifact import verify_chain
from tests.exhaustive import exhaustive
from tests.stages.tiny_model import make_model, make_tokenizer
from tests.whole.command import headwater, headwater_here, manifest

SECTIONS = {
    "run": {
        "launch": "launch/zero2.yaml",
        "logging_steps": 1,
        "save_steps": 3,
        "eval_steps": 3,
        "threads": 1,
    },
    "prefer": {
        "sequence_length": 64,
        "max_steps": 6,
        "train_batch_size": 2,
        "learning_rate": 0.003,
        "bf16": False,
    },
    "evaluate": {"functions": 0, "multiple_choice": 0, "preferences": 12, "preference_samples": 3},
    "generate": {"chat_prompts": ["what is it?"], "max_new_tokens": 4},
    "export": {"licence": "MIT"},
}


def write_rows(path: Path, verdicts: bool) -> Path:
    """Sixty prompts; an answer that is wanted says `the end`."""
    rows = []
    for number in range(60):
        prompt = f"what is {number}?"
        if verdicts:
            row = {
                "prompt": prompt,
                "completion": ["no thing", "the end"][number % 2],
                "label": bool(number % 2),
            }
        else:
            row = {"prompt": prompt, "chosen": "the end", "rejected": f"no thing {number % 5}"}
        rows.append(row)
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def write_recipe(folder: Path, data: Path, **changes) -> list[str]:
    folder.mkdir(exist_ok=True)
    base = folder / "base"
    if not base.is_dir():
        save_model(make_model(0), make_tokenizer(folder / "tokenizer"), base)
    tree = {
        "recipe": "llm",
        "model": {"pretrained": str(base)},
        "preferences": {"path": str(data)},
    } | SECTIONS
    tree["prefer"] = tree["prefer"] | changes
    tree["run"] = tree["run"] | {"output_dir": str(folder / "run")}
    (folder / "recipe.yaml").write_text(json.dumps(tree))
    return [str(folder / "recipe.yaml")]


KINDS = {
    "pairs with adapters": (False, {"lora": {"r": 4}}),
    "pairs with adapters on codes": (False, {"lora": {"r": 4, "quantisation": "nf4"}}),
    "verdicts, all weights": (True, {"loss_type": "kto", "learning_rate": 1e-3}),
}


# That a pair's own losses are computed is asked in tests/parity; what is in codes is merged in tests/learning.
PAIRS, *OTHERS = KINDS


@pytest.fixture(scope="module", params=[PAIRS, *map(exhaustive, OTHERS)])
def finished(request, tmp_path_factory):
    """(kind, the words of the command, the directory of its run, how it ended)."""
    verdicts, changes = KINDS[request.param]
    place = tmp_path_factory.mktemp("prefer")
    words = write_recipe(place, write_rows(place / "rows.jsonl", verdicts), **changes)
    return request.param, words, place / "run", headwater("run", *words)


def test_every_stage_is_made_and_its_lineage_holds(finished):
    kind, words, output, done = finished
    assert (done.code, done.err) == (0, "")
    stages = {"base", "tokenize", "reference", "prefer", "evaluate", "generate", "export", "report"}
    assert {path.parent.name for path in output.glob("*/artifact.json")} == stages
    assert manifest(output, "prefer")["made"]["world_size"] == 2
    verify_chain(output / "export")
    assert (output / "export" / "adapter").is_dir() == ("adapters" in kind)
    assert "up to date, nothing to do" in headwater("run", *words).out
    card = (output / "export" / "README.md").read_text()
    assert "preference-tuned for 6 steps on" in card
    assert ("`BitsAndBytesConfig(load_in_4bit=True" in card) == ("codes" in kind)
    moved = manifest(output, "prefer")["metrics"].get("merge_kl")
    assert (moved is not None and abs(moved) < 1e-6) == ("codes" in kind)


def test_the_reference_is_a_plain_forward_of_the_model_before(finished):
    kind, _, output, _ = finished
    shard = Shard.open(output / "tokenize", "preferences.train")
    model = AutoModelForCausalLM.from_pretrained(output / "base" / "model").eval()
    if "codes" in kind:
        model = dequantise(quantise(model, Lora(quantisation="nf4")))
    reference = np.load(output / "reference" / "train.npy")
    for document in range(6):
        ids = torch.tensor(shard.document(document).astype(np.int64))[None]
        with torch.no_grad():
            logps = model(input_ids=ids).logits[0, :-1].log_softmax(-1)
        own = torch.tensor(shard.targets_of(document)[1:] != 0)
        expected = logps.gather(-1, ids[0, 1:, None])[own].sum()
        assert reference[document] == pytest.approx(float(expected), rel=1e-5)


def test_training_begins_where_the_reference_is_and_moves_towards_what_is_wanted(finished):
    kind, _, output, _ = finished
    log = [json.loads(line) for line in (output / "logs" / "prefer.metrics.jsonl").read_text().splitlines()]
    steps = [line for line in log if "gradient_norm" in line]
    first, last = ("margin", "margin") if "pairs" in kind else ("reward_towards_verdict",) * 2
    assert steps[0][first] == pytest.approx(0, abs=1e-4)
    assert steps[0]["loss"] == pytest.approx(np.log(2) if "pairs" in kind else 0.5, abs=1e-4)
    assert steps[-1][last] > 0.01


def test_scores_stand_before_and_after(finished):
    kind, _, output, done = finished
    scores = json.loads((output / "evaluate" / "evaluation.json").read_text())["scores"]
    named = {(score["name"], score["model"]) for score in scores}
    wanted = {("preference accuracy", m) for m in ("base", "preferred")} | {("reward accuracy", "preferred")}
    wanted = wanted if "pairs" in kind else {("verdict AUC", m) for m in ("base", "preferred")}
    wanted |= {("divergence from before", "preferred"), ("sampled answer length", "base")}
    assert wanted <= named
    assert all(score["interval"][0] <= score["value"] <= score["interval"][1] for score in scores)
    assert (output / "report" / "report.html").read_text().count("preferred") >= 2


def test_the_export_is_the_model_that_was_tuned(finished):
    _, _, output, _ = finished
    tuned, exported = (
        load_file(output / stage / "model.safetensors") for stage in ("prefer/model", "export")
    )
    before = load_file(output / "base/model/model.safetensors")
    assert tuned.keys() == exported.keys()
    assert all(torch.equal(tuned[name], exported[name]) for name in tuned)
    assert any(not torch.equal(tuned[name], before[name]) for name in tuned)


REFUSED = {
    "beta of 0": ({"beta": 0}, "greater than 0"),
    "smoothing of a loss without": ({"loss_type": "ipo", "label_smoothing": 0.1}, "label_smoothing is of"),
    "a loss that is none": ({"loss_type": "dpo"}, "'sigmoid'"),
    "shared rows": ({"sequence_parallel_size": 2}, "both sides of a pair stay on one process"),
    "adapters that are nowhere": ({"lora": {"target_modules": ["nowhere"]}}, "prefer.lora"),
    "freezing beside adapters": ({"lora": {"r": 4}, "freeze": ["*"]}, "freeze is for training all weights"),
}


@pytest.mark.parametrize(("changes", "said"), REFUSED.values(), ids=REFUSED)
def test_what_cannot_be_is_refused_before_anything_is_made(tmp_path, changes, said):
    words = write_recipe(tmp_path, write_rows(tmp_path / "rows.jsonl", False), **changes)
    done = headwater_here("run", *words)
    assert done.code == 2 and said in done.err and "Traceback" not in done.err
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("verdicts", "changes", "said"),
    [
        (True, {}, "the loss learns from pairs, and the preferences are verdicts"),
        (False, {"loss_type": "kto"}, "the loss learns from verdicts on single answers"),
        (False, {"sequence_length": 16}, "both sides together: more than prefer.sequence_length = 16"),
    ],
)
def test_data_that_do_not_fit_the_loss_are_refused_before_a_weight_is_read(tmp_path, verdicts, changes, said):
    words = write_recipe(tmp_path, write_rows(tmp_path / "rows.jsonl", verdicts), **changes)
    done = headwater("run", *words)
    assert done.code == 2 and said in done.err and "Traceback" not in done.err
    assert not (tmp_path / "run" / "reference").exists() and not (tmp_path / "run" / "prefer").exists()
