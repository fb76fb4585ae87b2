"""lm-eval's tasks, by name or from a file, and how many of their questions stand in the training tokens."""

from __future__ import annotations

import importlib.metadata
import importlib.util
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import yaml

from pipeline.data.shards import Shard
from pipeline.run.errors import UserError, nearest
from pipeline.run.results import Score
from pipeline.scores.harness import harness
from pipeline.scores.intervals import normal_interval
from pipeline.scores.score import BASE, FINE_TUNED, PREFERRED, PRETRAINED, REINFORCED, Settings

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerFast

_Loader = yaml.BaseLoader  # makes texts of everything, lm-eval's tags for functions among them
GRAM = 13  # tokens in a row that no question has in common with training by chance (GPT-3's appendix C: words)
BASE_OF_HASH = np.uint64(0x9E3779B97F4A7C15)
AT_ONCE = 1 << 22  # tokens of a shard that are hashed at a time
RESAMPLES = 1000  # behind the standard error of what is no mean


def check_tasks(names: Iterable[str]) -> None:
    """Refuse tasks that lm-eval cannot find.

    Raises:
        UserError: lm-eval is not installed; a file that is no task; a name that it does not know.
    """
    named = [name for name in names if not _is_file(name)]
    for name in names:
        if _is_file(name):
            name_in(Path(name))
    if importlib.util.find_spec("lm_eval") is None:
        raise UserError(
            "evaluate.tasks needs lm-eval, which is not installed\nway out: pip install headwater[eval]"
        )
    if named:
        from lm_eval.tasks import TaskManager

        known = TaskManager().all_tasks
        for name in named:
            if name not in known:
                raise UserError(
                    f"evaluate.tasks: {name!r} is no task of lm-eval\n{nearest(name, known)[:300]}"
                )


def _is_file(name: str) -> bool:
    return name.endswith((".yaml", ".yml"))


def name_in(file: Path) -> str:
    """The name that a task's file gives it.

    Raises:
        UserError: no such file, or none that names a task.
    """
    return _tree(file)["task"]


def files_of(names: Iterable[str]) -> list[Path]:
    """The files of tasks, and those of their data that are named in them and are there."""
    found = []
    for file in map(Path, filter(_is_file, names)):
        data = _tree(file).get("dataset_kwargs", {})
        data = data.get("data_files", {}) if isinstance(data, dict) else {}
        named = [one for each in _values(data) for one in _values(each)]
        found += [file, *(Path(one) for one in named if isinstance(one, str) and Path(one).is_file())]
    return found


def _values(given: Any) -> list[Any]:
    return list(given.values()) if isinstance(given, dict) else given if isinstance(given, list) else [given]


def _tree(file: Path) -> dict[str, Any]:
    try:
        tree = yaml.load(file.read_text(encoding="utf-8"), Loader=_Loader)
    except (OSError, yaml.YAMLError) as error:
        raise UserError(f"evaluate.tasks: {file}: {str(error).splitlines()[0]}") from None
    if not isinstance(tree, dict) or not isinstance(tree.get("task"), str):
        raise UserError(
            f"evaluate.tasks: {file} names no task\nexpected: a task of lm-eval, with a line `task: NAME`"
        )
    return tree


class HarnessTasks:
    """What lm-eval says of the models on its own tasks.

    Args:
        names: of tasks, or of files that hold one; limit: questions of each at most, None: all; shots: examples before
            a question, None: as the task has it; trained: shards that were learnt.
    """

    name, models = "tasks", (PRETRAINED, BASE, FINE_TUNED, PREFERRED, REINFORCED)
    missing = ""

    def __init__(
        self,
        names: tuple[str, ...],
        limit: int | None,
        shots: int | None,
        trained: list[Shard],
        settings: Settings,
    ) -> None:
        self.names, self.limit, self.shots, self.trained, self.settings = (
            names,
            limit,
            shots,
            trained,
            settings,
        )
        self.units = len(names)
        self._learnt: dict[tuple[str, int], int] = {}  # questions of a task that stand in the shards, by vocabulary

    def measure(self, model: PreTrainedModel, tokenizer: PreTrainedTokenizerFast) -> dict[str, Any]:
        """Of each task and metric its value, standard error and direction; its questions, and how many were learnt."""
        from lm_eval.evaluator import simple_evaluate
        from lm_eval.tasks import TaskManager

        from pipeline.lm.prompts import document_prompt

        files = [Path(name) for name in self.names if _is_file(name)]
        folders = sorted({str(file.resolve().parent) for file in files})
        manager = TaskManager(include_path=folders or None, include_defaults=len(files) < len(self.names))
        settings = self.settings
        begins = document_prompt(tokenizer, "a")[0] == tokenizer.bos_token_id
        wrapped = harness(model, tokenizer, settings.batch_size, settings.window, settings.bf16, begins)
        found = simple_evaluate(
            wrapped,
            tasks=[name_in(Path(name)) if _is_file(name) else name for name in self.names],
            num_fewshot=self.shots,
            limit=self.limit,
            bootstrap_iters=RESAMPLES,
            task_manager=manager,
            random_seed=settings.seed,
            numpy_random_seed=settings.seed,
            torch_random_seed=settings.seed,
            fewshot_random_seed=settings.seed,
        )
        return {name: self._task(name, found, tokenizer, begins) for name in found["results"]}

    def _task(
        self, name: str, found: dict[str, Any], tokenizer: PreTrainedTokenizerFast, begins: bool
    ) -> dict[str, Any]:
        figures, samples = found["results"][name], found["samples"].get(name, [])
        better = found["higher_is_better"].get(name, {})
        metrics = {}
        for key, value in figures.items():
            metric, _, kind = key.partition(",")
            if not kind or metric.endswith("_stderr") or not isinstance(value, int | float):
                continue
            error = figures.get(f"{metric}_stderr,{kind}")
            metrics[metric if kind == "none" else f"{metric} ({kind})"] = {
                "value": float(value),
                "stderr": error if isinstance(error, float) else None,
                "better": "lower" if better.get(metric) is False else "higher",
            }
        documents = {str(sample["doc_id"]): sample["doc"] for sample in samples}
        texts = [
            [text for text in document.values() if isinstance(text, str)] for document in documents.values()
        ]
        asked = (name, len(tokenizer))
        if asked not in self._learnt:
            self._learnt[asked] = sum(contaminated(texts, tokenizer, self.trained))
        return {
            "metrics": metrics,
            "questions": len(documents),
            "contaminated": self._learnt[asked],
            "shots": found["n-shot"].get(name, 0),
            "opening_token": begins,
        }

    def scores(self, measured: dict[str, dict[str, Any]]) -> list[Score]:
        return [
            Score(
                name=f"{task} {metric}",
                model=model,
                value=figure["value"],
                interval=None if not figure["stderr"] else normal_interval(figure["value"], figure["stderr"]),
                unit=metric,
                count=told["questions"] or None,
                protocol=self._protocol(told),
                better=figure["better"],
            )
            for model, tasks in measured.items()
            for task, told in tasks.items()
            for metric, figure in told["metrics"].items()
        ]

    def detail(self) -> dict[str, Any]:
        return {"tasks": list(self.names)}

    def _protocol(self, told: dict[str, Any]) -> str:
        most = "" if self.limit is None else f", the first {self.limit} questions"
        opened = "with" if told["opening_token"] else "without"
        return (
            f"lm-eval {importlib.metadata.version('lm_eval')}, {told['shots']} examples before a question{most}; "
            f"{opened} the token that opens a document, no chat template; {told['contaminated']} questions have "
            f"{GRAM} tokens in a row that stand in the training tokens too; {self.settings.precision}; "
            "interval: 1.96 standard errors"
        )


def contaminated(
    texts: list[list[str]], tokenizer: PreTrainedTokenizerFast, shards: list[Shard]
) -> list[bool]:
    """Of each question, given as its texts, whether GRAM of its tokens in a row stand in one of the shards."""
    from tokenizer.encode import encode

    owners, hashes = [], []
    for number, question in enumerate(texts):
        for text in question:
            ids, _ = encode(tokenizer.backend_tokenizer, [text])
            grams = gram_hashes(ids)
            hashes.append(grams)
            owners.append(np.full(len(grams), number))
    if not hashes:
        return []
    wanted, owner = np.concatenate(hashes), np.concatenate(owners)
    unique, inverse = np.unique(wanted, return_inverse=True)
    there = np.zeros(len(unique), bool)
    for shard in shards:
        for grams in _grams_of(shard):
            place = np.searchsorted(unique, grams)
            place[place == len(unique)] = 0
            there[np.unique(place[unique[place] == grams])] = True
    return [bool(found) for found in np.bincount(owner[there[inverse]], minlength=len(texts))]


def _grams_of(shard: Shard) -> Iterator[np.ndarray]:
    for start in range(0, shard.tokens_total, AT_ONCE):
        yield gram_hashes(shard.tokens[start : start + AT_ONCE + GRAM - 1])


def gram_hashes(ids: np.ndarray) -> np.ndarray:
    """A number for each GRAM ids in a row, uint64 [len(ids) - GRAM + 1]."""
    count = max(0, len(ids) - GRAM + 1)
    found = np.zeros(count, np.uint64)
    tokens = np.asarray(ids).astype(np.uint64) + np.uint64(1)
    for place in range(GRAM if count else 0):
        found = found * BASE_OF_HASH + tokens[place : place + count]
        found ^= found >> np.uint64(29)
    return found
