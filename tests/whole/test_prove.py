"""Catches a proof of exact resume that proves nothing: that passes what differs, or leaves files behind."""

import shutil

import torch

from pipeline.train import checkpoint
from tests.faults.test_checkpoint import ALONE
from tests.whole.command import headwater, listing, miniature


def test_the_last_steps_made_again_are_equal_and_nothing_is_left(copied):
    before = {name: size for name, (size, _) in listing(copied).items()}
    done = headwater("prove", "pretrain", *miniature(copied))
    assert done.code == 0, done.err
    assert "pretrain: step-00000040 made again from step-00000035: all " in done.out
    assert "equal bit for bit, and 4 lines of the log" in done.out
    assert {name: size for name, (size, _) in listing(copied).items()} == before


def test_another_weight_is_found_and_named(copied):
    last = copied / "checkpoints" / "pretrain" / "step-00000040"
    reader = checkpoint.Reader(last)
    tensors = {key: reader(key) for key in reader.keys()}
    name = "model/weight/model.model.norm.weight"
    tensors[name] = tensors[name] + torch.finfo(torch.float32).eps
    shutil.rmtree(last)
    checkpoint.save(last.parent, 40, tensors.items(), reader.progress, 9, ALONE)
    done = headwater("prove", "pretrain", *miniature(copied))
    assert done.code == 2
    assert "step-00000040 made again from step-00000035 is another: 1 differences" in done.err
    assert f"first: {name}: by up to 1.19e-07" in done.err


def test_what_cannot_be_proven_is_said(copied):
    done = headwater("prove", "tokenize", *miniature(copied))
    assert done.code == 2 and "tokenize does not train" in done.err
    shutil.rmtree(copied / "checkpoints" / "pretrain" / "step-00000035")
    done = headwater("prove", "pretrain", *miniature(copied))
    assert done.code == 2 and "holds 1 checkpoints, and two are compared" in done.err
