"""The devices of a run: one, or all of this host or of several, by Keras's distribution API."""

import os
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import keras

from chexscore.errors import UsageError
from training.config import TrainConfig

__all__ = ["Devices"]

LAUNCHER_VARIABLE = "KERAS_DISTRIBUTION_JOB_ADDRESSES"
"""Set, with KERAS_DISTRIBUTION_NUM_PROCESSES and KERAS_DISTRIBUTION_PROCESS_ID, where several hosts train
together: https://keras.io/api/distribution/distribution_utils/."""


class Devices:
    """What a run computes on.

    Attributes:
        count: devices that share each batch.
        hosts: processes that run this program together, each on its own devices.
        host: the number of this one, from 0; host 0 alone writes the run folder.
    """

    def __init__(self, config: TrainConfig, *, gpu: bool = False) -> None:
        """Takes the devices that the recipe asks for.

        Args:
            config: the recipe.
            gpu: whether to refuse the CPU.

        Raises:
            UsageError: Keras cannot share batches on its present backend, they cannot be shared evenly, or
                there is no GPU.
        """
        self.count, self.hosts, self.host = 1, 1, 0
        self._parallel: Any = None
        if config.devices == "all":
            self._share(config)
        if gpu and not _gpus():
            raise UsageError(
                f"no GPU: Keras on {keras.backend.backend()} sees none; look at the driver and at the "
                "backend's CUDA packages, or leave out --gpu to train on the CPU."
            )

    def _share(self, config: TrainConfig) -> None:
        if keras.backend.backend() != "jax":
            raise UsageError(
                'devices = "all" needs Keras on JAX: install jax and set KERAS_BACKEND=jax; what it trains '
                "is exported under TensorFlow as ever."
            )
        if os.environ.get(LAUNCHER_VARIABLE):
            keras.distribution.initialize()  # before JAX is asked for anything
        # Each host reads its own share of a batch: see Batches.
        self._parallel = keras.distribution.DataParallel(auto_shard_dataset=False)
        self.count = self._parallel.num_model_replicas
        self.hosts, self.host = self._parallel.num_processes, self._parallel._process_id  # noqa: SLF001, no public name
        if config.batch_size % self.count:
            raise UsageError(
                f"batch_size = {config.batch_size} cannot be shared by {self.count} devices; "
                "take a multiple of them."
            )

    def shared(self) -> AbstractContextManager[Any]:
        """A context in which networks are built on, and trained by, all the devices together."""
        return nullcontext() if self._parallel is None else self._parallel.scope()

    def wait(self, moment: str) -> None:
        """Waits until all hosts have come to the same moment."""
        if self.hosts > 1:
            from jax.experimental import multihost_utils  # noqa: PLC0415, hosts are JAX's alone

            multihost_utils.sync_global_devices(moment)

    def __str__(self) -> str:
        name = f"{len(_gpus())} GPU" if _gpus() else "the CPU"
        shared = f", batches shared by {self.count} devices on {self.hosts} hosts" if self._parallel else ""
        return f"Keras {keras.__version__} on {keras.backend.backend()}, {name}{shared}"


def _gpus() -> list[str]:
    try:
        return list(keras.distribution.list_devices("gpu"))
    except RuntimeError:  # JAX's way of saying that there is none
        return []
