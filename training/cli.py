"""The command line of training: parse, call, print."""

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any

import typer

from chexscore.cores import usable_cores
from chexscore.errors import UsageError, first_line
from training.config import LARGEST_SEED, TrainConfig

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")  # TensorFlow tells its build options at every start


def _folder(option: str, text: str) -> Any:
    """An option for a folder; of an empty name, as of an unset variable, Path would make the present one."""

    def path(value: str) -> Path:
        if not value:
            raise UsageError(f"{option} is empty; name a folder.")
        return Path(value)

    return typer.Option(option, parser=path, help=text)


Recipe = Annotated[Path, typer.Argument(help="A recipe, such as training/configs/kermany.toml.")]
Data = Annotated[Path, _folder("--data", "Folder of the data set; the recipe's paths start there.")]
Run = Annotated[Path, _folder("--out", "The run folder to fill.")]
Cache = Annotated[Path | None, _folder("--cache", "Prepared pixels; else OUT/cache.")]
CORES = usable_cores()
Workers = Annotated[int, typer.Option(min=1, help="Threads that decode images and fill batches.")]

EXIT_CODES = (
    "Exit codes: 0 done, 1 failed and the message says why, 2 wrong usage, 130 stopped by SIGINT, 143 by "
    "SIGTERM."
)

app = typer.Typer(
    help="Train a network on labelled chest X-rays.",
    epilog=EXIT_CODES,
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)


@app.command(epilog=EXIT_CODES)
def split(
    recipe: Recipe, data: Data, out: Annotated[Path, _folder("--out", "Folder for the tables.")]
) -> None:
    """Write training.csv, validation.csv and, with a test list, test.csv, as fit would, without training.

    For example: python -m training split training/configs/nih.toml --data nih --out runs/split
    """
    from training.splits import SIDES, divide, write  # noqa: PLC0415, pandas takes a second to import

    table, sides = divide(data, TrainConfig.from_toml(recipe).data)
    write(table, sides, out)
    counts = {side: int((sides == side).sum()) for side in SIDES}
    _report(
        ", ".join(f"{count} images for {side}" for side, count in counts.items() if count) + f", in {out}"
    )


@app.command(epilog=EXIT_CODES)
def prepare(
    recipe: Recipe,
    data: Data,
    out: Annotated[Path, _folder("--out", "Folder for the pixels; give it to fit as --cache.")],
    workers: Workers = CORES,
) -> None:
    """Decode every image once into a flat array on disk. A second call does nothing.

    For example: python -m training prepare training/configs/nih.toml --data nih --out runs/pixels
    """
    from training.prepare import prepare as run  # noqa: PLC0415, as above
    from training.splits import divide  # noqa: PLC0415

    config = TrainConfig.from_toml(recipe)
    table, _ = divide(data, config.data)  # the same images as fit takes
    run(data, list(table["path"]), config.image.spec, out, workers, _report)


@app.command(epilog=EXIT_CODES)
def fit(
    recipe: Recipe,
    data: Data,
    out: Run,
    cache: Cache = None,
    workers: Workers = CORES,
    seed: Annotated[
        int | None, typer.Option(min=0, max=LARGEST_SEED, help="Another seed than the recipe's.")
    ] = None,
    *,
    gpu: Annotated[
        bool, typer.Option("--gpu", help="Fail where there is no GPU, instead of training on the CPU.")
    ] = False,
) -> None:
    """Train, or continue a run that was stopped; OUT is then complete with plots and measures.

    For example: python -m training fit training/configs/nih.toml --data nih --out runs/nih
    """
    config = TrainConfig.from_toml(recipe)
    if seed is not None:
        config = config.model_copy(update={"seed": seed})
    with _backend():
        from training.fit import fit as run  # noqa: PLC0415, Keras takes seconds to import

    run(config, data, out, cache=cache, workers=workers, gpu=gpu, report=_report)


@app.command(epilog=EXIT_CODES)
def average(
    runs: Annotated[list[Path], typer.Argument(help="Folders of finished runs of one recipe.")],
    data: Data,
    out: Run,
    cache: Cache = None,
    workers: Workers = CORES,
) -> None:
    """Make one network of the mean weights of runs that differ in --seed alone.

    For example: python -m training average runs/seed-0 runs/seed-1 --data kermany224 --out runs/kermany
    """
    with _backend():
        from training.average import average as run  # noqa: PLC0415, as above

    run(runs, data, out, cache=cache, workers=workers, report=_report)


@contextmanager
def _backend() -> Iterator[None]:
    """Raises a UsageError if what it encloses, an import, lacks Keras or its backend."""
    try:
        yield
    except (ImportError, ValueError) as error:  # an unknown backend is a ValueError of Keras's
        backend = os.environ.get("KERAS_BACKEND")  # else that of Keras's own settings
        raise UsageError(
            f"Keras cannot be used{f' with the backend {backend}' if backend else ''} ({first_line(error)}); "
            "pip install 'chexscore[training]', or set KERAS_BACKEND to one that is installed."
        ) from error


def _report(line: str) -> None:
    print(line, file=sys.stderr, flush=True)  # noqa: T201, this is the command's output for people
