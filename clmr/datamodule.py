"""Crops of a store to train on, as a LightningDataModule."""

import logging
import signal

import numpy as np
import pytorch_lightning as pl
import torch
from torch import Tensor
from torch.utils.data import DataLoader

from clmr.ahead import ReadAhead
from clmr.augmentations.reference import ReferenceChain
from clmr.config import Config
from clmr.datasets import Clip
from clmr.device import check_store_device, choose_devices
from clmr.errors import ConfigError
from clmr.resident import ResidentStore
from clmr.slices import CropSampler, Slices, Starts
from clmr.splits import Split, check_audio_length, select_split
from clmr.store import PcmStore

GRACE_S = 60  # a reading process lives no longer after SIGTERM

log = logging.getLogger(__name__)


class ContrastiveDataModule(pl.LightningDataModule):
    """Pairs of crops for pretraining: int16 `[B, 2, T]`, to be augmented on the device.

    With `augmentations: reference` they are augmented where they are read: float32 `[B, 2, T]`.
    With `store_device: cpu` or `cuda` the loaders hand over where they start, and they are gathered
    when a batch comes to its device.

    Args:
        config: Settings.
        store: Decoded clips.
        clips: The dataset's clips.

    Raises:
        ConfigError: `audio_length` is longer than any clip or shorter than the reference's echo, or
            `store_device` cannot be had with the other settings.
    """

    def __init__(self, config: Config, store: PcmStore, clips: list[Clip]) -> None:
        super().__init__()
        self.config, self.store = config, store
        self.resident: ResidentStore | None = None  # until `setup`
        self.n_steps_before = 0  # taken already by a run that goes on
        check_audio_length(store, config.audio_length)
        self.train = select_split(store, clips, "train", config.audio_length)
        self.valid = select_split(store, clips, "valid", config.audio_length)
        self.augment = reference_of(config) if config.augmentations == "reference" else None
        self.accelerator, _ = choose_devices(config.accelerator, config.gpus)
        check_store_device(config.store_device, self.accelerator)
        if self.augment and config.store_device != "mapped":
            raise ConfigError(
                f"--store_device {config.store_device} leaves no crop to be read, and "
                "--augmentations reference augments crops where they are read: give "
                "--store_device mapped, or --augmentations clmr"
            )

    def setup(self, stage: str) -> None:
        """Load the clips to where they are to be, on each device for itself."""
        if self.config.store_device != "mapped":
            on_gpu = self.config.store_device == "cuda"
            self.resident = ResidentStore(
                self.store,
                np.concatenate([self.train.clips, self.valid.clips]),
                self.trainer.strategy.root_device if on_gpu else torch.device("cpu"),
                progress=self.trainer.is_global_zero,
            )

    def teardown(self, stage: str) -> None:
        self.resident = None  # its memory is for what comes next

    def transfer_batch_to_device(
        self, batch: Tensor, device: torch.device, dataloader_idx: int
    ) -> Tensor:
        if self.resident:
            batch = self.resident.crops(batch, self.config.audio_length)
            if batch.device.type != device.type:  # else the copy would wait for all steps so far
                batch = batch.pin_memory()
        return super().transfer_batch_to_device(batch, device, dataloader_idx)

    def check_enough_clips(self, n_devices: int) -> None:
        """Refuse a batch in which a clip has no other clip to be told from."""
        n_clips, n_in_batch = len(self.train.clips), self.config.batch_size * n_devices
        if n_clips < max(2, n_devices):
            raise ConfigError(
                f"{n_clips} clips to train on in {self.store.root}, for {n_devices} devices: "
                "contrast needs two clips at least; give a folder with more files, or a smaller "
                "--audio_length"
            )
        if n_in_batch < 2:
            raise ConfigError("--batch_size 1 has no second clip to contrast with: give 2 or more")
        if n_clips < n_in_batch:
            log.warning(
                "%d clips to train on are fewer than a batch of %d: every batch is of %d clips",
                n_clips, n_in_batch, n_clips // n_devices * n_devices,
            )  # fmt: skip

    def steps_in_epoch(self, n_devices: int) -> int:
        """How many batches an epoch has on each device."""
        return len(self._sampler(self.train, shuffle=True, rank=0, world_size=n_devices))

    def clips_at(self, step: int) -> list[str]:
        """The ids of the clips that a step of training takes, on all devices together."""
        world_size = self.trainer.world_size
        clips = []
        for rank in range(world_size):
            sampler = self._sampler(self.train, True, rank, world_size)
            sampler.start_at(step)
            clips += [self.store.ids[clip] for clip in next(iter(sampler)).clips]
        return clips

    def can_validate(self, n_devices: int) -> bool:
        """Whether there are clips enough for a validation loss."""
        return len(self.valid.clips) >= max(2, n_devices)

    def train_dataloader(self) -> DataLoader:
        if self.augment and not self.config.workers and self._rank() == 0:
            log.info(
                "the reference augmentations run on the main process, one crop at a time: "
                "--workers N runs them on N processes"
            )
        loader = self._loader(self.train, shuffle=True)
        loader.sampler.start_at(self.n_steps_before)
        return loader

    def val_dataloader(self) -> DataLoader:
        return self._loader(self.valid, shuffle=False)

    def _rank(self) -> int:
        return self.trainer.global_rank if self.trainer else 0

    def _loader(self, split: Split, shuffle: bool) -> DataLoader:
        workers = 0 if self.resident else self.config.workers or 0
        world_size = self.trainer.world_size if self.trainer else 1
        crops = Slices(self.store, self.config.audio_length, self.augment)
        # The reference chain draws from generators that the main thread draws from as well.
        loader = DataLoader if self.augment else ReadAhead
        return loader(
            Starts(self.resident.first) if self.resident else crops,
            sampler=self._sampler(split, shuffle, self._rank(), world_size),
            batch_size=None,  # a batch is read at once
            num_workers=workers,
            worker_init_fn=_leave_signals_to_the_parent,
            persistent_workers=workers > 0,
            pin_memory=self.accelerator == "gpu",
        )

    def _sampler(self, split: Split, shuffle: bool, rank: int, world_size: int) -> CropSampler:
        return CropSampler(
            split.clips,
            self.store.n_samples[split.clips],
            self.config.audio_length,
            self.config.batch_size,
            self.config.seed,
            shuffle,
            rank,
            world_size,
        )


def reference_of(config: Config) -> ReferenceChain:
    """The chain of torchaudio-augmentations that the settings ask for.

    Raises:
        ConfigError: Crops are too short for it.
    """
    try:
        return ReferenceChain(config.transforms, config.sample_rate, config.audio_length)
    except ValueError as error:
        raise ConfigError(
            f"--transforms_{error} at --sample_rate {config.sample_rate}; give "
            "--transforms_delay 0, or a longer --audio_length"
        ) from error


def _leave_signals_to_the_parent(_: int) -> None:
    """Go on reading until the parent ends: terminals and schedulers signal all of a job."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    # The parent itself sends SIGTERM as its last means, and waits for the end.
    signal.signal(signal.SIGTERM, lambda *_: signal.alarm(GRACE_S))
