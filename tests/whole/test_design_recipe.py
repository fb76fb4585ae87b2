"""Catches a design recipe that breaks between its stages, a page whose numbers draw other pictures, verbs that fail."""

import json

import numpy as np
import pytest
from PIL import Image

from pipeline.run.artifact import verify_chain
from tests.design.cases import DIGITS
from tests.whole.command import headwater, manifest

# diffusers 0.42 turns tensors into arrays in numpy's old way.
pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation doesn't accept:DeprecationWarning")

SHORT = (
    *DIGITS,
    "data.max_images=400",
    "features.max_steps=30",
    "features.warmup_steps=0",
    "train.max_steps=4",
    "train.learning_rate=0.05",
    "sampler.steps=3",
    "evaluate.samples=30",
    "evaluate.resamples=20",
    "evaluate.pictures=30",
    "evaluate.requests=4",
    "evaluate.unseen_requests=2",
    "evaluate.least=3",
    "evaluate.pictures_a_request=3",
    "sample.requests=[tone=dark, 'garment=3, size=large']",
    "sample.each=2",
    "export.pictures=6",
    "run.sample_steps=4",
    "run.eval_steps=4",
    "run.save_steps=4",
    "run.logging_steps=1",
    "run.threads=1",
)


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """(the words of the command, the directory of its run, how it ended)."""
    output = tmp_path_factory.mktemp("design") / "run"
    words = ["recipes/design/fashion_mnist.yaml", *SHORT, f"run.output_dir={output}"]
    return words, output, headwater("run", *words)


def pixels(path) -> np.ndarray:
    return np.asarray(Image.open(path))


def test_every_stage_is_made_and_verifies_down_to_the_pictures(finished):
    _, output, done = finished
    assert (done.code, done.err) == (0, "")
    made = {path.parent.name for path in output.glob("*/artifact.json")}
    assert made == {"prepare", "attributes", "features", "train", "evaluate", "sample", "export", "report"}
    assert manifest(output, "train")["made"]["world_size"] == 2
    assert manifest(output, "export")["metrics"]["pictures_equal"] == 6
    assert len(verify_chain(output / "export")) >= 6


def test_requests_are_scored_beside_real_pictures_and_chance(finished):
    _, output, _ = finished
    scores = json.loads((output / "evaluate/evaluation.json").read_text())["scores"]
    table = {(score["name"], score["model"]): score for score in scores}
    ours = next(model for name, model in table if name == "requests met" and model.startswith("EMA"))
    for name in ("requests met", *(f"requests met, {one}" for one in ("garment", "tone", "size"))):
        for model in (ours, f"values never seen together, {ours}", "real pictures", "chance"):
            assert 0 <= table[name, model]["value"] <= 1
    # Measured values of real pictures are what their measure says.
    assert table["requests met, tone", "real pictures"]["value"] == 1
    assert table["requests met", ours]["count"] == 4 * 3
    whole = table["requests met", "real pictures"]
    assert whole["value"] == table["requests met, garment", "real pictures"]["value"] < 1
    assert table["variety within a request", "real pictures"]["value"] > 0
    assert "requests met" in finished[2].out


def test_the_page_has_the_designs_that_the_verbs_find(finished, tmp_path):
    _, output, _ = finished
    page = (output / "sample/page.html").read_text()
    assert page.count('class="design"') == 4 and "garment=3, size=large" in page
    sheet = pixels(output / "sample/designs.png")
    assert sheet.shape[:2] == (2 * 8 + 1, 2 * 8 + 1)
    done = headwater("vary", str(output), "3", str(tmp_path / "near"), "--count", "2", "--strength", "0.2")
    assert (done.code, done.err) == (0, "")
    assert np.array_equal(
        pixels(tmp_path / "near/0.png"), sheet[9:, 9:]
    )  # design 3: second row, second column
    done = headwater(
        "blend", str(output), "0", f"{tmp_path / 'near'}:2", str(tmp_path / "way"), "--count", "3"
    )
    assert (done.code, done.err) == (0, "")
    assert np.array_equal(pixels(tmp_path / "way/0.png"), sheet[:8, :8])
    assert np.array_equal(pixels(tmp_path / "way/2.png"), pixels(tmp_path / "near/2.png"))
    done = headwater("draw", str(output), "tone=drak", str(tmp_path / "no"))
    assert done.code == 2 and "did you mean 'dark'" in done.err and not (tmp_path / "no").exists()


def test_the_same_command_again_does_nothing(finished):
    words, _, _ = finished
    done = headwater("run", *words)
    assert done.code == 0
    assert "all 8 stages" in done.out and "nothing to do" in done.out
    assert ": running" not in done.out
