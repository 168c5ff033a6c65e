"""Contrastive learning of musical representations from raw audio (CLMR, arXiv:2103.09410)."""
