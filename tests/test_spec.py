import json
import math
from dataclasses import replace

import pytest

from chexscore.errors import ModelError
from chexscore.spec import ImageSpec, ModelSpec, OperatingPoint, Resize
from tests.networks import brightness_spec


def test_json_round_trip_keeps_everything() -> None:
    spec = replace(
        brightness_spec(resize=Resize.PAD), labels=("Édema", "Lung, left"), provenance={"commit": "abc"}
    )
    assert ModelSpec.from_json(spec.to_json()) == spec
    points = {"Édema": (OperatingPoint("youden", 0.5, 0.75, 1.0), OperatingPoint("b", 0.1, 1.0, 0.0))}
    spec = replace(spec, operating_points=points, precision="int8", calibration="Platt scaling")
    assert ModelSpec.from_json(spec.to_json()) == spec


def test_fields_of_operating_points_get_their_types() -> None:
    point = {"name": 1, "threshold": True, "sensitivity": 0, "specificity": 1}
    content = json.loads(brightness_spec().to_json()) | {"operating_points": {"Dark": [point]}}
    (found,) = ModelSpec.from_json(json.dumps(content)).operating_points["Dark"]
    assert repr(found) == repr(OperatingPoint("1", 1.0, 0.0, 1.0))


def test_files_without_operating_points_can_be_read() -> None:
    content = json.loads(brightness_spec().to_json())
    del content["operating_points"], content["precision"]
    assert ModelSpec.from_json(json.dumps(content)) == brightness_spec()


def test_metrics_are_numbers() -> None:
    with pytest.raises(ModelError, match="auc/Bright is no number"):
        replace(brightness_spec(), metrics={"auc/Bright": math.nan, "auc/Dark": 0.5})


def test_fields_of_later_versions_are_passed_over() -> None:
    content = json.loads(brightness_spec().to_json()) | {"invented_later": 1}
    assert ModelSpec.from_json(json.dumps(content)) == brightness_spec()


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"labels": ["Bright"]}, "1 labels but 2 thresholds"),
        ({"labels": ["Bright", "Bright"]}, "is named twice"),
        ({"labels": ["Bright", "status"]}, "cannot be called 'status'"),
        ({"labels": ["Bright", "=1+1"]}, "for a formula"),
        ({"labels": ["Bright", " "]}, "none may be blank"),
        ({"thresholds": [0.5, 1.5]}, "outside 0..1"),
        ({"operating_points": {"Cat": []}}, "operating points for 'Cat'"),
        ({"operating_points": {"Dark": [[0.5]]}}, "cannot be read"),
        (
            {
                "operating_points": {
                    "Dark": [{"name": "x", "threshold": 2, "sensitivity": 1, "specificity": 1}]
                }
            },
            "'x' has a value outside 0..1",
        ),
        ({"image": {"height": 8, "width": 0}}, "cannot be scored"),
        ({"image": {"height": 8, "width": 8, "resize": "squeeze"}}, "squeeze"),
        ({"image": {"height": 8.0, "width": 8}}, "8.0 x 8 pixels cannot be scored"),
        ({"image": 8}, "cannot be read"),
        ({"metrics": {"auc/Bright": 10**400}}, "cannot be read: OverflowError"),
    ],
)
def test_a_spec_that_contradicts_itself_is_refused(change: dict[str, object], said: str) -> None:
    content = json.loads(brightness_spec().to_json()) | change
    with pytest.raises(ModelError, match=said):
        ModelSpec.from_json(json.dumps(content))


@pytest.mark.parametrize("text", ["", "[]", "{}", "null", '{"labels": 3}', "[" * 100_000])
def test_what_is_no_spec_is_a_model_error(text: str) -> None:
    with pytest.raises(ModelError, match="cannot be read"):
        ModelSpec.from_json(text)


def test_thresholds_are_found_by_label() -> None:
    assert brightness_spec().default_thresholds == {"Bright": 0.5, "Dark": 0.25}
    points = {"Dark": (OperatingPoint("youden", 0.25, 1, 1), OperatingPoint("best accuracy", 0.75, 0, 1))}
    assert replace(brightness_spec(), operating_points=points).named_thresholds == {
        "Bright": {"default": 0.5},
        "Dark": {"youden": 0.25, "best accuracy": 0.75},
    }
    assert ImageSpec(2, 3).resize is Resize.STRETCH
