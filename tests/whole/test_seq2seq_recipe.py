"""Catches an encoder-decoder recipe that breaks between its stages, or an export that others cannot load."""

import json
import subprocess
import sys

import pytest
from transformers import AutoModelForSeq2SeqLM, AutoTokenizer

from pipeline.run.artifact import verify_chain
from tests.seq2seq.cases import CONFIGS, write_pairs
from tests.whole.command import ROOT, headwater, headwater_here, manifest

SHORT = (
    "data.source=auto",
    "data.words=false",
    "data.held_out=0.2",
    "tokenizer.vocabulary_size=340",
    "train.max_steps=4",
    "train.warmup_steps=0",
    "train.group_tokens=64",
    "evaluate.pairs=12",
    "evaluate.resamples=20",
    "sample.samples=4",
    "export.pairs=3",
    "decoding.max_new_tokens=12",
    "run.eval_steps=2",
    "run.eval_samples=4",
    "run.save_steps=2",
    "run.logging_steps=1",
    "run.threads=1",
)
KINDS = {
    "t5 after span corruption": (
        "model.architecture=t5",
        f"model.config={CONFIGS['t5']}",
        "tokenizer.sentinels=20",
        "pretrain={group_tokens: 64, max_length: 64, max_steps: 2, train_batch_size: 4, learning_rate: 0.001}",
    ),
    "marian with two vocabularies": (
        "model.architecture=marian",
        f"model.config={CONFIGS['marian']}",
        "tokenizer.joint=false",
        "tokenizer.vocabulary_size=300",
    ),
}


@pytest.fixture(scope="module", params=list(KINDS))
def finished(request, tmp_path_factory):
    """(the words of the command, the directory of its run, how it ended)."""
    place = tmp_path_factory.mktemp("seq2seq")
    data = write_pairs(place / "pairs.jsonl", 300)
    words = ["recipes/seq2seq/translation.yaml", *SHORT, f"data.path={data}", *KINDS[request.param]]
    words += [f"run.output_dir={place / 'run'}"]
    return words, place / "run", headwater("run", *words)


def test_every_stage_is_made_and_its_lineage_holds(finished):
    words, output, done = finished
    assert (done.code, done.err) == (0, "")
    stages = {"prepare", "tokenize", "train", "evaluate", "sample", "export", "report"}
    stages |= {"pretrain"} if any(word.startswith("pretrain=") for word in words) else set()
    assert {path.parent.name for path in output.glob("*/artifact.json")} == stages
    assert manifest(output, "train")["made"]["world_size"] == 2
    assert manifest(output, "export")["metrics"] == {"targets_equal": 3}
    verify_chain(output / "export")
    assert f"Translate by it: headwater translate {output} FILE" in done.out and "chat" not in done.out
    assert "up to date, nothing to do" in headwater("run", *words).out


def test_scores_stand_beside_their_baselines(finished):
    _, output, done = finished
    scores = json.loads((output / "evaluate/evaluation.json").read_text())["scores"]
    models = [score["model"] for score in scores if score["name"] == "BLEU"]
    assert models == ["model", "model, greedy", "the source, copied", "word for word"]
    assert all(score["count"] == 12 and "sacreBLEU" in score["protocol"] for score in scores[:8])
    samples = json.loads((output / "sample/samples.json").read_text())
    assert len(samples) == 4 and all(sample["reference"] for sample in samples)
    assert samples[0]["reference"] in (output / "report/report.html").read_text()


def test_the_export_loads_with_transformers_and_translates_lines(finished, tmp_path):
    _, output, _ = finished
    model = AutoModelForSeq2SeqLM.from_pretrained(output / "export")
    tokenizer = AutoTokenizer.from_pretrained(output / "export")
    ids = tokenizer("hund katze hund", return_tensors="pt")
    targets = output / "export" / "target"
    decoder = AutoTokenizer.from_pretrained(targets) if targets.is_dir() else tokenizer
    (row,) = model.generate(ids["input_ids"], attention_mask=ids["attention_mask"])
    expected = decoder.decode(row, skip_special_tokens=True).strip()
    (tmp_path / "lines.txt").write_text("hund katze hund\n")
    done = headwater("translate", str(output), str(tmp_path / "lines.txt"))
    assert (done.code, done.out) == (0, f"{expected}\n")
    command = [sys.executable, "-m", "pipeline", "translate", str(output)]
    piped = subprocess.run(command, input="hund katze hund\n", capture_output=True, text=True, cwd=ROOT)
    assert piped.stdout == f"{expected}\n"


def test_what_cannot_be_translated_by_is_refused(finished, tmp_path):
    _, output, _ = finished
    assert "no run at" in headwater_here("translate", str(tmp_path)).err
    missing = headwater_here("translate", str(output), str(tmp_path / "none.txt"))
    assert missing.code == 2 and "cannot read" in missing.err


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ("model.architecture=llama", "is no encoder-decoder that transformers builds"),
        ("tokenizer.joint=false model.architecture=t5", "needs model.architecture: marian"),
        ("train.torch_compile=true", "groups differ in length"),
        ("decoding.temperature=0.7", "temperature draws one target: num_beams=1"),
        ("data.source_column=de", "no column 'de'"),
        (
            "pretrain={group_tokens: 64, max_steps: 2, train_batch_size: 4, learning_rate: 1}",
            "tokenizer.sentinels",
        ),
        ("train.lora={r: 4}", "train.lora is for a pretrained model"),
    ],
)
def test_what_cannot_be_is_refused_before_anything_is_made(tmp_path, change, said):
    data = write_pairs(tmp_path / "pairs.jsonl", 60)
    words = [
        "recipes/seq2seq/translation.yaml",
        *SHORT,
        f"data.path={data}",
        f"run.output_dir={tmp_path / 'run'}",
    ]
    done = headwater_here("run", *words, *change.split(" ", change.startswith("tokenizer")))
    assert done.code == 2 and said in done.err and "Traceback" not in done.err
    assert not (tmp_path / "run").exists()


def test_a_pretrained_model_is_fine_tuned_by_adapters_on_its_own_tokenizer(finished, tmp_path):
    """The export of one run is the base of the next: adapters merged, the vocabulary kept."""
    _, base, _ = finished
    if (base / "export" / "target").is_dir():
        pytest.skip("its two tokenizers are no base of one")
    data = write_pairs(tmp_path / "pairs.jsonl", 120)
    tree = (ROOT / "recipes/seq2seq/translation.yaml").read_text()
    start, end = tree.index("tokenizer:\n"), tree.index("train:\n")
    own = tmp_path / "own.yaml"
    own.write_text(tree[:start] + f"model:\n  pretrained: {base / 'export'}\n\n" + tree[end:])
    short = [word for word in SHORT if not word.startswith("tokenizer")]
    done = headwater(
        "run",
        str(own),
        *short,
        f"data.path={data}",
        "train.lora={r: 4}",
        f"run.output_dir={tmp_path / 'run'}",
    )
    assert (done.code, done.err) == (0, "")
    before, after = (
        AutoModelForSeq2SeqLM.from_pretrained(place / "export") for place in (base, tmp_path / "run")
    )
    moved = {
        name
        for (name, old), new in zip(before.state_dict().items(), after.state_dict().values(), strict=True)
        if not old.equal(new)
    }
    assert moved and all("shared" not in name and "norm" not in name for name in moved)
