"""The model's own safety checker, used to flag images and never to change them."""

from pathlib import Path
from typing import Any

import numpy as np
import torch
from diffusers.pipelines.stable_diffusion import safety_checker
from diffusers.pipelines.stable_diffusion.safety_checker import StableDiffusionSafetyChecker
from PIL import Image
from transformers import CLIPImageProcessor

from imagenet_sd.core.errors import ModelError, one_line


class SafetyChecker:
    """Says which images Stable Diffusion's own checker takes for unsafe.

    It runs in float32 whatever the dtype of the generator. What it detects and what it misses: Rando et al.,
    "Red-teaming the Stable Diffusion safety filter", 2022.

    Args:
        model: the checker.
        processor: preprocesses its input.
    """

    def __init__(self, model: StableDiffusionSafetyChecker, processor: CLIPImageProcessor):
        self.model, self.processor = model, processor

    @classmethod
    def load(cls, folder: Path, device: torch.device) -> "SafetyChecker":
        """Load the checker of a pipeline's folder: safetensors only, every weight present.

        Raises:
            ModelError: it is missing or damaged.
        """
        hint = "download or copy the model again, or generate into a new folder without --flag-nsfw"
        try:
            loaded: Any = StableDiffusionSafetyChecker.from_pretrained(
                folder / "safety_checker",
                dtype=torch.float32,
                use_safetensors=True,
                local_files_only=True,
                output_loading_info=True,
            )
            model, info = loaded
            processor = CLIPImageProcessor.from_pretrained(folder / "feature_extractor", local_files_only=True)
        except Exception as error:  # loaders raise many kinds on damaged files; each means the checker is unusable
            raise ModelError(f"{folder} has no usable safety checker: {one_line(error)}", hint) from None
        if missing := sorted(info["missing_keys"]):  # the loader would leave them random
            raise ModelError(f"the safety checker in {folder} lacks {len(missing)} weights, such as {missing[0]}", hint)
        return cls(model.eval().to(device), processor)

    @torch.inference_mode()
    def flags(self, pixels: np.ndarray) -> list[bool]:
        """Which images are flagged.

        Args:
            pixels: uint8 [images, height, width, 3]; left as they are.
        """
        clip_input = self.processor([Image.fromarray(image) for image in pixels], return_tensors="pt").pixel_values
        safety_checker.logger.setLevel("ERROR")  # it would announce black images, of which there are none
        placeholders = np.zeros((len(pixels), 1))  # it blackens these in place of the images
        _, flagged = self.model(clip_input=clip_input.to(self.model.device, torch.float32), images=placeholders)
        return [bool(flag) for flag in flagged]
