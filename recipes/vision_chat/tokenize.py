"""Stage `tokenize`: conversations to tokens with the model's own processor and chat template, taught tokens marked."""

from typing import Any

from pipeline.run.errors import UserError
from pipeline.run.files import write_json
from pipeline.run.stage import Context
from pipeline.run.terminal import bar
from recipes.vision_chat.config import VisionChatConfig

SPLITS = ("train", "held_out")


def check(config: VisionChatConfig) -> None:
    """Raises UserError for a model that takes no pictures, has no processor, or a chat template without pictures."""
    from recipes.captioning.model import pretrained_config
    from recipes.captioning.processor import load_given
    from recipes.vision_chat.encode import PicturedEncoder

    pretrained_config(config.model.pretrained)
    PicturedEncoder(load_given(config.model.pretrained))


def run(context: Context) -> dict[str, Any]:
    """Write processor/, SPLIT.ids.npy (int32), SPLIT.targets.npy (uint8), SPLIT.offsets.npy and SPLIT.rows.npy (the
    rows of `prepare` that are kept), and the ledger.

    Raises:
        UserError: the template refuses a conversation; every row of a split is too long.
    """
    import numpy as np

    from recipes.captioning.processor import FOLDER, load_given
    from recipes.vision_chat.encode import PicturedEncoder
    from recipes.vision_chat.prepare import Talks
    from recipes.vision_chat.rows import opened

    config, table = context.config, []
    processor = load_given(config.model.pretrained)
    encoder = PicturedEncoder(processor)
    for split in SPLITS:
        talks = Talks(context.inputs["prepare"], split)
        ids, targets, rows, longest = [], [], [], 0
        for row in bar(range(len(talks)), split, context.terminal, len(talks)):
            pictures = [opened(one, config.data.longest_side) for one in talks.pictures(row)]
            found, taught = encoder.row(talks.messages[row], pictures)
            longest = max(longest, len(found))
            if len(found) <= config.train.max_length:
                ids.append(found)
                targets.append(taught)
                rows.append(row)
        if not rows:
            raise UserError(
                f"{split}: every row has more than train.max_length = {config.train.max_length} tokens, the longest "
                f"{longest}\nway out: a larger train.max_length, or data.longest_side=PIXELS for smaller pictures"
            )
        np.save(context.out / f"{split}.ids.npy", np.concatenate(ids).astype(np.int32))
        np.save(context.out / f"{split}.targets.npy", np.concatenate(targets))
        np.save(context.out / f"{split}.offsets.npy", np.cumsum([0] + [len(each) for each in ids]))
        np.save(context.out / f"{split}.rows.npy", np.array(rows, np.int64))
        table.append(
            {
                "name": split,
                "rows_in": len(talks),
                "kept": len(rows),
                "left_out_as_too_long": len(talks) - len(rows),
                "longest": longest,
                "tokens": sum(map(len, ids)),
                "taught_tokens": int(sum(each.sum() for each in targets)),
            }
        )
    processor.save_pretrained(context.out / FOLDER)
    notes = [{"what": words, "rows": count} for words, count in encoder.chat.template.notes.items()]
    write_json(context.out / "ledger.json", {"rows": table, **({"template": notes} if notes else {})})
    return {
        f"{each['name']}_{key}": each[key] for each in table for key in ("kept", "tokens", "taught_tokens")
    }


if __name__ == "__main__":
    from pipeline.run.stage import main

    main("tokenize")
