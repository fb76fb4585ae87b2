"""Catches a plan for a cluster that fits what does not fit, takes more traffic than it must, or is far from what was
published of real runs."""

import pytest

from pipeline.__main__ import main
from pipeline.run.cluster import BESIDE, USED, Cluster, chosen, cost, ways
from pipeline.run.config import Training
from pipeline.run.launch import Launch
from pipeline.run.memory import Size
from tests.helpers import ROOT

GB = 1e9
# Widths of the Llama 2 paper (arXiv:2307.09288) and its models' configs.
LLAMA_7B = {"hidden_size": 4096, "intermediate_size": 11008, "num_hidden_layers": 32, "num_attention_heads": 32,
            "num_key_value_heads": 32, "vocab_size": 32000, "max_position_embeddings": 4096}  # fmt: skip
LLAMA_70B = LLAMA_7B | {"hidden_size": 8192, "intermediate_size": 28672, "num_hidden_layers": 80,
                        "num_attention_heads": 64, "num_key_value_heads": 8}  # fmt: skip
# GPU hours of A100-80GB that the paper's table 2 gives for 2 T tokens, in steps of 4 M tokens.
HOURS = {"7B": 184_320, "70B": 1_720_320}
PARAMETERS = {"7B": 6_738_415_616, "70B": 68_976_648_192}  # of the published checkpoints
STEPS = 500_000


def planned(capsys, config, gpus, *more):
    settings = [f"model.config.{key}={value}" for key, value in config.items() if key != "vocab_size"]
    length, samples = 4096, 1024
    code = main(
        ["plan", str(ROOT / "recipes/llm/llama_1b.yaml"), "run.output_dir=/tmp/planned-nowhere", *settings,
         "model.config.tie_word_embeddings=false", "tokenizer.vocabulary_size=32000", "corpus.source=stdlib",
         "corpus.path=null", f"pretrain.sequence_length={length}", f"pretrain.train_batch_size={samples}",
         f"pretrain.max_steps={STEPS}", "pretrain.optim=adamw",
         "pretrain.per_device_train_batch_size=1",
         "--gpus", str(gpus), *more]
    )  # fmt: skip
    out, err = capsys.readouterr()
    assert code == 0, err
    return out


def hours(out):
    line = next(line for line in out.splitlines() if " GPU hours" in line)
    return float(line.split(" GPU hours")[0].split()[-1].replace(",", ""))


def parameters(out):
    line = next(line for line in out.splitlines() if "  parameters: " in line)
    return int(line.split("parameters: ")[1].split(",  ")[0].split(", trained")[0].replace(",", ""))


@pytest.mark.parametrize(
    ("name", "config", "gpus", "taken", "tflops"),
    [("7B", LLAMA_7B, 64, "ZeRO-1", 140), ("70B", LLAMA_70B, 1024, "ZeRO-3", 156)],
)
def test_published_sizes_and_hours_come_out(capsys, name, config, gpus, taken, tflops):
    """tflops: 0.45 and 0.5 of an A100's peak, which is what such runs reach."""
    out = planned(capsys, config, gpus, "--gpu-memory", "80", "--hosts", str(gpus // 8), "--price", "2",
                  "--gpu-tflops", str(tflops), "pretrain.gradient_checkpointing=true")  # fmt: skip
    assert abs(parameters(out) / PARAMETERS[name] - 1) < 0.001
    assert abs(hours(out) / HOURS[name] - 1) < 0.15
    assert "precision: bf16; GPUs of compute capability 8.0 and above assumed" in out  # whatever this machine has
    assert f"takes {taken}: " in out and "DDP" in out and "does not fit" in out
    assert f"cost: about {2 * hours(out):,.0f}"[:18] in out


def test_what_cannot_work_is_said(capsys):
    out = planned(capsys, LLAMA_70B, 8, "--gpu-memory", "24")
    assert "does not work: even ZeRO-3, offload needs " in out and "way out: more GPUs" in out


SIZE = Size(parameters=10**9, trained=10**9, moments=8 * 10**9, flops=1e15, activations=2 * GB)
TRAINING = Training(learning_rate=1e-3, max_steps=1, train_batch_size=8, bf16=True)


def taken(memory, tested=(1, 2, 3)):
    way = chosen(ways(SIZE, TRAINING, Launch(None, 8, None, {}), tested), Cluster(8, memory))
    return way and way.name


def test_the_least_traffic_that_fits_is_taken_and_what_is_not_tested_is_not():
    totals = {way.name: way.total for way in ways(SIZE, TRAINING, Launch(None, 8, None, {}), (1, 2, 3))}
    # fp32 weights, gradients and two moments; bf16 weights and gradients, fp32 masters and moments in eight parts.
    assert totals["DDP"] == (4 + 4 + 8) * GB + 2 * GB + BESIDE
    assert totals["ZeRO-1"] == (2 + 2 + 12 / 8) * GB + 2 * GB + BESIDE
    assert totals["ZeRO-2"] == (2 + 2 / 8 + 12 / 8) * GB + 2 * GB + BESIDE
    assert totals["ZeRO-3"] == (2 / 8 + 2 / 8 + 12 / 8) * GB + 2 * GB + BESIDE
    assert totals["ZeRO-3, offload"] == (2 / 8 + 2 / 8) * GB + 2 * GB + BESIDE
    for name, total in totals.items():
        assert taken(total / USED + 1) == name
    assert taken(totals["ZeRO-3, offload"] / USED - 1) is None
    assert taken(totals["ZeRO-3"] / USED + 1, tested=(1, 2)) is None


def test_time_and_cost_are_a_product():
    lines = cost(3.6e21, Cluster(10, 80 * GB, price=3.0, flops=1e14))
    assert lines == [
        "  time: about 41.7 days on 10 GPUs, 10,000 GPU hours; 100 TFLOP/s a GPU assumed",
        "  cost: about 30,000 at 3 a GPU hour, without evaluation and pauses",
    ]


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--gpus", "0"], "--gpus 0"),
        (["--gpu-memory", "-1"], "--gpu-memory -1"),
        (["--price", "2"], "way out: --gpu-memory GB too"),
        (["--gpus", "4", "--gpu-memory", "80", "--hosts", "3"], "--hosts 3 does not divide the 4 GPUs"),
    ],
)
def test_what_makes_no_cluster_is_refused(words, said, capsys, tmp_path):
    assert (
        main(["plan", str(ROOT / "recipes/llm/quickstart.yaml"), f"run.output_dir={tmp_path / 'r'}", *words])
        == 2
    )
    assert said in capsys.readouterr().err
