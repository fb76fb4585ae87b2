"""Catches a frozen weight that moves, one that stays unasked, and noise that evaluation or a resumed run sees."""

import pytest
import torch

from pipeline.data.packing import PackedDocuments
from pipeline.lm.recipe import LanguageModel
from pipeline.lm.tuning.freezing import freeze
from pipeline.run.config import Training
from pipeline.run.errors import UserError
from pipeline.train import checkpoint
from pipeline.train.loop import Trainer, evaluate, steps
from tests.tiny_language_model import ALONE, random_documents, shard_of, tiny_model

LENGTH = 32


@pytest.fixture
def trainer(tmp_path):
    """`trainer(patterns=(), noise=0.0)`: three steps of the tiny Llama."""

    def make(patterns: tuple[str, ...] = (), noise: float = 0.0) -> Trainer:
        def build():
            model = tiny_model("llama", LENGTH)
            freeze(model, patterns)
            return model

        if not (tmp_path / "documents.json").exists():
            shard_of(tmp_path, random_documents(12, 20, 3, 40, 9, 32))
        from pipeline.data.shards import Shard

        split = PackedDocuments(Shard.open(tmp_path, "documents"), LENGTH, None)
        training = Training(learning_rate=1e-2, max_steps=4, train_batch_size=2, bf16=False)
        return Trainer(LanguageModel(training, build, split, split, LENGTH, noise=noise), ALONE)

    return make


def test_what_is_frozen_stays_and_the_rest_learns(trainer):
    running = trainer(("model.embed_tokens.*", "*.layers.0.*"))
    before = {name: p.detach().clone() for name, p in tiny_model("llama", LENGTH).named_parameters()}
    assert len(list(steps(running))) == 4
    after = dict(running.engines["model"].module.model.named_parameters())
    moved = {name for name, tensor in after.items() if not torch.equal(tensor.detach(), before[name])}
    assert moved == {name for name in after if "embed_tokens" not in name and ".layers.0." not in name}


@pytest.mark.parametrize(
    ("patterns", "said"),
    [
        (("model.embed_token.*",), "'model.embed_token.*' matches no weight"),
        (("*",), "nothing is left to learn"),
    ],
)
def test_patterns_that_freeze_nothing_or_all_are_refused(patterns, said):
    with pytest.raises(UserError, match="freeze: ") as told:
        freeze(tiny_model("llama", LENGTH), patterns)
    assert said in str(told.value)


def losses(trainer: Trainer, start: int = 0) -> list[float]:
    return [info.sums["model/loss"].mean for info in steps(trainer, start)]


def test_noise_is_in_training_alone_and_a_function_of_the_step(trainer, tmp_path):
    quiet, noisy = trainer(), trainer(noise=5.0)
    held = [evaluate(one, one.recipe.held_out())["loss"].mean for one in (quiet, noisy)]
    assert held[0] == held[1]
    assert losses(quiet)[0] != (whole := losses(noisy))[0]
    assert losses(trainer(noise=5.0)) == whole
    begun = trainer(noise=5.0)
    for info in steps(begun):
        if info.step == 2:
            checkpoint.save(tmp_path / "saved", 2, begun.tensors(), {}, 1, ALONE)
            break
    again = trainer(noise=5.0)
    newest, _ = checkpoint.newest(tmp_path / "saved", ALONE)
    again.load(checkpoint.Reader(newest), 2)
    assert losses(again, 2) == whole[2:]
