"""What every side trains: a random model, synthetic chat rows and one initial adapter, written once from a seed.

Rows are token ids with a mask, so that no side can build other ones. Knows nothing about the sides.
"""

import json
import math
import random
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

VOCABULARY = 32_768
RESERVED = 16  # ids below it never occur in rows: padding, end, unknown
RANK, ALPHA = 16, 32
BATCH = 8
RATE = 2e-4
SEED = 20_260
TARGETS = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]
ROWS = 500
SHORTEST, MEDIAN, LONGEST = 30, 130, 600
PROMPT = 170


@dataclass(frozen=True)
class Sample:
    """One row: `learn[i]` says whether token `ids[i]` is trained."""

    ids: tuple[int, ...]
    learn: tuple[bool, ...]


def chat_rows(
    count: int, seed: int, *, median: float = MEDIAN, low: int = SHORTEST, high: int = LONGEST, spread: float = 0.6
) -> list[Sample]:
    """Rows of user and assistant turns; lengths are lognormal within `low`..`high`, only assistant text is learned."""
    dice = random.Random(seed)
    return [_row(dice, _length(dice, median, low, high, spread)) for _ in range(count)]


def with_prompt(rows: Sequence[Sample], seed: int, tokens: int = PROMPT) -> list[Sample]:
    """The same rows behind one system prompt of `tokens` tokens, which nothing learns."""
    dice = random.Random(seed)
    prompt = tuple(_text(dice, tokens))
    return [Sample(prompt + row.ids, (False,) * tokens + row.learn) for row in rows]


def _length(dice: random.Random, median: float, low: int, high: int, spread: float) -> int:
    while True:
        length = round(math.exp(dice.gauss(math.log(median), spread)))
        if low <= length <= high:
            return length


def _row(dice: random.Random, length: int) -> Sample:
    ids: list[int] = []
    learn: list[bool] = []
    turns = max(1, min(3, length // 60))
    for turn in range(turns):
        size = length // turns + (length % turns if turn == turns - 1 else 0)
        answer = max(1, round(size * dice.uniform(0.3, 0.56)))
        ids += _text(dice, size)
        learn += [False] * (size - answer) + [True] * answer
    return Sample(tuple(ids), tuple(learn))


def _text(dice: random.Random, tokens: int) -> list[int]:
    # Words of a text are about as frequent as one over their rank.
    return [RESERVED + int((VOCABULARY - RESERVED) ** dice.random()) - 1 for _ in range(tokens)]


def save_rows(path: Path, rows: Sequence[Sample]) -> None:
    """One JSON object a line."""
    path.write_text("".join(json.dumps({"ids": row.ids, "learn": row.learn}) + "\n" for row in rows), "utf-8")


def load_rows(path: Path, count: int | None = None) -> list[Sample]:
    """The first `count` rows of a file, or all."""
    lines = path.read_text("utf-8").splitlines()[:count]
    return [Sample(tuple(row["ids"]), tuple(row["learn"])) for row in map(json.loads, lines)]


def real_tokens(rows: Sequence[Sample]) -> int:
    """Tokens without padding."""
    return sum(len(row.ids) for row in rows)


def steps_of(rows: Sequence[Sample], batch: int) -> int:
    """Optimizer steps of one pass."""
    return math.ceil(len(rows) / batch)


def prepare(folder: Path) -> None:
    """Write the model `model`, the deep narrow one `deep`, adapters for both, and the row files. Once."""
    if (folder / "done").exists():
        return
    folder.mkdir(parents=True, exist_ok=True)
    plain = chat_rows(ROWS, SEED)
    save_rows(folder / "chat.jsonl", plain)
    save_rows(folder / "prompted.jsonl", with_prompt(plain, SEED + 1))
    save_rows(folder / "short.jsonl", chat_rows(ROWS, SEED + 2, median=40, low=25, high=60, spread=0.2))
    write_model(folder / "model", hidden=384, layers=12, ffn=1056, heads=6, groups=2)
    write_model(folder / "deep", hidden=64, layers=28, ffn=128, heads=4, groups=2)
    for name in ("model", "deep"):
        for job in range(8):
            write_adapter(folder / name, folder / f"{name}-adapter-{job}", SEED + job)
    (folder / "done").write_text("")


def write_model(folder: Path, *, hidden: int, layers: int, ffn: int, heads: int, groups: int) -> None:
    """A random Qwen2 with a word-level tokenizer, which no side needs but every loader wants."""
    import torch
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast, Qwen2Config, Qwen2ForCausalLM

    torch.manual_seed(SEED)
    config = Qwen2Config(
        vocab_size=VOCABULARY,
        hidden_size=hidden,
        num_hidden_layers=layers,
        intermediate_size=ffn,
        num_attention_heads=heads,
        num_key_value_heads=groups,
        max_position_embeddings=2048,
        tie_word_embeddings=True,
        bos_token_id=1,
        eos_token_id=1,
        pad_token_id=0,
    )
    Qwen2ForCausalLM(config).save_pretrained(folder)
    words = {"<pad>": 0, "<end>": 1, "<unk>": 2} | {f"w{i}": i for i in range(3, VOCABULARY)}
    tokenizer = Tokenizer(models.WordLevel(words, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, pad_token="<pad>", eos_token="<end>", unk_token="<unk>"
    ).save_pretrained(folder)


def write_adapter(model: Path, folder: Path, seed: int) -> None:
    """A fresh adapter as PEFT makes it, but with a small B, so that every gradient counts from the first step."""
    import torch
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForCausalLM

    torch.manual_seed(seed)
    config = LoraConfig(r=RANK, lora_alpha=ALPHA, lora_dropout=0.0, target_modules=TARGETS, task_type="CAUSAL_LM")
    wrapped = get_peft_model(AutoModelForCausalLM.from_pretrained(model), config)
    for name, parameter in wrapped.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(parameter, std=0.005)
    wrapped.save_pretrained(str(folder))
