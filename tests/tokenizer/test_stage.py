"""Catches a tokenizer stage that trains on held-out documents, counts wrongly, or fails without a word."""

import io
from types import SimpleNamespace

import pytest
from transformers import AutoTokenizer

from pipeline import train_tokenizer
from pipeline.data.config import Corpus
from pipeline.data.infilling import marks_of
from pipeline.data.sources import is_held_out
from pipeline.lm.config import Tokenizer
from pipeline.run.errors import UserError
from pipeline.run.stage import Context, Stage
from tokenizer.evaluate import evaluate
from tokenizer.files import load
from tokenizer.train import train


def context_of(tmp_path, corpus, vocabulary_size=300):
    config = SimpleNamespace(corpus=corpus, tokenizer=Tokenizer(vocabulary_size=vocabulary_size))
    out = tmp_path / "out"
    out.mkdir()
    stage = Stage("tokenizer", "pipeline.train_tokenizer", {})
    return Context(config, stage, {}, out, tmp_path / "checkpoints", tmp_path / "logs", io.StringIO())


@pytest.fixture
def folder(tmp_path, texts):
    """40 documents, one of them not UTF-8; each half has words of its own."""
    (tmp_path / "corpus").mkdir()
    for number, start in enumerate(range(0, 39_000, 1_000)):
        (tmp_path / f"corpus/{number:02}.txt").write_text(texts[0][start : start + 1_000])
    (tmp_path / "corpus/zz.txt").write_bytes(b"\xff")
    return tmp_path / "corpus"


def test_it_trains_on_training_documents_and_measures_the_others(tmp_path, folder):
    corpus = Corpus(source="text", path=str(folder), held_out=0.2, on_bad_row="skip")
    context = context_of(tmp_path, corpus)
    metrics = train_tokenizer.run(context)
    texts = {path.name: path.read_text() for path in sorted(folder.glob("[0-9]*.txt"))}
    training = [text for name, text in texts.items() if not is_held_out(name, 0.2)]
    held_out = [text for name, text in texts.items() if is_held_out(name, 0.2)]
    assert load(context.out).to_str() == train(training, 300, "bpe").to_str()
    counts = {"documents.train": len(training), "documents.held_out": len(held_out), "skipped_rows": 1}
    counts["long_runs_cut"] = 0
    corpus_metrics = metrics.pop("corpus")
    assert metrics == evaluate(load(context.out), held_out) | counts
    assert corpus_metrics["files"] == 40
    assert metrics["exact_round_trips"] == len(held_out) > 1


def test_gaps_have_marks_of_their_own_within_the_vocabulary(tmp_path, folder):
    """Without them a model from scratch could not be taught to fill gaps in."""
    corpus = Corpus(source="text", path=str(folder), held_out=0.2, on_bad_row="skip", fim=0.5)
    context = context_of(tmp_path, corpus)
    train_tokenizer.run(context)
    tokenizer = AutoTokenizer.from_pretrained(context.out)
    assert len(tokenizer) == 300
    assert sorted(marks_of(corpus, tokenizer)) == [297, 298, 299]
    text = "<fim_prefix>a"  # as text it is characters, as every control token is
    assert load(context.out).encode(text).tokens[0] == "<fim_prefix>"
    ids = tokenizer(text, split_special_tokens=True, add_special_tokens=False)["input_ids"]
    assert tokenizer.decode(ids) == text and not {*marks_of(corpus, tokenizer)} & {*ids}


def test_only_the_first_held_out_bytes_are_measured(tmp_path, folder, monkeypatch):
    monkeypatch.setattr(train_tokenizer, "EVALUATED_BYTES", 1_500)
    corpus = Corpus(source="text", path=str(folder), held_out=0.5, on_bad_row="skip")
    metrics = train_tokenizer.run(context_of(tmp_path, corpus))
    assert metrics["texts"] == 2
    assert metrics["documents.held_out"] > 2


def test_a_vocabulary_that_the_corpus_does_not_support_is_the_users_error(tmp_path, folder):
    corpus = Corpus(source="text", path=str(folder), on_bad_row="skip")
    with pytest.raises(
        UserError, match=r"tokenizer.vocabulary_size: vocabulary of 60000 entries, but .* only \d+"
    ):
        train_tokenizer.run(context_of(tmp_path, corpus, 60_000))


@pytest.mark.parametrize(
    ("held_out", "counts"), [(0.999_999, "train 0, held_out 39"), (0.000_001, "train 39, held_out 0")]
)
def test_an_empty_split_is_the_users_error(tmp_path, folder, held_out, counts):
    corpus = Corpus(source="text", path=str(folder), held_out=held_out, on_bad_row="skip")
    with pytest.raises(UserError, match=counts):
        train_tokenizer.run(context_of(tmp_path, corpus))


def test_a_bad_row_reaches_the_user_through_the_trainer(tmp_path, folder):
    with pytest.raises(UserError, match=r"zz.txt:1: byte 0xff at offset 0 is not UTF-8"):
        train_tokenizer.run(context_of(tmp_path, Corpus(source="text", path=str(folder))))


def test_the_check_refuses_a_missing_corpus_and_missing_sections(tmp_path):
    absent = SimpleNamespace(corpus=Corpus(source="text", path=str(tmp_path / "no")), tokenizer=Tokenizer())
    with pytest.raises(UserError, match="nothing at"):
        train_tokenizer.check(absent)
    with pytest.raises(UserError, match="sections corpus and tokenizer"):
        train_tokenizer.check(SimpleNamespace(corpus=None, tokenizer=Tokenizer()))
