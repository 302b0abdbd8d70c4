"""Uncertain and blank labels -> what the network learns, and what it is measured by."""

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from chexscore.labels import Policy, stripped, to_targets
from training.config import DataConfig

__all__ = ["learned", "measured"]


def measured(table: pd.DataFrame, data: DataConfig) -> NDArray[np.float32]:
    """The labels that scores are measured by.

    Args:
        table: from `training.datasets.read_table`.
        data: the recipe's policies.

    Returns:
        float32 [rows, labels]: 0, 1, or NaN for what a policy ignores or smooths.
    """
    policies: dict[str, Policy] = {
        label: policy if isinstance(policy, str) else "ignore"
        for label, policy in {"default": "negative", **data.uncertain}.items()
    }
    blank: dict[str, Policy] = {"default": "negative", **data.blank}
    return to_targets(table, data.labels, data.table, uncertain=policies, blank=blank)


def learned(table: pd.DataFrame, data: DataConfig, seed: int) -> NDArray[np.float32]:
    """The targets that the loss is computed with: `measured`, and draws for what a policy smooths.

    Returns:
        float32 [rows, labels], in 0..1, or NaN for what a policy ignores.
    """
    targets = measured(table, data)
    random = np.random.default_rng(seed)
    for column, label in enumerate(data.labels):
        policy = data.uncertain.get(label, data.uncertain.get("default", "negative"))
        draws = random.random(len(table), dtype=np.float32)  # of each label, so that none shifts another's
        if not isinstance(policy, str):
            low, high = policy
            uncertain = (pd.to_numeric(stripped(table[label]), errors="coerce") == -1).to_numpy()
            targets[uncertain, column] = (low + (high - low) * draws)[uncertain]
    return targets
