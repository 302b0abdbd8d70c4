"""What a Ray cluster needs: its throughput, and the memory of the process that leads it.

    python -m tests.bench.cluster speed     images a second with one network and with two, on this machine
    python -m tests.bench.cluster memory    10,000 listed paths against 1,000,000, without pixels

`speed` scores drawn X-rays with the bundled network. `memory` lists paths that are not there and makes their
rows up: what is measured is the list, its parts and the merge, without Ray and its nodes.
"""

import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

from PIL import Image

from chexscore import Classifier
from chexscore.cluster.job import Job
from chexscore.cluster.parts import Scored
from chexscore.cluster.run import merge, run
from chexscore.options import Options
from chexscore.predictions import Prediction, Status
from chexscore.stopping import Stop
from tests.phantoms import draw

FILMS = 400


class Stub:
    """Rows without pixels."""

    def __init__(self) -> None:
        self.classifier = Classifier(device="cpu")

    def score(self, job: Job, _: Stop) -> Iterator[Scored]:
        scores = dict.fromkeys(self.classifier.spec.labels, 0.5)
        for begin, end in job.spans:
            for position in range(begin, end):
                yield Scored(position, Prediction(f"/archive/{position:09}.png", Status.OK, scores), 8)


def memory(folder: Path, count: int) -> None:
    """Prints seconds and peak memory after the list and the parts, and after the merge."""
    paths = (f"/archive/{number:09}.png" for number in range(count))
    began = time.monotonic()
    run(paths, str(folder / "out"), Stub(), Options())
    made, peak = time.monotonic() - began, _peak()
    began = time.monotonic()
    merge(str(folder / "out"), str(folder / "out.csv"))
    size = sum(file.stat().st_size for file in (folder / "out").rglob("*"))
    print(
        f"{count} paths: {made:.0f} s, peak {peak:.0f} MB; merged in {time.monotonic() - began:.0f} s, peak "
        f"{_peak():.0f} MB; {size / count:.0f} bytes an image in the folder"
    )


def speed(folder: Path) -> None:
    """Prints images a second, the start of Ray left out, as the command says it."""
    (folder / "films").mkdir()
    for number in range(FILMS):
        Image.fromarray(draw(number, size=512)).save(folder / "films" / f"{number:03}.jpg")
    for workers in (1, 2):
        command = [sys.executable, "-m", "chexscore", "predict", str(folder / "films"), "--engine", "ray"]
        output = str(folder / f"out{workers}")
        done = subprocess.run(
            [*command, "-o", output, "--workers", str(workers)], capture_output=True, text=True, check=True
        )
        print(f"{workers} networks: {done.stderr.splitlines()[-1]}")


def _peak() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def main() -> None:
    """Runs what is named in a folder of its own."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        match sys.argv[1:]:
            case ["speed"]:
                speed(folder)
            case ["memory", count]:
                memory(folder, int(count))
            case ["memory"]:
                for count in ("10000", "1000000"):  # a process each: a peak never falls
                    subprocess.run([sys.executable, "-m", "tests.bench.cluster", "memory", count], check=True)
            case _:
                sys.exit(__doc__)


if __name__ == "__main__":
    main()
