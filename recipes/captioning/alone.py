"""`python describe.py PICTURE ...`: captions of pictures, by transformers and the directory that this file lies in."""

import json
import sys
from pathlib import Path

from PIL import Image
from transformers import AutoModelForImageTextToText, AutoProcessor


def main(pictures: list[str]) -> None:
    directory = Path(__file__).resolve().parent
    facts = json.loads((directory / "prompt.json").read_text("utf-8"))
    processor = AutoProcessor.from_pretrained(directory)
    model = AutoModelForImageTextToText.from_pretrained(directory, dtype="float32").eval()
    said = []
    for picture in pictures:
        given = processor(
            images=[[Image.open(picture)]],
            text=[facts["prompt"]],
            add_special_tokens=False,
            return_tensors="pt",
        )
        ids = model.generate(**given, do_sample=False, max_new_tokens=facts["max_new_tokens"])
        text = processor.batch_decode(ids[:, given["input_ids"].shape[1] :], skip_special_tokens=True)[0]
        said.append(" ".join(text.split()))
    print(json.dumps(said, ensure_ascii=False))


if __name__ == "__main__":
    main(sys.argv[1:])
