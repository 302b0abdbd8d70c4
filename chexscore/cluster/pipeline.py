"""Ray Data: ranges of the list -> decoded images -> rows, in order.

What runs on the nodes is what runs on one machine (`chexscore.scoring`): tasks decode, actors hold a
Classifier each. A node or process that dies costs what it had not finished, which Ray gives to others; what
comes back has the places of the list on it, so that nothing is lost or there twice.
"""

import queue
import threading
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from typing import TYPE_CHECKING, Any

from chexscore.classifier import Classifier
from chexscore.cluster.connection import told
from chexscore.cluster.decoding import IMAGES_A_BLOCK, decode
from chexscore.cluster.job import Batch, Job
from chexscore.cluster.parts import Scored
from chexscore.cluster.scorer import Scorer, rows_of
from chexscore.errors import DeviceError
from chexscore.sessions import Device
from chexscore.settings import installed
from chexscore.stopping import Stop, StoppedError

if TYPE_CHECKING:
    import ray

__all__ = ["Ray", "in_a_thread"]

IMAGES_A_TASK = 1024
"""What is decoded again, at most, when a process dies."""

TRIES = 2
"""Of a task that decodes, in its own process. Ray gives what dies to others, for ever; should an image be
what kills them, it gets its row because from then on images are decoded in processes apart."""

TASKS_A_CPU = 4
"""Tasks for each CPU where there are few images."""

POLL_S = 0.2


class Ray:
    """A Ray cluster that this process is connected to.

    Args:
        model: ONNX file, or None for the bundled one.
        device: "cuda" asks for a GPU for each actor; everything else is the CPU.
        batch_size: images that go through a network together.
        workers: actors, each with a network; None means what fits.
        stop: ends the wait for the first actor.

    Attributes:
        classifier: the model, opened on this machine, to be asked and not to score; its device is that of the
            actors.
        workers: how many actors there are.

    Raises:
        DeviceError: there is no GPU in the cluster, or it does not work.
        ModelError: the model cannot be used.
        StoppedError: the stop came first.
        UsageError: a node has other versions installed.
    """

    def __init__(
        self,
        model: str | None,
        device: Device,
        batch_size: int,
        workers: int | None,
        stop: Stop | None = None,
    ) -> None:
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
        self.workers = workers or (gpus if on_gpu else max(1, self._cpus // 2))
        self._decoders = max(1, self._cpus - (0 if on_gpu else self.workers))
        versions = {**installed(), "onnxruntime": self.classifier.runtime}
        self._arguments = (ray.put(content), "cuda" if on_gpu else "cpu", batch_size, versions)
        self.classifier.device = self._try(stop or Stop())

    def _try(self, stop: Stop) -> str:
        """What an actor really runs on; what keeps it from running is said here, not in the middle."""
        import ray  # noqa: PLC0415, as above

        def device(*arguments: Any) -> str:
            return Scorer(*arguments).classifier.device

        waiting = ray.remote(num_cpus=0, num_gpus=self._gpus)(device).remote(*self._arguments)
        while not ray.wait([waiting], timeout=POLL_S)[0]:  # others may have taken all GPUs
            if stop.asked():
                raise StoppedError
        with told():
            answer: str = ray.get(waiting)
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
                _decode_on_node,
                batch_size=None,
                fn_kwargs={"job": job},
                compute=ray.data.TaskPoolStrategy(size=self._decoders),
            )
            .map_batches(
                _OnNode,
                batch_size=None,
                fn_constructor_args=([model], *settings),
                compute=ray.data.ActorPoolStrategy(size=self.workers),
                num_cpus=0,
                num_gpus=self._gpus,
            )
        )
        for batch in in_a_thread(lambda: rows.iter_batches(batch_size=None, prefetch_batches=1), stop):
            yield from rows_of(batch)


def _decode_on_node(batch: Batch, job: Job) -> Iterator[Batch]:
    from ray._private import worker  # noqa: PLC0415, nothing public says how often a task was tried

    tried: int = worker.global_worker.core_worker.get_current_task_attempt_number()
    return decode(batch, job, apart=tried >= TRIES)


class _OnNode(Scorer):
    """A Scorer whose model comes through Ray's store, once for each node."""

    def __init__(self, model: "list[ray.ObjectRef]", *settings: Any) -> None:
        import ray  # noqa: PLC0415, as above

        super().__init__(ray.get(model[0]), *settings)


def in_a_thread(batches: Callable[[], Iterable[Batch]], stop: Stop) -> Iterator[Batch]:
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
                case BaseException() if stop.asked():
                    return  # the signal went to the processes of a cluster here, too
                case BaseException() as error:
                    with told():
                        raise error
                case batch:
                    yield batch
