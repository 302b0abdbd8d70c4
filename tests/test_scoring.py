import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import onnxruntime
import pytest
from numpy.typing import NDArray

from chexscore import Classifier, Prediction, Status, predict
from chexscore.cores import has_vnni, usable_cores
from chexscore.errors import ModelError, NetworkError
from chexscore.options import Options
from chexscore.scoring import DECODED_AHEAD, Network, _Batch, _Scored, open_classifier, score_images

Flat = Callable[[str, int], Path]


@pytest.mark.parametrize("batch_size", [1, 3, 8, 64])
def test_every_image_gets_its_own_scores_in_order(
    model: Path, flat: Flat, tmp_path: Path, batch_size: int
) -> None:
    for value in range(0, 250, 7):
        flat(f"images/{value:03}.png", value)
    results = list(predict(tmp_path / "images", model, batch_size=batch_size, workers=3))
    assert [result.path for result in results] == [
        f"{tmp_path}/images/{value:03}.png" for value in range(0, 250, 7)
    ]
    for value, result in zip(range(0, 250, 7), results, strict=True):
        assert result.status is Status.OK
        assert result.scores == pytest.approx({"Bright": value / 255, "Dark": 1 - value / 255}, abs=1e-6)


def test_failures_keep_their_place_and_move_nobody_else(model: Path, flat: Flat, tmp_path: Path) -> None:
    alone = {
        result.path: result for result in predict([flat(f"{i:02}.png", 10 * i) for i in range(20)], model)
    }
    for bad in (0, 3, 4, 5, 11, 19):
        (tmp_path / f"{bad:02}.bad.png").write_text("no image")
    (tmp_path / "zz.png").touch()
    results = [result for result in predict(tmp_path, model, batch_size=4) if "/model/" not in result.path]
    assert len(results) == 27
    assert [result.path for result in results] == sorted(result.path for result in results)
    assert {result.path: result for result in results if result.status is Status.OK} == alone
    assert [r.status for r in results if r.path not in alone] == [Status.UNREADABLE] * 7
    assert all(result.note and not result.scores for result in results if result.path not in alone)


class Stub(Classifier):
    """The brightness network with a fault in it."""

    def __init__(self, model: Path, fault: Callable[[NDArray[np.uint8]], NDArray[np.float32] | None]) -> None:
        super().__init__(model, device="cpu")  # with all threads, so that batches come one after the other
        self.fault = fault

    def score(self, images: NDArray[np.uint8]) -> NDArray[np.float32]:
        replaced = self.fault(images)
        return super().score(images) if replaced is None else replaced


def test_an_image_that_makes_the_network_fail_fails_alone(model: Path, flat: Flat) -> None:
    paths = [str(flat(f"{i}.png", 20 * i)) for i in range(10)]

    def fault(images: NDArray[np.uint8]) -> None:
        if (images == 80).any():
            raise NetworkError("cannot stand 80")

    results = list(score_images(paths, Stub(model, fault), batch_size=5))
    assert [r.status for r in results] == [Status.FAILED if i == 4 else Status.OK for i in range(10)]
    assert results[4].note == "cannot stand 80"
    assert results[5].scores["Bright"] == pytest.approx(100 / 255)


def test_an_image_that_fails_once_is_scored_the_next_time(model: Path, flat: Flat) -> None:
    """Others may have had the memory meanwhile."""
    left = [0]

    def fault(images: NDArray[np.uint8]) -> None:
        if (images == 80).any() and left[0]:
            left[0] -= 1
            raise NetworkError("Failed to allocate memory")

    paths = [str(flat(f"{i}.png", 20 * i)) for i in range(10)]
    for times, expected in ((2, Status.OK), (3, Status.FAILED)):
        left[0] = times
        results = list(score_images(paths, Stub(model, fault), batch_size=5))
        assert [r.status for r in results] == [expected if i == 4 else Status.OK for i in range(10)]


def test_a_score_that_is_no_number_is_a_failure(model: Path, flat: Flat) -> None:
    def fault(images: NDArray[np.uint8]) -> NDArray[np.float32]:
        scores = np.full((len(images), 2), 0.5, dtype=np.float32)
        scores[1, 0], scores[2, 1], scores[3, 0] = np.nan, 1.5, -0.5
        return scores

    paths = [str(flat(f"{i}.png", i)) for i in range(5)]
    results = list(score_images(paths, Stub(model, fault), batch_size=5))
    assert [r.status for r in results] == [Status.OK, *[Status.FAILED] * 3, Status.OK]


@pytest.mark.parametrize("error", [NetworkError("out of memory"), MemoryError()])
def test_batches_that_do_not_fit_become_smaller_once_for_all(
    model: Path, flat: Flat, error: Exception
) -> None:
    seen: list[int] = []

    def fault(images: NDArray[np.uint8]) -> None:
        seen.append(len(images))
        if len(images) > 2:
            raise error

    paths = [str(flat(f"{i:02}.png", i)) for i in range(16)]
    results = list(score_images(paths, Stub(model, fault), batch_size=8))
    assert [result.scores["Bright"] for result in results] == pytest.approx([i / 255 for i in range(16)])
    assert seen == [8, 8, 4, 4] + [2] * 8


def test_a_network_that_fails_on_everything_ends_the_run(model: Path, flat: Flat) -> None:
    def fault(_: NDArray[np.uint8]) -> None:
        raise NetworkError("the device is gone")

    with pytest.raises(NetworkError, match="the device is gone"):
        list(score_images([str(flat("a.png", 1))], Stub(model, fault)))


def test_the_network_only_sees_full_batches(model: Path, flat: Flat) -> None:
    seen: list[int] = []

    def watch(images: NDArray[np.uint8]) -> None:
        seen.append(len(images))

    list(score_images([str(flat(f"{i}.png", i)) for i in range(7)], Stub(model, watch), batch_size=4))
    assert seen == [4, 4]


def test_a_cpu_scores_images_one_by_one_unless_asked(model: Path, flat: Flat) -> None:
    seen: list[int] = []

    def watch(images: NDArray[np.uint8]) -> None:
        seen.append(len(images))

    list(score_images([str(flat(f"{i}.png", i)) for i in range(3)], Stub(model, watch)))
    assert seen == [1, 1, 1]
    assert Options().in_force("cpu")["batch_size"] == 1
    assert Options().in_force("cuda")["batch_size"] == 4
    assert Options(batch_size=9).in_force("cuda")["batch_size"] == 9


@pytest.mark.parametrize("cores", [1, 3])
@pytest.mark.parametrize("batch_size", [1, 5])
def test_input_is_taken_no_faster_than_it_is_scored(
    model: Path, flat: Flat, monkeypatch: pytest.MonkeyPatch, batch_size: int, cores: int
) -> None:
    path, taken = str(flat("a.png", 1)), 0

    def endless() -> Iterator[str]:
        nonlocal taken
        while True:
            taken += 1
            yield path

    def slow(_: NDArray[np.uint8]) -> None:
        time.sleep(0.01)

    stub = Stub(model, slow)
    stub.threads = 1
    monkeypatch.setattr("chexscore.scoring.usable_cores", lambda: cores)
    results = score_images(endless(), stub, batch_size=batch_size, workers=2)
    for _ in range(20):
        assert isinstance(next(results), Prediction)
    assert taken <= 20 + 2 * cores * batch_size + max(batch_size, DECODED_AHEAD) + 2 * 2
    results.close()  # type: ignore[attr-defined]


def test_a_slow_disk_does_not_stop_the_network_from_scoring_what_is_there(model: Path, flat: Flat) -> None:
    """The last path only comes once both batches before it are scored."""
    path, scored = str(flat("a.png", 1)), threading.Semaphore(0)

    def slow() -> Iterator[str]:
        for number in range(12):
            if number == 11:
                assert scored.acquire(timeout=20)
                assert scored.acquire(timeout=20)
            elif number > 8:
                time.sleep(0.3)  # in which all that came before is decoded
            yield path

    def tell(_: NDArray[np.uint8]) -> None:
        scored.release()

    assert len(list(score_images(slow(), Stub(model, tell), batch_size=4, workers=2))) == 12


def test_each_core_has_a_batch_in_the_network(
    model: Path, flat: Flat, monkeypatch: pytest.MonkeyPatch
) -> None:
    both, score = threading.Barrier(2, timeout=20), Network.score

    def watch(network: Network, batch: _Batch) -> _Scored:
        if batch.pixels:
            both.wait()  # fails after its time if there is never a second one
        return score(network, batch)

    monkeypatch.setattr(Network, "score", watch)
    monkeypatch.setattr("chexscore.scoring.usable_cores", lambda: 2)
    paths = [str(flat(f"{number}.png", 10 * number)) for number in range(4)]
    results = score_images(paths, Classifier(model, device="cpu", threads=1))
    assert [each.status for each in results] == [Status.OK] * 4


def test_cores_do_not_wait_for_one_that_is_slow(
    model: Path, flat: Flat, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The first of five images takes until all others are in the network."""
    begun, score = threading.Semaphore(0), Network.score
    paths = [str(flat(f"{number}.png", 10 * number)) for number in range(5)]

    def watch(network: Network, batch: _Batch) -> _Scored:
        if [each.path for each in batch.waiting] == paths[:1]:
            assert all(begun.acquire(timeout=20) for _ in range(4))
        begun.release()
        return score(network, batch)

    monkeypatch.setattr(Network, "score", watch)
    monkeypatch.setattr("chexscore.scoring.usable_cores", lambda: 2)
    results = score_images(paths, Classifier(model, device="cpu", threads=1))
    assert [each.path for each in results] == paths


def test_two_batches_at_once_go_through_buffers_of_a_device(
    model: Path, flat: Flat, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The way to a GPU, with the CPU in its place: the buffers are the CPU's, and nothing else is."""
    paths = [str(flat(f"{number}.png", 10 * number)) for number in range(15)]
    expected = list(score_images(paths, Classifier(model, device="cpu"), batch_size=4))
    classifier, both = Classifier(model, device="cpu"), threading.Barrier(2, timeout=20)
    classifier.device = "cuda"
    make, places = onnxruntime.OrtValue.ortvalue_from_shape_and_type, []

    def on_cpu(shape: tuple[int, ...], dtype: type, device: str) -> object:
        places.append((shape, device))
        return make(shape, dtype, "cpu")

    def watch(network: Network, batch: _Batch) -> _Scored:
        both.wait()  # fails after its time if there is never a second one
        return score(network, batch)

    score = Network.score
    monkeypatch.setattr(onnxruntime.OrtValue, "ortvalue_from_shape_and_type", on_cpu)

    def alone(session: object, binding: object) -> None:
        first = running.acquire(blocking=False)
        overlapped.append(not first)
        time.sleep(0.01)
        run(session, binding)
        if first:
            running.release()

    run, running = onnxruntime.InferenceSession.run_with_iobinding, threading.Lock()
    overlapped: list[bool] = []
    monkeypatch.setattr(onnxruntime.InferenceSession, "run_with_iobinding", alone)
    monkeypatch.setattr(Network, "score", watch)
    assert list(score_images(paths, classifier, batch_size=4)) == expected
    assert places == [((4, 8, 8, 1), "cuda")] * 2
    assert not any(overlapped), "the network runs on one batch at a time"
    images = np.zeros((3, 8, 8, 1), np.uint8)
    first = classifier.score(images)
    assert not np.array_equal(classifier.score(images + 255), first)
    np.testing.assert_array_equal(classifier.score(images), first)
    assert places[2:] == [((3, 8, 8, 1), "cuda")], "one that fits is kept"
    np.testing.assert_array_equal(classifier.score(images[:2] + 255), 1 - first[:2])
    assert places[3:] == [((2, 8, 8, 1), "cuda")]


def test_a_device_that_is_short_of_memory_gets_smaller_batches(
    model: Path, flat: Flat, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Again with the CPU in the place of a GPU, whose memory has room for two images of a batch."""
    paths = [str(flat(f"{number}.png", 10 * number)) for number in range(15)]
    classifier = Classifier(model, device="cpu")
    classifier.device = "cuda"
    make = onnxruntime.OrtValue.ortvalue_from_shape_and_type
    asked: set[int] = set()
    shrunk: list[int] = []

    def on_cpu(shape: tuple[int, ...], dtype: type, _: str) -> object:
        asked.add(shape[0])
        if shape[0] > 2:
            raise RuntimeError("Failed to allocate memory")
        return make(shape, dtype, "cpu")

    monkeypatch.setattr(onnxruntime.OrtValue, "ortvalue_from_shape_and_type", on_cpu)
    results = list(score_images(paths, classifier, shrunk=shrunk.append))
    expected = [number * 10 / 255 for number in range(15)]
    assert [result.scores["Bright"] for result in results] == pytest.approx(expected, abs=1e-6)
    assert (asked, shrunk) == ({4, 2}, [2])


@pytest.mark.parametrize(("cores", "threads"), [(1, 1), (2, 1), (16, 1), (24, 2), (64, 4)])
def test_cores_are_dealt_out_to_at_most_sixteen_batches(
    model: Path, monkeypatch: pytest.MonkeyPatch, cores: int, threads: int
) -> None:
    monkeypatch.setattr("chexscore.scoring.usable_cores", lambda: cores)
    assert open_classifier(model, "cpu").threads == threads


def test_endless_failures_are_told_as_they_come(model: Path, flat: Flat, tmp_path: Path) -> None:
    good = str(flat("a.png", 1))

    def endless() -> Iterator[str]:
        yield good
        while True:
            yield str(tmp_path / "gone.png")

    results = score_images(endless(), Classifier(model, device="cpu"), batch_size=4)
    assert [next(results).status for _ in range(900)].count(Status.OK) == 1
    results.close()  # type: ignore[attr-defined]


def test_a_bad_model_is_told_at_once(tmp_path: Path) -> None:
    with pytest.raises(ModelError):
        predict(tmp_path, tmp_path / "none.onnx")


@pytest.mark.parametrize("wrong", [{"batch_size": -1}, {"batch_size": 10**9}, {"workers": -1}])
def test_settings_that_cannot_be_are_told_at_once(model: Path, tmp_path: Path, wrong: dict[str, int]) -> None:
    with pytest.raises(ValueError, match="batch_size must be"):
        predict(tmp_path, model, **wrong)  # type: ignore[arg-type]  # mypy does not see which


def test_cores_are_those_of_the_quota(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert usable_cores() >= 1
    monkeypatch.setattr("chexscore.cores.CGROUPS", tmp_path)
    monkeypatch.setattr("chexscore.cores.OWN_CGROUP", tmp_path / "own")
    monkeypatch.setattr("os.sched_getaffinity", lambda _: set(range(64)), raising=False)
    assert usable_cores() == 64
    (tmp_path / "own").write_text("1:cpu:/old\n0::/night.slice/chexscore.service\n")
    unit = tmp_path / "night.slice" / "chexscore.service"
    unit.mkdir(parents=True)
    for quotas, cores in ((("max 100000", "max 100000"), 64), (("max 100000", "150000 100000"), 2)):
        for folder, quota in zip((unit, unit.parent), quotas, strict=True):
            (folder / "cpu.max").write_text(f"{quota}\n")
        assert usable_cores() == cores
    (unit / "cpu.max").write_text("1000 100000\n")
    assert usable_cores() == 1


def test_only_chips_that_cut_off_sums_are_told_not_to(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("chexscore.cores.DESCRIPTION", tmp_path / "cpuinfo")
    assert not has_vnni.__wrapped__()
    for flags, found in (
        ("flags\t\t: fpu avx2 avx512_vnni\nbugs\t\t: none", True),
        ("processor\t: 0\nflags\t\t: fpu avx_vnni avx2", True),
        ("flags\t\t: fpu avx2 avx512f\nbugs\t\t: avx512_vnni", False),
    ):
        (tmp_path / "cpuinfo").write_text(flags)
        assert has_vnni.__wrapped__() == found
