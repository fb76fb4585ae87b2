"""Catches a bad input that is found late, met with a traceback, told without a way out, or that leaves files behind."""

import json
import shutil

import pytest

from pipeline.__main__ import main
from pipeline.run.artifact import publish
from tests.whole.command import RECIPE, ROOT, Done, headwater, listing, manifest, miniature

LORA_RECIPE = "recipes/llm/smollm2_lora.yaml"
BROKEN_LINES = (20, 40)  # beyond the rows that are looked at before anything runs


@pytest.fixture
def folder(tmp_path):
    """Inputs of every bad kind."""
    write(tmp_path / "empty" / "a.txt", b"")
    write(tmp_path / "latin" / "a.txt", "fine\nnaïve\n".encode("latin-1"))
    write(tmp_path / "broken" / "a.jsonl", b'{"text": "one"}\n{"text": two}\n')
    write(tmp_path / "late" / "a.jsonl", b"".join(map(json_line, range(60))))
    write(tmp_path / "chat.jsonl", json.dumps({"messages": CONVERSATION}).encode() + b"\n")
    write(tmp_path / "regular_file", b"")
    return tmp_path


CONVERSATION = [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]


def write(path, content):
    path.parent.mkdir(exist_ok=True)
    path.write_bytes(content)


def json_line(number):
    text = f"def function_{number}(value):\n    return value + {number}\n" * 5
    return (b'{"text": two}' if number in BROKEN_LINES else json.dumps({"text": text}).encode()) + b"\n"


def refused(done, *told):
    """What every refusal has in common, and what this one must say."""
    assert done.code == 2, done.lines
    assert done.out == "" and done.err.startswith("error: ")
    assert len(done.lines) <= 5 and "Traceback" not in done.err
    for part in told:
        assert part in done.err
    assert done.seconds < 20


# Refused before anything runs. {} is the folder of inputs; what must be said follows.
PLANNED = {
    "missing corpus": (
        ["corpus.source=text", "corpus.path={}/emtpy"],
        ["corpus.path: nothing at {}/emtpy", "did you mean 'empty'?"],
    ),
    "empty file": (
        ["corpus.source=text", "corpus.path={}/empty"],
        ["{}/empty/a.txt: the file is empty", "corpus.on_bad_row=skip"],
    ),
    "undecodable bytes": (
        ["corpus.source=text", "corpus.path={}/latin"],
        ["{}/latin/a.txt:2: byte 0xef at offset 7 is not UTF-8", "corpus.on_bad_row=skip"],
    ),
    "a line that is not JSON": (
        ["corpus.source=jsonl", "corpus.path={}/broken"],
        ["{}/broken/a.jsonl:2: not JSON", "corpus.on_bad_row=skip"],
    ),
    "no file of the pattern": (
        ["corpus.source=text", "corpus.path={}/broken"],
        ["no file matches **/*.txt in {}/broken", "holds: .jsonl (1)"],
    ),
    "a chat without a path": (["chat.source=jsonl"], ["chat.path is missing", "expected: where to find"]),
    "a data set of the Hub, offline": (
        ["corpus.source=datasets", "corpus.path=owner/name"],
        ["owner/name is not on this machine", "way out: unset HF_HUB_OFFLINE, or corpus.path=FOLDER"],
    ),
    "unknown architecture": (["model.architecture=lama"], ["'lama'", "did you mean 'llama'?"]),
    "unknown field of the architecture": (["model.config.hiden_size=8"], ["did you mean 'hidden_size'?"]),
    "a width that the heads do not divide": (
        ["model.architecture=llama", "model.config.hidden_size=33"],
        ["model.config.hidden_size = 33 ", "(33) is not a multiple", "hidden_size: 4096"],
    ),
    "a width that is no number": (
        ["model.config.hidden_size=ten"],
        ["model.config.hidden_size = 'ten' makes no qwen3\nexpected: ", "hidden_size: 4096"],
    ),
    "an activation that does not exist": (
        ["model.config.hidden_act=gleu"],
        ["model.config.hidden_act = 'gleu' makes no qwen3\nexpected: ", "hidden_act: 'silu'"],
    ),
    "no heads": (["model.config.num_attention_heads=0"], ["num_attention_heads = 0 makes no qwen3"]),
    "heads that cannot share": (
        ["model.config.num_attention_heads=4", "model.config.num_key_value_heads=3"],
        ["4 attention heads cannot share 3 key and value heads evenly"],
    ),
    "no layers": (
        ["model.config.num_hidden_layers=0"],
        ["num_hidden_layers = 0 makes no qwen3", "one layer"],
    ),
    "an unknown kind of positions": (
        ["model.config.rope_parameters.rope_type=liner"],
        ["model.config.rope_parameters = ", "makes no qwen3"],
    ),
    "unknown key": (["pretrain.learnin_rate=1"], ["pretrain.learnin_rate", "did you mean 'learning_rate'?"]),
    "unknown section": (["pretran.max_steps=1"], ["'pretran'", "did you mean 'pretrain'?"]),
    "an override without a value": (["pretrain.max_steps"], ["expected: section.key=value"]),
    "a value of another type": (["pretrain.max_steps=ten"], ["pretrain.max_steps = 'ten'", "integer"]),
    "a batch that does not divide": (["pretrain.train_batch_size=7"], ["over 2 processes", "nearest: 8"]),
    "a micro-batch that does not divide": (
        ["finetune.per_device_train_batch_size=3"],
        ["does not divide the 8 samples", "nearest: 2"],
    ),
    "more processes than samples": (["run.num_processes=64"], ["over 64 processes", "nearest: 64"]),
    "no such launch file": (["run.launch=launch/zero4.yaml"], ["launch/zero4.yaml", "zero3.yaml"]),
    "no launch file": (["run.launch={}/regular_file"], ["distributed_type None", "expected: one of NO, "]),
    "a row longer than the positions": (
        ["pretrain.sequence_length=256"],
        ["256 is longer than the model's 128 positions", "of at most 128"],
    ),
    "a conversation row longer than the positions": (
        ["finetune.sequence_length=256"],
        ["256 is longer than the model's 128 positions", "of at most 128"],
    ),
    "adapters that match nothing": (
        ["finetune.lora.target_modules=[query_proj]"],
        ["'query_proj' matches no linear module", "did you mean 'q_proj'?"],
    ),
    "no permission to write": (
        ["run.output_dir={}/regular_file/run"],
        ["{}/regular_file is a file", "way out: run.output_dir="],
    ),
    "a place where nothing can be made": (
        ["run.output_dir=/proc/x"],
        ["run.output_dir /proc/x: nothing can be made in /proc: no such file", "way out: run.output_dir="],
    ),
    "a place below one where nothing can be made": (
        ["run.output_dir=/proc/x/y"],
        ["run.output_dir /proc/x/y: nothing can be made in /proc: no such file"],
    ),
    "a name that is too long": (
        [f"run.output_dir={'x' * 300}/run"],
        ["file name too long", "way out: run.output_dir="],
    ),
    "a vocabulary below the bytes": (["tokenizer.vocabulary_size=100"], ["greater than or equal to 300"]),
}
AS_A_PROCESS = (
    "missing corpus",
    "a place where nothing can be made",
    "unknown architecture",
    "unknown key",
    "no permission to write",
)


def in_process(capsys, *arguments):
    """As `headwater` ends and prints, without a process of its own."""
    code = main(list(arguments))
    return Done(code, *capsys.readouterr(), seconds=0.0)


@pytest.fixture
def offline(monkeypatch):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.setattr("datasets.config.HF_HUB_OFFLINE", True)


@pytest.mark.parametrize("case", PLANNED)
def test_it_is_refused_before_anything_is_written(case, folder, capsys, monkeypatch, offline):
    monkeypatch.chdir(folder)  # a relative path written to would be seen, too
    settings, told = ([text.replace("{}", str(folder)) for text in texts] for texts in PLANNED[case])
    recipe = [str(ROOT / RECIPE), *miniature(folder / "run", *settings)[1:]]
    before = listing(folder)
    for verb in ("run", "plan"):
        refused(in_process(capsys, verb, *recipe), *told)
    assert listing(folder) == before


@pytest.mark.parametrize("case", AS_A_PROCESS)
def test_a_process_refuses_it_too(case, folder):
    settings, told = ([text.replace("{}", str(folder)) for text in texts] for texts in PLANNED[case])
    before = listing(folder)
    refused(headwater("run", *miniature(folder / "run", *settings)), *told)
    assert listing(folder) == before


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["run", "recipes/llm/quickstrat.yaml"], "no recipe at recipes/llm/quickstrat.yaml"),
        (["run", "README.md"], "README.md is not YAML"),
        (["stage", "pretran", RECIPE], "did you mean 'pretrain'?"),
        (["run", RECIPE, "--replace", "pretran"], "did you mean 'pretrain'?"),
        (["verify", "recipes"], "no artifact in recipes"),
        (["run", LORA_RECIPE, "model.pretrained=/nowhere", "chat.source=stdlib_docstrings", "chat.path=null"],
         "no directory here"),
        (["run", LORA_RECIPE, "model.pretrained=pypi:no-such-wheel"], "way out: pip install no-such-wheel gguf"),
        (["run", RECIPE, "chat.source=wordnet", "chat.path=nowhere"], "apt-get download wordnet-base"),
    ],
    ids=lambda value: value if isinstance(value, str) else " ".join(value)[:40],
)  # fmt: skip
def test_what_is_named_and_not_there_is_refused(arguments, told, tmp_path, capsys, monkeypatch, offline):
    monkeypatch.chdir(ROOT)
    place = [] if arguments[0] == "verify" else [f"run.output_dir={tmp_path / 'run'}"]
    refused(in_process(capsys, *arguments, *place), told)
    assert listing(tmp_path) == {}


@pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing` is deprecated:FutureWarning")  # peft 0.21
def test_more_processes_than_gpus_are_refused_and_can_be_planned(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr("pipeline.run.launch._gpus", lambda: 3)
    recipe = [str(ROOT / RECIPE), *miniature(tmp_path / "run", "run.num_processes=4")[1:]]
    done = in_process(capsys, "run", *recipe)
    refused(done, "4 is more than the GPUs of this machine: 3", "way out: run.num_processes=3", "cpu_zero2")
    assert listing(tmp_path) == {}
    assert in_process(capsys, "plan", *recipe).code == 0
    on_cpu = in_process(capsys, "plan", *recipe[:-1], f"run.launch={ROOT}/launch/cpu_zero2.yaml")
    assert "cpu_zero2.yaml, 2 processes" in on_cpu.out


def test_tokens_of_another_tokenizer_are_refused(copied, tmp_path):
    """A tokenizer that took the place of the one the tokens were made with: a valid artifact, other bytes."""
    made = manifest(copied, "tokenizer")
    shutil.move(copied / "tokenizer", tmp_path / "staged")
    (tmp_path / "staged" / "artifact.json").unlink()
    with open(tmp_path / "staged" / "tokenizer.json", "a") as file:
        file.write("\n")
    publish(
        tmp_path / "staged",
        copied / "tokenizer",
        {key: made[key] for key in made if key not in ("files", "sha256")},
    )
    shutil.rmtree(copied / "pretrain")
    before = listing(copied)
    done = headwater("run", *miniature(copied))
    refused(done, "made from another tokenizer", "way out: another run.output_dir, or `--replace tokenize`")
    assert listing(copied) == before


# What only reading all of the data can tell: the stage refuses, and nothing is published.


def fails_in(stage, folder, *settings):
    done = headwater("run", *miniature(folder / "run", *settings))
    assert done.code == 2 and done.out == f"{stage}: running\n"
    assert len(done.lines) <= 6 and "Traceback" not in done.err and done.seconds < 60
    published = [path.parent.name for path in (folder / "run").glob("*/artifact.json")]
    assert published == []
    return done.err


def test_a_vocabulary_that_the_data_do_not_support_is_refused_with_the_largest(folder):
    settings = ("corpus.source=jsonl", f"corpus.path={folder}/late", "corpus.on_bad_row=skip")
    told = fails_in("tokenizer", folder, *settings, "tokenizer.vocabulary_size=5000")
    assert "vocabulary of 5000 entries, but the texts support only " in told
    assert "expected: a vocabulary of at most " in told


def test_a_bad_line_stops_or_is_counted(folder):
    settings = (
        "corpus.source=jsonl",
        f"corpus.path={folder}/late",
        "corpus.held_out=0.3",
        "corpus.max_documents=null",
    )
    small = (*settings, "tokenizer.vocabulary_size=300")
    told = fails_in("tokenizer", folder, *small)
    assert f"{folder}/late/a.jsonl:21: not JSON" in told and "corpus.on_bad_row=skip" in told

    skipping = miniature(folder / "run", *small, "corpus.on_bad_row=skip")
    for stage in ("tokenizer", "tokenize"):
        assert headwater("stage", stage, *skipping).code == 0
    ledger = json.loads((folder / "run" / "tokenize" / "ledger.json").read_text())
    lines = (folder / "run" / "tokenize" / "skipped.jsonl").read_text().splitlines()
    assert ledger["skipped_rows"] == len(BROKEN_LINES)
    assert [json.loads(line)["line"] for line in lines] == [number + 1 for number in BROKEN_LINES]
    documents = manifest(folder / "run", "tokenize")["metrics"]
    assert documents["documents.train.documents"] + documents["documents.held_out.documents"] == 60 - 2


def test_a_model_of_the_hub_is_refused_offline(folder):
    before, output = listing(folder), f"run.output_dir={folder / 'run'}"
    chat = ("chat.source=jsonl", f"chat.path={folder}/chat.jsonl")
    done = headwater("run", LORA_RECIPE, output, "model.pretrained=owner/name", *chat)
    refused(done, "model.pretrained owner/name", "way out: a directory, or a name that this machine has")
    assert listing(folder) == before
