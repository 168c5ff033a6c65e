"""A linear head, or one with a hidden layer, on features of a frozen encoder."""

import pytorch_lightning as pl
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from clmr.config import Config


class LinearEvaluation(pl.LightningModule):
    """Tags from features.

    Args:
        config: Settings.
        n_features: Width F of the features.
        tags: Names of the C tags.

    The features may be standardised first: see `standardize`.
    """

    def __init__(self, config: Config, n_features: int, tags: tuple[str, ...]) -> None:
        super().__init__()
        self.save_hyperparameters(
            {**config.to_dict(), "n_features": n_features, "tags": list(tags)}
        )
        self.config = config
        hidden = [nn.Linear(n_features, n_features), nn.ReLU()] if config.finetuner_mlp else []
        self.model = nn.Sequential(*hidden, nn.Linear(n_features, len(tags)))
        self.register_buffer("mean", torch.zeros(n_features))
        self.register_buffer("std", torch.ones(n_features))

    def standardize(self, h: Tensor) -> None:
        """Take mean and deviation of each feature from training features `[K, F]`.

        A feature that is the same everywhere is left as it is: it says nothing, and must not be
        divided by zero.
        """
        std, mean = torch.std_mean(h, dim=0, unbiased=False)
        self.mean.copy_(mean)
        self.std.copy_(torch.where(std > 1e-6 * mean.abs() + 1e-12, std, torch.ones_like(std)))

    def forward(self, h: Tensor) -> Tensor:
        """Logits of tags: float `[B, F]` -> float `[B, C]`."""
        return self.model((h - self.mean) / self.std)

    def training_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> Tensor:
        return self._step(batch, "Train/loss")

    def validation_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> Tensor:
        return self._step(batch, "Valid/loss")

    def configure_optimizers(self) -> dict:
        optimizer = torch.optim.Adam(
            self.parameters(),
            lr=self.config.finetuner_learning_rate,
            weight_decay=self.config.weight_decay,
        )
        # Factor and patience as CLMR's.
        scheduler = torch.optim.lr_scheduler.ReduceLROnPlateau(optimizer, factor=0.1, patience=5)
        return {
            "optimizer": optimizer,
            "lr_scheduler": {"scheduler": scheduler, "monitor": "Valid/loss"},
        }

    def _step(self, batch: tuple[Tensor, Tensor], name: str) -> Tensor:
        h, labels = batch
        loss = F.binary_cross_entropy_with_logits(self(h), labels.to(h.dtype))
        self.log(name, loss, on_step=False, on_epoch=True, prog_bar=True, batch_size=len(h))
        return loss
