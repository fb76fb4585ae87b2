"""`python transcribe.py CLIP ...`: what is said in clips, by transformers and the directory that this file lies in."""

import json
import sys
from pathlib import Path

import soundfile
from transformers import WhisperForConditionalGeneration, WhisperProcessor


def main(clips: list[str]) -> None:
    directory = Path(__file__).resolve().parent
    facts = json.loads((directory / "transcribe.json").read_text("utf-8"))
    processor = WhisperProcessor.from_pretrained(directory)
    model = WhisperForConditionalGeneration.from_pretrained(directory, dtype="float32").eval()
    said = []
    for clip in clips:
        wave, rate = soundfile.read(clip, dtype="float32")
        given = processor(wave, sampling_rate=rate, return_tensors="pt")
        ids = model.generate(**given, do_sample=False, max_new_tokens=facts["max_new_tokens"])
        text = processor.tokenizer.batch_decode(ids, skip_special_tokens=True)[0]
        said.append(" ".join(text.split()))
    print(json.dumps(said, ensure_ascii=False))


if __name__ == "__main__":
    main(sys.argv[1:])
