"""Prepares the records that a run trains on, and the loss's memory of them."""

from __future__ import annotations

import logging

import torch

from ganrun.base.randomness import derived_seed, isolated_random
from ganrun.base.texts import one_line
from ganrun.contracts.data import Data, Split
from ganrun.contracts.losses import Loss
from ganrun.recipe.recipe import Recipe
from ganrun.recipe.source import header
from ganrun.rehearsal.data import check_batch
from ganrun.rehearsal.losses import try_prepare
from ganrun.training.components import frame_of
from ganrun.training.share import lost_classes, share_of
from ganrun.training.sizes import largest_batch

log = logging.getLogger("ganrun")


def training_split(recipe: Recipe, data: Data, loss: Loss) -> Split:
    """The data's train split, or the share of it that the recipe requests."""
    with frame_of(recipe, recipe.data, "split"):
        train = data.split("train")
    return share_of(train, recipe.train.share, recipe.train.share_seed, paired=loss.paired)


def check_training_split(recipe: Recipe, data: Data, loss: Loss, training: Split) -> None:
    """Check that the records fill a batch. Warns if a share of the train split lacks one of its classes.

    Raises:
        DataError: located at the setting, if they do not.
    """
    share, (size, key) = recipe.train.share, largest_batch(recipe)
    where = recipe.where(key if share == 1 else ("train", "share"))
    setting = f"{header(key[:-1])} {key[-1]}"
    with frame_of(recipe, recipe.data, "split"):
        check_batch(training, size, paired=loss.paired, share=share, setting=setting, where=where)
        lost = lost_classes(data.split("train"), training)
    if lost:
        text = "%s: the share %g of the train split has no record of %d classes; the first is %s"
        log.warning(text, where, share, len(lost), one_line(data.class_names()[lost[0]]))


def prepare_loss(recipe: Recipe, loss: Loss, training: Split) -> None:
    """Fill the loss's memory from the training records, under a separate random stream.

    Raises:
        IncompatibleError: located at the loss's table, if it cannot be trained on them, or as `try_prepare`.
    """
    seed = derived_seed(recipe.train.seed, "loss", "prepare")
    with frame_of(recipe, recipe.loss, "prepare"), isolated_random(torch.device("cpu"), seed):
        try_prepare(loss, training)
