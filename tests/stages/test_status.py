"""Catches a status that misstates a stage, a table that wraps, a summary without its command, and heavy imports."""

import json
import subprocess
import sys
from importlib import import_module
from pathlib import Path

import pytest
from fake_run import SCORE_FIELDS, SCORES, SECONDS, files_of, make_run, png

from pipeline.run import artifact
from pipeline.run.status import as_json, render_table, spread, status, summary, timeline
from recipes.gan.ring_scores import PROTOCOL
from recipes.llm import stages
from tests.helpers import ROOT

KEYS = {"stage", "state", "reason", "directory", "seconds", "digest", "metrics"}


def rows_of(output, **changes):
    config = make_run(output, **changes)
    return config, status(config, stages(config))


def test_json_has_a_row_a_stage_with_every_key(tmp_path):
    config, rows = rows_of(tmp_path / "run", upto="pretrain")
    found = json.loads(as_json(rows))
    assert [row["stage"] for row in found] == [stage.name for stage in stages(config)]
    for row in found:
        assert set(row) == KEYS and row["directory"] == str(tmp_path / "run" / row["stage"])
    made, missing = found[:3], found[3:]
    assert [row["state"] for row in made] == ["up to date"] * 3
    assert [row["seconds"] for row in made] == [SECONDS[row["stage"]] for row in made]
    assert all(len(row["digest"]) == 12 and row["metrics"] for row in made)
    assert all(
        (row["state"], row["seconds"], row["digest"], row["metrics"]) == ("run", None, None, {})
        for row in missing
    )


def test_a_conflict_says_why(tmp_path):
    config = make_run(tmp_path / "run", upto="pretrain")
    (tmp_path / "run" / "pretrain" / "model" / "model.safetensors").unlink()
    rows = {row["stage"]: row for row in status(config, stages(config))}
    assert (
        rows["pretrain"]["state"] == "conflict"
        and "model.safetensors is missing" in rows["pretrain"]["reason"]
    )


def test_a_resumption_says_from_where(tmp_path):
    config = make_run(tmp_path / "run", upto="pretrain")
    finetune = next(stage for stage in stages(config) if stage.name == "finetune")
    inputs = {name: artifact.read(tmp_path / "run" / name).digest for name in finetune.inputs}
    checkpoints = tmp_path / "run" / "checkpoints" / "finetune"
    (checkpoints / "step-00000040").mkdir(parents=True)
    (checkpoints / "identity.json").write_text(json.dumps({"identity": finetune.identity, "inputs": inputs}))
    rows = {row["stage"]: row for row in status(config, stages(config))}
    assert (rows["finetune"]["state"], rows["finetune"]["reason"]) == ("resume", "from step-00000040")
    assert "from step-00000040" in render_table(list(rows.values()))


@pytest.mark.parametrize("upto", ["tokenizer", "generate"])
def test_the_table_fits_and_aligns(tmp_path, upto):
    deep = tmp_path / ("a-rather-long-directory-name-" * 4) / "run"
    config, rows = rows_of(deep, upto=upto)
    rows[0]["reason"] = "corpus.path: 'one' -> 'two'\nway out: " + "another directory " * 20
    lines = render_table(rows).split("\n")
    assert len(lines) == len(rows) + 3 and max(map(len, lines)) <= 100
    head = lines[1]
    for line, row in zip(lines[2:], rows, strict=False):
        assert line.startswith(row["stage"]) and line[head.index("state") :].startswith(row["state"])
        assert row["digest"] is None or line[head.index("digest") :].startswith(row["digest"])


def test_the_table_shows_main_figures(tmp_path):
    _, rows = rows_of(tmp_path / "run")
    table = render_table(rows)
    assert "vocabulary_size 8,192" in table and "parameters 6,823,936" in table and "6 min 53 s" in table
    assert "6 of 7 stages up to date, 10 min 01 s in all" in table


def test_timeline_sums_what_is_published(tmp_path):
    _, rows = rows_of(tmp_path / "run", upto="tokenize")
    assert timeline(rows) == SECONDS["tokenizer"] + SECONDS["tokenize"]


def test_the_summary_tells_what_was_made_scored_and_said_and_how_to_go_on(tmp_path):
    config = make_run(tmp_path / "run with space")
    text = summary(config, stages(config))
    assert text.startswith("Made in 10 min 01 s in /")
    for name in SECONDS:
        assert f"{name} " in text.partition("Scores")[0]
    assert "Scores (3 of 4):" in text and "multiple choice" not in text  # the least telling is in the report
    for name, model, _, _, unit, *_ in SCORES[:7]:
        assert name in text and model in text and unit in text
    assert (
        "    base        1.531  [1.498, 1.567]\n    fine-tuned  1.610  [1.576, 1.650]\n    xz -9e      1.704\n"
        in text
    )
    assert "    base        3.44  [3.37, 3.52]\n    fine-tuned  2.20  [2.14, 2.27]\n" in text
    assert all(part in text for part in ("base > import os def", "split_root(path):", "Join two or more"))
    assert f"headwater chat '{tmp_path / 'run with space'}'" in text.split("\n")[-1]
    assert "report.html" not in text


def test_the_summary_names_the_report_that_was_made(tmp_path):
    config = make_run(tmp_path / "run", upto="report", files=lambda stage: files_of(stage) | report_of(stage))
    assert f"every score: {tmp_path / 'run' / 'report' / 'report.html'}" in summary(config, stages(config))


def report_of(stage):
    return {"report.html": "<p>"} if stage == "report" else {}


def scored(names, models):
    """An evaluation.json of every name for every model."""
    rows = [dict(zip(SCORE_FIELDS, (name, model, 0.3, [0.1, 0.5], "", 10, "p", "lower"), strict=True))
            for name in names for model in models]  # fmt: skip
    return json.dumps({"scores": rows})


def test_the_summary_is_one_screen_with_the_familys_three_scores_and_their_baselines(tmp_path, monkeypatch):
    """34 scores of four samplers, as an image recipe has them; the family's own order decides, not the file's."""
    monkeypatch.chdir(tmp_path)  # a line that holds a longer path is cut
    monkeypatch.setattr("recipes.llm.HEADLINE", ("never measured", "score 30", "score 2", "score 17"))
    models = ("20 steps", "40 steps", "guided", "real pictures")
    files = {
        "evaluate": {"evaluation.json": scored([f"score {n}" for n in range(34)], models)},
        "generate": {"samples.json": files_of("generate")["samples.json"], "real.png": png(4, 4)},
        "report": {"report.html": "<p>"},
    }
    config = make_run(Path("run"), upto="report", files=lambda stage: files.get(stage, {}))
    lines = summary(config, stages(config)).split("\n")
    assert len(lines) <= 24 and "Scores (3 of 34):" in lines
    titles = [line for line in lines if line.startswith("  score ")]
    assert [line.split(" (")[0] for line in titles] == ["  score 30", "  score 2", "  score 17"]
    for title in titles:
        shown = lines[lines.index(title) + 1 :][:3]
        assert [line.split("  0.")[0].strip() for line in shown] == ["20 steps", "guided", "real pictures"]
    assert any(line.startswith("Pictures: ") and "generate: real.png" in line for line in lines)


def test_every_family_declares_its_headline():
    families = {path.parent.name for path in ROOT.glob("recipes/*/*.yaml")}
    found = {family: import_module(f"recipes.{family}").HEADLINE for family in families}
    assert all(len(names) >= 2 and len(set(names)) == len(names) for names in found.values())
    assert set(PROTOCOL) <= set(found["gan"])


def test_a_family_without_text_gets_no_chat_scores_or_samples(tmp_path):
    config = make_run(tmp_path / "run", files=lambda stage: {"weights.safetensors": "w"})
    text = summary(config, stages(config))
    assert "Made in" in text and not any(word in text for word in ("chat", "Scores", "Samples", "Report"))


def test_samples_of_the_summary_are_spread_over_kinds_and_prompts():
    found = [
        {"kind": kind, "prompt": prompt, "decoding": decoding}
        for kind, prompt in [("base", "a"), ("base", "b"), ("chat", "c")]
        for decoding in ("greedy", "sampled")
    ]
    assert [(one["prompt"], one["decoding"]) for one in spread(found, 3)] == [
        ("a", "greedy"),
        ("c", "greedy"),
        ("b", "greedy"),
    ]


def test_long_samples_are_shortened(tmp_path):
    endless = json.dumps([{"kind": "base", "prompt": "p " * 200, "text": "word " * 300}])
    config = make_run(
        tmp_path / "run", files=lambda stage: {"samples.json": endless} if stage == "generate" else {}
    )
    text = summary(config, stages(config)).partition("Samples:")[2]
    assert max(map(len, text.split("\n"))) <= 100 and text.count("word") < 100 and "…" in text


def test_status_and_report_load_no_heavy_library():
    heavy = "{'torch', 'transformers', 'datasets', 'accelerate', 'deepspeed', 'numpy', 'tokenizers'}"
    code = f"import sys, pipeline.run.status, pipeline.report, recipes.llm; print(sorted({heavy} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
