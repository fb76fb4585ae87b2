"""Catches a race of image training whose sides cannot be compared: other precision, other target, nothing learnt."""

from contextlib import nullcontext
from itertools import count, islice

import numpy as np
import pytest
import torch
from torch import nn

from recipes.common.audio.wav import write_wav
from recipes.common.images.shape import Shape
from recipes.diffusion.config import Unet
from recipes.diffusion.nets import build_net
from tests.benchmarks import image_peers, images, sibling_training, siblings
from tests.seq2seq.cases import write_pairs


@pytest.mark.parametrize(
    ("mine", "theirs", "compared"),
    [
        ("ours_bf16", "diffusers_bf16", True),
        ("ours_bf16_two_processes", "diffusers_bf16", True),
        ("ours_fp32", "diffusers_bf16", False),
        ("ours_fp32", "example_fp32", True),
        ("ours_bf16", "diffusers_fp32", True),
        ("ours_fp32", "ours_bf16", False),
        ("diffusers_bf16", "ours_bf16", False),
    ],
)
def test_a_ratio_is_of_ours_over_a_peer_and_never_of_our_fp32_over_its_bf16(mine, theirs, compared):
    assert images._compared(mine, theirs) is compared


def tiny_unet() -> nn.Module:
    torch.manual_seed(0)
    settings = Unet(kind="unet", channels=(8, 8), attention_head_dim=8)
    return build_net(settings, Shape(image_size=8, channels=1, classes=0))


@pytest.mark.parametrize("bf16", [False, True])
def test_the_diffusers_loop_begins_at_the_variance_of_noise_and_learns_it(bf16):
    torch.manual_seed(0)
    pictures = torch.rand(64, 1, 8, 8) * 2 - 1
    losses = list(islice(image_peers.diffusers_script(tiny_unet(), pictures, 16, 1e-2, bf16), 60))
    assert losses[0] == pytest.approx(1, abs=0.1)  # the net says 0, and the noise is standard normal
    assert sum(losses[-10:]) / 10 < 0.6


class Perceptron(nn.Module):
    """A net of one argument beside its labels."""

    def __init__(self, before: int, after: int):
        super().__init__()
        self.layers = nn.Sequential(nn.Linear(before, 16), nn.ReLU(), nn.Linear(16, after))

    def forward(self, x: torch.Tensor, labels: None) -> torch.Tensor:
        return self.layers(x).squeeze(1)


def test_the_dcgan_loop_trains_both_nets():
    torch.manual_seed(0)
    critic, generator = Perceptron(2, 1), Perceptron(4, 2)
    before = [parameter.clone() for net in (critic, generator) for parameter in net.parameters()]
    losses = list(islice(image_peers.pytorch_dcgan(critic, generator, torch.randn(64, 2), 16, 1e-3, 4), 3))
    after = [parameter for net in (critic, generator) for parameter in net.parameters()]
    assert all(loss > 0 for loss in losses)
    assert not any(torch.equal(one, other) for one, other in zip(before, after, strict=True))


def test_pictures_a_second_counts_the_steps_of_each_in_turn(monkeypatch):
    for name, value in {"STEPS": 2, "REPEATS": 3, "WARM": 1}.items():
        monkeypatch.setattr(images, name, value)
    seen = []

    class Watched:
        def __init__(self, name: str, seconds: float):
            self.name, self.seconds = name, seconds

        def train(self, steps: int) -> tuple[float, list[float]]:
            seen.append((self.name, steps))
            return self.seconds, [0.0] * steps

    figures = images.pictures_a_second({"a": Watched("a", 0.5), "b": Watched("b", 0.25)})
    assert seen == [("a", 1), ("a", 2), ("b", 1), ("b", 2)] * 3
    assert figures == {"a": [2 * images.BATCH / 0.5] * 3, "b": [2 * images.BATCH / 0.25] * 3}


def counting_race(data) -> images.Race:
    def make() -> images.Contestant:
        from pipeline.train.engine import start_runtime

        runtime = start_runtime(torch.get_num_threads())
        losses = (float(runtime.sum(torch.tensor(1.0 + runtime.rank))) for _ in count())
        return images.Contestant(losses, dict)

    entrants = {"alone": images.Entrant(make), "both": images.Entrant(make, processes=2)}
    return images.Race(entrants, ("threads", "lower", lambda nets: float(torch.get_num_threads())))


@pytest.mark.parametrize(("name", "loss", "threads"), [("alone", 1.0, 2), ("both", 3.0, 1)])
def test_an_entrant_trains_in_as_many_processes_as_it_asks_for_and_shares_the_cores(
    name, loss, threads, tmp_path
):
    with images.at_work(counting_race, name, tmp_path) as runner:
        seconds, losses = runner.train(3)
        assert losses == [loss] * 3 and seconds > 0
        assert runner.quality() == threads


def test_every_entrant_trains_afresh_for_as_long_and_in_turns(monkeypatch, tmp_path):
    """Catches equal time that counts steps, that leaves one entrant for the last, or that counts the first steps."""
    order = []

    class Timed:
        def __init__(self, name: str, seconds_a_step: float):
            self.name, self.seconds_a_step, self.steps = name, seconds_a_step, 0

        def train(self, steps: int) -> tuple[float, list[float]]:
            order.append(self.name)
            self.steps += steps
            return steps * self.seconds_a_step, [0.0] * steps

        def quality(self) -> float:
            return float(self.steps)

    runners = {"slow": 0.5, "fast": 0.25}
    monkeypatch.setattr(images, "at_work", lambda race, name, data: nullcontext(Timed(name, runners[name])))
    for name, value in {"STEPS": 2, "WARM": 1, "EQUAL_SECONDS": 2}.items():
        monkeypatch.setattr(images, name, value)
    assert images.after_equal_time(counting_race, ["slow", "fast"], tmp_path) == {"slow": 5.0, "fast": 9.0}
    assert order == ["slow", "fast"] * 3 + ["fast"] * 2


def test_cached_sampling_is_timed_against_equal_pictures():
    found = siblings.pixelcnn(size=5, pictures=2, repeats=2)
    assert found["cached_over_naive"]["median"] > 0 and found["pictures"] == 2


def test_cached_generation_is_timed_against_equal_samples():
    found = siblings.wavenet(30, 2, "model.layers=3")
    assert found["cached_over_naive"]["median"] > 0 and found["receptive_field"] == 9


def test_no_figure_is_given_of_samplers_that_draw_otherwise(monkeypatch):
    monkeypatch.setattr(siblings, "drawn_naively", lambda net, labels, coins: torch.zeros(2, 5, 5, 1) - 1)
    with pytest.raises(SystemExit, match="draws other pixels"):
        siblings.pixelcnn(size=5, pictures=2, repeats=2)


@pytest.mark.parametrize("race", sibling_training.RACES)
def test_a_siblings_contestants_begin_with_the_same_weights_and_learn(race, tmp_path, monkeypatch):
    """Catches a peer that trains another net, or one that does not train: speeds that say nothing."""
    small = {
        "pixelcnn": ("data.source=digits", "data.image_size=8", "model.blocks=1", "model.hidden_size=4"),
        "wavenet": ("data.source=folder", f"data.path={tmp_path}/sounds", "model.layers=3"),
        "translation": ("data.source=jsonl", f"data.path={tmp_path}/pairs.jsonl", "tokenizer.vocabulary_size=400"),
    }[race]
    if race == "wavenet":
        (tmp_path / "sounds").mkdir()
        for number in range(24):
            wave = np.random.default_rng(number).integers(-3000, 3000, 9000).astype(np.int16)
            write_wav(tmp_path / "sounds" / f"{number}.wav", wave, 8000)
    write_pairs(tmp_path / "pairs.jsonl", 400)
    own = sibling_training.settings
    monkeypatch.setattr(sibling_training, "settings", lambda yaml, *given: own(yaml, *given, *small))
    data = sibling_training.prepared(tmp_path / "data", [race])
    entrants = sibling_training.RACES[race](data).entrants
    mine, theirs = (next(name for name in entrants if name.startswith(who)) for who in ("ours", ("bare", "trainer")))
    found = {name: entrants[name].make() for name in (mine, theirs)}
    if race != "translation":  # whose Trainer keeps its model to itself
        nets = [next(iter(contestant.nets().values())) for contestant in found.values()]
        for one, other in zip(*(net.state_dict().values() for net in nets), strict=True):
            assert torch.equal(one, other)
    losses = {name: list(islice(contestant.steps, 30)) for name, contestant in found.items()}
    assert sum(losses[mine][-5:]) < 0.99 * sum(losses[mine][:5])
    if race != "translation":
        assert sum(losses[theirs][-5:]) < 0.99 * sum(losses[theirs][:5])
    assert sibling_training.units_a_step(race, data, mine) > 0
