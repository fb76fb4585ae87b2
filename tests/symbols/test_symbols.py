"""Catches a vocabulary that loses a word, counting that is no probability, likelihoods of other documents."""

import io
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from pipeline.data.shards import Shard, ShardWriter, tokenizer_digest
from pipeline.lm.config import Model
from pipeline.lm.model import build_config, build_model, special_ids
from recipes.common.symbols.config import Decoding
from recipes.common.symbols.model import Decoder
from recipes.common.symbols.ngram import NGram
from recipes.common.symbols.tokenizer import tokenizer_of

SMALL = {"hidden_size": 32, "intermediate_size": 32, "num_hidden_layers": 1}
SMALL |= {"num_attention_heads": 2, "num_key_value_heads": 2, "head_dim": 16}


@pytest.mark.parametrize(
    ("text", "pattern"),
    [("Bar Pitch_60 Pitch_61 Bar", None), ("<q:1>C[nH]Cl%12C", r"<[^<>]+>|\[[^\[\]]+\]|Cl|%\d\d|.")],
)
def test_a_text_is_its_words_and_comes_back(text, pattern, tmp_path):
    import re

    words = text.split() if pattern is None else re.findall(pattern, text)
    assert "".join(words) == text.replace(" ", "")
    tokenizer_of(sorted(set(words)), pattern).save_pretrained(tmp_path)
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(tmp_path)
    ids = tokenizer(text, add_special_tokens=False)["input_ids"]
    assert tokenizer.convert_ids_to_tokens(ids) == words
    assert tokenizer.decode([tokenizer.bos_token_id, *ids], skip_special_tokens=True) == text
    assert special_ids(tokenizer) == {"bos_token_id": 0, "eos_token_id": 1, "pad_token_id": 2}
    unknown = "Bar Drum" if pattern is None else "C?"
    assert tokenizer.unk_token_id in tokenizer(unknown, add_special_tokens=False)["input_ids"]


DOCUMENTS = [np.array([0, *row, 1]) for row in ([3, 4, 3, 5], [3, 4, 4, 3], [5, 5], [3, 4, 3])]


def by_hand(word: int, context: tuple[int, ...], vocabulary: int) -> float:
    """Witten and Bell's, by counting in lists. Contexts reach to before the first word, where there is nothing."""
    shorter = by_hand(word, context[1:], vocabulary) if context else 1 / vocabulary
    seen = []
    for ids in DOCUMENTS:
        padded = [-1, -1, -1, *ids.tolist()]
        for place in range(4, len(padded)):
            if tuple(padded[place - len(context) : place]) == context:
                seen.append(padded[place])
    kinds = len(set(seen))
    return (seen.count(word) + kinds * shorter) / (len(seen) + kinds) if seen else shorter


@pytest.mark.parametrize("order", [1, 3])
def test_counting_is_witten_and_bells(order):
    model = NGram(DOCUMENTS, order, 7)
    ids = np.array([0, 3, 4, 3, 6, 5, 1])
    padded = [-1, -1, -1, *ids.tolist()]
    expected = [
        by_hand(padded[place], tuple(padded[place - order + 1 : place]), 7) for place in range(4, len(padded))
    ]
    np.testing.assert_allclose(model.probabilities(ids), expected, rtol=1e-12)
    assert model.nats(ids) == pytest.approx(-np.log(expected).sum())


def test_counted_probabilities_sum_to_one():
    model = NGram(DOCUMENTS, 3, 7)
    for context in ([0], [0, 3], [0, 3, 4], [0, 6, 6]):
        assert sum(model.probabilities(np.array([*context, word]))[-1] for word in range(7)) == pytest.approx(
            1
        )


@pytest.fixture(scope="module")
def decoder() -> Decoder:
    tokenizer = tokenizer_of([chr(97 + n) for n in range(12)], None)
    torch.manual_seed(0)
    config = build_config(
        Model(architecture="qwen3", config=SMALL), len(tokenizer), special_ids(tokenizer), 24
    )
    config.initializer_range = 0.3
    return Decoder(build_model(config, "sdpa").eval(), tokenizer)


def test_what_is_drawn_owes_nothing_to_its_batch(decoder):
    seeds, prompts = list(range(7)), ["a b", "", "c", "d e f", "a", "b", "c d"]
    how = Decoding(max_new_tokens=9, batch_size=3)
    found = list(decoder.draw(prompts, seeds, how))
    assert found == list(decoder.draw(prompts, seeds, how.model_copy(update={"batch_size": 1})))
    assert len({each.text for each in found}) > 4
    assert not any(each.text.startswith(("a b", "d e f")) for each in found)  # what was given is not repeated


def test_nats_of_a_document_are_those_of_its_words_and_its_end(decoder, tmp_path):
    decoder.tokenizer.save_pretrained(tmp_path)
    digest = tokenizer_digest(tmp_path)
    texts = ["a b c", "d", "e f g h i j k l a b c d e f g h i j k l"]
    with ShardWriter(tmp_path, "documents.held_out", len(decoder.tokenizer), digest) as writer:
        for text in texts:
            ids = np.array([*decoder.ids(text), decoder.tokenizer.eos_token_id])
            writer.add(ids, np.array([len(ids)]), np.array([len(text)]))
    shard = Shard.open(tmp_path, "documents.held_out", digest)
    found = decoder.nats(shard, np.arange(3), 24)
    for text, nats in zip(texts, found, strict=True):
        ids = torch.tensor([[*decoder.ids(text), decoder.tokenizer.eos_token_id]])
        with torch.no_grad():
            logits = decoder.model(ids).logits[0, :-1].log_softmax(-1)
        assert nats == pytest.approx(-float(logits.gather(1, ids[0, 1:, None]).sum()), rel=1e-4)


def test_documents_of_unknown_words_are_left_out_and_counted(tmp_path):
    import json

    from recipes.common.symbols import tokenize

    (tmp_path / "prepare").mkdir()
    (tmp_path / "out").mkdir()
    for split, texts in (("train", ["C", "CO"]), ("held_out", ["CN", "OC", "N"])):
        lines = [json.dumps({"text": text}) + "\n" for text in texts]
        (tmp_path / "prepare" / f"{split}.jsonl").write_text("".join(lines))
    config = SimpleNamespace(recipe="molecules", data=SimpleNamespace(properties=(), bins=5))
    context = SimpleNamespace(
        config=config, inputs={"prepare": tmp_path / "prepare"}, out=tmp_path / "out", terminal=io.StringIO()
    )
    metrics = tokenize.run(context)
    assert (metrics["held_out.documents"], metrics["held_out.unknown"]) == (1, 2)
    assert json.loads((tmp_path / "out/held_out.kept.json").read_text()) == [1]
    assert metrics["train.tokens"] == 2 + 2 + 1 + 2
