"""Catches transcripts that are learnt for another clip, prefixes that are supervised, an export that writes something
else, error rates that are not torchmetrics', and clips that are learnt from as they are not."""

import json

import numpy as np
import pytest
import soundfile
import torch
import torch.nn.functional as F

from pipeline.run.errors import UserError
from pipeline.train.recipe import Clock
from recipes.common.alone import compare
from recipes.common.audio.dataset import PreparedAudio
from recipes.common.audio.transcripts import text_of
from recipes.common.training import trained_here
from recipes.transcription import export, processor
from recipes.transcription.config import Augment
from recipes.transcription.decode import transcripts_of, written
from recipes.transcription.evaluate import edits, nearest_clips, scores_of
from recipes.transcription.model import DIRECTORY, load, save
from recipes.transcription.processor import Ears
from recipes.transcription.transcriber import IGNORED, Transcriber, at_speed, masked
from tests.transcription.cases import (
    RATE,
    config_of,
    context_of,
    of_folder,
    spoken,
    write_clips,
    write_inputs,
    write_whisper,
)

# peft 0.21 asks in transformers' old way.
pytestmark = pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing` is deprecated:FutureWarning")


@pytest.fixture(scope="module", params=["fresh", "LoRA", "whole"])
def learnt(request, tmp_path_factory):
    """(config, directory, recipe) of a model that has learnt a few clips by heart."""
    directory = tmp_path_factory.mktemp("run")
    more = [*of_folder(write_clips(directory / "clips")), f"run.output_dir={directory}"]
    if request.param != "fresh":
        more += [f"model={{pretrained: {write_whisper(directory / 'base')}, language: fr}}"]
        more += ["train.ctc_weight=0"]
    if request.param == "LoRA":
        more += ["train.lora={r: 16, lora_alpha: 32}"]
    loop = ("train.max_steps=150", "train.train_batch_size=16", "train.per_device_train_batch_size=16")
    adam = ("train.learning_rate=0.01", "train.decay_steps=0.4", "train.warmup_steps=10")
    config = config_of(*more, *loop, *adam, "data.max_clips=16")
    prepared, made = write_inputs(directory, config)
    recipe = Transcriber(config, prepared, made)
    trainer = trained_here(recipe)
    trained = directory / "train"
    trained.mkdir()
    save(
        recipe.nets()["transcriber"], trainer.weights("transcriber"), config.train.lora, recipe.ears, trained
    )
    (trained / "artifact.json").touch()
    return config, directory, recipe


def clips_of(directory, split):
    clips = PreparedAudio.open(directory / "prepare", split)
    waves = [np.array(clips.clip(number)) for number in range(len(clips))]
    return waves, [clips.classes[label] for label in clips.labels]


def test_only_a_transcripts_own_tokens_are_supervised(learnt):
    config, directory, recipe = learnt
    split, tokenizer = recipe.held_out(), recipe.ears.processor.tokenizer
    items = [split.item(index) for index in range(4)]
    batch = recipe.collate(items)
    _, own = clips_of(directory, "held_out")
    prefix = tokenizer.convert_ids_to_tokens(recipe.ears.prefix)
    spoken_in = ["<|fr|>", "<|transcribe|>"] if config.model.pretrained else []
    assert prefix == ["<|startoftranscript|>", *spoken_in, "<|notimestamps|>"]
    for row in range(4):
        taught = batch["labels"][row][batch["labels"][row] != IGNORED]
        assert tokenizer.decode(taught[:-1]) == own[row] and taught[-1] == tokenizer.eos_token_id
        first = len(prefix) - 1
        assert batch["given"][row][: len(prefix)].tolist() == recipe.ears.prefix
        assert (batch["given"][row][len(prefix) :][: len(taught) - 1] == taught[:-1]).all()
        assert (batch["labels"][row][:first] == IGNORED).all()
    assert recipe.count("transcriber", batch) == sum(len(item["tokens"]) for item in items)


def test_a_transcripts_nats_depend_on_its_clip_and_on_no_neighbour(learnt):
    _, _, recipe = learnt
    net = recipe.nets()["transcriber"].eval()
    split = recipe.held_out()
    items = [split.item(index) for index in range(4)]

    def rows(given):
        nats, ctc = net(**recipe.collate(given))
        return torch.stack((nats.reshape(4, -1).sum(dim=1), ctc))

    with torch.no_grad():
        plain = rows(items)
        items[0] = items[0] | {"features": items[1]["features"], "frames": items[1]["frames"]}
        changed = rows(items)
    assert plain[0, 0] != changed[0, 0] and torch.equal(plain[:, 1:], changed[:, 1:])


def test_what_was_learnt_is_written_whatever_stands_beside_it(learnt):
    config, directory, _ = learnt
    model, ears = load(directory / "train" / DIRECTORY), Ears(directory / "processor")
    waves, own = clips_of(directory, "train")
    said = written(model, ears, waves, config.decoding)
    assert np.mean([one == other for one, other in zip(said, own, strict=True)]) > 0.8
    assert written(model, ears, waves[3:5], config.decoding) == said[3:5]


def test_what_learns_is_all_or_the_adapters_alone(learnt):
    config, _, recipe = learnt
    net = recipe.nets()["transcriber"]
    names = {name for name, parameter in net.named_parameters() if parameter.requires_grad}
    assert all("lora_" in name for name in names) == bool(config.train.lora)
    assert any(name.startswith("ctc.") for name in names) == (config.train.ctc_weight > 0)
    batch = recipe.collate([recipe.data().item(index) for index in range(2)])
    recipe.loss("transcriber", {"transcriber": net}, batch, Clock(0, 0)).total.backward()
    learning = [each for each in net.named_parameters() if each[1].requires_grad]
    assert [name for name, parameter in learning if parameter.grad is None] == []  # DDP waits for every one


def test_the_ctc_loss_of_a_clip_is_torchs_of_it_alone(learnt):
    config, _, recipe = learnt
    if not config.train.ctc_weight:
        pytest.skip("without CTC")
    net, split = recipe.nets()["transcriber"].eval(), recipe.held_out()
    items = sorted((split.item(index) for index in range(4)), key=lambda item: len(item["tokens"]))
    with torch.no_grad():
        _, together = net(**recipe.collate(items))
        for item, found in zip(items, together, strict=True):
            states = net.model.model.encoder(torch.from_numpy(item["features"])[None]).last_hidden_state
            places = (int(item["frames"]) + 1) // 2
            log_SV = net.ctc(states[0, :places]).log_softmax(-1)
            target = torch.from_numpy(item["tokens"][:-1])
            alone = F.ctc_loss(
                log_SV[:, None],
                target[None],
                torch.tensor([places]),
                torch.tensor([len(target)]),
                blank=int(item["tokens"][-1]),
                reduction="sum",
            )
            torch.testing.assert_close(found, alone, rtol=1e-4, atol=1e-4)


def test_an_export_writes_the_same_by_transformers_alone(learnt, tmp_path):
    config, directory, _ = learnt
    waves, _ = clips_of(directory, "train")
    model, ears = load(directory / "train" / DIRECTORY), Ears(directory / "processor")
    export.write(model, ears, config, tmp_path)
    files = [f"{number}.wav" for number in range(3)]
    for file, wave in zip(files, waves, strict=False):
        soundfile.write(tmp_path / file, wave, RATE)
    live = export.live(model, ears, waves[:3], config)
    assert compare(export.said_afresh(tmp_path, files), live) == 3
    with pytest.raises(RuntimeError, match="the exported directory says"):
        compare(live, [*live[:2], "something else"])


def test_clips_of_ones_own_are_transcribed_and_others_refused(learnt, tmp_path):
    config, directory, _ = learnt
    waves, _ = clips_of(directory, "train")
    soundfile.write(tmp_path / "a.wav", waves[0], RATE)
    soundfile.write(tmp_path / "b.flac", np.repeat(np.stack([waves[0]] * 2, 1), 2, axis=0), 2 * RATE)
    first, second = transcripts_of(config, [tmp_path / "a.wav", tmp_path / "b.flac"])
    assert first and second
    (tmp_path / "c.wav").write_text("no clip")
    with pytest.raises(UserError, match="c.wav: .*are no clip"):
        transcripts_of(config, [tmp_path / "c.wav"])
    with pytest.raises(UserError, match="cannot read"):
        transcripts_of(config, [tmp_path / "d.wav"])
    soundfile.write(tmp_path / "long.wav", np.tile(waves[0], 9), RATE)
    with pytest.raises(UserError, match="long.wav: .* s\nexpected: at most data.max_seconds = 1"):
        transcripts_of(config, [tmp_path / "long.wav"])


def test_error_rates_are_those_of_torchmetrics():
    from torchmetrics.functional.text import char_error_rate, word_error_rate

    own = ["the cat sat down", "a dog", "two red birds fly", "yes"]
    said = ["the cat sat", "a dog barks loudly", "to red bird flies", ""]
    words, letters, right = scores_of("model", said, own, 20)
    assert words.value == pytest.approx(float(word_error_rate(said, own)))
    assert letters.value == pytest.approx(float(char_error_rate(said, own)))
    assert right.value == 0
    loud = scores_of("model", ["The  CAT sat down!", *own[1:]], own, 20)
    assert [score.value for score in loud] == [0, 0, 1]
    assert edits(list("kitten"), list("sitting")) == 3 and edits([], ["a"]) == edits(["a"], []) == 1


def test_the_nearest_clip_is_the_one_that_sounds_alike(learnt):
    _, directory, recipe = learnt
    train = PreparedAudio.open(directory / "prepare", "train")
    louder = [np.array(train.clip(number)) * 2 for number in (5, 0, 9)]
    found = nearest_clips(recipe.ears, louder, train)
    assert [train.classes[train.labels[number]] for number in found] == [
        train.classes[train.labels[number]] for number in (5, 0, 9)
    ]


def test_what_a_clip_goes_through_is_a_function_of_seed_and_index(learnt):
    config, directory, recipe = learnt
    augment = Augment(speeds=(0.9, 1.1), time_masks=1, time_frames=8, band_masks=1, band_width=3)
    changed = config.model_copy(update={"train": config.train.model_copy(update={"augment": augment})})
    split = Transcriber(changed, recipe.prepared, directory / "processor").data()
    once, again, later = split.item(3), split.item(3), split.item(3 + split.length)
    assert np.array_equal(once["features"], again["features"])
    assert not np.array_equal(once["features"], later["features"])
    held_out = Transcriber(changed, recipe.prepared, directory / "processor").held_out()
    assert np.array_equal(held_out.item(0)["features"], recipe.held_out().item(0)["features"])


def test_speed_changes_length_and_pitch_and_masks_stay_within_the_clip():
    wave = (spoken("do") * 32768).astype(np.int16)
    slow = at_speed(wave, 0.8)
    assert len(slow) == 5000 and at_speed(wave, 1) is wave
    loudest = [np.abs(np.fft.rfft(each)).argmax() * RATE / len(each) for each in (wave, slow)]
    assert loudest == pytest.approx([260, 208], abs=4)
    features = np.random.default_rng(0).normal(size=(16, 100)).astype(np.float32)
    times = Augment(time_masks=2, time_frames=10)
    for seed in range(20):
        hidden = masked(features, 40, times, np.random.default_rng(seed)) != features
        assert not hidden[:, 40:].any() and hidden.any(0).sum() <= 20
        assert (hidden.any(0) == hidden.all(0)).all()
    bands = masked(features, 40, Augment(band_masks=1, band_width=4), np.random.default_rng(1)) != features
    assert 0 < bands.any(1).sum() <= 4 and (bands.any(1) == bands.all(1)).all()


def test_what_cannot_work_is_refused_before_anything_runs(tmp_path):
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "llama"}))
    with pytest.raises(UserError, match="is a llama\nexpected: a Whisper model"):
        processor.check(config_of(f"model={{pretrained: {tmp_path}}}"))
    with pytest.raises(UserError, match="model.pretrained: "):
        processor.check(config_of(f"model={{pretrained: {tmp_path / 'nothing'}}}"))
    base = write_whisper(tmp_path / "base")
    with pytest.raises(UserError, match="model.language: Unsupported language: klingon"):
        processor.check(config_of(f"model={{pretrained: {base}, language: klingon}}"))
    for setting, why in (
        ("train.lora={r: 4}", "train.lora is for a pretrained model"),
        ("data.sample_rate=8000", "Whisper hears 16000; way out: data.sample_rate=16000"),
        ("model.language=fr", "language is told to a pretrained model"),
        ("data.max_seconds=29", "at the slowest of train.augment.speeds; Whisper hears 30"),
        ("train.augment={speeds: [0]}", "speeds holds one or more numbers"),
    ):
        with pytest.raises(UserError, match=why):
            config_of("train.augment={speeds: [0.9]}", setting)


def test_long_transcripts_are_left_out_and_counted(tmp_path):
    folder = write_clips(tmp_path / "clips")
    config = config_of(*of_folder(folder), "train.max_length=6", "data.max_clips=30")
    prepared, made = write_inputs(tmp_path, config)
    ledger = json.loads((made / "ledger.json").read_text())["transcripts"][0]
    assert 0 < ledger["left_out_as_too_long"] < ledger["transcripts"] == 30
    split = Transcriber(config, prepared, made).data()
    assert split.length == 30 - ledger["left_out_as_too_long"]
    assert max(len(split.item(index)["tokens"]) for index in range(split.length)) <= 6
    config = config_of(*of_folder(folder), "train.max_length=2", "model.vocabulary_size=256")
    with pytest.raises(UserError, match="the shortest transcript has 3 tokens\nway out: train.max_length="):
        processor.run(context_of(config, "processor", made, prepare=prepared))


BAD = {
    "empty": (lambda file: file.with_suffix(".txt").write_text(" "), "00.txt is empty"),
    "missing": (lambda file: file.with_suffix(".txt").unlink(), "00.txt is not there"),
    "long": (lambda file: soundfile.write(file, spoken("do re mi fa sol"), RATE), "1.2 s"),
    "silent": (lambda file: soundfile.write(file, np.zeros(RATE // 2), RATE), "it is silent"),
    "a list": (
        lambda file: (file.parent / "metadata.jsonl").write_text('{"file_name": "00.wav", "text": ["do"]}\n'),
        "its transcript in 'text' is a list",
    ),
    "no clip": (
        lambda file: (file.parent / "metadata.csv").write_text("file_name,text\n99.wav,do\n"),
        "it names the clip '99.wav', which is not there",
    ),
}


@pytest.mark.parametrize("kind", BAD)
def test_a_clip_or_transcript_that_cannot_be_used_is_named(tmp_path, kind):
    folder = write_clips(tmp_path / "clips", 20)
    spoil, why = BAD[kind]
    spoil(folder / "00.wav")
    with pytest.raises(UserError) as refused:
        write_inputs(tmp_path, config_of(*of_folder(folder)))
    assert why in str(refused.value) and "data.on_bad_row=skip" in str(refused.value)
    assert "expected: " in str(refused.value) or "did you mean '" in str(refused.value)


def test_tux_paints_transcripts_are_the_lines_of_their_language(tmp_path):
    stamp = tmp_path / "cow.txt"
    stamp.write_text("A cow.\nfr.utf8=Une  vache.\nes_MX.utf8=Otra.\nes.utf8=Una vaca.\n", "utf-8")
    said = {
        language: text_of(tmp_path / f"cow_desc_{language}.ogg", language) for language in ("fr", "es", "ro")
    }
    assert said == {"fr": "Une vache.", "es": "Una vaca.", "ro": ""}
    assert text_of(tmp_path / "cow_desc.ogg", "en") == "A cow."
    assert text_of(tmp_path / "pig_desc_fr.ogg", "fr") == ""
