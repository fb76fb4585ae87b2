"""Catches a resumed run that is not the uninterrupted one: state lost, rounded, or bound to a number of processes."""

import pytest

from pipeline.train.engine import STATE

LAUNCHERS = ("one", "ddp", "zero1", "zero2", "zero3")
CASES = ("fp32 adamw", "fp32 muon", "bf16 adamw", "bf16 muon", "fp32 lion", "fp32 schedule_free")
EVERY_CASE = [(launcher, case) for launcher in LAUNCHERS for case in CASES]
# Refused under ZeRO.
EVERY_CASE += [
    (launcher, f"fp32 {name}") for name in ("adafactor", "adamw_8bit") for launcher in ("one", "ddp")
]


@pytest.mark.parametrize(("launcher", "case"), EVERY_CASE)
def test_two_steps_and_two_resumed_are_four(report_of, launcher, case):
    seen = report_of(launcher)[f"resume {case}"]
    uninterrupted, resumed = seen["states"]
    assert resumed == uninterrupted
    assert seen["again"] == seen["losses"][2:]
    for whole, again in seen["weights"]:
        assert whole == again


@pytest.mark.parametrize(
    ("launcher", "case"),
    [(one, f"gradient {case}") for one, case in EVERY_CASE] + [(one, "loss fp32 adamw") for one in LAUNCHERS],
)
def test_a_step_that_is_left_out_changes_nothing_and_is_still_left_out_after_a_resume(
    report_of, launcher, case
):
    """Among what it catches: counters of the optimizer that take the step for an update."""
    for seen in report_of(launcher)[f"skipping {case}"]:
        told = seen["skipped"].pop("3")
        assert len(told) == 1 and told[0].startswith("step 3: model: ") and "its samples: " in told[0]
        assert not any(seen["skipped"].values())
        assert seen["changed"] == [2, 4, 5]
        assert seen["resumed"]


@pytest.mark.parametrize(("launcher", "case"), EVERY_CASE)
def test_the_state_is_weights_ema_and_moments_of_every_trainable_parameter(report_of, launcher, case):
    keys = report_of(launcher)[f"resume {case}"]["states"][0]
    kinds = {kind: {key.split(f"{kind}/")[1] for key in keys if f"/{kind}/" in key} for kind in KINDS}
    trainable = kinds["weight"]
    assert len(trainable) == 9 and not any("frozen" in name for name in trainable)
    assert kinds["ema"] == (set() if "schedule_free" in case else trainable)
    matrices = {f"blocks.{block}.weight" for block in range(3)} if "muon" in case else set()
    assert kinds["momentum_buffer"] == matrices
    if "adamw_8bit" in case:  # of the toy, every moment is small enough to stay as it is
        assert kinds["state1"] == kinds["state2"] == trainable and not kinds["absmax1"]
        return
    if "adafactor" in case:
        assert kinds["row_var"] == kinds["col_var"] == trainable - kinds["variance"]
        assert not kinds["exp_avg"] and 0 < len(kinds["variance"]) < len(trainable)
        return
    assert kinds["z"] == (trainable if "schedule_free" in case else set())
    assert kinds["exp_avg"] == (set() if kinds["z"] else trainable - matrices)
    assert kinds["exp_avg_sq"] == (set() if "lion" in case else trainable - matrices)


KINDS = ("weight", "ema", *STATE)


@pytest.mark.parametrize("case", ["fp32 adamw", "fp32 muon", "fp32 lion", "fp32 schedule_free"])
@pytest.mark.parametrize(("launcher", "source"), [("one", "zero3"), ("zero3", "one")])
def test_a_checkpoint_resumes_on_another_number_of_processes(report_of, launcher, source, case):
    resumed = report_of(launcher, source)["resumed"][case]
    uninterrupted = report_of(source)[f"resume {case}"]["losses"]
    assert resumed == pytest.approx(uninterrupted[2:], rel=1e-6)  # measured at worst 7.8e-8
