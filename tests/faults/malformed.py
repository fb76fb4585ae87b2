"""Malformed inputs, each with what must be said of it: recipes, settings, launch files, texts, rows, models.

A case makes what is wrong in an empty folder, and gives the arguments of `headwater plan` and the words that the
refusal must hold: the file or key, and what is the matter.
"""

import gzip
import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from tests.helpers import ROOT
from tests.stages.tiny_model import make_model, make_tokenizer

CHAT = [{"role": "user", "content": "a?"}, {"role": "assistant", "content": "b."}]
TREE = {
    "recipe": "llm",
    "run": {"output_dir": "FOLDER/run", "threads": 1},
    "corpus": {"source": "text", "path": "FOLDER/texts", "held_out": 0.3},
    "tokenizer": {"algorithm": "bpe", "vocabulary_size": 300},
    "model": {
        "architecture": "llama",
        "config": {
            "hidden_size": 32,
            "intermediate_size": 64,
            "num_hidden_layers": 1,
            "num_attention_heads": 2,
        },
    },
    "pretrain": {
        "sequence_length": 64,
        "max_steps": 4,
        "train_batch_size": 4,
        "learning_rate": 0.001,
        "bf16": False,
    },
}


@dataclass(frozen=True)
class Case:
    """make: writes what is wrong into a folder and returns the arguments after `plan`; says: words of the refusal,
    with FOLDER for the folder."""

    name: str
    make: Callable[[Path], list[str]]
    says: tuple[str, ...]


def good(folder: Path, tree: dict | None = None) -> list[str]:
    """A recipe that `plan` takes, with its texts; or `tree`."""
    (folder / "texts").mkdir(exist_ok=True)
    for number in range(6):
        (folder / "texts" / f"{number}.txt").write_text(f"text {number} " * 50)
    text = json.dumps(tree or TREE, indent=1).replace("FOLDER", str(folder))
    (folder / "recipe.yaml").write_text(text)
    return [str(folder / "recipe.yaml")]


def recipe_of(content: str | bytes) -> Callable[[Path], list[str]]:
    """A recipe file of this content."""

    def make(folder: Path) -> list[str]:
        raw = content if isinstance(content, bytes) else content.replace("FOLDER", str(folder)).encode()
        (folder / "recipe.yaml").write_bytes(raw)
        return [str(folder / "recipe.yaml")]

    return make


def settings(*overrides: str) -> Callable[[Path], list[str]]:
    """The good recipe with these overrides."""
    return lambda folder: [*good(folder), *(text.replace("FOLDER", str(folder)) for text in overrides)]


def without(section: str, key: str | None = None) -> Callable[[Path], list[str]]:
    """The good recipe less a section, or a key of it."""

    def make(folder: Path) -> list[str]:
        tree = json.loads(json.dumps(TREE))
        if key:
            del tree[section][key]
        else:
            del tree[section]
        return good(folder, tree)

    return make


def file_of(name: str, content: str | bytes, *overrides: str) -> Callable[[Path], list[str]]:
    """The good recipe beside a file, with overrides that name it."""

    def make(folder: Path) -> list[str]:
        arguments = settings(*overrides)(folder)
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(
            content if isinstance(content, bytes) else content.replace("FOLDER", str(folder)).encode()
        )
        return arguments

    return make


def launched(content: str, *overrides: str) -> Callable[[Path], list[str]]:
    return file_of("launch.yaml", content, "run.launch=FOLDER/launch.yaml", *overrides)


def rows(kind: str, content: str | bytes, *overrides: str) -> Callable[[Path], list[str]]:
    """Chat rows in a file of `kind`, for fine-tuning after pretraining."""
    chat = ("finetune.sequence_length=64", "finetune.max_steps=2", "finetune.train_batch_size=2",
            "finetune.learning_rate=0.001", "finetune.bf16=false", f"chat.path=FOLDER/rows.{kind}")  # fmt: skip
    return file_of(f"rows.{kind}", content, *chat, *overrides)


def row(**fields: object) -> str:
    return json.dumps(fields) + "\n"


def judged(content: str) -> Callable[[Path], list[str]]:
    """Judged answers, for preference tuning after pretraining."""
    prefer = ("prefer.sequence_length=64", "prefer.max_steps=2", "prefer.train_batch_size=2",
              "prefer.learning_rate=0.001", "prefer.bf16=false", "preferences.path=FOLDER/judged.jsonl")  # fmt: skip
    return file_of("judged.jsonl", content, *prefer)


def base(break_it: Callable[[Path], None]) -> Callable[[Path], list[str]]:
    """A pretrained model's directory, broken, for continued pretraining."""

    def make(folder: Path) -> list[str]:
        from pipeline.lm.model import save_model

        directory = folder / "base"
        save_model(make_model(0), make_tokenizer(folder / "tokenizer"), directory)
        break_it(directory)
        tree = {key: value for key, value in TREE.items() if key not in ("tokenizer", "model")}
        return good(folder, tree | {"model": {"pretrained": "FOLDER/base"}})

    return make


def _edit(**fields: object) -> Callable[[Path], None]:
    def edit(directory: Path) -> None:
        config = json.loads((directory / "config.json").read_text())
        (directory / "config.json").write_text(json.dumps(config | fields))

    return edit


def _replace(name: str, content: bytes | None) -> Callable[[Path], None]:
    def replace(directory: Path) -> None:
        (directory / name).unlink()
        if content is not None:
            (directory / name).write_bytes(content)

    return replace


def _pickled(directory: Path) -> None:
    (directory / "model.safetensors").rename(directory / "pytorch_model.bin")


DEEPSPEED = (
    "distributed_type: DEEPSPEED\nnum_processes: 2\nuse_cpu: true\ndeepspeed_config:\n  zero_stage: {}\n{}"
)
TEXT = "corpus.path=FOLDER/file"
SHIPPED = str(ROOT / "recipes")

RECIPES = {
    "no such file": (lambda folder: [str(folder / "nothing.yaml")], ("no recipe at FOLDER/nothing.yaml",)),
    "a directory": (lambda folder: [str(folder)], ("FOLDER",)),
    "empty": (recipe_of(""), ("recipe.yaml holds no sections",)),
    "a comment alone": (recipe_of("# nothing\n"), ("holds no sections",)),
    "a list": (recipe_of("- run\n- model\n"), ("holds no sections",)),
    "a word": (recipe_of("quickstart\n"), ("holds no sections",)),
    "bytes that are no text": (recipe_of(b"\xff\xfe\x00run: \xc3\x28"), ("recipe.yaml",)),
    "a tab for indentation": (recipe_of("run:\n\toutput_dir: a\n"), ("is not YAML", "line 2")),
    "a quote left open": (recipe_of('run:\n  output_dir: "a\n'), ("is not YAML",)),
    "a bracket left open": (recipe_of("run: {output_dir: a\n"), ("is not YAML",)),
    "a key said twice": (
        recipe_of("recipe: llm\nrun: {output_dir: a}\nrun: {output_dir: b}\n"),
        ("says 'run' again",),
    ),
    "a Python object": (recipe_of("recipe: !!python/object/apply:os.system ['true']\n"), ("is not YAML",)),
    "an anchor that is not there": (recipe_of("recipe: llm\nrun: *other\n"), ("is not YAML",)),
    "aliases that multiply": (
        recipe_of(
            "a: &a [x,x,x,x,x,x,x,x,x]\n"
            + "".join(
                f"{n}: &{n} [*{p},*{p},*{p},*{p},*{p},*{p},*{p},*{p},*{p}]\n"
                for p, n in zip("abcdefgh", "bcdefghi", strict=True)
            )
        ),
        ("recipe: None",),
    ),
    "nested a thousand deep": (recipe_of("recipe: " + "[" * 1000 + "]" * 1000), ("recipe.yaml",)),
    "two documents": (recipe_of("recipe: llm\n---\nrecipe: gan\n"), ("is not YAML",)),
    "no family": (without("recipe"), ("recipe: None", "names no family")),
    "an unknown family": (recipe_of("recipe: lllm\n"), ("recipe: 'lllm'", "did you mean 'llm'?")),
    "a family that is a number": (
        recipe_of("recipe: 3\nrun: {output_dir: FOLDER/run}\n"),
        ("names no family",),
    ),
    "no output directory": (without("run", "output_dir"), ("lacks 'run.output_dir': directory that holds",)),
    "no run": (without("run"), ("lacks 'run'",)),
    "no model": (without("model"), ("model",)),
    "no corpus": (without("corpus"), ("corpus",)),
    "no tokenizer": (without("tokenizer"), ("tokenizer",)),
    "a section that is a list": (settings("pretrain=[1, 2]"), ("pretrain",)),
    "a section that is a word": (settings("run=fast"), ("run",)),
    "a section that is empty": (settings("pretrain="), ("pretrain",)),
    "no steps": (without("pretrain", "max_steps"), ("pretrain", "max_steps")),
    "no learning rate": (without("pretrain", "learning_rate"), ("lacks 'pretrain.learning_rate'",)),
    "an override without a value": (settings("pretrain.max_steps"), ("expected: section.key=value",)),
    "an override without a key": (settings("=3"), ("expected: section.key=value",)),
    "an override that is no YAML": (settings("pretrain.optim=[a"), ("is not YAML",)),
    "an override of a key below a value": (settings("pretrain.max_steps.more=3"), ("pretrain.max_steps",)),
}
SETTINGS = {
    "an unknown section": (settings("pretran.max_steps=1"), ("'pretran'", "did you mean 'pretrain'?")),
    "an unknown key": (settings("pretrain.learnin_rate=1"), ("did you mean 'learning_rate'?",)),
    "a key of another section": (settings("run.max_steps=1"), ("run.max_steps",)),
    "a word for a number": (settings("pretrain.max_steps=ten"), ("pretrain.max_steps = 'ten'",)),
    "a fraction for a count": (settings("pretrain.max_steps=1.5"), ("pretrain.max_steps = 1.5",)),
    "no number": (settings("pretrain.learning_rate=.nan"), ("pretrain.learning_rate",)),
    "an endless number": (settings("pretrain.learning_rate=.inf"), ("pretrain.learning_rate",)),
    "a number below its least": (settings("pretrain.max_steps=0"), ("pretrain.max_steps = 0", "meaning")),
    "a rate of 0": (settings("pretrain.learning_rate=0"), ("pretrain.learning_rate = 0",)),
    "a share above 1": (settings("pretrain.adam_beta2=1.5"), ("pretrain.adam_beta2 = 1.5",)),
    "a word for a switch": (settings("pretrain.gradient_checkpointing=maybe"), ("gradient_checkpointing = 'maybe'",)),
    "an optimizer of another name": (settings("pretrain.optim=adam"), ("pretrain.optim = 'adam'", "adamw")),
    "a schedule of another name": (settings("pretrain.lr_scheduler_type=cos"), ("lr_scheduler_type = 'cos'",)),
    "a tracker of another name": (settings("run.trackers=[wandbee]"), ("run.trackers",)),
    "Muon with clipping": (settings("pretrain.optim=muon", "pretrain.max_grad_norm=1.0"), ("max_grad_norm: 0",)),
    "a decay that the schedule lacks": (settings("pretrain.decay_steps=2"), ("decay_steps", "wsd")),
    "a warm-up longer than the run": (settings("pretrain.warmup_steps=9"), ("warmup_steps 9", "max_steps 4")),
    "a constant rate that warms up not": (
        settings("pretrain.lr_scheduler_type=constant_with_warmup"), ("without a warm-up",)),
    "a power of another schedule": (settings("pretrain.lr_power=2"), ("lr_power with lr_scheduler_type",)),
    "an average of an average": (
        settings("pretrain.optim=schedule_free_adamw", "pretrain.lr_scheduler_type=constant", "pretrain.ema_decay=0.9"),
        ("ema_decay: 0",)),
    "patience without a figure": (settings("pretrain.early_stopping_patience=2"), ("metric_for_best_model",)),
    "a best figure that is never looked for": (
        settings("pretrain.metric_for_best_model=loss"), ("run.eval_steps",)),
    "a batch that does not divide": (settings("pretrain.train_batch_size=7"), ("nearest: 8",)),
    "a micro-batch that does not divide": (
        settings("pretrain.train_batch_size=12", "pretrain.per_device_train_batch_size=4"), ("does not divide the 6",)),
    "more processes than samples": (settings("run.num_processes=64"), ("over 64 processes",)),
    "no processes": (settings("run.num_processes=0"), ("run.num_processes = 0",)),
    "rows shared by too many": (
        settings("pretrain.sequence_parallel_size=3"), ("sequence_parallel_size 3 does not divide",)),
    "rows longer than the positions": (
        settings("pretrain.sequence_length=999", "model.config.max_position_embeddings=128"), ("999 is longer",)),
    "an output directory below a file": (settings("run.output_dir=FOLDER/recipe.yaml/run"), ("is a file",)),
    "an output directory where none can be": (settings("run.output_dir=/proc/x"), ("nothing can be made in /proc",)),
    "a name that is too long": (settings(f"run.output_dir={'x' * 300}"), ("file name too long",)),
    "an unknown architecture": (settings("model.architecture=lama"), ("did you mean 'llama'?",)),
    "an encoder for a decoder": (settings("model.architecture=bert-japanese"), ("bert-japanese",)),
    "a field that the architecture lacks": (settings("model.config.hiden_size=8"), ("did you mean 'hidden_size'?",)),
    "heads that do not divide the width": (settings("model.config.num_attention_heads=3"), ("32",)),
    "heads that cannot share": (settings("model.config.num_key_value_heads=3"), ("cannot share 3",)),
    "no layers": (settings("model.config.num_hidden_layers=0"), ("num_hidden_layers = 0",)),
    "a width of words": (settings("model.config.hidden_size=wide"), ("hidden_size = 'wide'",)),
    "a negative width": (settings("model.config.hidden_size=-32"), ("hidden_size",)),
    "an activation that does not exist": (settings("model.config.hidden_act=gleu"), ("hidden_act = 'gleu'",)),
    "positions of an unknown kind": (
        settings("model.config.rope_parameters={rope_type: yarm, rope_theta: 10000.0}"), ("rope_parameters",)),
    "an attention of another name": (settings("model.attention=falsh"), ("model.attention = 'falsh'",)),
    "a vocabulary below the bytes": (settings("tokenizer.vocabulary_size=100"), ("tokenizer.vocabulary_size = 100",)),
    "an algorithm of another name": (settings("tokenizer.algorithm=wordpiece"), ("tokenizer.algorithm",)),
    "a tokenizer that is not there": (
        settings("tokenizer={pretrained: FOLDER/none}"), ("FOLDER/none",)),
    "weights frozen that are not there": (settings("pretrain.freeze=[nothing.*]"), ("nothing.*",)),
    "a loss of another name": (settings("chat.loss=assistants"), ("chat.loss",)),
    "a licence that is none": (settings("export.licence=free"), ("export.licence 'free'",)),
}  # fmt: skip
LAUNCHES = {
    "not there": (settings("run.launch=FOLDER/none.yaml"), ("none.yaml",)),
    "a shipped one misspelt": (settings("run.launch=launch/zero4.yaml"), ("zero3.yaml",)),
    "empty": (launched(""), ("distributed_type None",)),
    "no YAML": (launched("distributed_type: [\n"), ("cannot read FOLDER/launch.yaml",)),
    "no text": (file_of("launch.yaml", b"\xff\xfe\x00", "run.launch=FOLDER/launch.yaml"), ("launch.yaml",)),
    "of another kind": (launched("distributed_type: TPU\n"), ("distributed_type 'TPU'",)),
    "FSDP": (launched("distributed_type: FSDP\n"), ("distributed_type 'FSDP'",)),
    "ZeRO-0": (launched(DEEPSPEED.format(0, "")), ("zero_stage 0",)),
    "ZeRO-7": (launched(DEEPSPEED.format(7, "")), ("zero_stage 7",)),
    "ZeRO in words": (launched(DEEPSPEED.format("two", "")), ("zero_stage 'two'",)),
    "another batch": (launched(DEEPSPEED.format(2, "  train_batch_size: 99\n")), ("train_batch_size is 99",)),
    "another precision": (launched(DEEPSPEED.format(2, "  bf16: true\n")), ("bf16 is True",)),
    "another clipping": (launched(DEEPSPEED.format(2, "  gradient_clipping: 0.3\n")), ("gradient_clipping is 0.3",)),
    "a DeepSpeed file that is not there": (
        launched(DEEPSPEED.format(2, "  deepspeed_config_file: FOLDER/ds.json\n")), ("deepspeed_config_file",)),
    "a DeepSpeed file that is no JSON": (
        lambda folder: [
            *launched(DEEPSPEED.format(2, "  deepspeed_config_file: FOLDER/ds.json\n"))(folder),
            *([] if (folder / "ds.json").write_text("{") else []),
        ],
        ("deepspeed_config_file",)),
    "a DeepSpeed file with an optimizer": (
        lambda folder: [
            *launched(DEEPSPEED.format(2, "  deepspeed_config_file: FOLDER/ds.json\n"))(folder),
            *([] if (folder / "ds.json").write_text('{"optimizer": {"type": "Adam"}}') else []),
        ],
        ("sets optimizer",)),
    "8-bit moments cut up": (
        settings("run.launch=launch/zero2.yaml", "pretrain.optim=adamw_8bit"), ("adamw_8bit", "ZeRO cuts")),
    "a GAN under ZeRO-3": (
        lambda folder: [f"{SHIPPED}/gan/ring.yaml", f"run.output_dir={folder}/run", "run.launch=launch/zero3.yaml"],
        ("not tested under ZeRO-3",)),
}  # fmt: skip
TEXTS = {
    "nothing there": (settings("corpus.path=FOLDER/txets"), ("nothing at FOLDER/txets", "did you mean 'texts'?")),
    "a folder without texts": (file_of("file/a.md", "a", TEXT), ("no file matches", ".md (1)")),
    "an empty folder": (settings("corpus.path=FOLDER/empty/x"), ("FOLDER/empty",)),
    "an empty file": (file_of("file/a.txt", "", TEXT), ("a.txt: the file is empty",)),
    "Latin-1": (file_of("file/a.txt", "fine\nnaïve\n".encode("latin-1"), TEXT), ("a.txt:2", "not UTF-8")),
    "half a UTF-16 file": (file_of("file/a.txt", b"\xff\xfea\x00b", TEXT), ("a.txt",)),
    "a picture named .txt": (file_of("file/a.txt", b"\x89PNG\r\n\x1a\n\x00\x00\x00\rIHDR\xff", TEXT), ("a.txt",)),
    "a JSON line that is none": (
        file_of("file/a.jsonl", '{"text": "a"}\n{"text": b}\n', TEXT, "corpus.source=jsonl"), ("a.jsonl:2: not JSON",)),
    "JSON lines without the column": (
        file_of("file/a.jsonl", '{"body": "a"}\n', TEXT, "corpus.source=jsonl"), ("a.jsonl:1", "text")),
    "a column that is no text": (
        file_of("file/a.jsonl", '{"text": 3}\n', TEXT, "corpus.source=jsonl"), ("a.jsonl:1",)),
    "a column that is null": (
        file_of("file/a.jsonl", '{"text": null}\n', TEXT, "corpus.source=jsonl"), ("a.jsonl:1",)),
    "a list for a row": (file_of("file/a.jsonl", "[1]\n", TEXT, "corpus.source=jsonl"), ("a.jsonl:1",)),
    "JSON nested without end": (
        file_of("file/a.jsonl", "[" * 100_000 + "\n", TEXT, "corpus.source=jsonl"), ("a.jsonl:1",)),
    "a gzip that is none": (file_of("file/a.jsonl.gz", "plain", TEXT, "corpus.source=jsonl"), ("a.jsonl.gz",)),
    "a gzip cut short": (
        file_of("file/a.jsonl.gz", gzip.compress(b'{"text": "a"}\n' * 99)[:12], TEXT, "corpus.source=jsonl"),
        ("a.jsonl.gz",)),
    "a parquet that is none": (
        file_of("file/a.parquet", "PAR1 no PAR1", TEXT, "corpus.source=parquet"), ("a.parquet",)),
    "a source of another name": (settings("corpus.source=txt"), ("corpus.source",)),
    "more held out than there is": (settings("corpus.held_out=1.5"), ("corpus.held_out = 1.5",)),
    "a data set of the Hub, offline": (
        settings("corpus.source=datasets", "corpus.path=owner/name"), ("owner/name is not on this machine",)),
    "a package that is not installed": (
        settings("corpus.source=packages", "corpus.packages=[no_such_thing]"), ("no_such_thing is no installed",)),
}  # fmt: skip
ROWS = {
    "no file": (settings("chat.path=FOLDER/none.jsonl", "finetune.max_steps=2", "finetune.sequence_length=64",
                         "finetune.train_batch_size=2", "finetune.learning_rate=0.001"), ("FOLDER/none.jsonl",)),
    "an empty file": (rows("jsonl", ""), ("rows.jsonl",)),
    "of no known shape": (rows("jsonl", row(question=1, reply=2)), ("rows.jsonl:1",)),
    "messages that are a number": (rows("jsonl", row(messages=3)), ("rows.jsonl:1",)),
    "no messages": (rows("jsonl", row(messages=[])), ("rows.jsonl:1",)),
    "a message that is a word": (rows("jsonl", row(messages=["a"])), ("rows.jsonl:1",)),
    "a message without a role": (rows("jsonl", row(messages=[{"content": "a"}])), ("rows.jsonl:1",)),
    "an unknown role": (rows("jsonl", row(messages=[{"role": "robot", "content": "a"}])), ("rows.jsonl:1", "robot")),
    "a message without content": (rows("jsonl", row(messages=[{"role": "user"}, CHAT[1]])), ("rows.jsonl:1",)),
    "content that is a number": (
        rows("jsonl", row(messages=[{"role": "user", "content": 3}, CHAT[1]])), ("rows.jsonl:1",)),
    "a system turn in the middle": (
        rows("jsonl", row(messages=[*CHAT, {"role": "system", "content": "a"}])), ("rows.jsonl:1",)),
    "no answer": (rows("jsonl", row(messages=CHAT[:1])), ("rows.jsonl:1",)),
    "a tool's result without a call": (
        rows("jsonl", row(messages=[CHAT[0], {"role": "tool", "content": "3"}, CHAT[1]])), ("rows.jsonl:1",)),
    "tools that are no JSON": (rows("jsonl", row(messages=CHAT, tools="{")), ("rows.jsonl:1", "tools")),
    "a weight below 0": (
        rows("jsonl", row(messages=[CHAT[0], CHAT[1] | {"weight": -1}])), ("rows.jsonl:1", "weight")),
    "a train flag that is a word": (
        rows("jsonl", row(messages=[CHAT[0], CHAT[1] | {"train": "no"}])), ("rows.jsonl:1", "train")),
    "a picture among texts": (
        rows("jsonl", row(messages=[{"role": "user", "content": [{"type": "image", "image": "a.png"}]}, CHAT[1]])),
        ("rows.jsonl:1",)),
    "two shapes in one file": (
        rows("jsonl", row(messages=CHAT) + row(prompt="a", completion="b")), ("rows.jsonl:2",)),
    "a prompt without a completion": (rows("jsonl", row(prompt="a", completion=None)), ("rows.jsonl:1",)),
    "an instruction without an output": (rows("jsonl", row(instruction="a", input="")), ("rows.jsonl:1",)),
    "a speaker that ShareGPT lacks": (
        rows("jsonl", row(conversations=[{"from": "bird", "value": "a"}, {"from": "gpt", "value": "b"}])),
        ("rows.jsonl:1", "bird")),
    "another format than said": (
        rows("jsonl", row(messages=CHAT), "chat.format=alpaca"), ("rows.jsonl:1",)),
    "a JSON array cut short": (rows("json", '[{"messages": []}, '), ("rows.json",)),
    "a JSON array of words": (rows("json", '["a", "b"]'), ("rows.json",)),
    "CSV without the columns": (rows("csv", "a,b\n1,2\n"), ("rows.csv",)),
    "CSV with an empty answer": (rows("csv", "prompt,completion\na,\n"), ("rows.csv",)),
    "an end that is unknown": (rows("docx", "PK"), ("rows.docx",)),
}  # fmt: skip
JUDGED = {
    "no file": (
        lambda folder: [*judged("x")(folder), f"preferences.path={folder}/none.jsonl"], ("FOLDER/none.jsonl",)),
    "an empty file": (judged(""), ("judged.jsonl",)),
    "no rejected answer": (judged(row(prompt="a", chosen="b")), ("judged.jsonl:1",)),
    "both answers the same": (judged(row(prompt="a", chosen="b", rejected="b") * 20), ("judged.jsonl:1",)),
    "an empty answer": (judged(row(prompt="a", chosen="", rejected="b") * 20), ("judged.jsonl:1",)),
    "a label that is a word": (judged(row(prompt="a", completion="b", label="good")), ("judged.jsonl:1",)),
    "a number for an answer": (judged(row(prompt="a", chosen=1, rejected="b")), ("judged.jsonl:1",)),
    "answers to two prompts": (
        judged(row(chosen=CHAT, rejected=[{"role": "user", "content": "x"}, CHAT[1]])), ("judged.jsonl:1",)),
    "a line that is not JSON": (judged("{\n"), ("judged.jsonl:1",)),
}  # fmt: skip
MODELS = {
    "not there": (settings("model={pretrained: /nowhere}", "tokenizer="), ("/nowhere",)),
    "a name of the Hub, offline": (settings("model={pretrained: owner/name}", "tokenizer="), ("owner/name",)),
    "an empty folder": (
        lambda folder: [*settings("model={pretrained: FOLDER/texts}", "tokenizer=")(folder)],
        ("FOLDER/texts",),
    ),
    "no config": (base(_replace("config.json", None)), ("FOLDER/base", "config.json")),
    "a config that is no JSON": (base(_replace("config.json", b"{")), ("FOLDER/base",)),
    "a config that is a list": (base(_replace("config.json", b"[]")), ("FOLDER/base",)),
    "an architecture that transformers lacks": (base(_edit(model_type="lama9")), ("FOLDER/base", "lama9")),
    "code of its own": (
        base(
            _edit(
                model_type="own", auto_map={"AutoConfig": "own.Config", "AutoModelForCausalLM": "own.Model"}
            )
        ),
        ("FOLDER/base",),
    ),
    "no weights": (base(_replace("model.safetensors", None)), ("FOLDER/base",)),
    "weights cut short": (
        base(_replace("model.safetensors", b"\x10\x00\x00\x00\x00\x00\x00\x00{}")),
        ("FOLDER/base",),
    ),
    "a header that lies": (
        base(_replace("model.safetensors", (1 << 62).to_bytes(8, "little") + b"{}")),
        ("FOLDER/base",),
    ),
    "weights in a pickle alone": (base(_pickled), ("FOLDER/base",)),
    "no tokenizer": (base(_replace("tokenizer.json", None)), ("FOLDER/base",)),
    "a tokenizer that is no JSON": (base(_replace("tokenizer.json", b"{")), ("FOLDER/base",)),
}

KINDS = {"recipe": RECIPES, "setting": SETTINGS, "launch file": LAUNCHES, "text": TEXTS, "chat row": ROWS,
         "judged row": JUDGED, "model": MODELS}  # fmt: skip
CASES = [Case(f"{kind}: {name}", *case) for kind, cases in KINDS.items() for name, case in cases.items()]
