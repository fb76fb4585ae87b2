"""Stage `export`: weights and one Python file that generates without us, compared with the live model beforehand."""

import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pipeline.publish.licences import check_licence
from pipeline.run.files import write_json
from pipeline.run.stage import Context
from recipes.wavenet.config import WaveNetConfig

if TYPE_CHECKING:
    import numpy as np

    from recipes.common.card import About

FILE = "wavenet.py"
MODULES = [
    "recipes.common.logistic",
    "recipes.common.chunks",
    "recipes.common.threads",
    "recipes.wavenet.net",
    "recipes.wavenet.generate",
]
TITLE = (
    "A WaveNet: its net, and a command that generates a wave. It needs torch, numpy and safetensors alone."
)
TAGS = {"pipeline_tag": "text-to-audio", "tags": ["wavenet", "audio"]}


def check(config: WaveNetConfig) -> None:
    """Raises UserError for a licence that is none."""
    check_licence("export.licence", config.export.licence)


def run(context: Context) -> dict[str, Any]:
    """Write model.safetensors, nets.json, wavenet.py, the waves that were compared, a sheet of them and the card.

    Raises:
        RuntimeError: a process that has no module of ours generates other waves; nothing is published.
    """
    from recipes.common import card
    from recipes.common.audio.dataset import PreparedAudio
    from recipes.common.audio.pictures import save_sheet_of_sounds
    from recipes.common.bundle import bundled
    from recipes.common.training import NETS
    from recipes.wavenet.generate import WEIGHTS, read_wav
    from recipes.wavenet.nets import weight_files

    config, trained, out = context.config, context.inputs["train"], context.out
    weights = next(iter(weight_files(config).values()))
    (out / WEIGHTS).write_bytes((trained / weights).read_bytes())
    (out / NETS).write_bytes((trained / NETS).read_bytes())
    (out / FILE).write_text(bundled(MODULES, TITLE), encoding="utf-8")
    context.terminal.write(f"export: {config.export.waves} waves by the live model and by {FILE} alone\n")
    _write_compared(context)
    rate = config.data.sample_rate
    waves = [read_wav(path, rate) for path in sorted(out.glob("wave-*.wav"))]
    save_sheet_of_sounds(waves, rate, out / "waves.png", columns=2)
    classes = PreparedAudio.open(context.inputs["prepare"], "held_out").classes
    measured = {"waves_equal": len(waves)}
    (out / "README.md").write_text(card.render(context, _about(config, measured, classes)), encoding="utf-8")
    return measured


def _write_compared(context: Context) -> None:
    """Waves of the live model, each as the published file makes it too; for a vocoder, the clips that it says anew."""
    import numpy as np

    from recipes.common.audio.dataset import PreparedAudio
    from recipes.wavenet.generate import sampler_of, write_wav
    from recipes.wavenet.nets import best_net
    from recipes.wavenet.wavenet import requests

    config, out = context.config, context.out
    rate = config.data.sample_rate
    like, labels = requests(config, context.inputs["prepare"], config.export.waves)
    net = best_net(config, context.inputs["train"])
    classes = PreparedAudio.open(context.inputs["prepare"], "held_out").classes
    longest = round(config.sample.seconds * rate)
    asked = []
    for seed, label in enumerate(labels):
        told = np.array(like[seed][:longest]) if like else None
        length = len(told) if told is not None else longest
        (wave,) = sampler_of(net, length, [told] if like else None)([seed], [label])
        arguments = ["--seed", str(seed), *(["--label", classes[label]] if classes else [])]
        if told is None:
            arguments += ["--seconds", str(length / rate)]
        else:
            write_wav(out / f"like-{seed}.wav", told, rate)
            arguments += ["--like", f"like-{seed}.wav"]
        write_wav(out / f"wave-{seed}.wav", wave, rate)
        asked.append({"file": f"wave-{seed}.wav", "arguments": arguments})
        compare(generated_alone(out, arguments, rate), wave, f"wave-{seed}.wav")
    write_json(out / "waves.json", asked)


def generated_alone(directory: Path, arguments: list[str], rate: int) -> "np.ndarray":
    """What the file in `directory` writes, run as a stranger would: from there, with no module of ours in reach.

    Raises:
        RuntimeError: it wrote nothing.
    """
    from recipes.common.alone import run_alone
    from recipes.wavenet.generate import read_wav

    with tempfile.TemporaryDirectory() as folder:
        made = Path(folder) / "made.wav"
        run_alone(directory, FILE, str(made), *arguments)
        return read_wav(made, rate)


def compare(made: "np.ndarray", live: "np.ndarray", name: str) -> None:
    """Raises RuntimeError where a sample differs."""
    import numpy as np

    if not np.array_equal(made, live):
        raise RuntimeError(f"{FILE} generates another {name} than the live model")


def _about(config: WaveNetConfig, measured: dict[str, int], classes: tuple[str, ...]) -> "About":
    from pipeline.publish.model_card import fenced
    from recipes.common.audio.prepare import licence_of
    from recipes.common.card import About, checks

    options = (" --label " + classes[0] if classes else "") + (
        " --like like-0.wav" if config.model.mel else ""
    )
    told = "It says a given clip anew, from its mel frames." if config.model.mel else "It needs no input."
    text = f"`{FILE}` was run in a process that could import no module of ours; its waves equal the live model's."
    return About(
        kind=f"sound at {config.data.sample_rate:,} samples a second",
        shown="![waves](waves.png)",
        use=f"{told} torch, numpy and safetensors are all it needs.\n\n"
        + fenced(f"python {FILE} out.wav --seed 0{options}", "bash"),
        tags=TAGS,
        classes=classes,
        licence=licence_of(config.data),
        checked=checks(text, measured),
    )


if __name__ == "__main__":
    from pipeline.run.stage import main

    main("export")
