"""Catches a fine-tune that replaces what its base brought: stop tokens, sampling, template, tokenizer files."""

import json
import shutil

import pytest
from transformers import AutoModelForCausalLM, GenerationConfig

from pipeline import base, export
from pipeline.lm.config import Generate
from pipeline.lm.machine import fitted
from pipeline.lm.model import TOKENIZER_FILES, load_tokenizer, save_model
from tests.stages.tiny_model import make_config, make_context, make_model, make_tokenizer

BROUGHT = {
    "eos_token_id": [1, 5],
    "do_sample": True,
    "temperature": 0.3,
    "top_k": 7,
    "repetition_penalty": 1.1,
}


@pytest.fixture
def pretrained(tmp_path):
    """A model as it comes from elsewhere: files in another hand, a list of stop tokens, sampling of its own."""
    directory = tmp_path / "pretrained"
    model = make_model(0)
    save_model(model, make_tokenizer(tmp_path / "tokenizer"), directory)
    GenerationConfig(bos_token_id=0, pad_token_id=2, **BROUGHT).save_pretrained(directory)
    for name in ("tokenizer_config.json", "tokenizer.json"):
        tree = json.loads((directory / name).read_text())
        (directory / name).write_text(json.dumps(tree, indent=7))
    tree = json.loads((directory / "tokenizer_config.json").read_text())
    del tree["model_max_length"]
    tree["chat_template"] = (directory / "chat_template.jinja").read_text()
    (directory / "tokenizer_config.json").write_text(json.dumps(tree, indent=7))
    (directory / "chat_template.jinja").unlink()
    return directory


def based_on(pretrained, tmp_path):
    """The directory that stage `base` makes of it."""
    model = {"pretrained": str(pretrained)}
    finetune = {"max_steps": 1, "train_batch_size": 1, "learning_rate": 1e-3, "sequence_length": 64}
    without = dict.fromkeys(["corpus", "tokenizer", "pretrain"])
    config = fitted(make_config(tmp_path / "run", model=model, finetune=finetune, **without))
    context = make_context(config, "base", {})
    base.run(context)
    return context.out / "model"


def tokenizer_files(directory) -> dict[str, bytes]:
    return {name: (directory / name).read_bytes() for name in TOKENIZER_FILES if (directory / name).is_file()}


def test_the_tokenizers_files_stay_to_the_byte_through_base_and_fine_tuning(pretrained, tmp_path):
    made = based_on(pretrained, tmp_path)
    assert tokenizer_files(made) == tokenizer_files(pretrained)
    model = AutoModelForCausalLM.from_pretrained(made)
    save_model(model, load_tokenizer(made), tmp_path / "tuned", made)
    assert tokenizer_files(tmp_path / "tuned") == tokenizer_files(pretrained)
    assert load_tokenizer(tmp_path / "tuned").chat_template == load_tokenizer(pretrained).chat_template


def test_stop_tokens_and_sampling_stay_through_base_and_export(pretrained, tmp_path):
    made = based_on(pretrained, tmp_path)
    found = GenerationConfig.from_pretrained(made)
    assert {name: getattr(found, name) for name in BROUGHT} == BROUGHT
    export.write_model(made, tmp_path / "export", Generate())
    found = GenerationConfig.from_pretrained(tmp_path / "export")
    assert found.eos_token_id == [1, 5, 6]  # its own, and the end of a turn
    assert (found.temperature, found.top_k, found.repetition_penalty) == (0.3, 7, 1.1)


def test_the_recipe_has_the_last_word_on_what_it_says(pretrained, tmp_path):
    made = based_on(pretrained, tmp_path)
    export.write_model(made, tmp_path / "export", Generate(temperature=0.9))
    found = GenerationConfig.from_pretrained(tmp_path / "export")
    assert (found.temperature, found.top_k) == (0.9, 7)


def test_a_model_without_sampling_of_its_own_gets_the_recipes(pretrained, tmp_path):
    made = based_on(pretrained, tmp_path)
    shutil.rmtree(made.parent / "plain", ignore_errors=True)
    GenerationConfig(eos_token_id=1).save_pretrained(made)
    export.write_model(made, tmp_path / "export", Generate())
    found = GenerationConfig.from_pretrained(tmp_path / "export")
    assert (found.do_sample, found.temperature, found.top_p) == (True, 0.8, 0.95)
