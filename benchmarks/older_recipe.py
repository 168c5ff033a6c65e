"""The older recipe, rebuilt from its published packages, to be compared with.

CLMR's data workers augment one crop at a time by torchaudio-augmentations; the step is in float32,
through torch's own 1-D layers, with `simclr.NT_Xent` and Adam. That code reads every crop out of a
whole decoded file; here it cuts crops out of the mapped store, which does it a favour.
"""

import importlib
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import torch
from simclr import SimCLR
from simclr.modules import NT_Xent
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset, RandomSampler

from clmr.audio import pcm_to_float
from clmr.augmentations.effect_chain import register_effect_chain
from clmr.augmentations.reference import ReferenceChain
from clmr.config import Config
from clmr.encoders import ENCODERS
from clmr.splits import Split
from clmr.store import PcmStore


def import_reference() -> ModuleType:
    """The package torchaudio-augmentations, with SoX or what stands in for it."""
    here = str(Path(__file__).parent)  # where `augment`, which the package needs, is another file
    before = sys.path[:]
    sys.path[:] = [path for path in before if path != here]
    register_effect_chain()
    sys.path[:] = before
    return importlib.import_module("torchaudio_augmentations")


class Crops(Dataset):
    """Two augmented crops of a clip, float32 `[2, 1, T]`."""

    def __init__(self, config: Config, store: PcmStore, split: Split) -> None:
        self.config, self.store, self.split = config, store, split
        import_reference()
        length = config.audio_length
        self.augment = ReferenceChain(config.transforms, config.sample_rate, length)

    def __len__(self) -> int:
        return len(self.split.clips)

    def __getitem__(self, number: int) -> Tensor:
        clip, length = self.split.clips[number], self.config.audio_length
        starts = torch.randint(0, int(self.store.n_samples[clip]) - length + 1, (2,))
        return torch.stack([self._view(clip, int(start), length) for start in starts])

    def _view(self, clip: int, start: int, length: int) -> Tensor:
        x = pcm_to_float(torch.from_numpy(self.store.read(clip, start, length).copy()))
        return self.augment(x[None], start)  # [1, T]


def one_dimensional(name: str) -> nn.Module:
    """An encoder of ours in torch's own layers, in the paper's order: the ReLU before the pool."""
    ours, layers = ENCODERS[name](), []
    for number, block in enumerate(ours.sequential):
        n_out, n_in, width = block[0].weight.shape
        layers += [nn.Conv1d(n_in, n_out, width, 1 if number else width, block[0].padding)]
        layers += [nn.BatchNorm1d(n_out), nn.ReLU()]
        layers += [nn.MaxPool1d(3)] if 0 < number < len(ours.sequential) - 1 else []
    encoder = nn.Sequential(*layers, nn.AdaptiveAvgPool1d(1), nn.Flatten())
    encoder.fc = nn.Identity()
    return SimCLR(encoder, 64, ours.n_features)


def steps(config: Config, store: PcmStore, split: Split, device: torch.device) -> Iterator[None]:
    """Take a step at every `next`."""
    model = one_dimensional(config.encoder).to(device).train()
    loss = NT_Xent(config.batch_size, config.temperature, world_size=1)
    optimizer = torch.optim.Adam(model.parameters(), lr=config.learning_rate)
    crops = Crops(config, store, split)
    loader = DataLoader(
        crops,
        batch_size=config.batch_size,
        sampler=RandomSampler(crops, num_samples=10**9, replacement=True),
        num_workers=config.workers,
        multiprocessing_context="fork",  # as on Linux, also where this process was spawned
        pin_memory=device.type == "cuda",
    )
    for batch in loader:  # [B, 2, 1, T]
        x_i, x_j = batch.to(device, non_blocking=True).unbind(1)
        optimizer.zero_grad()
        _, _, z_i, z_j = model(x_i, x_j)
        loss(z_i, z_j).backward()
        optimizer.step()
        yield
