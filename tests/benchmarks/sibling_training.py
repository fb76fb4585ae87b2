"""Training speed of the autoregressive families and the encoder-decoder, against what people start from.

A part of `python -m tests.benchmarks.siblings`. Two cores, one process a contestant, each with the same net, weights to
begin with and batch.

pixelcnn, wavenet: a bare PyTorch loop, as pclucas14/pixel-cnn-pp's main.py and vincentherrmann/pytorch-wavenet's
    trainer have it: Adam, a DataLoader, the loss read each step; no clipping and no EMA, which ours has.
translation: transformers' Seq2SeqTrainer on the same pairs, tokenized alike, in random batches of as many target tokens
    as ours on average; ours in groups of one length, and packed.
"""

import io
import queue
import tempfile
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset

from pipeline.run.stage import Context, Stage, open_recipe
from tests.benchmarks.images import Contestant, Entrant, Race, at_work, one_rate, ours, peer
from tests.benchmarks.workload import interleaved, print_line, ratio, spread
from tests.helpers import ROOT

STEPS, REPEATS, WARM = 8, 8, 3
RATE, ENDLESS = 1e-3, 1_000_000
SIDES = ("source", "target")


def settings(yaml: str, *overrides: str) -> Any:
    """recipes/YAML at a constant rate, without end, on one process."""
    loop = [
        f"train.max_steps={ENDLESS}",
        "train.torch_compile=false",
        *one_rate("train"),
        f"train.learning_rate={RATE}",
    ]
    return open_recipe(ROOT / "recipes" / yaml, [*loop, *overrides])[0]


def prepare(module: Any, config: Any, inputs: dict[str, Path], out: Path) -> Path:
    """What a stage of `module` leaves, in `out`."""
    out.mkdir(parents=True, exist_ok=True)
    module.run(Context(config, Stage(out.name, module.__name__, {}), inputs, out, out, out, io.StringIO()))
    return out


def bare(
    net: nn.Module,
    items: Dataset,
    size: int,
    bf16: bool,
    loss_of: Callable[[nn.Module, dict[str, Tensor]], Tensor],
) -> Iterator[float]:
    """The loop of the examples; loss_of: the mean that it goes down on."""
    optimizer = torch.optim.Adam(net.parameters(), lr=RATE)
    while True:
        for batch in DataLoader(items, batch_size=size, shuffle=True, drop_last=True):
            optimizer.zero_grad()
            with torch.autocast("cpu", torch.bfloat16, enabled=bf16):
                loss = loss_of(net, batch)
            loss.backward()
            optimizer.step()
            yield loss.item()


class Items(Dataset):
    """A split of ours as torch's loader reads it."""

    def __init__(self, split: Any):
        self.split = split

    def __len__(self) -> int:
        return min(self.split.length, 20_000)

    def __getitem__(self, index: int) -> dict[str, np.ndarray]:
        return self.split.item(index)


def _both(name: str, recipe: Callable[[bool], Any], loss_of: Callable, size: int) -> dict[str, Entrant]:
    def theirs(bf16: bool) -> Contestant:
        made = recipe(bf16)
        return peer(made, bare, items=Items(made.data()), size=size, bf16=bf16, loss_of=loss_of)

    found = {}
    for precision, bf16 in (("fp32", False), ("bf16", True)):
        found[f"ours_{precision}"] = Entrant(lambda bf16=bf16: ours(lambda: recipe(bf16)))
        found[f"bare_{precision}"] = Entrant(lambda bf16=bf16: theirs(bf16))
    return found


def pixelcnn_race(data: Path) -> Race:
    from recipes.pixelcnn.pixelcnn import PixelCnn

    size = 32

    def recipe(bf16: bool) -> PixelCnn:
        batch = [f"train.train_batch_size={size}", f"train.per_device_train_batch_size={size}"]
        return PixelCnn(
            settings("pixelcnn/fashion_mnist.yaml", *batch, f"train.bf16={bf16}"), data / "pictures"
        )

    def loss_of(net: nn.Module, batch: dict[str, Tensor]) -> Tensor:
        return -net(batch["image"], batch["label"]).mean()

    return Race(_both("pixelcnn", recipe, loss_of, size), ("", "", lambda nets: 0.0))


def wavenet_race(data: Path) -> Race:
    from recipes.wavenet.wavenet import WaveNetRecipe

    size = 8

    def recipe(bf16: bool) -> WaveNetRecipe:
        batch = [f"train.train_batch_size={size}", f"train.per_device_train_batch_size={size}"]
        return WaveNetRecipe(settings("wavenet/drums.yaml", *batch, f"train.bf16={bf16}"), data / "clips")

    def loss_of(net: nn.Module, batch: dict[str, Tensor]) -> Tensor:
        return -net(batch["wave"], batch["absent"], batch["label"]).mean()

    return Race(_both("wavenet", recipe, loss_of, size), ("", "", lambda nets: 0.0))


def translation_config(*overrides: str) -> Any:
    """The recipe on whole sentences alone: its word list would make every text three tokens long."""
    return settings("seq2seq/translation.yaml", "data.words=false", "train.optim=adamw", *overrides)


def translation_race(data: Path) -> Race:
    ways = {"groups": (), "packed": ("train.packing=true", "train.max_length=128")}
    found = {}
    for precision, bf16 in (("fp32", False), ("bf16", True)):
        for way, how in ways.items():
            found[f"ours_{way}_{precision}"] = Entrant(
                lambda how=how, bf16=bf16: ours(lambda: _translator(data, bf16, *how))
            )
        found[f"trainer_{precision}"] = Entrant(lambda bf16=bf16: _trainer(data, bf16))
    return Race(found, ("", "", lambda nets: 0.0))


def _translator(data: Path, bf16: bool, *how: str) -> Any:
    from recipes.seq2seq import vocabulary
    from recipes.seq2seq.seq2seq import Seq2Seq
    from recipes.seq2seq.train import settings_of

    batch = ["train.train_batch_size=2", "train.per_device_train_batch_size=2"]
    config = translation_config(*batch, f"train.bf16={bf16}", *how)
    tokenizers = vocabulary.load(data / "tokens" / "tokenizer")
    sizes, pads = zip(*((len(one), one.pad_token_id) for one in tokenizers), strict=True)
    return Seq2Seq(config, config.train, settings_of(config, sizes), data / "tokens", pads)


def _trainer(data: Path, bf16: bool) -> Contestant:
    """Seq2SeqTrainer in a thread, which takes a step when asked."""
    from transformers import DataCollatorForSeq2Seq, PrinterCallback, Seq2SeqTrainer, Seq2SeqTrainingArguments
    from transformers import TrainerCallback as Callback

    from pipeline.train.seeds import derived_seed
    from recipes.seq2seq import vocabulary
    from recipes.seq2seq.groups import PairedTexts

    alike = _translator(data, bf16)
    torch.manual_seed(derived_seed(alike.training.seed, "weights"))
    model, pairs = alike.nets()["seq2seq"].model, PairedTexts.open(data / "tokens", "train")
    short = np.flatnonzero(pairs.lengths <= alike.training.max_length).tolist()
    rows = [
        {"input_ids": pairs.source.row(row).tolist(), "labels": pairs.target.row(row).tolist()}
        for row in short
    ]
    asked: queue.Queue[None] = queue.Queue()
    done: queue.Queue[float] = queue.Queue()

    class StepByStep(Callback):
        def on_step_begin(self, *given: Any, **more: Any) -> None:
            asked.get()

        def on_step_end(self, *given: Any, **more: Any) -> None:
            done.put(float("nan"))

    with tempfile.TemporaryDirectory() as directory:
        arguments = Seq2SeqTrainingArguments(
            output_dir=directory,
            max_steps=ENDLESS,
            per_device_train_batch_size=round(
                tokens_a_step(data) / np.mean([len(row["labels"]) for row in rows])
            ),
            learning_rate=RATE,
            lr_scheduler_type="constant",
            label_smoothing_factor=alike.training.label_smoothing,
            max_grad_norm=0,
            bf16=bf16,
            use_cpu=True,
            dataloader_pin_memory=False,
            save_strategy="no",
            report_to="none",
            disable_tqdm=True,
        )
    tokenizer = vocabulary.load(data / "tokens" / "tokenizer")[0]
    collator = DataCollatorForSeq2Seq(tokenizer, model=model)
    trainer = Seq2SeqTrainer(
        model=model, args=arguments, train_dataset=rows, data_collator=collator, callbacks=[StepByStep()]
    )
    trainer.remove_callback(PrinterCallback)
    threading.Thread(target=trainer.train, daemon=True).start()

    def steps() -> Iterator[float]:
        while True:
            asked.put(None)
            yield done.get()

    return Contestant(steps(), dict)


def tokens_a_step(data: Path, *how: str) -> float:
    """Target tokens of a step of ours, the mean over an epoch."""
    from recipes.seq2seq.groups import PairedTexts

    recipe = _translator(data, False, *how)
    lengths = PairedTexts.open(data / "tokens", "train")
    short = lengths.lengths <= recipe.training.max_length
    return (
        float(lengths.target.lengths[short].sum()) * recipe.training.train_batch_size / recipe.data().length
    )


RACES = {"pixelcnn": pixelcnn_race, "wavenet": wavenet_race, "translation": translation_race}


def units_a_step(name: str, data: Path, entrant: str) -> float:
    """Pictures, seconds of sound or target tokens that a step of an entrant learns from."""
    if name == "pixelcnn":
        return 32
    if name == "wavenet":
        return 8 * 2000 / 8000
    return (
        tokens_a_step(data, "train.packing=true", "train.max_length=128")
        if "packed" in entrant
        else tokens_a_step(data)
    )


def run(name: str, data: Path) -> None:
    """Race `name` and print its line."""
    units = {"pixelcnn": "pictures", "wavenet": "seconds of sound", "translation": "target tokens"}[name]
    with ExitStack() as stack:
        entrants = RACES[name](data).entrants
        runners = {each: stack.enter_context(at_work(RACES[name], each, data)) for each in entrants}
        first = {each: runner.train(WARM)[1] for each, runner in runners.items()}
        worth = {each: STEPS * units_a_step(name, data, each) for each in runners}

        def sample(each: str) -> float:
            return worth[each] / runners[each].train(STEPS)[0]

        figures = interleaved({each: lambda each=each: sample(each) for each in runners}, REPEATS)
    ratios = {}
    for precision in ("fp32", "bf16"):
        mine = [each for each in figures if each.startswith("ours") and each.endswith(precision)]
        [theirs] = [each for each in figures if not each.startswith("ours") and each.endswith(precision)]
        ratios |= {f"{one} / {theirs}": ratio(figures, one, theirs) for one in mine}
    print_line(
        f"siblings/{name}",
        ratios=ratios,
        **{
            f"{units.replace(' ', '_')}_per_second": {
                each: spread(values) for each, values in figures.items()
            }
        },
        first_losses={each: [round(loss, 4) for loss in losses] for each, losses in first.items()},
        protocol=f"{STEPS} steps a sample after {WARM}, {REPEATS} turns",
    )


def prepared(directory: Path, names: list[str]) -> Path:
    """What the races learn from, made in `directory`."""
    from recipes.common.audio import prepare as clips
    from recipes.common.images import prepare as pictures
    from recipes.seq2seq import prepare as pairs
    from recipes.seq2seq import tokenize

    if "pixelcnn" in names:
        prepare(pictures, settings("pixelcnn/fashion_mnist.yaml"), {}, directory / "pictures")
    if "wavenet" in names:
        prepare(clips, settings("wavenet/drums.yaml"), {}, directory / "clips")
    if "translation" in names:
        config = translation_config()
        made = prepare(pairs, config, {}, directory / "pairs")
        prepare(tokenize, config, {"prepare": made}, directory / "tokens")
    return directory
