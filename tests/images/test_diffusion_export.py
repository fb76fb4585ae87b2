"""Catches an export that draws other pictures than the live sampler, and pictures that depend on their neighbours."""

import json
import subprocess
import sys
from dataclasses import asdict
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from pipeline.run.config import load
from recipes.common.images.shape import Shape
from recipes.diffusion import exported
from recipes.diffusion.config import DiffusionConfig
from recipes.diffusion.nets import build_net
from recipes.diffusion.sampler import CHUNK, drawing, load_net, load_samplers, pipeline_of
from recipes.diffusion.shapes import null_label
from tests.helpers import ROOT

DIGITS = ROOT / "recipes" / "diffusion" / "digits.yaml"
UNET = "model.net={kind: unet, channels: [16, 24], attention_head_dim: 8}"
DIT = "model.net={kind: dit, patch_size: 2, hidden_size: 32, num_attention_heads: 2, num_hidden_layers: 2}"
FLOW = ("model.prediction=flow", "model.schedule=null", "train.min_snr_gamma=null", "sampler.name=heun")
SHORT = ("sampler.steps=4", "sampler.others=[]")
CASES = {
    "unet, DPM-Solver++": (UNET, *SHORT),
    "unet, DDPM, guided": (UNET, *SHORT, "sampler.name=ddpm", "sampler.guidance=2"),
    "unet, Euler": (UNET, *SHORT, "sampler.name=euler", "model.schedule=linear"),
    "dit, Heun on a flow, guided": (DIT, *SHORT, *FLOW, "sampler.guidance=1.5"),
}
SEEDS, LABELS = [5, 0, 7, 5, 1], [0, 1, 2, 1, 0]
pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation doesn't accept:DeprecationWarning")


def config_of(*overrides: str) -> DiffusionConfig:
    return load(DiffusionConfig, DIGITS, list(overrides))


def trained_in(directory: Path, config: DiffusionConfig, classes: int = 3) -> Path:
    """What the stage `train` leaves, with random weights."""
    torch.manual_seed(0)
    shape = Shape(8, 1, classes)
    net = build_net(config.model.net, shape)
    for parameter in net.parameters():
        torch.nn.init.normal_(parameter, std=0.15)
    for name in ("model", "model_ema"):
        save_file(
            {key: value.contiguous() for key, value in net.state_dict().items()},
            directory / f"{name}.safetensors",
        )
    (directory / "nets.json").write_text(json.dumps({"shape": asdict(shape)}))
    return directory


@pytest.fixture
def trained(tmp_path):
    return lambda *overrides, classes=3: trained_in(tmp_path, config_of(*overrides), classes)


def live_of(config: DiffusionConfig, trained: Path):
    return next(iter(load_samplers(config, Path(), trained).values()))


@pytest.mark.parametrize("case", CASES)
def test_the_export_draws_the_live_samplers_pictures(tmp_path, trained, case):
    config, made = config_of(*CASES[case]), trained(*CASES[case])
    live = live_of(config, made)(SEEDS, LABELS)
    exported.write(config, Path(), made, tmp_path / "out")
    assert np.array_equal(exported.load(tmp_path / "out")(SEEDS, LABELS), live)
    assert live.shape == (5, 8, 8, 1) and live.dtype == np.uint8
    assert len(np.unique(live)) > 20  # pictures, not black and white


def test_the_export_loads_where_this_repository_is_not(tmp_path, trained):
    config, made = config_of(*CASES["unet, DPM-Solver++"]), trained(*CASES["unet, DPM-Solver++"])
    exported.write(config, Path(), made, tmp_path / "out")
    code = (
        "import sys; from diffusers import DiffusionPipeline\n"
        "pipeline = DiffusionPipeline.from_pretrained('out', custom_pipeline='out', trust_remote_code=True)\n"
        f"images = pipeline({SEEDS}, {LABELS}).images\n"
        "import numpy as np; np.save('drawn.npy', np.stack([np.array(image) for image in images]))\n"
        "assert not any(name.split('.')[0] in ('recipes', 'pipeline') for name in sys.modules)\n"
    )
    command = [sys.executable, "-I", "-c", code]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    live = live_of(config, made)(SEEDS, LABELS)
    assert np.array_equal(np.load(tmp_path / "drawn.npy"), live[..., 0])


@pytest.mark.parametrize("name", ["ddim", "ddpm"])
def test_diffusers_own_pipelines_draw_an_unconditional_export(tmp_path, trained, name):
    from diffusers import DDIMPipeline, DDPMPipeline

    overrides = (UNET, *SHORT, f"sampler.name={name}")
    config, made = config_of(*overrides), trained(*overrides, classes=0)
    exported.write(config, Path(), made, tmp_path / "out")
    live = live_of(config, made)(SEEDS, LABELS)
    stock = {"ddim": DDIMPipeline, "ddpm": DDPMPipeline}[name].from_pretrained(tmp_path / "out")
    stock.set_progress_bar_config(disable=True)
    generators = [torch.Generator().manual_seed(seed) for seed in SEEDS]
    drawn = stock(len(SEEDS), generators, num_inference_steps=4, output_type="np").images
    # Other rows in a forward: the net's rounding differs, the pictures by one step of 255 at most.
    assert np.abs((drawn * 255).round() - live).max() <= 1


@pytest.mark.parametrize("case", CASES)
def test_picture_i_is_the_same_whatever_is_drawn_beside_it(trained, case):
    live = live_of(config_of(*CASES[case]), trained(*CASES[case]))
    together = live(SEEDS, LABELS)
    for place in (1, 3, 4):
        assert np.array_equal(
            live(SEEDS[place : place + 1], LABELS[place : place + 1]), together[place : place + 1]
        )
    many = live([*SEEDS, *range(100, 100 + CHUNK)], [*LABELS, *[0] * CHUNK])
    assert np.array_equal(many[:5], together)
    assert not np.array_equal(together[0], together[3])  # one seed, two classes


def test_guidance_of_one_calls_the_net_once_and_more_goes_beyond_the_class(trained):
    config = config_of(*CASES["unet, DPM-Solver++"])
    net, shape = load_net(config, trained(*CASES["unet, DPM-Solver++"]))
    calls = []
    net.register_forward_hook(lambda net, given, said: calls.append(len(given[0])))
    pipeline = pipeline_of(config, net, null_label(config.model.net, shape.classes), config.sampler)
    pipeline(SEEDS, LABELS, output_type="pt")
    assert calls == [CHUNK] * 4  # rows of a forward decide its rounding
    pipeline(SEEDS, LABELS, guidance_scale=2.0, output_type="pt")
    assert calls == [CHUNK] * (4 + 8)
    x, timestep, label = torch.randn(2, 1, 8, 8), torch.tensor([500, 500]), torch.tensor([0, 1])
    alone = [(label, torch.ones(2))]
    told, not_told, guided = (
        pipeline._predict(
            x, timestep, alone if scale else [(torch.tensor([3, 3]), torch.ones(2))], scale or 1
        )
        for scale in (1, 0, 2)
    )
    torch.testing.assert_close(guided, 2 * told - not_told)


def test_labels_with_weights_weigh_what_the_net_says_of_each(trained):
    case = CASES["unet, DPM-Solver++"]
    net, shape = load_net(config_of(*case), trained(*case))
    pipeline = pipeline_of(config_of(*case), net, 3, config_of(*case).sampler)
    parts = pipeline._labels([{0: 0.25, 2: 0.75}, 1], 2, 1)
    assert [(label.tolist(), weight.tolist()) for label, weight in parts] == [
        ([0, 1, 3], [0.25, 1.0, 1.0]),
        ([2, 3, 3], [0.75, 0.0, 0.0]),
    ]
    x, timestep = torch.randn(3, 1, 8, 8), torch.tensor([500, 500, 500])
    said = [pipeline._forward(x, timestep, torch.full((3,), label)) for label in range(4)]
    weighed = pipeline._predict(x, timestep, parts, 1)
    torch.testing.assert_close(weighed[0], 0.25 * said[0][0] + 0.75 * said[2][0])
    torch.testing.assert_close(weighed[1], said[1][1])
    alone, mixed = (pipeline([5], [label], output_type="np").images for label in (2, {2: 1.0}))
    assert np.array_equal(alone, mixed)
    other = pipeline([5], [2], latents=pipeline.noise([6]), output_type="np").images
    assert np.array_equal(other, pipeline([6], [2], output_type="np").images)


def test_a_class_that_is_none_is_refused(trained):
    case = CASES["unet, DPM-Solver++"]
    net, shape = load_net(config_of(*case), trained(*case))
    pipeline = pipeline_of(config_of(*case), net, 3, config_of(*case).sampler)
    with pytest.raises(ValueError, match="expected 2 of 0 to 3, where 3 is no class"):
        pipeline([0, 1], [0, 4])
    assert len(pipeline([0, 1]).images) == 2  # of no class in particular


def test_the_ema_is_drawn_from_where_there_is_one(trained):
    made = trained(UNET)
    blank = {
        key: torch.zeros_like(value) for key, value in load_net(config_of(UNET), made)[0].state_dict().items()
    }
    save_file(blank, made / "model_ema.safetensors")
    ema = load_samplers(config_of(UNET), Path(), made)
    last = load_samplers(config_of(UNET, "train.ema_decay=0"), Path(), made)
    assert list(ema) == ["EMA, DPM-Solver++(2M), 20 steps", "EMA, DDIM, 20 steps"]
    assert next(iter(last)).startswith("last step, ")
    assert not np.array_equal(next(iter(ema.values()))([0], [0]), next(iter(last.values()))([0], [0]))


def test_weights_in_bf16_draw_nearly_the_same(trained):
    case = CASES["unet, DPM-Solver++"]
    net, _ = load_net(config_of(*case), trained(*case))
    exact = drawing(pipeline_of(config_of(*case), net, 3, config_of(*case).sampler))(SEEDS, LABELS)
    rounded = drawing(pipeline_of(config_of(*case), net.bfloat16(), 3, config_of(*case).sampler))(
        SEEDS, LABELS
    )
    assert np.abs(exact.astype(int) - rounded.astype(int)).mean() < 8
