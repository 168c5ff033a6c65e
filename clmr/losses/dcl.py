"""Decoupled NT-Xent (DCL: Yeh et al. 2022, arXiv:2110.06848), on any devices."""

from clmr.losses.pairs import PairLoss


class DCL(PairLoss):
    """NT-Xent without the twin in the denominator, which makes it less sensitive to small batches.

    Of a view z and its twin z', with s the cosine similarity over the temperature:
    -s(z, z') + log(sum of exp s(z, y) over the views y of all other clips). The mean over views,
    where the paper has the sum (its definition of L_DC).
    """

    decoupled = True
