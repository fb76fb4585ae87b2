"""Catches a card from which its model cannot be made again, or that says it can where data or versions are others."""

import re
import shutil

import pytest
import yaml

from pipeline.publish.reproduce import told_by
from pipeline.run.stage import open_recipe
from tests.exhaustive import exhaustive
from tests.helpers import refusal
from tests.whole.command import headwater


@pytest.fixture
def card(finished):
    return (finished[0] / "export" / "README.md").read_text()


def test_a_card_gives_its_recipe_back(finished, tmp_path):
    recipe = tmp_path / "again.yaml"
    done = headwater("reproduce", str(finished[0]), str(recipe))
    assert done.code == 0, done.err
    for words in (
        "corpus: the same bytes as then",
        "chat: the same bytes as then",
        "versions: the same as then",
    ):
        assert f"  {words}\n" in done.out
    assert f"  make it: headwater run {recipe}\n" in done.out
    again, stages = open_recipe(recipe, [])
    config, _ = open_recipe(finished[0] / "config.yaml", [])
    for stage, other in zip(stages, open_recipe(finished[0] / "config.yaml", [])[1], strict=True):
        assert (stage.name, stage.identity) == (other.name, other.identity)
    assert again.run.output_dir != config.run.output_dir
    once_more = headwater("reproduce", str(finished[0]), str(recipe))
    assert once_more.code == 2 and f"{recipe} is there" in once_more.err


def test_other_data_versions_and_commits_are_told(finished, tmp_path, card):
    shutil.copytree(finished[0] / "export", tmp_path / "model")
    changed = re.sub(r"(- corpus: .*sha256 `)....", r"\g<1>beef", card)
    changed = re.sub(r"torch [^,\n]+", "torch 1.0", changed)
    changed = re.sub(r"(\| export \| this directory \| )\S+", r"\g<1>0123456", changed)
    (tmp_path / "model" / "README.md").write_text(changed)
    done = headwater("reproduce", str(tmp_path / "model"), str(tmp_path / "again.yaml"))
    assert done.code == 0, done.err
    assert re.search(r"corpus: \d+ files, [\d,]+ bytes, sha256 `\w+`; then .*`beef", done.out)
    assert "versions: other ones made it: torch 1.0, here " in done.out
    assert "commit: 0123456 then, " in done.out


def test_what_the_card_names_by_a_path_alone_is_missing_until_it_is_given(finished, tmp_path, card):
    shutil.copytree(finished[0] / "export", tmp_path / "model")
    tree = yaml.safe_load(re.search(r"## Settings\n\n```yaml\n(.*?)```", card, re.S)[1])
    tree["chat"] |= {"source": "jsonl", "path": "mine.jsonl"}
    text = re.sub(
        r"(## Settings\n\n```yaml\n).*?```", lambda m: m[1] + yaml.safe_dump(tree) + "```", card, flags=re.S
    )
    (tmp_path / "model" / "README.md").write_text(text)
    done = headwater("reproduce", str(tmp_path / "model"), str(tmp_path / "again.yaml"))
    assert done.code == 0, done.err
    assert re.search(r"chat: not here \(.*mine.jsonl.*\); it was \d+ files", done.out)
    (tmp_path / "mine.jsonl").write_text('{"messages": []}\n')
    given = f"chat.path={tmp_path / 'mine.jsonl'}"
    done = headwater("reproduce", str(tmp_path / "model"), str(tmp_path / "other.yaml"), given)
    assert re.search(r"chat: 1 files, 17 bytes, sha256 `\w+`; then ", done.out)
    assert f"other.yaml {given}\n" in done.out


def test_a_card_of_others_is_refused(tmp_path, card):
    assert "does not say how the model was made" in refusal(told_by, "# A model\n\nIt is good.\n")
    assert told_by(card).licence == "PSF-2.0" and told_by(card).data.keys() == {"corpus", "chat"}
    (tmp_path / "config.json").write_text("{}")
    done = headwater("reproduce", str(tmp_path), str(tmp_path / "again.yaml"))
    assert done.code == 2 and "has no README.md" in done.err and not (tmp_path / "again.yaml").exists()


@pytest.mark.parametrize("how", [exhaustive(("run.launch=launch/cpu_zero2.yaml",))])
def test_a_model_is_made_again_byte_for_byte(finished, tmp_path, how):
    given = (*how, f"run.output_dir={tmp_path / 'again'}", "run.save_steps=5")
    done = headwater("reproduce", str(finished[0]), str(tmp_path / "again.yaml"), *given, "--run")
    assert done.code == 0, done.err
    assert "the same weights as" in done.out and "byte for byte" in done.out
