"""`python answer.py QUESTION PICTURE ...`: an answer about each picture, by transformers and this file's directory."""

import json
import sys
from pathlib import Path

from PIL import Image, ImageOps
from transformers import AutoModelForImageTextToText, AutoProcessor


def main(question: str, pictures: list[str]) -> None:
    directory = Path(__file__).resolve().parent
    facts = json.loads((directory / "answer.json").read_text("utf-8"))
    processor = AutoProcessor.from_pretrained(directory)
    model = AutoModelForImageTextToText.from_pretrained(directory, dtype="float32").eval()
    content = [{"type": "image"}, {"type": "text", "text": question}]
    prompt = processor.apply_chat_template([{"role": "user", "content": content}], add_generation_prompt=True)
    said = []
    for picture in pictures:
        shown = ImageOps.exif_transpose(Image.open(picture)).convert("RGB")
        if facts["longest_side"] and max(shown.size) > facts["longest_side"]:
            shown.thumbnail((facts["longest_side"],) * 2)
        given = processor(images=[[shown]], text=[prompt], add_special_tokens=False, return_tensors="pt")
        ids = model.generate(**given, do_sample=False, **facts["generation"])
        written = ids[:, given["input_ids"].shape[1] :]
        said.append(processor.tokenizer.batch_decode(written, skip_special_tokens=True)[0].strip())
    print(json.dumps(said, ensure_ascii=False))


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2:])
