"""What a run that has died looks like, in words."""

# Encoders in training were seen to take 17 to 25 % of the directions that there could be, and those
# dead of a learning rate of 1 or 10 below 4 %. Where all clips are alike, it is a single one.
LEAST_SHARE, LEAST_RANK = 0.05, 2
LEAST_SPREAD = -0.02  # uniformity: projections a tenth of the sphere's radius apart, or less
WHAT_HELPS = (
    "this seldom mends itself; what people try: a lower --learning_rate, --warmup_steps, the "
    "--temperature 0.5 of CLMR, or --loss vicreg, whose variance term holds against it"
)


def what_is_dead(figures: dict[str, float], most_rank: int) -> str:
    """Say in words what has collapsed, or nothing if all is well.

    Args:
        figures: As of `ProbeSet.measure`.
        most_rank: The effective rank that there could be.
    """
    if not figures:
        return "in evaluation mode, features or projections are not finite"
    rank, spread, found = figures["effective_rank"], figures["uniformity"], []
    if rank < max(LEAST_RANK, LEAST_SHARE * most_rank):
        found.append(
            f"the features of all clips are nearly alike (effective rank {rank:.3g} of {most_rank})"
        )
    if spread > LEAST_SPREAD:
        found.append(
            f"the projections of all clips are nearly alike (uniformity {spread:.3g}, of 0 to -4)"
        )
    return " and ".join(found)
