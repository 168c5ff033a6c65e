"""LightningModules: one training objective each."""

from clmr.modules.contrastive_learning import ContrastiveLearning
from clmr.modules.linear_evaluation import LinearEvaluation

__all__ = ["ContrastiveLearning", "LinearEvaluation"]
