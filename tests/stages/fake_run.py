"""A run directory as the stages would leave it, in milliseconds: every file that a report or a status reads."""

import json
import math
import random
import struct
import zlib
from pathlib import Path

from pipeline.lm.config import LanguageModelConfig
from pipeline.run import artifact
from recipes.llm import stages

SAMPLE = 'split_root(path):\n    if not path:\n        return "", path\n    return os.fspath(path), ""\n'
SCORES = [
    ("bits per byte", "base", 1.5312, [1.4983, 1.5671], "bits/byte", 71, "71 held-out documents", "lower"),
    (
        "bits per byte",
        "fine-tuned",
        1.6104,
        [1.5761, 1.6502],
        "bits/byte",
        71,
        "71 held-out documents",
        "lower",
    ),
    (
        "bits per byte",
        "xz -9e",
        1.7043,
        None,
        "bits/byte",
        71,
        "one stream of xz -9e, headers included",
        "lower",
    ),
    (
        "conversation loss",
        "base",
        3.4411,
        [3.3702, 3.5216],
        "nats/token",
        256,
        "answers of 256 conversations",
        "lower",
    ),
    (
        "conversation loss",
        "fine-tuned",
        2.2047,
        [2.1433, 2.2719],
        "nats/token",
        256,
        "answers of 256 conversations",
        "lower",
    ),
    (
        "functions that parse",
        "base",
        0.5469,
        [0.4219, 0.6719],
        "share",
        64,
        "64 bodies through ast.parse",
        "higher",
    ),
    ("functions that parse", "reference", 1.0, None, "share", 64, "64 bodies through ast.parse", "higher"),
    (
        "multiple choice",
        "base",
        0.31,
        [0.22, 0.41],
        "accuracy",
        100,
        "lm-eval, 4 answers of like length",
        "higher",
    ),
    (
        "multiple choice",
        "fine-tuned",
        0.43,
        [0.33, 0.53],
        "accuracy",
        100,
        "lm-eval, 4 answers of like length",
        "higher",
    ),
]
MISSING = {"multiple choice": "only 100 of 120 questions can be asked"}
SAMPLES = [
    ("base", "import os\n\ndef ", "greedy", 0, SAMPLE, False, 96),
    (
        "base",
        "import os\n\ndef ",
        "sampled",
        0,
        "<script>alert('& you')</script>\n",
        True,
        12,
    ),
    (
        "chat",
        "What does os.path.join do?",
        "greedy",
        0,
        "Join two or more pathname components.",
        True,
        9,
    ),
]
LEDGERS = [
    ("documents.train", 3_048_211, 3_048_211, 0, 0, 0, 0, 0, 0),
    ("documents.held_out", 331_871, 331_871, 0, 0, 0, 0, 0, 0),
    ("conversations.train", 410_233, 402_119, 6_004, 2_110, 1_612, 256, 402_119, 10_553),
]
LEDGER_FIELDS = (
    "name",
    "tokens_in",
    "kept",
    "truncated",
    "dropped",
    "rows",
    "row_length",
    "inputs",
    "padded",
)
SCORE_FIELDS = ("name", "model", "value", "interval", "unit", "count", "protocol", "better")
SAMPLE_FIELDS = ("kind", "prompt", "decoding", "seed", "text", "stopped", "tokens")


def make_config(output: Path) -> LanguageModelConfig:
    tree = {
        "recipe": "llm",
        "run": {"output_dir": str(output)},
        "corpus": {"source": "stdlib"},
        "tokenizer": {"vocabulary_size": 8192},
        "model": {"architecture": "llama", "config": {"hidden_size": 256, "num_hidden_layers": 6}},
        "pretrain": {"learning_rate": 2e-3, "max_steps": 600, "train_batch_size": 32},
        "chat": {"source": "stdlib_docstrings"},
        "finetune": {"learning_rate": 5e-4, "max_steps": 120, "train_batch_size": 16, "lora": {"r": 16}},
    }
    return LanguageModelConfig.model_validate(tree)


def files_of(stage: str) -> dict[str, str]:
    """The files that a stage publishes, as text."""
    model = {
        "model/config.json": "{}",
        "model/tokenizer_config.json": "{}",
        "model/model.safetensors": "w" * 26_431,
    }
    named = lambda fields, rows: [dict(zip(fields, row, strict=True)) for row in rows]  # noqa: E731
    return {
        "tokenizer": {"tokenizer.json": "{}", "tokenizer_config.json": "{}"},
        "tokenize": {"ledger.json": json.dumps({"tokens": named(LEDGER_FIELDS, LEDGERS), "skipped_rows": 3})},
        "pretrain": model,
        "finetune": {**model, "adapter/adapter_config.json": "{}"},
        "evaluate": {
            "evaluation.json": json.dumps({"scores": named(SCORE_FIELDS, SCORES), "missing": MISSING})
        },
        "generate": {"samples.json": json.dumps(named(SAMPLE_FIELDS, SAMPLES))},
    }.get(stage, {})


METRICS = {
    "tokenizer": {"vocabulary_size": 8192, "bytes_per_token": 3.914},
    "tokenize": {"documents.train": {"documents": 641, "tokens": 3048211}, "skipped_rows": 3},
    "pretrain": {"parameters": 6823936, "eval_loss": 3.3127},
    "finetune": {"parameters": 6823936, "trainable_parameters": 442368, "eval_loss": 2.2047},
    "evaluate": {f"{row[0].replace(' ', '_')}/{row[1]}": row[2] for row in SCORES},
    "generate": {"samples": 3, "tokens": 117},
}
SECONDS = {
    "tokenizer": 9.41,
    "tokenize": 4.87,
    "pretrain": 412.63,
    "finetune": 71.26,
    "evaluate": 95.18,
    "generate": 7.92,
}


def made_of(stage: str) -> dict:
    launched = {"tokens_per_second": 9514.0, "flops_per_second": 4.218e11, "first_step_seconds": 24.17}
    launched |= {"checkpoint_seconds": 1.942, "launcher": "DeepSpeed ZeRO-2", "world_size": 2}
    return {
        "command": ["-m", f"pipeline.{stage}", "recipes/llm/quickstart.yaml"],
        "commit": "1a73eac0b2b2d2dd5b0c0e1f3a4958671203948a",
        "host": "builder",
        "machine": "x86_64, 2 cores",
        "python": "3.12.4",
        "versions": {"torch": "2.13.0", "transformers": "5.23.0", "deepspeed": "0.19.8"},
        "started": "2025-11-21T03:14:07Z",
        "seconds": SECONDS.get(stage, 1.23),
        "peak_memory_bytes": 1_254_338_560 + 1_000_003 * len(stage),
        **({"seconds_by_part": {"documents/base": 31.77}} if stage == "evaluate" else {}),
        **(launched if stage in ("pretrain", "finetune") else {}),
    }


def write_log(path: Path, steps: int, start: float, end: float, broken: int | None = None) -> None:
    """A plausible metrics.jsonl: every tenth step, held-out every hundredth and last; NaN at step `broken`."""
    draw, lines = random.Random(0), []
    for step in range(10, steps + 1, 10):
        loss = end + (start - end) * math.exp(-6 * step / steps) + draw.gauss(0, 0.03)
        rate = 2e-3 * min(1.0, step / 50) * 0.5 * (1 + math.cos(math.pi * step / steps))
        figures = {
            "loss": math.nan if step == broken else loss,
            "gradient_norm": 0.6 + abs(draw.gauss(0, 0.2)),
        }
        speeds = {
            "samples": 32 * step,
            "tokens_per_second": 9500 + draw.gauss(0, 120),
            "flops_per_second": 4.2e11,
        }
        lines.append({"step": step, **figures, "learning_rate": rate, **speeds})
        if step % 100 == 0 or step == steps:
            lines.append({"step": step, "eval_loss": loss + 0.08})
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))


def make_run(output: Path, upto: str = "generate", files=files_of) -> LanguageModelConfig:
    """Publish every stage up to and with `upto`, and the training logs; returns the config that they belong to."""
    config = make_config(output)
    digests: dict[str, str] = {}
    for stage in stages(config):
        staged = output / ".partial" / stage.name
        for name, text in files(stage.name).items():
            (staged / name).parent.mkdir(parents=True, exist_ok=True)
            content = text if isinstance(text, bytes) else text.encode()
            (staged / name).write_bytes(content)
        staged.mkdir(parents=True, exist_ok=True)
        described = {"stage": stage.name, "identity": stage.identity, "metrics": METRICS.get(stage.name, {})}
        inputs = {name: {"path": f"../{name}", "digest": digests[name]} for name in stage.inputs}
        told = {"inputs": inputs, "config": json.loads(config.model_dump_json()), "made": made_of(stage.name)}
        digests[stage.name] = artifact.publish(staged, output / stage.name, described | told).digest
        if stage.name == upto:
            break
    write_log(output / "logs" / "pretrain.metrics.jsonl", 600, 9.0, 3.2, broken=250)
    write_log(output / "logs" / "finetune.metrics.jsonl", 120, 3.4, 2.2)
    return config


def png(width: int, height: int) -> bytes:
    """A grey PNG."""
    rows = b"".join(b"\0" + bytes((x * y) % 256 for x in range(width)) for y in range(height))
    header = struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n"
        + _chunk(b"IHDR", header)
        + _chunk(b"IDAT", zlib.compress(rows))
        + _chunk(b"IEND", b"")
    )


def _chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
