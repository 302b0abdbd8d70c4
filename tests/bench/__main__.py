"""How fast chexscore is: beside the limits of this machine, and beside what people would use instead.

    python -m tests.bench                         drawn X-rays of each kind; takes hours on two cores
    python -m tests.bench --quick                 few of them; minutes, and start-up weighs more
    python -m tests.bench --images DIR            X-rays of your own instead, all that decode or --count
    python -m tests.bench --torch BIN/python      with torchxrayvision, which another Python has

Everything is a process of its own, all run in turn; every figure is a median of the rounds, and every
ratio the median of theirs. Of chexscore the whole process is measured; of all else only the scoring, without
imports and start. The limit is the time that bare decoding takes with all threads, plus that of the network
on batches that are ready: on one set of cores these two cannot overlap. With a GPU (--device cuda) they can,
and the limit is the larger of the two. Where other programs keep the cores busy, look at the ratios of
processor time. Ratios carry over to other machines, seconds do not.
"""

import argparse
import json
import os
import statistics
import sys
import tempfile
from collections.abc import Mapping, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import chexscore
from tests.bench.adopted import fill_in
from tests.bench.speed.films import KINDS, films_folder
from tests.bench.speed.processes import Taken, in_turn, median, python

BUNDLED_MODEL = str(Path(chexscore.__file__).parent / "models" / "kermany.onnx")

DRAWN = 2000
"""Images of a kind, unless asked for."""

REFERENCE_SIDE = 512

RUNNERS = ("-m", "tests.bench.speed.runners")

BARE_HELP = "import typer, rich"
BARE_IMPORTS = "import onnxruntime, PIL.Image, typer, rich"
BARE_SESSION = f"onnxruntime.InferenceSession({BUNDLED_MODEL!r}, providers=['CPUExecutionProvider'])"
BARE_COMMAND = f"{BARE_IMPORTS}; typer.run(lambda: {BARE_SESSION})"
"""A command of Typer, which loads more of itself when it reads a command line."""

READ_BY_TENSORFLOW = (".jpg", ".jpeg", ".png", ".bmp")

PEERS = ("Keras", "one by one", "torchxrayvision")

CHEXPERT = "JPEG, 512 px"
"""The kind of films that the reference was made for."""

PARTS = ("whole", "peers", "reference", "torch", "start", "memory")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--json", action="store_true", help="print JSON instead of tables")
    parser.add_argument("--images", type=Path, metavar="DIR", help="X-rays instead of drawn ones")
    parser.add_argument("--quick", action="store_true", help="--count 200")
    parser.add_argument(
        "--count", type=int, help="images of a kind, 2,000 or all of DIR; 1 in 20 for the reference, or 24"
    )
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--parts", nargs="+", choices=PARTS, help="all by default; torch where it is")
    parser.add_argument("--kinds", nargs="+", default=[""], help="only drawn ones whose name begins so")
    has_torch = sys.executable if find_spec("torchxrayvision") else None
    parser.add_argument(
        "--torch", metavar="PYTHON", default=has_torch, help="one that has torchxrayvision and onnx"
    )
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    arguments = parser.parse_args()
    parts = set(arguments.parts or PARTS)
    if "torch" in (arguments.parts or ()) and not arguments.torch:
        parser.error("this Python has no torchxrayvision; --torch names one that has")
    count = arguments.count or (200 if arguments.quick else 0)
    few_count = max(24, (count or DRAWN) // 20)
    with tempfile.TemporaryDirectory() as place:
        bench = Bench(Path(place), arguments.rounds, arguments.device, arguments.json)
        scores, reference = bool({"whole", "peers", "torch"} & parts), "reference" in parts
        if arguments.images:
            name = arguments.images.resolve().name
            films = {name: bench.given("all", arguments.images, count)} if scores else {}
            few = {name: bench.given("few", arguments.images, few_count)} if reference else {}
        else:
            kinds = [kind for kind in KINDS if kind.startswith(tuple(arguments.kinds))]
            if not kinds:
                parser.error(f"no kind's name begins so; they are {'; '.join(KINDS)}")
            films = {kind: bench.films(kind, count or DRAWN) for kind in kinds} if scores else {}
            few = {CHEXPERT: bench.films(CHEXPERT, few_count)} if reference else {}
        bench.measure(parts, films, few, arguments.torch)
        if arguments.json:
            print(json.dumps(bench.found, indent=1))


class Bench:
    """What is measured, and what was found.

    Attributes:
        place: a folder for films, networks and outputs.
        found: a dict for each line: what, images, and what each contestant took; and ratios.
    """

    def __init__(self, place: Path, rounds: int, device: str, quiet: bool) -> None:  # noqa: FBT001
        self.place, self.rounds, self.device, self.quiet = place, rounds, device, quiet
        self.found: list[dict[str, Any]] = []

    def run(self, command: list[str]) -> None:
        """Runs what prepares something; the disk has it then, so that nothing measured waits for that."""
        in_turn({"": command}, 1)
        os.sync()

    def measure(
        self, parts: set[str], films: dict[str, Path], few: dict[str, Path], torch: str | None
    ) -> None:
        """Measures the parts that were asked for; `films` by kind, and `few` for the reference."""
        if {"peers", "reference"} & parts:
            self.run(python("-m", "tests.bench.speed.networks", self.place))
        for kind, folder in films.items():
            if {"whole", "peers"} & parts:
                self.score(kind, folder, peers="peers" in parts)
            if torch and "torch" in parts:
                self.score_densenet(kind, folder, torch)
        if "reference" in parts:
            for kind, folder in few.items():
                self.score_reference(kind, folder)
        if "start" in parts:
            self.start()
        if "memory" in parts:
            self.memory()

    def films(self, kind: str, count: int) -> Path:
        """A folder of drawn films."""
        self.run(python("-m", "tests.bench.speed.films", self.place, kind, count))
        return films_folder(self.place, kind, count)

    def given(self, name: str, images: Path, count: int) -> Path:
        """A folder of links to X-rays of somebody's own, so many at most; 0 for all that can be decoded."""
        folder = self.place / name
        self.run(python("-m", "tests.bench.speed.given", folder, images, count))
        return folder

    def score(self, kind: str, folder: Path, *, peers: bool) -> None:
        """The bundled network: beside its limit, and beside what others do with the same files."""
        side = chexscore.Classifier(BUNDLED_MODEL, device="cpu").spec.image.height
        commands = {
            "chexscore": self._predict(folder, BUNDLED_MODEL),
            "decoding": python(*RUNNERS, "decode", folder, side),
            "network": self._network("network", folder, side, BUNDLED_MODEL),
        }
        if peers:
            commands["one by one"] = self._network("loop", folder, side, BUNDLED_MODEL)
            if _all_read_by_tensorflow(folder):
                commands["Keras"] = python(*RUNNERS, "keras", folder, side, self.place / "bundled.keras")
        self._measure(f"bundled, {kind}", folder, commands)

    def score_reference(self, kind: str, folder: Path) -> None:
        """The reference in both precisions, beside the reference's own way."""
        side = REFERENCE_SIDE
        exact, small = self.place / "reference.onnx", self.place / "reference-int8.onnx"
        commands = {
            "chexscore": self._predict(folder, exact),
            "decoding": python(*RUNNERS, "decode", folder, side),
            "network": self._network("network", folder, side, exact),
            "chexscore, int8": self._predict(folder, small),
            "network, int8": self._network("network", folder, side, small),
            "one by one": self._network("loop", folder, side, exact),
        }
        if _all_read_by_tensorflow(folder):
            commands["Keras"] = python(*RUNNERS, "keras", folder, side, self.place / "reference.keras")
        self._measure(f"reference, {kind}", folder, commands)

    def score_densenet(self, kind: str, folder: Path, torch: str) -> None:
        """torchxrayvision's DenseNet121 in its own hands, and adopted by chexscore."""
        if not _all_read_by_tensorflow(folder):
            return
        adopted = self.place / "densenet.onnx"
        if not adopted.exists():
            self.run([torch, *RUNNERS, "foreign", str(folder), "224", str(self.place / "foreign.onnx")])
            template = self.place / "spec.toml"
            self.run(python("-m", "export", "template", self.place / "foreign.onnx", "-o", template))
            fill_in(template)
            labels = template.read_text(encoding="utf-8").replace('"Label ', '"Finding ')
            template.write_text(labels, encoding="utf-8")
            self.run(
                python(
                    "-m", "export", "adopt", self.place / "foreign.onnx", "--spec", template, "-o", adopted
                )
            )
        commands = {
            "chexscore": self._predict(folder, adopted),
            "decoding": python(*RUNNERS, "decode", folder, 224),
            "network": self._network("network", folder, 224, adopted),
            "torchxrayvision": [torch, *RUNNERS, "torchxrayvision", str(folder), "224"],
        }
        self._measure(f"DenseNet121, {kind}", folder, commands)

    def start(self) -> None:
        """What a command takes that has next to nothing to do."""
        film = next(self.films("JPEG, 224 px", 1).iterdir())
        commands = {
            "--help": python("-m", "chexscore", "--help"),
            BARE_HELP: python("-c", BARE_HELP),
            "predict, one image": self._predict(film, BUNDLED_MODEL, "cpu"),
            BARE_IMPORTS: python("-c", BARE_IMPORTS),
            "these and a session": python("-c", f"{BARE_IMPORTS}; {BARE_SESSION}"),
            "in a command of Typer": python("-c", BARE_COMMAND),
        }
        taken = in_turn(commands, max(7, self.rounds))
        self._tell("start", 1, taken)
        for what, bare in (
            ("--help", BARE_HELP),
            ("predict, one image", "these and a session"),
            ("predict, one image", "in a command of Typer"),
        ):
            self._ratio(f"{what} / {bare}", taken[what], taken[bare])
            self._ratio(f"{what} / {bare}, processor", taken[what], taken[bare], "processor")

    def memory(self) -> None:
        """The peak as the number of images grows."""
        counts = (200, 2000)
        few, many = names = [f"{count:,} images" for count in counts]
        films = [self.films("JPEG, 224 px", count) for count in counts]
        commands = [self._predict(folder, BUNDLED_MODEL) for folder in films]
        taken = in_turn(dict(zip(names, commands, strict=True)), self.rounds)
        self._tell("memory", counts[-1], taken)
        self._ratio(f"{many} / {few}, memory", taken[many], taken[few], "megabytes")

    def _predict(self, images: Path, model: object, device: str = "") -> list[str]:
        output = self.place / "out.csv"
        options = ("-o", output, "--model", model, "--device", device or self.device, "--overwrite", "-q")
        return python("-m", "chexscore", "predict", images, *options)

    def _network(self, runner: str, folder: Path, side: int, model: object) -> list[str]:
        return python(*RUNNERS, runner, folder, side, model, self.device)

    def _measure(self, what: str, folder: Path, commands: dict[str, list[str]]) -> None:
        taken = in_turn(commands, self.rounds)
        self._tell(what, len(list(chexscore.find_images([folder]))), taken)
        for ours, network in (("chexscore", "network"), ("chexscore, int8", "network, int8")):
            if ours in taken:
                limit = [self._limit(*pair) for pair in zip(taken["decoding"], taken[network], strict=True)]
                self._ratio(f"{ours} / its limit", taken[ours], limit)
                self._ratio(f"{ours} / its limit, processor", taken[ours], limit, "processor")
                for peer in filter(taken.get, PEERS):
                    self._ratio(f"{peer} / {ours}", taken[peer], taken[ours])
                    self._ratio(f"{peer} / {ours}, processor", taken[peer], taken[ours], "processor")

    def _limit(self, decoding: Taken, network: Taken) -> Taken:
        """What decoding and the network take together, at the least."""
        pairs = zip(decoding, network, strict=True)
        return Taken(*map(max if self.device == "cuda" else sum, pairs))

    def _tell(self, what: str, images: int, taken: Mapping[str, Sequence[Taken]]) -> None:
        medians = {name: median(rounds) for name, rounds in taken.items()}
        self.found.append(
            {
                "what": what,
                "images": images,
                "taken": {name: each._asdict() for name, each in medians.items()},
                "ratios": {},
            }
        )
        if not self.quiet:
            print(f"\n{what}: {images:,} images")
            print(f"  {'':44}{'wall s':>10}{'processor s':>13}{'MB':>8}")
            for name, each in medians.items():
                print(f"  {name:44}{each.seconds:10.2f}{each.processor:13.2f}{each.megabytes:8.0f}")

    def _ratio(
        self, name: str, ours: Sequence[Taken], others: Sequence[Taken], figure: str = "seconds"
    ) -> None:
        """The median of the rounds' ratios."""
        value = statistics.median(
            getattr(one, figure) / getattr(other, figure) for one, other in zip(ours, others, strict=True)
        )
        self.found[-1]["ratios"][name] = value
        if not self.quiet:
            print(f"  {name:56}{value:6.2f}", flush=True)


def _all_read_by_tensorflow(folder: Path) -> bool:
    read = all(path.lower().endswith(READ_BY_TENSORFLOW) for path in chexscore.find_images([folder]))
    if not read:
        print(
            f"{folder.name}: not only JPEG, PNG and BMP, so Keras and torchxrayvision are left out",
            file=sys.stderr,
        )
    return read


if __name__ == "__main__":
    main()
