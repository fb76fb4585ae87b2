"""Settings that every recipe over a closed vocabulary has."""

from __future__ import annotations

from typing import ClassVar

from pydantic import Field, model_validator

from pipeline.lm import config as lm
from pipeline.lm.machine import compiling_pays
from pipeline.run.config import Run, Section, how, what


class Train(lm.Pretrain):
    """Next-symbol training on the packed documents."""

    section: ClassVar[str] = "train"


class Decoding(Section):
    """How documents are drawn."""

    temperature: float = what(1.0, "softmax temperature", gt=0)
    top_p: float = what(1.0, "nucleus probability", gt=0, le=1)
    max_new_tokens: int = what(512, "tokens of a document at most", ge=1)
    batch_size: int = how(32, "documents drawn at a time", ge=1)


class Export(Section):
    """What is published."""

    licence: str = what(..., "SPDX identifier of the weights")
    bf16_logit_bound: float = what(
        0.05, "largest accepted RMS difference of the bf16 copy's centred logits, over their RMS", gt=0
    )


class SymbolConfig(Section):
    """What these recipes share; each adds `recipe`, `data`, `evaluate` and `sample`."""

    run: Run = Field(..., description="how and where it runs")
    model: lm.Model = Field(..., description="the decoder")
    train: Train = Field(..., description="the training stage")
    decoding: Decoding = Field(default=Decoding(), description="how documents are drawn")
    export: Export = Field(..., description="the published model")

    @model_validator(mode="after")
    def _from_scratch(self) -> SymbolConfig:
        if self.model.pretrained:
            raise ValueError("model.pretrained: the vocabulary is this recipe's own: give model.architecture")
        if self.train.teacher:
            raise ValueError("train.teacher: no other model has this vocabulary")
        return self

    @property
    def trainings(self) -> dict[str, Train]:
        """The one stage that trains."""
        return {"train": self.train}


def fitted(config: SymbolConfig) -> SymbolConfig:
    """`config` with `torch_compile: auto` decided."""
    if config.train.torch_compile != "auto":
        return config
    decided = config.train.model_copy(update={"torch_compile": compiling_pays(config, config.train)})
    return config.model_copy(update={"train": decided})
