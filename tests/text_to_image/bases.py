"""Tiny directories of the pipelines that can be taught, with random weights: Stable Diffusion, XL, 3 and FLUX."""

from pathlib import Path

import torch

from recipes.common.words import tokenizer_of

WORDS = ["a", "photo", "of", "sks", "dog", "cat", "red", "blue", "square", "green", "white"]
KINDS = ("StableDiffusionPipeline", "StableDiffusionXLPipeline", "StableDiffusion3Pipeline", "FluxPipeline")
CLIP = {"hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 2, "num_attention_heads": 2}


def write_base(kind: str, out: Path) -> Path:
    """The directory of one kind."""
    import diffusers
    from diffusers import AutoencoderKL, FlowMatchEulerDiscreteScheduler

    torch.manual_seed(0)
    tokenizer = tokenizer_of(WORDS)
    tokenizer.model_max_length = 12
    flow = kind in KINDS[2:]
    vae = AutoencoderKL(
        block_out_channels=(8, 8),
        down_block_types=("DownEncoderBlock2D",) * 2,
        up_block_types=("UpDecoderBlock2D",) * 2,
        latent_channels=4,
        norm_num_groups=4,
        sample_size=16,
        scaling_factor=0.5,
        **({"shift_factor": 0.1} if flow else {}),
    )
    scheduler = FlowMatchEulerDiscreteScheduler(shift=3.0) if flow else _schedule(kind)
    parts = {"vae": vae, "scheduler": scheduler, **PARTS[kind](tokenizer)}
    getattr(diffusers, kind)(**parts).save_pretrained(out)
    return out


def _schedule(kind: str):
    from diffusers import DDIMScheduler

    prediction = "v_prediction" if kind == "StableDiffusionPipeline" else "epsilon"
    return DDIMScheduler(
        beta_start=0.00085,
        beta_end=0.012,
        beta_schedule="scaled_linear",
        prediction_type=prediction,
        clip_sample=False,
        set_alpha_to_one=False,
        steps_offset=1,
    )


def _clip(tokenizer, projected: int | None = None):
    from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection

    more = {"projection_dim": projected} if projected else {}
    config = CLIPTextConfig(
        vocab_size=len(tokenizer), max_position_embeddings=12, eos_token_id=0, pad_token_id=1, **CLIP, **more
    )
    return (CLIPTextModelWithProjection if projected else CLIPTextModel)(config)


def _t5(tokenizer, width: int = 16):
    from transformers import T5Config, T5EncoderModel

    sizes = {"d_model": width, "d_kv": 8, "d_ff": 24, "num_layers": 1, "num_heads": 2}
    return T5EncoderModel(T5Config(vocab_size=len(tokenizer), **sizes))


def _unet(**more):
    from diffusers import UNet2DConditionModel

    return UNet2DConditionModel(
        sample_size=8,
        block_out_channels=(8, 16),
        layers_per_block=1,
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"),
        attention_head_dim=(1, 2),
        norm_num_groups=4,
        **more,
    )


def _sd(tokenizer):
    unet = _unet(cross_attention_dim=16)
    nothing = {"safety_checker": None, "feature_extractor": None, "requires_safety_checker": False}
    return {"unet": unet, "text_encoder": _clip(tokenizer), "tokenizer": tokenizer, **nothing}


def _xl(tokenizer):
    unet = _unet(
        cross_attention_dim=32,
        addition_embed_type="text_time",
        addition_time_embed_dim=4,
        projection_class_embeddings_input_dim=6 * 4 + 16,
        transformer_layers_per_block=(1, 1),
        use_linear_projection=True,
    )
    encoders = {"text_encoder": _clip(tokenizer, 16), "text_encoder_2": _clip(tokenizer, 16)}
    return {"unet": unet, **encoders, "tokenizer": tokenizer, "tokenizer_2": tokenizer}


def _three(tokenizer):
    from diffusers import SD3Transformer2DModel

    net = SD3Transformer2DModel(
        sample_size=8,
        patch_size=2,
        in_channels=4,
        out_channels=4,
        num_layers=2,
        attention_head_dim=8,
        num_attention_heads=2,
        joint_attention_dim=32,
        caption_projection_dim=16,
        pooled_projection_dim=32,
        pos_embed_max_size=16,
    )
    encoders = {
        "text_encoder": _clip(tokenizer, 16),
        "text_encoder_2": _clip(tokenizer, 16),
        "text_encoder_3": _t5(tokenizer, 32),
    }
    tokenizers = {"tokenizer": tokenizer, "tokenizer_2": tokenizer, "tokenizer_3": tokenizer}
    return {"transformer": net, **encoders, **tokenizers}


def _flux(tokenizer):
    from diffusers import FluxTransformer2DModel

    net = FluxTransformer2DModel(
        patch_size=1,
        in_channels=16,
        num_layers=1,
        num_single_layers=1,
        attention_head_dim=8,
        num_attention_heads=2,
        joint_attention_dim=16,
        pooled_projection_dim=16,
        axes_dims_rope=(2, 2, 4),
        guidance_embeds=True,
    )
    encoders = {"text_encoder": _clip(tokenizer), "text_encoder_2": _t5(tokenizer)}
    return {"transformer": net, **encoders, "tokenizer": tokenizer, "tokenizer_2": tokenizer}


PARTS = dict(zip(KINDS, (_sd, _xl, _three, _flux), strict=True))
