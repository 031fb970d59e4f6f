"""What a check means for a job: the codes, texts and params of contract 3.6."""

import pytest

from rootstock.datasets import judge
from rootstock.records import DataCheck, DataFault, DataFormat

CHAT = DataFormat.CHAT


def fault(line: int, code: str = "invalid_training_file", message: str = "Bad.") -> DataFault:
    return DataFault(line, code, message)


def verdict(
    check: DataCheck, role: str = "training", method: str = "supervised"
) -> tuple[str | None, str, str | None] | None:
    failure = judge(check, role=role, file_id="file-x", method=method)  # type: ignore[arg-type]
    return (failure.code, failure.message, failure.param) if failure else None


@pytest.mark.parametrize(("role", "least"), [("training", 10), ("validation", 1)])
def test_a_good_file_with_just_enough_examples_passes(role: str, least: int) -> None:
    assert verdict(DataCheck(CHAT, least), role) is None
    assert verdict(DataCheck(DataFormat.COMPLETIONS, least), role) is None
    assert verdict(DataCheck(DataFormat.PREFERENCE, least), role, "dpo") is None


@pytest.mark.parametrize(
    ("role", "form", "examples", "message"),
    [
        ("training", CHAT, 7, "Training file has 7 example(s), but must have at least 10 examples"),
        ("training", CHAT, 9, "Training file has 9 example(s), but must have at least 10 examples"),
        ("training", None, 0, "Training file has 0 example(s), but must have at least 10 examples"),
        ("validation", None, 0, "Validation file has 0 example(s), but must have at least 1 example"),
    ],
)
def test_too_few_examples(role: str, form: DataFormat | None, examples: int, message: str) -> None:
    assert verdict(DataCheck(form, examples), role) == ("invalid_n_examples", message, f"{role}_file")


def test_the_first_fault_decides_code_and_text() -> None:
    reason = "Invalid file format. Example 100, message 2 Discriminator 'role' is missing in value"
    assert verdict(DataCheck(CHAT, 99, (fault(100, message=reason),), 1)) == (
        "invalid_training_file",
        f"The job failed due to an invalid training file. {reason}",
        "training_file",
    )
    extra = 'Invalid file format. Example 1 contains an extra "weight".'
    assert verdict(DataCheck(CHAT, 99, (fault(1, "invalid_file_format", extra),), 1)) == (
        "invalid_file_format",
        f"The job failed due to a file format error in the training file. {extra}",
        "training_file",
    )


def test_a_validation_file_has_a_code_of_its_own() -> None:
    for code, text in [
        ("invalid_training_file", "The job failed due to an invalid validation file. Bad."),
        ("invalid_file_format", "The job failed due to a file format error in the validation file. Bad."),
    ]:
        check = DataCheck(CHAT, 99, (fault(1, code, "Bad."),), 1)
        assert verdict(check, "validation") == ("invalid_validation_file", text, "validation_file")


@pytest.mark.parametrize(
    ("lines", "total", "tail"),
    [
        ([3], 1, ""),
        ([3, 7], 2, " (1 more faulty example: line 7)"),
        ([3, 7, 9], 3, " (2 more faulty examples: lines 7, 9)"),
        (range(1, 101), 5000, " (4999 more faulty examples: lines 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, …)"),
    ],
)
def test_further_faults_are_named_so_that_one_round_of_mending_is_enough(
    lines: list[int], total: int, tail: str
) -> None:
    found = verdict(DataCheck(CHAT, 0, tuple(fault(line) for line in lines), total))
    assert found and found[1] == f"The job failed due to an invalid training file. Bad.{tail}"


@pytest.mark.parametrize(
    ("form", "method", "wanted"),
    [
        (CHAT, "dpo", "supervised"),
        (DataFormat.COMPLETIONS, "dpo", "supervised"),
        (DataFormat.PREFERENCE, "supervised", "dpo"),
    ],
)
def test_format_and_method_must_agree_before_anything_else(form: DataFormat, method: str, wanted: str) -> None:
    assert verdict(DataCheck(form, 1, (fault(1),), 1), method=method) == (
        "invalid_training_file",
        f"The job failed due to an invalid training file. Invalid file format. Input file file-x is in the {form} "
        f"format, but the specified fine-tuning job is not using '{wanted}' as the training method (provided "
        f"method={method}).",
        "training_file",
    )
