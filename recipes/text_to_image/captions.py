"""Stage `captions`: every caption as tokens, and by a frozen encoder as states, computed once.

Shapes: K captions and one more, the empty one, which stands last; L tokens, D numbers of a state.
"""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pipeline.run.files import write_json
from pipeline.run.stage import Context
from recipes.text_to_image.config import Text, TextToImageConfig

if TYPE_CHECKING:
    import numpy as np
    from transformers import PreTrainedTokenizerBase

FACTS, TOKENIZER = "captions.json", "tokenizer"
CHUNK = 64  # captions of one forward


@dataclass(frozen=True)
class Captions:
    """What a published `captions` artifact holds, or what an estimate takes for it.

    ids: int64 (K + 1, L); mask: bool, the same; states: fp32 (K + 1, L, D) of a frozen encoder; vocabulary: tokens;
    width: D.
    """

    ids: "np.ndarray"
    mask: "np.ndarray"
    states: "np.ndarray | None"
    vocabulary: int
    width: int

    @classmethod
    def open(cls, directory: Path) -> "Captions":
        import numpy as np

        facts = json.loads((directory / FACTS).read_text("utf-8"))
        states = directory / "states.npy"
        return cls(
            np.load(directory / "ids.npy"),
            np.load(directory / "mask.npy"),
            np.load(states, mmap_mode="r") if states.is_file() else None,
            facts["vocabulary"],
            facts["width"],
        )

    @classmethod
    def blank(cls, text: Text) -> "Captions":
        """One empty caption, of the sizes that settings alone say."""
        import numpy as np

        from recipes.text_to_image.encoder import config_of, width_of

        length, width, states = text.max_length, text.hidden_size, None
        if text.pretrained:
            width = width_of(config_of(text.pretrained))
            states = np.zeros((1, length, width), np.float32)
        return cls(np.zeros((1, length), np.int64), np.ones((1, length), bool), states, 1000, width)

    def item(self, label: int) -> "dict[str, np.ndarray]":
        """What a sample carries of caption `label`; -1: of the empty one."""
        import numpy as np

        found = {"mask": np.array(self.mask[label])}
        if self.states is not None:
            return found | {"states": np.array(self.states[label])}
        return found | {"ids": np.array(self.ids[label])}


def check(config: TextToImageConfig) -> None:
    """Raises UserError for a frozen encoder or a tokenizer that is not there."""
    from recipes.text_to_image.encoder import config_of, load_tokenizer

    if config.text.pretrained:
        config_of(config.text.pretrained)
        load_tokenizer(config.text.pretrained)


def run(context: Context) -> dict[str, Any]:
    """Write tokenizer/, ids.npy, mask.npy, captions.json and ledger.json; with a frozen encoder states.npy."""
    import numpy as np

    from recipes.common.images.dataset import PreparedImages
    from recipes.common.words import tokenizer_of, vocabulary_of
    from recipes.text_to_image.encoder import load_tokenizer

    text: Text = context.config.text
    train = PreparedImages.open(context.inputs["prepare"], "train")
    if text.pretrained:
        tokenizer = load_tokenizer(text.pretrained)
    else:
        learnt = [train.classes[label] for label in np.unique(train.labels)]
        tokenizer = tokenizer_of(vocabulary_of(learnt, text.least))
    tokenizer.save_pretrained(context.out / TOKENIZER)
    captions = [*train.classes, ""]
    ids, mask, cut = encoded(tokenizer, captions, text.max_length)
    unknown = (
        int((ids == tokenizer.unk_token_id).any(axis=1).sum()) if tokenizer.unk_token_id is not None else 0
    )
    np.save(context.out / "ids.npy", ids)
    np.save(context.out / "mask.npy", mask)
    width = text.hidden_size
    if text.pretrained:
        width = _write_states(context, text.pretrained, ids, mask)
    found = {"captions": len(captions) - 1, "cut_off": cut, "with_unknown_words": unknown}
    facts = {"vocabulary": len(tokenizer), "width": width, "length": ids.shape[1]}
    write_json(context.out / FACTS, found | facts)
    write_json(context.out / "ledger.json", {"captions": [found]})
    return found | facts


def captions_of(prepared: Path, split: str) -> list[str]:
    """The captions of a split, each once, in the order of its pictures."""
    from recipes.common.images.dataset import PreparedImages

    found = PreparedImages.open(prepared, split)
    return [found.classes[label] for label in dict.fromkeys(found.labels.tolist())]


def encoded(
    tokenizer: "PreTrainedTokenizerBase", captions: list[str], most: int
) -> "tuple[np.ndarray, np.ndarray, int]":
    """(ids int64 (N, L), mask bool (N, L), captions that were cut off), L: the longest, at most `most`.

    A caption's mask is never empty: where the tokenizer gives "" no token, one of padding is seen.
    """
    import numpy as np

    whole = tokenizer(captions, padding=False)["input_ids"]
    longest = min(most, max(2, max(map(len, whole))))
    found = tokenizer(
        captions,
        padding="max_length",
        max_length=longest,
        truncation=True,
        padding_side="right",
        return_tensors="np",
    )
    mask = found["attention_mask"].astype(bool)
    mask[:, 0] = True
    return found["input_ids"].astype(np.int64), mask, sum(len(one) > longest for one in whole)


def _write_states(context: Context, pretrained: str, ids: "np.ndarray", mask: "np.ndarray") -> int:
    """states.npy, written a chunk at a time; returns the width."""
    import numpy as np
    import torch

    from pipeline.run.terminal import bar
    from recipes.text_to_image.encoder import load_frozen, states_of

    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    encoder = load_frozen(pretrained).to(device)
    out: Any = None
    starts = range(0, len(ids), CHUNK)
    for start in bar(starts, "captions", context.terminal, len(starts)):
        part = slice(start, start + CHUNK)
        with torch.inference_mode():
            states = states_of(
                encoder, torch.from_numpy(ids[part]).to(device), torch.from_numpy(mask[part]).to(device)
            )
        if out is None:
            shape = (*ids.shape, states.shape[-1])
            out = np.lib.format.open_memmap(context.out / "states.npy", "w+", np.float32, shape)
        out[part] = states.float().cpu().numpy()
    out.flush()
    return out.shape[-1]


if __name__ == "__main__":
    from pipeline.run.stage import main

    main("captions")
