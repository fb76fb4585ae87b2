"""Catches an image recipe that breaks between its stages, draws by its neighbours, or publishes other pictures."""

import importlib
import json
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from pipeline.run.artifact import verify_chain
from pipeline.run.stage import open_recipe
from recipes.common.export import compare, drawn_afresh
from tests.exhaustive import exhaustive
from tests.whole.command import ROOT, headwater, headwater_here, listing, manifest

# diffusers 0.42 turns tensors into arrays in numpy's old way.
pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation doesn't accept:DeprecationWarning")

# Each family's digits, with a few steps of everything; the pictures are noise, the path is the whole one.
SHORT = (
    "data.max_images=400",
    "features.max_steps=3",
    "features.warmup_steps=0",
    "train.max_steps=4",
    "train.warmup_steps=0",
    "evaluate.samples=30",
    "evaluate.resamples=20",
    "sample.samples=20",
    "export.pictures=10",
    "run.sample_steps=2",
    "run.eval_steps=2",
    "run.save_steps=2",
    "run.logging_steps=1",
    "run.threads=1",
)
OWN = {
    "vae": ("evaluate.importance_samples=2", "evaluate.pictures=30"),
    # Its nets say nothing at first, and of a label less still: large steps are heard after four.
    "diffusion": ("train.learning_rate=0.05", "sampler.steps=3", "sampler.others=[]", "evaluate.pictures=30"),
    "pixelcnn": ("train.learning_rate=0.05", "evaluate.pictures=30"),
    "gan": ("train.critic.warmup_steps=0", "train.generator.warmup_steps=0"),
}
USE = ("utility.seeds=1", "utility.max_steps=2", "utility.samples=20", "utility.real=20")
STAGES = {"prepare", "features", "train", "evaluate", "sample", "export", "report"}


def short(family: str, output: Path, *more: str) -> list[str]:
    loops = [part for part in SHORT if not (family == "gan" and part == "train.warmup_steps=0")]
    return [f"recipes/{family}/digits.yaml", f"run.output_dir={output}", *loops, *OWN[family], *more]


# One of one net and one of two. The others have the same stages, their nets are asked in tests/test_recipes.py, and
# tests of pictures from words and of designs run a diffusion model's.
FAMILIES = ["vae", "gan", *(exhaustive(name) for name in ("diffusion", "pixelcnn"))]


@pytest.fixture(scope="module", params=FAMILIES)
def finished(request, tmp_path_factory):
    """(family, the directory of its run, how the command ended)."""
    output = tmp_path_factory.mktemp(request.param) / "run"
    return request.param, output, headwater("run", *short(request.param, output))


def test_every_stage_is_made(finished):
    family, output, done = finished
    assert (done.code, done.err) == (0, "")
    assert STAGES <= {path.parent.name for path in output.glob("*/artifact.json")}
    assert manifest(output, "train")["made"]["world_size"] == 2
    assert manifest(output, "export")["metrics"]["pictures_equal"] == 10


def test_the_summary_is_one_screen_of_the_scores_that_matter(finished):
    family, output, done = finished
    lines = done.out.partition("Made in ")[2].splitlines()
    assert len(lines) <= 24
    titles = [line.strip().split(" (")[0] for line in lines if line.endswith("is better)")]
    headline = importlib.import_module(f"recipes.{family}").HEADLINE
    measured = {
        score["name"] for score in json.loads((output / "evaluate/evaluation.json").read_text())["scores"]
    }
    assert titles == [name for name in headline if name in measured][:3] and len(titles) == 3
    for told in (f"Pictures: {output}/sample: ", f"{output}/report/report.html", f"export {output} --push"):
        assert any(told[:80] in line for line in lines), told


def test_the_same_command_again_does_nothing(finished):
    family, output, _ = finished
    before = listing(output)
    again = headwater("run", *short(family, output))
    assert again.code == 0 and "up to date, nothing to do" in again.out
    assert listing(output) == before
    assert again.seconds < 10  # measured 0.3 on idle cores


def test_a_use_leaves_the_finished_stages_as_they_are_and_is_the_next_to_be_made(finished):
    family, output, _ = finished
    done = headwater_here("run", *short(family, output, *USE), "--dry-run")
    assert done.code == 0, done.err
    decided = {line.split()[0]: line.split()[1] for line in done.out.splitlines()}
    assert {stage for stage, decision in decided.items() if decision == "run"} == {"utility"}


# The stage is one for all. What differs by family is the sampler and the settings: other tests here meet them in each.
@pytest.mark.parametrize("finished", ["vae", exhaustive("diffusion"), exhaustive("gan")], indirect=True)
def test_a_use_of_a_finished_model_is_made_beside_it_and_shown(finished):
    family, output, _ = finished
    before = {stage: manifest(output, stage)["made"]["started"] for stage in STAGES - {"report"}}
    done = headwater("run", *short(family, output, *USE))
    assert (done.code, done.err) == (0, "")
    assert {stage: manifest(output, stage)["made"]["started"] for stage in before} == before
    assert "accuracy after training on these pictures" in (output / "report" / "report.html").read_text()
    assert headwater("run", *short(family, output)).code == 0  # and without it again


def test_the_chain_verifies_down_to_the_pictures(finished):
    _, output, _ = finished
    chain = [link.stage for link in verify_chain(output / "export")]
    assert chain[0] == "prepare" and chain[-1] == "export" and "train" in chain


def test_the_report_shows_sheets_scores_and_the_pictures_over_training(finished):
    _, output, _ = finished
    page = (output / "report" / "report.html").read_text()
    assert 'id="scores"' in page and 'id="images"' in page and 'id="ledger"' in page
    assert "samples, step 2<" in page and "samples, step 4<" in page
    assert page.count("✓") >= 2 and "does not balance" not in page


def test_the_plan_knows_the_size_of_both_trainings(finished):
    family, output, _ = finished
    done = headwater_here("plan", *short(family, output.parent / "elsewhere"))
    assert done.code == 0, done.err
    assert done.out.count("parameters: ") == 2 and not (output.parent / "elsewhere").exists()


def test_picture_i_is_picture_i_whatever_is_drawn_beside_it(finished):
    family, output, _ = finished
    samplers = samplers_of(family, output)
    seeds, labels = list(range(40, 52)), [place % 10 for place in range(12)]
    for name, sampler in samplers.items():
        together = sampler(seeds, labels)
        assert together.dtype == np.uint8 and together.shape == (12, 8, 8, 1), name
        assert len(np.unique(together, axis=0)) == 12
        assert np.array_equal(sampler(seeds[7:8], labels[7:8]), together[7:8]), name
        assert np.array_equal(sampler(seeds[::-1], labels[::-1]), together[::-1]), name


def test_the_label_is_heard(finished):
    family, output, _ = finished
    for sampler in samplers_of(family, output).values():
        assert not np.array_equal(sampler([1, 2], [3, 3]), sampler([1, 2], [4, 4]))


def samplers_of(family: str, output: Path):
    config, _ = open_recipe(ROOT / "recipes" / family / "digits.yaml", list(short(family, output)[1:]))
    module = importlib.import_module(f"recipes.{family}.sampler")
    return module.load_samplers(config, output / "prepare", output / "train")


def test_an_export_with_other_weights_draws_other_pictures_and_is_refused(finished, tmp_path):
    family, output, _ = finished
    copied = tmp_path / "export"
    for path in (output / "export").rglob("*"):
        if path.is_file():
            target = copied / path.relative_to(output / "export")
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_bytes(path.read_bytes())
    request = json.loads((copied / "pictures.json").read_text())
    live = next(iter(samplers_of(family, output).values()))(request["seeds"], request["labels"])
    compare(drawn_afresh(family, copied), live)
    weights = next(path for path in sorted(copied.rglob("*.safetensors")))
    disturb(weights)
    with pytest.raises(RuntimeError, match="draws other pictures than the live model"):
        compare(drawn_afresh(family, copied), live)


def disturb(path: Path) -> None:
    """Add a little to every weight."""
    tensors = {name: tensor + 0.05 * (tensor.dtype.kind == "f") for name, tensor in load_file(path).items()}
    save_file({name: np.ascontiguousarray(value) for name, value in tensors.items()}, path)


def test_the_card_says_where_the_model_comes_from(finished):
    _, output, _ = finished
    card = (output / "export" / "README.md").read_text()
    prepared = json.loads((output / "prepare" / "artifact.json").read_text())
    assert card.startswith("---\nlicense: ") and "BSD-3-Clause" in card
    assert "pictures_equal".replace("_", " ") in card and prepared["stage"] in card
