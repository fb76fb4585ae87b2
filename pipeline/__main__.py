"""The `headwater` command: run, plan, status, verify, one verb a stage, export, merge, and the verbs of families."""

import argparse
import json
import os
import signal
import sys
import warnings
from contextlib import closing, nullcontext
from pathlib import Path
from typing import Any

from pipeline import __version__
from pipeline.run.errors import UserError


def parser() -> argparse.ArgumentParser:
    top = argparse.ArgumentParser(
        prog="headwater",
        description="From raw data to a published model, one recipe file.",
        allow_abbrev=False,
    )
    top.add_argument("--version", action="version", version=f"headwater {__version__}")
    verbs = top.add_subparsers(dest="verb", required=True, metavar="VERB")

    init = verbs.add_parser("init", allow_abbrev=False, help="print a first recipe for a model, or a family, and data")
    init.add_argument("model", help="directory or Hub name; or a family of recipes/, such as vae or seq2seq")
    init.add_argument(
        "data",
        help="file, folder or dataset of conversations or of judged answers; what the family learns from",
    )
    run = _recipe_verb(verbs, "run", "run every stage that is not up to date")
    run.add_argument(
        "--dry-run", action="store_true", help="print the decision for every stage and do nothing"
    )
    run.add_argument(
        "--replace", metavar="STAGE", help="discard this stage and what was made from it, then run"
    )
    run.add_argument(
        "--launch", type=Path, metavar="FILE", help="accelerate launch file of the training stages"
    )
    stage = _recipe_verb(verbs, "stage", "run one stage alone: headwater stage NAME RECIPE", named=True)
    stage.add_argument("--launch", type=Path, metavar="FILE", help="accelerate launch file")
    plan = _recipe_verb(verbs, "plan", "check everything, estimate memory, time and disk; no weights")
    plan.add_argument("--gpus", type=int, default=None, help="processes to plan for; default: this machine's")
    plan.add_argument("--launch", type=Path, metavar="FILE", help="accelerate launch file to plan for")
    plan.add_argument(
        "--gpu-memory", type=float, metavar="GB", help="of one GPU: compare the ways to share out"
    )
    plan.add_argument("--hosts", type=int, default=1, help="that the GPUs are spread over; with --gpu-memory")
    plan.add_argument("--price", type=float, default=0.0, help="of a GPU for an hour; with --gpu-memory")
    plan.add_argument("--gpu-tflops", type=float, help="what one reaches; default: 400; with --gpu-memory")
    status = _recipe_verb(verbs, "status", "each stage's state, directory and metrics")
    status.add_argument("--json", action="store_true", help="print JSON instead of a table")
    data = _recipe_verb(
        verbs, "data", "what the conversations or judged answers of a recipe teach; no model, no run"
    )
    data.add_argument("--show", type=int, default=5, metavar="N", help="rows to print")
    _recipe_verb(
        verbs,
        "prove",
        "a stage's last checkpoint made again from the one before it, and compared",
        named=True,
    )
    verify = verbs.add_parser(
        "verify", allow_abbrev=False, help="re-hash an artifact and everything it was made from"
    )
    verify.add_argument("directory", type=Path)
    export = verbs.add_parser("export", allow_abbrev=False, help="upload a run's export to the Hub")
    export.add_argument("run", type=Path, help="the run's output directory, or the export itself")
    export.add_argument(
        "--push", metavar="USER/NAME", required=True, help="the repository; private unless --public"
    )
    export.add_argument("--public", action="store_true", help="create the repository public")
    _merge_verb(verbs)
    verbs.add_parser("doctor", allow_abbrev=False, help="what this machine has, and what is missing")
    _verbs_of_use(verbs)
    verbs.add_parser("chat", help="talk to a run's model in the terminal")
    _verbs_of_models(verbs)
    return top


MODEL = "a run's output directory, an export, a model directory, or a name of the Hub"


def _verbs_of_use(verbs: Any) -> None:
    generate = verbs.add_parser(
        "generate", allow_abbrev=False, help="completions of many prompts: a file in, JSON lines out"
    )
    generate.add_argument("model", help=MODEL)
    generate.add_argument(
        "--prompts", type=Path, required=True, help="JSON lines with prompt or messages; or a text, a prompt a line"
    )
    generate.add_argument("--out", type=Path, required=True, help="JSON lines; what is there already is kept")
    for name, kind, default, text in (
        ("max-new-tokens", int, 256, "tokens of a completion at most"),
        ("temperature", float, 0.8, "0: always the likeliest token"),
        ("top-p", float, 0.95, "nucleus probability"),
        ("top-k", int, 0, "likeliest tokens that stay; 0: all"),
        ("min-p", float, 0.0, "share of the likeliest below which a token goes"),
        ("repetition-penalty", float, 1.0, "how much less likely a token is that was there before"),
        ("samples", int, 1, "completions of each prompt"),
        ("seed", int, 0, "the same seed gives the same completions"),
        ("batch-size", int, 16, "completions that are made together"),
    ):
        generate.add_argument(f"--{name}", type=kind, default=default, help=f"{text}; default: {default}")
    generate.add_argument("--stop", action="append", default=[], metavar="TEXT", help="ends a completion; repeatable")
    compare = verbs.add_parser(
        "compare", allow_abbrev=False, help="models on the same held-out texts, and whether they differ"
    )
    compare.add_argument("models", nargs="+", metavar="MODEL", help=MODEL)
    compare.add_argument("--data", type=Path, help="texts; default: what a run among them has held out")
    compare.add_argument("--batch-size", type=int, default=8, help="windows a forward")
    compare.add_argument("--seed", type=int, default=0, help="of the resampled texts")
    serve = verbs.add_parser("serve", allow_abbrev=False, help="a model behind the API that clients know")
    serve.add_argument("model", help=MODEL)
    serve.add_argument("--host", default="127.0.0.1", help="default: this machine alone")
    serve.add_argument("--port", type=int, default=8000)
    gguf = verbs.add_parser("gguf", allow_abbrev=False, help="a model as one file for llama.cpp and Ollama")
    gguf.add_argument("model", help=MODEL)
    gguf.add_argument("out", type=Path, help="a new file, .gguf; NAME.Modelfile, for Ollama, is written beside it")
    gguf.add_argument("--type", default="f16", help="f32, f16, bf16, q8_0, q5_0 or q4_0; default: f16")
    again = verbs.add_parser(
        "reproduce", allow_abbrev=False, help="a model's recipe from its card, and whether it fits here"
    )
    again.add_argument("model", help=MODEL)
    again.add_argument("out", type=Path, help="a new YAML file")
    again.add_argument(
        "overrides", nargs="*", metavar="section.key=value", help="such as a path that the card leaves out"
    )
    again.add_argument("--run", action="store_true", help="make it, and compare the weights")
    runs = verbs.add_parser("runs", allow_abbrev=False, help="runs below a folder: state, size, scores")
    runs.add_argument("folder", type=Path, nargs="?", default=Path("runs"), help="default: runs")
    clean = verbs.add_parser("clean", allow_abbrev=False, help="what of a run can be made again; --yes removes it")
    clean.add_argument("run", type=Path, help="the run's output directory")
    clean.add_argument("--yes", action="store_true", help="remove it")


def _verbs_of_models(verbs: Any) -> None:
    score = verbs.add_parser(
        "score", allow_abbrev=False, help="a reward model's number for each answer of a file"
    )
    score.add_argument("directory", type=Path, help="an export, or a run's output directory")
    score.add_argument(
        "--data",
        type=Path,
        required=True,
        metavar="FILE",
        help="prompts with chosen and rejected, completion or completions",
    )
    score.add_argument("--batch-size", type=int, default=16, help="answers a forward")
    translate = verbs.add_parser(
        "translate", allow_abbrev=False, help="a target for each line, by a run's encoder-decoder"
    )
    translate.add_argument("run", type=Path, help="the run's output directory")
    translate.add_argument("file", type=Path, nargs="?", help="sources, a line each; none: standard input")
    for name, text in (
        ("continue", "a piece of music and what may follow"),
        ("infill", "a piece with bars made anew"),
    ):
        verb = verbs.add_parser(name, allow_abbrev=False, help=f"{text}, by a run of recipes/music")
        verb.add_argument("run", type=Path, help="the run's output directory")
        verb.add_argument("file", type=Path, help="a MIDI or MusicXML file")
        verb.add_argument("out", type=Path, help="the MIDI file to write")
        if name == "infill":
            verb.add_argument("--bars", required=True, metavar="A-B", help="counted from 1")
        verb.add_argument("--seed", type=int, default=0, help="another seed, another piece")
    _design_verbs(verbs)
    explain = verbs.add_parser(
        "explain", allow_abbrev=False, help="what a run's language model makes of one text, as a page"
    )
    explain.add_argument("run", type=Path, help="the run's output directory")
    explain.add_argument("text", help="the text; its last token is the one that is traced back")
    explain.add_argument("out", type=Path, help="the HTML file to write")
    describe = verbs.add_parser(
        "describe",
        allow_abbrev=False,
        help="what is in pictures, by a run of recipes/captioning or vision_chat",
    )
    describe.add_argument("run", type=Path, help="the run's output directory")
    describe.add_argument("pictures", type=Path, nargs="+", help="files such as PNG and JPEG")
    describe.add_argument("--ask", help="a question about each of them; of a run of recipes/vision_chat")
    transcribe = verbs.add_parser(
        "transcribe", allow_abbrev=False, help="what is said in clips, by a run of recipes/transcription"
    )
    transcribe.add_argument("run", type=Path, help="the run's output directory")
    transcribe.add_argument("clips", type=Path, nargs="+", help="files such as WAV, FLAC and OGG")


def _design_verbs(verbs: Any) -> None:
    draw = verbs.add_parser("draw", allow_abbrev=False, help="pictures of a request, or of a caption")
    vary = verbs.add_parser("vary", allow_abbrev=False, help="pictures near a chosen one")
    blend = verbs.add_parser("blend", allow_abbrev=False, help="pictures on the way from one to another")
    design = "its number on the page, or FOLDER:NUMBER"
    for verb, names in ((draw, {"request": "what is asked for"}), (vary, {"design": design})):
        verb.add_argument("run", type=Path, help="the run's output directory")
        for name, text in names.items():
            verb.add_argument(name, help=text)
        verb.add_argument("out", type=Path, help="the folder to write")
        verb.add_argument("--count", type=int, default=12, help="pictures; default: 12")
        verb.add_argument("--seed", type=int, default=0, help="another seed, other pictures")
    draw.add_argument(
        "--negative", help="what to lead away from, in words; of a run of recipes/text_to_image"
    )
    vary.add_argument("--strength", type=float, default=0.4, help="how far to go, 0 to 1; default: 0.4")
    blend.add_argument("run", type=Path, help="the run's output directory")
    blend.add_argument("first", help=design)
    blend.add_argument("second", help="the same")
    blend.add_argument("out", type=Path, help="the folder to write")
    blend.add_argument("--count", type=int, default=8, help="pictures, both ends among them; default: 8")


def _merge_verb(verbs: Any) -> None:
    merge = verbs.add_parser(
        "merge", allow_abbrev=False, help="one model from several of the same shape, or from checkpoints"
    )
    merge.add_argument("out", type=Path, help="the directory to write")
    merge.add_argument(
        "sources", nargs="+", help="model or adapter directories, or checkpoints of a training stage"
    )
    merge.add_argument("--method", default="linear", help="linear, slerp, task_arithmetic, ties or dare")
    merge.add_argument("--weights", type=float, nargs="+", help="a factor for each source; default: 1")
    merge.add_argument(
        "--base", help="the model that the sources were trained from; adapters, ties, dare, task_arithmetic"
    )
    merge.add_argument(
        "--density", type=float, default=0.5, help="ties, dare: share of a change that is kept"
    )
    merge.add_argument("--seed", type=int, default=0, help="of what dare drops")
    merge.add_argument(
        "--like", help="model directory with the config and tokenizer; default: the first source"
    )
    merge.add_argument("--licence", required=True, help="SPDX identifier that the card repeats")


def _recipe_verb(verbs: Any, name: str, text: str, named: bool = False) -> argparse.ArgumentParser:
    verb = verbs.add_parser(name, help=text, allow_abbrev=False)
    if named:
        verb.add_argument("name", metavar="STAGE")
    verb.add_argument("recipe", type=Path, help="a YAML file, or a shipped recipe such as llm/quickstart")
    verb.add_argument(
        "overrides", nargs="*", metavar="section.key=value", help="settings that differ from the file"
    )
    return verb


def parse(arguments: list[str]) -> argparse.Namespace:
    """The command line, with overrides also behind options, where argparse alone would not take them."""
    top = parser()
    given, left = top.parse_known_args(arguments)
    if left and ("overrides" not in given or any("=" not in text or text.startswith("-") for text in left)):
        top.error(f"unrecognized arguments: {' '.join(left)}")
    if left:
        given.overrides += left
    return given


def main(arguments: list[str] | None = None) -> int:
    arguments = sys.argv[1:] if arguments is None else arguments
    if not sys.warnoptions:
        # The libraries' own, in what runs here rather than in a stage with its log.
        warnings.simplefilter("ignore")
    try:
        if arguments[:1] == ["chat"]:
            return _chat(arguments[1:])
        given = parse(arguments)
        return VERBS[given.verb](given)
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        return 130


def _open(given: argparse.Namespace) -> tuple[Any, tuple]:
    from pipeline.run.stage import open_recipe

    if getattr(given, "launch", None):
        given.overrides = [*given.overrides, f"run.launch={given.launch}"]
    return open_recipe(given.recipe, given.overrides)


def _run(given: argparse.Namespace) -> int:
    from pipeline.run.outside import record_of, refresh
    from pipeline.run.stage import decisions

    config, stages = _open(given)
    discarded = _behind(stages, given.replace) if given.replace else frozenset()
    found = decisions(config, stages, discarded)
    if given.dry_run:
        _discard(config, stages, discarded, dry_run=True)
        for stage in stages:
            print(f"{stage.name:12} {found[stage.name].action:11} {found[stage.name].reason}")
        return 0
    for stage in stages:
        if found[stage.name].action == "up to date":
            refresh(record_of(Path(config.run.output_dir), stage.name), stage.reads)
    if all(decision.action == "up to date" for decision in found.values()):
        print(f"{config.run.output_dir}: all {len(stages)} stages are up to date, nothing to do")
        for name, decision in found.items():
            if decision.reason:
                print(f"{name}: {decision.reason}")
        return 0
    _check(config, stages, found)
    _discard(config, stages, discarded)
    _save_config(config)
    with _warm(stages, found) as warm:
        for stage in stages:
            code = _run_stage(config, stages, stage, given, warm)
            if code:
                return code
    from pipeline.run.status import summary

    print(summary(config, stages))
    return 0


def _warm(stages: tuple, found: dict[str, Any]) -> Any:
    """What starts the stages that need no launcher, where there are several to make and it helps."""
    from pipeline.run.launch import launch_environment
    from pipeline.run.warm import Warm, helps

    plain = [stage for stage in stages if not stage.launched and found[stage.name].action != "up to date"]
    return closing(Warm(launch_environment())) if len(plain) > 1 and helps() else nullcontext()


def _check(config: Any, stages: tuple, found: dict[str, Any]) -> None:
    """Everything that the run would refuse on this machine, refused before anything is discarded or made."""
    from pipeline.run.launch import check_gpus, read_launch
    from pipeline.run.stage import check_all

    check_all(config, stages, found)
    if any(stage.launched and found[stage.name].action != "up to date" for stage in stages):
        check_gpus(read_launch(config.run))


def _save_config(config: Any) -> None:
    import yaml

    path = Path(config.run.output_dir) / "config.yaml"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(yaml.safe_dump(json.loads(config.model_dump_json(exclude_none=True)), sort_keys=False))


def _behind(stages: tuple, name: str) -> frozenset[str]:
    """The stage `name` and every one that is made from it."""
    from pipeline.run.errors import nearest

    if name not in {stage.name for stage in stages}:
        raise UserError(f"--replace {name}: no such stage\n{nearest(name, [stage.name for stage in stages])}")
    gone = {name}
    for stage in stages:
        if gone & set(stage.inputs):
            gone.add(stage.name)
    return frozenset(gone)


def _discard(config: Any, stages: tuple, names: frozenset[str], dry_run: bool = False) -> None:
    from pipeline.run.artifact import discard
    from pipeline.run.stage import checkpoints_of, directory_of

    for stage in [stage for stage in stages if stage.name in names]:
        for made in (directory_of(config, stage.name), checkpoints_of(config, stage.name)):
            if made.exists():
                print(f"{stage.name}: {'would discard' if dry_run else 'discarding'} {made}")
            if not dry_run:
                discard(made)


def _run_stage(config: Any, stages: tuple, stage: Any, given: argparse.Namespace, warm: Any = None) -> int:
    """One stage in a process of its own: its memory is its own, and a training stage gets its launcher."""
    from pipeline.run.artifact import read
    from pipeline.run.launch import launch_command, launch_environment, read_launch
    from pipeline.run.machine import precision_of
    from pipeline.run.stage import checkpoints_of, decisions, directory_of, refuse_to_make
    from pipeline.run.supervise import FAILURES, give_up, run_process

    decided = decisions(config, stages)
    refuse_to_make(stage.name, stages, decided)
    found = decided[stage.name]
    if found.action == "up to date":
        print(f"{stage.name}: up to date")
        return 0
    arguments = [str(given.recipe), *given.overrides]
    command = [sys.executable, "-m", stage.module, *arguments]
    launch = read_launch(config.run) if stage.launched else None
    if launch:
        command = launch_command(launch, stage.module, arguments)
    training = getattr(config, stage.name, None) if stage.launched else None
    how = f" in {precision_of(training)}" if training else ""
    print(f"{stage.name}: {'resuming' if found.action == 'resume' else 'running'}{how}", flush=True)
    logs = Path(config.run.output_dir) / "logs"
    logs.mkdir(parents=True, exist_ok=True)
    (logs / f"{stage.name}.error").unlink(missing_ok=True)
    log = logs / f"{stage.name}.launch.log"
    if warm and not stage.launched:
        code, stopped = warm.run(stage.module, arguments, log)
    else:
        code, stopped = run_process(command, log, launch_environment(launch))
    if code:
        ended, said = _say_why(stage.name, logs, code, stopped)
        return give_up(checkpoints_of(config, stage.name), said, ended) if launch else ended
    made = read(directory_of(config, stage.name))
    assert made is not None, f"{stage.name} ended well and published nothing"
    (checkpoints_of(config, stage.name) / FAILURES).unlink(missing_ok=True)
    print(f"{stage.name}: done in {made.made['seconds']:.0f} s", flush=True)
    return 0


def _say_why(name: str, logs: Path, code: int, stopped: bool) -> tuple[int, str]:
    """Print a stage's own error; its exit code rather than its launcher's, and what was wrong in a line."""
    error = logs / f"{name}.error"
    if error.is_file():
        first, _, text = error.read_text().partition("\n")
        print(f"error: {name}: {text.strip()}", file=sys.stderr)
        return int(first), text.strip().partition("\n")[0]
    if stopped:
        print(f"{name}: stopped on request; the same command goes on from here", file=sys.stderr)
        return 3, "stopped"
    if code < 0:
        why = "out of memory, or by hand" if -code == signal.SIGKILL else f"{logs / name}.log"
        print(
            f"error: {name} was killed by {signal.Signals(-code).name}: {why}; the same command goes on from here",
            file=sys.stderr,
        )
        return 1, f"killed by {signal.Signals(-code).name}"
    tail = "\n".join((logs / f"{name}.launch.log").read_text().splitlines()[-20:])
    print(
        f"error: {name} ended with code {code} and left no message; {logs / name}.log\n{tail}",
        file=sys.stderr,
    )
    return 1, f"ended with code {code}"


def _stage(given: argparse.Namespace) -> int:
    from pipeline.run.stage import decisions

    config, stages = _open(given)
    chosen = _named(given, stages)
    found = decisions(config, stages)
    _check(config, (chosen,), {given.name: found[given.name]})
    return _run_stage(config, stages, chosen, given)


def _named(given: argparse.Namespace, stages: tuple) -> Any:
    """The stage that the command line names.

    Raises:
        UserError: the recipe has none of that name; with the nearest.
    """
    from pipeline.run.errors import nearest

    chosen = next((stage for stage in stages if stage.name == given.name), None)
    if chosen is None:
        raise UserError(
            f"{given.recipe} has no stage {given.name!r}\n{nearest(given.name, [s.name for s in stages])}"
        )
    return chosen


def _prove(given: argparse.Namespace) -> int:
    from pipeline.train.prove import prove

    config, stages = _open(given)
    print(prove(config, stages, _named(given, stages), given.recipe, given.overrides))
    return 0


def _plan(given: argparse.Namespace) -> int:
    from pipeline.run.cluster import ELSEWHERE
    from pipeline.run.estimate import plan
    from pipeline.run.machine import planned_for

    if given.gpus:
        given.overrides = [*given.overrides, f"run.num_processes={given.gpus}"]
    with nullcontext() if given.gpu_memory is None else planned_for(ELSEWHERE):
        config, stages = _open(given)
        print(plan(config, stages, _cluster(given, config)))
    return 0


def _cluster(given: argparse.Namespace, config: Any) -> Any:
    """The GPUs to plan for, where their memory is told."""
    from pipeline.run.cluster import GPU_FLOPS, Cluster
    from pipeline.run.launch import read_launch

    for name in ("gpus", "gpu_memory", "hosts", "price", "gpu_tflops"):
        value = getattr(given, name)
        if value is not None and value < (0 if name == "price" else 1):
            raise UserError(
                f"--{name.replace('_', '-')} {value}\nexpected: {'0' if name == 'price' else '1'} or more"
            )
    if given.gpu_memory is None:
        if given.price or given.hosts > 1 or given.gpu_tflops:
            raise UserError(
                "--hosts, --price and --gpu-tflops are of GPUs\nway out: --gpu-memory GB too, such as 80"
            )
        return None
    gpus = read_launch(config.run).num_processes
    if gpus % given.hosts:
        raise UserError(
            f"--hosts {given.hosts} does not divide the {gpus} GPUs\nway out: --gpus, or other hosts"
        )
    flops = given.gpu_tflops * 1e12 if given.gpu_tflops else GPU_FLOPS
    return Cluster(gpus, given.gpu_memory * 1e9, given.hosts, given.price, flops)


def _status(given: argparse.Namespace) -> int:
    from pipeline.run.status import as_json, render_table, status

    config, stages = _open(given)
    rows = status(config, stages)
    print(as_json(rows) if given.json else render_table(rows))
    return 0


def _verify(given: argparse.Namespace) -> int:
    from pipeline.run.artifact import verify_chain

    for link in verify_chain(given.directory):
        size = sum(file["size"] for file in link.files.values())
        print(f"{link.stage:12} {link.digest[:16]} {len(link.files):4} files {size:12,} bytes: verified")
    return 0


def _export(given: argparse.Namespace) -> int:
    from pipeline.publish.hub import run_push

    run_push(given.run, given.push, given.public)
    return 0


def _merge(given: argparse.Namespace) -> int:
    from pipeline.publish.merge import METHODS, Merge, run_merge
    from pipeline.run.errors import nearest

    if given.method not in METHODS:
        raise UserError(f"--method {given.method!r}\n{nearest(given.method, METHODS)}")
    count = len(given.sources)
    usual = (0.5, 0.5) if given.method == "slerp" and count == 2 else (1.0,) * count
    merge = Merge(
        sources=tuple(given.sources),
        weights=tuple(given.weights or usual),
        method=given.method,
        base=given.base,
        density=given.density,
        seed=given.seed,
        like=given.like or _first_model(given.sources, given.base),
    )
    found = run_merge(merge, given.out, given.licence)
    print(f"{given.out}: {found['tensors_equal']} tensors by {given.method}, checked in a fresh process")
    return 0


def _first_model(sources: list[str], base: str | None) -> str:
    """The first source that has a config of its own: an adapter's is its base's."""
    return next(
        (name for name in sources if not (Path(name) / "adapter_config.json").is_file()), base or sources[0]
    )


def _doctor(given: argparse.Namespace) -> int:
    from pipeline.run.doctor import examine, screen

    findings = examine()
    print(screen(findings))
    return 2 if any(finding.missing for finding in findings) else 0


def _chat(arguments: list[str]) -> int:
    """Chat reads its own options, so that they may stand before the run."""
    from pipeline.lm.chat import run_chat

    return run_chat(arguments)


def _init(given: argparse.Namespace) -> int:
    from pipeline.lm.start import first_recipe
    from pipeline.run.stage import first_recipe_of

    family = first_recipe_of(given.model)
    print(family(given.data) if family else first_recipe(given.model, given.data), end="")
    return 0


def _data(given: argparse.Namespace) -> int:
    from pipeline.tokenize import look

    config, _ = _open(given)
    look(config, given.show, sys.stdout)
    return 0


def _family_use(run: Path, name: str, does: str) -> tuple[Any, Any]:
    """(config, function) of the family that a run is of.

    Raises:
        UserError: there is no run, or its family does no such thing.
    """
    import logging

    from pipeline.run.stage import open_recipe, use_of

    logging.getLogger("bitsandbytes").setLevel(logging.ERROR)  # of a kernel that nothing here calls
    settings = run / "config.yaml"
    if not settings.is_file():
        raise UserError(f"no run at {run}: config.yaml is not there\nexpected: a run's output directory")
    config, _ = open_recipe(settings, [f"run.output_dir={run}"])
    use = use_of(config, name)
    if use is None:
        raise UserError(f"{run} is a run of {config.recipe}, which {does} nothing")
    return config, use


def _translate(given: argparse.Namespace) -> int:
    config, translations = _family_use(given.run, "translations", "translates")
    try:
        lines = nullcontext(sys.stdin) if given.file is None else closing(open(given.file, encoding="utf-8"))
    except OSError as error:
        raise UserError(f"cannot read {given.file}: {os.strerror(error.errno or 0)}") from None
    with lines as opened:
        for translation in translations(config, opened):
            print(translation, flush=True)
    return 0


def _continue(given: argparse.Namespace) -> int:
    config, continued = _family_use(given.run, "continued", "continues")
    print(continued(config, given.file, given.out, given.seed))
    return 0


def _infill(given: argparse.Namespace) -> int:
    config, infilled = _family_use(given.run, "infilled", "fills in")
    print(infilled(config, given.file, given.out, given.seed, given.bars))
    return 0


def _draw(given: argparse.Namespace) -> int:
    config, drawn = _family_use(given.run, "drawn", "draws by request")
    print(drawn(config, given.request, given.out, _some(given.count), given.seed, given.negative))
    return 0


def _explain(given: argparse.Namespace) -> int:
    config, explained = _family_use(given.run, "explained", "explains")
    print(explained(config, given.text, given.out))
    return 0


def _describe(given: argparse.Namespace) -> int:
    config, described = _family_use(given.run, "described", "describes pictures")
    for picture, caption in zip(given.pictures, described(config, given.pictures, given.ask), strict=True):
        print(f"{picture}: {caption}")
    return 0


def _transcribe(given: argparse.Namespace) -> int:
    config, transcribed = _family_use(given.run, "transcribed", "transcribes clips")
    for clip, text in zip(given.clips, transcribed(config, given.clips), strict=True):
        print(f"{clip}: {text}")
    return 0


def _vary(given: argparse.Namespace) -> int:
    config, varied = _family_use(given.run, "varied", "varies")
    print(varied(config, given.design, given.out, _some(given.count), given.strength, given.seed))
    return 0


def _blend(given: argparse.Namespace) -> int:
    config, blended = _family_use(given.run, "blended", "blends")
    print(blended(config, given.first, given.second, given.out, _some(given.count)))
    return 0


def _some(count: int) -> int:
    """The count, if it is one.

    Raises:
        UserError: it is not 1 or more.
    """
    if count < 1:
        raise UserError(f"--count {count}\nexpected: 1 or more")
    return count


def _generate(given: argparse.Namespace) -> int:
    from pipeline.lm.completions import Asked, run_generate

    names = [name for name in Asked.__dataclass_fields__ if name != "stop"]
    asked = Asked(**{name: getattr(given, name) for name in names}, stop=tuple(given.stop))
    made = run_generate(given.model, given.prompts, given.out, asked)
    print(f"{given.out}: {made} completions made" if made else f"{given.out}: all completions are there")
    return 0


def _compare(given: argparse.Namespace) -> int:
    from pipeline.scores.compare import compare, table, texts_of

    if len(given.models) < 2:
        raise UserError("one model alone has nothing to be compared with\nexpected: two or more")
    texts, where = texts_of(given.data, given.models)
    print(table(compare(given.models, texts, 1000, given.seed, given.batch_size), texts, where))
    return 0


def _serve(given: argparse.Namespace) -> int:
    from pipeline.publish.serve import run_serve

    run_serve(given.model, given.host, given.port)
    return 0


def _gguf(given: argparse.Namespace) -> int:
    from pipeline.publish.gguf import run_gguf
    from pipeline.run.units import size

    found = run_gguf(given.model, given.out, given.type)
    by = " and ".join(found["read_by"])
    print(f"{given.out}: {size(found['bytes'])} in {given.type}, read back by {by} in a fresh process")
    for name in found["read_by"]:
        difference, same = found[name].values()
        print(f"  {name}: logits within {difference:.1e} of their size, the likeliest token the same in {same:.3f}")
    if found["llama_cpp_crashed"]:
        print("  llama.cpp is installed and crashed on it here: try it elsewhere before you publish it")
    if found["composes"]:
        print("  this tokenizer composes accents (NFC) and llama.cpp does not: they read e + accent otherwise than é")
    print(f"  ollama create NAME -f {given.out.with_suffix('.Modelfile')}")
    return 0


def _reproduce(given: argparse.Namespace) -> int:
    from pipeline.publish.reproduce import compared, recipe_of

    then, made = recipe_of(given.model, given.out, given.overrides)
    command = ["run", str(given.out), *given.overrides]
    if not given.run:
        print(f"  make it: headwater {' '.join(command)}")
        return 0
    return main(command) or compared(then, made)


def _runs(given: argparse.Namespace) -> int:
    from pipeline.run.runs import render, runs_below

    print(render(runs_below(given.folder)))
    return 0


def _clean(given: argparse.Namespace) -> int:
    from pipeline.run.runs import clean

    print(clean(given.run, given.yes))
    return 0


def _score(given: argparse.Namespace) -> int:
    from pipeline.scores.judge import run_score

    run_score(given.directory, given.data, given.batch_size)
    return 0


VERBS = {
    "generate": _generate,
    "compare": _compare,
    "serve": _serve,
    "gguf": _gguf,
    "reproduce": _reproduce,
    "runs": _runs,
    "clean": _clean,
    "score": _score,
    "translate": _translate,
    "continue": _continue,
    "infill": _infill,
    "draw": _draw,
    "describe": _describe,
    "transcribe": _transcribe,
    "explain": _explain,
    "vary": _vary,
    "blend": _blend,
    "run": _run,
    "data": _data,
    "init": _init,
    "stage": _stage,
    "plan": _plan,
    "prove": _prove,
    "status": _status,
    "verify": _verify,
    "export": _export,
    "doctor": _doctor,
    "merge": _merge,
}

if __name__ == "__main__":
    os.environ.setdefault("PYTHONUNBUFFERED", "1")
    sys.exit(main())
