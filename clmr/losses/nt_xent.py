"""NT-Xent, the contrastive loss of SimCLR (Chen et al. 2020, arXiv:2002.05709), on any devices."""

from clmr.losses.pairs import PairLoss


class NTXent(PairLoss):
    """Normalised temperature-scaled cross-entropy: which of all other views is this one's twin?

    Of a view z and its twin z', with s the cosine similarity over the temperature:
    -log(exp s(z, z') / sum of exp s(z, y) over all views y but z).
    """

    decoupled = False
