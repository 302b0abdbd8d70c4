"""Ray Data: ranges of the list -> decoded images -> rows, in order. The only importer of Ray.

What runs on the nodes is what runs on one machine (`chexscore.scoring`): tasks decode, actors hold a
Classifier each. A node or process that dies costs what it had not finished, which Ray gives to others; what
comes back has the places of the list on it, so that nothing is lost or there twice.
"""

import logging
import os
import pickle
import queue
import signal
import socket
import tempfile
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import lru_cache
from itertools import islice
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from chexscore.ahead import work_ahead
from chexscore.classifier import Classifier, Device
from chexscore.cluster.listing import read_paths
from chexscore.cluster.parts import Scored
from chexscore.cluster.storage import Folder, fetched
from chexscore.errors import ChexscoreError, DeviceError, ImageError, UsageError
from chexscore.runs import installed
from chexscore.scoring import Loaded, Network, load, score_loaded
from chexscore.spec import ImageSpec
from chexscore.stopping import Stop

if TYPE_CHECKING:
    import ray

__all__ = ["Job", "Ray", "Scorer", "connected", "decode", "rows_of"]

# Ray reports each cluster to its makers unless this is set when it starts. Nobody has agreed to that.
os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
os.environ["RAY_ENABLE_AUTO_CONNECT"] = "0"  # what a stop leaves waiting would else start another cluster

IMAGES_A_BLOCK = 128
"""What goes from a task that decodes to an actor that scores: 33 MB at 512 x 512 pixels."""

IMAGES_A_TASK = 1024
"""What is decoded again, at most, when a process dies."""

TASKS_A_CPU = 4
"""Tasks for each CPU where there are few images."""

THREADS = 2
"""Of a task that decodes: one waits for storage while the other decodes."""

POLL_S, CONNECT_S = 0.2, 10.0

Batch = Mapping[str, NDArray[Any]]


@dataclass(frozen=True)
class Job:
    """What the nodes have to know.

    Attributes:
        folder: of the output, which has the list.
        images_a_part: inputs in each file of the list.
        spans: the places in the list to score, as ranges: first, and first behind.
        base: the directory that relative paths were given in.
        image: what the network takes.
        max_pixels: larger images are not decoded.
        tags: DICOM keywords to read.
        installed: versions of what decodes, which have to be the same everywhere.
    """

    folder: str
    images_a_part: int
    spans: tuple[tuple[int, int], ...]
    base: str
    image: ImageSpec
    max_pixels: int
    tags: tuple[str, ...]
    installed: Mapping[str, str]

    @property
    def count(self) -> int:
        """How many images that are."""
        return sum(end - begin for begin, end in self.spans)

    def paths(self, numbers: NDArray[np.int64]) -> Iterator[tuple[int, str]]:
        """The place in the list and the path of the images with these numbers, counted through the spans."""
        starts = np.cumsum([0, *(end - begin for begin, end in self.spans)])
        folder, part, names = Folder(self.folder), -1, [""]
        for number in numbers:
            span = int(np.searchsorted(starts, number, side="right")) - 1
            position = self.spans[span][0] + int(number - starts[span])
            if position // self.images_a_part != part:
                part = position // self.images_a_part
                names = read_paths(folder, part)
            yield position, names[position % self.images_a_part]


def decode(batch: Batch, job: Job) -> Iterator[dict[str, NDArray[Any]]]:
    """Decodes images: "id", their numbers, to blocks of "position", "pixels" and "rest", what has no array.

    What cannot be decoded has black pixels and, as its rest, the reason.
    """
    _check_installed(job.installed)

    def load_one(path: str) -> Loaded:
        try:
            with fetched(path, job.base) as local:
                return load(local, job.image, max_pixels=job.max_pixels, tags=job.tags)
        except ImageError as error:
            return Loaded(error, {})

    positions, paths = zip(*job.paths(batch["id"]), strict=True)
    loading = work_ahead(paths, load_one, workers=THREADS, ahead=2 * THREADS)
    rest = zip(positions, loading, strict=True)
    black = np.zeros((job.image.height, job.image.width, 1), dtype=np.uint8)
    while block := list(islice(rest, IMAGES_A_BLOCK)):
        failures = [
            loaded.pixels if isinstance(loaded.pixels, ImageError) else None for _, (_, loaded) in block
        ]
        yield {
            "position": np.array([position for position, _ in block]),
            "pixels": np.stack(
                [
                    black if isinstance(loaded.pixels, ImageError) else loaded.pixels
                    for _, (_, loaded) in block
                ]
            ),
            "rest": _pickled(
                (path, failure, loaded.tags)
                for failure, (_, (path, loaded)) in zip(failures, block, strict=True)
            ),
        }


class Scorer:
    """A model on a node.

    Args:
        model: the file's content: only the driver has to have the file.
        device: "cpu", or "cuda" for one GPU.
        batch_size: images that go through the network together.
        versions: that have to be the same everywhere.

    Raises:
        DeviceError: CUDA was asked for and does not work on this node.
        UsageError: other versions are installed on this node.
    """

    def __init__(self, model: bytes, device: Device, batch_size: int, versions: Mapping[str, str]) -> None:
        _check_installed({name: versions[name] for name in installed()})
        with tempfile.NamedTemporaryFile(prefix="chexscore-", suffix=".onnx") as file:
            file.write(model)
            file.flush()
            self.classifier = Classifier(file.name, device=device, threads=1)
        if self.classifier.runtime != versions["onnxruntime"]:
            raise _other_versions({"onnxruntime": self.classifier.runtime}, versions)
        self._shape = batch_size
        self._network = Network(self.classifier, batch_size, self._shrink)

    def _shrink(self, shape: int) -> None:
        self._shape = shape

    def __call__(self, batch: Batch) -> dict[str, NDArray[Any]]:
        """Scores a block: "position", and as its "row" what is left to say of each image."""
        rest = [pickle.loads(row) for row in batch["rest"]]  # noqa: S301, from `decode`
        loading = (
            (path, Loaded(pixels if failure is None else failure, tags))
            for pixels, (path, failure, tags) in zip(batch["pixels"], rest, strict=True)
        )
        rows = [(prediction, self._shape) for prediction in score_loaded(loading, self._network)]
        return {"position": batch["position"], "row": _pickled(rows)}


def rows_of(batch: Batch) -> Iterator[Scored]:
    """What a Scorer gave."""
    for position, row in zip(batch["position"], batch["row"], strict=True):
        yield Scored(int(position), *pickle.loads(row))  # noqa: S301, as above


def _pickled(rows: Iterable[object]) -> NDArray[np.object_]:
    """Predictions and errors as Arrow can carry them, whatever the bytes of their paths."""
    return np.array([pickle.dumps(row, pickle.HIGHEST_PROTOCOL) for row in rows], dtype=object)


@lru_cache(maxsize=1)
def _here() -> dict[str, str]:
    return installed()


def _check_installed(wanted: Mapping[str, str]) -> None:
    if _here() != wanted:
        raise _other_versions(_here(), wanted)


def _other_versions(found: Mapping[str, str], wanted: Mapping[str, str]) -> UsageError:
    differences = ", ".join(f"{x} {found[x]}, not {wanted[x]}" for x in found if found[x] != wanted[x])
    return UsageError(f"node {os.uname().nodename} would score otherwise: it has {differences}.")


class Ray:
    """A Ray cluster that this process is connected to.

    Args:
        model: ONNX file, or None for the bundled one.
        device: "cuda" asks for a GPU for each actor; everything else is the CPU.
        batch_size: images that go through a network together.
        workers: actors, each with a network; None means what fits.

    Attributes:
        classifier: the model, opened on this machine, to be asked and not to score; its device is that of the
            actors.

    Raises:
        DeviceError: there is no GPU in the cluster, or it does not work.
        ModelError: the model cannot be used.
        UsageError: a node has other versions installed.
    """

    def __init__(self, model: str | None, device: Device, batch_size: int, workers: int | None) -> None:
        import ray  # noqa: PLC0415, an extra

        self.classifier = Classifier(model, device="cpu")
        with open(self.classifier.path, "rb") as file:
            content = file.read()
        resources = ray.cluster_resources()
        self._cpus, gpus = max(1, int(resources.get("CPU", 0))), int(resources.get("GPU", 0))
        on_gpu = device == "cuda"
        if on_gpu and not gpus:
            raise DeviceError(
                "CUDA was asked for, and no node of the Ray cluster has a GPU that Ray knows of."
            )
        # Actors reserve no CPU: when a node dies they would take, on those that are left, those of the tasks
        # that decode what was lost, and each would wait for the other. Fewer tasks decode at a time instead.
        self._gpus = float(on_gpu)
        self._actors = workers or (gpus if on_gpu else max(1, self._cpus // 2))
        self._decoders = max(1, self._cpus - (0 if on_gpu else self._actors))
        versions = {**installed(), "onnxruntime": self.classifier.runtime}
        self._arguments = (ray.put(content), "cuda" if on_gpu else "cpu", batch_size, versions)
        self.classifier.device = self._try()

    def _try(self) -> str:
        """What an actor really runs on; what keeps it from running is said here, not in the middle."""
        import ray  # noqa: PLC0415, as above

        def device(*arguments: Any) -> str:
            return Scorer(*arguments).classifier.device

        with _told():
            remote = ray.remote(num_cpus=0, num_gpus=self._gpus)(device)
            answer: str = ray.get(remote.remote(*self._arguments))
        return answer

    def score(self, job: Job, stop: Stop) -> Iterator[Scored]:
        """Scores a job; the rows come in the order of the list, until a stop.

        Raises:
            ChexscoreError: of its kind if a node raised one; or the cluster failed.
        """
        import ray  # noqa: PLC0415, as above

        if not job.count:
            return
        context = ray.data.DataContext.get_current()
        context.execution_options.preserve_order = True
        context.target_max_block_size = IMAGES_A_BLOCK * (job.image.height * job.image.width + 1024)
        context.enable_progress_bars = context.print_on_execution_start = False
        each = min(IMAGES_A_TASK, max(1, job.count // (TASKS_A_CPU * self._cpus)))
        model, *settings = self._arguments
        rows = (
            ray.data.range(job.count, override_num_blocks=-(-job.count // each))
            .map_batches(
                decode,
                batch_size=None,
                fn_kwargs={"job": job},
                compute=ray.data.TaskPoolStrategy(size=self._decoders),
            )
            .map_batches(
                _OnNode,
                batch_size=None,
                fn_constructor_args=([model], *settings),
                compute=ray.data.ActorPoolStrategy(size=self._actors),
                num_cpus=0,
                num_gpus=self._gpus,
            )
        )
        for batch in _in_a_thread(lambda: rows.iter_batches(batch_size=None, prefetch_batches=1), stop):
            yield from rows_of(batch)


class _OnNode(Scorer):
    """A Scorer whose model comes through Ray's store, once for each node."""

    def __init__(self, model: "list[ray.ObjectRef]", *settings: Any) -> None:
        import ray  # noqa: PLC0415, as above

        super().__init__(ray.get(model[0]), *settings)


@contextmanager
def connected(address: str | None) -> Iterator[None]:
    """Connects to a cluster for as long as the context.

    Args:
        address: of a cluster; "auto" for the one on this machine; None for the one of `ray job submit`, of
            RAY_ADDRESS or on this machine and, if there is none, one of this process.

    Raises:
        UsageError: Ray is not installed, or no cluster answers.
    """
    try:
        import ray  # noqa: PLC0415, an extra
        import ray.data  # noqa: PLC0415
    except ImportError as error:
        raise UsageError("--engine ray needs Ray: pip install 'chexscore[ray]'.") from error
    _check_address(address)
    logging.getLogger("ray.data").handlers.clear()  # its words are for those who write pipelines
    kept = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        ray.init(address=address, include_dashboard=False, log_to_driver=False, logging_level="critical")
    except (ConnectionError, ValueError, RuntimeError) as error:
        where = address or os.environ.get("RAY_ADDRESS", "this machine")
        raise UsageError(f"no Ray cluster answers at {where}: {_line(error)}") from error
    for number, handler in kept.items():  # Ray's own would end the process at once
        signal.signal(number, handler)
    try:
        yield
    finally:
        ray.shutdown()


def _check_address(address: str | None) -> None:
    """Tries what Ray would try for minutes."""
    if address is None or address in ("auto", "local"):
        return
    host, _, port = address.rpartition(":")
    try:
        socket.create_connection((host, int(port)), CONNECT_S).close()
    except (OSError, ValueError) as error:
        raise UsageError(
            f"no Ray cluster answers at {address}; give auto, or host:port of its head, such as HEAD:6379."
        ) from error


def _in_a_thread(batches: Callable[[], Iterable[Batch]], stop: Stop) -> Iterator[Batch]:
    """Waits for batches in a thread, so that a stop is heard while none comes."""
    waiting: queue.Queue[Batch | BaseException | None] = queue.Queue(maxsize=2)

    def take() -> None:
        try:
            for batch in batches():
                waiting.put(batch)
            waiting.put(None)
        except BaseException as error:  # noqa: BLE001, raised again below
            waiting.put(error)

    threading.Thread(target=take, daemon=True).start()
    while not stop.asked():
        with suppress(queue.Empty):
            match waiting.get(timeout=POLL_S):
                case None:
                    return
                case BaseException() as error:
                    with _told():
                        raise error
                case batch:
                    yield batch


@contextmanager
def _told() -> Iterator[None]:
    """Makes what Ray raises the ChexscoreError that it began with, or one sentence."""
    try:
        yield
    except ChexscoreError:
        raise
    except Exception as error:
        cause: BaseException | None = error
        while cause is not None and not isinstance(cause, ChexscoreError):
            cause = getattr(cause, "cause", None) or cause.__cause__
        if cause is not None:
            raise cause from None
        raise ChexscoreError(f"the Ray cluster failed: {_line(error)}; --resume goes on.") from error


def _line(error: BaseException) -> str:
    lines = [line for line in str(error).splitlines() if line.strip()]
    return f"{type(error).__name__}: {lines[-1].strip()[:300] if lines else 'it says no more'}"
