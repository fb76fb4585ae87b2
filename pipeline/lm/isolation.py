"""Whether the documents of one row meet in the model at hand: asked of it before its first step, not of its name."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from pipeline.run.errors import UserError

if TYPE_CHECKING:
    from pipeline.lm.recipe import TokenLoss

LENGTH = 8  # tokens of each of two documents
# Of the largest logit: experts' products may be cut otherwise (2e-5 in fp32); what leaks is above 1e-2.
APART = {torch.float32: 1e-3, torch.bfloat16: 3e-2, torch.float16: 3e-2}


def check_isolated(net: TokenLoss) -> None:
    """Change the first document of a row of two, and look at the second.

    Raises:
        UserError: it is another then.
    """
    config, embedding = net.model.config, net.model.get_input_embeddings().weight
    if config._attn_implementation == "flex_attention":  # computes on a GPU alone
        return
    training = net.training
    places = torch.arange(2 * LENGTH, device=embedding.device)[None]
    documents = places // LENGTH
    ids = 3 + places % min(config.get_text_config().vocab_size - 4, 89)
    with torch.no_grad():
        before, after = (
            net.eval().logits(rows, documents, places % LENGTH, None)[:, LENGTH:].float()
            for rows in (ids, torch.where(documents == 0, ids + 1, ids))
        )
    net.train(training)
    moved = float((before - after).abs().max() / before.abs().max().clamp(min=1e-9))
    if not moved < APART[embedding.dtype]:
        raise UserError(
            f"packing: in {config.model_type} a document changes the next one of its row (logits by {moved:.0%})\n"
            "way out: packing: false, one document a row"
        )
