import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from chexscore import Classifier, Prediction, Status, predict
from chexscore.errors import ModelError, NetworkError
from chexscore.scoring import score_images, usable_cores

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
        super().__init__(model, device="cpu")
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


def test_a_score_that_is_no_number_is_a_failure(model: Path, flat: Flat) -> None:
    def fault(images: NDArray[np.uint8]) -> NDArray[np.float32]:
        scores = np.full((len(images), 2), 0.5, dtype=np.float32)
        scores[1, 0], scores[2, 1] = np.nan, 1.5
        return scores

    results = list(score_images([str(flat(f"{i}.png", i)) for i in range(4)], Stub(model, fault)))
    assert [r.status for r in results] == [Status.OK, Status.FAILED, Status.FAILED, Status.OK]


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


def test_input_is_taken_no_faster_than_it_is_scored(model: Path, flat: Flat) -> None:
    path, taken = str(flat("a.png", 1)), 0

    def endless() -> Iterator[str]:
        nonlocal taken
        while True:
            taken += 1
            yield path

    def slow(_: NDArray[np.uint8]) -> None:
        time.sleep(0.01)

    results = score_images(endless(), Stub(model, slow), batch_size=4, workers=2)
    for _ in range(20):
        assert isinstance(next(results), Prediction)
    assert taken <= 20 + 4 * 4
    results.close()  # type: ignore[attr-defined]


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


def test_usable_cores_is_at_least_one() -> None:
    assert usable_cores() >= 1
