"""Change the values of pixels, not their places."""

import torch
from torch import Tensor


def normalised(images: Tensor, mean: Tensor, std: Tensor) -> Tensor:
    """Bring uint8 images [B, C, H, W] to float32 of mean 0 and deviation 1; mean and std are [C] on the scale 0 to 1.

    The operations are those of torchvision's ToTensor and Normalize in their order, so the bits are the same.
    Gray images are repeated where mean has three numbers.
    """
    floats = images.to(torch.float32, memory_format=torch.contiguous_format).div_(255)
    if floats.shape[1] == 1 and len(mean) == 3:
        floats = floats.repeat(1, 3, 1, 1)
    return floats.sub_(mean[:, None, None]).div_(std[:, None, None])
