"""Where the processor time of a whole `chexscore predict` goes.

    python -m tests.bench.speed.shares FOLDER

Threads' own processor time in each part, and that of the process up to the first image: a little more
than usual, as this imports before the command does. The rest: threads that wait for each other, rows, store
and output. What Python does behind the last line is not counted.
"""

import os
import sys
import tempfile
import threading
import time
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path
from typing import Any

from chexscore import Classifier, cli, find_images, images, scoring

__all__: list[str] = []

taken: dict[str, float] = defaultdict(float)
"""Part -> seconds."""

guard = threading.Lock()

MEASURED = (0, 3)
"""Exit codes with which images were scored: all, or not all of them."""


def watched(part: str, work: Callable[..., Any], within: str = "") -> Callable[..., Any]:
    """The same work, whose time is taken; out of that of another part if it is done within it."""

    def watch(*arguments: Any, **settings: Any) -> Any:
        with guard:
            taken.setdefault("start", time.process_time())
        began = time.thread_time()
        try:
            return work(*arguments, **settings)
        finally:
            took = time.thread_time() - began
            with guard:
                taken[part] += took
                taken[within] -= took

    return watch


def main(folder: str) -> None:
    """Scores a folder, and prints what each part took, in all and for an image, and its share."""
    for owner, name, part, within in (
        (images, "_resize", "resizing", "decoding"),
        (scoring, "load_image", "decoding", ""),
        (Classifier, "score", "network", ""),
    ):
        setattr(owner, name, watched(part, getattr(owner, name), within))
    with tempfile.TemporaryDirectory() as place:
        sys.argv = [
            "chexscore",
            "predict",
            folder,
            "-o",
            str(Path(place) / "out.csv"),
            "-q",
            "--device",
            "cpu",
        ]
        try:
            cli.main()
        except SystemExit as end:
            if end.code not in MEASURED:
                raise
    times, count = os.times(), len(list(find_images(folder)))
    whole = times.user + times.system
    parts = {part: taken[part] for part in ("start", "decoding", "resizing", "network")}
    parts["everything else"] = whole - sum(parts.values())
    print(f"{folder}: {count} images, {whole:.2f} s of processor time")
    for part, seconds in parts.items():
        print(f"  {part:16}{seconds:8.2f} s{1e3 * seconds / count:8.2f} ms{100 * seconds / whole:6.1f} %")


if __name__ == "__main__":
    main(sys.argv[1])
