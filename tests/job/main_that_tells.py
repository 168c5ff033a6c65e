"""main.py with every loss in turn, on several processes or one, which tells what it computed.

All draw the augmentations of the whole batch, as one process does, and apply those of their own
part: with the same crops, several processes then train on what one does.

Usage: main_that_tells.py FOLDER [settings ...]; the folders of the runs are in FOLDER.
"""

import os
import sys
from pathlib import Path

import torch

from clmr.augmentations import Draw
from clmr.config import load_config
from clmr.losses import LOSSES
from clmr.modules import ContrastiveLearning
from clmr.modules.contrastive_learning import TRAIN
from clmr.slices import Slices
from clmr.train import train

told: dict = {}


def draw(module, n_clips, stream, step):
    """Those rows of the whole batch's draws that are of this process's clips."""
    if stream == TRAIN:
        told["own_draws"][step] = str(own_draw(module, n_clips, stream, step))
    n_all = n_clips * module.trainer.world_size
    module.generator.manual_seed(1000 * step + stream)
    own = torch.arange(n_clips) + n_clips * module.global_rank
    own = torch.cat([own, own + n_all])  # of views i, then of views j
    whole = module.augment.draw(2 * n_all)
    return {name: part_of(draw, own) for name, draw in whole.items()}


def part_of(whole, own):
    place, chosen = (whole.rows == own[:, None]).nonzero().T
    return Draw(place, {name: value[chosen] for name, value in whole.parameters.items()})


def setup(module, stage):
    module.double()


def step(module, crops, stream, number):
    loss = own_step(module, crops.double() / 2**15, stream, number)
    if stream == TRAIN:
        told["losses"].append(loss.detach().clone())
    return loss


def on_before_optimizer_step(module, optimizer):
    if module.global_step == 0:
        told["gradients"] = {
            name: parameter.grad.clone() for name, parameter in module.named_parameters()
        }


def read(slices, places):
    told["clips"].append(places.clips)
    return own_read(slices, places)


own_step, own_draw = ContrastiveLearning._step, ContrastiveLearning.draw
own_read = Slices.__getitem__
ContrastiveLearning.setup = setup
ContrastiveLearning._step = step
ContrastiveLearning.draw = draw
ContrastiveLearning.on_before_optimizer_step = on_before_optimizer_step
Slices.__getitem__ = read

if __name__ == "__main__":
    folder, settings = Path(sys.argv[1]), sys.argv[2:]
    for loss in LOSSES:
        told = {"losses": [], "own_draws": {}, "clips": []}
        train(load_config([*settings, "--loss", loss, "--run_dir", str(folder / loss)]))
        torch.save(told, folder / f"{loss}-{os.environ.get('RANK', 0)}.pt")
