"""Catches designs that are not what was asked for: an export with another table, a hidden value that shows, noise that
shrinks between two designs."""

import json
import math
import subprocess
import sys
from dataclasses import asdict

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from pipeline.run.errors import UserError
from recipes.design import exported
from recipes.design.asked import digits_of, label_of, labels_in
from recipes.design.attributes import Known
from recipes.design.design import Design, SumOfValues, plain
from recipes.design.explore import Design as Chosen
from recipes.design.explore import between, drawn, found, near, write_blended, write_drawn, write_varied
from recipes.design.page import Shown, page_of
from recipes.design.sampler import load_pipeline, load_samplers
from recipes.diffusion.nets import attend_plainly
from tests.design.cases import config_of, write_attributes

DIT = "{kind: dit, patch_size: 2, hidden_size: 32, num_hidden_layers: 2, num_attention_heads: 2}"

# diffusers 0.42 turns tensors into arrays in numpy's old way.
pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation doesn't accept:DeprecationWarning")


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """(config, its directory): pictures, attributes and a net of random weights, as a finished `train` leaves them."""
    directory = tmp_path_factory.mktemp("run")
    config = config_of(f"run.output_dir={directory}", "train.ema_decay=0", "sampler.steps=2")
    prepared, known = write_attributes(directory, config)
    torch.manual_seed(0)
    recipe = Design(config, prepared, known)
    net = recipe.nets()["model"]
    for parameter in net.parameters():  # a fresh net ends in zeros and would say nothing
        torch.nn.init.normal_(parameter, std=0.15)
    trained = directory / "train"
    trained.mkdir()
    save_file(
        {name: tensor.contiguous() for name, tensor in net.state_dict().items()},
        trained / "model.safetensors",
    )
    (trained / "nets.json").write_text(json.dumps(recipe.described()))
    (trained / "artifact.json").touch()
    return config, directory


@pytest.mark.parametrize("net", ["", f"model.net={DIT}"], ids=["U-Net", "DiT"])
def test_the_net_that_is_published_says_what_the_one_that_learnt_says(run, net):
    config = config_of(*([net] if net else []))
    recipe = Design(config, run[1] / "prepare", run[1] / "attributes")
    learnt = recipe.nets()["model"]
    for parameter in learnt.parameters():
        torch.nn.init.normal_(parameter, std=0.1)
    attributes = recipe.known.attributes
    published = plain(learnt, config.model.net, recipe.shape, attributes)
    attend_plainly(published)  # as the one that learns does
    assert not any(isinstance(module, SumOfValues) for module in published.modules())
    labels = torch.arange(0, labels_in(attributes), 7)
    x, times = torch.randn(len(labels), 1, 8, 8), torch.linspace(0, 999, len(labels))
    with torch.no_grad():
        said = [
            one.eval()(x, times, class_labels=labels, return_dict=False)[0] for one in (learnt, published)
        ]
    assert torch.equal(*said)
    assert len({tuple(row.flatten().tolist()) for row in said[0]}) == len(labels)


def test_a_label_is_the_sum_of_its_values():
    from tests.design.test_attributes import KNOWN

    table = SumOfValues(KNOWN, 5)
    rows = table(torch.arange(36))
    for label in range(36):
        parts = [one.weight[digit] for one, digit in zip(table.tables, digits_of(KNOWN, label), strict=True)]
        assert torch.equal(rows[label], parts[0] + parts[1] + parts[2])


def test_values_are_hidden_by_the_share_asked_for_each_by_itself(run):
    config = config_of("attributes.dropout=0.3", "train.condition_dropout=0.1")
    recipe = Design(config, run[1] / "prepare", run[1] / "attributes")
    attributes, train = recipe.known.attributes, recipe.data()
    items = [train.item(index) for index in range(2000)]
    truth = recipe.images("train").labels
    order = [train.images.item(index)["label"] for index in range(2000)]
    assert set(map(int, order)) <= set(truth.tolist())
    hidden = np.array(
        [
            [
                digit == one.open
                for digit, one in zip(digits_of(attributes, int(item["label"])), attributes, strict=True)
            ]
            for item in items
        ]
    )
    assert np.abs(hidden.mean(axis=0) - 0.3).max() < 0.04
    both = (hidden[:, 0] & hidden[:, 1]).mean()
    assert abs(both - 0.09) < 0.03
    for item, label in zip(items, order, strict=True):  # what is not hidden is the picture's own
        own, kept = digits_of(attributes, int(label)), digits_of(attributes, int(item["label"]))
        assert all(b in (a, one.open) for a, b, one in zip(own, kept, attributes, strict=True))
    batch = recipe.collate(items[:64])
    said = recipe.labels(batch)
    assert said is not None and (said[batch["hidden"]] == recipe.known.null).all()
    assert (said[~batch["hidden"]] == batch["label"][~batch["hidden"]]).all()


def test_a_page_design_is_what_its_seed_and_request_draw(run):
    config, directory = run
    pipeline, attributes = load_pipeline(config, directory / "train")
    text = "garment=3, tone=dark"
    (sampler,) = load_samplers(config, directory / "prepare", directory / "train").values()
    alone = sampler([5, 6], [label_of(attributes, text)] * 2)
    designs = [Chosen({5: 1.0}, {text: 1.0}), Chosen({6: 1.0}, {text: 1.0})]
    assert np.array_equal(drawn(pipeline, attributes, designs), alone)
    assert not np.array_equal(alone[0], alone[1])


def test_between_two_designs_noise_keeps_its_length_and_the_ends_are_the_designs(run):
    config, directory = run
    pipeline, attributes = load_pipeline(config, directory / "train")
    first = Chosen({5: 1.0}, {"garment=3": 1.0})
    second = near(Chosen({9: 1.0}, {"garment=4, tone=light": 1.0}), seed=77, strength=0.6)
    for share in (0.0, 0.25, 0.5, 1.0):
        between_ = between(first, second, share)
        assert math.fsum(weight**2 for weight in between_.noise.values()) == pytest.approx(1)
        assert math.fsum(between_.request.values()) == pytest.approx(1)
    ends = drawn(pipeline, attributes, [between(first, second, 0.0), between(first, second, 1.0)])
    exact = drawn(pipeline, attributes, [first, second])
    assert np.abs(ends.astype(int) - exact).max() <= 1  # weights of 1e-17 are left of the other end
    middle = drawn(pipeline, attributes, [between(first, second, 0.5)])
    assert not np.array_equal(middle[0], exact[0]) and not np.array_equal(middle[0], exact[1])
    assert between(first, first, 0.5) == first


def test_a_variation_of_a_variation_is_still_noise():
    design = Chosen({1: 1.0}, {"": 1.0})
    for seed in (2, 3, 2):
        design = near(design, seed, 0.5)
    # A seed that comes again adds to its own weight, and drawn() brings the length back.
    assert set(design.noise) == {1, 2, 3}


def test_the_verbs_write_pictures_that_the_next_verb_can_choose_from(run, tmp_path):
    config, directory = run
    said = write_drawn(config, "tone=dark", tmp_path / "a", 3, seed=40)
    assert said == f"{tmp_path / 'a'}: 3 designs of 'tone=dark'"
    assert sorted(path.name for path in (tmp_path / "a").iterdir()) == [
        *("0.png", "1.png", "2.png", "designs.json", "sheet.png")
    ]
    write_varied(config, f"{tmp_path / 'a'}:1", tmp_path / "b", 2, strength=0.3, seed=0)
    assert (tmp_path / "b/0.png").read_bytes() == (tmp_path / "a/1.png").read_bytes()
    assert (tmp_path / "b/1.png").read_bytes() != (tmp_path / "b/2.png").read_bytes()
    write_blended(config, f"{tmp_path / 'a'}:1", f"{tmp_path / 'b'}:2", tmp_path / "c", 3)
    assert (tmp_path / "c/0.png").read_bytes() == (tmp_path / "a/1.png").read_bytes()
    assert (tmp_path / "c/2.png").read_bytes() == (tmp_path / "b/2.png").read_bytes()


@pytest.mark.parametrize(
    "call, told",
    [
        (lambda config, out: write_drawn(config, "tone=drak", out, 1, 0), "did you mean 'dark'"),
        (lambda config, out: write_varied(config, "0", out, 1, 0.3, 0), "designs.json is not there"),
        (lambda config, out: write_varied(config, "0", out, 1, 1.5, 0), "--strength 1.5"),
        (lambda config, out: write_blended(config, "0", "1", out, 1), "--count 1"),
    ],
)
def test_what_cannot_be_drawn_is_refused_and_writes_nothing(run, tmp_path, call, told):
    with pytest.raises(UserError, match=told):
        call(run[0], tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_design_that_is_not_on_the_page_is_told_how_many_are(run, tmp_path):
    write_drawn(run[0], "", tmp_path / "a", 2, 0)
    with pytest.raises(UserError, match="has the designs 0 to 1"):
        found(run[0], f"{tmp_path / 'a'}:2")
    with pytest.raises(UserError, match="is there already"):
        write_drawn(run[0], "", tmp_path / "a", 2, 0)


def test_an_export_draws_requests_by_diffusers_and_its_own_files_alone(run, tmp_path):
    config, directory = run
    exported.write(config, directory / "prepare", directory / "train", tmp_path / "export")
    labels = exported.labels(directory / "prepare", directory / "train", 6)
    assert len(set(labels)) == 6
    (sampler,) = load_samplers(config, directory / "prepare", directory / "train").values()
    assert np.array_equal(
        exported.load(tmp_path / "export")(list(range(6)), labels), sampler(list(range(6)), labels)
    )
    script = exported.USAGE.replace("DIRECTORY", str(tmp_path / "export")).replace(
        '"picture.png"', f'"{tmp_path / "picture.png"}"'
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "picture.png").is_file()


def test_the_page_shows_every_design_with_its_number_and_filters_by_value():
    from tests.design.test_attributes import KNOWN

    picture = np.zeros((8, 8, 1), np.uint8)
    requests = ["garment=Dress, tone=dark", "garment=Ankle boot"]
    shown = [Shown(requests[place // 2], picture, picture) for place in range(4)]
    page = page_of("runs/x", KNOWN, shown)
    assert [f'data-id="{place}"' in page for place in range(5)] == [True] * 4 + [False]
    assert page.count("<section") == 2 and page.count("data:image/png") == 8
    assert '<option value="dark">dark</option>' in page and 'value="light"' not in page
    assert "script-src &#x27;sha256-" in page or "script-src 'sha256-" in page


def test_the_held_out_pictures_of_the_recipe_have_their_own_labels(run):
    recipe = Design(run[0], run[1] / "prepare", Known.open(run[1] / "attributes"), None)
    assert asdict(recipe.shape)["classes"] == labels_in(recipe.known.attributes) - 1
    with pytest.raises(AssertionError):
        recipe.images("train")  # by attributes alone it has no labels
