"""Catches a first recipe that `plan` refuses, that cuts the data, or that does not fit the machine."""

import json

import pytest
import yaml

from pipeline.lm import start
from pipeline.run.errors import UserError
from pipeline.run.stage import check_all, decisions, open_recipe
from tests.chat_templates import CALLED, TOOLS, TURNS, tokenizer_of
from tests.helpers import write_no_tensors

LLAMA = {
    "model_type": "llama",
    "vocab_size": 300,
    "hidden_size": 64,
    "intermediate_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "max_position_embeddings": 2048,
}
ROWS = {
    "messages": [{"messages": TURNS}] * 20,
    "calls": [{"messages": CALLED, "tools": TOOLS}] * 20,
    "prompts": [{"prompt": "What is up?", "completion": "The sky."}] * 20,
    "texts": [{"text": f"so it is {n}"} for n in range(20)],
}


@pytest.fixture
def model(tmp_path):
    """A directory with a config and a tokenizer, and no weights."""
    tokenizer_of("qwen3").save_pretrained(tmp_path / "model")
    (tmp_path / "model" / "config.json").write_text(json.dumps(LLAMA))
    write_no_tensors(tmp_path / "model")
    return tmp_path / "model"


@pytest.fixture
def begun(model, tmp_path, monkeypatch):
    """`begun(rows, memory=..., gpus=...)`: the recipe for these rows on such a machine, as YAML and opened."""

    def begin(rows, memory=64 << 30, gpus=0):
        (tmp_path / "d.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
        monkeypatch.setattr(start, "_machine", lambda: (memory, gpus))
        text = start.first_recipe(str(model), str(tmp_path / "d.jsonl"))
        (tmp_path / "r.yaml").write_text(text)
        return text, *open_recipe(tmp_path / "r.yaml", [f"run.output_dir={tmp_path}/run"])

    return begin


@pytest.mark.parametrize("kind", ROWS)
def test_the_first_recipe_is_accepted(begun, kind):
    text, config, stages = begun(ROWS[kind])
    check_all(config, stages, decisions(config, stages))
    assert yaml.safe_load(text)["recipe"] == "llm"
    assert {stage.name for stage in stages} == {
        "base",
        "tokenize",
        "finetune",
        "evaluate",
        "generate",
        "report",
    }


JUDGED = {
    "pairs": [{"prompt": f"What is {n}?", "chosen": "A number.", "rejected": "No thing."} for n in range(20)],
    "verdicts": [
        {"prompt": f"What is {n}?", "completion": "A number.", "label": n % 2 == 0} for n in range(20)
    ],
}


@pytest.mark.parametrize(("kind", "loss"), [("pairs", "sigmoid"), ("verdicts", "kto")])
def test_judged_answers_are_preferred_by_and_fit_whole(begun, kind, loss):
    text, config, stages = begun(JUDGED[kind])
    check_all(config, stages, decisions(config, stages))
    assert (config.prefer.loss_type, config.prefer.on_long) == (loss, "error")
    assert {"reference", "prefer"} <= {stage.name for stage in stages} and config.chat is None
    assert f"# data: {kind}; 20 of them" in text
    longer = [{"prompt": "x" * 1200, "chosen": "A", "rejected": "B"}] * 3
    assert begun(longer)[1].prefer.sequence_length >= 2 * 1200 / 4


def test_almost_every_row_fits_and_none_is_cut(begun):
    long = {"messages": [{"role": "user", "content": "x" * 900}, TURNS[1]]}
    _, config, _ = begun([*ROWS["messages"], long])
    assert (config.finetune.sequence_length, config.finetune.on_long) == (1024, "error")
    _, config, _ = begun([*ROWS["messages"] * 20, long])
    assert (config.finetune.sequence_length, config.finetune.on_long) == (256, "drop")


def test_rows_are_no_longer_than_the_models_positions(begun):
    long = {"messages": [{"role": "user", "content": "x" * 9000}, TURNS[1]]}
    _, config, _ = begun([long] * 20)
    assert (config.finetune.sequence_length, config.finetune.on_long) == (2048, "drop")


def test_memory_decides_between_all_weights_and_adapters(begun):
    assert begun(ROWS["messages"])[1].finetune.lora is None
    assert begun(ROWS["messages"], memory=1 << 20)[1].finetune.lora.r == 16


@pytest.mark.parametrize(("gpus", "launch"), [(0, "one"), (1, "one"), (8, "zero2")])
def test_the_launch_file_is_the_machines_and_the_batch_divides(begun, gpus, launch):
    _, config, _ = begun(ROWS["messages"], gpus=gpus)
    assert str(config.run.launch) == f"launch/{launch}.yaml"
    assert config.finetune.train_batch_size % max(1, gpus) == 0


def test_what_the_template_does_otherwise_is_said(begun):
    assert "# note: 20 x" not in begun(ROWS["prompts"])[0]


def test_a_model_that_is_not_there_is_named(tmp_path, model):
    (tmp_path / "d.jsonl").write_text(json.dumps(ROWS["messages"][0]))
    with pytest.raises(UserError, match=r"nowhere(.|\n)*expected: a model's directory"):
        start.first_recipe("./nowhere", str(tmp_path / "d.jsonl"))


def test_tools_become_text_where_the_template_has_no_place_for_them(begun, model):
    assert begun(ROWS["calls"])[1].chat.unwritten == "error"
    tokenizer_of("gemma").save_pretrained(model)
    text, config, stages = begun(ROWS["calls"])
    assert config.chat.unwritten == "text" and "# note: 20 x tools and calls written as text" in text
    check_all(config, stages, decisions(config, stages))
    assert begun(ROWS["messages"])[1].chat.unwritten == "error"
