"""Write a piece as MIDI with a published model. It needs torch, transformers and miditok alone.

`python play.py OUT.mid [--seed N] [--greedy]`, from the directory of the model.
"""

import argparse
import json
from pathlib import Path

import torch
from miditok import REMI, TokSequence
from transformers import AutoModelForCausalLM, AutoTokenizer
from transformers.utils import logging


@torch.no_grad()
def written(directory: Path, seed: int, greedy: bool, most: int) -> list[str]:
    """The words of a piece, which opens with a bar."""
    logging.disable_progress_bar()  # standard error is for what goes wrong
    tokenizer = AutoTokenizer.from_pretrained(directory)
    model = AutoModelForCausalLM.from_pretrained(directory).eval()
    torch.manual_seed(seed)
    prompt = torch.tensor([[tokenizer.bos_token_id, tokenizer.convert_tokens_to_ids("Bar_None")]])
    mask = torch.ones_like(prompt)
    (ids,) = model.generate(prompt, attention_mask=mask, do_sample=not greedy, max_new_tokens=most)
    return tokenizer.decode(ids, skip_special_tokens=True).split()


def main() -> None:
    here = Path(__file__).parent
    options = argparse.ArgumentParser(description=__doc__)
    options.add_argument("out", type=Path)
    options.add_argument("--seed", type=int, default=0)
    options.add_argument("--greedy", action="store_true", help="the likeliest words, whatever the seed")
    options.add_argument("--words", type=int, default=512, help="words at most")
    given = options.parse_args()
    words = written(here, given.seed, given.greedy, given.words)
    tok, programs = (
        REMI(params=here / "miditok.json"),
        json.loads((here / "music.json").read_text())["programs"],
    )
    plain = [word for word in " ".join(words).replace("+", " ").split() if word in tok.vocab]
    sequence = TokSequence(tokens=plain, ids=[tok.vocab[word] for word in plain])
    tok.decode(sequence if programs else [sequence]).dump_midi(str(given.out))
    print(" ".join(words))


if __name__ == "__main__":
    main()
