"""What tests of encoder-decoders share: a toy language of pairs, and tiny models of two architectures."""

import json
import random
from pathlib import Path

import numpy as np
import torch

from recipes.seq2seq.config import Model
from recipes.seq2seq.model import built, fresh


def _lexicon(count: int) -> dict[str, str]:
    """Invented words of two languages, each with its one translation."""
    draw = random.Random(7)

    def words(consonants: str) -> list[str]:
        made = {
            "".join(draw.choice(consonants) + draw.choice("aeiou") for _ in range(3))
            for _ in range(2 * count)
        }
        return sorted(made)[:count]

    return {"hund": "dog", "katze": "cat"} | dict(zip(words("bdkmnrsz"), words("fghlptvw"), strict=True))


WORDS = _lexicon(60)
T5 = {"d_model": 16, "d_kv": 8, "d_ff": 32, "num_layers": 2, "num_decoder_layers": 2, "num_heads": 2}
MARIAN = {
    "d_model": 16,
    "encoder_layers": 1,
    "decoder_layers": 1,
    "encoder_attention_heads": 2,
    "decoder_attention_heads": 2,
    "encoder_ffn_dim": 32,
    "decoder_ffn_dim": 32,
}
CONFIGS = {"t5": T5, "marian": MARIAN}


def sentences(count: int, seed: int = 0) -> list[tuple[str, str]]:
    """Distinct pairs: German words in a row, and English ones in the other order."""
    draw, found = random.Random(seed), {}
    while len(found) < count:
        row = [draw.choice(list(WORDS)) for _ in range(draw.randint(2, 9))]
        found[" ".join(row)] = " ".join(WORDS[word] for word in reversed(row))
    return list(found.items())


def write_pairs(path: Path, count: int = 200) -> Path:
    path.write_text(
        "".join(json.dumps({"source": s, "target": t}) + "\n" for s, t in sentences(count)), encoding="utf-8"
    )
    return path


def write_ids(out: Path, split: str, count: int = 40, seed: int = 0) -> None:
    """A tokenised split of random ids of a vocabulary of 30, each text ended by 1."""
    draw = np.random.default_rng(seed)
    for side in ("source", "target"):
        rows = [np.append(draw.integers(3, 30, draw.integers(2, 20)), 1) for _ in range(count)]
        np.save(out / f"{split}.{side}.ids.npy", np.concatenate(rows).astype(np.uint32))
        np.save(out / f"{split}.{side}.offsets.npy", np.cumsum([0, *map(len, rows)]))


def settings_of(architecture: str, sizes: tuple[int, int] = (30, 30), **fields):
    model = Model(architecture=architecture, config=CONFIGS[architecture] | fields)
    return built(model, sizes, 64, apart=sizes[0] != sizes[1])


def tiny(architecture: str, **fields):
    """A model with weights that are large enough that sources differ in what is written."""
    torch.manual_seed(0)
    model = fresh(settings_of(architecture, **fields))
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.dim() > 1:
                parameter.normal_(0, 0.5)
    return model.eval().requires_grad_(False)
