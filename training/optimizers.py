"""Optimizer and learning rate by the recipe, and the decisions that the history of a run takes."""

from collections.abc import Sequence
from typing import Any

import keras
import numpy as np

from training.config import TrainConfig

__all__ = ["best_epoch", "build", "out_of_patience", "plateau_rate"]

PLATEAU_EPOCHS = 3
"""Epochs without a better AUC before the learning rate falls to a tenth."""

History = Sequence[dict[str, Any]]


def build(config: TrainConfig, steps: int) -> keras.optimizers.Optimizer:
    """The optimizer, before its first step; `steps` are those of an epoch."""
    rate: Any = config.learning_rate
    if config.schedule == "cosine":
        warmup = min(round(config.warmup_epochs * steps), config.epochs * steps - 1)
        rate = keras.optimizers.schedules.CosineDecay(
            0.0 if warmup else config.learning_rate,
            config.epochs * steps - warmup,
            alpha=config.final_learning_rate / config.learning_rate,
            warmup_target=config.learning_rate if warmup else None,
            warmup_steps=warmup,
        )
    settings: dict[str, Any] = {
        "learning_rate": rate,
        "global_clipnorm": config.clip_norm or None,
        "use_ema": config.average > 0,
        "ema_momentum": 0.5 ** (1 / (config.average * steps)) if config.average else 0.0,
    }
    if config.optimizer == "adam":
        return keras.optimizers.Adam(**settings)
    optimizer = keras.optimizers.AdamW(weight_decay=config.weight_decay, **settings)
    optimizer.exclude_from_weight_decay(var_names=["bias", "gamma", "beta"])
    return optimizer


def best_epoch(history: History) -> int:
    """The epoch with the highest macro AUC, counted from 1; the latest of equal ones."""
    return max(range(1, len(history) + 1), key=lambda epoch: (_auc(history[epoch - 1]), epoch))


def out_of_patience(history: History, patience: int) -> bool:
    """Whether the last `patience` epochs brought no better AUC; never with a patience of 0."""
    return bool(patience) and _epochs_since_better(history) >= patience


def plateau_rate(history: History, config: TrainConfig) -> float:
    """The rate of the next epoch: a tenth after each PLATEAU_EPOCHS without a better AUC."""
    falls, best, since = 0, -1.0, 0
    for row in history:
        if _auc(row) > best:
            best, since = _auc(row), 0
        elif (since := since + 1) == PLATEAU_EPOCHS:
            falls, since = falls + 1, 0
    return max(config.learning_rate * 0.1**falls, config.final_learning_rate)


def _epochs_since_better(history: History) -> int:
    values = [_auc(row) for row in history]
    return len(values) - 1 - int(np.argmax(values)) if values else 0


def _auc(row: dict[str, Any]) -> float:
    """What epochs are compared by; without two classes to tell apart they are all the same."""
    return float(np.nan_to_num(row["auc_macro"]))
