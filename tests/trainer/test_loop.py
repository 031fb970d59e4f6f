"""The training loop: what it learns, and that it goes on as if never stopped."""

import json
import math
from pathlib import Path
from typing import Any

import pytest
import torch

from rootstock.errors import JobFailure
from tests.trainer.looping import METHOD, Follower, Run, examples, losses, pairs, recipe_for, run, train
from trainer.base import Base
from trainer.loop import Result, Verdict
from trainer.recipe import Facts, Start, resolve

__all__ = ["run"]  # a fixture


def test_it_learns(run: Run) -> None:
    result, _ = run(n_epochs=12, rank=16)
    assert losses(result)[0] > 7
    assert losses(result)[-1] < 2
    assert result.history[-1]["train_mean_token_accuracy"] > 0.5
    assert result.verdict is Verdict.GO


def test_the_base_is_bit_for_bit_as_before(base: Base, run: Run) -> None:
    before = {name: tensor.clone() for name, tensor in base.model.state_dict().items()}
    modules = [(name, type(module)) for name, module in base.model.named_modules()]
    run()
    with pytest.raises(JobFailure):
        run(learning_rate_multiplier=1e30)
    after = base.model.state_dict()
    assert after.keys() == before.keys()
    assert all(torch.equal(after[name], before[name]) for name in before)
    assert [(name, type(module)) for name, module in base.model.named_modules()] == modules
    assert not any(p.requires_grad for p in base.model.parameters())


def test_it_learns_what_is_preferred(run: Run) -> None:
    result, follower = run(method="dpo", n_epochs=12, rank=16, learning_rate_multiplier=10)
    first, last = result.history[0], result.history[-1]
    assert first["train_loss"] == pytest.approx(math.log(2), abs=1e-5)
    assert first["train_reward_margin"] == pytest.approx(0, abs=1e-4)
    assert last["train_loss"] < 0.4
    assert last["train_reward_margin"] > 1
    assert last["train_reward_accuracy"] == 1.0
    beside = {"loss", "mean_token_accuracy", "reward_margin", "reward_accuracy"}
    assert {f"{split}_{name}" for split in ("train", "valid", "full_valid") for name in beside} | {
        "step",
        "total_steps",
    } == last.keys()
    assert follower.signs == 2  # a pass over either file before the first step


def test_each_step_and_epoch_is_reported_with_the_metrics_of_the_contract(run: Run) -> None:
    result, follower = run()
    assert [p.step for p in follower.steps] == [1, 2, 3, 4, 5, 6]
    keys = {"step", "total_steps", "train_loss", "train_mean_token_accuracy"}
    valid = {"valid_loss", "valid_mean_token_accuracy"}
    full = {"full_valid_loss", "full_valid_mean_token_accuracy"}
    assert [set(p.metrics) - keys - valid for p in follower.steps] == [set(), set(), full, set(), set(), full]
    assert valid <= set(follower.steps[2].metrics)
    assert [(s.step, s.epoch, s.final) for s in follower.saved] == [(3, 1, False), (6, 2, True)]
    assert result.history == [p.metrics for p in follower.steps]
    lines = (follower.saved[0].adapter.parent.parent / "metrics.jsonl").read_text().splitlines()
    assert [json.loads(line) for line in lines] == result.history


def test_validation_batches_come_about_every_tenth_step(base: Base, tmp_path: Path) -> None:
    follower = Follower()
    recipe = recipe_for(base, 50, n_epochs=2, batch_size=1, rank=1)
    train(recipe, base, examples(50, base), examples(3, base), tmp_path, follower)
    assert [p.step for p in follower.steps if "valid_loss" in p.metrics] == list(range(10, 101, 10))


def test_trained_tokens_are_tokens_times_epochs_without_validation(base: Base, run: Run) -> None:
    result, follower = run()
    assert result.trained_tokens == 2 * examples(10, base).tokens == sum(p.tokens for p in follower.steps)


@METHOD
def test_equal_arguments_give_equal_adapters_and_another_seed_does_not(run: Run, method: str) -> None:
    torch.manual_seed(1)
    _, one = run(method=method)
    torch.manual_seed(2)
    _, two = run(method=method)
    weights = [(f.saved[-1].adapter / "adapter_model.safetensors").read_bytes() for f in (one, two)]
    assert weights[0] == weights[1]


@METHOD
def test_the_size_of_a_pass_does_not_change_the_step(run: Run, method: str) -> None:
    whole, _ = run(method=method)
    cut, _ = run(method=method, budget=40)
    assert losses(cut) == pytest.approx(losses(whole), abs=2e-5)


@METHOD
def test_a_run_resumed_from_a_checkpoint_goes_on_as_if_never_stopped(run: Run, method: str) -> None:
    whole, follower = run(method=method)
    resumed, later = run(method=method, resume=follower.saved[0].state)
    assert [p.step for p in later.steps] == [4, 5, 6]
    assert losses(resumed) == pytest.approx(losses(whole), abs=1e-6)
    assert resumed.history[:3] == whole.history[:3]


@METHOD
@pytest.mark.parametrize("step", [1, 2, 4])
def test_a_run_handed_back_between_checkpoints_goes_on_as_if_never_stopped(run: Run, step: int, method: str) -> None:
    whole, _ = run(method=method)
    left, follower = run(method=method, at={step: Verdict.HAND_BACK})
    assert (left.verdict, left.final, follower.left[0][1]) == (Verdict.HAND_BACK, None, step)
    resumed, _ = run(method=method, resume=follower.left[0][0])
    assert losses(resumed) == pytest.approx(losses(whole), abs=1e-6)
    assert resumed.final is not None


def test_handing_back_at_an_epoch_s_end_leaves_the_checkpoint(run: Run) -> None:
    left, follower = run(at={3: Verdict.HAND_BACK})
    assert (left.verdict, [s.step for s in follower.saved], follower.left) == (Verdict.HAND_BACK, [3], [])


def test_asked_to_leave_at_the_last_step_it_finishes(run: Run) -> None:
    result, _ = run(at={6: Verdict.HAND_BACK})
    assert result.verdict is Verdict.GO
    assert result.final is not None


@METHOD
@pytest.mark.parametrize("step", [1, 2, 4])
def test_a_paused_run_leaves_a_checkpoint_and_goes_on_as_if_never_stopped(run: Run, step: int, method: str) -> None:
    whole, _ = run(method=method)
    left, follower = run(method=method, at={step: Verdict.PAUSE})
    made = follower.saved[-1]
    assert (left.verdict, left.final, follower.left) == (Verdict.PAUSE, None, [])
    assert (made.step, made.epoch, made.final) == (step, step // 3, False)
    assert sorted(path.name for path in made.adapter.iterdir()) == ["adapter_config.json", "adapter_model.safetensors"]
    resumed, later = run(method=method, resume=made.state)
    assert [p.step for p in later.steps] == list(range(step + 1, 7))
    assert losses(resumed) == pytest.approx(losses(whole), abs=1e-6)


def test_a_pause_at_an_epoch_s_end_needs_no_second_checkpoint_and_at_the_last_step_it_finishes(run: Run) -> None:
    left, follower = run(at={3: Verdict.PAUSE})
    assert (left.verdict, [(s.step, s.epoch) for s in follower.saved]) == (Verdict.PAUSE, [(3, 1)])
    done, _ = run(at={6: Verdict.PAUSE})
    assert done.verdict is Verdict.GO
    assert done.final is not None


def test_a_run_starts_from_another_ones_adapter(base: Base, run: Run, tmp_path: Path) -> None:
    rows = examples(10, base)
    asked = {"n_epochs": 1, "batch_size": 10, "rank": 4}

    def train_on(folder: str, facts_start: Start | None, start: Path | None, **more: Any) -> tuple[Result, Follower]:
        follower = Follower()
        facts = Facts(10, base.hidden_size, 128, base.dtype, 16, start=facts_start)
        chosen = resolve(more or asked, facts, seed=5)
        return train(chosen, base, rows, rows, tmp_path / folder, follower, start=start), follower

    parent, follower = train_on("parent", None, None)
    end = parent.history[-1]["full_valid_loss"]
    child, later = train_on("child", Start("lora-parent", 4, 8), follower.saved[-1].adapter, n_epochs=1, batch_size=10)
    # The whole data is one batch: the first step's loss, taken before its update, is the parent's after its last one.
    assert child.history[0]["train_loss"] == pytest.approx(end, rel=1e-5)
    assert child.history[0]["train_loss"] < parent.history[0]["train_loss"] - 0.01
    made = json.loads((later.saved[-1].adapter / "adapter_config.json").read_text())
    before = json.loads((follower.saved[-1].adapter / "adapter_config.json").read_text())
    assert (made["r"], made["lora_alpha"]) == (4, 8)
    assert sorted(made["target_modules"]) == sorted(before["target_modules"])


def test_preferences_are_held_to_the_adapter_that_they_start_from_also_when_resumed(
    base: Base, run: Run, tmp_path: Path
) -> None:
    _, parent = run()
    start = parent.saved[-1].adapter
    facts = Facts(10, base.hidden_size, 128, base.dtype, 16, start=Start("lora-parent", 4, 8))
    chosen = resolve({"n_epochs": 2, "batch_size": 4}, facts, seed=5, method="dpo")

    def go_on(folder: str, at: dict[int, Verdict] | None = None, resume: Path | None = None) -> tuple[Result, Follower]:
        follower = Follower(at)
        data = pairs(10, base)
        return train(chosen, base, data, None, tmp_path / folder, follower, start=start, resume=resume), follower

    whole, _ = go_on("whole")
    assert losses(whole)[0] == pytest.approx(math.log(2), abs=1e-5)  # with the base as reference it would not be
    _, follower = go_on("left", at={2: Verdict.HAND_BACK})
    resumed, _ = go_on("resumed", resume=follower.left[0][0])
    assert losses(resumed) == pytest.approx(losses(whole), abs=1e-6)
    assert losses(whole)[-1] != pytest.approx(math.log(2), abs=1e-4)
