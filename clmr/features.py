"""Features of every window of a split, computed once."""

from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

from clmr.audio import pcm_to_float
from clmr.encoders import Encoder
from clmr.slices import window_loader, window_places
from clmr.splits import Split
from clmr.store import PcmStore


class Features(NamedTuple):
    """Features of a split's windows.

    Shape:
        h: float32 `[K, F]`.
        clip_of_window: int `[K]`, which clip of the split a window is of.
        labels: uint8 `[n, C]`, of the clips.
    """

    h: Tensor
    clip_of_window: np.ndarray
    labels: np.ndarray


@torch.inference_mode()
def extract_features(
    encoder: Encoder,
    store: PcmStore,
    split: Split,
    window: int,
    *,
    batch_size: int,
    device: torch.device,
    workers: int,
    name: str,
) -> Features:
    """Encode every non-overlapping window of every clip of a split.

    Args:
        encoder: Network, used in evaluation mode.
        store: Decoded clips.
        split: Which of them.
        window: Samples of a window.
        batch_size: Windows encoded at once.
        device: Where to encode.
        workers: Processes that read; 0 is this one.
        name: What the progress bar says.
    """
    encoder = encoder.to(device).eval()
    places = window_places(split.clips, store.n_samples[split.clips], window)
    h = []
    with tqdm(desc=name, total=len(places.clips), unit=" windows", leave=False) as bar:
        for pcm in window_loader(store, places, window, batch_size, workers):
            h.append(encoder(pcm_to_float(pcm.to(device))).float().cpu())
            bar.update(len(pcm))
    position = {clip: k for k, clip in enumerate(split.clips.tolist())}
    clip_of_window = np.array([position[clip] for clip in places.clips.tolist()])
    return Features(torch.cat(h), clip_of_window, split.labels)
