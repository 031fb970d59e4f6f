"""Chat templates of the families that the fast engine knows, each reduced to the shape that decides about loss masks.

Written for these tests after how the published templates behave; not copies of them.
"""

from dataclasses import dataclass

_CHATML_TURN = "{{ '<|im_start|>' + m.role + '\n' + (m.content or '') }}"
_CHATML_CALLS = (
    "{% for c in m.tool_calls or [] %}"
    "{{ '\n<tool_call>\n' + {'name': c.function.name, 'arguments': c.function.arguments}|tojson + '\n</tool_call>' }}"
    "{% endfor %}"
)
_CHATML_OPEN = "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"

# A system message of its own where the conversation has none; tool results as user turns.
QWEN2 = (
    "{% if messages[0].role != 'system' %}{{ '<|im_start|>system\nYou are helpful.<|im_end|>\n' }}{% endif %}"
    "{% for m in messages %}"
    "{% if m.role == 'tool' %}"
    "{{ '<|im_start|>user\n<tool_response>\n' + m.content + '\n</tool_response><|im_end|>\n' }}"
    "{% else %}" + _CHATML_TURN + _CHATML_CALLS + "{{ '<|im_end|>\n' }}{% endif %}"
    "{% endfor %}" + _CHATML_OPEN
)

# Thoughts of the turns behind the last question are shown, those of earlier turns are dropped.
QWEN3 = (
    "{% set ns = namespace(last=0) %}"
    "{% for m in messages %}{% if m.role == 'user' %}{% set ns.last = loop.index0 %}{% endif %}{% endfor %}"
    "{% for m in messages %}"
    "{% if m.role == 'assistant' %}"
    "{% set thought = m.content.split('</think>')[0].split('<think>')[-1].strip() if '</think>' in m.content else '' %}"
    "{% set said = m.content.split('</think>')[-1].strip() %}"
    "{{ '<|im_start|>assistant\n' }}"
    "{% if loop.index0 > ns.last and (loop.last or thought) %}{{ '<think>\n' + thought + '\n</think>\n\n' }}{% endif %}"
    "{{ said }}" + _CHATML_CALLS + "{{ '<|im_end|>\n' }}"
    "{% elif m.role == 'tool' %}{{ '<|im_start|>user\n' + m.content + '<|im_end|>\n' }}"
    "{% else %}" + _CHATML_TURN + "{{ '<|im_end|>\n' }}{% endif %}"
    "{% endfor %}" + _CHATML_OPEN
)

# The system message inside the first instruction; no tools.
LLAMA2 = (
    "{% set first = messages[0].content if messages[0].role == 'system' else none %}"
    "{% for m in messages if m.role != 'system' %}"
    "{% if (m.role == 'user') != (loop.index0 % 2 == 0) %}{{ raise_exception('Roles must alternate') }}{% endif %}"
    "{% if m.role == 'user' %}{{ bos_token + '[INST] ' }}"
    "{% if loop.first and first %}{{ '<<SYS>>\n' + first + '\n<</SYS>>\n\n' }}{% endif %}"
    "{{ m.content.strip() + ' [/INST]' }}"
    "{% else %}{{ ' ' + m.content.strip() + ' ' + eos_token }}{% endif %}"
    "{% endfor %}"
)

# Header tokens; a call takes the place of the text, one at a time.
_LLAMA3_HEAD = "{{ '<|start_header_id|>' + m.role + '<|end_header_id|>\n\n' }}"
LLAMA3 = (
    "{{ bos_token }}{% for m in messages %}" + _LLAMA3_HEAD + "{{ (m.content or '')|trim + '<|eot_id|>' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|start_header_id|>assistant<|end_header_id|>\n\n' }}{% endif %}"
)
LLAMA31 = (
    "{{ bos_token }}{{ '<|start_header_id|>system<|end_header_id|>\n\nCutting Knowledge Date: December 2023\n\n' }}"
    "{% if messages[0].role == 'system' %}{{ messages[0].content }}{% endif %}{{ '<|eot_id|>' }}"
    "{% for m in messages if m.role != 'system' %}"
    "{% if m.tool_calls %}"
    "{% if m.tool_calls|length != 1 %}{{ raise_exception('Only single tool calls at once') }}{% endif %}"
    "{% set f = m.tool_calls[0].function %}"
    '{{ \'<|start_header_id|>assistant<|end_header_id|>\n\n{"name": "\' + f.name + \'", "parameters": \' }}'
    "{{ f.arguments|tojson + '}<|eot_id|>' }}"
    "{% elif m.role == 'tool' %}{{ '<|start_header_id|>ipython<|end_header_id|>\n\n' + m.content + '<|eot_id|>' }}"
    "{% else %}" + _LLAMA3_HEAD + "{{ m.content|trim + '<|eot_id|>' }}{% endif %}"
    "{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|start_header_id|>assistant<|end_header_id|>\n\n' }}{% endif %}"
)

# The system message moves into the latest instruction, so earlier prompts change as a conversation goes on.
MISTRAL = (
    "{% set first = messages[0].content if messages[0].role == 'system' else none %}{{ bos_token }}"
    "{% for m in messages if m.role != 'system' %}"
    "{% if m.role == 'user' %}{{ '[INST] ' }}{% if loop.last and first %}{{ first + '\n\n' }}{% endif %}"
    "{{ m.content + ' [/INST]' }}"
    "{% elif m.tool_calls %}{{ '[TOOL_CALLS] [' }}"
    "{% for c in m.tool_calls %}{{ {'name': c.function.name, 'arguments': c.function.arguments, 'id': c.id}|tojson }}"
    "{{ ', ' if not loop.last }}{% endfor %}{{ ']' + eos_token }}"
    "{% elif m.role == 'tool' %}{{ '[TOOL_RESULTS] ' + m.content + '[/TOOL_RESULTS]' }}"
    "{% else %}{{ ' ' + m.content + eos_token }}{% endif %}"
    "{% endfor %}"
)

# The assistant is called model; no tools; Gemma 2 knows no system message, Gemma 3 puts it before the first question.
_GEMMA_TURNS = (
    "{% if (m.role == 'user') != (loop.index0 % 2 == 0) %}{{ raise_exception('Roles must alternate') }}{% endif %}"
    "{{ '<start_of_turn>' + ('model' if m.role == 'assistant' else m.role) + '\n' }}"
)
_GEMMA_END = (
    "{{ m.content|trim + '<end_of_turn>\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<start_of_turn>model\n' }}{% endif %}"
)
GEMMA2 = (
    "{{ bos_token }}{% if messages[0].role == 'system' %}{{ raise_exception('System role not supported') }}{% endif %}"
    "{% for m in messages %}" + _GEMMA_TURNS + _GEMMA_END
)
GEMMA3 = (
    "{% set first = messages[0].content + '\n\n' if messages[0].role == 'system' else '' %}{{ bos_token }}"
    "{% for m in messages if m.role != 'system' %}" + _GEMMA_TURNS + "{{ first if loop.first }}" + _GEMMA_END
)

# Ends a whole conversation with the text's own end token, behind the turn's.
PHI3 = (
    "{% for m in messages if m.role != 'tool' %}"
    "{{ '<|' + m.role + '|>\n' + (m.content or '') + '<|end|>\n' }}{% endfor %}"
    "{{ '<|assistant|>\n' if add_generation_prompt else eos_token }}"
)
PHI4 = (
    "{% for m in messages %}{{ '<|' + m.role + '|>' + (m.content or '') + '<|end|>' }}{% endfor %}"
    "{{ '<|assistant|>' if add_generation_prompt else eos_token }}"
)
SMOLLM2 = (
    "{% if messages[0].role != 'system' %}{{ '<|im_start|>system\nYou are SmolLM.<|im_end|>\n' }}{% endif %}"
    "{% for m in messages %}" + _CHATML_TURN + "{{ '<|im_end|>\n' }}{% endfor %}" + _CHATML_OPEN
)


@dataclass(frozen=True)
class Family:
    """A template, the tokens at which vLLM stops, and what it can show."""

    template: str
    ends: tuple[str, ...]
    end: str  # what an assistant's turn ends with
    system: bool = True
    tools: bool = False
    parallel: bool = False
    opening: str = ""  # what stands before an answer and is learned with it


FAMILIES = {
    "qwen2": Family(QWEN2, ("<|im_end|>", "<|endoftext|>"), "<|im_end|>", tools=True, parallel=True),
    "qwen3": Family(QWEN3, ("<|im_end|>",), "<|im_end|>", tools=True, parallel=True, opening="<think>\n\n</think>\n\n"),
    "llama2": Family(LLAMA2, ("</s>",), "</s>", opening=" "),
    "llama3": Family(LLAMA3, ("<|eot_id|>", "<|end_of_text|>"), "<|eot_id|>"),
    "llama3.1": Family(LLAMA31, ("<|eot_id|>", "<|eom_id|>"), "<|eot_id|>", tools=True),
    "mistral": Family(MISTRAL, ("</s>",), "</s>", tools=True, parallel=True, opening=" "),
    "gemma2": Family(GEMMA2, ("<end_of_turn>", "<eos>"), "<end_of_turn>", system=False),
    "gemma3": Family(GEMMA3, ("<end_of_turn>", "<eos>"), "<end_of_turn>"),
    "phi3": Family(PHI3, ("<|endoftext|>", "<|end|>", "</s>"), "<|end|>"),
    "phi4": Family(PHI4, ("<|endoftext|>", "<|end|>", "</s>"), "<|end|>"),
    "smollm2": Family(SMOLLM2, ("<|im_end|>",), "<|im_end|>"),
}
