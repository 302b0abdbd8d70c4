"""What feeds training, as ratios of things measured in turn in this process, the median of several rounds.

python -m tests.bench.prepare training/configs/kermany.toml --data DIR

Decoding: `prepare` beside Pillow alone on the same files with the same threads, once decoding only, once with
the grey and the size that the recipe asks for. Reading: batches from the prepared cache beside training steps
of the recipe's network on this machine.
"""

import argparse
import os
import statistics
import tempfile
import time
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
from PIL import Image

from training import networks
from training.augment import with_augmentation
from training.batches import Batches
from training.config import TrainConfig
from training.datasets import read_table
from training.devices import Devices
from training.loss import MaskedCrossentropy
from training.prepare import prepare


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("recipe", type=Path)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--images", type=int, default=2000, help="of the table, from its start")
    parser.add_argument("--rounds", type=int, default=3)
    arguments = parser.parse_args()
    config = TrainConfig.from_toml(arguments.recipe)
    paths = list(read_table(arguments.data, config.data)["path"][: arguments.images])
    size, workers = (config.image.width, config.image.height), os.cpu_count() or 1

    def decode(path: str) -> None:
        with Image.open(arguments.data / path) as image:
            image.load()

    def decode_and_resize(path: str) -> None:
        with Image.open(arguments.data / path) as image:
            np.asarray(image.convert("L").resize(size, Image.Resampling.BILINEAR))

    def pillow(work: Callable[[str], None]) -> None:
        with ThreadPoolExecutor(workers) as pool:
            list(pool.map(work, paths))

    def prepare_afresh() -> None:
        with tempfile.TemporaryDirectory() as folder:
            prepare(arguments.data, paths, config.image.spec, Path(folder), workers, lambda _: None)

    each = {
        "Pillow, decoding only": lambda: pillow(decode),
        "Pillow, decoded, grey and resized": lambda: pillow(decode_and_resize),
        "prepare": prepare_afresh,
    }
    rates = _in_turn(each, len(paths), arguments.rounds)
    for name, rate in rates.items():
        print(f"{name:36} {rate:8.0f} images/s, prepare is at {rates['prepare'] / rate:.2f} of it")

    with tempfile.TemporaryDirectory() as folder:
        cache = prepare(arguments.data, paths, config.image.spec, Path(folder), workers, lambda _: None)
        targets = np.zeros((len(paths), len(config.data.labels)), dtype=np.float32)
        order = np.random.default_rng(0).permutation(len(paths))
        devices = Devices(config)
        batches = Batches(cache.pixels, targets, order, config.batch_size, workers, devices)
        network = networks.build(config.network, config.image.spec, len(config.data.labels))
        trainer = with_augmentation(network, config.augment)
        trainer.compile("adam", loss=MaskedCrossentropy())
        trainer.fit(batches, verbose=0)  # compiles

        def read() -> None:
            with ThreadPoolExecutor(workers) as pool:
                list(pool.map(batches.__getitem__, range(len(batches))))

        rates = _in_turn(
            {"reading the cache": read, "training steps": lambda: trainer.fit(batches, verbose=0)},
            batches.images,
            arguments.rounds,
        )
    reading, training = rates.values()
    print(
        f"reading the cache {reading:.0f} images/s, {config.network.name} trains {training:.0f} images/s: ",
        end="",
    )
    print(f"{reading / training:.1f} times as many")


def _in_turn(each: Mapping[str, Callable[[], object]], images: int, rounds: int) -> dict[str, float]:
    """Images a second of each, the median over the rounds."""
    seconds: dict[str, list[float]] = {name: [] for name in each}
    for _ in range(rounds):
        for name, work in each.items():
            started = time.perf_counter()
            work()
            seconds[name].append(time.perf_counter() - started)
    return {name: images / statistics.median(values) for name, values in seconds.items()}


if __name__ == "__main__":
    main()
