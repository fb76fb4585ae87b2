"""Stage `export`: one directory that plain transformers loads, checked against the live model before it is published.

Weights stay fp32, as they were trained and as they are compared; the check also loads them as bfloat16, which is how
many will serve them, and refuses a difference above export.bf16_logit_bound.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pipeline.lm.config import Generate, LanguageModelConfig
from pipeline.lm.tuning.lora import CODES
from pipeline.publish import model_card
from pipeline.publish.licences import check_licence
from pipeline.run import provenance
from pipeline.run.errors import UserError
from pipeline.run.files import write_json
from pipeline.run.stage import Context

if TYPE_CHECKING:
    from transformers import GenerationConfig, PreTrainedTokenizerFast

ROOT = Path(__file__).parent.parent
COMPARED = 64  # answers that a reward model's export is compared on
BF16 = "bf16_logit_difference_relative"


def check(config: LanguageModelConfig) -> None:
    """Refuse a licence that is none.

    Raises:
        UserError: naming the key and the nearest identifier.
    """
    assert config.export is not None, "the stage exists only where its section does"
    check_licence("export.licence", config.export.licence)


def run(context: Context) -> dict[str, Any]:
    """Write the model, its tokenizer, generation_config.json, `adapter/` where there is one, and the model card.

    Returns:
        what the check in a fresh process measured.

    Raises:
        UserError: as bfloat16 the model differs by more than export.bf16_logit_bound.
        RuntimeError: the exported directory does not equal the live model; nothing is published.
    """
    config, inputs = context.config, context.inputs
    trained = ("base", "pretrain", "finetune", "prefer", "reinforce", "reward_model")
    before = [inputs[name] for name in trained if name in inputs]
    tuned, base = before[-1], before[-2] if len(before) > 1 else before[-1]
    if config.reward_model:
        shutil.copytree(tuned / "model", context.out, dirs_exist_ok=True)
    else:
        write_model(tuned / "model", context.out, config.generate)
    adapter = tuned / "adapter"
    if adapter.is_dir():
        write_adapter(adapter, context.out / "adapter", base.name, config)
    prompts = [*config.generate.prompts, *config.generate.chat_prompts]
    if config.reward_model:
        prompts = held_out_answers(inputs["tokenize"])
    pair = (context.out / "adapter", base / "model") if adapter.is_dir() else None
    bound, scores = config.export.bf16_logit_bound, config.reward_model is not None
    verdict = check_afresh(context.out, tuned / "model", pair, bound, prompts, scores)
    refuse(verdict)
    (context.out / "README.md").write_text(_card(context, verdict["measured"]), encoding="utf-8")
    return verdict["measured"]


def held_out_answers(tokenized: Path) -> list[str]:
    """The words of the first held-out answers and of their prompts, to compare a reward model's numbers on."""
    from itertools import islice

    with open(tokenized / "preferences.held_out.jsonl", encoding="utf-8") as file:
        rows = [json.loads(line) for line in islice(file, COMPARED)]
    return ["\n".join(message["content"] for message in row["messages"]) for row in rows]


def write_model(live: Path, out: Path, generation: Generate) -> None:
    """The files of a model directory, byte for byte, but for a generation_config.json that stops where turns end."""
    from transformers import GenerationConfig

    from pipeline.lm.model import load_tokenizer
    from pipeline.lm.prompts import stop_ids_from

    shutil.copytree(live, out, dirs_exist_ok=True)
    tokenizer, own = load_tokenizer(live), GenerationConfig.from_pretrained(live)
    stops = sorted(stop_ids_from(own, tokenizer))
    generation_config(own, tokenizer, stops, generation).save_pretrained(out)


def generation_config(
    own: GenerationConfig, tokenizer: PreTrainedTokenizerFast, stops: list[int], generation: Generate
) -> GenerationConfig:
    """The model's own, that stops at `stops`; its sampling is the recipe's where it has none or the recipe says it."""
    if own.bos_token_id is None:
        own.bos_token_id = tokenizer.bos_token_id
    own.eos_token_id = stops
    if own.pad_token_id is None:
        own.pad_token_id = tokenizer.pad_token_id if tokenizer.pad_token_id is not None else stops[0]
    said = generation.model_fields_set & {"temperature", "top_p"}
    for name in ("temperature", "top_p") if not own.do_sample else said:
        setattr(own, name, getattr(generation, name))
    own.do_sample = True
    return own


def write_adapter(adapter: Path, out: Path, stage: str, config: LanguageModelConfig) -> None:
    """peft's two files, and how a base in codes was stored.

    The base, made by `stage`, is named by its name on the Hub or its place beside the export.
    """
    out.mkdir()
    for name in ("adapter_model.safetensors", *([CODES] if (adapter / CODES).is_file() else [])):
        shutil.copyfile(adapter / name, out / name)
    settings = json.loads((adapter / "adapter_config.json").read_text())
    # The Hub has what the adapter was trained on only where this run has not changed it.
    as_it_came = stage == "base" and not config.model.adds_tokens
    name = model_card.hub_name(config) if as_it_came else None
    settings["base_model_name_or_path"] = name or f"../../{stage}/model"
    settings["revision"] = config.model.revision if name else None
    if isinstance(settings["target_modules"], list):  # a set in peft: its order differs from run to run
        settings["target_modules"].sort()
    write_json(out / "adapter_config.json", settings)


def check_afresh(
    out: Path,
    live: Path,
    adapter: tuple[Path, Path] | None,
    bf16_bound: float,
    prompts: list[str],
    scores: bool = False,
) -> dict[str, Any]:
    """The verdict of pipeline.publish.verify_export, from a process that has never seen the live model.

    Raises:
        RuntimeError: it came to none.
    """
    paths = [str(path.resolve()) for path in (out, live, *(adapter or ()))]
    environment = {**os.environ, "HF_HUB_OFFLINE": "1", "PYTHONPATH": _python_path()}
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "prompts.json"
        file.write_text(json.dumps(prompts))
        options = ["--bf16-bound", str(bf16_bound), "--prompts", str(file), *(["--scores"] if scores else [])]
        command = [sys.executable, "-m", "pipeline.publish.verify_export", *paths, *options]
        done = subprocess.run(command, capture_output=True, text=True, env=environment)
    print(done.stderr, file=sys.stderr, end="")
    if done.returncode not in (0, 1) or not done.stdout.strip():
        raise RuntimeError(f"the exported directory could not be checked:\n{done.stderr[-2000:]}")
    return json.loads(done.stdout.splitlines()[-1])


def _python_path() -> str:
    inherited = os.environ.get("PYTHONPATH")
    return os.pathsep.join([str(ROOT), *([inherited] if inherited else [])])


def refuse(verdict: dict[str, Any]) -> None:
    """Raise where the verdict is not that both agree: the user's to mend where only bfloat16 is too coarse."""
    refused = verdict["refused"]
    if verdict["agrees"]:
        return
    if all(line.startswith(BF16) for line in refused):
        raise UserError(
            f"as bfloat16 the model differs too much: {refused[0]}\n"
            f"way out: export.bf16_logit_bound={verdict['measured'][BF16] * 1.1:.2g} accepts it; serve it as fp32"
        )
    raise RuntimeError(
        "the exported directory is not the live model, so it is not published:\n" + "\n".join(refused)
    )


def _card(context: Context, measured: dict[str, float]) -> str:
    from pipeline.data.chat import separators
    from pipeline.lm.model import load_tokenizer

    tokenizer = load_tokenizer(context.out)
    card = model_card.Card(
        name=Path(context.config.run.output_dir).resolve().name,
        config=context.config,
        chain=model_card.lineage(context.inputs.values()),
        parameters=parameters_of(context.out),
        measured=measured,
        commit=provenance.commit(),
        versions=provenance.facts()["versions"],
        opening=tokenizer.convert_ids_to_tokens(separators(tokenizer)[0]),
    )
    return model_card.render(card)


def parameters_of(directory: Path) -> int:
    """Numbers in the stored tensors."""
    import math

    from safetensors import safe_open

    total = 0
    for path in directory.glob("*.safetensors"):
        with safe_open(path, framework="pt") as file:
            total += sum(math.prod(file.get_slice(key).get_shape()) for key in file.keys())
    return total


if __name__ == "__main__":
    from pipeline.run.stage import main

    main("export")
