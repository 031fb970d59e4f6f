"""How a run of the training loop ends: at its last step, before it, or with an error that says what to try."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import PeftModel
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM

from rootstock.datasets import read_examples
from rootstock.errors import AdapterInvalid, JobFailure, LeaseLost
from tests.trainer.looping import Follower, Run, examples, pairs, recipe_for, run, train
from trainer.base import Base, load_base
from trainer.data import encode
from trainer.loop import Verdict
from trainer.recipe import Facts, Start, resolve

__all__ = ["run"]  # a fixture


def test_a_reporter_may_end_the_run_before_its_first_step(base: Base, tmp_path: Path) -> None:
    class Gone(Follower):
        def alive(self) -> None:
            raise LeaseLost("gone")

    follower = Gone()
    with pytest.raises(LeaseLost):
        train(recipe_for(base, 10, "dpo"), base, pairs(10, base), None, tmp_path, follower)
    assert follower.steps == []
    assert not any(p.requires_grad for p in base.model.parameters())


def test_an_adapter_that_does_not_fit_is_refused(base: Base, run: Run, tmp_path: Path) -> None:
    _, follower = run()  # of rank 4
    facts = Facts(10, base.hidden_size, 128, base.dtype, 16, start=Start("lora-other", 8, 16))
    with pytest.raises(AdapterInvalid, match="does not fit the base model at base_model"):
        train(
            resolve({"n_epochs": 1}, facts, seed=5),
            base,
            examples(10, base),
            None,
            tmp_path / "other",
            Follower(),
            start=follower.saved[-1].adapter,
        )


def test_stop_ends_at_once_and_saves_nothing(run: Run) -> None:
    result, follower = run(at={3: Verdict.STOP})
    assert (result.verdict, result.final, follower.saved) == (Verdict.STOP, None, [])
    assert [p.step for p in follower.steps] == [1, 2, 3]


def test_a_state_of_another_recipe_is_not_resumed(run: Run) -> None:
    _, follower = run()
    _, other = run(resume=follower.saved[0].state, learning_rate_multiplier=0.5)
    assert [p.step for p in other.steps] == [1, 2, 3, 4, 5, 6]


def test_a_state_from_before_an_option_existed_is_resumed(run: Run) -> None:
    _, follower = run()
    file = follower.saved[0].state / "state.json"
    state = json.loads(file.read_text())
    del state["recipe"]["beta"]
    file.write_text(json.dumps(state))
    _, later = run(resume=file.parent)
    assert [p.step for p in later.steps] == [4, 5, 6]


def test_a_loss_that_is_no_number_fails_the_job_and_says_what_to_try(run: Run) -> None:
    with pytest.raises(JobFailure, match=r"no finite number at step 2 of 6\. Try a smaller") as caught:
        run(learning_rate_multiplier=1e30)
    assert caught.value.code == "training_diverged"


def test_a_loss_that_stays_far_above_its_start_fails_the_job(tmp_path: Path) -> None:
    # A model that knows something of what it is taught: a random one cannot get much worse.
    knows = load_base("examples/base/rootstock-tiny", name="tiny", device="cpu", threads=1)
    lines = Path("examples/data/tickets-train.jsonl").read_bytes().splitlines()[:10]
    tickets = encode(read_examples(lines), knows, max_tokens=256)
    recipe = recipe_for(knows, 10, n_epochs=20, batch_size=4, learning_rate_multiplier=30_000)
    follower = Follower()
    with pytest.raises(JobFailure, match=r"stays far above where it started at step \d+ of 60") as caught:
        train(recipe, knows, tickets, None, tmp_path, follower)
    assert caught.value.code == "training_diverged"
    assert len(follower.steps) < 60


def test_learning_by_heart_is_told_once_and_the_best_step_is_known(run: Run) -> None:
    result, follower = run(n_epochs=30, rank=16, learning_rate_multiplier=4)
    full = {m["step"]: m["full_valid_loss"] for m in result.history if "full_valid_loss" in m}
    assert result.best_step == min(full, key=lambda step: (full[step], step))
    assert result.stopped_early is None
    assert set(follower.warnings) <= {"overfitting"}


def test_patience_ends_a_run_with_the_weights_of_its_best_step(base: Base, run: Run) -> None:
    whole, _ = run(n_epochs=30, rank=16, learning_rate_multiplier=8)
    early, follower = run(n_epochs=30, rank=16, learning_rate_multiplier=8, patience=1)
    assert early.stopped_early is not None
    assert len(early.history) < len(whole.history)
    assert early.history == whole.history[: len(early.history)]
    assert early.best_step is not None
    assert early.final is not None
    assert early.best_step < early.final.step
    final = load_file(early.final.adapter / "adapter_model.safetensors")
    best = next(saved for saved in follower.saved if saved.step == early.best_step)
    kept = load_file(best.adapter / "adapter_model.safetensors")
    assert final.keys() == kept.keys()
    assert all(torch.equal(final[name], kept[name]) for name in final)


def test_a_run_with_patience_resumes_with_its_best_weights(run: Run) -> None:
    asked: dict[str, Any] = {"n_epochs": 30, "rank": 16, "learning_rate_multiplier": 8, "patience": 2}
    whole, _ = run(**asked)
    assert whole.final is not None
    cut = whole.final.step - 1
    left, follower = run(at={cut: Verdict.HAND_BACK}, **asked)
    assert left.final is None
    rest, _ = run(resume=follower.left[0][0], **asked)
    assert rest.final is not None
    assert (rest.final.step, rest.best_step, rest.stopped_early) == (
        whole.final.step,
        whole.best_step,
        whole.stopped_early,
    )
    ours, theirs = (
        load_file(result.final.adapter / "adapter_model.safetensors") for result in (rest, whole) if result.final
    )
    assert all(torch.equal(ours[name], theirs[name]) for name in ours)


def test_a_budget_of_tokens_ends_a_run_and_counts_what_was_trained(run: Run) -> None:
    whole, follower = run()
    each = [progress.tokens for progress in follower.steps]
    assert whole.trained_tokens == sum(each)
    early, follower = run(budget_tokens=each[0] + 1)
    assert len(early.history) == 2
    assert early.trained_tokens == each[0] + each[1]
    assert early.final is not None
    assert "budget" in (early.stopped_early or "")


def test_the_adapter_loads_in_peft_with_equal_logits(base: Base, base_folder: Path, run: Run) -> None:
    result, follower = run()
    assert result.final is not None
    folder = result.final.adapter
    config = json.loads((folder / "adapter_config.json").read_text())
    assert config["base_model_name_or_path"] == "tiny-random"
    assert sorted(config["target_modules"]) == sorted(
        ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]
    )
    assert sorted(path.name for path in folder.iterdir()) == ["adapter_config.json", "adapter_model.safetensors"]
    fresh = AutoModelForCausalLM.from_pretrained(base_folder)
    loaded = PeftModel.from_pretrained(fresh, folder)
    rows = examples(10, base).rows
    ids = torch.tensor([rows[0].ids])
    with torch.no_grad():
        tuned = loaded(input_ids=ids).logits
        with loaded.disable_adapter():
            untuned = loaded(input_ids=ids).logits
    assert not torch.allclose(tuned, untuned, atol=1e-2)
    # The same example once more through a run that changes nothing: its first loss is that of the loaded adapter.
    resumed, _ = run(resume=follower.saved[0].state)
    assert resumed.final is not None
    again = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(base_folder), resumed.final.adapter)
    with torch.no_grad():
        assert torch.allclose(again(input_ids=ids).logits, tuned, atol=1e-5)


def test_the_recipe_is_saved_as_asked_and_as_resolved(run: Run) -> None:
    _, follower = run(batch_size="auto")
    saved = json.loads((follower.saved[0].adapter.parent / "recipe.json").read_text())
    assert saved["asked"] == {"n_epochs": 2, "batch_size": "auto", "rank": 4}
    assert saved["batch_size"] == 1
    assert saved["sources"]["batch_size"].startswith("auto: ")


def test_one_example_in_a_larger_batch_trains(base: Base, tmp_path: Path) -> None:
    result = train(recipe_for(base, 1, batch_size=16, n_epochs=2), base, examples(1, base), None, tmp_path, Follower())
    assert len(result.history) == 2
    assert "valid_loss" not in result.history[-1]
