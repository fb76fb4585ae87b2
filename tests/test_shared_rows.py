"""Catches rows shared among processes that train another model than whole rows do, and those that cannot be shared."""

import numpy as np
import pytest
import torch

from pipeline.lm.attention import chosen_for
from pipeline.lm.config import Finetune
from pipeline.lm.ulysses import Sharing, check_shared
from pipeline.run.errors import UserError
from pipeline.run.plan import Batches, data_processes
from tests.helpers import launch
from tests.shared_rows import CASES, seen
from tests.tiny_language_model import ALONE, tiny_model

# Worst seen over the launchers: losses and norms 2.4e-7 apart, relative, and weights 1.9e-6, absolute.
LOSSES, WEIGHTS = 1e-6, 1e-5


@pytest.fixture(scope="module")
def whole():
    torch.set_num_threads(1)
    return seen(ALONE)


LAUNCHERS = [
    pytest.param("cpu_ddp", 2),
    pytest.param("cpu_zero2", 2, marks=pytest.mark.exhaustive),
    pytest.param("cpu_zero3", 2, marks=pytest.mark.exhaustive),
    pytest.param("cpu_ddp", 4, marks=pytest.mark.exhaustive),  # two groups of two
]


@pytest.mark.parametrize(("launcher", "processes"), LAUNCHERS)
def test_two_processes_that_share_rows_learn_what_one_process_learns(launcher, processes, whole):
    found = launch(launcher, "tests.shared_rows", num_processes=processes)
    assert found.keys() == CASES.keys()
    for name, one in whole.items():
        many = found[name]
        for here, there in zip(one["steps"], many["steps"], strict=True):
            assert there[1] == here[1]
            assert there[0] == pytest.approx(here[0], rel=LOSSES)
            if there[2] is not None:
                assert there[2] == pytest.approx(here[2], rel=LOSSES)
        assert many["held"] == pytest.approx(one["held"], rel=LOSSES)
        for key, values in one["weights"].items():
            if key.endswith("c_attn.bias"):
                continue  # a bias of keys has no gradient but rounding, which AdamW makes as large as any other
            np.testing.assert_allclose(many["weights"][key], values, atol=WEIGHTS, err_msg=f"{name} {key}")
        # The steps moved the weights by far more than that.
        assert one["steps"][0][0] - one["steps"][-1][0] > 100 * LOSSES


def test_a_stretch_holds_the_positions_of_its_process_and_all_boundaries():
    batch = {
        "input_ids": torch.arange(16).view(2, 8),
        "document_ids": torch.zeros(2, 8),
        "boundaries": torch.tensor([0, 8, 16]),
        "document": torch.tensor([4, 5]),
    }
    first, second = (Sharing(rank, 2, None).stretch(batch) for rank in range(2))
    assert torch.equal(torch.cat([first["input_ids"], second["input_ids"]], 1), batch["input_ids"])
    for name in ("document_ids", "boundaries", "document"):
        assert torch.equal(second[name], batch[name])


def training(**fields):
    settings = {
        "max_steps": 1,
        "train_batch_size": 4,
        "learning_rate": 1e-3,
        "sequence_length": 16,
        "bf16": False,
    }
    return Finetune(**(settings | {"torch_compile": False, "sequence_parallel_size": 2} | fields))


@pytest.mark.parametrize(
    ("architecture", "model", "fields", "said"),
    [
        ("llama", {}, {"sequence_length": 15}, "2 does not divide sequence_length = 15"),
        (
            "llama",
            {},
            {"sequence_parallel_size": 4},
            "4 does not divide num_key_value_heads = 2\nway out: a size of 2",
        ),
        ("llama", {}, {"packing": False}, "rows are shared where they are packed"),
        ("llama", {}, {"neftune_noise_alpha": 5.0}, "NEFTune"),
        ("llama", {}, {"torch_compile": True}, "not compiled"),
    ],
)
def test_rows_that_cannot_be_shared_are_refused(architecture, model, fields, said):
    config = tiny_model(architecture, 16, **model).config
    asked = training(**fields)
    with pytest.raises(UserError) as refused:
        check_shared(config, asked, chosen_for(asked, "auto", config))
    assert said in str(refused.value)


def test_mixtures_and_plain_products_are_refused():
    config = tiny_model("llama", 16).config
    with pytest.raises(UserError, match="plain products"):
        check_shared(config, training(), "eager")
    config.num_local_experts = 4
    with pytest.raises(UserError, match="experts"):
        check_shared(config, training(), "sdpa")


def test_samples_are_divided_over_groups():
    assert data_processes(training(), 4) == 2
    assert Batches.derive(training(per_device_train_batch_size=1), 4) == Batches(1, 2)
    with pytest.raises(UserError, match="2 does not divide the 3 processes\nway out: run.num_processes=2"):
        data_processes(training(), 3)
    with pytest.raises(UserError, match="does not divide over 2 groups of the 4 processes"):
        Batches.derive(training(train_batch_size=3), 4)
