"""Catches a report that loses a number, hides a NaN or a spike, fetches something, or lets a sample become markup."""

import base64
import io
import json
import math
import re
from html.parser import HTMLParser

import pytest
from fake_run import LEDGERS, METRICS, SAMPLES, SCORES, files_of, made_of, make_run, png

from pipeline import report
from pipeline.publish.html.charts import Series, downsample, line_chart, scale_of, tick_labels
from pipeline.publish.html.element import VOID, Markup, element
from pipeline.publish.html.record import balances
from pipeline.publish.html.training import groups
from pipeline.run import artifact
from pipeline.run.results import read_log
from pipeline.run.stage import execute
from recipes.llm import stages

SHAPES = ("path", "line", "circle", "rect")


class Page(HTMLParser):
    """The elements of a page as (tag, attributes), its text, and the tags that are not closed in order."""

    def __init__(self, text):
        super().__init__()
        self.elements, self.texts, self.open, self.wrong = [], [], [], []
        self.feed(text)

    def handle_starttag(self, tag, attributes):
        self.elements.append((tag, dict(attributes)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag):
        if not self.open or self.open.pop() != tag:
            self.wrong.append(tag)

    def handle_data(self, data):
        self.texts.append(data)

    @property
    def text(self):
        return "".join(self.texts)


def publish_report(output, **changes):
    config = make_run(output, **changes)
    *_, last = stages(config)
    execute(config, stages(config), last, io.StringIO())
    return (output / "report" / "report.html").read_text()


def render(output, upto, **changes):
    """The page of a run that got as far as `upto`."""
    config = make_run(output, upto=upto, **changes)
    found = [artifact.read(output / stage.name) for stage in stages(config)]
    made = [one for one in found if one]
    return report.render(
        "quickstart", json.loads(config.model_dump_json()), made, report.logs_of(output / "logs", made)
    )


@pytest.fixture(scope="module")
def text(tmp_path_factory):
    return publish_report(tmp_path_factory.mktemp("run") / "quickstart")


def figures_of(text):
    """Every number of a page's text and titles, separators removed."""
    page = Page(text)
    titles = [attributes["title"] for _, attributes in page.elements if "title" in attributes]
    said = " ".join([page.text, *titles])
    return {float(found.replace(",", "")) for found in re.findall(r"-?\d[\d,]*(?:\.\d+)?(?:e-?\d+)?", said)}


@pytest.mark.parametrize("score", SCORES, ids=lambda score: f"{score[0]}/{score[1]}")
def test_every_score_is_there_with_its_interval_count_and_protocol(text, score):
    name, model, value, interval, unit, count, protocol, better = score
    page = Page(text)
    assert {value, *(interval or ()), count} <= figures_of(text)
    assert all(
        part in page.text for part in (name, model, unit, protocol, f"n = {count}", f"{better} is better")
    )


def test_every_count_of_the_ledger_is_there_and_balances(text):
    assert {count for row in LEDGERS for count in row[1:]} <= figures_of(text)
    assert "410,233 in = 402,119 kept + 6,004 truncated + 2,110 dropped ✓" in Page(text).text
    assert "1,612 rows × 256 = 402,119 placed + 10,553 padded ✓" in Page(text).text


def test_a_ledger_that_does_not_balance_says_so():
    entry = {
        "tokens_in": 10,
        "kept": 8,
        "truncated": 0,
        "dropped": 1,
        "rows": 2,
        "row_length": 4,
        "inputs": 8,
        "padded": 1,
    }
    assert [holds for _, holds in balances(entry)] == [False, False]
    assert [holds for _, holds in balances(entry | {"dropped": 2, "padded": 0})] == [True, True]


@pytest.mark.parametrize("stage", METRICS)
def test_how_every_stage_was_made_is_there(text, stage):
    def leaves(tree):
        return [
            leaf
            for value in tree.values()
            for leaf in (leaves(value) if isinstance(value, dict) else [value])
        ]

    told = leaves(METRICS[stage]) + leaves(made_of(stage))
    assert {value for value in told if isinstance(value, int | float)} <= figures_of(text)
    strings = [value for value in told if isinstance(value, str)]
    assert strings and all(value in text for value in strings)
    assert f"-m pipeline.{stage} recipes/llm/quickstart.yaml" in Page(text).text


def test_lineage_names_every_digest_input_and_file(tmp_path):
    text = publish_report(tmp_path / "run")
    made = [artifact.read(path) for path in (tmp_path / "run").iterdir() if path.name != "report"]
    made = [one for one in made if one]
    assert len(made) == 6
    for one in made:
        assert one.digest in Page(text).text
        assert all(given["digest"] in text for given in one.inputs.values())
        assert all(name in text and file["sha256"] in text for name, file in one.files.items())
        assert {len(one.files), *(file["size"] for file in one.files.values())} <= figures_of(text)


def test_curves_tell_each_lines_ends_and_extremes(tmp_path):
    text = publish_report(tmp_path / "run")
    log = read_log(tmp_path / "run" / "logs" / "finetune.metrics.jsonl")
    values = [value for _, value in log.series["loss"]]
    told = [
        f"{values[0]:.4g} → {values[-1]:.4g}",
        f"lowest {min(values):.4g} at 110",
        f"highest {max(values):.4g} at 10",
    ]
    assert "; ".join([told[0], ", ".join(told[1:]), "12 values"]) in Page(text).text
    assert "held-out" in Page(text).text


def test_resolved_settings_are_there_defaults_included(text):
    assert "learning_rate: 0.002" in Page(text).text and "adam_beta2: 0.95" in Page(text).text


def test_samples_keep_prompt_and_continuation_apart(text):
    for _, prompt, _, _, continuation, _, _ in SAMPLES:
        assert prompt in Page(text).text and continuation in Page(text).text
    assert '<span class="prompt">import os\n\ndef </span><span class="text">split_root' in text
    assert "ended by itself" in text and "cut at the limit" in text


def test_a_sample_cannot_become_markup(tmp_path):
    hostile = "</pre><script>alert(1)</script><img src=x onerror=alert(2)>\"'&amp;"
    sample = {key: hostile for key in ("kind", "prompt", "decoding", "text")}
    score = {
        "name": hostile,
        "model": hostile,
        "value": 1.0,
        "unit": hostile,
        "protocol": hostile,
        "better": "lower",
    }

    def files(stage):
        hostiles = {
            "samples.json": json.dumps([sample]),
            "evaluation.json": json.dumps({"scores": [score, score]}),
        }
        return files_of(stage) | (hostiles | {"<b>.txt": ""} if stage == "generate" else {})

    text = publish_report(tmp_path / "run", files=files)
    page = Page(text)
    assert {tag for tag, _ in page.elements} & {"script", "img", "b", "iframe", "object"} <= {"b"}
    assert not any("onerror" in attributes for _, attributes in page.elements)
    assert page.text.count(hostile) >= 6 and "&lt;b&gt;.txt" in text


def test_every_element_is_closed_in_order(text):
    page = Page(text)
    assert page.open == [] and page.wrong == []


def test_nothing_is_fetched_and_nothing_runs(text):
    elements = Page(text).elements
    assert {tag for tag, _ in elements}.isdisjoint(
        {"script", "link", "iframe", "object", "embed", "base", "form"}
    )
    for _, attributes in elements:
        assert all(
            re.match("#|data:", attributes[key] or "")
            for key in ("src", "href", "xlink:href")
            if key in attributes
        )
        assert not any(key.startswith("on") for key in attributes)
    assert "url(" not in text and "@import" not in text
    policy = next(attributes["content"] for _, attributes in elements if "http-equiv" in attributes)
    assert "default-src 'none'" in policy


def test_broken_values_are_marked_and_never_drawn(text):
    assert "× 1 not finite, at 250" in Page(text).text
    assert Page(text).texts.count("×") == 1
    shapes = [attributes for tag, attributes in Page(text).elements if tag in SHAPES]
    assert shapes and not any(
        "nan" in value.lower() or "inf" in value for one in shapes for value in one.values() if value
    )


def test_a_broken_value_breaks_the_line_and_neighbours_stay():
    points = [(1, 1.0), (2, math.nan), (3, 2.0), (4, -math.inf), (5, 3.0), (6, 4.0)]
    (path,) = [
        given["d"]
        for tag, given in Page(line_chart("x", "", "step", [Series("x", points)])).elements
        if tag == "path"
    ]
    assert path.count("M") == 3 and path.count("L") == 1


def test_a_chart_of_broken_values_alone_is_drawn():
    chart = line_chart("loss", "", "step", [Series("training", [(1, math.nan), (2, math.nan)])])
    assert "2 not finite, at 1, 2" in chart


@pytest.mark.parametrize("length", [401, 997, 5_000, 20_011])
def test_spikes_survive_downsampling(length):
    points = [(step, 1.0 + step / length) for step in range(length)]
    special = {length // 3: 50.0, length // 3 + 1: -50.0, length // 2: math.inf, length - 2: 40.0}
    for index, value in special.items():
        points[index] = (index, value)
    kept = downsample(points)
    assert len(kept) <= 400
    assert {(index, value) for index, value in special.items()} <= set(kept)
    assert (
        kept[0] == points[0] and kept[-1] == points[-1] and kept == sorted(kept, key=lambda point: point[0])
    )


def test_few_points_stay_as_they_are():
    points = [(step, float(step % 7)) for step in range(400)]
    assert downsample(points) == points


def test_ticks_are_round_and_cover_the_values():
    assert scale_of([1.42, 8.9]).ticks == [0.0, 2.0, 4.0, 6.0, 8.0, 10.0]
    assert tick_labels(scale_of([0.22, 0.53], count=4, rounded=False)) == ["0.3", "0.4", "0.5"]
    assert tick_labels(scale_of([0.0, 0.002])) == ["0", "0.0005", "0.0010", "0.0015", "0.0020"]
    assert tick_labels(scale_of([4.0e11, 8.1e11])) == ["400 G", "500 G", "600 G", "700 G", "800 G", "900 G"]
    assert scale_of([5.0]).percent(5.0) == 50.0 and scale_of([0.0]).percent(0.0) == 0.0


def test_nets_splits_and_numbers_share_a_chart():
    keys = [
        "critic/loss",
        "generator/loss",
        "eval_loss",
        "samples",
        "eval_mode_0_share",
        "eval_mode_1_share",
        "top_5",
    ]
    found = groups({key: [(1, 1.0)] for key in keys})
    labels = {name: [line.label for line in lines] for name, lines in found.items()}
    assert labels["loss"] == ["training critic", "training generator", "held-out"]
    assert labels["mode_n_share"] == ["0", "1"]
    assert list(labels) == ["loss", "mode_n_share", "top_5"]


def test_torn_lines_of_a_log_are_counted(tmp_path):
    path = tmp_path / "train.metrics.jsonl"
    path.write_text(
        '{"step": 1, "loss": 2.0}\n{"step": 2, "loss": 1.5}\n{"step": 3, "lo\n{"step": 2, "loss": 1.25}\n'
    )
    log = read_log(path)
    assert log.unreadable == 1 and log.series == {"loss": [(1, 2.0), (2, 1.25)]}


@pytest.mark.parametrize(
    "upto,absent", [("tokenizer", "ledger"), ("tokenize", "scores"), ("pretrain", "samples")]
)
def test_a_run_with_only_some_files_has_only_their_sections(tmp_path, upto, absent):
    text = render(tmp_path / "run", upto)
    identifiers = {attributes["id"] for tag, attributes in Page(text).elements if tag == "section"}
    links = {attributes["href"] for tag, attributes in Page(text).elements if tag == "a"}
    assert absent not in identifiers and {"cost", "lineage", "configuration", "environment"} <= identifiers
    assert links == {f"#{identifier}" for identifier in identifiers}
    assert ("training" in identifiers) == (upto == "pretrain")


def test_images_are_held_in_the_page(tmp_path):
    image = png(28, 14)
    text = render(tmp_path / "run", "tokenizer", files=lambda stage: {"grids/faces.png": image})
    (shown,) = [attributes for tag, attributes in Page(text).elements if tag == "img"]
    kind, _, content = shown["src"].partition(",")
    assert kind == "data:image/png;base64" and base64.b64decode(content) == image
    assert int(shown["width"]) % 28 == 0 and "grids/faces.png" in Page(text).text


def test_the_same_inputs_give_the_same_page(tmp_path):
    one, two = (render(tmp_path / name / "run", "generate") for name in ("one", "two"))
    assert one == two.replace(str(tmp_path / "two"), str(tmp_path / "one"))


def test_only_markup_passes_unescaped():
    assert element("p", "<b>", Markup("<i></i>"), title='"') == '<p title="&quot;">&lt;b&gt;<i></i></p>'
