"""Stage `evaluate`: bits a sample of held-out clips beside FLAC's; of a vocoder, how near its waves come."""

import math
from typing import TYPE_CHECKING, Any

from pipeline.run.files import write_json
from pipeline.run.results import Score
from pipeline.run.stage import Context
from recipes.wavenet.config import WaveNetConfig

if TYPE_CHECKING:
    import numpy as np

    from recipes.common.audio.dataset import PreparedAudio

BITS, DISTANCE = "bits per sample", "STFT distance"


def check(config: WaveNetConfig) -> None:
    """Nothing here can be refused beyond the schema."""


def run(context: Context) -> dict[str, Any]:
    """Write evaluation.json; the metrics are its scores by name."""
    from recipes.common.audio.dataset import PreparedAudio

    config = context.config
    held_out = PreparedAudio.open(context.inputs["prepare"], "held_out")
    train = PreparedAudio.open(context.inputs["prepare"], "train")
    scores = _likelihood(config, held_out, context) + _codecs(config, held_out, train, context)
    missing = {}
    if config.model.mel:
        scores += _vocoder(config, held_out, context)
    else:
        missing[DISTANCE] = "the net is not told what to say: model.mel is not set"
    write_json(
        context.out / "evaluation.json", {"scores": [score.as_json() for score in scores], "missing": missing}
    )
    return {score.key: score.value for score in scores}


def _clips(config: WaveNetConfig, held_out: "PreparedAudio") -> int:
    return min(config.evaluate.clips or len(held_out), len(held_out))


def _likelihood(config: WaveNetConfig, held_out: "PreparedAudio", context: Context) -> list[Score]:
    """Of the last step's weights and of their shadow."""
    from recipes.wavenet.nets import load_net, weight_files
    from recipes.wavenet.score import nats_of

    count, given = _clips(config, held_out), []
    given += ["its class"] if held_out.classes else []
    given += ["its mel frames"] if config.model.mel else []
    told = f", given {' and '.join(given)}, which are not counted" if given else ""
    codes = "; a mu-law code's samples are equally probable" if config.model.likelihood == "mu_law" else ""
    protocol = f"-log2 p(clip{told}) over its samples of 16 bits, exact, fp32{codes}"
    scores = []
    for name, file in weight_files(config).items():
        context.terminal.write(f"evaluate: likelihood of {count:,} clips, {name}\n")
        net = load_net(context.inputs["train"], file)
        nats = nats_of(net, held_out, count, config.train.segment)
        scores.append(_bits(name, nats / math.log(2), held_out, protocol, config))
    return scores


def _codecs(
    config: WaveNetConfig, held_out: "PreparedAudio", train: "PreparedAudio", context: Context
) -> list[Score]:
    """What FLAC and a linear predictor make of the same clips."""
    import numpy as np

    from recipes.common.audio.linear import ORDER, LinearPredictor, flac_bits

    count, rate = _clips(config, held_out), config.data.sample_rate
    context.terminal.write("evaluate: FLAC and a linear predictor\n")
    flac = np.array([flac_bits(held_out.clip(number), rate) for number in range(count)], float)
    predictor = LinearPredictor(train.clip(number) for number in range(min(len(train), 200)))
    linear = np.array([predictor.bits(held_out.clip(number)) for number in range(count)])
    file = "a FLAC file a clip at its highest level, headers included"
    fitted = (
        f"a weighted sum of {ORDER} samples fitted to the first 200 training clips, its error a logistic as wide as "
        "the errors before"
    )
    return [
        _bits("linear predictor", linear, held_out, fitted, config),
        _bits("FLAC", flac, held_out, file, config),
    ]


def _bits(
    model: str, bits: "np.ndarray", held_out: "PreparedAudio", protocol: str, config: WaveNetConfig
) -> Score:
    """Bits of the first clips over their samples, with the bootstrap interval over clips."""
    import numpy as np

    from pipeline.scores.intervals import bootstrap_interval

    samples = np.diff(held_out.offsets)[: len(bits)]
    interval = bootstrap_interval(bits, samples, config.evaluate.resamples, config.train.seed)
    said = f"{protocol}; 95% bootstrap interval over clips"
    value = float(bits.sum() / samples.sum())
    return Score(BITS, model, value, interval, "bits/sample", len(bits), said, "lower")


def _vocoder(config: WaveNetConfig, held_out: "PreparedAudio", context: Context) -> list[Score]:
    """Distances of clips generated again, of Griffin and Lim's from the same frames, and of the codes alone."""
    import numpy as np

    from pipeline.scores.intervals import bootstrap_interval
    from recipes.wavenet.nets import best_net
    from recipes.wavenet.score import distances, vocoded

    settings, rate = config.evaluate, config.data.sample_rate
    count = min(settings.vocoded, len(held_out))
    length = round(settings.seconds * rate)
    clips = [np.array(held_out.clip(number)[:length]) for number in range(count)]
    labels = [max(0, int(label)) for label in held_out.labels[:count]]
    context.terminal.write(f"evaluate: {count} clips from their mel frames\n")
    ways = vocoded(best_net(config, context.inputs["train"]), clips, labels)
    protocol = (
        f"spectral convergence plus distance of log-magnitudes, mean over windows of 16, 32 and 64 ms, of up to "
        f"{settings.seconds:g} s a clip; 95% bootstrap interval over clips"
    )
    scores = []
    for name, made in ways.items():
        found = distances(made, clips, rate)
        interval = bootstrap_interval(found, np.ones(count), settings.resamples, config.train.seed)
        scores.append(Score(DISTANCE, name, float(found.mean()), interval, "", count, protocol, "lower"))
    return scores


if __name__ == "__main__":
    from pipeline.run.stage import main

    main("evaluate")
