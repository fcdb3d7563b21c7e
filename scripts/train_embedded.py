"""`make embedded`: train the embedded generator, a small real Stable Diffusion pipeline for photographs and digits.

It learns the ten kinds of CIFAR-10 photographs (50,000 training images) and the ten digits (4,000 training images) at
32x32, with captions made by the project's own prompt templates and by what is measured in each picture. Stages:

    data    the projection of pixels to latents, and the tokenizer, which everything else builds on
    vae     the autoencoder that inverts the projection and imitates it
    unet    UNet and text encoder together
    save    the pipeline

`vae` and `unet` need nothing of each other and can run side by side. Both write checkpoints into the work folder and go
on from there. A run that must end earlier is started again with a smaller `--steps`: the learning rate's way down is
computed from it.
"""

import argparse
import json
from pathlib import Path

import torch
from diffusers import AutoencoderKL, DPMSolverMultistepScheduler, StableDiffusionPipeline
from train_embedded_captions import Captions, train_tokenizer
from train_embedded_data import Pictures, Projection, jittered_digits, load_photos, to_float
from train_embedded_unet import (
    BASE_RATE,
    SCHEDULE,
    Batches,
    Choices,
    Weights,
    averaged_models,
    build_models,
    train_diffusion,
)
from train_embedded_vae import train_vae
from transformers import CLIPTokenizer

STAGES = ("data", "vae", "unet", "save")


def prepare(folder: Path, photos: Pictures, seed: int) -> None:
    """Fit the projection and the tokenizer, once."""
    real = len(photos.labels) - photos.painted
    digits, _ = jittered_digits(seed)
    some = torch.cat([to_float(photos.images[:real:4]), digits[0, ::2].expand(-1, 3, -1, -1)])
    projection = Projection.fit(some)
    restored = projection.back(projection(some))
    error = (restored - some).square().mean()
    print(f"projection: {10 * torch.log10(4 / error):.1f} dB", flush=True)
    captions = Captions(seed, photos.looks, photos.labels.tolist())
    tokenizer = train_tokenizer(captions.corpus())
    print(f"tokenizer: {len(tokenizer)} tokens", flush=True)
    tokenizer.save_pretrained(folder / "tokenizer")
    torch.save({"mean": projection.mean, "basis": projection.basis}, folder / "projection.pt")


def pipeline_of(folder: Path) -> StableDiffusionPipeline:
    """The pipeline of the work folder's newest checkpoints."""
    tokenizer = CLIPTokenizer.from_pretrained(folder / "tokenizer")
    text_encoder, unet, _ = averaged_models(folder, tokenizer)
    scheduler = DPMSolverMultistepScheduler(
        num_train_timesteps=1000,
        prediction_type="v_prediction",
        timestep_spacing="trailing",
        steps_offset=1,  # of no use to this one, but diffusers asks for it, and others are made from its settings
        **SCHEDULE,
    )
    scheduler.register_to_config(clip_sample=False, skip_prk_steps=True)  # for DDIM and PNDM: latents leave [-1, 1]
    return StableDiffusionPipeline(
        vae=AutoencoderKL.from_pretrained(folder / "vae").eval(),
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
    _edit(out / "text_encoder" / "config.json", {"dtype": "float32"})
    _edit(out / "vae" / "config.json", {})
    _edit(out / "unet" / "config.json", {})
    for file in out.rglob("*"):
        file.chmod(0o755 if file.is_dir() else 0o644)
    total = sum(file.stat().st_size for file in out.rglob("*") if file.is_file())
    print(f"saved {out}: {total / 1e6:.2f} MB")


def _edit(path: Path, changes: dict) -> None:
    """Change a configuration file, and take out the path that the model was loaded from."""
    config = json.loads(path.read_text())
    config.pop("_name_or_path", None)
    path.write_text(json.dumps(config | changes, indent=2) + "\n")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("imagenet_sd/generation/embedded_model"))
    parser.add_argument("--work", type=Path, default=Path("build/embedded"), help="keeps what is trained so far")
    parser.add_argument("--stages", nargs="+", choices=STAGES, default=STAGES)
    parser.add_argument("--vae-steps", type=int, default=4000)
    parser.add_argument("--steps", type=int, default=16000)
    parser.add_argument("--batch", type=int, default=128)
    parser.add_argument("--rate", type=float, default=BASE_RATE, help="learning rate of the diffusion model")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--workers", type=int, default=0, help="processes that prepare batches, for a GPU")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--no-compile", action="store_true")
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    device = torch.device(args.device)
    args.work.mkdir(parents=True, exist_ok=True)
    if {"data", "vae", "unet"} & set(args.stages):
        photos = load_photos(args.work)
    if "data" in args.stages and not (args.work / "projection.pt").exists():
        prepare(args.work, photos, args.seed)
    projection = Projection(**torch.load(args.work / "projection.pt", weights_only=True))
    if "vae" in args.stages:
        train_vae(photos, projection, args.work, steps=args.vae_steps, seed=args.seed, device=device)
    if "unet" in args.stages:
        torch.manual_seed(args.seed)
        tokenizer = CLIPTokenizer.from_pretrained(args.work / "tokenizer")
        choices = Choices(photos, tokenizer, batch=args.batch, seed=args.seed)
        batches = Batches(photos, projection, choices, device)
        weights = Weights.of(*(model.to(device) for model in build_models(tokenizer)))
        options = {"rate": args.rate, "compiled": not args.no_compile, "workers": args.workers}
        train_diffusion(batches, weights, args.work, steps=args.steps, **options)
    if "save" in args.stages:
        save(pipeline_of(args.work), args.out)


if __name__ == "__main__":
    main()
