"""Pictures from captions with guidance and negative prompts, as a diffusers pipeline, which an export takes with it.

It imports diffusers, transformers and torch alone. Shapes: B pictures, C channels, H rows, W columns, L tokens, D
numbers of a state.
"""

from functools import partial

import torch
from diffusers import (
    DiffusionPipeline,
    ImagePipelineOutput,
    PixArtTransformer2DModel,
    SchedulerMixin,
    UNet2DConditionModel,
)
from torch import Tensor
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from recipes.diffusion.denoising import Denoising

Seen = tuple[Tensor, Tensor]  # states (B, L, D), and which of them are seen, bool (B, L)


class TextToImagePipeline(Denoising, DiffusionPipeline):
    """Draws picture i from seeds[i] and prompt[i] alone.

    unet, transformer: one of the two; max_length: tokens of a prompt; num_inference_steps, guidance_scale: what it was
    published with; batch_size: pictures of one forward. Every forward has that many, for a matrix product's rounding
    depends on its rows.
    """

    _optional_components = ["unet", "transformer", "tokenizer", "text_encoder"]

    def __init__(
        self,
        scheduler: SchedulerMixin,
        tokenizer: PreTrainedTokenizerBase | None = None,
        text_encoder: PreTrainedModel | None = None,
        unet: UNet2DConditionModel | None = None,
        transformer: PixArtTransformer2DModel | None = None,
        max_length: int = 24,
        num_inference_steps: int = 50,
        guidance_scale: float = 1.0,
        batch_size: int = 50,
    ):
        super().__init__()
        self.register_modules(
            scheduler=scheduler,
            tokenizer=tokenizer,
            text_encoder=text_encoder,
            unet=unet,
            transformer=transformer,
        )
        self.register_to_config(
            max_length=max_length,
            num_inference_steps=num_inference_steps,
            guidance_scale=guidance_scale,
            batch_size=batch_size,
        )

    @torch.no_grad()
    def __call__(
        self,
        prompt: str | list[str] | None = None,
        negative_prompt: str | list[str] = "",
        seeds: list[int] | None = None,
        num_inference_steps: int | None = None,
        guidance_scale: float | None = None,
        states: Seen | None = None,
        negative_states: Seen | None = None,
        output_type: str = "pil",
        return_dict: bool = True,
    ) -> ImagePipelineOutput | tuple:
        """A picture of each prompt and seed; one prompt goes with many seeds, and seeds count from 0 by default.

        negative_prompt: what guidance leads away from; guidance_scale: 1 is the net's own prediction
        (arXiv:2207.12598: 1 + w); states, negative_states: in place of prompts, what the text encoder makes of them;
        output_type: "pil", "np" in [0, 1] (B, H, W, C), or "pt" (B, C, H, W).
        """
        steps = num_inference_steps or self.config.num_inference_steps
        guidance = self.config.guidance_scale if guidance_scale is None else guidance_scale
        prompts = [prompt] if isinstance(prompt, str) else prompt
        count = len(states[0]) if states else len(prompts)
        seeds = list(range(count)) if seeds is None else list(seeds)
        rows = len(seeds)
        if count not in (1, rows):
            raise ValueError(f"{count} prompts and {rows} seeds: expected one prompt, or one for each seed")
        asked = states or self.encode(prompts)
        away = negative_states or self.encode(
            [negative_prompt] if isinstance(negative_prompt, str) else negative_prompt
        )
        padded = rows + -rows % self.config.batch_size
        asked, away = _rows(asked, padded), _rows(away, padded)
        seeds += [0] * (padded - rows)
        chunks = []
        for start in self.progress_bar(range(0, padded, self.config.batch_size)):
            part = slice(start, start + self.config.batch_size)
            said = partial(
                self._predict,
                asked=(asked[0][part], asked[1][part]),
                away=(away[0][part], away[1][part]),
                guidance=guidance,
            )
            chunks.append(self._denoised(seeds[part], said, steps))
        images = self._as(output_type, torch.cat(chunks)[:rows])
        return ImagePipelineOutput(images=images) if return_dict else (images,)

    @torch.no_grad()
    def encode(self, prompts: list[str]) -> Seen:
        """What the net attends to; each prompt alone, so that no other has a say in its rounding."""
        device, states, masks = self._execution_device, [], []
        for prompt in prompts:
            found = self.tokenizer(
                prompt,
                padding="max_length",
                padding_side="right",
                max_length=self.config.max_length,
                truncation=True,
                return_tensors="pt",
            ).to(device)
            mask = found["attention_mask"].bool()
            mask[:, 0] = True
            output = self.text_encoder(input_ids=found["input_ids"], attention_mask=mask)
            states.append(output.last_hidden_state.float())
            masks.append(mask)
        return torch.cat(states), torch.cat(masks)

    def _predict(
        self, x_BCHW: Tensor, timestep_B: Tensor, asked: Seen, away: Seen, guidance: float
    ) -> Tensor:
        """The guided prediction, fp32: away + guidance (asked - away) (arXiv:2207.12598, equation 6)."""
        said_BCHW = self._forward(x_BCHW, timestep_B, asked)
        if guidance == 1:
            return said_BCHW
        away_BCHW = self._forward(x_BCHW, timestep_B, away)
        return away_BCHW + guidance * (said_BCHW - away_BCHW)

    def _forward(self, x_BCHW: Tensor, timestep_B: Tensor, seen: Seen) -> Tensor:
        dtype = self.net.dtype
        return self.net(
            x_BCHW.to(dtype),
            timestep=timestep_B,
            encoder_hidden_states=seen[0].to(dtype),
            encoder_attention_mask=seen[1].to(dtype),  # 1: seen
            return_dict=False,
        )[0].float()


def _rows(seen: Seen, rows: int) -> Seen:
    """As many rows as asked for: of one row that row over and over, of more the first once more."""
    return tuple(torch.cat([part, part[:1].expand(rows - len(part), *part.shape[1:])]) for part in seen)
