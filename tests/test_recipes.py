"""Recipes, and the layouts that they name."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from chexscore.errors import UsageError
from training.config import RECIPE_FILE, DataConfig, TrainConfig

CONFIGS = Path(__file__).parents[1] / "training" / "configs"


@pytest.mark.parametrize("recipe", sorted(CONFIGS.glob("*.toml")), ids=lambda path: path.stem)
def test_each_recipe_that_ships_can_be_read(recipe: Path) -> None:
    config = TrainConfig.from_toml(recipe)
    assert TrainConfig.model_validate_json(config.model_dump_json()) == config


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("name = ", "not a TOML file"),
        ('name = "x"', "data: Field required"),
        ('name = "x"\nlearning_rates = 1\n[data]\nlabels = ["A"]', "learning_rates: there is no such field"),
        (
            'name = "x"\n[data]\nlabels = []',
            r"toml: data: a model needs at least one label, and none may be blank\.$",
        ),
        (
            'name = "x"\n[data]\nlabels = ["A"]\nuncertain = {A = "maybe"}',
            "data.uncertain.A: Input .* or 'ignore'; data.uncertain.A: Input should be a list",
        ),
        (
            'name = "x"\n[data]\nlabels = ["A"]\nonly = {view = []}',
            "data.only.view: List should have at least 1 item",
        ),
        ('name = "x"\n[data]\nlabels = ["A", "A"]', "is named twice"),
        ('name = "x"\n[data]\nlabels = ["status"]', "cannot be called 'status'"),
        ('name = "x"\n[data]\nlabels = ["A"]\nblank = {B = "ignore"}', "a policy for 'B'"),
        ('name = "x"\n[data]\nlabels = ["A"]\n[network]\nname = "resnet"', "network.name"),
        (
            'name = "x"\n[data]\nlabels = ["A"]\n[network]\nfrozen_stages = 1',
            "frozen_stages needs efficientnet",
        ),
        (
            'name = "x"\n[data]\nlabels = ["A"]\n[network]\nname = "compact"\nimagenet = "y"',
            "compact has no such weights, only efficientnet",
        ),
        ('name = "x"\n[data]\nlabels = ["A"]\n[network]\nstages = 5', "stages: reference has none"),
        (
            'name = "x"\n[data]\nlabels = ["A"]\n[network]\nstandardize = true',
            "standardize: only compact and efficientnet-lite0 do that, not reference",
        ),
        ('name = "x"\ndata = "films"', "data: Input should be a valid dictionary"),
        ('name = "x"\n[data]\nlayout = ["plain"]', "data.layout: Input should be 'plain'"),
        ('name = "x"\nseed = -1\n[data]\nlabels = ["A"]', "seed: .*greater than or equal to 0"),
        ('name = "x"\n[data]\nlabels = ["A"]\nsplit_seed = 4294967296', "data.split_seed: .*less than"),
        (
            (
                'name = "x"\n[data]\nlabels = ["A"]\n'
                '[network]\nname = "efficientnet-lite0"\nimagenet = "y"\nstages = 2\nfrozen_stages = 3'
            ),
            "frozen_stages = 3 is above stages = 2",
        ),
        ('name = "x"\n[data]\nlabels = ["A"]\nuncertain = {A = [0.5, 1.5]}', "data.uncertain.A"),
        ('name = "x"\n[data]\nlabels = ["A"]\nuncertain = {A = [0.5, 0.2]}', "ends before it begins"),
        ('name = "x"\nweight_decay = 0.1\n[data]\nlabels = ["A"]', "weight_decay is for optimizer"),
        ('name = "x"\nclip_norm = inf\n[data]\nlabels = ["A"]', "clip_norm: .*finite"),
        ('name = "x"\nepochs = 2\nwarmup_epochs = 2\n[data]\nlabels = ["A"]', "leaves no epoch"),
        ('name = "x"\nlearning_rate = 1e-6\n[data]\nlabels = ["A"]', "final_learning_rate is above"),
    ],
)
def test_a_recipe_that_is_wrong_is_refused_by_field(tmp_path: Path, text: str, said: str) -> None:
    (tmp_path / "recipe.toml").write_text(text)
    with pytest.raises(UsageError, match=said):
        TrainConfig.from_toml(tmp_path / "recipe.toml")


def test_a_recipe_keeps_its_letters_whatever_the_locale(tmp_path: Path) -> None:
    recipe = tmp_path / "recipe.toml"
    recipe.write_text('name = "Köln"\n[data]\nlabels = ["Ödem"]', encoding="utf-8")
    script = (
        "import locale; from pathlib import Path; from training.config import TrainConfig;"
        "assert locale.getpreferredencoding(False) != 'UTF-8';"
        f"config, run = TrainConfig.from_toml(Path({str(recipe)!r})), Path({str(tmp_path)!r});"
        "config.keep(run); assert TrainConfig.of_run(run) == config; print(ascii(config.name))"
    )
    environment = os.environ | {"LC_ALL": "C", "PYTHONCOERCECLOCALE": "0", "PYTHONUTF8": "0"}
    told = subprocess.run(
        [sys.executable, "-c", script], check=False, env=environment, capture_output=True, text=True
    )
    assert (told.stdout, told.stderr) == ("'K\\xf6ln'\n", "")
    assert json.loads((tmp_path / RECIPE_FILE).read_text(encoding="utf-8"))["name"] == "Köln"


def test_a_missing_recipe_is_named(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"none\.toml"):
        TrainConfig.from_toml(tmp_path / "none.toml")


def test_a_recipe_may_begin_with_a_byte_order_mark(tmp_path: Path) -> None:
    (tmp_path / "recipe.toml").write_text('name = "x"\n[data]\nlabels = ["A"]', encoding="utf-8-sig")
    assert TrainConfig.from_toml(tmp_path / "recipe.toml").name == "x"


def test_layouts_bring_their_findings_and_tables() -> None:
    chexpert, nih = DataConfig(layout="chexpert"), DataConfig(layout="nih")
    assert (len(chexpert.labels), chexpert.table) == (13, "train.csv")
    assert (len(nih.labels), nih.table) == (14, "Data_Entry_2017*.csv")
    assert DataConfig(layout="chexpert", labels=("No Finding",)).labels == ("No Finding",)
