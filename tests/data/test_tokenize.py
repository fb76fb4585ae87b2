"""Catches a tokenize stage that loses, alters or misplaces rows, or accepts a useless tokenizer or split."""

import io
import json
import shutil
from pathlib import Path

import numpy as np
import pytest

from pipeline import tokenize
from pipeline.data import sources
from pipeline.data.chat import separators
from pipeline.data.config import Chat
from pipeline.data.conversation import Conversation
from pipeline.data.encoding import Encoding
from pipeline.data.kinds import Conversations, enclose
from pipeline.data.shards import Shard, tokenizer_digest
from pipeline.lm.config import LanguageModelConfig
from pipeline.run.errors import UserError
from pipeline.run.stage import Context, Stage

TEXTS = [f"the thing {i} is it\n“{i}”" for i in range(40)]
CONVERSATIONS = [
    [{"role": "user", "content": f"what is {i}?"}, {"role": "assistant", "content": f"é thing {i}"}]
    for i in range(40)
]


@pytest.fixture
def run_stage(tmp_path, ours):
    """`run_stage(texts, conversations, on_bad_row=..., tokenizer=...)`: (metrics, directory of the stage's output)."""

    def run(
        texts=TEXTS,
        conversations=CONVERSATIONS,
        on_bad_row="error",
        tokenizer=ours,
        model_config=None,
        chat=(),
        **data,
    ):
        tokenizer.save_pretrained(tmp_path / "base" / "model")
        if model_config is not None:
            write_lines(tmp_path / "base" / "model" / "config.json", [model_config])
        write_lines(tmp_path / "texts.jsonl", [{"text": text} for text in texts])
        write_lines(tmp_path / "chat.jsonl", [{"messages": messages} for messages in conversations])
        config = recipe(tmp_path, on_bad_row, dict(chat), **data)
        tokenize.check(config)
        out = tmp_path / "out"
        out.mkdir()
        return tokenize.run(context(config, tmp_path / "base", out)), out

    return run


def recipe(directory, on_bad_row, chat=None, **data):
    rows = {"source": "jsonl", "held_out": 0.3, "on_bad_row": on_bad_row, **data}
    training = {"max_steps": 1, "train_batch_size": 1, "learning_rate": 1e-3}
    return LanguageModelConfig.model_validate(
        {
            "recipe": "llm",
            "run": {"output_dir": directory},
            "corpus": {**rows, "path": str(directory / "texts.jsonl")},
            "chat": {**rows, "path": str(directory / "chat.jsonl")} | (chat or {}),
            "model": {"pretrained": "somewhere"},
            "pretrain": training,
            "finetune": training,
        }
    )


def context(config, base, out):
    stage = Stage("tokenize", "pipeline.tokenize", {})
    return Context(config, stage, {"base": base}, out, checkpoints=out, logs=out, terminal=io.StringIO())


def write_lines(path, records):
    Path(path).write_text("".join(json.dumps(record) + "\n" for record in records))


def read_lines(path):
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def test_every_document_is_in_one_split_between_its_separators(run_stage, ours):
    _, out = run_stage()
    decoded = {}
    for split in ("train", "held_out"):
        shard = Shard.open(out, f"documents.{split}", tokenizer_digest(out.parent / "base" / "model"))
        decoded[split] = [ours.decode(shard.document(i)) for i in range(shard.documents)]
        assert shard.byte_lengths.tolist() == [len(t[7:-7].encode()) for t in decoded[split]]
    assert sorted(decoded["train"] + decoded["held_out"]) == sorted(f"<|bos|>{text}<|eos|>" for text in TEXTS)
    held_out = read_lines(out / "documents.held_out.jsonl")
    assert [f"<|bos|>{row['text']}<|eos|>" for row in held_out] == decoded["held_out"]
    assert all(sources.is_held_out(row["key"], 0.3) for row in held_out)


def test_every_conversation_is_in_one_split_with_its_answer_as_target(run_stage, ours):
    _, out = run_stage()
    answers = []
    for split in ("train", "held_out"):
        shard = Shard.open(out, f"conversations.{split}")
        answers += [ours.decode(shard.document(i)[shard.targets_of(i) == 1]) for i in range(shard.documents)]
    assert sorted(answers) == sorted(f"{messages[1]['content']}<|end|>" for messages in CONVERSATIONS)
    held_out = read_lines(out / "conversations.held_out.jsonl")
    assert [row["messages"][1]["content"] + "<|end|>" for row in held_out] == answers[-len(held_out) :]


def test_metrics_and_ledger_count_what_is_on_disk(run_stage):
    metrics, out = run_stage()
    tokens = {row["name"]: row["kept"] for row in json.loads((out / "ledger.json").read_text())["tokens"]}
    for name in ("documents.train", "documents.held_out", "conversations.train", "conversations.held_out"):
        shard = Shard.open(out, name)
        assert metrics[f"{name}.documents"] == shard.documents
        assert metrics[f"{name}.tokens"] == tokens[name] == (out / f"{name}.tokens.bin").stat().st_size // 2
    texts = sum(len(text.encode()) for text in TEXTS)
    assert metrics["documents.train.bytes"] + metrics["documents.held_out.bytes"] == texts
    assert metrics["conversations.train.targets"] == Shard.open(out, "conversations.train").targets.sum()
    assert metrics["corpus"] == sources.fingerprint(recipe(out.parent, "error").corpus)
    assert metrics["skipped_rows"] == 0 and not (out / "skipped.jsonl").exists()


def test_two_runs_write_the_same_bytes(run_stage, tmp_path):
    metrics, out = run_stage()
    out.rename(tmp_path / "first")
    again, out = run_stage()
    assert again == metrics
    for path in (tmp_path / "first").iterdir():
        assert path.read_bytes() == (out / path.name).read_bytes()


def test_small_batches_write_the_same_bytes(run_stage, tmp_path, monkeypatch):
    _, out = run_stage()
    out.rename(tmp_path / "first")
    in_small_batches(monkeypatch, processes=1)
    _, out = run_stage()
    for path in (tmp_path / "first").iterdir():
        assert path.read_bytes() == (out / path.name).read_bytes()


def in_small_batches(monkeypatch, processes: int) -> None:
    monkeypatch.setattr("pipeline.data.kinds.Documents.batch_characters", 50)
    monkeypatch.setattr("pipeline.data.kinds.Conversations.batch_characters", 50)
    monkeypatch.setattr("pipeline.data.encoding.MOST", processes)


def test_processes_write_the_same_bytes_as_one(run_stage, tmp_path, monkeypatch):
    """Rows that are refused while they are encoded, in two of the batches, are listed in the same order, too."""
    thinking = [{**CONVERSATIONS[0][1], "reasoning_content": f"hm {n}"} for n in range(2)]
    refused = [[CONVERSATIONS[0][0], answer] for answer in thinking]
    conversations = [*CONVERSATIONS[:12], refused[0], *CONVERSATIONS[12:], refused[1], [{"role": "user"}]]
    found = []
    for processes in (1, 2):
        in_small_batches(monkeypatch, processes)
        _, out = run_stage(conversations=conversations, on_bad_row="skip")
        found.append(out.rename(tmp_path / f"by {processes}"))
    assert len(read_lines(found[0] / "skipped.jsonl")) == 3
    assert {path.name for path in found[0].iterdir()} == {path.name for path in found[1].iterdir()}
    for path in found[0].iterdir():
        assert path.read_bytes() == (found[1] / path.name).read_bytes(), path.name


def test_a_stage_that_was_stopped_goes_on_with_the_batches_that_it_had(run_stage, tmp_path, monkeypatch):
    _, out = run_stage()
    out.rename(tmp_path / "first")
    in_small_batches(monkeypatch, processes=1)
    encode, encoded = Conversations._encode, []

    def counting(kind, rows):
        encoded.append(len(rows))
        if len(encoded) == 6:
            raise SystemExit  # as a signal does
        return encode(kind, rows)

    monkeypatch.setattr(Conversations, "_encode", counting)
    with pytest.raises(SystemExit):
        run_stage()
    shutil.rmtree(tmp_path / "out")  # as the next attempt does
    kept = sorted((tmp_path / "out.conversations").glob("*.npz"))
    assert len(kept) == 5 and not list(tmp_path.glob("out.documents"))
    kept[0].write_bytes(kept[0].read_bytes()[:-40])  # a disk that lost its end
    missing = len(CONVERSATIONS) - sum(encoded[:5])
    encoded[:] = [0] * 6
    _, out = run_stage()
    assert missing < sum(encoded) <= missing + 5, "what was lost is encoded again, and no other batch"
    assert not list(tmp_path.glob("out.*")), "what was kept is gone with the stage's end"
    for path in (tmp_path / "first").iterdir():
        assert path.read_bytes() == (out / path.name).read_bytes(), path.name


def test_batches_of_another_tokenizer_or_section_are_not_taken(tmp_path, ours):
    def digest_of(tokenizer: str, **fields) -> str:
        chat = Chat(path="x.jsonl", **fields)
        kind = Conversations(chat, ours, [])
        [row] = [Conversation("a", tuple(CONVERSATIONS[0]))]
        return Encoding(kind, tmp_path, [tokenizer], lambda: ours)._digest([row])

    found = [digest_of("a"), digest_of("b"), digest_of("a", loss="all"), digest_of("a")]
    assert found[0] == found[3] and len({*found}) == 3


@pytest.mark.parametrize("bad", [[{"role": "user", "content": "so?"}], [{"role": "robot", "content": "so"}]])
def test_an_unusable_conversation_stops_or_is_listed(run_stage, tmp_path, bad):
    conversations = [*CONVERSATIONS, bad]
    with pytest.raises(UserError, match=r"chat.jsonl.*41(.|\n)*chat.on_bad_row=skip"):
        run_stage(conversations=conversations)
    (tmp_path / "out").rename(tmp_path / "first")
    metrics, out = run_stage(conversations=conversations, on_bad_row="skip")
    assert metrics["skipped_rows"] == 1 == len(read_lines(out / "skipped.jsonl"))
    assert metrics["conversations.train.documents"] + metrics["conversations.held_out.documents"] == 40


def test_a_text_that_becomes_a_control_token_stops_or_is_listed(run_stage, tmp_path, make_tokenizer):
    """As in some converted vocabularies, where a whole word is looked up among the control tokens too."""
    tokenizer = make_tokenizer(
        ["the"], "{% for m in messages %}{{ m.content }}the{% endfor %}", eos_token="the"
    )
    tokenizer.backend_tokenizer.model.ignore_merges = True
    texts = [*(f"is it {i}" for i in range(40)), *["the"] * 8]
    # The same text would leave training for being held out too, were it not for the setting.
    with pytest.raises(
        UserError, match=r"texts.jsonl:4[1-8]: text 0 holds 'the'(.|\n)*corpus.on_bad_row=skip"
    ):
        run_stage(texts, tokenizer=tokenizer, held_out_overlap="keep")
    (tmp_path / "out").rename(tmp_path / "first")
    metrics, out = run_stage(texts, tokenizer=tokenizer, on_bad_row="skip", held_out_overlap="keep")
    assert metrics["documents.train.documents"] + metrics["documents.held_out.documents"] == 40
    skipped = [row["key"] for row in read_lines(out / "skipped.jsonl")]
    assert len(skipped) == 8 and {sources.is_held_out(key, 0.3) for key in skipped} == {True, False}
    assert len(read_lines(out / "documents.held_out.jsonl")) == metrics["documents.held_out.documents"]


def test_a_conversation_that_the_template_refuses_stops_or_is_listed(run_stage, tmp_path, with_template):
    refusing = "<|bos|>{% if messages[0]['content'] == 'no' %}{{ raise_exception('not this') }}{% endif %}"
    tokenizer = with_template("<|bos|>", refusing)
    conversations = [*CONVERSATIONS, [{"role": "user", "content": "no"}, CONVERSATIONS[0][-1]]]
    with pytest.raises(UserError, match=r"chat.jsonl.*41: .*not this(.|\n)*chat.on_bad_row=skip"):
        run_stage(conversations=conversations, tokenizer=tokenizer)
    (tmp_path / "out").rename(tmp_path / "first")
    metrics, out = run_stage(conversations=conversations, tokenizer=tokenizer, on_bad_row="skip")
    assert metrics["skipped_rows"] == 1 == len(read_lines(out / "skipped.jsonl"))
    assert metrics["conversations.train.documents"] + metrics["conversations.held_out.documents"] == 40


def test_batches_hold_the_limit_and_no_more():
    assert list(tokenize.batches(["aa", "b", "cccc", "d"], len, 3)) == [["aa", "b"], ["cccc"], ["d"]]


@pytest.mark.parametrize("texts", [TEXTS[:1], TEXTS[1:2], TEXTS[2:3]])
def test_an_empty_split_is_refused(run_stage, texts):
    with pytest.raises(
        UserError, match=r"documents\.(train|held_out) is empty: 1 documents(.|\n)*corpus.held_out"
    ):
        run_stage(texts=texts)


def test_a_tokenizer_larger_than_its_model_is_refused(run_stage, tmp_path, ours):
    last = len(ours) - 1
    with pytest.raises(UserError, match=f"ids up to {last}, its model embeddings for {last}"):
        run_stage(model_config={"model_type": "llama", "vocab_size": last})
    (tmp_path / "out").rename(tmp_path / "first")
    run_stage(model_config={"model_type": "llama", "vocab_size": last + 1})


@pytest.mark.parametrize(
    ("names", "expected"),
    [
        ({"bos_token": "a", "eos_token": "b"}, (0, 1)),
        ({"eos_token": "b"}, (1, 1)),
        ({"bos_token": "a"}, (0, 0)),
    ],
)
def test_one_separator_serves_for_both(make_tokenizer, names, expected):
    assert separators(make_tokenizer(["a", "b"], None, **names)) == expected


def test_no_separator_is_refused(make_tokenizer):
    with pytest.raises(UserError, match="neither a bos nor an eos"):
        separators(make_tokenizer(["a", "b"], None))


def test_enclose():
    ids, lengths = enclose(np.array([5, 6, 7], np.uint16), np.array([2, 0, 1]), bos=1, eos=2)
    assert ids.tolist() == [1, 5, 6, 2, 1, 2, 1, 7, 2]
    assert lengths.tolist() == [4, 2, 3] and ids.dtype == np.uint16


@pytest.mark.parametrize("overlap", ["drop", "keep"])
def test_training_rows_that_are_held_out_too_are_left_out_and_counted(run_stage, overlap):
    """Catches a model that is scored on what it learnt: rows equal but for white space, in both splits."""
    [held, *_] = (i for i in range(40) if sources.is_held_out(f"texts.jsonl:{i + 1}", 0.3))
    free = [n for n in range(41, 60) if not sources.is_held_out(f"texts.jsonl:{n}", 0.3)]
    texts, talks = [*TEXTS], [*CONVERSATIONS]
    for number in range(41, free[1] + 1):
        copied = number in free[:2]
        texts.append(f" {TEXTS[held]}".replace(" is", "\n is") if copied else f"so {number}")
        talks.append(
            CONVERSATIONS[held] if copied else [{"role": "user", "content": f"so {number}"}, talks[0][1]]
        )
    rows = len(texts) - 2 * (overlap == "drop")
    metrics, out = run_stage(texts, talks, held_out_overlap=overlap)
    for kind in ("documents", "conversations"):
        found = [metrics[f"{kind}.{split}.documents"] for split in ("train", "held_out")]
        assert sum(found) == rows
    notes = json.loads((out / "ledger.json").read_text())["notes"]
    fate = "left out" if overlap == "drop" else "kept"
    assert notes == {
        f"training {kind} {fate}: the same are held out": 2 for kind in ("documents", "conversations")
    }


def test_a_template_that_fails_on_the_third_conversation_is_told_by_its_row(run_stage, with_template):
    tokenizer = with_template(
        "{% for message in messages %}",
        "{% for message in messages %}{% if ' 2?' in message['content'] %}{{ raise_exception('no twos') }}{% endif %}",
    )
    with pytest.raises(UserError) as refused:
        run_stage(tokenizer=tokenizer)
    assert str(refused.value).startswith("chat.jsonl:3: the chat template refuses a conversation")
    assert "no twos\nway out: mend this row, or chat.on_bad_row=skip" in str(refused.value)


def test_what_was_done_to_a_row_is_counted_once(run_stage, with_template, tmp_path):
    """A call that a template cannot write, as text."""
    call = {"type": "function", "function": {"name": "add", "arguments": {"a": 1}}}
    talk = [{"role": "user", "content": "Add."}, {"role": "assistant", "content": "", "tool_calls": [call]}]
    _, out = run_stage(
        conversations=[*CONVERSATIONS, *[[talk[0] | {"content": f"Add {n}."}, talk[1]] for n in range(5)]],
        chat={"unwritten": "text"},
    )
    notes = json.loads((out / "ledger.json").read_text())["notes"]
    assert [count for words, count in notes.items() if "written as text" in words] == [5]


def test_such_a_conversation_can_be_left_out_and_is_counted(run_stage, with_template):
    tokenizer = with_template(
        "{% for message in messages %}",
        "{% for message in messages %}{% if ' 2?' in message['content'] %}{{ raise_exception('no twos') }}{% endif %}",
    )
    metrics, out = run_stage(tokenizer=tokenizer, on_bad_row="skip")
    assert metrics["skipped_rows"] == 1
    assert [row["key"] for row in read_lines(out / "skipped.jsonl")] == ["chat.jsonl:3"]
