"""A SentencePiece `.model` -> the same tokenizer for `tokenizers`, believed only where the ids are equal."""

from collections.abc import Iterable
from pathlib import Path
from typing import Any

from tokenizers import Regex, Tokenizer, decoders, models, normalizers

SPACE = "\u2581"  # SentencePiece's visible space
NORMAL = 1  # a piece's type there: no control token, byte or symbol of the user's
UNIGRAM, BPE = 1, 2  # trainer_spec.model_type in sentencepiece_model.proto


def from_sentencepiece(path: Path, texts: Iterable[str]) -> Tokenizer:
    """The Unigram or BPE model at `path` as a `tokenizers.Tokenizer` with equal ids on each of `texts`.

    transformers' extractor reads pieces, merges and control tokens; normaliser and decoder follow the model's own
    specification. (transformers' whole converters are each written for one model family, and guess.)

    Args:
        texts: what the ids are compared on, against the sentencepiece library itself.

    Raises:
        ValueError: no SentencePiece model at `path`, a word or character model, or ids that differ (the text is named).
    """
    import sentencepiece
    from transformers.convert_slow_tokenizer import SentencePieceExtractor

    try:
        reference = sentencepiece.SentencePieceProcessor(model_file=str(path))
    except (OSError, RuntimeError) as error:
        raise ValueError(f"no SentencePiece model at {path}: {error}\nexpected: a .model file") from None
    extractor = SentencePieceExtractor(str(path))
    converted = _assemble(extractor.proto, extractor.extract(None), path)
    for text in texts:
        _require_same_ids(converted, reference, text, path)
    return converted


def _assemble(proto: Any, parts: dict[str, Any], path: Path) -> Tokenizer:
    tokenizer = Tokenizer(_model(proto, parts, path))
    tokenizer.normalizer = _normalizer(proto.normalizer_spec)
    tokenizer.decoder = _decoder(proto.normalizer_spec)
    tokens = parts["additional_special_tokens"]
    tokenizer.add_special_tokens([token for token in tokens if token.special])
    tokenizer.add_tokens([token for token in tokens if not token.special])
    return tokenizer


def _model(proto: Any, parts: dict[str, Any], path: Path) -> models.Model:
    spec = proto.trainer_spec
    if spec.model_type == UNIGRAM:
        return models.Unigram(parts["vocab"], unk_id=spec.unk_id, byte_fallback=spec.byte_fallback)
    if spec.model_type == BPE:
        options = {"unk_token": spec.unk_piece, "fuse_unk": True, "byte_fallback": spec.byte_fallback}
        return models.BPE(parts["vocab"], _merges(proto, parts["vocab"]), **options)
    raise ValueError(
        f"{path} is a word or character model\nexpected: a Unigram or BPE model of SentencePiece"
    )


def _merges(proto: Any, vocabulary: dict[str, int]) -> list[tuple[str, str]]:
    """Every pair of pieces that makes a third, in the order in which SentencePiece merges: by score, then by id.

    Ids alone are that order only where scores fall with them; the Mistral models give white space the lowest score.
    """
    scores = {piece.piece: piece.score for piece in proto.pieces if piece.type == NORMAL}
    pairs = [
        (whole[:cut], whole[cut:])
        for whole in sorted(scores, key=lambda piece: (-scores[piece], vocabulary[piece]))
        for cut in range(1, len(whole))
    ]
    return [(left, right) for left, right in pairs if left in scores and right in scores]


def _normalizer(spec: Any) -> normalizers.Normalizer:
    """SentencePiece's order: character map, superfluous spaces, one space in front, spaces made visible."""
    steps = []
    if spec.precompiled_charsmap:
        steps.append(normalizers.Precompiled(spec.precompiled_charsmap))
    if spec.remove_extra_whitespaces:
        steps += [normalizers.Strip(), normalizers.Replace(Regex(" {2,}"), " ")]
    if spec.add_dummy_prefix:
        steps.append(normalizers.Prepend(" "))
    return normalizers.Sequence([*steps, normalizers.Replace(" ", SPACE)])


def _decoder(spec: Any) -> decoders.Decoder:
    steps = [decoders.Replace(SPACE, " "), decoders.ByteFallback(), decoders.Fuse()]
    return decoders.Sequence(steps + ([decoders.Strip(" ", 1, 0)] if spec.add_dummy_prefix else []))


def _require_same_ids(converted: Tokenizer, reference: Any, text: str, path: Path) -> None:
    given, expected = converted.encode(text, add_special_tokens=False).ids, reference.encode(text)
    if given == expected:
        return
    at = next(
        (i for i, (a, b) in enumerate(zip(given, expected, strict=False)) if a != b),
        min(len(given), len(expected)),
    )
    raise ValueError(
        f"{path} does not convert: ids differ on {text[:60]!r}\n"
        f"expected at token {at}: {expected[at : at + 4]}, converted: {given[at : at + 4]}"
    )
