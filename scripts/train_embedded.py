"""`make embedded`: train the embedded generator, a small real Stable Diffusion pipeline that generates digits at 32x32.

It learns from the 4,000 real training digits only (`imagenet_sd.data.builtin`), with captions made by the project's own
prompt templates over the ten WordNet digit synsets. Two stages, each skipped when its folder exists: the autoencoder
(`train_embedded_vae.py`), then the UNet together with its text encoder. Under an hour on 2 CPU cores.
"""

import argparse
import json
import random
import time
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from diffusers import AutoencoderKL, DDPMScheduler, PNDMScheduler, StableDiffusionPipeline, UNet2DConditionModel
from diffusers.training_utils import EMAModel
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, trainers
from train_embedded_vae import digits_32, jitter, learning_rate, train_vae
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer

from imagenet_sd.core.types import ClassSpec
from imagenet_sd.prompts.build import PromptBuilder
from imagenet_sd.prompts.classes import load_classes
from imagenet_sd.prompts.places import load_places
from imagenet_sd.prompts.templates import load_templates

START, END = "<|startoftext|>", "<|endoftext|>"
TEMPLATE_SHARES = {"c": 3, "c_hc": 3, "c_dc": 3, "c_hc_b": 1, "photo": 2}
JITTERED_COPIES = 10


class Captions:
    """Captions for real digits: the project's prompts, single lemmas, and attributes measured on the image."""

    def __init__(self, seed: int):
        self.classes = load_classes("digits-10")
        self.random = random.Random(seed)
        templates = load_templates()
        self.builders = {key: PromptBuilder(templates[key]) for key in TEMPLATE_SHARES}

    def caption(self, label: int, attributes: str) -> str:
        """One caption for an image of class `label` with its measured `attributes` (such as "thin right leaning")."""
        spec = self.classes[label]
        if self.random.random() < 0.35:
            spec = self._named(spec, self.random.choice(spec.lemmas[:4]))
        if attributes and self.random.random() < 0.3:
            spec = self._named(spec, f"{attributes} {', '.join(spec.lemmas)}")
        key = self.random.choices(list(TEMPLATE_SHARES), list(TEMPLATE_SHARES.values()))[0]
        return self.builders[key].prompt(spec, self.random.randrange(365)).text

    @staticmethod
    def _named(spec: ClassSpec, name: str) -> ClassSpec:
        return ClassSpec(
            wnid=spec.wnid,
            class_index=spec.class_index,
            lemmas=(name,),
            hypernyms=spec.hypernyms,
            definition=spec.definition,
        )

    def corpus(self) -> list[str]:
        """Every text that the tokenizer must know how to spell well."""
        texts = [builder.prompt(spec).text for builder in self.builders.values() for spec in self.classes] * 4
        return texts + [f"inside {phrase}" for _, phrase in load_places()] + ["bold thin left right leaning"] * 4


def measure_attributes(images: torch.Tensor, labels: torch.Tensor) -> list[str]:
    """Name what stands out among images of the same class: ink ("bold"/"thin") and slant ("right/left leaning").

    Args:
        images: float [N, 1, 32, 32] in [-1, 1].
        labels: int64 [N].
    """
    ink = (images[:, 0] + 1) / 2
    mass = ink.sum((1, 2))
    axis = torch.arange(32.0)
    row = (ink.sum(2) * axis).sum(1) / mass
    column = (ink.sum(1) * axis).sum(1) / mass
    rows, columns = axis[None, :, None] - row[:, None, None], axis[None, None, :] - column[:, None, None]
    slant = -(ink * rows * columns).sum((1, 2)) / (ink * rows**2).sum((1, 2))
    words = [[] for _ in labels]
    for values, low, high in ((mass, "thin", "bold"), (slant, "left leaning", "right leaning")):
        for label in range(10):
            members = torch.nonzero(labels == label)[:, 0]
            few, many = torch.quantile(values[members], torch.tensor([0.25, 0.75]))
            for i in members.tolist():
                if values[i] < few or values[i] > many:
                    words[i].append(low if values[i] < few else high)
    return [" ".join(w) for w in words]


def train_tokenizer(corpus: list[str]) -> CLIPTokenizer:
    """A byte-pair tokenizer of CLIP's kind over the digit prompts, at most 1,500 tokens."""
    tokenizer = Tokenizer(models.BPE(end_of_word_suffix="</w>"))
    tokenizer.normalizer = normalizers.Sequence([normalizers.NFC(), normalizers.Lowercase()])
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.WhitespaceSplit(),
            pre_tokenizers.Punctuation(),
            pre_tokenizers.ByteLevel(False, use_regex=False),
        ]
    )
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    tokenizer.train_from_iterator(
        corpus,
        trainers.BpeTrainer(vocab_size=1500, initial_alphabet=alphabet, end_of_word_suffix="</w>", show_progress=False),
    )
    merges = [tuple(pair) for pair in json.loads(tokenizer.to_str())["model"]["merges"]]
    pieces = alphabet + [letter + "</w>" for letter in alphabet] + [a + b for a, b in merges] + [START, END]
    vocab = {piece: i for i, piece in enumerate(dict.fromkeys(pieces))}
    return CLIPTokenizer(
        vocab=vocab,
        merges=merges,
        unk_token=END,
        bos_token=START,
        eos_token=END,
        pad_token=END,
        model_max_length=77,
    )


def build_models(tokenizer: CLIPTokenizer) -> tuple[CLIPTextModel, UNet2DConditionModel]:
    """The text encoder (width 128, 2 layers) and the UNet (about 4M parameters, on 4x8x8 latents)."""
    text_encoder = CLIPTextModel(
        CLIPTextConfig(
            vocab_size=len(tokenizer),
            hidden_size=128,
            intermediate_size=256,
            projection_dim=128,
            num_hidden_layers=2,
            num_attention_heads=4,
            max_position_embeddings=77,
            bos_token_id=tokenizer.bos_token_id,
            eos_token_id=tokenizer.eos_token_id,
            pad_token_id=tokenizer.pad_token_id,
        )
    )
    unet = UNet2DConditionModel(
        sample_size=8,
        in_channels=4,
        out_channels=4,
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"),
        block_out_channels=(64, 128),
        layers_per_block=1,
        cross_attention_dim=128,
        attention_head_dim=8,
        norm_num_groups=16,
    )
    return text_encoder, unet


@torch.no_grad()
def encode_digits(vae: AutoencoderKL, generator: torch.Generator) -> tuple[torch.Tensor, torch.Tensor, list[str]]:
    """Scaled latents of jittered copies [copies, N, 4, 8, 8], labels [N] and attributes of the training digits."""
    images, labels = digits_32("train")
    attributes = measure_attributes(images, labels)
    copies = []
    for copy in range(JITTERED_COPIES):
        shown = images if copy == 0 else jitter(images, generator)
        copies.append(torch.cat([vae.encode(x.expand(-1, 3, -1, -1)).latent_dist.mean for x in shown.split(250)]))
    return torch.stack(copies) * vae.config.scaling_factor, labels, attributes


def train_diffusion(vae: AutoencoderKL, steps: int, batch: int, seed: int) -> StableDiffusionPipeline:
    """Train UNet and text encoder together on noise prediction, with caption dropout 0.1; return the EMA pipeline."""
    torch.manual_seed(seed)
    generator = torch.Generator().manual_seed(seed)
    captions = Captions(seed)
    tokenizer = train_tokenizer(captions.corpus())
    longest = max(len(tokenizer(text).input_ids) for text in captions.corpus())
    text_encoder, unet = build_models(tokenizer)
    sizes = [sum(p.numel() for p in m.parameters()) / 1e6 for m in (text_encoder, unet)]
    print(f"{len(tokenizer)} tokens, longest prompt {longest}; text encoder {sizes[0]:.2f}M, UNet {sizes[1]:.2f}M")
    latents, labels, attributes = encode_digits(vae, generator)
    schedule = {"beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear"}
    noise_scheduler = DDPMScheduler(num_train_timesteps=1000, **schedule)
    parameters = [*unet.parameters(), *text_encoder.parameters()]
    optimizer = torch.optim.AdamW(parameters, lr=1e-3, weight_decay=1e-2)
    ema = EMAModel(parameters, decay=0.999, use_ema_warmup=True, power=0.75)
    started, losses = time.monotonic(), []
    for step in range(steps):
        for group in optimizer.param_groups:
            group["lr"] = learning_rate(step, steps, 1e-3, warmup=200)
        rows = torch.randint(len(labels), (batch,), generator=generator)
        copies = torch.randint(JITTERED_COPIES, (batch,), generator=generator)
        texts = [captions.caption(int(labels[i]), attributes[i]) for i in rows.tolist()]
        texts = ["" if captions.random.random() < 0.1 else text for text in texts]
        tokens = tokenizer(texts, padding="max_length", truncation=True, max_length=77, return_tensors="pt").input_ids
        clean = latents[copies, rows]
        noise = torch.randn(clean.shape, generator=generator)
        timesteps = torch.randint(1000, (batch,), generator=generator)
        noisy = noise_scheduler.add_noise(clean, noise, timesteps)
        predicted = unet(noisy, timesteps, text_encoder(tokens).last_hidden_state).sample
        loss = F.mse_loss(predicted, noise)
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(parameters, 1.0)
        optimizer.step()
        ema.step(parameters)
        losses.append(loss.item())
        if step % 100 == 0 or step == steps - 1:
            rate = (time.monotonic() - started) / (step + 1)
            print(f"unet {step}/{steps} loss {np.mean(losses[-100:]):.4f} eta {rate * (steps - step):.0f}s", flush=True)
    ema.copy_to(parameters)
    scheduler = PNDMScheduler(
        num_train_timesteps=1000, skip_prk_steps=True, set_alpha_to_one=False, steps_offset=1, **schedule
    )
    return StableDiffusionPipeline(
        vae=vae,
        text_encoder=text_encoder,
        tokenizer=tokenizer,
        unet=unet,
        scheduler=scheduler,
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )


def save(pipeline: StableDiffusionPipeline, out: Path) -> None:
    """Save in fp16; say "float32" in the text encoder's configuration so that a plain load gives one dtype."""
    pipeline.to(torch.float16).save_pretrained(out)
    config = out / "text_encoder" / "config.json"
    config.write_text(json.dumps(json.loads(config.read_text()) | {"dtype": "float32"}, indent=2) + "\n")
    for file in out.rglob("*"):
        file.chmod(0o755 if file.is_dir() else 0o644)
    total = sum(file.stat().st_size for file in out.rglob("*") if file.is_file())
    print(f"saved {out}: {total / 1e6:.2f} MB")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, default=Path("imagenet_sd/generation/embedded_model"))
    parser.add_argument("--work", type=Path, default=Path("build/embedded"), help="keeps the autoencoder")
    parser.add_argument("--vae-steps", type=int, default=1200)
    parser.add_argument("--steps", type=int, default=5000)
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    torch.set_num_threads(2)
    torch.use_deterministic_algorithms(True)
    vae_folder = args.work / "vae"
    if not vae_folder.exists():
        train_vae(args.vae_steps, args.batch, args.seed).save_pretrained(vae_folder)
    vae = AutoencoderKL.from_pretrained(vae_folder).eval().requires_grad_(False)
    save(train_diffusion(vae, args.steps, args.batch, args.seed), args.out)


if __name__ == "__main__":
    main()
