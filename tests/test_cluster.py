"""What a Ray cluster writes is what one machine writes; without Ray, but for the last tests."""

import errno
import logging
import os
import re
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from chexscore import Classifier
from chexscore.cluster import decoding, listing, pipeline
from chexscore.cluster.connection import connected
from chexscore.cluster.decoding import decode
from chexscore.cluster.job import Job
from chexscore.cluster.parts import Parts, Scored
from chexscore.cluster.run import merge, on_ray, plan, run
from chexscore.cluster.scorer import Scorer, rows_of
from chexscore.errors import ChexscoreError, DeviceError, NoImageError, OutputError, UsageError
from chexscore.exits import exit_code
from chexscore.lock import locked
from chexscore.options import Options
from chexscore.predictions import Prediction, Status
from chexscore.records import RunRecord
from chexscore.runs import run as run_here
from chexscore.scoring import Loaded, load
from chexscore.settings import installed
from chexscore.stopping import Stop
from chexscore.units import parse_limit
from tests.phantoms import draw
from tests.test_images import save_dicom
from tests.test_runs import stop_after

Flat = Callable[[str, int], Path]
RESUME = Options(resume=True)


class Alone:
    """An engine that calls in this process what Ray calls on its nodes; counts the images."""

    def __init__(self, model: Path) -> None:
        versions = {**installed(), "onnxruntime": Classifier(model, device="cpu").runtime}
        self.scorer = Scorer(model.read_bytes(), "cpu", 8, versions)
        self.classifier, self.count = self.scorer.classifier, 0

    def score(self, job: Job, stop: Stop) -> Iterator[Scored]:
        self.count = job.count
        for ids in np.array_split(np.arange(job.count), 3):
            for block in decode({"id": ids}, job) if len(ids) else ():
                yield from rows_of(self.scorer(block))
                if stop.asked():
                    return


@pytest.fixture
def engine(model: Path, monkeypatch: pytest.MonkeyPatch) -> Alone:
    monkeypatch.setattr(listing, "IMAGES_A_PART", 7)
    monkeypatch.setattr(decoding, "IMAGES_A_BLOCK", 4)
    return Alone(model)


@pytest.fixture
def images(flat: Flat, tmp_path: Path) -> Path:
    for value in range(30):
        flat(f"images/{value:03}.png", 5 * value)
    folder = tmp_path / "images"
    (folder / "013.bad.png").write_text("no image")
    (folder / os.fsdecode(b"caf\xe9.png")).write_bytes((folder / "009.png").read_bytes())
    (folder / "notes.txt").write_text("not to be scored")
    save_dicom(folder / "z" / "film.dcm", draw(1, size=16), StudyInstanceUID="1.2.3")
    return folder


def whole(images: Path, classifier: Classifier, options: Options | None = None) -> bytes:
    output = images.parent / "whole.csv"
    run_here([str(images)], str(output), classifier, options)
    return output.read_bytes()


def merged(folder: Path) -> bytes:
    merge(str(folder), f"{folder}.csv", overwrite=True)
    return Path(f"{folder}.csv").read_bytes()


def test_the_merged_parts_are_what_one_machine_writes(engine: Alone, images: Path, tmp_path: Path) -> None:
    options = Options(thresholds=True, tags=("StudyInstanceUID",))
    record = run([str(images)], str(tmp_path / "out"), engine, options)
    assert merged(tmp_path / "out") == whole(images, engine.classifier, options)
    assert (record.found, record.scored, record.failed) == (33, 32, {"unreadable": 1})
    assert record.ignored == 1
    table = pd.read_parquet(tmp_path / "out")
    assert list(table["path"])[-2:] == [f"{images}/caf\\xe9.png", f"{images}/z/film.dcm"]
    assert len(table) == 33
    assert len(list((tmp_path / "out").glob("part-*.parquet"))) == 5


def test_a_stopped_run_keeps_its_parts_and_what_is_missing_is_scored(
    engine: Alone, images: Path, tmp_path: Path
) -> None:
    out, stop = tmp_path / "out", Stop()
    record = run([str(images)], str(out), engine, Options(), stop=stop, watch=stop_after(24, stop))
    assert not record.finished
    with pytest.raises(UsageError, match="no finished output"):
        merge(str(out), str(tmp_path / "out.csv"))
    with pytest.raises(UsageError, match="--resume goes on with it"):
        run([str(images)], str(out), engine, Options())
    (out / "part-000001.parquet").write_bytes((out / "part-000000.parquet").read_bytes()[:-9])
    again = run([str(images)], str(out), engine, RESUME)
    assert engine.count == 33 - 26 + 7, "all rows that came are kept, but for the damaged part"
    assert again.unchanged + again.scored + again.not_scored == 33
    assert merged(out) == whole(images, engine.classifier)


def test_what_an_earlier_run_has_kept_does_not_outlive_a_merge(
    engine: Alone, images: Path, tmp_path: Path
) -> None:
    output = str(tmp_path / "out.csv")
    run_here([f"{images}/001.png"], output, engine.classifier)
    run([str(images)], str(tmp_path / "out"), engine, Options())
    Path(output).unlink()
    Path(f"{output}.run.json").unlink()
    with pytest.raises(UsageError, match=r"out\.csv\.state exists; --overwrite replaces it"):
        merge(str(tmp_path / "out"), output)
    state = Path(f"{output}.state")
    kept = state.rename(f"{state}.aside").read_bytes()  # as a merge that was killed then leaves it
    Path(f"{output}.partial").touch()
    with pytest.raises(UsageError, match=r"out\.csv\.state exists; --overwrite replaces it"):
        merge(str(tmp_path / "out"), output)
    assert state.read_bytes() == kept
    rows = merged(tmp_path / "out")
    with pytest.raises(UsageError, match="--overwrite"):  # it would know of one row
        run_here([f"{images}/001.png"], output, engine.classifier, RESUME)
    assert Path(output).read_bytes() == rows


@pytest.mark.parametrize(
    ("stop_at", "error", "words"),
    [
        (99, OutputError, "a run has gone on with .*out meanwhile; merge it again"),
        (33, UsageError, "no finished output"),
    ],
)
def test_no_merge_takes_rows_of_two_runs(
    engine: Alone,
    images: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    stop_at: int,
    error: type[Exception],
    words: str,
) -> None:
    out, output = tmp_path / "out", tmp_path / "out.csv"
    run([str(images)], str(out), engine, Options())
    rows, stop = Parts.rows, Stop()

    def meanwhile(parts: Parts) -> Iterator[Prediction]:
        yield from rows(parts)
        run([str(images)], str(out), engine, RESUME, stop=stop, watch=stop_after(stop_at, stop))

    monkeypatch.setattr(Parts, "rows", meanwhile)
    with pytest.raises(error, match=words):
        merge(str(out), str(output))
    assert not output.exists()


@pytest.mark.parametrize("order", [[0, 1, 1, 3], [0, 2, 1, 3], [1, 2, 3]])
def test_rows_that_are_lost_or_there_twice_are_never_published(
    engine: Alone, images: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, order: list[int]
) -> None:
    score = engine.score

    def garbled(job: Job, stop: Stop) -> Iterator[Scored]:
        rows = list(score(job, stop))
        yield from (rows[number] for number in [*order, *range(4, len(rows))])

    monkeypatch.setattr(engine, "score", garbled)
    with pytest.raises(OutputError, match=r"row \d came instead of \d; please report this"):
        run([str(images)], str(tmp_path / "out"), engine, Options())
    assert not (tmp_path / "out" / "_SUCCESS").exists()
    monkeypatch.setattr(engine, "score", score)
    run([str(images)], str(tmp_path / "out"), engine, RESUME)
    assert merged(tmp_path / "out") == whole(images, engine.classifier)


def test_a_finished_output_is_left_but_for_what_failed(engine: Alone, images: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    run([str(images)], str(out), engine, Options())
    (images / "013.bad.png").write_bytes((images / "009.png").read_bytes())
    stop = Stop()
    stop.reason = "SIGTERM"
    run([str(images)], str(out), engine, RESUME, stop=stop)
    assert (out / "_SUCCESS").exists(), "nothing was changed before the stop"
    assert run([str(images)], str(out), engine, RESUME).scored == 1 == engine.count
    assert merged(out) == whole(images, engine.classifier)
    assert run([str(images)], str(out), engine, RESUME).unchanged == 33
    assert engine.count == 0


def test_other_inputs_or_settings_are_not_mixed_in(
    engine: Alone, images: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = str(tmp_path / "out")
    monkeypatch.chdir(tmp_path)
    run(iter(["images"]), out, engine, Options())
    with pytest.raises(UsageError, match="max pixels 80000000 then and 9 now"):
        run(["images"], out, engine, Options(resume=True, max_pixels=9))
    with pytest.raises(UsageError, match=r"columns .* then and .*Bright_positive, Dark_positive now"):
        run(["images"], out, engine, Options(resume=True, thresholds=True))
    with pytest.raises(UsageError, match="was begun with other inputs"):
        run(["images", "images/000.png"], out, engine, RESUME)
    assert run(iter(["images"]), out, engine, RESUME).unchanged == 32
    monkeypatch.chdir(images)
    with pytest.raises(UsageError, match="relative paths in another directory"):
        run(["images"], out, engine, RESUME)
    part = tmp_path / "out" / "part-000002.parquet"
    part.write_bytes(part.read_bytes().replace(b"ok", b"no"))
    with pytest.raises(
        OutputError, match=r"part-000002.parquet is missing, damaged or of another run; .* --resume makes"
    ):
        merge(out, "-")
    for source, output, words in (
        (str(images / "000.png"), "-", "is a file; give the folder"),
        (out, str(tmp_path / "z.txt"), "the suffix decides"),
        (out, f"{out}/out.csv", "among the parts"),
    ):
        with pytest.raises(UsageError, match=words):
            merge(source, output)
    assert not list(tmp_path.rglob("*.lock"))
    (tmp_path / "out" / "_inputs.json").unlink()
    with pytest.raises(UsageError, match="has parts and no _inputs"):
        run(["images"], out, engine, RESUME)


def test_a_folder_that_cannot_be_listed_costs_no_part_of_an_earlier_run(
    engine: Alone, images: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "out"
    run([str(images)], str(out), engine, Options())
    before = contents(out)

    scandir = os.scandir

    def refuse(path: Any) -> Any:
        if path == str(images):
            raise PermissionError(13, "Permission denied", path)
        return scandir(path)

    monkeypatch.setattr(os, "scandir", refuse)
    with pytest.raises(NoImageError, match="left as it was"):
        run([str(images)], str(out), engine, Options(overwrite=True))
    monkeypatch.undo()
    assert contents(out) == before


def test_an_output_that_cannot_be_listed_is_not_begun_anew(
    engine: Alone, images: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "out"
    run([str(images)], str(out), engine, Options())
    before = contents(out)

    def refuse(path: Any) -> Any:
        raise OSError(errno.ESTALE, "Stale file handle", path)

    monkeypatch.setattr(os, "scandir", refuse)
    for options in (Options(), RESUME, Options(overwrite=True)):
        with pytest.raises(OutputError, match=r"out/ cannot be listed: Stale file handle\.$"):
            run([f"{images}/000.png"], str(out), engine, options)
    monkeypatch.undo()
    assert contents(out) == before


def contents(folder: Path) -> dict[Path, bytes]:
    return {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_an_archive_that_is_not_there_costs_nothing(engine: Alone, images: Path, tmp_path: Path) -> None:
    out, away = tmp_path / "out", tmp_path / "away"
    away.mkdir()
    for gone in (away, tmp_path / "none"):
        with pytest.raises(NoImageError, match="no image found"):
            run([str(gone)], str(out), engine, Options())
    assert not out.exists(), "or the list of nothing would be gone on with"
    run([str(images)], str(out), engine, Options())
    images.rename(away / "images")
    with pytest.raises(NoImageError, match="left as it was"):
        run([str(images)], str(out), engine, Options(overwrite=True))
    (away / "images").rename(images)
    assert merged(out) == whole(images, engine.classifier)
    with pytest.raises(UsageError, match="--min-age is not for --engine ray"):
        run([str(images)], str(out), engine, Options(min_age=9, overwrite=True))


@pytest.mark.parametrize("options", [Options(overwrite=True), RESUME], ids=["overwrite", "resume"])
def test_a_stop_while_the_archive_is_looked_for_costs_nothing(
    engine: Alone, images: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, options: Options
) -> None:
    out, begun, stop = tmp_path / "out", Stop(), Stop()
    run([str(images)], str(out), engine, Options(), stop=begun, watch=stop_after(10, begun))
    before = contents(out)

    def is_there(_: str, **__: object) -> bool:
        stop.reason = "SIGTERM"
        return False

    monkeypatch.setattr("chexscore.cluster.run.is_there", is_there)
    run([str(images)], str(out), engine, options, stop=stop)
    assert contents(out) == before


def test_a_run_that_goes_on_takes_no_archive_that_is_away_for_missing_images(
    engine: Alone, images: Path, tmp_path: Path
) -> None:
    out, away, stop = tmp_path / "out", tmp_path / "away", Stop()
    run([str(images)], str(out), engine, Options(), stop=stop, watch=stop_after(10, stop))
    before = contents(out)
    images.rename(away)
    with pytest.raises(NoImageError, match="left as it was"):
        run([str(images)], str(out), engine, RESUME)
    assert contents(out) == before
    away.rename(images)
    for number in range(7):  # scored, and let go of
        (images / f"{number:03}.png").unlink()
    (images / "029.png").unlink()
    for _ in range(2):
        assert run([str(images)], str(out), engine, RESUME).failed == {"missing": 1, "unreadable": 1}


def test_what_cannot_be_looked_into_counts_as_on_one_machine(
    engine: Alone, images: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    scandir = os.scandir

    def refuse(path: str) -> Any:
        if path.endswith("/z"):
            raise PermissionError(13, "Permission denied", path)
        return scandir(path)

    monkeypatch.setattr(os, "scandir", refuse)
    (images / os.fsdecode(b"caf\xe9.png")).write_text("damaged, and no name for pyarrow")
    record = run([str(images), "nothing://at/all.png"], str(tmp_path / "out"), engine, Options())
    assert (record.failed, record.unseen, record.unlisted) == ({"unreadable": 4}, 1, 1)
    assert record.examples["unreadable"] == f"{images}/z: a directory that cannot be listed"
    with pytest.raises(ChexscoreError, match=r"1 input cannot be looked into .* --max-failures 50% was kept"):
        exit_code(record, "out", Stop(), parse_limit("--max-failures", "50%"))


def test_uris_are_read_and_written(engine: Alone, images: Path, tmp_path: Path) -> None:
    (images / os.fsdecode(b"caf\xe9.png")).rename(images / "caf\xe9 #1?.png")
    assert list(plan([f"file://{images}"], "out", Options()))[-1] == f"file://{images}/z/film.dcm"
    gone = [f"file://{images}/gone.png", "nothing://at/all.png", "fsspec+nothing://at/all"]
    out = f"file://{tmp_path}/out"
    record = run([f"file://{images}", *gone], out, engine, Options())
    assert record.failed == {"unreadable": 3, "missing": 1}
    rows = merged(tmp_path / "out").replace(b"file://", b"").splitlines()[:-3]
    assert rows == whole(images, engine.classifier).splitlines()


def test_a_store_of_fsspec_is_written(engine: Alone, images: Path, tmp_path: Path) -> None:
    pytest.importorskip("fsspec", reason="fsspec is not installed; it comes with Ray Data")
    run([str(images)], "fsspec+memory://bucket/out", engine, Options())
    merge("fsspec+memory://bucket/out", str(tmp_path / "out.csv"))
    assert (tmp_path / "out.csv").read_bytes() == whole(images, engine.classifier)


def test_places_that_cannot_be_written_are_said(engine: Alone, images: Path, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("precious")
    for output, words in {
        "-": "writes a folder",
        "out.csv": "writes a folder",
        "": "cannot be written",
        str(tmp_path / "none" / "out"): "no folder",
        str(tmp_path / "file"): "is a file",
        str(images): "holds other files",
        "nothing://at/all": "cannot be opened",
        "fsspec+nothing://at/all": "cannot be opened",
    }.items():
        with pytest.raises(UsageError, match=words):
            run([str(images)], output, engine, Options(overwrite=True))
    assert len(list(images.iterdir())) == 34


def test_a_stop_ends_the_wait_for_the_lock(images: Path, model: Path, tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "part-000000.parquet").touch()  # of the run that is at it
    command = f"predict {images} -o {tmp_path}/out --engine ray --lock-wait 1h --max-duration 0.1s -m {model}"
    with locked(str(tmp_path / "out"), 0, Stop()):
        done = subprocess.run(
            [sys.executable, "-m", "chexscore", *command.split()], capture_output=True, text=True, check=False
        )
    assert (done.returncode, done.stderr) == (
        3,
        "chexscore: stopped by --max-duration before the first image\n",
    )


def die_of_one(path: str, *arguments: Any, **options: Any) -> Loaded:
    if "003" in path:
        os.kill(os.getpid(), signal.SIGKILL)
    return load(path, *arguments, **options)


def test_an_image_that_kills_its_process_has_a_row(
    engine: Alone, images: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(decoding, "load", die_of_one)
    monkeypatch.setitem(globals(), "decode", partial(decode, apart=True))
    given = [f"{images}/{name}" for name in ("002.png", "003.png")]
    record = run(given, str(tmp_path / "out"), engine, Options())
    assert (record.scored, record.failed) == (1, {"unreadable": 1})
    assert record.examples["unreadable"] == f"{images}/003.png: its decoder crashed"


def test_a_wrong_address_is_said_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("ray", reason="Ray is not installed")
    monkeypatch.setenv("RAY_ADDRESS", "127.0.0.1:2")
    for address in ("127.0.0.1:1", "[::1]:1", "127.0.0.1:99999", "ray://127.0.0.1:1", "nonsense", None):
        where = re.escape(address or "127.0.0.1:2")
        with pytest.raises(UsageError, match=f"no Ray cluster answers at {where}; give auto"):
            connected(address).__enter__()


def test_a_ray_that_does_not_start_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    ray = pytest.importorskip("ray", reason="Ray is not installed")

    def too_slow(**_: object) -> None:
        raise Exception("The current node timed out during startup")  # noqa: TRY002, as Ray does

    monkeypatch.setattr(ray, "init", too_slow)
    for address, variable in ((None, ""), ("local", "127.0.0.1:2")):
        monkeypatch.setenv("RAY_ADDRESS", variable)
        with pytest.raises(ChexscoreError, match=r"neither reached nor started .* timed out during startup"):
            connected(address).__enter__()


def test_the_end_of_a_connection_lets_ray_data_say_nothing_more(monkeypatch: pytest.MonkeyPatch) -> None:
    ray = pytest.importorskip("ray", reason="Ray is not installed")
    monkeypatch.setattr(ray, "init", lambda **_: None)
    said: list[bool] = []
    logger = logging.getLogger("ray.data.exceptions")
    monkeypatch.setattr(ray, "shutdown", lambda: said.append(logger.isEnabledFor(logging.ERROR)))
    with connected("local"):
        assert logger.isEnabledFor(logging.ERROR)
    assert said == [False]
    logging.getLogger("ray.data").setLevel(logging.DEBUG)


def test_a_cluster_that_a_signal_ends_with_the_command_is_no_failure(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(_: object) -> Any:
        raise RuntimeError("the node died")

    batches = partial(map, fail, [0])
    with pytest.raises(ChexscoreError, match="the node died"):
        list(pipeline.in_a_thread(batches, Stop()))
    asked = iter([False, True])  # it comes while the next batch is waited for
    monkeypatch.setattr(Stop, "asked", lambda _: next(asked))
    assert not list(pipeline.in_a_thread(batches, Stop()))


def test_a_plan_refuses_what_a_run_would(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="writes a folder of parts"):
        plan([str(tmp_path)], str(tmp_path / "out.csv"), Options())


def test_a_dry_run_without_an_image_ends_as_on_one_machine(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "none").mkdir()
    (tmp_path / "none.txt").touch()
    for given in (["none"], ["--files-from", "none.txt"]):
        command = [sys.executable, "-m", "chexscore", "predict", *given, "-n"]
        here, there = (
            subprocess.run(words, cwd=tmp_path, capture_output=True, text=True, check=False)
            for words in (command, [*command, "--engine", "ray"])
        )
        assert (there.returncode, there.stdout, there.stderr) == (4, "", here.stderr)
    monkeypatch.setattr("chexscore.cluster.run.LOOKED_AT", 2)
    gone = [f"{tmp_path}/{name}.png" for name in "abc"]
    listed: list[str] = []
    for number, words in ((1, f"no image found in {gone[0]}"), (3, "none of the first")):
        with pytest.raises(NoImageError, match=words):
            listed += plan(gone[:number], "-", Options())
    assert listed == [gone[0], *gone], "behind the last path"
    assert len(list(plan(["nothing://at/all.png"], "-", Options()))) == 1, "no store is asked of an image"
    unclear = ["nothing://at/all"] * 2
    with pytest.raises(NoImageError):
        list(plan(unclear[:1], "-", Options()))
    assert list(plan([*unclear, str(tmp_path / "none.txt")], "-", Options()))[:2] == unclear


def test_a_node_with_other_decoders_is_refused() -> None:
    with pytest.raises(UsageError, match="would score otherwise: it has chexscore"):
        Scorer(b"", "cpu", 8, {**installed(), "chexscore": "0.0", "onnxruntime": "1"})


@pytest.fixture(scope="module")
def films(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """500 drawn X-rays, of which some are damaged."""
    folder = tmp_path_factory.mktemp("films")
    for number in range(500):
        film = Image.fromarray(draw(number, size=64))
        film.save(folder / f"{number:03}.{'jpg' if number % 2 else 'png'}")
        if number % 50 == 7:
            path = folder / f"{number:03}.jpg"
            path.write_bytes(path.read_bytes()[:200])
    return folder


@pytest.mark.ray
@pytest.mark.filterwarnings("ignore")
def test_two_nodes_of_which_one_dies_write_what_one_machine_writes(
    films: Path, model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("ray", reason="Ray is not installed")
    from ray._common.usage import usage_lib
    from ray.cluster_utils import Cluster

    monkeypatch.setattr(listing, "IMAGES_A_PART", 50)
    monkeypatch.setenv("RAY_worker_niceness", "0")  # by default whatever else runs here goes first
    nodes = {"num_cpus": 2, "object_store_memory": 100 * 2**20}
    head = {**nodes, "include_dashboard": False}
    cluster = Cluster(initialize_head=True, head_node_args=head)
    other = cluster.add_node(**nodes)
    (raylet,) = (str(raylet.process.pid) for raylet in other.all_processes["raylet"])
    before: list[str] = []

    def watch(record: RunRecord) -> None:
        if record.done >= 100 and not before:
            command = ["/bin/ps", "--ppid", raylet, "-o", "args="]
            its_own = subprocess.check_output(command, text=True)
            if work := [line for line in its_own.splitlines() if line.startswith("ray::Map")]:
                before.extend(work)
                cluster.remove_node(other, allow_graceful=False)

    try:
        with on_ray(str(tmp_path / "out"), Options(), cluster.address, str(model), "auto") as ray:
            assert not usage_lib.usage_stats_enabled()
            with pytest.raises(DeviceError, match="no node of the Ray cluster has a GPU"):
                pipeline.Ray(str(model), "cuda", 8, None)
            record = run([str(films)], str(tmp_path / "out"), ray, Options(), watch=watch)
    finally:
        cluster.shutdown()
    assert before, "the node died while it held work"
    assert (record.found, record.failed) == (500, {Status.UNREADABLE: 10})
    assert merged(tmp_path / "out") == whole(films, Classifier(model, device="cpu"))
