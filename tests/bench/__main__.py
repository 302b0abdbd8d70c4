"""How fast chexscore is: beside the limits of this machine, and beside what people would use instead.

    python -m tests.bench                         drawn X-rays of each kind; takes hours on two cores
    python -m tests.bench --quick                 few of them; minutes, and start-up weighs more
    python -m tests.bench --images DIR            X-rays of your own instead
    python -m tests.bench --torch BIN/python      with torchxrayvision, where that Python has it

Everything is a process of its own, on the CPU, all run in turn, and every figure is a median of the rounds.
Of chexscore the whole process is measured; of all else only the scoring, without imports and start. The limit
is the time that bare decoding takes with all threads, plus that of the network on batches that are ready: on
one set of cores these two cannot overlap. Ratios carry over to other machines, seconds do not.
"""

import argparse
import json
import tempfile
from pathlib import Path
from typing import Any

import chexscore
from tests.bench.speed.films import KINDS, films_folder
from tests.bench.speed.processes import in_turn, python

BUNDLED_MODEL = str(Path(chexscore.__file__).parent / "models" / "kermany.onnx")

SIDES = {"bundled": 192, "reference": 512}

RUNNERS = ("-m", "tests.bench.speed.runners")

BARE_HELP = "import typer, rich"
BARE_PREDICT = (
    "import onnxruntime, PIL.Image, typer, rich; "
    f"onnxruntime.InferenceSession({BUNDLED_MODEL!r}, providers=['CPUExecutionProvider'])"
)

CHEXPERT = "JPEG, 512 px"
"""The kind of films that the reference was made for."""

PARTS = ("whole", "peers", "reference", "start", "memory")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--json", action="store_true", help="print JSON instead of tables")
    parser.add_argument("--images", type=Path, metavar="DIR", help="X-rays instead of drawn ones")
    parser.add_argument("--quick", action="store_true", help="200 images of a kind, 24 for the reference")
    parser.add_argument(
        "--count", type=int, help="images of a kind, default 2,000; the reference gets 1 in 20"
    )
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=PARTS)
    parser.add_argument("--kinds", nargs="+", default=[""], help="only those whose name begins so")
    parser.add_argument("--torch", metavar="PYTHON", help="a Python that has torchxrayvision and onnx")
    arguments = parser.parse_args()
    count = arguments.count or (200 if arguments.quick else 2000)
    with tempfile.TemporaryDirectory() as place:
        bench = Bench(Path(place), arguments.rounds, arguments.json)
        if arguments.images:
            films = few = {arguments.images.name: arguments.images}
        else:
            kinds = [kind for kind in KINDS if kind.startswith(tuple(arguments.kinds))]
            films = {kind: bench.films(kind, count) for kind in kinds}
            few = {CHEXPERT: bench.films(CHEXPERT, max(24, count // 20))}
        bench.measure(set(arguments.parts), films, few, arguments.torch)
        if arguments.json:
            print(json.dumps(bench.found, indent=1))


class Bench:
    """What is measured, and what was found.

    Attributes:
        place: a folder for films, networks and outputs.
        found: a dict for each line: what, images, and each contestant's seconds, megabytes and ratios.
    """

    def __init__(self, place: Path, rounds: int, quiet: bool) -> None:  # noqa: FBT001
        self.place, self.rounds, self.quiet = place, rounds, quiet
        self.found: list[dict[str, Any]] = []

    def run(self, command: list[str]) -> None:
        """Runs what prepares something."""
        in_turn({"": command}, 1)

    def measure(
        self, parts: set[str], films: dict[str, Path], few: dict[str, Path], torch: str | None
    ) -> None:
        """Measures the parts that were asked for; `films` by kind, and `few` for the reference."""
        if {"peers", "reference"} & parts:
            self.run(python("-m", "tests.bench.speed.networks", self.place))
        for kind, folder in films.items():
            if {"whole", "peers"} & parts:
                self.score(kind, folder, peers="peers" in parts)
            if torch:
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

    def score(self, kind: str, folder: Path, *, peers: bool) -> None:
        """The bundled network: beside its limit, and beside what others do with the same files."""
        side = SIDES["bundled"]
        commands = {
            "chexscore": self._predict(folder, BUNDLED_MODEL),
            "decoding": python(*RUNNERS, "decode", folder, side),
            "network": python(*RUNNERS, "network", folder, side, BUNDLED_MODEL),
        }
        if peers:
            commands["one by one"] = python(*RUNNERS, "loop", folder, side, BUNDLED_MODEL)
            if not any(folder.rglob("*.dcm")):  # TensorFlow reads none
                commands["Keras"] = python(*RUNNERS, "keras", folder, side, self.place / "bundled.keras")
        self._measure(f"bundled, {kind}", folder, commands)

    def score_reference(self, kind: str, folder: Path) -> None:
        """The reference in both precisions, beside the reference's own way."""
        side = SIDES["reference"]
        exact, small = self.place / "reference.onnx", self.place / "reference-int8.onnx"
        commands = {
            "chexscore": self._predict(folder, exact),
            "decoding": python(*RUNNERS, "decode", folder, side),
            "network": python(*RUNNERS, "network", folder, side, exact),
            "chexscore, int8": self._predict(folder, small),
            "network, int8": python(*RUNNERS, "network", folder, side, small),
            "Keras": python(*RUNNERS, "keras", folder, side, self.place / "reference.keras"),
            "one by one": python(*RUNNERS, "loop", folder, side, exact),
        }
        self._measure(f"reference, {kind}", folder, commands)

    def score_densenet(self, kind: str, folder: Path, torch: str) -> None:
        """torchxrayvision's DenseNet121 in its own hands, and adopted by chexscore."""
        if any(folder.rglob("*.dcm")):
            return
        adopted = self.place / "densenet.onnx"
        if not adopted.exists():
            self.run([torch, *RUNNERS, "foreign", str(folder), "224", str(self.place / "foreign.onnx")])
            template = self.place / "spec.toml"
            self.run(python("-m", "export", "template", self.place / "foreign.onnx", "-o", template))
            text = template.read_text(encoding="utf-8")
            for old, new in (("black = 0.0", "black = -1024.0"), ("white = 1.0", "white = 1024.0")):
                text = text.replace(old, new)
            template.write_text(text.replace('resize = "stretch"', 'resize = "crop"'), encoding="utf-8")
            self.run(
                python(
                    "-m", "export", "adopt", self.place / "foreign.onnx", "--spec", template, "-o", adopted
                )
            )
        commands = {
            "chexscore": self._predict(folder, adopted),
            "decoding": python(*RUNNERS, "decode", folder, 224),
            "network": python(*RUNNERS, "network", folder, 224, adopted),
            "torchxrayvision": [torch, *RUNNERS, "torchxrayvision", str(folder), "224"],
        }
        self._measure(f"DenseNet121, {kind}", folder, commands)

    def start(self) -> None:
        """What a command takes that has next to nothing to do."""
        film = next(self.films("JPEG, 224 px", 1).iterdir())
        commands = {
            "--help": python("-m", "chexscore", "--help"),
            BARE_HELP: python("-c", BARE_HELP),
            "predict, one image": self._predict(film, BUNDLED_MODEL),
            "imports and one session": python("-c", BARE_PREDICT),
        }
        taken = in_turn(commands, max(5, self.rounds))
        self._tell("start", 1, {name: each._asdict() for name, each in taken.items()})
        for what, bare in (("--help", BARE_HELP), ("predict, one image", "imports and one session")):
            self._ratio(f"{what} / {bare}", taken[what].seconds / taken[bare].seconds)

    def memory(self) -> None:
        """The peak as the number of images grows."""
        peaks = {}
        for count in (200, 2000):
            films = self.films("JPEG, 224 px", count + 1)
            peaks[count] = in_turn({"": self._predict(films, BUNDLED_MODEL)}, 1)[""].megabytes
        self._tell("memory", 2000, {f"{count} images": {"megabytes": peak} for count, peak in peaks.items()})
        self._ratio("2,000 images / 200 images", peaks[2000] / peaks[200])

    def _predict(self, images: Path, model: object) -> list[str]:
        output = self.place / "out.csv"
        options = ("-o", output, "--model", model, "--device", "cpu", "--overwrite", "-q")
        return python("-m", "chexscore", "predict", images, *options)

    def _measure(self, what: str, folder: Path, commands: dict[str, list[str]]) -> None:
        images = sum(path.is_file() for path in folder.rglob("*"))
        taken = in_turn(commands, self.rounds)
        self._tell(what, images, {name: each._asdict() for name, each in taken.items()})
        limit = taken["decoding"].seconds + taken["network"].seconds
        self._ratio("chexscore / (decoding + network)", taken["chexscore"].seconds / limit)
        if "network, int8" in taken:
            limit = taken["decoding"].seconds + taken["network, int8"].seconds
            self._ratio("int8 / (decoding + network)", taken["chexscore, int8"].seconds / limit)
        for peer in ("Keras", "one by one", "torchxrayvision"):
            if peer in taken:
                self._ratio(f"{peer} / chexscore", taken[peer].seconds / taken["chexscore"].seconds)
                if "network, int8" in taken:
                    faster = taken[peer].seconds / taken["chexscore, int8"].seconds
                    self._ratio(f"{peer} / chexscore, int8", faster)

    def _tell(self, what: str, images: int, taken: dict[str, dict[str, float]]) -> None:
        self.found.append({"what": what, "images": images, "taken": taken, "ratios": {}})
        if not self.quiet:
            print(f"\n{what}: {images} images")
            for name, each in taken.items():
                seconds = f"{each['seconds']:9.2f} s" if "seconds" in each else ""
                print(f"  {name:36}{seconds:>12}{each['megabytes']:8.0f} MB")

    def _ratio(self, name: str, value: float) -> None:
        self.found[-1]["ratios"][name] = value
        if not self.quiet:
            print(f"  {name:48}{value:6.2f}", flush=True)


if __name__ == "__main__":
    main()
