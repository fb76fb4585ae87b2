"""Write a target for each line, with a published encoder-decoder. It needs torch and transformers alone.

`python translate.py < sources.txt`, from the directory of the model.
"""

import sys
from collections.abc import Iterable, Iterator
from pathlib import Path

import torch
from transformers import AutoModelForSeq2SeqLM, AutoTokenizer
from transformers.utils import logging


@torch.no_grad()
def translations(directory: Path, lines: Iterable[str]) -> Iterator[str]:
    """A target for each line, one at a time, as the model's generation config says."""
    logging.disable_progress_bar()  # standard error is for what goes wrong
    tokenizer, model = (
        AutoTokenizer.from_pretrained(directory),
        AutoModelForSeq2SeqLM.from_pretrained(directory),
    )
    folder = directory / "target"  # of a model with two vocabularies
    targets = AutoTokenizer.from_pretrained(folder) if folder.is_dir() else tokenizer
    model.eval()
    for line in lines:
        inputs = tokenizer(line.strip(), return_tensors="pt")
        (found,) = model.generate(input_ids=inputs["input_ids"], attention_mask=inputs["attention_mask"])
        yield targets.decode(found, skip_special_tokens=True).strip()


if __name__ == "__main__":
    for translation in translations(Path(__file__).parent, sys.stdin):
        print(translation, flush=True)
