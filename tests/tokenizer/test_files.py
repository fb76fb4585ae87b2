"""Catches a saved tokenizer that AutoTokenizer reads as another one: other ids, an added bos, cleaned-up spaces."""

import json

import pytest
from tokenizers import Tokenizer, models
from transformers import AutoTokenizer

from tests.tokenizer.conftest import HARD_STRINGS
from tokenizer.files import load, save

CHAT = [
    {"role": "system", "content": "Be  brief. "},
    {"role": "user", "content": "Say hi .\n"},
    {"role": "assistant", "content": "hi !"},
]


@pytest.fixture
def directory(trained, tmp_path):
    save(trained, tmp_path / "made", 128)
    return tmp_path / "made"


@pytest.mark.parametrize("model_type", [None, "llama", "gpt2", "qwen3", "mistral", "gpt_neox"])
def test_auto_tokenizer_gives_the_same_ids_and_no_bos(trained, directory, model_type):
    if model_type:
        (directory / "config.json").write_text(json.dumps({"model_type": model_type}))
    auto = AutoTokenizer.from_pretrained(directory)
    for text in HARD_STRINGS:
        ids = auto(text)["input_ids"]
        assert ids == trained.encode(text).ids
        assert auto.decode(ids) == text


def test_auto_tokenizer_knows_roles_and_length(directory):
    auto = AutoTokenizer.from_pretrained(directory)
    assert (auto.bos_token_id, auto.eos_token_id, auto.pad_token_id) == (0, 1, 2)
    assert auto.model_max_length == 128
    assert auto.decode([0, 40, 6], skip_special_tokens=True) == auto.decode([40])


def test_spaces_before_punctuation_survive_decoding(directory):
    auto = AutoTokenizer.from_pretrained(directory)
    assert auto.decode(auto("a , b . do n't !")["input_ids"]) == "a , b . do n't !"


def test_chat_template_writes_each_message_as_agreed(directory):
    auto = AutoTokenizer.from_pretrained(directory)
    expected = (
        "<|bos|><|system|>\nBe  brief. <|end|>\n<|user|>\nSay hi .\n<|end|>\n<|assistant|>\nhi !<|end|>\n"
    )
    assert auto.apply_chat_template(CHAT, tokenize=False) == expected
    prompt = auto.apply_chat_template(CHAT[:2], tokenize=False, add_generation_prompt=True)
    assert expected.startswith(prompt)
    assert prompt.endswith("<|assistant|>\n")


def test_assistant_mask_covers_the_answer_and_its_stop_token(directory):
    auto = AutoTokenizer.from_pretrained(directory)
    made = auto.apply_chat_template(CHAT, return_dict=True, return_assistant_tokens_mask=True)
    covered = [i for i, kept in zip(made["input_ids"], made["assistant_masks"], strict=True) if kept]
    assert auto.decode(covered) == "hi !<|end|>"


def test_an_unknown_role_is_refused(directory):
    auto = AutoTokenizer.from_pretrained(directory)
    with pytest.raises(Exception, match="role tool: expected user, assistant or system"):
        auto.apply_chat_template([{"role": "tool", "content": "x"}], tokenize=False)


def test_load_gives_back_what_was_saved(trained, directory):
    assert load(directory).to_str() == trained.to_str()


def test_load_names_what_is_missing_or_broken(tmp_path):
    with pytest.raises(ValueError, match="no tokenizer at"):
        load(tmp_path)
    (tmp_path / "tokenizer.json").write_text("{}")
    with pytest.raises(ValueError, match="is not a tokenizer"):
        load(tmp_path)


def test_a_tokenizer_without_our_control_tokens_is_not_saved(tmp_path):
    with pytest.raises(ValueError, match="has id None, expected 0"):
        save(Tokenizer(models.BPE()), tmp_path, None)
    assert list(tmp_path.iterdir()) == []
