"""What a run that nobody watches meets, at full size. Takes minutes; the test suite does the same in small.

    python -m tests.bench.nights kills     40 runs, killed with -9 at random moments and resumed
    python -m tests.bench.nights mutants   2,000 damaged files among 200 sound ones
    python -m tests.bench.nights memory    200 images against 20,000
    python -m tests.bench.nights places    full disks, closed outputs and the like: exit codes and messages

Each prints what it saw and exits 1 if something is not as it has to be. Images are drawn; `mutants` takes
those in the folder CHEXSCORE_XRAYS too.
"""

import csv
import os
import random
import resource
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

from PIL import Image

from tests.phantoms import draw

LIMIT_S = 1800
"""No run here takes a third of that."""

PREDICT = [sys.executable, "-m", "chexscore", "predict"]


def kills(folder: Path) -> bool:
    """Every resumed output equals that of a run that nobody stopped."""
    images = folder / "images"
    images.mkdir()
    for number in range(400):
        Image.fromarray(draw(number, size=224)).save(images / f"{number:03}.jpg")
    (images / "200.bad.png").write_text("no image")
    whole, began = folder / "whole.csv", time.monotonic()
    subprocess.run([*PREDICT, images, "-o", whole, "-q"], check=False)
    duration = time.monotonic() - began
    dice, same, struck = random.Random(0), 0, 0  # noqa: S311, not for secrets
    for attempt in range(40):
        output = folder / f"{attempt}.csv"
        command = [*PREDICT, str(images), "-o", str(output), "-q", "--resume"]
        while True:
            running = subprocess.Popen(command)
            try:
                running.wait(timeout=dice.uniform(0.2, 1.2) * duration)
                break
            except subprocess.TimeoutExpired:
                running.kill()
                running.wait()
                struck += 1
        same += output.read_bytes() == whole.read_bytes()
    print(f"{same} of 40 outputs are identical to the uninterrupted one, after {struck} kills")
    return same == 40 and struck > 20


def mutants(folder: Path) -> bool:
    """A row for each, no crash, no noise, no end in sight of none; the sound ones score as alone."""
    sound, mixed, whole = folder / "sound", folder / "mixed", folder / "whole"
    sound.mkdir()
    xrays = Path(os.environ.get("CHEXSCORE_XRAYS") or "../shared/xrays")
    dicom, films = (sorted(xrays.glob(pattern)) for pattern in ("dicom/*.dcm", "fullsize/*.jp*g"))
    for number, path in enumerate([*dicom, *films][:100]):
        shutil.copy(path, sound / f"{number:03}{path.suffix}")
    for number in range(len([*dicom, *films][:100]), 200):
        Image.fromarray(draw(number, size=224)).save(sound / f"{number:03}.{'png' if number % 2 else 'jpg'}")
    seeds = [path.read_bytes() for path in sorted(sound.iterdir())]
    shutil.copytree(sound, mixed)
    shutil.copytree(sound, whole)
    dice = random.Random(1)  # noqa: S311, not for secrets
    for number in range(2000):
        name = f"{dice.randrange(200):03}.m{number:04}.{dice.choice(['jpg', 'png', 'dcm'])}"
        seed = dice.choice(seeds[: len(dicom)] if dicom and number % 3 == 0 else seeds)
        (whole / name).write_bytes(seed)
        (mixed / name).write_bytes(_mutate(seed, dice, seeds))
    alone, _, _ = _scored(sound, folder / "alone.csv")
    _, whole_kb, _ = _scored(whole, folder / "whole.csv")
    together, together_kb, noise = _scored(mixed, folder / "together.csv")
    statuses: dict[str, int] = {}
    for row in together:
        statuses[row["status"]] = statuses.get(row["status"], 0) + 1
    lost = sum("the decoder of its pixels" in row["note"] for row in together)
    clean = {row["path"].replace("/mixed/", "/sound/"): row for row in together if ".m" not in row["path"]}
    equal = all({**clean[row["path"]], "path": row["path"]} == row for row in alone)
    print(
        f"{len(together)} rows, by status {statuses}; sound ones as alone: {equal}; lines on stderr: {noise}"
    )
    ratio = together_kb / whole_kb
    print(f"{len(dicom)} DICOM among the seeds; {lost} mutants ended their decoder, or it did not end")
    print(f"peak memory {together_kb / 1024:.0f} MB, {ratio:.2f} times that of the same files whole")
    return len(together) == 2200 and equal and noise == 0 and ratio <= 1.2


PIXEL_DATA = b"\xe0\x7f\x10\x00"
"""DICOM's tag, little endian."""


def _mutate(data: bytes, dice: random.Random, others: list[bytes]) -> bytes:
    content = bytearray(data)
    begin = data.find(PIXEL_DATA)
    match dice.choice((0, 1, 1, 1, 1, 2, 3, 4) if begin >= 0 else range(5)):
        case 0:
            return bytes(content[: dice.randrange(len(content))])
        case 1:
            near = begin >= 0 and dice.random() < 0.5  # decoders are the weakest where their own headers are
            for _ in range(dice.randrange(1, 4 if near else 20)):
                place = begin + dice.randrange(300) if near else dice.randrange(len(content))
                content[place] ^= 1 << dice.randrange(8)
        case 2:
            length = dice.randrange(16, 200)
            content[:length] = dice.choice(others)[:length]
        case 3:
            start = dice.randrange(len(content))
            content[start : start + dice.randrange(1, 2000)] = bytes(dice.randrange(1, 2000))
        case _:
            content += dice.randbytes(dice.randrange(1, 5000))
    return bytes(content)


def _scored(images: Path, output: Path) -> tuple[list[dict[str, str]], int, int]:
    """Rows, peak memory in KB, and lines on standard error."""
    command = ["/usr/bin/env", *map(str, [*PREDICT, images, "-o", output, "-q"])]
    with tempfile.TemporaryFile("w+") as said:
        process = subprocess.Popen(command, stderr=said)
        watchdog = threading.Timer(LIMIT_S, process.kill)  # a run that hangs leaves no output, which shows
        watchdog.start()
        _, _, usage = os.wait4(process.pid, 0)
        watchdog.cancel()
        said.seek(0)
        noise = len(said.readlines())
    with output.open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file)), usage.ru_maxrss, noise


def memory(folder: Path) -> bool:
    """20,000 images take as much as 200, and no more files are open."""
    film = folder / "film.jpg"
    Image.fromarray(draw(0, size=64)).save(film)
    limit = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (40, limit[1]))  # the runs inherit it
    peaks, all_scored = {}, True
    for count in (200, 20_000):
        images = folder / str(count)
        images.mkdir()
        for number in range(count):
            os.link(film, images / f"{number:05}.jpg")
        rows, peaks[count], _ = _scored(images, folder / f"{count}.csv")
        all_scored &= [row["status"] for row in rows] == ["ok"] * count
        print(f"{len(rows)} rows, peak {peaks[count] / 1024:.1f} MB, with at most 40 open files")
    difference = (peaks[20_000] - peaks[200]) / 1024
    print(f"difference {difference:.1f} MB")
    return difference < 15 and all_scored


def places(folder: Path) -> bool:
    """Compares exit codes with those that are promised; prints messages, which somebody has to read."""
    images = folder / "images"
    images.mkdir()
    for number in range(300):
        Image.fromarray(draw(number, size=128)).save(images / f"{number:03}.png")
    full = folder / "full"
    full.mkdir()
    mounted = (
        subprocess.run(["mount", "-t", "tmpfs", "-o", "size=32k", "tmpfs", full], check=False).returncode == 0
    )
    (folder / "gone").mkdir()
    (folder / "some").mkdir()
    for number in range(300):
        if number % 2:
            os.link(images / f"{number:03}.png", folder / "some" / f"{number:03}.png")
        os.link(images / f"{number:03}.png", folder / "gone" / f"{number:03}.png")
    tell = f"{sys.executable} -m chexscore predict"
    cases: dict[str, tuple[int, str]] = {
        "a full disk": (1, f"{tell} {images} -o {full}/out.csv"),
        "an output that is a directory": (2, f"{tell} {images} -o {folder}"),
        "a folder that is not there": (2, f"{tell} {images} -o {folder}/none/out.csv"),
        "stdout closed early": (1, f"{tell} {images} | head -1; exit ${{PIPESTATUS[0]}}"),
        "stdout full": (1, f"{tell} {images} > /dev/full"),
        "images that vanish": (
            3,
            (
                f"(until [ -e {folder}/gone.csv.state ]; do sleep 0.02; done; sleep 0.1; "
                f"rm -r {folder}/gone) & {tell} {folder}/gone -o {folder}/gone.csv"
            ),
        ),
        "and are not back at the next run": (4, f"{tell} {folder}/gone -o {folder}/gone.csv --resume"),
        "a part of the images is gone": (
            1,
            (
                f"{tell} {folder}/some {images} -q -o {folder}/part.csv; "
                f"mv {folder}/some {folder}/away; {tell} {folder}/some {images} -o {folder}/part.csv --resume"
            ),
        ),
        "and is to be forgotten": (
            3,
            f"{tell} {folder}/some {images} -o {folder}/part.csv --resume --forget-gone",
        ),
        "a suffix that is not known": (2, f"{tell} {images} -o {folder}/out.csv.gz"),
        "no such input": (4, f"{tell} {folder}/mistyped -o {folder}/m.csv"),
        "no permission to read (as nobody)": (
            3,
            (
                f"chmod 755 {folder}; chmod 0 {images}/007.png; cd /; "
                f"setpriv --reuid=65534 --clear-groups {tell} {images}/007.png"
            ),
        ),
        "words that nobody can read": (0, f"{tell} {images} -o {folder}/words.csv 2>/dev/full"),
        "no permission to write (as nobody)": (
            2,
            f"cd /; setpriv --reuid=65534 --clear-groups {tell} {images} -o {folder}/out.csv",
        ),
    }
    fine = True
    for what, (expected, command) in cases.items():
        if what == "a full disk" and not mounted:
            print(f"== {what}: not tried, no tmpfs can be mounted here")
            continue
        done = subprocess.run(["/bin/bash", "-c", command], capture_output=True, text=True, check=False)
        wrong = "" if done.returncode == expected else f", and not {expected}"
        fine &= not wrong
        print(f"== {what}: exit {done.returncode}{wrong}\n{done.stderr.rstrip()}")
    if mounted:
        subprocess.run(["umount", full], check=True)
    return fine


def main() -> None:
    """Runs what is named in a folder of its own."""
    chosen = {"kills": kills, "mutants": mutants, "memory": memory, "places": places}
    with tempfile.TemporaryDirectory() as folder:
        fine = [chosen[name](Path(folder)) for name in sys.argv[1:2]]
    sys.exit(fine != [True])


if __name__ == "__main__":
    main()
