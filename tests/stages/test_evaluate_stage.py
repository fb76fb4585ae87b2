"""Catches scores that change from run to run, compare models on different data, or that a recipe should not have."""

import importlib.util
import json

import numpy as np
import pytest
from tiny_model import POSITIONS, VOCABULARY, make_config, make_context, make_model, make_tokenizer

from pipeline import evaluate
from pipeline.data.chat import ChatEncoder
from pipeline.data.shards import ShardWriter, tokenizer_digest
from pipeline.lm.model import save_model
from pipeline.publish.model_card import settings
from pipeline.run.errors import UserError
from pipeline.scores.tasks import files_of
from tokenizer.encode import encode

ASKED = {"functions": 3, "conversations": 5, "multiple_choice": 4, "bootstrap_samples": 100}
PRETRAINED = {"pretrained": "somewhere"}
SOURCE = "def f{0}(x):\n    return the(x, {0})\n\n\ndef g{0}(x):\n    return x\n"


@pytest.fixture
def inputs(tmp_path):
    """What the stages before leave: two different models and held-out shards with their texts."""
    tokenizer_directory = tmp_path / "tokenizer"
    tokenizer = make_tokenizer(tokenizer_directory)
    made = {"tokenize": tmp_path / "tokenize"}
    for seed, name in enumerate(("pretrain", "finetune")):
        made[name] = tmp_path / name
        save_model(make_model(seed), tokenizer, made[name] / "model")
    made["tokenize"].mkdir()
    write_documents(made["tokenize"], tokenizer, tokenizer_digest(tokenizer_directory))
    write_conversations(made["tokenize"], tokenizer, tokenizer_digest(tokenizer_directory))
    return made


def write_documents(directory, tokenizer, digest):
    texts = [SOURCE.format(number) for number in range(4)]
    with ShardWriter(directory, "documents.held_out", VOCABULARY, digest) as writer:
        for text in texts:
            ids = np.array([0, *encode(tokenizer.backend_tokenizer, [text])[0], 1])
            writer.add(ids, np.array([len(ids)]), np.array([len(text.encode())]))
    write_lines(directory, "documents", [{"key": f"{i}.py", "text": text} for i, text in enumerate(texts)])


def write_conversations(directory, tokenizer, digest):
    conversations = [
        [
            {"role": "user", "content": f"what {number}?"},
            {"role": "assistant", "content": f"thing {number} ends"},
        ]
        for number in range(8)
    ]
    encoder = ChatEncoder(tokenizer)
    encoded = encoder.encode([layout for messages in conversations for layout in encoder.lay_out(messages)])
    with ShardWriter(directory, "conversations.held_out", VOCABULARY, digest) as writer:
        writer.add(*encoded[:4])
    rows = [{"key": str(i), "messages": messages} for i, messages in enumerate(conversations)]
    write_lines(directory, "conversations", rows)


def write_lines(directory, name, rows):
    text = "".join(json.dumps(row) + "\n" for row in rows)
    (directory / f"{name}.held_out.jsonl").write_text(text)


def recipe(tmp_path, asked=ASKED, bf16=False, **sections):
    length = {
        "max_steps": 1,
        "train_batch_size": 1,
        "learning_rate": 1e-3,
        "sequence_length": 48,
        "bf16": bf16,
    }
    return make_config(
        tmp_path / "run", **{"pretrain": length, "finetune": length, "evaluate": asked} | sections
    )


def evaluated(config, inputs, name="evaluate"):
    """(metrics, evaluation.json, context) of the stage."""
    context = make_context(config, name, inputs)
    evaluate.check(config)
    metrics = evaluate.run(context)
    return metrics, json.loads((context.out / "evaluation.json").read_text()), context


def test_every_score_of_a_recipe_with_everything(tmp_path, inputs):
    metrics, written, context = evaluated(recipe(tmp_path), inputs)
    both = ("base", "fine-tuned")
    assert set(metrics) == {
        *(f"bits_per_byte/{model}" for model in (*both, "xz -9e")),
        *(f"parsed_functions/{model}" for model in ("base", "reference")),
        *(f"conversation_loss/{model}" for model in both),
        *(f"conversation_loss_by_conversation/{model}" for model in both),
        "conversation_loss_change/fine-tuned",
        "conversation_loss_by_conversation_change/fine-tuned",
        *(f"multiple_choice_{metric}/{model}" for metric in ("acc", "acc_norm") for model in both),
    }
    assert metrics["parsed_functions/reference"] == 1.0
    assert written["missing"] == {}
    for score in written["scores"]:
        assert score["protocol"] and score["count"] > 0 and score["better"] in ("lower", "higher")
        if score["interval"] is not None:
            assert score["interval"][0] <= score["value"] <= score["interval"][1], score
    assert [path.name for path in context.out.iterdir()] == ["evaluation.json"]


def test_tasks_of_lm_eval_are_asked_of_every_model(tmp_path, inputs):
    rows = [{"text": f"thing {n} ", "choices": ["ends", "begins"], "right": n % 2} for n in range(5)]
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    data = {"data_files": {"test": str(tmp_path / "rows.jsonl")}, "cache_dir": str(tmp_path / "cache")}
    task = {"task": "mine", "dataset_path": "json", "dataset_kwargs": data, "output_type": "multiple_choice"}
    task |= {"test_split": "test", "doc_to_text": "text", "doc_to_choice": "choices", "doc_to_target": "right"}
    (tmp_path / "mine.yaml").write_text(json.dumps(task))
    asked = {"functions": 0, "conversations": 0, "multiple_choice": 0, "max_documents": 1}
    config = recipe(tmp_path, asked | {"tasks": [str(tmp_path / "mine.yaml")], "task_questions": 3})
    assert set(files_of(config.evaluate.tasks)) == {tmp_path / "mine.yaml", tmp_path / "rows.jsonl"}
    assert str(tmp_path) not in settings(config)  # a model card shows no path of the machine
    metrics, written, _ = evaluated(config, inputs)
    assert {"mine_acc/base", "mine_acc/fine-tuned"} <= set(metrics)
    assert {score["count"] for score in written["scores"] if score["name"].startswith("mine")} == {3}


def test_bits_of_each_source_add_up_to_those_of_all(tmp_path, inputs):
    """A corpus of two sources, of which the held-out texts' keys tell which they come from."""
    lines = [json.loads(line) for line in (inputs["tokenize"] / "documents.held_out.jsonl").read_text().splitlines()]
    rows = [row | {"key": f"{number % 2}/{row['key']}"} for number, row in enumerate(lines)]
    write_lines(inputs["tokenize"], "documents", rows)
    parts = [{"source": "jsonl", "path": str(tmp_path / f"{name}.jsonl")} for name in "ab"]
    asked = {"functions": 0, "conversations": 0, "multiple_choice": 0}
    _, written, _ = evaluated(recipe(tmp_path, asked, corpus={"sources": parts}), inputs)
    found = {(score["name"], score["model"]): score for score in written["scores"]}
    sizes = [sum(len(row["text"].encode()) for row in rows[number::2]) for number in range(2)]
    for model in ("base", "fine-tuned"):
        each = [found[f"bits per byte, source {number} {name}.jsonl", model] for number, name in enumerate("ab")]
        whole = sum(score["value"] * size for score, size in zip(each, sizes, strict=True)) / sum(sizes)
        assert found["bits per byte", model]["value"] == pytest.approx(whole, rel=1e-12)
        assert [score["count"] for score in each] == [2, 2]
        assert each[0]["value"] != each[1]["value"]
    assert ("bits per byte, source 1 b.jsonl", "xz -9e") in found


def test_details_add_up_to_the_scores(tmp_path, inputs):
    metrics, written, _ = evaluated(recipe(tmp_path), inputs)
    documents, talks = written["detail"]["documents"], written["detail"]["conversations"]
    for model in ("base", "fine-tuned"):
        bits = sum(documents["measured"][model]) / np.log(2) / sum(documents["bytes"])
        assert metrics[f"bits_per_byte/{model}"] == pytest.approx(bits, rel=1e-12)
        loss = sum(talks["measured"][model]) / sum(talks["targets"])
        assert metrics[f"conversation_loss/{model}"] == pytest.approx(loss, rel=1e-12)
    change = metrics["conversation_loss/fine-tuned"] - metrics["conversation_loss/base"]
    assert metrics["conversation_loss_change/fine-tuned"] == pytest.approx(change, rel=1e-9)
    assert metrics["bits_per_byte/base"] != metrics["bits_per_byte/fine-tuned"]


def test_the_same_config_gives_the_same_figures_to_the_last_digit(tmp_path, inputs):
    first, again = (evaluated(recipe(tmp_path), inputs, name) for name in ("one", "two"))
    assert first[:2] == again[:2]
    assert evaluated(recipe(tmp_path, ASKED | {"seed": 1}), inputs, "three")[0] != first[0]


def test_how_it_runs_changes_figures_by_rounding_alone(tmp_path, inputs):
    metrics = [
        evaluated(recipe(tmp_path, ASKED | {"per_device_eval_batch_size": size}), inputs, str(size))[0]
        for size in (1, 7)
    ]
    changes = {name for name in metrics[0] if "_change/" in name}
    kept = [{name: value for name, value in one.items() if name not in changes} for one in metrics]
    assert kept[0] == pytest.approx(kept[1], rel=1e-6)
    # A change is the difference of two losses and inherits their rounding, not one in proportion to itself.
    loss = metrics[0]["conversation_loss/base"]
    for name in changes:
        assert metrics[0][name] == pytest.approx(metrics[1][name], rel=0, abs=1e-6 * loss)


def test_precision_follows_training(tmp_path, inputs):
    protocols = [
        evaluated(recipe(tmp_path, bf16=bf16), inputs, str(bf16))[1]["scores"][0]["protocol"]
        for bf16 in (False, True)
    ]
    assert ["bfloat16" in protocol for protocol in protocols] == [False, True]


def test_the_window_is_that_of_training_else_the_positions(tmp_path, inputs):
    pretrained = recipe(tmp_path, corpus=None, tokenizer=None, pretrain=None, model=PRETRAINED)
    base = inputs["pretrain"] / "model"
    assert evaluate.window_of(recipe(tmp_path), base) == 48
    assert evaluate.window_of(pretrained, base) == POSITIONS


def test_fewer_documents_are_the_same_documents_for_every_model_and_for_xz(tmp_path, inputs):
    _, written, _ = evaluated(recipe(tmp_path, ASKED | {"max_documents": 2}), inputs)
    bits = [score for score in written["scores"] if score["name"] == "bits per byte"]
    assert [score["count"] for score in bits] == [2, 2, 2]
    assert len(written["detail"]["documents"]["keys"]) == 2


def test_without_fine_tuning_only_the_base_is_measured(tmp_path, inputs):
    del inputs["finetune"]
    metrics, _, _ = evaluated(recipe(tmp_path, finetune=None, chat=None), inputs)
    assert {key.split("/")[1] for key in metrics} == {"base", "xz -9e", "reference"}


def test_without_a_corpus_bits_are_those_of_the_answers(tmp_path, inputs):
    inputs["base"] = inputs.pop("pretrain")
    config = recipe(tmp_path, corpus=None, tokenizer=None, pretrain=None, model=PRETRAINED)
    metrics, written, _ = evaluated(config, inputs)
    bits = [score for score in written["scores"] if score["name"] == "bits per byte"]
    assert [score["model"] for score in bits] == ["base", "fine-tuned", "xz -9e"]
    assert "answers" in bits[0]["protocol"]
    nats, size = written["detail"]["conversations"]["measured"]["base"], 0
    for key in written["detail"]["conversations"]["keys"]:
        size += len(f"thing {key} ends")
    assert metrics["bits_per_byte/base"] == pytest.approx(sum(nats) / np.log(2) / size, rel=1e-12)
    assert "parsed_functions/base" not in metrics


def test_what_the_data_cannot_give_is_said(tmp_path, inputs):
    asked = ASKED | {"functions": 99, "conversations": 99, "multiple_choice": 99}
    _, written, context = evaluated(recipe(tmp_path, asked), inputs)
    assert set(written["missing"]) == {"functions", "conversations", "multiple_choice"}
    assert "only 8 of 99" in written["missing"]["functions"]
    assert "only 8 of 99 questions" in context.terminal.getvalue()


def test_a_score_without_data_is_left_out_and_said(tmp_path, inputs):
    text = inputs["tokenize"] / "documents.held_out.jsonl"
    text.write_text(text.read_text().replace("def f", "fed f").replace("def g", "fed g"))
    finetune = {"max_steps": 1, "train_batch_size": 1, "learning_rate": 1e-3, "sequence_length": 5}
    metrics, written, _ = evaluated(recipe(tmp_path, finetune=finetune), inputs)
    assert {key.split("/")[0] for key in metrics} == {
        "bits_per_byte",
        "multiple_choice_acc",
        "multiple_choice_acc_norm",
    }
    assert written["missing"] == {
        "functions": "only 0 of 3 functions are held out",
        "conversations": "only 0 of 5 conversations are held out",
    }


def test_nothing_is_asked_for_with_zero(tmp_path, inputs):
    asked = {"functions": 0, "conversations": 0, "multiple_choice": 0}
    metrics, _, _ = evaluated(recipe(tmp_path, asked), inputs)
    assert {key.split("/")[0] for key in metrics} == {"bits_per_byte"}


def test_a_text_corpus_that_is_not_python_has_no_functions(tmp_path, inputs):
    corpus = {"source": "text", "path": "somewhere", "pattern": "**/*.txt"}
    assert "parsed_functions/base" not in evaluated(recipe(tmp_path, corpus=corpus), inputs, "txt")[0]
    corpus = {"source": "text", "path": "somewhere", "pattern": "**/*.py"}
    assert "parsed_functions/base" in evaluated(recipe(tmp_path, corpus=corpus), inputs, "py")[0]


def test_another_tokenizer_is_refused(tmp_path, inputs):
    path = inputs["pretrain"] / "model" / "tokenizer.json"
    path.write_text(path.read_text() + "\n")
    with pytest.raises(UserError, match="conversations.held_out.*tokenizer"):
        evaluated(
            recipe(tmp_path, corpus=None, tokenizer=None, pretrain=None, model=PRETRAINED), inputs, "chat"
        )
    with pytest.raises(UserError, match="documents.held_out.*tokenizer"):
        evaluated(recipe(tmp_path, chat=None, finetune=None), inputs, "documents")


def test_lm_eval_is_named_where_it_is_missing(tmp_path, monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(UserError, match=r"pip install headwater\[eval\]") as refused:
        evaluate.check(recipe(tmp_path))
    assert "evaluate.multiple_choice=0" in str(refused.value)
    evaluate.check(recipe(tmp_path, ASKED | {"multiple_choice": 0}))
    evaluate.check(recipe(tmp_path, finetune=None, chat=None))
