"""The README.md of an exported model: every figure comes from the config, the artifacts or the checks, none by hand."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from pipeline.data.config import Filters, Preferences
from pipeline.lm.config import LanguageModelConfig, Lora, Tuning
from pipeline.publish.licences import hub_licence, named
from pipeline.publish.reproduce import SECTIONS, read_from
from pipeline.run import artifact
from pipeline.run.artifact import Artifact
from pipeline.run.config import identity
from pipeline.run.errors import UserError
from pipeline.run.results import Score, decimals_of, prompt_of, samples_of, scores_of
from pipeline.run.units import prefixed

SHOWN_CHARACTERS = 600  # of a sample's text


@dataclass(frozen=True)
class Card:
    """What a model card is made from.

    name: the run's; chain: every artifact behind the export, upstream first; parameters: numbers stored;
    measured: what the check in a fresh process found; commit, versions: of the export itself; opening: the token
    that a plain prompt begins with; chats: whether the tokenizer has a chat template that fine-tuning used.
    """

    name: str
    config: LanguageModelConfig
    chain: list[Artifact]
    parameters: int
    measured: dict[str, float]
    commit: str
    versions: dict[str, str]
    opening: str

    @property
    def chats(self) -> bool:
        return self.config.talks

    @property
    def has_adapter(self) -> bool:
        return self.last is not None and self.last.lora is not None

    @property
    def last(self) -> Tuning | None:
        """The last tuning."""
        config = self.config
        return config.reward_model or config.reinforce or config.prefer or config.finetune


def lineage(directories: Iterable[Path]) -> list[Artifact]:
    """Every artifact that those in `directories` were made from, themselves included, upstream first.

    Raises:
        UserError: one is gone, or is not the one that was used.
    """
    chain: dict[Path, Artifact] = {}
    for directory in directories:
        _collect(directory.resolve(), chain)
    return list(chain.values())


def _collect(directory: Path, chain: dict[Path, Artifact]) -> Artifact:
    made = chain.get(directory) or artifact.read(directory)
    if made is None:
        raise UserError(f"no artifact in {directory}: the model card cannot say what the model was made from")
    for name, given in made.inputs.items():
        if _collect((directory / given["path"]).resolve(), chain).digest != given["digest"]:
            raise UserError(f"{directory} was made from another {name} than the one that is there now")
    return chain.setdefault(directory, made)


def public(name: str) -> str:
    """A path without the folders that lead to it; a name on the Hub as it is."""
    return Path(name).name if name.startswith(("/", "~", ".")) or Path(name).exists() else name


def hub_name(config: LanguageModelConfig) -> str | None:
    """The pretrained model's name on the Hub; None where it came from elsewhere or there is none."""
    name = config.model.pretrained
    local = name is None or ":" in name or public(name) != name or name.count("/") != 1
    return None if local else name


def render(card: Card) -> str:
    """The whole README.md."""
    sections = (
        front_matter(card),
        f"# {card.name}",
        summary(card),
        "## Use\n\n" + usage(card),
        "## Scores\n\n" + score_table(scores_of(card.chain)),
        *(() if card.config.reward_model else ("## Samples\n\n" + samples(samples_of(card.chain)),)),
        "## Data and licence\n\n" + data(card),
        "## Settings\n\n" + settings(card.config),
        "## Checked before publication\n\n" + checks(card.measured),
        "## Lineage\n\n" + lineage_table(card.chain, card.commit, card.versions),
    )
    return "\n\n".join(sections) + "\n"


def front_matter(card: Card) -> str:
    """The YAML that the Hub reads."""
    tree = hub_licence(card.config.export.licence)
    base = hub_name(card.config)
    tree |= {"base_model": base} if base else {}
    task = "text-classification" if card.config.reward_model else "text-generation"
    tree |= {"library_name": "transformers", "pipeline_tag": task, "tags": ["headwater"]}
    return front(tree)


def front(tree: dict[str, Any]) -> str:
    return f"---\n{yaml.safe_dump(tree, sort_keys=False)}---"


def summary(card: Card) -> str:
    config = card.config
    origin = (
        f"A `{config.model.architecture}` of {prefixed(card.parameters).replace(' ', '')} parameters from scratch"
        if config.model.architecture
        else f"`{public(str(config.model.pretrained))}` ({prefixed(card.parameters).replace(' ', '')} parameters)"
    )
    new = next((made.metrics["added_tokens"] for made in card.chain if "added_tokens" in made.metrics), 0)
    steps = [f"{new:,} tokens added to the vocabulary"] if new else []
    if config.pretrain:
        steps.append(f"pretrained for {config.pretrain.length} on `{config.corpus.said}`")
    if config.finetune:
        how = _weights_of(config.finetune)
        steps.append(f"fine-tuned for {config.finetune.length} on `{config.chat.said}` ({how})")
    if config.prefer:
        how = f"loss `{config.prefer.loss_type}`, beta {config.prefer.beta:g}; {_weights_of(config.prefer)}"
        said = made_pairs(config.preferences)
        steps.append(
            f"preference-tuned for {config.prefer.length} on `{public(config.preferences.called)}`{said} ({how})"
        )
    if config.reward_model:
        said, how = made_pairs(config.preferences), _weights_of(config.reward_model)
        pairs = f"pairs of `{public(config.preferences.called)}`{said} ({how})"
        steps.append(f"trained for {config.reward_model.length} to put one number on an answer, by {pairs}")
    if config.reinforce:
        file, _, function = config.reinforce.reward.rpartition(":")
        how = f"{config.reinforce.loss_type}, {_weights_of(config.reinforce)}"
        said = f"rewarded for {config.reinforce.length} by `{function}` of `{Path(file).name}` for answers to"
        steps.append(f"{said} `{public(config.prompts.called)}` ({how})")
    return f"{origin}, {', then '.join(steps)}. Weights are fp32 safetensors."


def _weights_of(tuning: Tuning) -> str:
    if not tuning.lora:
        return "all weights"
    codes = f" on a base in {tuning.lora.quantisation}" if tuning.lora.quantisation else ""
    return f"LoRA of rank {tuning.lora.r}{codes}, merged"


def made_pairs(preferences: Preferences) -> str:
    """What was set against what, where no person judged: the pairs were made from a package."""
    made = {
        "wordnet": "a word's definition against another sense's or another word's",
        "stdlib_docstrings": "a function's docstring against its neighbour's",
    }
    words = made.get(preferences.source)
    return f", pairs made by rule, no person's judgements: {words}" if words else ""


def usage(card: Card) -> str:
    """Python that runs as it stands, in the directory or with the name on the Hub."""
    if card.config.reward_model:
        return scoring(card)
    if card.chats:
        prompt = (
            'prompt = tokenizer.apply_chat_template([{"role": "user", "content": "Hello"}], '
            'add_generation_prompt=True, return_tensors="pt")'
        )
    else:
        prompt = (
            f'prompt = tokenizer({card.opening!r} + "Hello", add_special_tokens=False, return_tensors="pt")'
        )
    code = (
        "from transformers import AutoModelForCausalLM, AutoTokenizer\n\n"
        'name = "."  # this directory, or the model\'s name on the Hub\n'
        "tokenizer = AutoTokenizer.from_pretrained(name)\n"
        "model = AutoModelForCausalLM.from_pretrained(name)\n"
        f"{prompt}\n"
        "answer = model.generate(**prompt, max_new_tokens=64)\n"
        'print(tokenizer.decode(answer[0, prompt["input_ids"].shape[1] :], skip_special_tokens=True))'
    )
    return fenced(code, "python") + (f"\n\n{adapter_usage(card)}" if card.has_adapter else "")


def scoring(card: Card) -> str:
    """Python that puts the model's number on an answer."""
    code = (
        "import torch\n"
        "from transformers import AutoModelForSequenceClassification, AutoTokenizer\n\n"
        'name = "."  # this directory, or the model\'s name on the Hub\n'
        "tokenizer = AutoTokenizer.from_pretrained(name)\n"
        "model = AutoModelForSequenceClassification.from_pretrained(name)\n"
        'turns = [{"role": "user", "content": "Hello"}, {"role": "assistant", "content": "Good day."}]\n'
        'text = tokenizer.apply_chat_template(turns, return_tensors="pt", return_dict=True)\n'
        "with torch.no_grad():\n"
        "    print(float(model(**text).logits[0, 0]))  # higher is better, among answers to one prompt"
    )
    return fenced(code, "python") + (f"\n\n{adapter_usage(card)}" if card.has_adapter else "")


def adapter_usage(card: Card) -> str:
    config = card.config
    *earlier, _ = config.trainings
    trained = earlier[-1] if earlier else None
    base = None if trained or config.model.adds_tokens else hub_name(config)
    stage = trained or "base"
    weights = next(
        (digest["sha256"] for made in card.chain if made.stage == stage for name, digest in made.files.items()
         if name == "model/model.safetensors"),
        None,
    )  # fmt: skip
    where = f"`{base}`" if base else f"the model of the stage `{stage}` of the same run"
    known = f" (sha256 of its `model.safetensors`: `{weights}`)" if weights else ""
    codes = _codes_of(card.last.lora) if card.last and card.last.lora else ""
    return (
        f"`adapter/` holds the adapter alone, for {where}{known}: "
        f'`peft.PeftModel.from_pretrained(base_model, name, subfolder="adapter")`.{codes}'
    )


def _codes_of(lora: Lora) -> str:
    """How the base of an adapter was stored, where it was in codes."""
    if lora.quantisation == "nf4":
        double = f"bnb_4bit_use_double_quant={lora.double_quantisation}"
        how = f'`BitsAndBytesConfig(load_in_4bit=True, bnb_4bit_quant_type="nf4", {double})`'
        stored = f"4 bits, as by {how}"
    elif lora.quantisation == "int8":
        stored = "8 bits, a scale a row"
    else:
        return ""
    return f" It was trained on that model in {stored}; the weights here are merged into what these codes stand for."


def score_table(groups: dict[str, list[Score]]) -> str:
    """One line a score, in the evaluation's own words, and under the table how each was measured."""
    if not groups:
        return "Nothing was measured."
    head = ("score", "model", "value", "95 % interval", "unit", "better", "count")
    rows = [_score_row(score, decimals_of(group)) for group in groups.values() for score in group]
    models: dict[tuple[str, str], list[str]] = {}
    for score in (score for group in groups.values() for score in group):
        models.setdefault((score.name, score.protocol), []).append(score.model)
    protocols = [f"- {name} ({', '.join(of)}): {protocol}" for (name, protocol), of in models.items()]
    return table(head, rows) + "\n\n" + "\n".join(protocols)


def _score_row(score: Score, decimals: int) -> tuple[str, ...]:
    bounds = [_figure(bound, decimals) for bound in score.interval or ()]
    interval = f"[{', '.join(bounds)}]" if bounds else ""
    count = "" if score.count is None else f"{score.count:,}"
    return (
        score.name,
        score.model,
        _figure(score.value, decimals),
        interval,
        score.unit,
        score.better,
        count,
    )


def _figure(value: float, decimals: int) -> str:
    return f"{value:,.{decimals}f}" if math.isfinite(value) else str(value)


def samples(found: list[dict[str, Any]]) -> str:
    """Every sample with its prompt, as generated."""
    parts = []
    for entry in found:
        text = entry["text"]
        shown = text if len(text) <= SHOWN_CHARACTERS else text[:SHOWN_CHARACTERS] + " [...]"
        parts.append(
            f"{entry['kind']}, {entry['decoding']}:\n\n{fenced(prompt_of(entry))}\n\n{fenced(shown)}"
        )
    return "\n\n".join(parts) or "None were asked for."


def data(card: Card) -> str:
    export = card.config.export
    note = f"{export.data_note.strip()} " if export.data_note else ""
    tokenized = next((made.metrics for made in card.chain if made.stage == "tokenize"), {})
    lines = [f"- {name}: {read_from(tokenized[name])}" for name in SECTIONS if name in tokenized]
    bytes_read = "".join(f"\n{line}" for line in lines)
    return f"{note}Licence of the data: {named(export.licence)}." + (f"\n{bytes_read}" if lines else "")


def settings(config: LanguageModelConfig) -> str:
    """What was asked for, section by section, without the paths of the machine that made it."""
    given = ("corpus", "tokenizer", "model", "pretrain", "chat", "finetune", "preferences", "prefer")
    given = (*given, "prompts", "reinforce", "reward_model")
    sections = (*given, "evaluate", *(() if config.reward_model else ("generate",)))
    tree = {name: identity(section) for name in sections if (section := dict(config)[name]) is not None}
    corpus = tree.get("corpus", {})
    for place in (corpus, *corpus.get("sources", ())):
        if place.get("filters") == identity(Filters()):
            place.pop("filters")  # ten lines that say: none
    if asked := tree.get("evaluate"):
        asked["tasks"] = [Path(name).name for name in asked["tasks"]]
        for place in (asked["general"] or {}, *(asked["general"] or {}).get("sources", ())):
            if place.get("path"):
                place["path"] = public(place["path"])
    for section, key in (
        ("corpus", "path"),
        ("chat", "path"),
        ("preferences", "path"),
        ("prompts", "path"),
        ("model", "pretrained"),
    ):
        for place in (tree.get(section, {}), *tree.get(section, {}).get("sources", ())):
            if place.get(key):
                place[key] = public(place[key])
    tree = {
        name: {key: value for key, value in section.items() if value is not None}
        for name, section in tree.items()
    }
    return fenced(yaml.safe_dump(tree, sort_keys=False, allow_unicode=True).rstrip(), "yaml")


def checks(measured: dict[str, float]) -> str:
    """What plain transformers, in a process of its own, made of this directory."""
    rows = [(name.replace("_", " "), f"{value:,}" if isinstance(value, int) else f"{value:.3g}")
            for name, value in sorted(measured.items())]  # fmt: skip
    text = "Loaded by transformers alone in a fresh process and compared with the model as it was trained."
    return f"{text}\n\n{table(('check', 'measured'), rows)}"


def lineage_table(chain: list[Artifact], commit: str, versions: dict[str, str]) -> str:
    """Each artifact's digest, which covers its settings, its files and the digests of its inputs.

    commit, versions: of the export itself.
    """
    made = [(link.stage, f"`{link.digest}`", link.made) for link in chain]
    made.append(("export", "this directory", {"commit": commit, "versions": versions}))
    rows = [(stage, digest, str(how.get("commit", "unknown"))) for stage, digest, how in made]
    stages: dict[str, list[str]] = {}
    for stage, _, how in made:
        versions = ", ".join(f"{name} {version}" for name, version in sorted(how.get("versions", {}).items()))
        stages.setdefault(versions, []).append(stage)
    made_with = [f"- {', '.join(of)}: {versions}" for versions, of in stages.items()]
    return table(("stage", "sha256", "commit"), rows) + "\n\nMade with\n\n" + "\n".join(made_with)


def table(head: tuple[str, ...], rows: Iterable[tuple[str, ...]]) -> str:
    lines = [head, ("---",) * len(head), *rows]
    return "\n".join(
        "| " + " | ".join(" ".join(cell.replace("|", "\\|").split()) for cell in line) + " |"
        for line in lines
    )


def fenced(text: str, language: str = "text") -> str:
    """`text` in a fence that nothing in it can close."""
    longest = max((len(run) for run in re.findall("`{3,}", text)), default=2)
    fence = "`" * (longest + 1)
    return f"{fence}{language}\n{text}\n{fence}"
