"""The recipes that tests/test_recipes.py holds to the contract: each small, each from the settings of its own YAML."""

import io
import json
from collections.abc import Callable
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any, NamedTuple

import numpy as np

from pipeline.data.packing import PackedDocuments
from pipeline.data.shards import Shard
from pipeline.lm.config import Finetune, Lora, Pretrain, Teacher
from pipeline.lm.recipe import LanguageModel
from pipeline.lm.tuning.distillation import DistilledModel
from pipeline.lm.tuning.lora import add_adapters
from pipeline.lm.tuning.quantised import quantise
from pipeline.run.config import Training
from pipeline.run.stage import Context, Stage, open_recipe
from pipeline.train.recipe import Recipe
from recipes.captioning.captioner import Captioner
from recipes.common.images import prepare
from recipes.common.images.config import Classifier, Images
from recipes.common.images.dataset import PreparedImages
from recipes.common.images.shape import Shape
from recipes.common.scores.classifier import ImageClassifier
from recipes.design import attributes
from recipes.design.config import Attributes, Page
from recipes.design.design import Design
from recipes.diffusion.diffusion import Diffusion
from recipes.gan.gan import Gan
from recipes.pixelcnn.pixelcnn import PixelCnn
from recipes.seq2seq.config import Pretrain as SpanPretrain
from recipes.seq2seq.seq2seq import Seq2Seq
from recipes.text_to_image.captions import Captions
from recipes.text_to_image.dual import DualEncoder
from recipes.text_to_image.text_to_image import TextToImage
from recipes.text_to_image_lora import embed
from recipes.text_to_image_lora.adapters import Adapters
from recipes.transcription.transcriber import Transcriber
from recipes.vae.vae import Vae
from recipes.vision_chat.chatter import Chatter
from recipes.wavenet.wavenet import WaveNetRecipe
from tests.captioning.cases import SMALL as TO_CAPTION
from tests.captioning.cases import config_of as captioning
from tests.captioning.cases import write_inputs
from tests.helpers import ROOT
from tests.seq2seq.cases import CONFIGS, settings_of, write_ids
from tests.text_to_image.bases import KINDS, write_base
from tests.text_to_image.cases import SMALL as SCENES
from tests.text_to_image.cases import scenes_of, write_captions
from tests.tiny_language_model import VOCABULARY, random_documents, shard_of, tiny_model
from tests.tiny_preferences import (
    preference_model,
    random_units,
    reward_model,
    rewarded_model,
    shard_of_answers,
)
from tests.transcription.cases import SMALL as TO_TRANSCRIBE
from tests.transcription.cases import config_of as transcription
from tests.transcription.cases import of_folder
from tests.transcription.cases import write_clips as write_spoken
from tests.transcription.cases import write_inputs as write_heard
from tests.vision_chat.cases import SMALL as TO_CHAT
from tests.vision_chat.cases import config_of as vision_chat
from tests.vision_chat.cases import write_base as write_talker
from tests.vision_chat.cases import write_inputs as write_talks
from tests.vision_chat.cases import write_rows

STEP_SAMPLES = 8
STEPS = 4
LOOP = {"train_batch_size": STEP_SAMPLES, "ema_decay": 0.5, "bf16": False}
DIT = "{kind: dit, patch_size: 2, hidden_size: 32, num_hidden_layers: 2, num_attention_heads: 2}"
ALL_STAGES = (1, 2, 3)
TEACHER = Teacher(model="a tiny one", weight=0.3, temperature=2.0)
NO_WARMUP = "train.warmup_steps=0"


class Case(NamedTuple):
    """A recipe under test.

    build: (directory with the prepared data, samples a micro-batch, optimizer steps) -> a fresh recipe; memorise:
    (steps, the share of its first misfit that is left after them) on one step's samples over and over; zero_stages:
    what the recipe declares.
    """

    build: Callable[..., Recipe]
    memorise: tuple[int, float]
    zero_stages: tuple[int, ...] = (1, 2)

    def runs_under(self, launcher: str) -> bool:
        return not launcher.startswith("zero") or int(launcher[-1]) in self.zero_stages


def prepare_all(shared: Path) -> None:
    """The data of every case: packed documents, judged answers, digits, clips of sound, and pairs."""
    (shared / "documents").mkdir()
    shard_of(shared / "documents", random_documents(*[20 + 7 * (i % 9) for i in range(40)]))
    (shared / "prompts").mkdir()
    shard_of(shared / "prompts", random_documents(*[3 + number % 5 for number in range(40)]))
    for loss_type in ("sigmoid", "kto"):
        shard_of_answers(shared / loss_type, *random_units(30, loss_type == "kto"), VOCABULARY)
    data = Images(source="digits", image_size=8, channels=1, max_images=60)
    out = shared / "digits"
    out.mkdir(parents=True)
    stage = Stage("prepare", "recipes.common.images.prepare", {})
    prepare.run(Context(SimpleNamespace(data=data), stage, {}, out, out, out, io.StringIO()))
    (shared / "attributes").mkdir()
    asked = SimpleNamespace(attributes=Attributes(measured=("tone", "size")), sample=Page())
    inputs, made = {"prepare": out}, shared / "attributes"
    attributes.run(Context(asked, stage, inputs, made, made, made, io.StringIO()))
    write_captions(shared / "scenes", scenes_of())
    write_inputs(shared / "scenes", captioning())
    write_base(KINDS[0], shared / "base")
    config = _taught(shared, 1, STEPS)
    stage, inputs = (
        Stage("embed", "recipes.text_to_image_lora.embed", {}),
        {"prepare": shared / "scenes/prepare"},
    )
    (shared / "embed").mkdir()
    embed.run(Context(config, stage, inputs, *[shared / "embed"] * 3, io.StringIO()))
    write_heard(shared / "spoken", transcription(*of_folder(write_spoken(shared / "spoken/clips"))))
    rows, base = write_rows(shared / "talks/rows"), write_talker(shared / "talks/base")
    write_talks(shared / "talks", vision_chat(rows, base))
    (shared / "clips").mkdir()
    for split in ("train", "held_out"):
        write_clips(shared / "clips", split)
    (shared / "pairs").mkdir()
    write_ids(shared / "pairs", "train", 200)
    write_ids(shared / "pairs", "held_out", 20, seed=1)


def write_clips(out: Path, split: str) -> None:
    """A prepared split of twelve tones of two classes, of different lengths."""
    lengths = [90 + 31 * number for number in range(12)]
    waves = [
        3000 * np.sin(np.arange(length) * (0.1 + 0.05 * (number % 2)))
        for number, length in enumerate(lengths)
    ]
    np.save(out / f"{split}.samples.npy", np.concatenate(waves).astype(np.int16))
    np.save(out / f"{split}.offsets.npy", np.cumsum([0, *lengths]))
    np.save(out / f"{split}.labels.npy", np.arange(12) % 2)
    (out / f"{split}.keys.json").write_text(json.dumps([f"{split}-{number}" for number in range(12)]))
    (out / "classes.json").write_text('["low", "high"]')


def _wavenet(shared: Path, micro: int, max_steps: int = STEPS) -> Recipe:
    model = ("model.channels=8", "model.skip_channels=16", "model.layers=4", "train.segment=64", NO_WARMUP)
    mel = "model.mel={bands: 6, window: 32, hop: 16}"
    return WaveNetRecipe(
        _config("wavenet/drums.yaml", _loop(micro, max_steps), *model, mel), shared / "clips"
    )


def _design(shared: Path, micro: int, max_steps: int = STEPS) -> Recipe:
    data = ("data.source=digits", "data.image_size=8", "attributes.measured=[tone, size]")
    net = ("model.net.channels=[32, 64]", "attributes.dropout=0.2", NO_WARMUP)
    config = _config("design/fashion_mnist.yaml", _loop(micro, max_steps), *data, *net)
    return Design(config, shared / "digits", shared / "attributes")


def _text_to_image(shared: Path, micro: int, max_steps: int = STEPS) -> Recipe:
    adam = ("train.optim=adamw", "train.learning_rate=0.01")
    config = _config("text_to_image/scenes.yaml", _loop(micro, max_steps), *SCENES, *adam)
    return TextToImage(config, shared / "scenes/prepare", shared / "scenes/captions")


def _dual(shared: Path, micro: int, max_steps: int = STEPS) -> Recipe:
    config = _config("text_to_image/scenes.yaml", {}, *SCENES)
    loop = _loop(micro, max_steps) | {"learning_rate": 1e-2, "warmup_steps": 0}
    training = config.retrieval.model_copy(update=loop)
    prepared = shared / "scenes/prepare"
    train, held_out = (PreparedImages.open(prepared, split) for split in ("train", "held_out"))
    return DualEncoder(training, Shape.of(train), Captions.open(shared / "scenes/captions"), train, held_out)


def _captioner(shared: Path, micro: int, max_steps: int = STEPS) -> Recipe:
    adam = ("train.optim=adamw", "train.learning_rate=0.01")
    config = _config("captioning/scenes.yaml", _loop(micro, max_steps), *TO_CAPTION, *adam)
    return Captioner(config, shared / "scenes/prepare", shared / "scenes/processor")


def _transcriber(shared: Path, micro: int, max_steps: int = STEPS) -> Recipe:
    adam = ("train.optim=adamw", "train.learning_rate=0.01")
    given = (*TO_TRANSCRIBE, *of_folder(shared / "spoken/clips"), *adam)
    config = _config("transcription/tuxpaint.yaml", _loop(micro, max_steps), *given)
    return Transcriber(config, shared / "spoken/prepare", shared / "spoken/processor")


def _chatter(shared: Path, micro: int, max_steps: int = STEPS) -> Recipe:
    given = (f"data.path={shared / 'talks/rows/rows.jsonl'}", f"model.pretrained={shared / 'talks/base'}")
    adam = ("train.optim=adamw", "train.learning_rate=0.01", "train.lora=null")
    config = _config("vision_chat/vlm_gpu.yaml", _loop(micro, max_steps), *TO_CHAT, *given, *adam)
    return Chatter(config, shared / "talks/prepare", shared / "talks/tokenize")


def _taught(shared: Path, micro: int, max_steps: int) -> Any:
    places = (f"model.pretrained={shared / 'base'}", "train.r=4", "train.gradient_checkpointing=false")
    places += ("train.learning_rate=0.02",)
    return _config("text_to_image_lora/sdxl_gpu.yaml", _loop(micro, max_steps), *places, "data.image_size=24")


def _adapters(shared: Path, micro: int, max_steps: int = STEPS) -> Recipe:
    return Adapters(_taught(shared, micro, max_steps), shared / "scenes/prepare", shared / "embed")


def seq2seq(architecture: str, *overrides: str, sentinels: tuple[int, ...] = ()) -> Callable[..., Recipe]:
    def build(shared: Path, micro: int, max_steps: int = STEPS) -> Recipe:
        model = (
            f"model.architecture={architecture}",
            f"model.config={CONFIGS[architecture]}",
            "train.group_tokens=48",
            "train.optim=adamw",
            "train.learning_rate=0.01",
        )
        config = _config("seq2seq/translation.yaml", _loop(micro, max_steps), *model, NO_WARMUP, *overrides)
        pretrain = SpanPretrain(
            group_tokens=48, **config.train.model_dump(include=Training.model_fields.keys())
        )
        config = config.model_copy(update={"pretrain": pretrain})
        training = pretrain if sentinels else config.train
        settings = settings_of(architecture)
        return Seq2Seq(config, training, settings, shared / "pairs", (0, 0), sentinels=sentinels)

    return build


def _language_model(shared: Path, micro: int, max_steps: int = STEPS) -> Recipe:
    training = Training(learning_rate=1e-2, **_loop(micro, max_steps))
    shard = Shard.open(shared / "documents", "documents")
    held = PackedDocuments(shard, 16, None)
    return LanguageModel(training, lambda: tiny_model("llama", 16), PackedDocuments(shard, 16, 0), held, 16)


def _quantised(shared: Path, micro: int, max_steps: int = STEPS, kind: str = "nf4") -> Recipe:
    recipe, adapters = _language_model(shared, micro, max_steps), Lora(r=8, quantisation=kind)
    training = Finetune(
        learning_rate=3e-2, torch_compile=False, sequence_length=16, lora=adapters, **_loop(micro, max_steps)
    )
    build = lambda: add_adapters(quantise(tiny_model("llama", 16), adapters), adapters)  # noqa: E731
    return LanguageModel(training, build, recipe.train, recipe.held, 16)


def _distilled(shared: Path, micro: int, max_steps: int = STEPS) -> Recipe:
    recipe = _language_model(shared, micro, max_steps)
    training = Pretrain(
        learning_rate=1e-2,
        torch_compile=False,
        sequence_length=16,
        teacher=TEACHER,
        **_loop(micro, max_steps),
    )
    fields = {name: getattr(recipe, name) for name in ("build", "train", "held", "sequence_length")}
    return DistilledModel(training, **fields, teacher=lambda: tiny_model("qwen3", 16))


def _preferences(shared: Path, micro: int, max_steps: int = STEPS, **settings: Any) -> Recipe:
    shard = Shard.open(shared / settings["loss_type"], "preferences")
    return preference_model(shard, _loop(micro, max_steps) | settings)


def _ranked(shared: Path, micro: int, max_steps: int = STEPS) -> Recipe:
    return reward_model(Shard.open(shared / "sigmoid", "preferences"), _loop(micro, max_steps))


def _rewarded(shared: Path, micro: int, max_steps: int = STEPS, **settings: Any) -> Recipe:
    shard = Shard.open(shared / "prompts", "documents")
    return rewarded_model(shard, _loop(micro, max_steps) | settings)


def _classifier(shared: Path, micro: int, max_steps: int = STEPS) -> Recipe:
    training = Classifier(learning_rate=1e-2, channels=8, features=16, **_loop(micro, max_steps))
    train, held_out = (PreparedImages.open(shared / "digits", split) for split in ("train", "held_out"))
    return ImageClassifier(training, Shape.of(train), train, held_out, augment=True)


def _ring(shared: Path, micro: int, max_steps: int = STEPS) -> Recipe:
    return Gan(_config("gan/ring.yaml", _loop(micro, max_steps), "evaluate.samples=30"))


def _of_digits(make: Callable[..., Recipe], memorise: tuple[int, float], yaml: str, *overrides: str) -> Case:
    """A recipe that is made of its config and the directory of its pictures."""

    def build(shared: Path, micro: int, max_steps: int = STEPS) -> Recipe:
        return make(_config(yaml, _loop(micro, max_steps), *overrides), shared / "digits")

    return Case(build, memorise, ALL_STAGES if make is Diffusion else (1, 2))


def _loop(micro: int, max_steps: int) -> dict[str, Any]:
    return {**LOOP, "per_device_train_batch_size": micro, "max_steps": max_steps}


def _config(yaml: str, loop: dict[str, Any], *overrides: str) -> Any:
    settings = [f"train.{key}={value}" for key, value in loop.items()]
    return open_recipe(ROOT / "recipes" / yaml, [*settings, *overrides])[0]


CASES: dict[str, Case] = {
    "language model": Case(_language_model, (60, 0.05), ALL_STAGES),
    "distillation": Case(_distilled, (60, 0.6), ALL_STAGES),
    "QLoRA": Case(_quantised, (60, 0.5)),
    "QLoRA int8": Case(partial(_quantised, kind="int8"), (60, 0.5)),
    "DPO": Case(partial(_preferences, loss_type="sigmoid"), (60, 0.05), ALL_STAGES),
    "KTO": Case(partial(_preferences, loss_type="kto"), (60, 0.3), ALL_STAGES),
    "reward model": Case(_ranked, (60, 0.05), ALL_STAGES),
    "GRPO": Case(_rewarded, (60, 0.5)),
    "DAPO": Case(partial(_rewarded, loss_type="dapo", num_iterations=2), (60, 0.5)),
    "classifier": Case(_classifier, (60, 0.1), ALL_STAGES),
    "ring GAN": Case(_ring, (300, 0.1)),
    "VAE": _of_digits(Vae, (150, 0.6), "vae/digits.yaml", NO_WARMUP),
    "VQ-VAE": _of_digits(
        Vae, (400, 0.5), "vae/digits.yaml", "model.kind=vq", "model.groups=[[4, 8]]", NO_WARMUP
    ),
    "PixelCNN": _of_digits(
        PixelCnn, (150, 0.5), "pixelcnn/digits.yaml", "model.dropout=0", "model.blocks=2", NO_WARMUP
    ),
    "WaveNet": Case(_wavenet, (150, 0.9)),
    "T5": Case(seq2seq("t5", "train.label_smoothing=0"), (150, 0.5), ALL_STAGES),
    "Marian, packed": Case(seq2seq("marian", "train.packing=true", "train.max_length=24"), (150, 0.8), ALL_STAGES),
    "span corruption": Case(seq2seq("t5", sentinels=(27, 28, 29)), (150, 0.5), ALL_STAGES),
    "U-Net": _of_digits(Diffusion, (150, 0.01), "diffusion/digits.yaml", NO_WARMUP),
    "DiT": _of_digits(Diffusion, (150, 0.1), "diffusion/digits.yaml", NO_WARMUP, f"model.net={DIT}"),
    "design": Case(_design, (150, 0.01), ALL_STAGES),
    "text to image": Case(_text_to_image, (150, 0.2), ALL_STAGES),
    "captioning": Case(_captioner, (150, 0.2), ALL_STAGES),
    "vision chat": Case(_chatter, (150, 0.2), ALL_STAGES),
    "transcription": Case(_transcriber, (150, 0.2), ALL_STAGES),
    "image LoRA": Case(_adapters, (150, 0.98), ALL_STAGES),
    "retrieval": Case(_dual, (150, 0.2), ALL_STAGES),
    "GAN": _of_digits(Gan, (600, 0.3), "gan/digits.yaml", "train.augment=[]"),
}
