"""Catches a choice of tokens that is not transformers', completions that depend on their batch, and a cut file that is
not gone on with or is mixed with another."""

import json
import os

import numpy as np
import pytest
import torch
from transformers import LogitsProcessorList
from transformers.generation.logits_process import (
    MinPLogitsWarper,
    RepetitionPenaltyLogitsProcessor,
    TemperatureLogitsWarper,
    TopKLogitsWarper,
    TopPLogitsWarper,
)

from pipeline.lm import completions
from pipeline.lm.completions import Asked, read_completions, run_generate
from pipeline.lm.decoding import Limits, choose, probabilities
from pipeline.lm.model import save_model
from pipeline.run.errors import UserError
from tests.helpers import refusal
from tests.stages.tiny_model import make_model, make_tokenizer


@pytest.mark.parametrize("temperature", [0.7, 1.3])
@pytest.mark.parametrize("top_p", [1.0, 0.6])
@pytest.mark.parametrize("limits", [Limits(), Limits(top_k=5), Limits(min_p=0.2), Limits(3, 0.1, 1.4)])
def test_the_choice_is_among_the_tokens_of_transformers_with_the_same_odds(temperature, top_p, limits):
    torch.manual_seed(0)
    logits, seen = torch.randn(6, 40) * 3, torch.randint(40, (6, 7))
    chain = [RepetitionPenaltyLogitsProcessor(limits.repetition_penalty), TemperatureLogitsWarper(temperature)]
    chain += [TopKLogitsWarper(limits.top_k)] if limits.top_k else []
    chain += [TopPLogitsWarper(top_p)] if top_p < 1 else []
    chain += [MinPLogitsWarper(limits.min_p)] if limits.min_p else []
    theirs = LogitsProcessorList(chain)(seen, logits.double()).softmax(-1)
    ours = probabilities(limits.penalised(logits.double(), seen.tolist()), temperature, top_p, limits)
    torch.testing.assert_close(ours / ours.sum(-1, keepdim=True), theirs, rtol=1e-12, atol=0)


def test_the_likeliest_token_is_penalised_too():
    logits = torch.tensor([[3.0, 2.9, -1.0]])
    assert choose(Limits(repetition_penalty=1.5).penalised(logits, [[0]]), None, 1.0, []) == [1]
    assert logits[0, 0] == 3.0  # the model's own stay


@pytest.fixture(scope="module")
def directory(tmp_path_factory):
    folder = tmp_path_factory.mktemp("model")
    save_model(make_model(0), make_tokenizer(folder / "tokenizer"), folder / "model")
    return folder / "model"


@pytest.fixture
def prompts(tmp_path):
    rows = [{"prompt": "the end " * n, "id": f"p{n}"} for n in (1, 3, 2, 5)]
    rows.append({"messages": [{"role": "user", "content": "what is it?"}]})
    path = tmp_path / "prompts.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def made(directory, prompts, out, **given):
    asked = Asked(**{"max_new_tokens": 12, "samples": 2, "seed": 7} | given)
    return run_generate(str(directory), prompts, out, asked)


def test_each_completion_is_its_own_whatever_the_batch(directory, prompts, tmp_path):
    for size in (1, 3, 16):
        assert made(directory, prompts, tmp_path / f"{size}.jsonl", batch_size=size) == 10
    one, three, all_ = (read_completions(tmp_path / f"{size}.jsonl") for size in (1, 3, 16))
    assert one == three == all_
    assert [(line["number"], line["sample"]) for line in one] == [(n, s) for n in range(5) for s in range(2)]
    assert one[0]["id"] == "p1" and one[0]["completion"] != one[1]["completion"]
    assert all(1 <= line["tokens"] <= 12 for line in one)


def test_a_file_that_was_cut_is_gone_on_with_and_ends_the_same(directory, prompts, tmp_path):
    whole, cut = tmp_path / "whole.jsonl", tmp_path / "cut.jsonl"
    made(directory, prompts, whole)
    content = whole.read_bytes()
    cut.write_bytes(content[: len(content) // 2])
    there = cut.read_bytes().count(b"\n") - 1
    assert 0 < there < 10
    assert made(directory, prompts, cut) == 10 - there
    assert read_completions(cut) == read_completions(whole)
    assert made(directory, prompts, cut) == 0
    assert made(directory, prompts, cut, samples=3) == 5  # more of the same kind
    with pytest.raises(UserError, match="was made otherwise: seed: 7 -> 8"):
        made(directory, prompts, cut, seed=8)
    weights = directory / "model.safetensors"
    before = weights.stat().st_mtime_ns
    os.utime(weights, ns=(before, before + 1))
    with pytest.raises(UserError, match="was made otherwise: weights"):
        made(directory, prompts, cut)
    os.utime(weights, ns=(before, before))
    prompts.write_text(prompts.read_text().replace("p3", "p9"))
    with pytest.raises(UserError, match="was made otherwise: prompts"):
        made(directory, prompts, cut)


@pytest.mark.parametrize("left", ["half of the first line", "the first line"])
def test_a_file_that_was_cut_before_its_first_completion_is_made(directory, prompts, tmp_path, left):
    made(directory, prompts, tmp_path / "whole.jsonl")
    first = (tmp_path / "whole.jsonl").read_bytes().split(b"\n")[0] + b"\n"
    (tmp_path / "cut.jsonl").write_bytes(first if left == "the first line" else first[:30])
    assert made(directory, prompts, tmp_path / "cut.jsonl") == 10
    assert read_completions(tmp_path / "cut.jsonl") == read_completions(tmp_path / "whole.jsonl")
    assert made(directory, prompts, tmp_path / "cut.jsonl") == 0


def test_a_stop_text_ends_a_completion_and_is_not_in_it(directory, prompts, tmp_path):
    made(directory, prompts, tmp_path / "free.jsonl", temperature=0, samples=1)
    free = read_completions(tmp_path / "free.jsonl")
    pairs = [text[i : i + 2] for line in free for text in [line["completion"]] for i in range(1, len(text) - 4)]
    stop = next(pair for pair in pairs if pair.isascii() and pair.isprintable())
    made(directory, prompts, tmp_path / "stopped.jsonl", temperature=0, samples=1, stop=(stop,))
    for before, after in zip(free, read_completions(tmp_path / "stopped.jsonl"), strict=True):
        assert after["completion"] == before["completion"].partition(stop)[0]
        assert after["stopped"] or stop not in before["completion"]
        assert after["tokens"] <= before["tokens"]


def test_greedy_completions_are_generates(directory, prompts, tmp_path):
    from transformers import AutoModelForCausalLM, AutoTokenizer

    made(directory, prompts, tmp_path / "a.jsonl", temperature=0, samples=1)
    model, tokenizer = AutoModelForCausalLM.from_pretrained(directory), AutoTokenizer.from_pretrained(directory)
    for line in read_completions(tmp_path / "a.jsonl")[:4]:
        ids = tokenizer(line["prompt"], return_tensors="pt").input_ids
        if tokenizer.bos_token_id is not None and ids[0, 0] != tokenizer.bos_token_id:
            ids = torch.cat([torch.tensor([[tokenizer.bos_token_id]]), ids], 1)
        new = model.generate(ids, attention_mask=torch.ones_like(ids), max_new_tokens=12, do_sample=False)
        text = tokenizer.decode(new[0, ids.shape[1] :], skip_special_tokens=True)
        assert line["completion"] == text


BAD = {
    "nothing": ("", "holds no prompt"),
    "not JSON": ("{\n", ":1: not JSON"),
    "no prompt": ('{"prompt": "a"}\n{"id": 3}\n', ":2: no prompt"),
    "an empty one": ('{"prompt": ""}\n', ":1: no prompt"),
    "a list": ("[1]\n", ":1: no prompt"),
    "messages that are none": ('{"messages": "a"}\n', ":1: "),
    "too long, behind an empty line": ("\n" + json.dumps({"prompt": "the end " * 500}) + "\n", ":2: "),
    "too long": (json.dumps({"prompt": "the end " * 500}) + "\n", ":1: "),
}


@pytest.mark.parametrize(("content", "said"), BAD.values(), ids=BAD)
def test_bad_prompts_are_named_by_line_and_nothing_is_written(directory, tmp_path, content, said):
    (tmp_path / "p.jsonl").write_text(content)
    told = refusal(made, directory, tmp_path / "p.jsonl", tmp_path / "out.jsonl")
    assert told and "p.jsonl" in told and said in told
    assert not (tmp_path / "out.jsonl").exists()


@pytest.mark.parametrize(
    "given",
    [{"max_new_tokens": 0}, {"temperature": -1}, {"top_p": 0}, {"top_k": -1}, {"min_p": 1}, {"repetition_penalty": 0},
     {"samples": 0}, {"batch_size": 0}, {"samples": 2, "temperature": 0}, {"stop": ("",)}],
)  # fmt: skip
def test_numbers_that_make_no_sense_are_refused(given):
    told = refusal(completions.check_asked, Asked(**given))
    assert told and f"--{next(iter(given)).replace('_', '-')}" in told


def test_another_file_is_not_written_over(directory, prompts, tmp_path):
    for content in (b"my notes\n", b'{"a": 1}\n', np.arange(9).tobytes() + b"\n"):
        (tmp_path / "notes").write_bytes(content)
        assert "holds no completions" in refusal(made, directory, prompts, tmp_path / "notes")
        assert (tmp_path / "notes").read_bytes() == content
