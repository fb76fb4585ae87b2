"""Catches a brought tokenizer that is trained anew, altered, taken for what it is not, or too small for its model."""

import io
import json

import pytest
import sentencepiece
from tokenizers import Tokenizer

from pipeline import train_tokenizer
from pipeline.lm import brought
from pipeline.lm.brought import load_brought, vocabulary_of
from pipeline.lm.config import Tokenizer as Section
from pipeline.run.errors import UserError
from tests.stages.tiny_model import TEXT, make_config, make_context, make_tokenizer
from tokenizer.convert import from_sentencepiece

TEXTS = [TEXT, "so it ends\n", "  the thing\t12"]


@pytest.fixture
def directory(tmp_path):
    """A tokenizer's directory with files in another hand."""
    folder = tmp_path / "given"
    make_tokenizer(folder)
    tree = json.loads((folder / "tokenizer.json").read_text())
    (folder / "tokenizer.json").write_text(json.dumps(tree, indent=5))
    return folder


def made(tmp_path, **section):
    """What stage `tokenizer` writes, and its metrics."""
    (tmp_path / "c").mkdir()
    for number in range(30):
        (tmp_path / "c" / f"{number}.txt").write_text(f"the end of {number} things\n")
    corpus = {"source": "text", "path": str(tmp_path / "c"), "held_out": 0.3}
    sections = dict.fromkeys(["chat", "finetune"]) if section["pretrained"].endswith(".model") else {}
    config = make_config(tmp_path / "run", corpus=corpus, tokenizer=section, **sections)
    train_tokenizer.check(config)
    context = make_context(config, "tokenizer", {})
    return train_tokenizer.run(context), context.out


def test_a_directory_is_taken_to_the_byte_and_measured(directory, tmp_path):
    metrics, out = made(tmp_path, pretrained=str(directory))
    for file in directory.iterdir():
        assert (out / file.name).read_bytes() == file.read_bytes(), file.name
    assert metrics["documents.train"] + metrics["documents.held_out"] == 30
    assert metrics["bytes_per_token"] > 1


def test_a_bare_tokenizer_json_finds_its_separators(directory, tmp_path):
    (tmp_path / "other.json").write_bytes((directory / "tokenizer.json").read_bytes())
    for path in (directory / "tokenizer.json", tmp_path / "other.json"):
        found, _ = load_brought(Section(pretrained=str(path)))
        assert (found.bos_token, found.eos_token, found.pad_token) == ("<|bos|>", "<|eos|>", "<|pad|>")
        assert vocabulary_of(Section(pretrained=str(path))) == 300


@pytest.mark.parametrize("kind", ["unigram", "bpe"])
def test_a_sentencepiece_model_gives_the_librarys_ids(tmp_path, kind):
    trained = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter([TEXT] * 30),
        model_writer=trained,
        vocab_size=300,
        model_type=kind,
        byte_fallback=True,
        normalization_rule_name="identity",
        remove_extra_whitespaces=False,
        minloglevel=2,
    )
    path = tmp_path / "m.model"
    path.write_bytes(trained.getvalue())
    _, out = made(tmp_path, pretrained=str(path))
    reference = sentencepiece.SentencePieceProcessor(model_file=str(path))
    ours = Tokenizer.from_file(str(out / "tokenizer.json"))
    for text in TEXTS:
        assert ours.encode(text, add_special_tokens=False).ids == reference.encode(text)
    found, _ = load_brought(Section(pretrained=str(path)))
    assert (found.bos_token, found.eos_token) == ("<s>", "</s>")


def test_white_space_of_the_lowest_score_merges_last(tmp_path):
    """As in the Mistral models, where `▁▁` has an early id and a score below every other piece's."""
    from sentencepiece import sentencepiece_model_pb2 as pb2

    trained, spaced = io.BytesIO(), [TEXT.replace(" ", "  "), "x    y  x"] * 30
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(spaced),
        model_writer=trained,
        vocab_size=120,
        model_type="bpe",
        normalization_rule_name="identity",
        remove_extra_whitespaces=False,
        allow_whitespace_only_pieces=True,
        minloglevel=2,
    )
    proto = pb2.ModelProto.FromString(trained.getvalue())
    blank = [piece for piece in proto.pieces if not piece.piece.strip("\u2581")]
    assert len(blank) > 1
    for piece in blank:
        piece.score = -1e9
    path = tmp_path / "m.model"
    path.write_bytes(proto.SerializeToString())
    reference = sentencepiece.SentencePieceProcessor(model_file=str(path))
    converted = from_sentencepiece(path, [])
    for text in ("x  what", "   the  end", "x    y  x", "a thing "):
        assert converted.encode(text, add_special_tokens=False).ids == reference.encode(text)


def test_its_template_may_be_another(directory, tmp_path):
    (tmp_path / "t.jinja").write_text("{{ messages[0].content }}<|end|>")
    _, out = made(tmp_path, pretrained=str(directory), chat_template=str(tmp_path / "t.jinja"))
    assert "messages[0].content" in (out / "chat_template.jinja").read_text()


@pytest.mark.parametrize(
    ("section", "reason"),
    [
        ({"pretrained": "/nowhere/x"}, "nothing at /nowhere/x"),
        ({"pretrained": "{here}/no.json"}, "is no tokenizer"),
        ({"pretrained": "{here}/no.model"}, "no SentencePiece model"),
        ({"pretrained": "{here}"}, "tokenizer.pretrained"),
        (
            {"pretrained": "{here}/given", "chat_template": "/nowhere.jinja"},
            "tokenizer.chat_template: cannot read",
        ),
    ],
)
def test_what_is_no_tokenizer_is_named(directory, tmp_path, section, reason):
    (tmp_path / "no.json").write_text("{}")
    (tmp_path / "no.model").write_text("x")
    given = {name: value.replace("{here}", str(tmp_path)) for name, value in section.items()}
    brought._loaded.cache_clear()
    with pytest.raises(UserError, match=reason):
        load_brought(Section(**given))


@pytest.mark.parametrize("more", [{"algorithm": "bpe"}, {"vocabulary_size": 400}])
def test_one_that_is_brought_is_not_trained(more):
    with pytest.raises(ValueError, match="is not trained: leave out"):
        Section(pretrained="x", **more)


def test_a_template_is_for_one_that_is_brought():
    with pytest.raises(ValueError, match="chat_template is for a pretrained tokenizer"):
        Section(chat_template="x")
