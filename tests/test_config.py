"""Catches a typo that trains with a default, an override that loses, and a setting that wrongly bears identity."""

from typing import Literal

import pytest
from pydantic import Field, ValidationError

from pipeline.run.config import Loop, Optimizer, Run, Section, Training, how, identity, load, read_yaml, what
from pipeline.run.errors import UserError


class Root(Section):
    recipe: Literal["toy"] = what(..., "the family")
    run: Run = Field(..., description="how it runs")
    train: Training = Field(..., description="how long and on how much")
    extra: Optimizer | None = Field(None, description="a section that may be left out")


YAML = """\
# a comment
recipe: toy
run:
  output_dir: runs/toy
train:
  learning_rate: 1e-3
  max_steps: 10
  train_batch_size: 4
"""


@pytest.fixture
def recipe(tmp_path):
    path = tmp_path / "toy.yaml"

    def make(text=YAML):
        path.write_text(text)
        return path

    return make


def told(path, *overrides):
    with pytest.raises(UserError) as error:
        load(Root, path, list(overrides))
    message = str(error.value)
    assert len(message.splitlines()) <= 5
    return message


def test_a_valid_recipe_loads_with_its_values_and_defaults(recipe):
    config = load(Root, recipe(), [])
    assert (config.train.learning_rate, config.train.max_steps, config.train.adam_beta1) == (1e-3, 10, 0.9)
    assert config.extra is None


def test_an_unknown_key_names_the_nearest_and_its_line(recipe):
    path = recipe(YAML + "  warmup_step: 3\n")
    assert told(path) == f"unknown key 'train.warmup_step' in {path}:9\ndid you mean 'warmup_steps'?"


def test_an_unknown_key_in_an_optional_section_names_the_nearest(recipe):
    path = recipe(YAML + "extra:\n  learning_rat: 3\n")
    assert f"unknown key 'extra.learning_rat' in {path}:10\ndid you mean 'learning_rate'?" == told(path)


def test_an_unknown_section_names_the_nearest(recipe):
    assert "unknown key 'trian'" in (message := told(recipe(YAML + "trian:\n  max_steps: 3\n")))
    assert message.endswith("did you mean 'train'?")


@pytest.mark.parametrize("override", ["train.max_step=3", "trian.max_steps=3"])
def test_an_unknown_key_of_an_override_is_found_on_the_command_line(recipe, override):
    assert "in the command line\ndid you mean" in told(recipe(), override)


def test_an_override_wins_over_the_file(recipe):
    assert load(Root, recipe(), ["train.max_steps=7"]).train.max_steps == 7


def test_the_last_override_wins(recipe):
    assert load(Root, recipe(), ["train.max_steps=7", "train.max_steps=8"]).train.max_steps == 8


def test_an_override_opens_a_section_that_the_file_lacks(recipe):
    assert load(Root, recipe(), ["extra.learning_rate=0.5"]).extra.learning_rate == 0.5


@pytest.mark.parametrize("override", ["train.max_steps", "=3", "train.max_steps=[1"])
def test_an_override_that_is_none_is_refused(recipe, override):
    assert override in told(recipe(), override)


def test_a_wrong_type_names_value_line_and_meaning(recipe):
    path = recipe(YAML.replace("max_steps: 10", "max_steps: ten"))
    message = told(path)
    assert message.startswith(f"train.max_steps = 'ten' in {path}:7\n")
    assert message.endswith("meaning: optimizer steps")


def test_a_value_out_of_range_is_refused(recipe):
    assert told(recipe(), "train.ema_decay=1").startswith("train.ema_decay = 1 in the command line\n")


def test_a_value_of_no_kind_that_a_key_takes_names_the_key_and_every_kind(recipe):
    path = recipe(YAML + "  bf16: maybe\n  per_device_train_batch_size: 4\n")
    message = told(path)
    assert message.startswith(f"train.bf16 = 'maybe' in {path}:9\n")
    assert "valid boolean" in message and message.splitlines()[1].endswith("or 'auto'")
    assert "meaning: bfloat16 compute" in message
    message = told(recipe(), "train.per_device_train_batch_size=0")
    assert message.splitlines()[1] == "Input should be greater than or equal to 1 or 'auto'"


def test_a_value_that_would_lose_digits_is_refused(recipe):
    assert told(recipe(), "train.max_steps=1.5").startswith("train.max_steps = 1.5 in the command line\n")


def test_a_missing_key_is_named_with_its_meaning(recipe):
    path = recipe(YAML.replace("  max_steps: 10\n", ""))
    assert told(path) == f"{path} lacks 'train.max_steps': optimizer steps"


@pytest.mark.parametrize("text", ["", "- a\n- b\n", "just words\n"])
def test_a_file_without_sections_is_refused(recipe, text):
    assert "holds no sections" in told(recipe(text))


def test_a_file_that_is_no_yaml_is_refused(recipe):
    assert "is not YAML" in told(recipe("train: [1\n"))


def test_a_missing_file_is_refused(tmp_path):
    assert told(tmp_path / "none.yaml").startswith(f"no recipe at {tmp_path / 'none.yaml'}")


def test_a_config_is_frozen(recipe):
    config = load(Root, recipe(), [])
    with pytest.raises(ValidationError, match="frozen"):
        config.train.max_steps = 3


def test_identity_holds_what_and_leaves_out_how(recipe):
    one = load(Root, recipe(), ["train.per_device_train_batch_size=2", "run.output_dir=elsewhere"])
    assert identity(one) == identity(load(Root, recipe(), []))
    assert identity(one)["run"] == {}
    assert identity(one)["train"].keys() == Training.model_fields.keys() - {
        "per_device_train_batch_size",
        "per_device_eval_batch_size",
        "gradient_checkpointing",
        "torch_compile",
        "deterministic",
        "skip_nonfinite_steps",
    }


@pytest.mark.parametrize("override", ["train.seed=1", "train.learning_rate=2e-3", "extra.learning_rate=1"])
def test_identity_changes_with_what_is_made(recipe, override):
    assert identity(load(Root, recipe(), [override])) != identity(load(Root, recipe(), []))


def test_every_setting_says_what_it_means():
    for section in (Run, Optimizer, Loop, Training):
        assert [name for name, field in section.model_fields.items() if not field.description] == []


def test_a_section_within_a_section_keeps_its_own_how_fields_out():
    class Inner(Section):
        kept: int = what(1, "kept")
        dropped: int = how(2, "dropped")

    class Outer(Section):
        inner: Inner = Field(Inner(), description="a section")
        several: tuple[Inner, ...] = what((Inner(),), "sections")

    assert identity(Outer()) == {"inner": {"kept": 1}, "several": [{"kept": 1}]}


def test_a_key_said_twice_is_refused_with_both_lines(tmp_path):
    path = tmp_path / "twice.yaml"
    path.write_text("run:\n  output_dir: a\n  save_steps: 3\n  output_dir: b\n")
    with pytest.raises(UserError, match="line 4 says 'output_dir' again, first said in line 2"):
        read_yaml(path)
