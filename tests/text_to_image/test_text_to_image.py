"""Catches pictures that are not of their caption: another caption's tokens, padding that shows, a hidden caption that
is seen, an export with another vocabulary."""

import json

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from pipeline.run.errors import UserError
from recipes.common.images.dataset import PreparedImages
from recipes.common.words import tokenizer_of, unknown_words, vocabulary_of, words_of
from recipes.text_to_image import exported
from recipes.text_to_image.captions import Captions, check, encoded
from recipes.text_to_image.config import Text
from recipes.text_to_image.draw import write_drawn
from recipes.text_to_image.sampler import as_bytes, drawing, load_net, load_samplers, pipeline_of
from recipes.text_to_image.text_to_image import TextToImage
from recipes.text_to_image.train import leave_words
from tests.text_to_image.cases import UNET, config_of, scenes_of, write_captions

# diffusers 0.42 turns tensors into arrays in numpy's old way.
pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation doesn't accept:DeprecationWarning")
CAPTIONS = ["A red circle, please!", "two red squares", "a blue circle", "two blue circles"]


@pytest.fixture(scope="module", params=[(), (UNET,)], ids=["DiT", "U-Net"])
def run(request, tmp_path_factory):
    """(config, its directory): pictures, captions and a net of random weights, as a finished `train` leaves them."""
    directory = tmp_path_factory.mktemp("run")
    more = (f"run.output_dir={directory}", "train.ema_decay=0", "sampler.guidance=2", *request.param)
    config = config_of(*more)
    prepared, known = write_captions(directory, scenes_of(), config.text)
    recipe = TextToImage(config, prepared, known)
    painter = moved(recipe)
    trained = directory / "train"
    trained.mkdir()
    weights = {
        n: t.contiguous() for n, t in painter.state_dict().items() if not n.endswith("embed_tokens.weight")
    }
    save_file(weights, trained / "model.safetensors")
    (trained / "nets.json").write_text(json.dumps(recipe.described()))
    (trained / "artifact.json").touch()
    leave_words(known, trained)
    return config, directory


def moved(recipe):
    """The recipe's nets with random weights everywhere: fresh ones end in zeros and would say nothing."""
    torch.manual_seed(0)
    painter = recipe.nets()["model"]
    for parameter in painter.parameters():
        torch.nn.init.normal_(parameter, std=0.15)
    return painter


def recipe_of(run, *overrides):
    config, directory = run
    return TextToImage(
        config_of(*overrides) if overrides else config, directory / "prepare", directory / "captions"
    )


def test_words_are_cut_as_the_tokenizer_cuts_them():
    tokenizer = tokenizer_of(vocabulary_of(CAPTIONS, 1))
    for caption in CAPTIONS:
        tokens = tokenizer.convert_ids_to_tokens(tokenizer(caption)["input_ids"])
        assert tokens == [*words_of(caption), "<eos>"]
    assert tokenizer.convert_ids_to_tokens(tokenizer("")["input_ids"]) == ["<eos>"]


def test_a_rare_word_shares_a_token_and_an_unknown_one_is_named():
    vocabulary = vocabulary_of(CAPTIONS, 2)
    assert vocabulary == ["a", "blue", "circle", "red", "two"]
    tokenizer = tokenizer_of(vocabulary)
    assert unknown_words(tokenizer, "two Red squares") == ["squares"]
    assert unknown_words(tokenizer, "two Red") == []


def test_captions_that_are_too_long_are_cut_and_counted():
    tokenizer = tokenizer_of(vocabulary_of(CAPTIONS, 1))
    ids, mask, cut = encoded(tokenizer, [*CAPTIONS, ""], 4)
    assert ids.shape == (5, 4) and cut == 1
    assert mask.sum(axis=1).tolist() == [4, 4, 4, 4, 1]


def test_a_sample_has_its_own_caption_and_the_empty_one_by_the_share_asked_for(run):
    recipe = recipe_of(
        run, "train.condition_dropout=0.25", *(() if run[0].model.net.kind == "dit" else (UNET,))
    )
    split, empty = recipe.data(), recipe.captions.ids[-1]
    hidden = 0
    for index in range(400):
        item = split.item(index)
        own = recipe.captions.ids[int(item["label"])]
        hides = np.array_equal(item["ids"], empty)
        hidden += hides
        assert hides or np.array_equal(item["ids"], own)
        assert item["image"].tolist() == split.images.item(index)["image"].tolist()
    assert 0.18 < hidden / 400 < 0.32
    held = recipe.held_out()
    assert all(not np.array_equal(held.item(index)["ids"], empty) for index in range(20))


def test_the_loss_of_a_picture_depends_on_its_caption_and_on_nobody_elses(run):
    recipe = recipe_of(run)
    painter = moved(recipe).eval()
    split = recipe.held_out()
    batch = recipe.collate([split.item(index) for index in range(4)])
    with torch.no_grad():
        errors = recipe.errors(painter, batch)[0]
        other = {name: value.clone() for name, value in batch.items()}
        other["ids"][0], other["mask"][0] = batch["ids"][1], batch["mask"][1]
        changed = recipe.errors(painter, other)[0]
    assert errors[0] != changed[0]
    assert torch.equal(errors[1:], changed[1:])


def test_padding_says_nothing(run):
    recipe = recipe_of(run)
    painter = moved(recipe).eval()
    batch = recipe.collate([recipe.held_out().item(index) for index in range(4)])
    longer = dict(batch)
    longer["ids"] = torch.cat([batch["ids"], torch.full((4, 3), 5)], dim=1)
    longer["mask"] = torch.cat([batch["mask"], torch.zeros(4, 3, dtype=torch.bool)], dim=1)
    with torch.no_grad():
        found = [recipe.errors(painter, one)[0] for one in (batch, longer)]
    torch.testing.assert_close(*found, rtol=1e-5, atol=0)


def test_a_picture_is_the_same_whatever_is_drawn_beside_it(run):
    config, directory = run
    [draw] = load_samplers(config, directory / "prepare", directory / "train").values()
    together = draw([3, 4, 5], ["a red circle", "two blue squares", "a red circle"])
    assert np.array_equal(together[1], draw([4], ["two blue squares"])[0])
    assert not np.array_equal(together[0], draw([3], ["two blue squares"])[0])
    assert not np.array_equal(together[0], together[2])


def test_numbers_of_captions_draw_what_their_words_do(run):
    config, directory = run
    classes = PreparedImages.open(directory / "prepare", "train").classes
    [draw] = load_samplers(config, directory / "prepare", directory / "train").values()
    assert np.array_equal(draw([0, 1], [0, 7]), draw([0, 1], [classes[0], classes[7]]))
    pipeline = pipeline_of(config, *load_net(config, directory / "train"), None, config.sampler)
    by_tokens = drawing(pipeline, Captions.open(directory / "captions"))
    assert np.array_equal(draw([0, 1], [0, 7]), by_tokens([0, 1], [0, 7]))


def test_guidance_leads_away_from_the_negative_prompt(run):
    config, directory = run
    trained = directory / "train"
    pipeline = pipeline_of(config, *load_net(config, trained), trained, config.sampler)

    def drawn(**given):
        return as_bytes(pipeline("a red circle", seeds=[0], output_type="np", **given).images)

    plain = drawn()
    assert np.array_equal(plain, drawn(negative_prompt=""))
    assert not np.array_equal(plain, drawn(negative_prompt="two blue squares"))
    own = drawn(negative_prompt="a red circle")
    assert (
        np.array_equal(own, drawn(guidance_scale=1))
        or np.abs(own.astype(int) - drawn(guidance_scale=1)).max() <= 1
    )


def test_an_export_draws_the_same_by_diffusers_alone(run, tmp_path):
    config, directory = run
    exported.write(config, directory / "prepare", directory / "train", tmp_path)
    [live] = load_samplers(config, directory / "prepare", directory / "train").values()
    captions = exported.labels(directory / "prepare", directory / "train", 5)
    assert len(set(captions)) == 5
    assert np.array_equal(exported.load(tmp_path)(list(range(5)), captions), live(list(range(5)), captions))
    code = (tmp_path / "text_to_image_pipeline.py").read_text()
    assert "recipes" not in code.replace("of ours", "")


def test_draw_writes_pictures_and_refuses_what_it_cannot(run, tmp_path):
    config, _ = run
    said = write_drawn(config, "two red circles", tmp_path / "out", 3, 5, "a blue square")
    assert said == f"{tmp_path / 'out'}: 3 pictures of 'two red circles'"
    assert sorted(file.name for file in (tmp_path / "out").iterdir()) == [
        "5.png",
        "6.png",
        "7.png",
        "sheet.png",
    ]
    with pytest.raises(UserError, match="is there already"):
        write_drawn(config, "two red circles", tmp_path / "out", 3, 5, None)
    with pytest.raises(
        UserError, match="prompt: no caption that was learnt has the word 'circels'\n.*circles"
    ):
        write_drawn(config, "two red circels", tmp_path / "other", 3, 5, None)
    with pytest.raises(UserError, match="--negative: no caption.*'dog'"):
        write_drawn(config, "two red circles", tmp_path / "other", 3, 5, "dog")


def clip_directory(tmp_path):
    """A tiny CLIP text encoder with random weights, and a tokenizer beside it."""
    from transformers import CLIPTextConfig, CLIPTextModel

    torch.manual_seed(1)
    tokenizer = tokenizer_of(["a", "two", "three", "red", "circle", "circles"])
    tokenizer.save_pretrained(tmp_path)
    sizes = {"hidden_size": 12, "intermediate_size": 24, "num_hidden_layers": 2, "num_attention_heads": 2}
    config = CLIPTextConfig(vocab_size=len(tokenizer), max_position_embeddings=32, eos_token_id=0, **sizes)
    CLIPTextModel(config).save_pretrained(tmp_path)
    return tmp_path


def test_a_frozen_encoders_states_are_its_own_and_stay(tmp_path):
    from transformers import CLIPTextModel

    folder = clip_directory(tmp_path / "clip")
    text = Text(pretrained=str(folder), max_length=12)
    prepared, known = write_captions(tmp_path, scenes_of(), text)
    captions = Captions.open(known)
    encoder = CLIPTextModel.from_pretrained(folder).eval()
    ids, mask = torch.from_numpy(captions.ids[:5]), torch.from_numpy(captions.mask[:5])
    with torch.no_grad():
        states = encoder(input_ids=ids, attention_mask=mask).last_hidden_state
    torch.testing.assert_close(torch.from_numpy(np.array(captions.states[:5])), states)
    config = config_of(f"text.pretrained={folder}", "text.max_length=12")
    recipe = TextToImage(config, prepared, known)
    painter = recipe.nets()["model"]
    assert painter.encoder is None and captions.width == 12
    batch = recipe.collate([recipe.data().item(index) for index in range(2)])
    assert batch["states"].shape == (2, captions.ids.shape[1], 12) and "ids" not in batch
    assert torch.isfinite(recipe.errors(painter, batch)[0]).all()


def test_an_encoder_that_is_not_there_is_refused_before_anything_runs(tmp_path):
    with pytest.raises(UserError, match="text.pretrained.*is no encoder that transformers loads"):
        check(config_of(f"text.pretrained={tmp_path}"))


def test_looks_add_up_and_the_watched_picture_is_the_one_that_is_drawn(run, tmp_path):
    from recipes.text_to_image.explain import drawn, write_explained

    config, directory = run
    trained = directory / "train"
    pipeline = pipeline_of(config, *load_net(config, trained), trained, config.sampler)
    found = drawn(config, pipeline, "two red circles", seed=4)
    assert found.words == ["two", "red", "circles", "<eos>"]
    np.testing.assert_allclose(found.maps.sum(axis=0), 1, rtol=1e-4)  # padding is looked at by nobody
    [plain] = as_bytes(pipeline("two red circles", seeds=[4], output_type="np").images)
    assert np.abs(found.picture.astype(int) - plain).max() <= 1
    assert found.times == sorted(found.times, reverse=True) and len(found.steps) == 2
    with torch.no_grad():  # another net looks elsewhere
        for parameter in pipeline.net.parameters():
            torch.nn.init.normal_(parameter, std=0.3)
    assert not np.allclose(drawn(config, pipeline, "two red circles", seed=4).maps, found.maps, atol=0.01)
    said = write_explained(config, "two red circles", tmp_path / "explained.html")
    assert said.endswith("2 steps, 4 words")
    page = (tmp_path / "explained.html").read_text()
    assert page.count("<img") == 1 + 2 + 4
    with pytest.raises(UserError, match="is there already"):
        write_explained(config, "two red circles", tmp_path / "explained.html")


def test_a_word_that_is_planted_is_the_one_that_is_looked_at():
    from diffusers.models.attention_processor import Attention, AttnProcessor

    from recipes.text_to_image.explain import Looks, Watched

    looks = Looks(on=True)
    attention = Attention(query_dim=4, cross_attention_dim=4, heads=1, dim_head=4)
    with torch.no_grad():
        for layer in (attention.to_q, attention.to_k):
            layer.weight.copy_(torch.eye(4))
    places, words = torch.ones(1, 9, 4), torch.zeros(1, 3, 4)
    words[0, 1] = 5.0
    attention.set_processor(Watched(looks))
    with torch.no_grad():
        watched = attention(places, encoder_hidden_states=words)
        attention.set_processor(AttnProcessor())
        assert torch.equal(attention(places, encoder_hidden_states=words), watched)
    [seen] = looks.seen
    assert seen.shape == (9, 3) and (seen[:, 1] > 0.99).all()
