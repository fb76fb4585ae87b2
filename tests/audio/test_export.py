"""Catches an export that needs us, or generates otherwise; and a report that cannot be listened to offline."""

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from pipeline.publish.html import outcome
from pipeline.run.files import write_json
from recipes.common.bundle import bundled
from recipes.wavenet import export
from recipes.wavenet.generate import WEIGHTS, read_wav, sampler_of, write_wav
from recipes.wavenet.nets import NETS
from tests.audio.test_wavenet import MEL, SMALL, net_of, waves


@pytest.fixture
def exported(tmp_path):
    """`exported(kind)`: a directory as the export stage leaves it, and its net."""

    def make(kind: str):
        net = net_of(kind)
        fields = {"sample_rate": 1000, "mel": MEL if net.mel else None, "likelihood": "mu_law"}
        write_json(tmp_path / NETS, {"net": SMALL | fields, "classes": ["low", "high"]})
        save_file(net.state_dict(), tmp_path / WEIGHTS)
        (tmp_path / export.FILE).write_text(bundled(export.MODULES, export.TITLE))
        return tmp_path, net

    return make


@pytest.mark.parametrize("kind", ["mu-law", "mel"])
def test_the_published_file_alone_generates_what_the_live_net_does(exported, kind):
    directory, net = exported(kind)
    like = waves(1, 60)[0].numpy() if net.mel else None
    arguments = ["--seed", "3", "--label", "high"]
    if like is None:
        arguments += ["--seconds", "0.06"]
    else:
        write_wav(directory / "like.wav", like, 1000)
        arguments += ["--like", "like.wav"]
    (live,) = sampler_of(net, 60, None if like is None else [like])([3], [1])
    made = export.generated_alone(directory, arguments, 1000)
    export.compare(made, live, "wave")
    with pytest.raises(RuntimeError, match="generates another wave"):
        export.compare(made, live + 1, "wave")


def test_a_file_that_needs_a_module_of_ours_is_found_out(exported):
    directory, _ = exported("mu-law")
    with open(directory / export.FILE, "a") as file:
        file.write("\nimport recipes.wavenet.config\n")
    with pytest.raises(RuntimeError, match="does nothing by itself"):
        export.generated_alone(directory, [], 1000)
    with pytest.raises(AssertionError, match="recipes.wavenet.net, which is not in the bundle"):
        bundled(["recipes.common.chunks", "recipes.common.threads", "recipes.wavenet.generate"], "")


def test_a_wav_comes_back_and_another_rate_is_refused(tmp_path):
    wave = waves(1, 50)[0].numpy()
    write_wav(tmp_path / "a.wav", wave, 8000)
    assert np.array_equal(read_wav(tmp_path / "a.wav", 8000), wave)
    with pytest.raises(ValueError, match=r"\(1, 2, 8000\), expected \(1, 2, 4000\)"):
        read_wav(tmp_path / "a.wav", 4000)


def test_players_hold_their_sound_and_stand_in_a_column_a_kind(tmp_path):
    write_wav(tmp_path / "a.wav", torch.zeros(4, dtype=torch.int16).numpy(), 8000)
    sounds = [
        {"kind": kind, "caption": f"{kind} <{number}>", "path": tmp_path / "a.wav"}
        for kind in ("real", "WaveNet")
        for number in range(2)
    ]
    page = outcome.sounds(sounds).markup()
    assert page.count("<audio") == 4 and page.count("data:audio/wav;base64,UklGR") == 4
    assert page.index("real &lt;0&gt;") < page.index("WaveNet &lt;0&gt;") < page.index("real &lt;1&gt;")
    assert outcome.sounds([]) is None
