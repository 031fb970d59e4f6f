"""Training prompts are, token for token, the prompts that vLLM itself builds: asked of the installed vLLM."""

import json
import subprocess
from pathlib import Path
from typing import Any

import pytest

from rootstock.datasets import read_examples
from rootstock.settings import BUILT_IN_BASE, Settings
from tests.trainer.conftest import MARKED, build_base
from tests.trainer.test_chat import CHATML, INST, THINKING
from trainer.base import load_base

pytestmark = [pytest.mark.integration, pytest.mark.timeout(600)]

PARTS = (
    "{%- for m in messages %}{{- '<|im_start|>' + m.role + '\n' }}{%- for part in m.content %}{{- part.text }}"
    "{%- endfor %}{{- '<|im_end|>\n' }}{%- endfor %}"
    "{%- if add_generation_prompt %}{{- '<|im_start|>assistant\n' }}{%- endif %}"
)
TOOLS = (
    "{%- if reasoning_effort is defined %}{{- 'effort' }}{%- endif %}"
    "{%- if tools %}{{- '<|im_start|>system\n' }}{%- for t in tools %}{{- t | tojson }}{%- endfor %}"
    "{{- '<|im_end|>\n' }}"
    "{%- endif %}{%- for m in messages %}{{- '<|im_start|>' + m.role + '\n' + m.content }}"
    "{%- for c in m.tool_calls or [] %}{{- c.function.name }}{{- c.function.arguments | tojson }}{%- endfor %}"
    "{{- '<|im_end|>\n' }}{%- endfor %}"
    "{%- if add_generation_prompt %}{{- '<|im_start|>assistant\n' }}{%- endif %}"
)

CALL = {"id": "call_1", "type": "function", "function": {"name": "look", "arguments": '{"at": [1, "two"]}'}}
LOOK = {"type": "function", "function": {"parameters": {"type": "object", "properties": {}}, "name": "look"}}


def turn(role: str, content: Any, **more: Any) -> dict[str, Any]:
    return {"role": role, "content": content, **more}


EXAMPLES: list[dict[str, Any]] = [
    {"messages": [turn("user", "what is it?"), turn("assistant", "a red apple")]},
    {"messages": [turn("system", "Be brief."), turn("user", "hello"), turn("assistant", "\nyes ")]},
    {
        "messages": [
            turn("user", "hello"),
            turn("assistant", "yes", weight=0),
            turn("user", [{"type": "text", "text": "one"}, {"type": "text", "text": "two"}]),
            turn("assistant", "no"),
        ]
    },
    {"messages": [turn("developer", "A"), turn("user", "<|im_end|> é 你好 \U0001f600"), turn("assistant", "ok")]},
    {"messages": [turn("system", "S"), turn("developer", "A"), turn("user", "hi"), turn("assistant", "ok")]},
    {
        "messages": [
            turn("user", "look"),
            {"role": "assistant", "tool_calls": [CALL], "weight": 0},  # not every template here shows it
            turn("tool", "a cat", tool_call_id="call_1"),
            turn("assistant", "a cat sleeps"),
        ],
        "tools": [LOOK],
    },
]


def test_vllm_builds_the_prompts_that_training_prepares_for(tmp_path: Path) -> None:
    python = Settings().vllm_python
    if not Path(python).exists():
        pytest.skip("vLLM is not installed beside this checkout (make install)")
    folders = [str(BUILT_IN_BASE)]
    for number, source in enumerate((MARKED, CHATML, INST.replace("bos_token + ", ""), THINKING, PARTS, TOOLS)):
        folders.append(str(build_base(tmp_path / str(number), source)))
    examples = list(read_examples(json.dumps(example).encode() for example in EXAMPLES))
    requests = []
    for body in EXAMPLES:  # the last message is the answer; the rest is what a client sends
        messages = [{k: v for k, v in m.items() if k != "weight"} for m in body["messages"][:-1]]
        requests.append({"model": "m", **body, "messages": messages})
    script = Path(__file__).with_name("vllm_prompts.py")
    done = subprocess.run(
        [python, str(script)],
        input=json.dumps({"folders": folders, "requests": requests}),
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    theirs = json.loads(done.stdout.splitlines()[-1])
    for folder, prompts in zip(folders, theirs, strict=True):
        base = load_base(folder, name="x", device="cpu")
        assert base.template is not None
        for example, prompt in zip(examples, prompts, strict=True):
            assert example.messages is not None
            last = base.template.training_texts(example.messages, example.tools)[-1]
            ours = base.tokenizer(last.text[: last.prompt_end], add_special_tokens=False)["input_ids"]
            assert ours == prompt, (folder, example)
