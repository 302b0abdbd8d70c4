"""python -m export RUN -o model.onnx."""

import os
import sys
from pathlib import Path
from typing import Annotated

import typer

from chexscore.errors import ChexscoreError

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")  # TensorFlow tells its build options at every start
os.environ["KERAS_BACKEND"] = "tensorflow"  # tf2onnx reads TensorFlow's graphs, whatever trained the network

app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)


@app.command(
    epilog="Exit codes: 0 published, 1 refused or failed, 2 wrong usage. "
    "Example: python -m export runs/kermany -o model.onnx"
)
def export(
    run: Annotated[Path, typer.Argument(help="A run folder that `python -m training fit` finished.")],
    output: Annotated[Path, typer.Option("--output", "-o", metavar="ONNX", help="The file to publish.")],
) -> None:
    """Convert a trained network to ONNX, and publish it only if it scores as Keras does."""
    from export.publish import publish  # noqa: PLC0415, TensorFlow takes seconds to import

    _report(publish(run, output))


def _report(line: str) -> None:
    print(line, file=sys.stderr, flush=True)  # noqa: T201, this is the command's output for people


if __name__ == "__main__":
    try:
        app()
    except ChexscoreError as error:
        _report(f"export: error: {error}")
        sys.exit(error.exit_code)
    except OSError as error:  # a full disk, a folder that is not ours
        _report(f"export: error: {error.filename or ''} {error.strerror}.")
        sys.exit(1)
