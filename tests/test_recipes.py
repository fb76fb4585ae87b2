"""Catches a recipe that breaks the contract: the same guarantees, asked of every family."""

import pytest
import torch

from pipeline.lm.tuning.reinforcement import RewardedModel
from pipeline.train.engine import Runtime
from pipeline.train.loop import Trainer, steps
from pipeline.train.recipe import Clock
from tests.exhaustive import exhaustive
from tests.helpers import launch, once
from tests.recipe_cases import CASES, STEP_SAMPLES, STEPS, prepare_all

pytestmark = pytest.mark.filterwarnings(  # peft 0.21 asks transformers 5.23 under old names
    "ignore:`(is_gradient_checkpointing|gradient_checkpointing_enable)` is deprecated:FutureWarning"
)
ALONE = Runtime(rank=0, world_size=1, device=torch.device("cpu"), zero_stage=None)
LAUNCHERS = ("one", "ddp", "zero1", "zero2", "zero3")
# Sharded as zero2, by the same engine; the toy, a GAN and an image GAN always run under it (tests/worker.py).
EXHAUSTIVE = "zero1"
# Of the losses of four steps, two processes against one that accumulates, relative and of a term. Worst seen 4.1e-6; of
# the DiT 4.6e-5, whose layers begin at zero: their first gradients are as small as AdamW's epsilon.
TOLERANCE = {name: 1e-4 if name == "DiT" else 1e-5 for name in CASES}


@pytest.fixture(scope="module")
def shared(tmp_path_factory):
    """The directory with the data of every case."""
    found = tmp_path_factory.mktemp("recipes")
    prepare_all(found)
    return found


@pytest.fixture(scope="module")
def seen(shared):
    """`seen(launcher)[recipe]`: what tests.recipe_worker saw; each launcher runs once."""

    @once
    def report(launcher: str):
        file, processes = (None, None) if launcher == "one" else (launcher, 2)
        arguments = [str(shared), launcher]
        return launch(file, "tests.recipe_worker", *arguments, num_processes=processes, seconds=580)

    return report


PAIRS = [
    exhaustive(launcher, name) if launcher == EXHAUSTIVE else (launcher, name)
    for launcher in LAUNCHERS
    for name, case in CASES.items()
    if case.runs_under(launcher)
]


@pytest.mark.parametrize(("launcher", "recipe"), PAIRS)
def test_each_turn_changes_its_own_net_and_no_other(seen, launcher, recipe):
    found = seen(launcher)[recipe]
    for changes in found["changes"]:
        assert changes == [[turn] for turn in found["turns"]] * STEPS


@pytest.mark.parametrize(("launcher", "recipe"), PAIRS)
def test_interrupted_and_resumed_is_uninterrupted_bit_for_bit(seen, launcher, recipe):
    found = seen(launcher)[recipe]
    uninterrupted, resumed = found["states"]
    assert resumed == uninterrupted
    assert found["again"] == found["rows"][2:]
    assert {key.split("/")[0] for key in resumed} == set(found["turns"])
    assert {key.split("/")[0] for key in resumed if "/ema/" in key} == set(found["ema"])


@pytest.mark.parametrize(("launcher", "recipe"), PAIRS)
def test_two_processes_are_one_with_accumulation(seen, launcher, recipe):
    found, alone = seen(launcher)[recipe]["rows"], seen("one")[recipe]["rows"]
    for row, expected in zip(found, alone, strict=True):
        assert row.keys() == expected.keys()
        for name, (total, count) in expected.items():
            assert row[name][1] == count
            assert row[name][0] == pytest.approx(total, rel=TOLERANCE[recipe], abs=TOLERANCE[recipe] * count)


@pytest.mark.parametrize(("launcher", "recipe"), PAIRS)
def test_held_out_figures_are_the_same_at_any_batch_size(seen, launcher, recipe):
    one, five = (seen(launcher)[recipe]["evaluations"][size] for size in ("1", "5"))
    assert one and one.keys() == five.keys()
    for name, (total, count) in one.items():
        assert five[name] == pytest.approx([total, count], rel=1e-6)


class Repeated:
    """The first step's samples, over and over, noise and all."""

    length = STEP_SAMPLES

    def __init__(self, split):
        self.split = split

    def item(self, index: int):
        return self.split.item(index % self.length)


def misfit(trainer: Trainer, batch: dict) -> float:
    """The loss of what is learnt; what a reward lacks of 1; of a GAN, whose loss does not say, how far its samples are
    from the nearest real."""
    recipe = trainer.recipe
    with trainer.resting() as nets:
        if recipe.turns == ("critic", "generator"):
            fake = nets["generator"](batch["latent"], batch.get("label"))
            real = recipe.subject.real(batch)
            return float(torch.cdist(fake.flatten(1), real.flatten(1)).min(dim=1).values.mean())
        (turn,) = recipe.turns
        if isinstance(recipe, RewardedModel):
            return 1 - float(recipe.act(nets, batch, Clock(0, 0))["rewards"].mean())
        return float(recipe.loss(turn, nets, batch, Clock(0, 0)).total) / recipe.count(turn, batch)


@pytest.mark.parametrize("recipe", CASES)
def test_a_tiny_batch_is_memorised(shared, recipe):
    case = CASES[recipe]
    max_steps, share = case.memorise
    learning = case.build(shared, STEP_SAMPLES, max_steps)
    split = Repeated(learning.data())
    learning.data = lambda: split
    trainer = Trainer(learning, ALONE)
    batch = learning.collate([split.item(index) for index in range(STEP_SAMPLES)])
    before = misfit(trainer, batch)
    for _ in steps(trainer):
        pass
    assert misfit(trainer, batch) < share * before


def test_a_step_has_the_samples_that_the_cases_say(seen):
    for found in seen("one").values():
        for row in found["rows"]:
            assert all(count >= STEP_SAMPLES for _, count in row.values())
