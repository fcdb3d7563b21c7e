"""How an image is shown to an encoder at test time, in training's validation and in evaluation alike."""

import numpy as np
from PIL import Image

# Channel means and standard deviations of ImageNet in [0, 1], which pre-trained encoders expect.
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


def center_crop(image: Image.Image, size: int) -> np.ndarray:
    """Shorter edge to `size` pixels (bicubic), then the central square: the evaluation protocol of thesis 4.4.

    Returns:
        uint8 [3, size, size].
    """
    width, height = image.size
    scale = size / min(width, height)
    if (width, height) != (size, size):
        resized = (max(size, int(width * scale)), max(size, int(height * scale)))
        image = image.resize(resized, Image.Resampling.BICUBIC)
    left, top = round((image.width - size) / 2), round((image.height - size) / 2)
    return np.ascontiguousarray(np.asarray(image)[top : top + size, left : left + size].transpose(2, 0, 1))
