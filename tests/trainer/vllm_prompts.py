"""Run by vLLM's own interpreter: prints the token ids that vLLM builds for chat requests. Knows nothing of ours.

Standard input: {"folders": [model folders], "requests": [bodies of chat completions]}; output: ids per folder, request.
"""

import json
import sys
from typing import Any

from vllm.config import ModelConfig
from vllm.entrypoints.openai.chat_completion.protocol import ChatCompletionRequest
from vllm.renderers import hf
from vllm.renderers.chat_utils import parse_chat_messages
from vllm.tokenizers import get_tokenizer


def prompt(config: Any, tokenizer: Any, body: dict[str, Any]) -> list[int]:
    request = ChatCompletionRequest(**body)
    tools = [tool.model_dump() for tool in request.tools] if request.tools else None
    form = hf.resolve_chat_template_content_format(None, tools, "auto", tokenizer, model_config=config)
    conversation, _, _ = parse_chat_messages(request.messages, config, content_format=form)
    given = request.build_chat_params(None, "auto").get_apply_chat_template_kwargs()
    return hf.safe_apply_chat_template(config, tokenizer, conversation, **(given | {"tools": tools, "tokenize": True}))


asked = json.load(sys.stdin)
answers = []
for folder in asked["folders"]:
    config = ModelConfig(model=folder, tokenizer=folder, dtype="float32")
    tokenizer = get_tokenizer(folder)
    answers.append([prompt(config, tokenizer, body) for body in asked["requests"]])
print("\n" + json.dumps(answers))
