"""The loop: what it learns, what it leaves untouched, and that a run can be cut anywhere."""

import json
import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import PeftModel
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM

from rootstock.datasets import Example, read_examples
from rootstock.errors import AdapterInvalid, JobFailure, LeaseLost
from rootstock.grading import compile_grader
from tests.trainer.test_chat import talk
from trainer.base import Base, load_base
from trainer.data import Dataset, Row, encode
from trainer.engine import PackedEngine
from trainer.loop import Checkpoint, Progress, Result, Verdict
from trainer.loop import train as train_with
from trainer.methods import METHODS
from trainer.preferences import Pair, encode_pairs
from trainer.recipe import Facts, Recipe, Start, resolve
from trainer.reinforce import Aids, encode_prompts
from trainer.sampling import InProcess


class Follower:
    """Remembers everything; `at` answers with another verdict at some step."""

    def __init__(self, at: dict[int, Verdict] | None = None) -> None:
        self.at = at or {}
        self.steps: list[Progress] = []
        self.saved: list[Checkpoint] = []
        self.left: list[tuple[Path, int]] = []
        self.signs = 0
        self.warnings: list[str] = []

    def warn(self, key: str, text: str) -> None:
        self.warnings.append(key)

    def alive(self) -> None:
        self.signs += 1

    def step(self, progress: Progress) -> Verdict:
        self.steps.append(progress)
        return self.at.get(progress.step, Verdict.GO)

    def checkpoint(self, saved: Checkpoint) -> None:
        self.saved.append(saved)

    def handed_back(self, state: Path, step: int) -> None:
        self.left.append((state, step))


def train(recipe: Recipe, base: Base, *arguments: Any, **options: Any) -> Result:
    """One run on an engine of its own."""
    with PackedEngine(base) as engine:
        if recipe.method == "reinforcement":
            # Which answers are sampled hangs on the seed, so short ones show all that matters here.
            recipe = replace(recipe, max_sampled_tokens=12)
            options["aids"] = Aids(InProcess(base, engine), compile_grader(GRADER))
        return train_with(recipe, engine, *arguments, **options)


GRADER = {
    "type": "text_similarity",
    "name": "alike",
    "input": "{{sample.output_text}}",
    "reference": "{{item.answer}}",
    "evaluation_metric": "fuzzy_match",
}


ANSWERS = ("yes", "no one", "the red apple", "a cat sleeps in the sun")
METHOD = pytest.mark.parametrize("method", list(METHODS))


def examples(count: int, base: Base) -> Dataset[Row]:
    talks = [talk((f"what is {n}?", ANSWERS[n % len(ANSWERS)])) for n in range(count)]
    return encode([Example(n, messages=t) for n, t in enumerate(talks, 1)], base, max_tokens=128)


def pairs(count: int, base: Base) -> Dataset[Pair]:
    """The same questions and answers, preferred to the answers of others."""
    return encode_pairs([preference(n) for n in range(1, count + 1)], base, max_tokens=128)


def preference(line: int) -> Example:
    asked, better = talk((f"what is {line - 1}?", ANSWERS[(line - 1) % len(ANSWERS)]))
    worse = {**better, "content": ANSWERS[line % len(ANSWERS)]}
    return Example(line, messages=[asked], preferred=[better], non_preferred=[worse])


def data_for(method: str, count: int, base: Base) -> Dataset[Any]:
    if method == "reinforcement":
        asked = [
            Example(n, messages=talk((f"what is {n}?", ""))[:1], item={"answer": ANSWERS[n % 4]}) for n in range(count)
        ]
        return encode_prompts(asked, base, max_tokens=128)
    return pairs(count, base) if method == "dpo" else examples(count, base)


def recipe_for(base: Base, count: int, method: str = "supervised", **asked: Any) -> Recipe:
    return resolve(asked, Facts(count, base.hidden_size, 128, base.dtype, 16), seed=5, method=method)


Run = Callable[..., tuple[Result, Follower]]


@pytest.fixture
def run(base: Base, tmp_path: Path) -> Run:
    """Train on ten examples, batches of four, two epochs: six steps."""
    number = iter(range(100))

    def start(
        *,
        at: dict[int, Verdict] | None = None,
        resume: Path | None = None,
        budget: int = 8192,
        method: str = "supervised",
        **asked: Any,
    ) -> tuple[Result, Follower]:
        follower = Follower(at)
        usual: dict[str, Any] = {"n_epochs": 2, "batch_size": 4, "rank": 4}
        if method == "reinforcement":
            usual |= {"eval_interval": 3, "compute_multiplier": 0.5, "eval_samples": 1}  # checkpoints at epochs' ends
        recipe = recipe_for(base, 10, method, **(usual | asked))
        result = train(
            recipe,
            base,
            data_for(method, 10, base),
            data_for(method, 3, base),
            tmp_path / f"run-{next(number)}",
            follower,
            token_budget=budget,
            resume=resume,
        )
        return result, follower

    return start


def losses(result: Result) -> list[float]:
    return [metrics["train_loss"] for metrics in result.history]


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
