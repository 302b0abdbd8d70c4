"""What a Ray cluster needs: its throughput, and the memory of the process that leads it.

    python -m tests.bench.cluster speed     images a second without Ray, with one network and with two
    python -m tests.bench.cluster memory    10,000 listed paths against 1,000,000, without pixels

`speed` scores drawn X-rays with the bundled network, on this machine (Linux); the start of Ray is left out.
Processor time says what a cluster needs even where other programs keep this machine busy. `memory` lists
paths that are not there and makes their rows up: the list, its parts and the merge are measured, and not Ray.
"""

import os
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack, suppress
from dataclasses import replace
from functools import partial
from pathlib import Path

from PIL import Image

from chexscore import Classifier
from chexscore.cluster.job import Job
from chexscore.cluster.parts import Scored
from chexscore.cluster.run import merge, on_ray, run
from chexscore.options import Options
from chexscore.predictions import Prediction, Status
from chexscore.runs import run as run_here
from chexscore.scoring import open_classifier
from chexscore.stopping import Stop
from tests.phantoms import draw

FILMS, FEW, DRAWN = 1200, 100, 50


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
    there = folder / "film.png"
    there.touch()

    def paths() -> Iterator[str]:
        yield str(there)
        yield from (f"/archive/{number:09}.png" for number in range(1, count))

    began = time.monotonic()
    run(paths(), str(folder / "out"), Stub(), Options())
    made, peak = time.monotonic() - began, _peak()
    began = time.monotonic()
    run(paths(), str(folder / "out"), Stub(), Options(resume=True))
    looked = time.monotonic() - began
    began = time.monotonic()
    merge(str(folder / "out"), str(folder / "out.csv"))
    size = sum(file.stat().st_size for file in (folder / "out").rglob("*"))
    print(
        f"{count} paths: {made:.0f} s, peak {peak:.0f} MB; read for --resume in {looked:.0f} s; merged in "
        f"{time.monotonic() - began:.0f} s, peak {_peak():.0f} MB; {size / count:.0f} bytes an image"
    )


def speed(folder: Path) -> None:
    """Prints images a second of this machine's engine and of Ray with one network and with two, in turn."""
    (folder / "films").mkdir()
    for number in range(FILMS):
        film = folder / "films" / f"{number:05}.jpg"
        if number < DRAWN:
            Image.fromarray(draw(number, size=1024)).save(film)
        else:
            os.link(folder / "films" / f"{number % DRAWN:05}.jpg", film)
    size = sum(film.stat().st_size for film in (folder / "films").iterdir()) / FILMS
    print(
        f"{FILMS} drawn JPEGs of 1024 x 1024 pixels, {size / 1000:.0f} kB each; load {os.getloadavg()[0]:.1f}"
    )
    for workers in ("here", "1", "2"):
        subprocess.run([sys.executable, "-m", "tests.bench.cluster", "run", folder, workers], check=True)


def rate(folder: Path, workers: str) -> None:
    """Prints what more images take than few: images a second, and processor time an image."""
    films, output, options = str(folder / "films"), str(folder / workers), Options(overwrite=True)
    if workers != "here":
        options = replace(options, workers=int(workers))
    with ExitStack() as opened:
        if workers == "here":
            score = partial(run_here, output=f"{output}.csv", classifier=open_classifier(), options=options)
        else:
            engine = opened.enter_context(on_ray(output, options, "local", None, "auto"))
            score = partial(run, output=output, engine=engine, options=options)
        few = [f"{films}/{number:05}.jpg" for number in range(FEW)]
        took = []
        for paths in (few, few, [films]):  # the first one warms up
            began, before = time.monotonic(), _processor_s()
            score(paths)
            took.append((time.monotonic() - began, _processor_s() - before))
    _, (wall_few, processor_few), (wall, processor) = took
    name = "without Ray" if workers == "here" else f"--engine ray --workers {workers}"
    count, load = FILMS - FEW, os.getloadavg()[0]
    per_second, each = count / (wall - wall_few), 1000 * (processor - processor_few) / count
    print(
        f"{name}: {per_second:.0f} images/s, {each:.1f} ms of a processor an image; the first {FEW} took "
        f"{processor_few:.0f} s of it; load {load:.1f}"
    )


def _processor_s() -> float:
    """What this process and all below it have taken of processors."""
    parents, times = {}, {}
    for file in Path("/proc").glob("[0-9]*/stat"):
        with suppress(OSError):
            fields = file.read_text().rpartition(")")[2].split()
            number = int(file.parent.name)
            parents[number], times[number] = int(fields[1]), int(fields[11]) + int(fields[12])
    own, found = {os.getpid()}, 0
    while len(own) > found:
        found = len(own)
        own |= {number for number, parent in parents.items() if parent in own}
    return sum(times[number] for number in own) / os.sysconf("SC_CLK_TCK")


def _peak() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def main() -> None:
    """Runs what is named in a folder of its own."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        match sys.argv[1:]:
            case ["speed"]:
                speed(folder)
            case ["run", films, workers]:  # a process each: Ray starts once in one
                rate(Path(films), workers)
            case ["memory", count]:
                memory(folder, int(count))
            case ["memory"]:
                for count in ("10000", "1000000"):  # a process each: a peak never falls
                    subprocess.run([sys.executable, "-m", "tests.bench.cluster", "memory", count], check=True)
            case _:
                sys.exit(__doc__)


if __name__ == "__main__":
    main()
