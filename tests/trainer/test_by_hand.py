"""`python -m trainer run`: the recipe file, what is refused, and the folder that it leaves."""

import json
from pathlib import Path

import pytest
import yaml

from rootstock.errors import ConfigurationError
from tests.trainer.harness import conversation, preference
from trainer.__main__ import main
from trainer.by_hand import read_recipe

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def recipe(tmp_path: Path, base_folder: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("ROOTSTOCK_DATA_DIR", str(tmp_path / "data"))
    (tmp_path / "train.jsonl").write_bytes(b"".join(conversation(n) for n in range(10)))
    file = tmp_path / "mine.yaml"
    settings = {"training_file": "train.jsonl", "validation_file": "train.jsonl", "base_model": str(base_folder)}
    file.write_text(yaml.safe_dump(settings | {"hyperparameters": {"n_epochs": 2, "batch_size": "auto"}}))
    return file


def test_a_run_leaves_an_adapter_a_recipe_and_metrics(
    recipe: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["run", str(recipe)]) == 0
    folder = tmp_path / "data" / "runs" / "mine"
    assert sorted(path.name for path in folder.iterdir()) == [
        "adapter_config.json",
        "adapter_model.safetensors",
        "metrics.jsonl",
        "recipe.json",
    ]
    assert json.loads((folder / "recipe.json").read_text())["n_epochs"] == 2
    said = capsys.readouterr().out
    assert "n_epochs = 2  (asked)" in said
    assert "batch_size = 1  (auto: " in said
    assert main(["run", str(recipe), "--output", str(tmp_path / "other")]) == 0
    assert (tmp_path / "other" / "adapter_model.safetensors").exists()


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("training_fil: x", "training_fil is not a key of a recipe; did you mean training_file?"),
        ("- a\n- b", "must hold `key: value` lines"),
        ("a: [", "is not valid YAML"),
        ("seed: 1", "does not name a training_file"),
        ("training_file: x\nseed: -1", "seed in .* must be a whole number from 0"),
        ("training_file: x\nhyperparameters: 3", "hyperparameters in .* must hold"),
        ("training_file: x\nmethod: magic", "method in .* must be one of supervised, dpo, reinforcement"),
    ],
)
def test_a_recipe_that_makes_no_sense_is_answered_with_a_sentence(tmp_path: Path, text: str, reason: str) -> None:
    file = tmp_path / "bad.yaml"
    file.write_text(text)
    with pytest.raises(ConfigurationError, match=reason):
        read_recipe(file)


def test_a_recipe_that_is_not_there_is_one_sentence_on_stderr(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["run", "nowhere.yaml"]) == 2
    assert capsys.readouterr().err == (
        "error: There is no recipe file nowhere.yaml; examples/recipes/tiny.yaml is one.\n"
    )


def test_faults_in_the_data_are_one_sentence_on_stderr(recipe: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (recipe.parent / "train.jsonl").write_bytes(conversation(1) * 3)
    assert main(["run", str(recipe)]) == 2
    assert "has 3 example(s), but must have at least 10 examples" in capsys.readouterr().err


def test_preferences_are_trained_with_the_method_dpo_alone(
    recipe: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    asked = yaml.safe_load(recipe.read_text())
    (tmp_path / "train.jsonl").write_bytes(b"".join(preference(n) for n in range(10)))
    assert main(["run", str(recipe)]) == 2
    assert "not using 'dpo' as the training method (provided method=supervised)" in capsys.readouterr().err
    recipe.write_text(yaml.safe_dump(asked | {"method": "dpo"}))
    assert main(["run", str(recipe), "--output", str(tmp_path / "out")]) == 0
    said = capsys.readouterr().out
    assert "beta = 0.1  (auto: " in said
    assert json.loads((tmp_path / "out" / "recipe.json").read_text())["method"] == "dpo"
    last = json.loads((tmp_path / "out" / "metrics.jsonl").read_text().splitlines()[-1])
    assert {"train_reward_margin", "full_valid_reward_accuracy"} <= last.keys()


def test_general_examples_are_mixed_in_by_hand_too(
    recipe: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    asked = yaml.safe_load(recipe.read_text())
    (tmp_path / "general.jsonl").write_bytes(b"".join(conversation(n, "who was that?") for n in range(4)))
    steps = {}
    for name, replay in (("plain", None), ("mixed", {"share": 0.5, "file": "general.jsonl"})):
        recipe.write_text(yaml.safe_dump(asked | ({"replay": replay} if replay else {})))
        assert main(["run", str(recipe), "--output", str(tmp_path / name)]) == 0
        steps[name] = len((tmp_path / name / "metrics.jsonl").read_text().splitlines())
    assert steps == {"plain": 20, "mixed": 40}
    for wrong, reason in (
        ({"share": 2}, "replay.share must be a number above 0"),
        ({"share": 0.2, "x": 1}, "replay holds `share`"),
        ({"share": 0.2, "file": "absent.jsonl"}, "absent.jsonl cannot be read"),
    ):
        recipe.write_text(yaml.safe_dump(asked | {"replay": wrong}))
        assert main(["run", str(recipe)]) == 2
        assert reason in capsys.readouterr().err


def test_help_shows_examples(capsys: pytest.CaptureFixture[str]) -> None:
    for arguments in (["--help"], ["run", "--help"]):
        with pytest.raises(SystemExit):
            main(arguments)
        assert "python -m trainer run examples/recipes/tiny.yaml" in capsys.readouterr().out


def test_the_example_recipe_names_files_that_exist() -> None:
    file = ROOT / "examples" / "recipes" / "tiny.yaml"
    asked = read_recipe(file)
    assert (file.parent / asked["training_file"]).exists()
    assert (file.parent / asked["validation_file"]).exists()
