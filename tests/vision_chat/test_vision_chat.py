"""Catches answers that are learnt of another picture, questions or pictures that are supervised, rows whose tokens are
not the processor's, an export that answers otherwise, and rows that cannot be used and are."""

import base64
import json

import numpy as np
import pytest
import torch
from PIL import Image

from pipeline.run.errors import UserError
from pipeline.train.recipe import Clock
from recipes.captioning.captioner import IGNORED
from recipes.captioning.model import DIRECTORY, load, save
from recipes.captioning.processor import load_given
from recipes.common.alone import compare
from recipes.common.training import trained_here
from recipes.vision_chat import described, export, tokenize
from recipes.vision_chat.chatter import Chatter, Sight
from recipes.vision_chat.encode import PICTURE, PicturedEncoder
from recipes.vision_chat.evaluate import GREY, nats_of, plain
from recipes.vision_chat.prepare import Talks
from recipes.vision_chat.replies import asked_of, replies
from recipes.vision_chat.rows import opened
from tests.vision_chat.cases import (
    COLOURS,
    config_of,
    encoded,
    picture_bytes,
    square,
    write_base,
    write_gemma,
    write_inputs,
    write_llava,
    write_rows,
)

# peft 0.21 asks in transformers' old way.
pytestmark = pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing` is deprecated:FutureWarning")


@pytest.fixture(scope="module", params=["LoRA", "whole"])
def learnt(request, tmp_path_factory):
    """(config, directory, recipe) of a model that has learnt to tell colours."""
    directory = tmp_path_factory.mktemp("run")
    rows, base = write_rows(directory / "rows"), write_base(directory / "base")
    loop = ("train.max_steps=120", "train.train_batch_size=8", "train.per_device_train_batch_size=8")
    adam = ("train.learning_rate=0.01", "train.lr_scheduler_type=constant")
    lora = "train.lora=null" if request.param == "whole" else "train.lora={r: 16, lora_alpha: 32}"
    config = config_of(rows, base, f"run.output_dir={directory}", *loop, *adam, lora)
    prepared, tokens = write_inputs(directory, config)
    recipe = Chatter(config, prepared, tokens)
    trainer = trained_here(recipe)
    (directory / "train").mkdir()
    save(recipe.nets()["chatter"], trainer.weights("chatter"), config.train.lora, directory / "train")
    (directory / "train/artifact.json").touch()
    return config, directory, recipe


def test_the_three_forms_of_rows_are_one(learnt):
    _, directory, _ = learnt
    talks = [Talks(directory / "prepare", split) for split in ("train", "held_out")]
    assert sum(map(len, talks)) == 40
    for each in talks:
        for row in range(len(each)):
            messages, pictures = each.messages[row], each.pictures(row)
            assert sum(message["content"].count(PICTURE) for message in messages) == len(pictures)
            for message, picture in zip(messages[1::2], pictures, strict=True):
                colour = opened(picture).getpixel((0, 0))
                assert colour == Image.new("RGB", (1, 1), message["content"]).getpixel((0, 0))


def test_answers_alone_are_supervised_up_to_their_stop(learnt):
    _, directory, recipe = learnt
    split, tokenizer = recipe.data(), recipe.sight.processor.tokenizer
    items = [split.item(index) for index in range(8)]
    batch = recipe.collate(items)
    for row, item in enumerate(items):
        taught = batch["labels"][row][batch["labels"][row] != IGNORED]
        words = tokenizer.decode(taught).split("<end_of_utterance>")
        assert [word.strip() for word in words[:-1]] != [] and words[-1].strip() == ""
        assert all(word.strip() in COLOURS for word in words[:-1]) and len(words) - 1 == len(item["pictures"])
    image = recipe.sight.processor.image_token_id
    assert (batch["labels"] != image).all()
    assert (batch["input_ids"] == image).sum() == 9 * sum(len(item["pictures"]) for item in items)
    assert recipe.count("chatter", batch) == sum(int(item["targets"].sum()) for item in items)


@pytest.mark.parametrize("write", [write_base, write_llava, write_gemma])
def test_the_tokens_of_a_row_are_those_of_the_processor(tmp_path, write):
    processor = load_given(str(write(tmp_path)))
    encoder = PicturedEncoder(processor)
    pictures = [opened(picture_bytes()), square("red", 50)]
    messages = [
        {"role": "user", "content": f"{PICTURE}which colour is it ?"},
        {"role": "assistant", "content": "red"},
        {"role": "user", "content": f"and {PICTURE}here ?"},
        {"role": "assistant", "content": "blue"},
    ]
    ids, targets = encoder.row(messages, pictures)
    parts = encoder.chat.template.shaped(messages)
    text = processor.apply_chat_template(parts)
    given = processor(images=[pictures], text=[text], add_special_tokens=False, return_tensors="np")
    assert ids.tolist() == given["input_ids"][0].tolist()
    prompt = encoder.prompt(messages[:3], pictures)
    asked = processor.apply_chat_template(parts[:3], add_generation_prompt=True)
    given = processor(images=[pictures], text=[asked], add_special_tokens=False, return_tensors="np")
    assert prompt.tolist() == given["input_ids"][0].tolist() == ids[: len(prompt)].tolist()
    taught = processor.tokenizer.decode(ids[targets > 0])
    assert taught.replace(" ", "") == "red<end_of_utterance>blue<end_of_utterance>"


@pytest.mark.parametrize("write", [write_base, write_llava, write_gemma])
def test_a_batch_is_what_the_processor_makes(tmp_path, write):
    """Pictures in their order, what marks a token as a picture's, and room on the right or on the left."""
    sight = Sight(write(tmp_path), None)
    rows = [[encoded(square("red", 30)), encoded(square("blue", 40))], [encoded(square("green", 26))]]
    encoder = PicturedEncoder(sight.processor)
    talks = [[{"role": "user", "content": PICTURE * len(row) + "which colour is it ?"}] for row in rows]
    shown = [[opened(one) for one in row] for row in rows]
    ids = [encoder.prompt(talk, row) for talk, row in zip(talks, shown, strict=True)]
    texts = [
        sight.processor.apply_chat_template(encoder.chat.template.shaped(talk), add_generation_prompt=True)
        for talk in talks
    ]
    sight.processor.tokenizer.padding_side = "right"
    expected = sight.processor(
        images=shown, text=texts, add_special_tokens=False, padding=True, return_tensors="pt"
    )
    found = sight.batch(ids, rows)
    for name in found:
        assert torch.equal(found[name], expected[name]), name
    assert set(found) == set(expected) & set(sight.processor.model_input_names)
    left = sight.batch(ids, rows, left=True)
    assert left["attention_mask"][1].tolist() == found["attention_mask"][1].flip(0).tolist()


def test_what_a_user_types_is_no_place_for_a_picture(tmp_path):
    encoder = PicturedEncoder(load_given(str(write_llava(tmp_path))))
    messages = [
        {"role": "user", "content": f"{PICTURE}is it <image> ?"},
        {"role": "assistant", "content": "red"},
    ]
    ids, _ = encoder.row(messages, [square("red", 30)])
    assert (ids == encoder.processor.image_token_id).sum() == 9


def test_nats_depend_on_ones_own_pictures_and_on_no_neighbour(learnt):
    _, _, recipe = learnt
    net = recipe.nets()["chatter"].eval()
    split = recipe.data()
    items = [item for item in map(split.item, range(12)) if len(item["pictures"]) == 1][:4]
    rows = lambda given: net(**recipe.collate(given)).reshape(len(given), -1).sum(dim=1)  # noqa: E731
    with torch.no_grad():
        plain_rows = rows(items)
        items[0] = items[0] | {"pictures": [picture_bytes()]}
        changed = rows(items)
    assert plain_rows[0] != changed[0]
    torch.testing.assert_close(plain_rows[1:], changed[1:], rtol=1e-6, atol=1e-6)


def test_colours_of_pictures_never_seen_are_told(learnt):
    config, directory, recipe = learnt
    model = load(directory / "train" / DIRECTORY)
    talks = Talks(directory / "prepare", "held_out")
    asked, own = [], []
    for row in range(len(talks)):
        messages, answer = asked_of(talks.messages[row])
        asked.append((messages, talks.pictures(row)))
        own.append(answer)
    said = replies(model, recipe.sight, asked, config.decoding)
    assert np.mean([plain(one) == other for one, other in zip(said, own, strict=True)]) > 0.8
    assert replies(model, recipe.sight, asked[2:3], config.decoding) == said[2:3]
    with_them, counts = nats_of(recipe, model, None, grey=False)
    grey, _ = nats_of(recipe, model, None, grey=True)
    less = 0.95 if config.train.lora else 0.5  # adapters cannot make the frozen head of a random model surer
    assert counts.sum() > 0 and with_them.sum() < less * grey.sum(), GREY


def test_what_learns_is_all_or_the_adapters_alone(learnt):
    config, _, recipe = learnt
    net = recipe.nets()["chatter"]
    names = {name for name, parameter in net.named_parameters() if parameter.requires_grad}
    assert all("lora_" in name for name in names) == bool(config.train.lora)
    batch = recipe.collate([recipe.data().item(index) for index in range(2)])
    recipe.loss("chatter", {"chatter": net}, batch, Clock(0, 0)).total.backward()
    learning = [each for each in net.named_parameters() if each[1].requires_grad]
    assert [name for name, parameter in learning if parameter.grad is None] == []  # DDP waits for every one


def test_an_export_answers_the_same_by_transformers_alone(learnt, tmp_path):
    config, directory, recipe = learnt
    model = load(directory / "train" / DIRECTORY)
    export.write(model, recipe.sight, config, tmp_path)
    (tmp_path / "examples").mkdir()
    pictures = [encoded(square(colour, 33)) for colour in COLOURS[:3]]
    files = export.write_examples(pictures, tmp_path)
    said = export.live(model, recipe.sight, "which colour is it ?", pictures, config)
    assert compare(export.said_afresh(tmp_path, "which colour is it ?", files), said) == 3
    with pytest.raises(RuntimeError, match="the exported directory says"):
        compare(said, [*said[:2], "something else"])


def test_pictures_of_ones_own_are_asked_about_and_others_refused(learnt, tmp_path):
    config, _, _ = learnt
    square("blue", 37).save(tmp_path / "a.png")
    assert described(config, [tmp_path / "a.png"], "which colour is it ?") == ["blue"]
    with pytest.raises(UserError, match="way out: --ask"):
        described(config, [tmp_path / "a.png"], None)
    (tmp_path / "b.png").write_text("no picture")
    with pytest.raises(UserError, match="b.png: .*are no picture"):
        described(config, [tmp_path / "b.png"], "which colour is it ?")
    with pytest.raises(UserError, match="cannot read"):
        described(config, [tmp_path / "c.png"], "which colour is it ?")


def row(content="<image>which colour ?", images=("0-0.png",), answer="red", **more):
    turns = [{"role": "user", "content": content}, {"role": "assistant", "content": answer}]
    return {"messages": turns, "images": list(images)} | more


URL = "data:image/png;base64," + base64.b64encode(picture_bytes()).decode()
BAD = {
    "a place without a picture": (
        row("<image><image>?"),
        "have 2 places for pictures, and it has 1 pictures",
    ),
    "a picture without a place": (row("which ?"), "have 0 places for pictures, and it has 1 pictures"),
    "no picture": (row("which ?", ()), "it has no picture"),
    "a picture that is not there": (
        row(images=["0-9.png"]),
        "0-9.png: No such file or directory\ndid you mean",
    ),
    "a picture that is text": (row(images=["rows.jsonl"]), "are no picture, or are cut off"),
    "a picture elsewhere": (
        row(images=["https://example.org/a.png"]),
        "nothing is fetched while data are read",
    ),
    "no base64": (row(images=["data:image/png;base64,%%"]), "is no base64"),
    "a number": (row(images=[7]), "its picture is 7"),
    "an answer with a picture": (row(answer="<image>"), "message 1 is the assistant's and has a picture"),
    "no answer": (row(messages=[{"role": "user", "content": "<image>?"}]), "its turns are user\nexpected"),
    "another role": (row(messages=[{"role": "robot", "content": "?"}]), "has the role 'robot'"),
    "an empty answer": (row(answer=" "), "message 1 is empty"),
    "a sound": (row([{"type": "audio", "audio": "a.wav"}]), "expected: parts of type text and image"),
    "no messages": ({"text": "a"}, "no column messages or conversations"),
    "messages that are text": (row(messages="hello"), "expected: a list of messages"),
    "our own mark": (row("<image>\ue002"), "holds the character U+E002"),
}


@pytest.mark.parametrize("kind", BAD)
def test_a_row_that_cannot_be_used_is_named_or_counted(tmp_path, kind):
    rows, base = write_rows(tmp_path / "rows", 12), write_base(tmp_path / "base")
    bad, why = BAD[kind]
    lines = rows.read_text().splitlines()
    rows.write_text("\n".join([*lines, json.dumps(bad)]) + "\n")
    with pytest.raises(UserError) as refused:
        write_inputs(tmp_path, config_of(rows, base))
    assert why in str(refused.value) and f"{rows}:13: " in str(refused.value)
    assert "data.on_bad_row=skip" in str(refused.value)
    write_inputs(tmp_path / "again", config_of(rows, base, "data.on_bad_row=skip"))
    ledger = json.loads((tmp_path / "again/prepare/ledger.json").read_text())
    assert ledger["conversations"][0]["skipped"] == 1 and ledger["skipped"][0]["row"] == 13


def test_pictures_within_a_row_are_read(tmp_path):
    rows, base = write_rows(tmp_path / "rows", 12), write_base(tmp_path / "base")
    whole = row([{"type": "image_url", "image_url": {"url": URL}}, {"type": "text", "text": "which ?"}], ())
    rows.write_text(rows.read_text() + json.dumps(whole) + "\n")
    write_inputs(tmp_path, config_of(rows, base))
    talks = [Talks(tmp_path / "prepare", split) for split in ("train", "held_out")]
    assert picture_bytes() in [
        one for each in talks for number in range(len(each)) for one in each.pictures(number)
    ]


def test_a_table_of_parquet_with_pictures_in_it_is_read(tmp_path):
    import pyarrow
    import pyarrow.parquet

    base = write_base(tmp_path / "base")
    turns = [
        {"role": "user", "content": "<image>which colour is it ?"},
        {"role": "assistant", "content": "red"},
    ]
    table = [
        {"messages": turns, "image": {"bytes": encoded(square("red", 20 + number)), "path": None}}
        for number in range(12)
    ]
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(table), tmp_path / "rows.parquet")
    prepared, _ = write_inputs(tmp_path, config_of(tmp_path / "rows.parquet", base))
    assert sum(len(Talks(prepared, split)) for split in ("train", "held_out")) == 12


def test_rows_that_begin_with_one_picture_stay_together(tmp_path):
    rows, base = write_rows(tmp_path / "rows", 12), write_base(tmp_path / "base")
    twice = [
        row(f"<image>{word}", ["3-0.png"]) for word in ("which ?", "here ?", "and ?", "colour ?", "it ?")
    ]
    rows.write_text(rows.read_text() + "".join(json.dumps(one) + "\n" for one in twice))
    prepared, _ = write_inputs(tmp_path, config_of(rows, base))
    firsts = [
        {each.pictures(number)[0] for number in range(len(each))}
        for each in (Talks(prepared, split) for split in ("train", "held_out"))
    ]
    assert firsts[0] and firsts[1] and not firsts[0] & firsts[1]


def test_long_rows_are_left_out_and_counted(tmp_path):
    rows, base = write_rows(tmp_path / "rows", 24), write_base(tmp_path / "base")
    _, tokens = write_inputs(tmp_path, config_of(rows, base, "train.max_length=40"))
    table = json.loads((tokens / "ledger.json").read_text())["rows"]
    assert sum(part["left_out_as_too_long"] for part in table) == 12  # those of two pictures
    assert all(part["rows_in"] == part["kept"] + part["left_out_as_too_long"] for part in table)
    with pytest.raises(UserError, match="way out: a larger train.max_length"):
        write_inputs(tmp_path / "again", config_of(rows, base, "train.max_length=16"))


def test_what_cannot_work_is_refused_before_anything_runs(tmp_path):
    rows = write_rows(tmp_path / "rows", 12)
    (tmp_path / "llama").mkdir()
    (tmp_path / "llama/config.json").write_text(json.dumps({"model_type": "llama"}))
    with pytest.raises(UserError, match="is a llama, which takes no pictures"):
        tokenize.check(config_of(rows, tmp_path / "llama"))
    base = write_base(tmp_path / "base")
    template = base / "chat_template.jinja"
    template.write_text("{% for m in messages %}{{ m['content'][0]['text'] }}<end_of_utterance>{% endfor %}")
    with pytest.raises(UserError, match="the chat template writes nothing for a picture|writes no contents"):
        tokenize.check(config_of(rows, base))
    template.unlink()
    with pytest.raises(UserError, match="has no chat template"):
        tokenize.check(config_of(rows, base))
