"""Draw molecules with a published model. It needs torch and transformers alone; of SELFIES, selfies as well.

`python draw.py [--ask "<logp:4>"] [--count N] [--seed N] [--greedy]`, from the directory of the model.
"""

import argparse
import json
import re
from pathlib import Path

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer
from transformers.utils import logging


@torch.no_grad()
def drawn(directory: Path, ask: str, count: int, seed: int, greedy: bool) -> list[str]:
    """The texts of `count` molecules, behind what is asked for."""
    logging.disable_progress_bar()  # standard error is for what goes wrong
    tokenizer = AutoTokenizer.from_pretrained(directory)
    model = AutoModelForCausalLM.from_pretrained(directory).eval()
    torch.manual_seed(seed)
    ids = [tokenizer.bos_token_id, *tokenizer(ask, add_special_tokens=False)["input_ids"]]
    prompt = torch.tensor([ids] * count)
    most = model.config.max_position_embeddings - len(ids)
    rows = model.generate(
        prompt, attention_mask=torch.ones_like(prompt), do_sample=not greedy, max_new_tokens=most
    )
    return [tokenizer.decode(row[len(ids) :], skip_special_tokens=True) for row in rows]


def main() -> None:
    here = Path(__file__).parent
    options = argparse.ArgumentParser(description=__doc__)
    options.add_argument("--ask", default="", help="words such as <logp:4>, as molecules.json lists them")
    options.add_argument("--count", type=int, default=1)
    options.add_argument("--seed", type=int, default=0)
    options.add_argument("--greedy", action="store_true", help="the likeliest molecule, whatever the seed")
    given = options.parse_args()
    selfies = json.loads((here / "molecules.json").read_text())["notation"] == "selfies"
    for text in drawn(here, given.ask, given.count, given.seed, given.greedy):
        body = re.sub(r"<[^<>]*>", "", text.rpartition("<molecule>")[2])
        if selfies:
            from selfies import decoder

            body = decoder(body)
        print(body)


if __name__ == "__main__":
    main()
