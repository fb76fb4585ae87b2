"""Catches a comparison that sees a difference where there is none, misses one, or compares unlike things."""

import json
import math

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from pipeline.__main__ import main
from pipeline.lm.model import save_model
from pipeline.run.errors import UserError
from pipeline.scores.compare import Compared, compare, table, texts_of
from tests.helpers import ROOT
from tests.stages.tiny_model import make_model, make_tokenizer

TEXTS = [f"what is {number}? no thing, the end. " * (1 + number % 2) for number in range(24)]


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    """One model, the same again, another, and one that has read the texts."""
    folder = tmp_path_factory.mktemp("models")
    tokenizer = make_tokenizer(folder / "tokenizer")
    for name, seed in (("one", 0), ("same", 0), ("other", 1), ("taught", 0)):
        model = make_model(seed)
        if name == "taught":
            teach(model, tokenizer)
        save_model(model, tokenizer, folder / name)
    return folder


def teach(model, tokenizer):
    optimizer = torch.optim.AdamW(model.parameters(), 1e-2)
    ids = tokenizer(TEXTS[3], return_tensors="pt").input_ids[:, :60]
    for _ in range(30):
        optimizer.zero_grad()
        model(input_ids=ids, labels=ids).loss.backward()
        optimizer.step()


def test_what_differs_is_told_from_what_does_not(models):
    names = [str(models / name) for name in ("one", "same", "taught")]
    one, same, taught = compare(names, TEXTS, 200, 0, 4)
    assert one.verdict == "the one compared with" and one.difference is None
    assert same.difference == 0 and same.interval == (0, 0) and same.verdict == "no difference to be seen"
    assert taught.verdict == "better" and taught.bits < one.bits and taught.interval[1] < 0
    assert taught.difference == pytest.approx(taught.bits - one.bits, abs=1e-12)
    back = compare(names[::-1], TEXTS, 200, 0, 4)
    assert back[-1].verdict == "worse" and back[-1].difference == pytest.approx(-taught.difference, abs=1e-12)


def test_the_bits_are_those_of_plain_transformers_at_any_batch(models):
    found = {size: compare([str(models / "one"), str(models / "other")], TEXTS, 20, 0, size) for size in (1, 8)}
    assert found[1][1].bits == pytest.approx(found[8][1].bits, rel=1e-6)
    model = AutoModelForCausalLM.from_pretrained(models / "other").eval()
    tokenizer, nats = AutoTokenizer.from_pretrained(models / "other"), 0.0
    for text in TEXTS:
        ids = tokenizer(text, add_special_tokens=False).input_ids
        ids = torch.tensor([[tokenizer.bos_token_id, *ids, tokenizer.eos_token_id]])
        with torch.no_grad():
            nats += model(input_ids=ids, labels=ids).loss.item() * (ids.shape[1] - 1)
    size = sum(len(text.encode()) for text in TEXTS)
    assert found[8][1].bits == pytest.approx(nats / math.log(2) / size, rel=1e-5)


def test_texts_come_from_files_or_from_what_a_run_has_held_out(tmp_path):
    (tmp_path / "a.jsonl").write_text("".join(json.dumps({"text": text}) + "\n" for text in "abc"))
    assert texts_of(tmp_path / "a.jsonl", [])[0] == ["a", "b", "c"]
    folder = tmp_path / "texts"
    folder.mkdir()
    for name in ("x.txt", "y.md"):
        (folder / name).write_text(name)
    assert texts_of(folder, [])[0] == ["x.txt", "y.md"]
    held = tmp_path / "run" / "tokenize"
    held.mkdir(parents=True)
    (held / "documents.held_out.jsonl").write_text('{"key": "k", "text": "held"}\n')
    assert texts_of(None, ["owner/name", str(tmp_path / "run")])[0] == ["held"]
    with pytest.raises(UserError, match="way out: --data"):
        texts_of(None, ["owner/name"])
    (tmp_path / "one.txt").write_text("alone")
    with pytest.raises(UserError, match="holds 1 texts"):
        texts_of(tmp_path / "one.txt", [])


def test_the_table_is_read_at_a_glance():
    rows = [Compared("a", 1.0, (0.9, 1.1), None, None), Compared("b", 0.8, (0.7, 0.9), -0.2, (-0.3, -0.1))]
    assert table(rows, ["ab", "cd"], "FILE").splitlines() == [
        "2 texts, 4 bytes of FILE; bits per byte, lower is better; 95 % intervals",
        "",
        "a  1.000 [0.900, 1.100]",
        "b  0.800 [0.700, 0.900]  -0.200 [-0.300, -0.100]  better",
        "",
        "differences to a, paired by text",
    ]


@pytest.mark.parametrize(
    ("words", "said"),
    [(["A"], "expected: two or more"), (["/nowhere", "/none", "--data", str(ROOT / "launch")], "/nowhere")],
)
def test_what_cannot_be_compared_is_refused(words, said, capsys):
    assert main(["compare", *words]) == 2
    assert said in capsys.readouterr().err
