"""Catches damage to any file of a run that is believed, or is met only once the file is read as weights or tokens."""

import pytest

from tests.faults.corruption import KINDS, damages
from tests.whole.command import STAGES


@pytest.mark.parametrize("stage", STAGES)
def test_every_kind_of_damage_to_every_file_is_caught_before_it_is_read(finished, tmp_path, stage):
    found = list(damages(finished[0], tmp_path, (stage,)))
    kinds = {each.kind for each in found}
    assert kinds >= KINDS.keys() - {"swapped with its neighbour"}
    believed = [f"{each.file}: {each.kind}" for each in found if not each.said]
    assert believed == []
    if stage in ("pretrain", "finetune"):
        assert any("checkpoints/" in each.file for each in found)
    if stage == "pretrain":  # which has saved more than once
        assert "an older step's file" in kinds
