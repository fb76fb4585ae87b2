"""Functions completed from signature and docstring, and run: which pass the examples of the library's own docstring."""

from __future__ import annotations

import ast
import doctest
from collections import defaultdict
from dataclasses import dataclass
from math import comb
from typing import TYPE_CHECKING, Any

import numpy as np

from pipeline.data.functions import accepted_text, parsed
from pipeline.lm.decoding import sample_batch
from pipeline.lm.prompts import document_prompt
from pipeline.run.errors import UserError
from pipeline.run.results import Score
from pipeline.run.terminal import bar
from pipeline.scores.intervals import bootstrap_interval
from pipeline.scores.parsing import ended_by
from pipeline.scores.sandbox import PASSED, Candidate, judged
from pipeline.scores.score import BASE, PRETRAINED, Settings

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerFast

NAME = "functions that pass"
TOKENS = 128  # written after a docstring at most
TEMPERATURE, TOP_P = 0.6, 0.95
EXAMPLES = 2  # that a docstring has at least
LONGEST = 15  # lines of a body at most
TRIED = 4  # functions looked at for each that is asked for


@dataclass(frozen=True)
class Program:
    """A function at the top of a held-out module.

    beginning: its lines up to the docstring's end; body: those after; docstring: with the examples.
    """

    module: str
    name: str
    beginning: str
    body: str
    docstring: str

    def candidate(self, body: str) -> Candidate | None:
        """With another body, cut where the function ends; None where that is no Python."""
        text = accepted_text(self.beginning, body)
        return None if text is None else Candidate(text, self.name, self.docstring)


def module_of(key: str) -> str:
    """How a document of a package or of the standard library is imported."""
    path = key.removesuffix(".py").removesuffix("/__init__")
    return path.replace("/", ".")


def programs_of(key: str, text: str) -> list[Program]:
    """The functions of a module that have examples and a short body; decorated ones are left out."""
    tree = parsed(text)
    lines = text.splitlines(keepends=True)
    found = []
    for node in tree.body if tree else ():
        if not isinstance(node, ast.FunctionDef) or node.decorator_list or len(node.body) < 2:
            continue
        docstring, end = ast.get_docstring(node), node.body[0].end_lineno
        if docstring is None or end is None or node.end_lineno is None or node.end_lineno - end > LONGEST:
            continue
        try:
            examples = doctest.DocTestParser().get_examples(docstring)
        except ValueError:
            continue
        if sum(bool(example.want) for example in examples) >= EXAMPLES:
            beginning = "".join(lines[node.lineno - 1 : end])
            body = "".join(lines[end : node.end_lineno])
            found.append(Program(module_of(key), node.name, beginning, body, docstring))
    return found


def run(programs: list[tuple[Program, str]]) -> list[str]:
    """Of each function with another body what the sandbox says; a library is imported once for all of its own."""
    found = ["no Python"] * len(programs)
    places: dict[str, list[tuple[int, Candidate]]] = defaultdict(list)
    for place, (program, body) in enumerate(programs):
        if (candidate := program.candidate(body)) is not None:
            places[program.module].append((place, candidate))
    for module, own in places.items():
        try:
            verdicts = judged(module, [candidate for _, candidate in own])
        except UserError as error:
            verdicts = [str(error)] * len(own)
        for (place, _), verdict in zip(own, verdicts, strict=True):
            found[place] = verdict
    return found


def pass_at(k: int, passed: np.ndarray, drawn: int) -> np.ndarray:
    """Of each function the probability that one of k samples passes, by `drawn` of which `passed` do.

    Unbiased: 1 - C(n - c, k) / C(n, k) (Chen et al. 2021, arXiv:2107.03374).
    """
    return np.array([1 - comb(drawn - int(own), k) / comb(drawn, k) for own in passed])


class Programs:
    """Share of functions that a sampled body makes pass, one sample and ten.

    Functions are drawn by the seed from those that can be judged: their own body passes its examples in the sandbox,
    and a body that returns nothing does not.

    Args:
        rows: JSON lines {key, text} of held-out modules; count: functions.
    """

    name, models = "programs", (PRETRAINED, BASE)

    def __init__(self, rows: list[dict[str, Any]], count: int, samples: int, settings: Settings) -> None:
        self.settings, self.samples = settings, samples
        self.tokens = min(TOKENS, settings.window // 2)
        found = [program for row in rows for program in programs_of(row["key"], row["text"])]
        order = np.random.default_rng(settings.seed_of("programs")).permutation(len(found))
        tried = [found[place] for place in order[: TRIED * count]]
        real = run([(program, program.body) for program in tried])
        empty = run([(program, "    return None\n") for program in tried])
        self.programs = [
            program
            for program, own, none in zip(tried, real, empty, strict=True)
            if own == PASSED and none != PASSED
        ][:count]
        self.units = len(self.programs)
        self.missing = "" if self.units == count else f"only {self.units} of {count} functions can be judged"

    def measure(self, model: PreTrainedModel, tokenizer: PreTrainedTokenizerFast) -> dict[str, Any]:
        """What was written for each function, and the verdicts."""
        room = self.settings.window - self.tokens
        asked = [(program, sample) for program in range(self.units) for sample in range(self.samples)]
        prompts = [document_prompt(tokenizer, program.beginning)[-room:] for program in self.programs]
        written: list[str] = []
        for begin in bar(range(0, len(asked), self.settings.batch_size), "programs", self.settings.progress):
            part = asked[begin : begin + self.settings.batch_size]
            ids = sample_batch(
                model,
                tokenizer,
                [prompts[program] for program, _ in part],
                self.tokens,
                TEMPERATURE,
                TOP_P,
                [self.settings.seed_of("program", *each) for each in part],
                ended_by(tokenizer, [self.programs[program].beginning for program, _ in part]),
            )
            written += tokenizer.batch_decode(
                ids, skip_special_tokens=True, clean_up_tokenization_spaces=False
            )
        verdicts = run(
            [(self.programs[program], text) for (program, _), text in zip(asked, written, strict=True)]
        )
        return {"written": written, "verdicts": verdicts}

    def scores(self, measured: dict[str, dict[str, Any]]) -> list[Score]:
        return [
            score
            for model, found in measured.items()
            for k in (1, min(10, self.samples))
            for score in self._of(model, found["verdicts"], k)
        ]

    def _of(self, model: str, verdicts: list[str], k: int) -> list[Score]:
        passed = (
            np.array([verdict == PASSED for verdict in verdicts]).reshape(self.units, self.samples).sum(1)
        )
        values = pass_at(k, passed, self.samples)
        interval = bootstrap_interval(
            values, np.ones(self.units), self.settings.bootstrap_samples, self.settings.seed_of("interval")
        )
        protocol = (
            f"pass@{k} of {self.samples} bodies a function, at most {self.tokens} tokens after its docstring, "
            f"temperature {TEMPERATURE}, top_p {TOP_P}, cut where the indentation returns; passed: every example of "
            "the docstring, in the module, behind seccomp; 95% bootstrap interval over functions"
        )
        name = f"{NAME}, one of {k}" if k > 1 else NAME
        return [Score(name, model, float(values.mean()), interval, "share", self.units, protocol, "higher")]

    def detail(self) -> dict[str, Any]:
        return {"functions": [f"{program.module}.{program.name}" for program in self.programs]}
