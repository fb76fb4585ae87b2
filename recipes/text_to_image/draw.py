"""`headwater draw`: pictures of a caption by a run."""

from pathlib import Path

from pipeline.run.errors import UserError
from recipes.text_to_image.config import TextToImageConfig


def write_drawn(
    config: TextToImageConfig, prompt: str, out: Path, count: int, seed: int, negative: str | None
) -> str:
    """A PNG each and a sheet of all.

    Raises:
        UserError: the net is not trained yet; `out` holds something; a word that the encoder has never seen.
    """
    from recipes.common.drawn import check_new_folder, trained_of, write_pictures
    from recipes.text_to_image.sample import require_known
    from recipes.text_to_image.sampler import as_bytes, load_net, pipeline_of

    trained = trained_of(config.run.output_dir)
    check_new_folder(out)
    if negative is not None and config.sampler.guidance == 1:
        raise UserError(
            "--negative: sampler.guidance is 1, so nothing is led away from\nway out: another guidance"
        )
    pipeline = pipeline_of(config, *load_net(config, trained), trained, config.sampler)
    for words, where in ((prompt, "prompt"), (negative or "", "--negative")):
        require_known(pipeline.tokenizer, words, where)
    seeds = list(range(seed, seed + count))
    pictures = as_bytes(
        pipeline([prompt] * count, negative_prompt=negative or "", seeds=seeds, output_type="np").images
    )
    write_pictures(pictures, seeds, out)
    return f"{out}: {count} pictures of {prompt!r}"
