"""python -m export RUN | weights | template | adopt."""

import os
import sys
from pathlib import Path
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

from chexscore.errors import UsageError, exit_on_error
from chexscore.spec import Precision

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")  # TensorFlow tells its build options at every start
os.environ["KERAS_BACKEND"] = "tensorflow"  # tf2onnx reads TensorFlow's graphs, whatever trained the network

EXIT_CODES = (
    "Exit codes: 0 published, 1 refused or failed and the message says why, 2 wrong usage, 130 stopped."
)


def _named_onnx(output: Path) -> Path:
    if output.suffix.lower() != ".onnx":  # or a slip replaces a file of another kind
        raise UsageError(f"{output}: a model is published under a name that ends in .onnx.")
    return output


Output = Annotated[
    Path,
    typer.Option("--output", "-o", metavar="ONNX", callback=_named_onnx, help="The file to publish."),
]
PrecisionOption = Annotated[
    Precision,
    typer.Option(
        help="Arithmetic: fp16 is for GPUs, int8 for CPUs; fp16-weights computes in fp32 from half the file. "
        "What they lose is measured."
    ),
]
AllowLoss = Annotated[
    bool, typer.Option("--allow-loss", help="Publish even if the lower precision loses more than it may.")
]


class _Commands(TyperGroup):
    """What is no command is a run folder: `python -m export RUN` is `python -m export run RUN`."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        if args and args[0] not in (*self.commands, "--help"):
            if not args[0].startswith("-") and not os.path.lexists(args[0]):  # or `run` would blame options
                raise UsageError(f"no command and no run folder is called {args[0]}.")
            args = ["run", *args]
        return super().parse_args(ctx, args)


app = typer.Typer(
    cls=_Commands,
    help="Publish networks as ONNX files that chexscore can run.",
    epilog=EXIT_CODES,
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)


@app.command(epilog=EXIT_CODES)
def run(
    folder: Annotated[Path, typer.Argument(help="A run folder that `python -m training fit` finished.")],
    output: Output,
    precision: PrecisionOption = "fp32",
    allow_loss: AllowLoss = False,  # noqa: FBT002, an option
    default: Annotated[
        list[str] | None,
        typer.Option(
            metavar="LABEL=POINT",
            help="The default operating point of a label, such as 'Edema=sensitivity 95 %'; otherwise that "
            "of Youden's index. Repeat it for more labels.",
        ),
    ] = None,
) -> None:
    """Publish a trained network, calibrated, if it scores as Keras does.

    `run` may be left out, unless the folder is called as a command is.

    For example: python -m export runs/kermany -o model.onnx
    """
    from export.publish import publish_run  # noqa: PLC0415, TensorFlow takes seconds to import

    _report(publish_run(folder, output, precision, allow_loss=allow_loss, defaults=_by_label(default or [])))


def _by_label(given: list[str]) -> dict[str, str]:
    """Label -> point, of LABEL=POINT; raises a UsageError for anything else, and for a label given twice."""
    defaults: dict[str, str] = {}
    for each in given:
        label, equals, point = each.rpartition("=")
        if not equals:
            raise UsageError(f"--default {each}: it takes LABEL=POINT, such as 'Edema=sensitivity 95 %'.")
        if label in defaults:
            raise UsageError(f"--default {each}: {label} has {defaults[label]!r} already.")
        defaults[label] = point
    return defaults


@app.command(epilog=EXIT_CODES)
def weights(
    file: Annotated[Path, typer.Argument(help="Weights alone, as Keras 2 saved them (.h5).")],
    output: Output,
    network: Annotated[str, typer.Option(help="The network that they belong to; there is one, reference.")],
    labels: Annotated[str, typer.Option(help="The labels, separated by commas; or chexpert for its 13.")],
    size: Annotated[int, typer.Option(min=8, max=8192, help="Height and width in pixels.")] = 512,
) -> None:
    """Publish the weights of an old training, if the file scores as Keras does.

    For example: python -m export weights old.h5 --network reference --labels chexpert -o model.onnx
    """
    from export.weights import publish_weights  # noqa: PLC0415, as above

    _report(publish_weights(file, output, network=network, labels=labels, size=size))


@app.command(epilog=EXIT_CODES)
def template(
    foreign: Annotated[Path, typer.Argument(help="An ONNX file that another framework exported.")],
    output: Annotated[Path, typer.Option("--output", "-o", metavar="TOML", help="The file to write.")],
) -> None:
    """Write the spec that `adopt` needs, with what the file itself says filled in.

    For example: python -m export template foreign.onnx -o spec.toml
    """
    from export.template import write_template  # noqa: PLC0415, onnx takes a second to import

    _report(write_template(foreign, output))


@app.command(epilog=EXIT_CODES)
def adopt(
    foreign: Annotated[Path, typer.Argument(help="An ONNX file that another framework exported.")],
    spec: Annotated[Path, typer.Option(metavar="TOML", help="What it expects and gives; see `template`.")],
    output: Output,
) -> None:
    """Publish a network from elsewhere, wrapped so that it takes and gives what chexscore does.

    For example: python -m export adopt foreign.onnx --spec spec.toml -o model.onnx
    """
    from export.adopt import publish_foreign  # noqa: PLC0415, as above

    _report(publish_foreign(foreign, spec, output))


def _report(line: str) -> None:
    print(line, file=sys.stderr, flush=True)  # noqa: T201, this is the command's output for people


if __name__ == "__main__":
    with exit_on_error("export", "stopped; nothing was published."):
        app()
