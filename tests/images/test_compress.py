"""Catches a coder that loses a bit, sizes that are estimates, a damaged file that is read without a word."""

import json
import math
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from pipeline.run.errors import UserError
from pipeline.run.files import write_json
from recipes.common import coded
from recipes.common.coded import DamagedMessage
from recipes.common.images.other import images_of, read
from recipes.common.rans import PRECISION, Message, pop_table, push_table, table
from recipes.common.scores.anomaly import auroc, files_of
from recipes.vae import anomaly, compression, rate_distortion
from recipes.vae.codec import _posterior_edge, decode, encode
from tests.images.vae_cases import shaken_net, vae_config

SMALL = ("model.hidden_size=8", "model.groups=[[1,4],[4,3]]")


def pictures(kind: str, count: int = 6, side: int = 8, channels: int = 1) -> np.ndarray:
    shape = (count, side, side, channels)
    if kind == "noise":
        return np.random.default_rng(0).integers(0, 256, shape, np.uint8)
    return np.full(shape, {"black": 0, "white": 255}[kind], np.uint8)


def random_message(lanes: int, words: int = 400) -> Message:
    return Message(lanes, np.random.default_rng(9).integers(0, 1 << 32, words, dtype=np.uint32))


@pytest.mark.parametrize("lanes", [1, 7, 64])
def test_what_is_pushed_is_popped_and_the_message_is_as_before(lanes):
    random = np.random.default_rng(0)
    cumulative = table(random.dirichlet(np.full(50, 0.1), size=333))
    symbols = random.integers(0, 50, 333)  # most of them improbable
    message = random_message(lanes)
    heads, words = message.heads.copy(), message.words[: message.size].copy()
    push_table(message, symbols, cumulative)
    assert np.array_equal(pop_table(message, 333, cumulative), symbols)
    assert np.array_equal(message.heads, heads) and np.array_equal(message.words[: message.size], words)


def test_popping_and_pushing_back_is_the_same_way_round():
    cumulative = table(np.random.default_rng(0).dirichlet(np.ones(9), size=500))
    message = random_message(16)
    heads, words = message.heads.copy(), message.words[: message.size].copy()
    symbols = pop_table(message, 500, cumulative)
    assert len(set(symbols.tolist())) == 9
    push_table(message, symbols, cumulative)
    assert np.array_equal(message.heads, heads) and np.array_equal(message.words[: message.size], words)


def test_turned_slots_are_undone_and_pick_other_symbols():
    cumulative = table(np.ones(64))
    turns = np.random.default_rng(1).integers(0, 1 << PRECISION, 16)

    def interval_of(slots):
        symbols = np.searchsorted(cumulative, slots, side="right") - 1
        return symbols, cumulative[symbols], cumulative[symbols + 1] - cumulative[symbols]

    message, plain = random_message(16), random_message(16)
    for one in (message, plain):
        push_table(one, np.arange(16), cumulative)
    heads = message.heads.copy()
    assert np.array_equal(plain.pop(16, interval_of), np.arange(16))
    symbols = message.pop(16, interval_of, turns)
    assert not np.array_equal(symbols, np.arange(16))
    message.push(cumulative[symbols], cumulative[symbols + 1] - cumulative[symbols], turns)
    assert np.array_equal(message.heads, heads)


def test_a_message_is_as_long_as_its_information():
    random = np.random.default_rng(0)
    probability = random.dirichlet(np.ones(256))
    symbols = random.choice(256, 20_000, p=probability)
    message = Message(8)
    push_table(message, symbols, table(probability))
    bits = -np.log2(probability[symbols]).sum()
    assert bits - 8 * 32 <= 8 * len(message.to_bytes()) <= bits * 1.0002 + 8 * 64


def test_every_symbol_has_a_slot_however_improbable():
    cumulative = table(np.array([[0.0, 1.0, 0.0, 1e-30], [1.0, 0.0, 0.0, 0.0]]))
    assert (np.diff(cumulative, axis=1) >= 1).all()
    assert (cumulative[:, 0] == 0).all() and (cumulative[:, -1] == 1 << PRECISION).all()


@pytest.mark.parametrize("kind", ["noise", "black", "white"])
@pytest.mark.parametrize("channels,classes", [(1, 10), (3, 0)])
def test_pictures_come_back_bit_for_bit(kind, channels, classes):
    net = shaken_net(vae_config(*SMALL), classes=classes, channels=channels)
    images = pictures(kind, channels=channels)
    labels = np.arange(6) if classes else np.full(6, -1)
    found, found_labels = decode(net, encode(net, images, labels))
    assert np.array_equal(found, images) and found.dtype == np.uint8
    assert np.array_equal(found_labels, labels)


@pytest.mark.parametrize("likelihood", ["gaussian", "logistic_mixture"])
def test_a_posterior_that_is_the_prior_and_one_that_is_a_needle(likelihood):
    net = shaken_net(vae_config(*SMALL, f"model.likelihood={likelihood}"))
    images, labels = pictures("noise"), np.arange(6)
    for bias in (0.0, -6.0):
        with torch.no_grad():
            for rung in net.rungs:
                rung.posterior.weight.zero_()
                rung.posterior.bias.zero_()
                rung.posterior.bias[len(rung.posterior.bias) // 2 :] = bias
        assert np.array_equal(decode(net, encode(net, images, labels))[0], images)


def test_the_file_is_as_long_as_the_bound_says():
    """Bits back costs the bound: what picks the latents is not paid for, and no picture's latents pick the next's."""
    from recipes.vae.bounds import elbo, value_of

    net = shaken_net(vae_config(*SMALL))
    images, labels = pictures("noise", 300), np.arange(300) % 10
    nats = -value_of(elbo(net, images, labels, 0)).double().sum().item() + 300 * math.log(10)
    spent = len(encode(net, images, labels)) * 8
    first = 128 * 64 + net.latents * 12 + 8 * 300  # states, the first picture's latents, the header
    assert nats / math.log(2) * 0.99 < spent < nats / math.log(2) * 1.01 + first


def test_edges_of_buckets_rise_by_at_least_a_slot_and_end_at_the_last():
    buckets = np.arange(4097)
    for mean, log_std in ((0.0, 0.0), (7.9, -6.0), (-9.0, -6.0), (1e-3, 1.0)):
        edges = _posterior_edge(buckets, np.full(4097, mean), np.full(4097, log_std))
        assert edges[0] == 0 and edges[-1] == 1 << PRECISION and (np.diff(edges) >= 1).all()


@pytest.mark.parametrize("place", ["last word", "first state", "checksum"])
def test_a_changed_byte_is_noticed(place):
    net = shaken_net(vae_config(*SMALL))
    content = bytearray(encode(net, pictures("noise", 20), np.arange(20) % 10))
    states = content.index(b"\n") + 1
    content[
        {"last word": -2, "first state": states + 2, "checksum": content.index(b"sha256") + 12}[place]
    ] ^= 1
    with pytest.raises(DamagedMessage, match="checksum differs: made by torch"):
        decode(net, bytes(content))


@pytest.mark.parametrize("content", [b"", b"PNG\n", b'{"pictures": 1}\n' + bytes(9)])
def test_what_is_no_such_file_is_refused(content):
    with pytest.raises(DamagedMessage, match="no file of coded pictures"):
        decode(shaken_net(vae_config(*SMALL)), content)


def test_a_fresh_process_reads_the_file(tmp_path, monkeypatch):
    from safetensors.torch import save_file

    from recipes.common.images.shape import Shape
    from recipes.vae.nets import NETS, describe

    config = vae_config(*SMALL)
    net = shaken_net(config)
    write_json(tmp_path / NETS, describe(config.model, Shape(8, 1, 10)))
    weights = {key: value for key, value in net.state_dict().items()}
    save_file(weights, tmp_path / "vae.safetensors")
    images = pictures("noise")
    (tmp_path / "pictures.bits").write_bytes(encode(net, images, np.arange(6)))
    monkeypatch.chdir(tmp_path)  # a run's directory is mostly given as seen from here
    found = coded.decoded_afresh("vae", Path("."), "vae.safetensors", Path("pictures.bits"))
    coded.compare(found, images)
    with pytest.raises(RuntimeError, match="other pictures"):
        coded.compare(found, images ^ 1)


def test_rounded_latents_come_back_and_coarser_ones_are_shorter():
    net = shaken_net(vae_config(*SMALL))
    images, labels = pictures("noise", 40), np.arange(40) % 10
    known = rate_distortion.fitted(net, images, labels)
    fine, coarse = rate_distortion.curve(net, known, images, labels, (0.1, 4.0))
    assert fine.bytes_a_picture > coarse.bytes_a_picture > 0
    content = rate_distortion.coded(np.full((40, net.latents), 4.0), labels, known, 4.0, 10)
    integers, found = rate_distortion.decoded(content, known, 4.0, 40, 10)
    assert (integers == 1).all() and np.array_equal(found, labels)


def test_jpeg_and_webp_are_read_back_from_the_bytes_that_count():
    images = np.repeat(pictures("noise", 5, side=16), 1, axis=-1) // 4
    points = rate_distortion.rivals(images)
    by_codec = {codec: [p for p in points if p.codec == codec] for codec in {p.codec for p in points}}
    assert len(by_codec) == 4
    for line in by_codec.values():
        assert line[0].bytes_a_picture < line[-1].bytes_a_picture and line[0].decibels < line[-1].decibels
        assert line[-1].decibels > 25
    assert {"codec", "setting", "bytes_a_picture", "decibels"} == json.loads(
        rate_distortion.points_json(points)
    )[0].keys()


def test_curves_are_compared_at_the_vaes_sizes_and_not_beyond_their_ends():
    line = [("VAE", 40, 20.0), ("VAE", 8, 10.0), ("JPEG", 20, 12.0), ("JPEG", 80, 22.0)]
    points = [rate_distortion.Point(codec, 1.0, size, decibels) for codec, size, decibels in line]
    assert rate_distortion.at_rate(points, "JPEG", 40) == pytest.approx(17)
    found = {(score.name, score.model): score.value for score in compression.lossy_scores(points, 5)}
    assert found == {
        ("reconstruction at 40 bytes a picture", "VAE"): 20.0,
        ("reconstruction at 40 bytes a picture", "JPEG"): pytest.approx(17),
        ("reconstruction at 8 bytes a picture", "VAE"): 10.0,
    }


def test_lossless_sizes_are_those_of_files():
    sizes = {
        score.model: score.value
        for score in coded.lossless_scores(pictures("black"), "VAE, bits back", 600, "bits back", 10)
    }
    assert sizes["VAE, bits back"] == 100 and sizes["raw"] == 64
    assert sizes["xz"] < sizes["WebP lossless"] < sizes["PNG"] < 100


@pytest.mark.parametrize(
    "given,message", [("model.likelihood=bernoulli", "binary"), ("model.kind=vq", "prior")]
)
def test_what_cannot_be_coded_is_refused(given, message):
    with pytest.raises(UserError, match=message):
        compression.check(vae_config("model.groups=[[4,8]]", given, "compression.pictures=5"))


def test_auroc_is_scikit_learns_and_ties_count_half():
    from sklearn.metrics import roc_auc_score

    random = np.random.default_rng(0)
    values, unseen = random.integers(0, 6, 200).astype(float), random.random(200) < 0.3
    assert auroc(values, unseen) == pytest.approx(roc_auc_score(unseen, values))
    assert auroc(np.ones(10), np.arange(10) < 4) == 0.5


def test_anomaly_needs_what_was_never_seen():
    with pytest.raises(UserError, match="anomaly.other.source=digits, or data.left_out_class"):
        anomaly.check(vae_config("anomaly.pictures=20"))
    with pytest.raises(UserError, match="anomaly.other.path: nothing at nowhere"):
        anomaly.check(vae_config("anomaly.other.source=folder", "anomaly.other.path=nowhere"))
    anomaly.check(vae_config("anomaly.other.source=digits"))


def test_another_data_set_is_brought_to_the_size_of_our_own(tmp_path):
    """And a stage that read a folder is made again when the folder has changed."""
    for number in range(40):
        Image.new("RGB", (20 + number, 30), (number, 0, 0)).save(tmp_path / f"{number}.png")
    (tmp_path / "broken.png").write_bytes(b"no picture")
    config = vae_config("anomaly.other.source=folder", f"anomaly.other.path={tmp_path}", "anomaly.other.held_out=0.9")
    found = read(images_of(config.data, config.anomaly.other), 20)
    assert found.shape == (20, 8, 8, 1) and found.dtype == np.uint8 and len({row.tobytes() for row in found}) > 5
    assert set(files_of(config)) >= {"0.png", "39.png"}
    with pytest.raises(UserError, match="no picture of folder can be used"):
        broken = vae_config("anomaly.other.source=folder", f"anomaly.other.path={tmp_path}").anomaly.other
        for number in range(40):
            (tmp_path / f"{number}.png").unlink()
        read(images_of(config.data, broken.model_copy(update={"held_out": 0.999})), 20)
