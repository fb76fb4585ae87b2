"""Catches new tokens that change what old ones mean, begin as noise, stay untrained, or are lost on the way out."""

import json
import subprocess
import sys
from collections import Counter
from itertools import pairwise

import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from pipeline.lm import vocabulary
from pipeline.lm.model import save_model
from pipeline.lm.vocabulary import as_it_came, grow, grown, keep_before, merges_of, next_merges
from tests.helpers import ROOT
from tests.stages.tiny_model import VOCABULARY, make_model, make_tokenizer

TEXTS = [
    "the lantern of the lanterns, a lanternfish\n",
    "of lanterns and the things that end: 12 lanterns.\n",
] * 3


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory):
    return make_tokenizer(tmp_path_factory.mktemp("tokenizer"))


def merges_by_counting(words, vocabulary, count):
    """The same by the definition: count every pair anew for each merge."""
    items = [(list(word), times) for word, times in words.items()]
    merges, known = [], set(vocabulary)
    while len(merges) < count:
        often = Counter()
        for word, times in items:
            for pair in pairwise(word):
                often[pair] += times
        able = [(-times, pair) for pair, times in often.items() if "".join(pair) not in known and times >= 3]
        if not able:
            break
        _, pair = min(able)
        merges.append(pair)
        known.add("".join(pair))
        items = [(vocabulary_join(word, pair), times) for word, times in items]
    return merges


def vocabulary_join(word, pair):
    found = []
    for token in word:
        if found and not isinstance(found[-1], tuple) and (found[-1], token) == pair:
            found[-1] = ("".join(pair),)
        else:
            found.append(token)
    return [token[0] if isinstance(token, tuple) else token for token in found]


@pytest.mark.parametrize("seed", range(5))
def test_merges_are_those_of_counting_every_pair_anew(seed):
    random = np.random.default_rng(seed)
    words = {
        tuple(random.choice(list("abcd"), random.integers(1, 9))): int(random.integers(1, 9))
        for _ in range(60)
    }
    expected = merges_by_counting(words, set("abcd"), 40)
    assert next_merges(words, set("abcd"), 40) == expected
    assert len(expected) > 20


def test_digits_stay_single_where_the_vocabulary_has_them_so():
    words = {("1", "2", "a"): 9}
    assert next_merges(words, {"1", "2", "a"}, 9) == []
    assert next_merges(words, {"1", "2", "a", "99"}, 1) == [("1", "2")]


def test_a_text_is_what_it_was_with_new_tokens_in_place_of_those_that_spelled_them(tokenizer, tmp_path):
    merges = merges_of(tokenizer.backend_tokenizer, TEXTS, 12)
    new, added = grown(tokenizer, None, ["lanternfish"], ["<|cell|>"], merges, tmp_path)
    spelled = {one.id: one.spelled for one in added}
    assert [one.id for one in added] == list(range(VOCABULARY, VOCABULARY + 14))
    fewer = 0
    for text in [*TEXTS, "What ends? 1,234 \u00e9\n\n  ends", "lan tern lant"]:
        ids = new(text, add_special_tokens=False)["input_ids"]
        old = tokenizer(text, add_special_tokens=False)["input_ids"]
        if "fish" not in text:  # a listed token cuts the text around it
            assert [part for token in ids for part in spelled.get(token, (token,))] == old
        assert new.decode(ids) == text
        fewer += len(old) - len(ids)
    assert fewer > 20
    [fish] = [one for one in added if one.token == "lanternfish"]
    assert fish.id in new("a lanternfish")["input_ids"]
    assert tokenizer.decode(fish.spelled) == "lanternfish"
    [cell] = new("<|cell|>", add_special_tokens=False)["input_ids"]
    assert new.added_tokens_decoder[cell].special and not new.added_tokens_decoder[fish.id].special


@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize("spare", [0, 3, 40])  # rows of the model that no token has
def test_new_rows_begin_at_the_mean_and_the_rest_is_the_model_that_came(tokenizer, tied, spare, tmp_path):
    model = make_model(0, tied)
    if spare:
        model.resize_token_embeddings(VOCABULARY + spare, mean_resizing=False)
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    keep_before(tokenizer, None, model, tmp_path)
    merges = merges_of(tokenizer.backend_tokenizer, TEXTS, 6)
    new, added = grown(tokenizer, None, [], ["<|cell|>"], merges, tmp_path / "new")
    grow(model, added)
    ends = [model.get_input_embeddings().weight, model.get_output_embeddings().weight]
    assert (ends[0] is ends[1]) == tied
    names = ["model.embed_tokens.weight", "lm_head.weight"]
    for end, name in zip(ends, names, strict=True):
        old = before[name]
        assert len(end) == model.config.vocab_size == max(VOCABULARY + spare, VOCABULARY + 7)
        assert torch.equal(end[:VOCABULARY], old[:VOCABULARY])
        for one in added[:-1]:
            assert torch.allclose(end[one.id], old[list(one.spelled)].mean(0), atol=1e-6)
        assert torch.allclose(end[added[-1].id], old[:VOCABULARY].mean(0), atol=1e-6)
    save_model(model, new, tmp_path / "model", tmp_path / "new")
    came, own = as_it_came(tmp_path / "model")
    assert own.get_vocab() == tokenizer.get_vocab()
    assert came.config.vocab_size == VOCABULARY + spare
    assert all(torch.equal(tensor, before[name]) for name, tensor in came.state_dict().items())


@pytest.fixture(scope="module")
def pretrained(tmp_path_factory, tokenizer):
    directory = tmp_path_factory.mktemp("pretrained")
    save_model(make_model(0, scale=0.1), tokenizer, directory)
    return directory


def recipe(folder, pretrained, finetune, **model):
    rows = [
        {"messages": [{"role": "user", "content": f"{n}?"}, {"role": "assistant", "content": "lanternfish"}]}
        for n in range(40)
    ]
    (folder / "data.jsonl").write_text("\n".join(map(json.dumps, rows)))
    tree = {
        "recipe": "llm",
        "run": {"output_dir": f"{folder}/run", "launch": "launch/one.yaml"},
        "model": {"pretrained": str(pretrained)} | model,
        "chat": {"path": f"{folder}/data.jsonl"},
        "finetune": {
            "max_steps": 40,
            "train_batch_size": 4,
            "learning_rate": 0.01,
            "sequence_length": 32,
            "warmup_steps": 1,
        }
        | finetune,
        "evaluate": {"functions": 0, "multiple_choice": 0, "conversations": 4},
        "generate": {"chat_prompts": ["77?"], "max_new_tokens": 4},
        "export": {"licence": "PSF-2.0", "bf16_logit_bound": 9.0},
    }
    (folder / "recipe.yaml").write_text(json.dumps(tree))
    return folder / "recipe.yaml"


def headwater(*arguments):
    command = [sys.executable, "-m", "pipeline", *map(str, arguments)]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=300)


@pytest.mark.parametrize(
    "finetune",
    [
        pytest.param({"lora": {"r": 4, "target_modules": "all-linear"}}, id="lora"),
        pytest.param({}, id="full", marks=pytest.mark.exhaustive),
    ],
)
def test_an_export_generates_a_new_token(finetune, pretrained, tmp_path):
    """By adapters alone the new rows would stay as they began; here nothing but a trained row can say the word."""
    done = headwater("run", recipe(tmp_path, pretrained, finetune, add_tokens=["lanternfish"]))
    assert done.returncode == 0, done.stdout + done.stderr
    export = tmp_path / "run/export"
    model, own = AutoModelForCausalLM.from_pretrained(export), AutoTokenizer.from_pretrained(export)
    [new] = own("lanternfish", add_special_tokens=False)["input_ids"]
    assert new == VOCABULARY
    prompt = own.apply_chat_template(
        [{"role": "user", "content": "77?"}],
        add_generation_prompt=True,
        return_tensors="pt",
        return_dict=True,
    )
    written = model.generate(**prompt, max_new_tokens=2, do_sample=False)[0, prompt["input_ids"].shape[1] :]
    assert written[0] == new
    samples = json.loads((tmp_path / "run/generate/samples.json").read_text())
    assert samples[0]["text"] == "lanternfish" and samples[0]["stopped"]
    if finetune:
        settings = json.loads((export / "adapter/adapter_config.json").read_text())
        assert settings["trainable_token_indices"] == {"embed_tokens": [VOCABULARY]}
        assert settings["base_model_name_or_path"] == "../../base/model"
    card = (export / "README.md").read_text()
    assert "1 tokens added to the vocabulary" in card


@pytest.mark.parametrize(
    ("model", "said"),
    [
        ({"add_tokens": ["t"]}, "model.add_tokens: 't' is in the vocabulary already, as token"),
        ({"add_tokens": ["x y", "x y"]}, "model.add_tokens: 'x y' is in the list twice"),
        ({"add_special_tokens": [" "]}, "model.add_special_tokens: ' ' is empty"),
        ({"add_tokens": 5}, "model.add_tokens as a number needs a corpus"),
        ({"add_tokens": 0}, "a number of them from 1"),
    ],
)
def test_tokens_that_cannot_be_added_are_refused_before_anything_is_made(model, said, pretrained, tmp_path):
    done = headwater("run", recipe(tmp_path, pretrained, {}, **model))
    assert done.returncode == 2 and said in done.stderr, done.stderr
    assert not (tmp_path / "run").exists()


def test_a_number_of_tokens_is_for_a_tokenizer_that_merges(pretrained, tmp_path):
    from tokenizers import Tokenizer, models

    from pipeline.run.errors import UserError

    class Unigram:
        backend_tokenizer = Tokenizer(models.Unigram([("a", 0.0)]))

    with pytest.raises(UserError, match="no BPE that cuts texts into words"):
        vocabulary.check_continuable(Unigram())
