"""Catches half an output taken for a whole one, a changed byte believed, and a changed setting unnoticed."""

import json

import pytest

from pipeline.run import artifact
from pipeline.run.errors import UserError

IDENTITY = {"train": {"max_steps": 10, "seed": 0}}


def make(directory, stage, text="content", inputs=None, identity=None, **fields):
    staged = directory / ".partial" / stage
    (staged / "inner").mkdir(parents=True)
    (staged / "inner" / "file.txt").write_text(text)
    described = {
        "stage": stage,
        "identity": IDENTITY if identity is None else identity,
        "inputs": {
            name: {"path": f"../{name}", "digest": made.digest} for name, made in (inputs or {}).items()
        },
        "metrics": {"loss": 1.5},
        "made": {"seconds": 1},
        "config": {},
        **fields,
    }
    return artifact.publish(staged, directory / stage, described)


def flip(path, at=0):
    data = bytearray(path.read_bytes())
    data[at] ^= 1
    path.write_bytes(data)


def test_what_is_published_is_read_back_with_every_file(tmp_path):
    made = make(tmp_path, "train")
    assert artifact.read(tmp_path / "train") == made
    assert made.files.keys() == {"inner/file.txt"}
    assert made.files["inner/file.txt"]["size"] == len("content")
    assert artifact.verify_chain(tmp_path / "train") == [made]


def test_a_directory_without_a_manifest_is_no_artifact(tmp_path):
    made = make(tmp_path, "train")
    (made.path / artifact.MANIFEST).unlink()
    assert artifact.read(made.path) is None
    assert artifact.decide(made.path, tmp_path / "none", IDENTITY, {}).action == "run"
    with pytest.raises(UserError, match="no artifact in"):
        artifact.verify_chain(made.path)


def test_a_torn_manifest_is_refused(tmp_path):
    made = make(tmp_path, "train")
    path = made.path / artifact.MANIFEST
    path.write_text(path.read_text()[:-20])
    with pytest.raises(UserError, match="is damaged"):
        artifact.read(made.path)


def test_every_bit_of_a_manifest_counts(tmp_path):
    """Also of what no digest covers: a forged commit, a metric that nothing was made from."""
    path = make(tmp_path, "train").path / artifact.MANIFEST
    whole = path.read_bytes()
    for at in range(len(whole)):
        flip(path, at)
        if whole[at : at + 1].strip() and path.read_bytes()[at : at + 1].strip():
            with pytest.raises(UserError, match="is damaged"):
                artifact.read(path.parent)
        path.write_bytes(whole)
    assert artifact.read(path.parent)


def test_the_digest_covers_what_was_made_and_not_how(tmp_path):
    one = make(tmp_path / "a", "train")
    same = make(tmp_path / "b", "train", made={"seconds": 99}, config={"run": {"threads": 3}})
    assert one.digest == same.digest
    others = [
        make(tmp_path / "c", "train", text="Content"),
        make(tmp_path / "d", "train", identity={"train": {"max_steps": 11, "seed": 0}}),
        make(tmp_path / "e", "train", metrics={"loss": 1.25}),
        make(tmp_path / "f", "train", inputs={"data": make(tmp_path / "f", "data")}),
        make(tmp_path / "g", "finetune"),
    ]
    assert len({one.digest, *(other.digest for other in others)}) == 6


def test_one_changed_bit_is_found_although_the_size_is_the_same(tmp_path):
    made = make(tmp_path, "train")
    flip(made.path / "inner" / "file.txt")
    assert artifact.missing_or_resized(made) is None
    assert "another sha256" in artifact.damage(made)
    with pytest.raises(UserError, match="another sha256"):
        artifact.verify_chain(made.path)


def test_a_changed_bit_upstream_is_refused_downstream(tmp_path):
    data = make(tmp_path, "data")
    made = make(tmp_path, "train", inputs={"data": data})
    assert [link.stage for link in artifact.verify_chain(made.path)] == ["data", "train"]
    flip(data.path / "inner" / "file.txt")
    with pytest.raises(UserError, match="data/inner/file.txt"):
        artifact.verify_chain(made.path)


def test_another_upstream_in_the_same_place_is_refused(tmp_path):
    data = make(tmp_path, "data")
    made = make(tmp_path, "train", inputs={"data": data})
    artifact.discard(data.path)
    make(tmp_path, "data", text="other")
    with pytest.raises(UserError, match="made from another data"):
        artifact.verify_chain(made.path)


def decide(tmp_path, identity=IDENTITY, inputs=None):
    return artifact.decide(tmp_path / "train", tmp_path / "checkpoints", identity, inputs or {})


def begin(tmp_path, identity=IDENTITY, inputs=None):
    (tmp_path / "checkpoints" / "step-00000004").mkdir(parents=True)
    started = {"identity": identity, "inputs": inputs or {}}
    (tmp_path / "checkpoints" / "identity.json").write_text(json.dumps(started))


CHANGED = {"train": {"max_steps": 20, "seed": 0}}


def test_nothing_there_runs(tmp_path):
    assert decide(tmp_path).action == "run"


def test_the_same_settings_and_inputs_are_up_to_date(tmp_path):
    data = make(tmp_path, "data")
    make(tmp_path, "train", inputs={"data": data})
    assert decide(tmp_path, inputs={"data": data.digest}).action == "up to date"


def test_an_input_that_is_still_to_be_made_is_decided_later(tmp_path):
    data = make(tmp_path, "data")
    make(tmp_path, "train", inputs={"data": data})
    assert decide(tmp_path, inputs={"data": None}).action == "up to date"


def test_another_setting_conflicts_and_is_named(tmp_path):
    make(tmp_path, "train")
    assert decide(tmp_path, CHANGED) == artifact.Decision("conflict", "train.max_steps: 10 -> 20")


def test_another_input_conflicts(tmp_path):
    make(tmp_path, "train", inputs={"data": make(tmp_path, "data")})
    assert decide(tmp_path, inputs={"data": "0" * 64}) == artifact.Decision(
        "conflict", "made from another data"
    )


def test_an_input_that_the_recipe_no_longer_has_conflicts(tmp_path):
    data, base = make(tmp_path, "data"), make(tmp_path, "base")
    make(tmp_path, "train", inputs={"data": data, "base": base})
    assert decide(tmp_path, inputs={"data": data.digest}) == artifact.Decision(
        "conflict", "made from base too, which the recipe no longer has"
    )


def test_a_missing_file_conflicts(tmp_path):
    made = make(tmp_path, "train")
    (made.path / "inner" / "file.txt").unlink()
    assert decide(tmp_path).action == "conflict"


def test_checkpoints_of_the_same_settings_resume(tmp_path):
    begin(tmp_path, inputs={"data": "a"})
    assert decide(tmp_path, inputs={"data": "a"}) == artifact.Decision("resume", "from step-00000004")


def test_checkpoints_resume_while_their_input_is_still_to_be_made_again(tmp_path):
    begin(tmp_path, inputs={"data": "a"})
    assert decide(tmp_path, inputs={"data": None}).action == "resume"


def test_checkpoints_of_other_settings_or_inputs_conflict(tmp_path):
    begin(tmp_path, inputs={"data": "a"})
    assert "train.max_steps: 10 -> 20" in (decision := decide(tmp_path, CHANGED, {"data": "a"})).reason
    assert decision.action == "conflict"
    assert decide(tmp_path, inputs={"data": "b"}).action == "conflict"


def test_settings_without_a_checkpoint_are_no_run_to_resume(tmp_path):
    begin(tmp_path)
    (tmp_path / "checkpoints" / "step-00000004").rmdir()
    assert decide(tmp_path, CHANGED).action == "run"


def test_every_differing_leaf_is_listed_also_one_that_only_one_side_has():
    old = {"a": {"x": 1, "gone": 2}, "same": [1, 2]}
    new = {"a": {"x": 3, "come": 4}, "same": [1, 2]}
    assert artifact.differences(old, new) == ["a.come: None -> 4", "a.gone: 2 -> None", "a.x: 1 -> 3"]
