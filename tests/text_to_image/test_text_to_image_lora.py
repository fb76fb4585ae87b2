"""Catches adapters that teach another net than is published, states of another caption, a base called another way than
its own pipeline calls it."""

import json
import re

import numpy as np
import pytest
import torch
from PIL import Image

from pipeline.run.errors import UserError
from pipeline.run.stage import open_recipe
from recipes.common.images import prepare
from recipes.common.training import save_nets, trained_here
from recipes.text_to_image_lora import embed, exported, train
from recipes.text_to_image_lora.adapters import Adapters
from recipes.text_to_image_lora.bases import base_of, load_net, load_pipeline
from recipes.text_to_image_lora.embed import Embedded
from recipes.text_to_image_lora.evaluate import errors_of
from recipes.text_to_image_lora.sampler import drawing, load_learnt, load_samplers
from tests.helpers import ROOT
from tests.text_to_image.bases import KINDS, write_base
from tests.text_to_image.cases import SimpleNamespace, context_of

pytestmark = [
    # diffusers 0.42 turns tensors into arrays in numpy's old way.
    pytest.mark.filterwarnings("ignore:__array__ implementation doesn't accept:DeprecationWarning"),
    pytest.mark.filterwarnings("ignore::FutureWarning"),  # diffusers' own, of what it will rename
]
SHORT = (
    "data.caption=null",
    "data.image_size=16",
    "train.max_steps=12",
    "train.train_batch_size=4",
    "train.per_device_train_batch_size=4",
    "train.gradient_checkpointing=false",
    "train.learning_rate=0.02",
    "train.r=2",
    "train.lora_alpha=6",
    "train.bf16=false",
    "sampler.steps=2",
    "embed.max_length=12",
    "sampler.max_length=12",
    "run.launch=launch/one.yaml",
)


def config_of(base, pictures, *overrides):
    places = (f"model.pretrained={base}", f"data.path={pictures}")
    recipe = ROOT / "recipes/text_to_image_lora/sdxl_gpu.yaml"
    return open_recipe(recipe, [*SHORT, *places, *overrides])[0]


@pytest.fixture(scope="module")
def pictures(tmp_path_factory):
    """Four pictures with a caption each."""
    folder = tmp_path_factory.mktemp("pictures")
    for place, colour in enumerate(("red", "blue", "green", "white")):
        Image.new("RGB", (20, 16), colour).save(folder / f"{colour}.png")
        (folder / f"{colour}.txt").write_text(f"a {colour} {'square' if place % 2 else 'dog'}\n")
    return folder


@pytest.fixture(scope="module", params=KINDS)
def learnt(request, pictures, tmp_path_factory):
    """(config, directory, recipe, base, its captions) of each kind, prepared, embedded and trained for a few steps."""
    directory = tmp_path_factory.mktemp("run")
    base = write_base(request.param, directory / "base")
    config = config_of(base, pictures)
    prepared, embedded, trained = (directory / name for name in ("prepare", "embed", "train"))
    prepare.run(context_of(SimpleNamespace(data=config.data), "prepare", prepared))
    embed.run(context_of(config, "embed", embedded, prepare=prepared))
    recipe = Adapters(config, prepared, embedded)
    trained.mkdir()
    save_nets(trained_here(recipe), recipe, trained)
    return config, directory, recipe


def test_nothing_is_held_out_of_a_handful_unless_it_is_asked_for(learnt):
    _, directory, recipe = learnt
    assert recipe.held_out() is None and not (directory / "prepare/held_out.images.npy").exists()
    assert recipe.data().length == 4


def test_latents_and_states_are_what_the_base_itself_makes(learnt):
    config, directory, recipe = learnt
    pipeline = load_pipeline(config.model.pretrained)
    found = Embedded.open(directory / "embed", directory / "prepare", "train")
    pixels = np.load(directory / "prepare/train.images.npy")
    unit = torch.from_numpy(pixels).permute(0, 3, 1, 2).float() / 127.5 - 1
    with torch.no_grad():
        latents = pipeline.vae.encode(unit).latent_dist
    vae = pipeline.vae.config
    mean = (latents.mean - (vae.shift_factor or 0)) * vae.scaling_factor
    torch.testing.assert_close(torch.from_numpy(np.array(found.moments[:, 0])), mean, rtol=1e-4, atol=1e-5)
    back = pipeline.vae.decode(mean / vae.scaling_factor + (vae.shift_factor or 0)).sample
    assert back.shape == unit.shape
    captions = json.loads((directory / "prepare/classes.json").read_text())
    for label in (0, len(captions) - 1):
        told = recipe.base.told(pipeline, [captions[label]], config.embed.max_length)
        for name, value in told.items():
            torch.testing.assert_close(torch.from_numpy(np.array(found.told[name][label])), value[0])
    assert not np.array_equal(found.told["states"][0], found.told["states"][-1])


def test_the_net_is_called_as_its_own_pipeline_calls_it(learnt, monkeypatch):
    """Catches time ids, pooled states, packed latents or times that the base has never seen."""
    config, directory, recipe = learnt
    pipeline = load_pipeline(config.model.pretrained)
    net = getattr(pipeline, recipe.base.net)
    caption = json.loads((directory / "prepare/classes.json").read_text())[0]
    seen = {}
    plain = net.forward

    def watched(*given, **named):
        found = plain(*given, **named)
        seen.setdefault("given", (given, named))
        seen.setdefault("said", found[0])
        return found

    monkeypatch.setattr(net, "forward", watched)
    more = {} if recipe.base.net == "unet" else {"max_sequence_length": 12}
    size = {"height": 16, "width": 16, "num_inference_steps": 1, "guidance_scale": 1.0}
    pipeline(caption, generator=torch.Generator().manual_seed(0), output_type="latent", **size, **more)
    given, named = seen["given"]
    x = given[0] if given else named["hidden_states"]
    if x.dim() == 3:  # FLUX packs two by two
        x = pipeline._unpack_latents(x, 16, 16, 2)
    time = given[1] if len(given) > 1 else named["timestep"]
    time = time.reshape(-1)[:1].float() * (1000 if type(pipeline).__name__ == "FluxPipeline" else 1)
    found = Embedded.open(directory / "embed", directory / "prepare", "train")
    told = {name: torch.from_numpy(np.array(rows[:1])) for name, rows in found.told.items()}
    with torch.no_grad():
        ours = recipe.base.said(net, x.float(), time, told)
    said = seen["said"]
    if said.dim() == 3:
        said = pipeline._unpack_latents(said, 16, 16, 2)
    torch.testing.assert_close(ours, said, rtol=1e-4, atol=1e-5)


def test_fresh_adapters_change_nothing_and_learning_lowers_the_error(learnt):
    config, directory, recipe = learnt
    torch.manual_seed(3)
    base = recipe.nets()["model"].eval()
    plain = load_net(config.model.pretrained, recipe.base).eval()
    fresh, bare = errors_of(recipe, base, "train"), errors_of(recipe, type(base)(recipe.base, plain), "train")
    np.testing.assert_allclose(fresh, bare, rtol=1e-5)
    pipeline = load_learnt(config, directory / "train")
    after = errors_of(recipe, type(base)(recipe.base, getattr(pipeline, recipe.base.net)), "train")
    assert after.mean() < bare.mean()


def test_what_learns_are_the_adapters_alone(learnt):
    _, _, recipe = learnt
    net = recipe.nets()["model"]
    trained = {name for name, parameter in net.named_parameters() if parameter.requires_grad}
    assert trained and all("lora_" in name for name in trained)


def test_the_published_adapters_draw_what_the_live_model_draws(learnt, tmp_path):
    config, directory, _ = learnt
    exported.write(config, directory / "prepare", directory / "train", tmp_path)
    [live] = load_samplers(config, directory / "prepare", directory / "train").values()
    captions = exported.labels(directory / "prepare", directory / "train", 2)
    drawn = exported.load(tmp_path)([0, 1], captions)
    assert np.array_equal(drawn, live([0, 1], captions))
    bare = drawing(load_pipeline(config.model.pretrained), config.sampler, 16)([0, 1], captions)
    assert not np.array_equal(drawn, bare)
    assert np.array_equal(drawn[1:], live([1], captions[1:]))  # whatever is drawn beside it


def test_one_caption_may_stand_for_every_picture(pictures, tmp_path):
    base = write_base(KINDS[0], tmp_path / "base")
    config = config_of(base, pictures, "data.caption=a photo of sks dog")
    prepare.run(context_of(SimpleNamespace(data=config.data), "prepare", tmp_path / "prepare"))
    assert json.loads((tmp_path / "prepare/classes.json").read_text()) == ["a photo of sks dog"]
    with pytest.raises(UserError, match="caption is of source folder"):
        config_of(base, pictures, "data.caption=a dog", "data.source=parquet")


def test_what_cannot_be_taught_is_refused_before_a_weight_loads(pictures, tmp_path):
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError, match="has no model_index.json"):
        base_of(str(tmp_path / "empty"))
    (tmp_path / "empty/model_index.json").write_text('{"_class_name": "StableDiffusion2Pipeline"}')
    with pytest.raises(UserError, match="is a StableDiffusion2Pipeline\ndid you mean 'StableDiffusion"):
        base_of(str(tmp_path / "empty"))
    base = write_base(KINDS[0], tmp_path / "base")
    for part in ("unet", "vae", "text_encoder"):  # what is refused needs no weights
        for file in (tmp_path / "base" / part).glob("*.safetensors"):
            file.unlink()
    with pytest.raises(UserError, match=re.escape("no layer's name ends in 'to_quack'")):
        train.check(config_of(base, pictures, "train.target_modules=[to_quack]"))
    with pytest.raises(
        UserError, match="data.image_size = 18 is not a multiple of 4.*\nway out: data.image_size=20"
    ):
        embed.check(config_of(base, pictures, "data.image_size=18"))
    flow = write_base(KINDS[2], tmp_path / "flow")
    with pytest.raises(UserError, match="min_snr_gamma weighs noise and v; this base predicts the velocity"):
        train.check(config_of(flow, pictures, "train.min_snr_gamma=5"))
