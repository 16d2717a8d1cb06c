"""The class of each generated image: classes are drawn in the proportions of the reference.

A distance between images with equal classes and a reference with unequal ones would measure the proportions too.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor


def class_sequence(counts: Tensor, images: int) -> Tensor:
    """The classes of images 0 to `images` − 1, int64 (images,).

    `counts` int64 (classes,) are the images that the reference has of each class. Class c comes at the times
    (k + ½)·total/counts[c], k = 0, 1, …, and the images take the classes as they come. So each class has had its share
    to within a few images after any number of them, an image's class does not depend on how many are drawn, and equal
    counts give i mod classes.
    """
    total, frequency = int(counts.sum()), counts.numpy().astype(np.float64)
    if total <= 0 or bool((counts < 0).any()):
        raise ValueError(f"counts: {counts.tolist()} are no counts of images")
    present = np.flatnonzero(frequency)
    shares = np.ceil(images * frequency[present] / total).astype(np.int64) + 1
    classes = np.repeat(present, shares)
    turn = np.concatenate([np.arange(share) for share in shares])
    times = (turn + 0.5) * total / frequency[classes]
    order = np.lexsort((classes, times))[:images]
    return torch.from_numpy(classes[order].astype(np.int64))
