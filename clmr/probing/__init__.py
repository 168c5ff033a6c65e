"""Probes during pretraining: what the representation is worth so far, and an early end."""

from clmr.probing.probes import Probes, build_probes, check_probes

__all__ = ["Probes", "build_probes", "check_probes"]
