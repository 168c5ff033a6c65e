"""Lengths of FFTs."""

from clmr.augmentations.fast_length import fast_length


def factors(n):
    """Prime factors of n, smallest first."""
    found, d = [], 2
    while n > 1:
        while n % d == 0:
            found.append(d)
            n //= d
        d += 1
    return found


def test_a_fast_length_is_large_enough_smooth_and_little_larger():
    for n in (*range(1, 600), 59_049, 61_439, 61_441, 65_537, 300_000, 2**20 + 1):
        length = fast_length(n)
        assert n <= length < 1.25 * n
        odd = [f for f in factors(length) if f != 2]
        assert odd in ([], [3], [5], [3, 3], [3, 5])


def test_a_fast_length_is_its_own():
    lengths = {m << k for m in (1, 3, 5, 9, 15) for k in range(16)}
    assert all(fast_length(n) == n for n in lengths)
    assert fast_length(59_049) == 61_440  # 15 * 2 ** 12
