"""Checks the example base model: a miniature rebuild, and the committed one. It knows nothing about fine-tuning."""

from __future__ import annotations

import re
from itertools import islice
from pathlib import Path
from typing import Any

import pytest

from examples.base import corpus

build = pytest.importorskip("examples.base.build", reason="needs torch and transformers", exc_type=ImportError)
transformers = pytest.importorskip("transformers")
torch = pytest.importorskip("torch")

COMMITTED = Path(corpus.__file__).with_name("rootstock-tiny")
FILES = (
    "README.md",
    "chat_template.jinja",
    "config.json",
    "generation_config.json",
    "model.safetensors",
    "tokenizer.json",
    "tokenizer_config.json",
)
CHAT = [
    {"role": "system", "content": "Be brief."},
    {"role": "user", "content": "Hello"},
    {"role": "assistant", "content": "Hi there."},
    {"role": "user", "content": "Bye"},
    {"role": "assistant", "content": "Goodbye!"},
]
CALL = {"type": "function", "function": {"name": "get_time", "arguments": '{"city": "Rome"}'}}
TOOL = {"type": "function", "function": {"name": "get_time", "parameters": {"type": "object"}}}
ENGLISH = (
    "Thank you for your letter. We were glad to hear that the children enjoyed their holiday by the sea, and that the "
    "weather stayed warm. My sister has moved to another house, so please send the photographs to her new address. "
    "If anything is unclear, you can always call us in the evening."
)
pytestmark = pytest.mark.integration


@pytest.fixture(scope="module")
def rebuilt(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model directory from a build of a few steps on a small text."""
    out = tmp_path_factory.mktemp("base") / "tiny"
    options = build.Options(
        out=out, steps=2, tokens_per_batch=512, tokenizer_samples=2000, samples_measured=1, threads=1
    )
    build.run(options)
    return out


@pytest.fixture(params=["rebuilt", "committed"])
def directory(request: pytest.FixtureRequest) -> Path:
    """The rebuilt and the committed directory in turn."""
    return request.getfixturevalue("rebuilt") if request.param == "rebuilt" else COMMITTED


@pytest.fixture
def fast(directory: Path) -> Any:
    """The tokenizer of the directory."""
    return transformers.AutoTokenizer.from_pretrained(directory)


def test_directory_is_complete_and_small(directory: Path) -> None:
    assert sorted(path.name for path in directory.iterdir()) == sorted(FILES)
    assert (directory / "model.safetensors").stat().st_size <= 12_000_000


def test_model_loads_and_fits_what_serving_needs(directory: Path, fast: Any) -> None:
    model = transformers.AutoModelForCausalLM.from_pretrained(directory, dtype="auto")
    config = model.config
    assert model.dtype == torch.bfloat16
    assert config.head_dim >= 32
    assert config.tie_word_embeddings
    assert config.max_position_embeddings >= 2048
    assert config.vocab_size == len(fast)
    assert fast.eos_token == "<|im_end|>"
    assert config.eos_token_id == model.generation_config.eos_token_id == fast.eos_token_id
    assert fast.pad_token_id not in (None, fast.eos_token_id)


def test_generation_markers_cover_the_answers_and_their_end(fast: Any) -> None:
    encoded = fast.apply_chat_template(CHAT, return_dict=True, return_assistant_tokens_mask=True)
    marked = [i for i, m in zip(encoded["input_ids"], encoded["assistant_masks"], strict=True) if m]
    assert fast.decode(marked) == "Hi there.<|im_end|>Goodbye!<|im_end|>"


def test_template_renders_chatml(fast: Any) -> None:
    text = fast.apply_chat_template(CHAT[1:4], tokenize=False, add_generation_prompt=True)
    assert text == (
        "<|im_start|>user\nHello<|im_end|>\n<|im_start|>assistant\nHi there.<|im_end|>\n"
        "<|im_start|>user\nBye<|im_end|>\n<|im_start|>assistant\n"
    )


def test_template_renders_developer_and_content_parts(fast: Any) -> None:
    parts = [{"type": "text", "text": "Be "}, {"type": "text", "text": "kind."}]
    text = fast.apply_chat_template([{"role": "developer", "content": parts}], tokenize=False)
    assert text == "<|im_start|>system\nBe kind.<|im_end|>\n"


def test_template_renders_tools(fast: Any) -> None:
    messages = [
        {"role": "user", "content": "What time is it in Rome?"},
        {"role": "assistant", "content": None, "tool_calls": [CALL]},
        {"role": "tool", "content": "10:00"},
        {"role": "tool", "content": "22:00"},
    ]
    text = fast.apply_chat_template(messages, tools=[TOOL], tokenize=False)
    assert '<tool_call>{"name": "get_time", "arguments": {"city": "Rome"}}</tool_call><|im_end|>' in text
    results = "<tool_response>10:00</tool_response>\n<tool_response>22:00</tool_response>"
    assert f"<|im_start|>user\n{results}<|im_end|>\n" in text
    assert text.startswith("<|im_start|>system\n# Tools\n")


def test_ordinary_english_does_not_fall_apart(fast: Any) -> None:
    assert len(fast.tokenize(ENGLISH)) <= 1.7 * len(re.findall(r"\w+|[^\w\s]", ENGLISH))
    assert fast.decode(fast(ENGLISH)["input_ids"]) == ENGLISH


def test_any_text_survives_the_round_trip(fast: Any) -> None:
    text = 'Grüße, 你好 👋\n\t{"a": [1, 2.50, null]}  end'
    assert fast.decode(fast(text)["input_ids"]) == text


def test_committed_model_answers_a_simple_prompt() -> None:
    fast = transformers.AutoTokenizer.from_pretrained(COMMITTED)
    model = transformers.AutoModelForCausalLM.from_pretrained(COMMITTED, dtype=torch.float32)
    messages = [{"role": "user", "content": "Hello"}]
    prompt = fast.apply_chat_template(messages, add_generation_prompt=True, return_dict=True, return_tensors="pt")
    answer = model.generate(**prompt, max_new_tokens=12)[0, prompt["input_ids"].shape[1] :]
    assert fast.decode(answer, skip_special_tokens=True) == "Hello! How can I help you?"


def test_the_same_seed_gives_the_same_text() -> None:
    first, second = (list(islice(corpus.stream(5, paragraphs=["One."]), 200)) for _ in range(2))
    assert first == second


def test_command_line_shows_examples(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        build.parse(["--help"])
    assert "examples:" in capsys.readouterr().out
