"""Catches captions that are learnt for another picture, pictures or prompts that are supervised, an export that says
something else, and scores that take a wrong caption for right."""

import json

import numpy as np
import pytest
import torch
from PIL import Image

from pipeline.run.errors import UserError
from pipeline.train.recipe import Clock
from recipes.captioning import described, export, processor, train
from recipes.captioning.captioner import IGNORED, Captioner
from recipes.captioning.describe import captions_of, written
from recipes.captioning.evaluate import PARTS, _right, same
from recipes.captioning.model import DIRECTORY, load, save
from recipes.captioning.processor import Eyes
from recipes.common.alone import compare
from recipes.common.images.dataset import PreparedImages
from recipes.common.images.scenes import scene_of
from recipes.common.training import trained_here
from tests.captioning.cases import config_of, write_inputs, write_vlm

# peft 0.21 asks in transformers' old way.
pytestmark = pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing` is deprecated:FutureWarning")


@pytest.fixture(scope="module", params=["fresh", "LoRA", "whole"])
def learnt(request, tmp_path_factory):
    """(config, directory, recipe) of a model that has learnt a few pictures by heart."""
    directory = tmp_path_factory.mktemp("run")
    more = [f"run.output_dir={directory}"]
    if request.param != "fresh":
        more += [f"model.pretrained={write_vlm(directory / 'base')}", "model.prompt=describe it"]
    if request.param == "LoRA":
        more += ["train.lora={r: 16, lora_alpha: 32}"]
    loop = ("train.max_steps=200", "train.train_batch_size=16", "train.per_device_train_batch_size=16")
    adam = (
        "train.optim=adamw",
        "train.learning_rate=0.005",
        "train.decay_steps=0.4",
        "train.warmup_steps=10",
    )
    config = config_of(*more, *loop, *adam, "data.max_images=16")
    prepared, made = write_inputs(directory, config)
    recipe = Captioner(config, prepared, made)
    trainer = trained_here(recipe)
    trained = directory / "train"
    trained.mkdir()
    save(recipe.nets()["captioner"], trainer.weights("captioner"), config.train.lora, trained)
    (trained / "artifact.json").touch()
    return config, directory, recipe


def test_only_a_captions_own_tokens_are_supervised(learnt):
    config, directory, recipe = learnt
    split = recipe.held_out()
    items = [split.item(index) for index in range(6)]
    batch = recipe.collate(items)
    images = PreparedImages.open(directory / "prepare", "held_out")
    for row, label in enumerate(images.labels[:6]):
        taught = batch["labels"][row][batch["labels"][row] != IGNORED]
        said = recipe.eyes.processor.tokenizer.decode(taught, skip_special_tokens=True)
        assert " ".join(said.split()) == images.classes[label]
        assert taught[-1] == recipe.eyes.processor.tokenizer.eos_token_id
    assert recipe.count("captioner", batch) == sum(len(item["caption"]) for item in items)
    image = recipe.eyes.processor.tokenizer.convert_tokens_to_ids("<image>")
    assert (batch["labels"] != image).all() and (batch["input_ids"] == image).any(dim=1).all()


def test_a_captions_nats_depend_on_its_picture_and_on_no_neighbour(learnt):
    _, _, recipe = learnt
    net = recipe.nets()["captioner"].eval()
    split = recipe.held_out()
    items = [split.item(index) for index in range(4)]
    rows = lambda given: net(**recipe.collate(given)).reshape(4, -1).sum(dim=1)  # noqa: E731
    with torch.no_grad():
        plain = rows(items)
        items[0] = items[0] | {"image": items[1]["image"]}
        changed = rows(items)
    assert plain[0] != changed[0] and torch.equal(plain[1:], changed[1:])


def test_what_was_learnt_is_said_whatever_stands_beside_it(learnt):
    config, directory, _ = learnt
    model, eyes = load(directory / "train" / DIRECTORY), Eyes(directory / "processor")
    images = PreparedImages.open(directory / "prepare", "train")
    said = written(model, eyes, images.images[:16], config.decoding)
    own = [images.classes[label] for label in images.labels[:16]]
    assert np.mean([one == other for one, other in zip(said, own, strict=True)]) > 0.6
    assert written(model, eyes, images.images[3:5], config.decoding) == said[3:5]


def test_what_learns_is_all_or_the_adapters_alone(learnt):
    config, _, recipe = learnt
    net = recipe.nets()["captioner"]
    names = {name for name, parameter in net.named_parameters() if parameter.requires_grad}
    assert all("lora_" in name for name in names) == bool(config.train.lora)
    batch = recipe.collate([recipe.data().item(index) for index in range(2)])
    recipe.loss("captioner", {"captioner": net}, batch, Clock(0, 0)).total.backward()
    without = [
        name
        for name, parameter in net.named_parameters()
        if parameter.requires_grad and parameter.grad is None
    ]
    assert without == []  # DDP waits for every gradient


def test_an_export_says_the_same_by_transformers_alone(learnt, tmp_path):
    config, directory, _ = learnt
    (tmp_path / "examples").mkdir()
    images = PreparedImages.open(directory / "prepare", "train").images[:3]
    model, eyes = load(directory / "train" / DIRECTORY), Eyes(directory / "processor")
    export.write(model, eyes, config, tmp_path)
    files = []
    for number, picture in enumerate(images):
        files.append(tmp_path / "examples" / f"{number}.png")
        Image.fromarray(picture).save(files[-1])
    live = export.live(model, eyes, images, config)
    assert compare(export.said_afresh(tmp_path, files), live) == 3
    with pytest.raises(RuntimeError, match="the exported directory says"):
        compare(live, [*live[:2], "something else"])


def test_pictures_of_ones_own_are_described_and_others_refused(learnt, tmp_path):
    config, directory, _ = learnt
    picture = PreparedImages.open(directory / "prepare", "train").images[0]
    Image.fromarray(picture).save(tmp_path / "a.png")
    Image.fromarray(picture).resize((48, 48), 0).save(tmp_path / "large.png")
    first, second = captions_of(config, [tmp_path / "a.png", tmp_path / "large.png"])
    assert first and second
    (tmp_path / "b.png").write_text("no picture")
    with pytest.raises(UserError, match="b.png: .*are no picture"):
        captions_of(config, [tmp_path / "b.png"])
    with pytest.raises(UserError, match="way out: a run of recipes/vision_chat"):
        described(config, [tmp_path / "a.png"], "what is it?")
    with pytest.raises(UserError, match="cannot read"):
        captions_of(config, [tmp_path / "c.png"])


def test_a_fresh_processor_gives_pixels_about_zero(learnt):
    config, directory, recipe = learnt
    if config.model.pretrained:
        pytest.skip("a pretrained model's processor is its own")
    picture = np.array(PreparedImages.open(directory / "prepare", "train").images[0])
    given = recipe.eyes([picture])
    expected = torch.from_numpy(picture).permute(2, 0, 1).float() / 127.5 - 1
    torch.testing.assert_close(given["pixel_values"][0], expected, rtol=1e-5, atol=1e-5)
    assert given["input_ids"].shape == (1, 9)


def test_a_caption_is_right_word_for_word_or_the_other_way_round():
    assert same("a red circle above a blue square", "a blue square below a red circle", scenes=True)
    assert not same("a red circle above a blue square", "a blue square above a red circle", scenes=True)
    assert not same("nothing at all", "nothing at all", scenes=True)
    assert same("Red Heart", "red heart", scenes=False)


def test_each_part_is_wrong_where_it_alone_is_wrong():
    own = scene_of("two red circles above a blue square")
    wrong = {
        "colour": "two green circles above a blue square",
        "shape": "two red triangles above a blue square",
        "count": "a red circle above a blue square",
        "relation": "two red circles below a blue square",
    }
    for part, caption in wrong.items():
        said = scene_of(caption)
        assert PARTS[part](said) != PARTS[part](own)
        others = set(PARTS) - {part} - ({"shape", "count", "relation"} if part == "colour" else set())
        assert all(PARTS[other](said) == PARTS[other](own) for other in others), part
    mirrored = scene_of("a blue square below two red circles")
    assert all(values(mirrored) == values(own) for values in PARTS.values())
    [whole, *parts] = _right(
        "model", ["", "two red circles"], ["a red circle", "two red circles"], scenes=True
    )
    assert whole.value == 0.5 and {score.name for score in parts} >= {"captions right, colour"}


def test_what_cannot_work_is_refused_before_anything_runs(tmp_path):
    with pytest.raises(
        UserError, match="model.patch_size = 5 does not divide.*\nexpected one of: 1, 2, 3, 4"
    ):
        processor.check(config_of("model.patch_size=5"))
    with pytest.raises(UserError, match="adapters on fresh weights"):
        train.check(config_of("train.lora={r: 4}"))
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "llama"}))
    with pytest.raises(UserError, match="is a llama, which takes no pictures"):
        processor.check(config_of(f"model.pretrained={tmp_path}"))
    with pytest.raises(UserError, match="model.pretrained: "):
        processor.check(config_of(f"model.pretrained={tmp_path / 'nothing'}"))


def test_long_captions_are_cut_and_counted(tmp_path):
    config = config_of("train.max_length=5", "data.max_images=30")
    write_inputs(tmp_path, config)
    ledger = json.loads((tmp_path / "processor/ledger.json").read_text())["captions"][0]
    assert 0 < ledger["cut_off"] < ledger["captions"] and ledger["longest"] > 5
    recipe = Captioner(config, tmp_path / "prepare", tmp_path / "processor")
    assert max(len(recipe.data().item(index)["caption"]) for index in range(30)) == 5
