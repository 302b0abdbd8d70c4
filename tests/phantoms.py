"""Drawn radiographs: a chest seen from the front, with findings planted where a test wants them.

python -m tests.phantoms tests/radiographs     draws the few that the README's first command scores
"""

import sys
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

__all__ = ["NIH", "draw", "write_chexpert", "write_dataset"]

NIH = """Image Index,Finding Labels,Follow-up #,Patient ID,Patient Age,Patient Gender,View Position
00000001_000.png,Cardiomegaly|Effusion,0,1,57,M,PA
00000001_001.png,No Finding,1,1,58,M,AP
00000002_000.png,Effusion,0,2,81,F,PA
"""
"""A table as ChestX-ray14 has it."""


def draw(seed: int, *, size: int = 256, opacity: bool = False, device: bool = False) -> NDArray[np.uint8]:
    """Draws one chest.

    Args:
        seed: decides anatomy, position, exposure and noise.
        size: height and width in pixels.
        opacity: plants a bright, soft patch in one lung.
        device: plants a thin bright line from the neck to the heart.

    Returns:
        uint8 [size, size], air dark and bone bright.
    """
    random = np.random.default_rng(seed)
    y, x = np.mgrid[-1 : 1 : size * 1j, -1 : 1 : size * 1j]
    x, y = x + random.normal(0, 0.03), y + random.normal(0, 0.03)
    body = _ellipse(x, y, 0, 0.2, 0.95, 1.3, 0.05)
    film = 0.05 + 0.55 * body
    for side in (-1, 1):
        lung = _ellipse(x, y, side * 0.42, 0.0, random.uniform(0.27, 0.33), random.uniform(0.6, 0.7), 0.06)
        ribs = 0.06 * np.sin(22 * (y + 0.25 * (x * side - 0.4) ** 2) + random.uniform(0, 3))
        film -= lung * (0.36 - ribs)
    film += 0.25 * _ellipse(x, y, 0, 0, 0.09, 2, 0.03)  # spine
    film += 0.25 * _ellipse(x, y, 0.14, 0.3, random.uniform(0.25, 0.32), 0.3, 0.05)  # heart
    if opacity:
        side = random.choice((-1, 1))
        film += 0.4 * _ellipse(x, y, side * 0.42, random.uniform(-0.3, 0.3), 0.18, 0.2, 0.1)
    if device:
        film += 0.5 * (np.abs(x - 0.12 * y - 0.1) < 0.015) * (y < 0.2)
    film = film * random.uniform(0.85, 1.15) + random.normal(0, 0.015, film.shape)
    return (np.clip(film, 0, 1) * 255).astype(np.uint8)


def write_dataset(folder: Path, patients: int, *, size: int = 96, seed: int = 0) -> None:
    """Writes PNGs, one to three for each patient, and labels.csv with path, patient, Opacity and Device."""
    random = np.random.default_rng(seed)
    lines = ["path,patient,Opacity,Device"]
    for patient in range(patients):
        opacity, device = (bool(random.integers(2)) for _ in range(2))
        for view in range(random.integers(1, 4)):
            path = folder / f"p{patient:04d}" / f"view{view}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            film = draw(1000 * patient + view + seed, size=size, opacity=opacity, device=device)
            Image.fromarray(film).save(path)
            lines.append(f"{path.relative_to(folder).as_posix()},p{patient:04d},{opacity:d},{device:d}")
    (folder / "labels.csv").write_text("\n".join(lines) + "\n", encoding="utf-8")


CHEXPERT_FINDINGS = (
    "No Finding",
    "Enlarged Cardiomediastinum",
    "Cardiomegaly",
    "Lung Opacity",
    "Lung Lesion",
    "Edema",
    "Consolidation",
    "Pneumonia",
    "Atelectasis",
    "Pneumothorax",
    "Pleural Effusion",
    "Pleural Other",
    "Fracture",
    "Support Devices",
)


def write_chexpert(folder: Path, patients: int, *, size: int = 64, seed: int = 0) -> None:
    """Writes train.csv and valid.csv as CheXpert has them, with Lung Opacity and Support Devices planted.

    Patients have one or two studies of a frontal and sometimes a lateral view. As in CheXpert an absent
    finding is mostly blank, a tenth of the cells is uncertain, and some files are damaged: every fiftieth.
    The last tenth of the patients is in valid.csv, where every cell is known and every file sound.
    """
    random = np.random.default_rng(seed)
    header = ["Path", "Sex", "Age", "Frontal/Lateral", "AP/PA", *CHEXPERT_FINDINGS]
    tables: dict[str, list[str]] = {side: [",".join(header)] for side in ("train", "valid")}
    written = 0
    for patient in range(patients):
        side = "valid" if patient >= patients - patients // 10 else "train"
        sex, age = random.choice(["Female", "Male"]), random.integers(18, 91)
        for study in range(random.integers(1, 3)):
            opacity, device = (bool(random.integers(2)) for _ in range(2))
            truth = {"No Finding": not opacity, "Lung Opacity": opacity, "Support Devices": device}
            cells = {name: "1.0" if truth.get(name) else "" for name in CHEXPERT_FINDINGS}
            for name in ("Lung Opacity", "Support Devices"):
                if side == "valid" or random.random() < 0.2:
                    cells[name] = f"{truth[name]:.1f}"
                elif random.random() < 0.1:
                    cells[name] = "-1.0"
            views = ["frontal", "lateral"][: random.integers(1, 3)]
            for view, name in enumerate(views, start=1):
                path = f"{side}/patient{patient + 1:05d}/study{study + 1}/view{view}_{name}.jpg"
                (folder / path).parent.mkdir(parents=True, exist_ok=True)
                film = draw(
                    10_000 * seed + 100 * patient + 10 * study, size=size, opacity=opacity, device=device
                )
                Image.fromarray(film if name == "frontal" else film.T).save(folder / path, quality=90)
                written += 1
                if side == "train" and written % 50 == 0:
                    (folder / path).write_bytes((folder / path).read_bytes()[:200])
                line = [f"CheXpert-v1.0-small/{path}", sex, age, name.title(), "AP" * (name == "frontal")]
                tables[side].append(",".join(map(str, (*line, *cells.values()))))
    for side, lines in tables.items():
        (folder / f"{side}.csv").write_text("\n".join(lines) + "\n", encoding="utf-8")


def _ellipse(
    x: NDArray[np.float64],
    y: NDArray[np.float64],
    centre_x: float,
    centre_y: float,
    width: float,
    height: float,
    soft: float,
) -> NDArray[np.float64]:
    """1 inside, 0 outside, falling over about `soft` of the picture's half side."""
    radius = np.hypot((x - centre_x) / width, (y - centre_y) / height)
    inside: NDArray[np.float64] = 1 / (
        1 + np.exp(np.clip((radius - 1) * min(width, height) / soft * 4, -50, 50))
    )
    return inside


def _main(folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for number in range(1, 7):
        film = draw(number, size=256, opacity=number % 2 == 0)
        Image.fromarray(film).save(folder / f"drawn-{number}.jpg", quality=80)


if __name__ == "__main__":
    _main(Path(sys.argv[1]))
