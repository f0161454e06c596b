"""The model, rows and heads that both sides of a cell are given, drawn from one seed.

    python -m bench.speed.inputs FOLDER

FOLDER holds cell.json. Models lie beside it, one for all cells of a shape. Every shape speaks in words: `w12` is one
token, so lengths are exact, and which tokens they are makes no difference to speed.
"""

import gzip
import hashlib
import json
import random
import sys
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file

from bench.sentiment.task import shared
from bench.speed.cell import Cell, Shape
from rlhf.chat import Chat, split_words
from rlhf.models import Policy, RewardModel
from rlhf.models.policy import save_policy
from rlhf.models.pretrained import load_model, use_chat_ids
from rlhf.records import Row, write_rows

SEED = 11
CONTROLS = 6
"""Tokens of a word-level chat that are no words."""
MOST_TOKENS = {"short": 120, "hh": 480}
"""Longest row, so that every cell of a shape has the same rows whatever positions it has."""


def main(folder: Path) -> None:
    """Write `policy` (a link into the models), rows and tokens.json; `policy_rm` and heads where they are needed."""
    cell = Cell.read(folder)
    chat = Chat.from_words([f"w{number}" for number in range(cell.shape.vocab - CONTROLS)])
    if chat.vocab_size != cell.shape.vocab:
        raise SystemExit(f"{chat.vocab_size} tokens, expected the {cell.shape.vocab} of the shape")
    model = _model(folder.parent, cell, chat)
    head = torch.randn(cell.shape.hidden, generator=torch.Generator().manual_seed(SEED)) / cell.shape.hidden**0.5
    save_file({"head": head}, folder / "head.safetensors")
    (folder / "models.json").write_text(json.dumps({"policy": str(model)}), encoding="utf-8")
    _write_rows(folder, chat, _rows(cell, random.Random(SEED)))
    words = random.Random(SEED)
    lines = [f"w{number}\t{words.choice((-1.5, 0.5, 1.5))}" for number in range(0, cell.shape.vocab - CONTROLS, 2)]
    (folder / "lexicon.txt").write_text("\n".join(lines) + "\n", encoding="utf-8")


def _model(folder: Path, cell: Cell, chat: Chat) -> Path:
    """The policy's folder, made where it is not there, with a reward model in `policy_rm` beside it."""
    about = json.dumps([asdict(cell.shape), cell.dtype, SEED])
    path = folder / f"model-{cell.shape.name}-{hashlib.sha256(about.encode()).hexdigest()[:8]}"
    if not (path / "done").exists():
        model = _weights(cell.shape, cell.dtype)
        use_chat_ids(model, chat)
        model.config.architectures = [type(model).__name__]  # by which TRL makes its reference model
        policy = Policy(model.eval(), chat)
        save_policy(policy, path / "policy")
        RewardModel(policy, SEED, "last_token").save(path / "policy_rm")
        (path / "done").touch()
    return path / "policy"


def _weights(shape: Shape, dtype: str) -> Any:
    from transformers import LlamaConfig, LlamaForCausalLM

    if shape.checkpoint:
        return load_model(shared() / "models" / shape.checkpoint)
    config = LlamaConfig(
        vocab_size=shape.vocab,
        hidden_size=shape.hidden,
        num_hidden_layers=shape.layers,
        num_attention_heads=shape.heads,
        num_key_value_heads=shape.kv_heads,
        intermediate_size=shape.intermediate,
        max_position_embeddings=shape.positions,
        initializer_range=shape.init_std,
        tie_word_embeddings=shape.tied,
        attn_implementation="sdpa",
    )
    torch.manual_seed(SEED)
    return LlamaForCausalLM(config).to(getattr(torch, dtype))


def _lengths(cell: Cell, draw: random.Random) -> list[tuple[int, int, int]]:
    """(prompt, chosen, rejected) of each row, in words."""
    if cell.lengths == "short":
        return [(draw.randint(8, 20), draw.randint(48, 96), draw.randint(48, 96)) for _ in range(cell.total_rows)]
    found = _hh()
    draw.shuffle(found)
    return [found[number % len(found)] for number in range(cell.total_rows)]


def _hh() -> list[tuple[int, int, int]]:
    """Words of prompts and replies in the real file, of rows that fit."""
    path = shared() / "data/hh_harmless_test/test.jsonl.gz"
    turn = "\n\nAssistant:"
    found = []
    for line in gzip.decompress(path.read_bytes()).decode("utf-8").splitlines():
        row = json.loads(line)
        prompt, _, chosen = row["chosen"].rpartition(turn)
        rejected = row["rejected"].rpartition(turn)[2]
        sizes = (len(split_words(prompt)), len(split_words(chosen)), len(split_words(rejected)))
        if min(sizes) > 0 and sizes[0] + max(sizes[1:]) + 8 <= MOST_TOKENS["hh"]:
            found.append(sizes)
    return found


def _rows(cell: Cell, draw: random.Random) -> list[Row]:
    """Rows as stages read them; no prompt twice, so that every pair is a prompt of its own."""

    def words(count: int) -> str:
        return " ".join(f"w{draw.randrange(cell.shape.vocab - CONTROLS)}" for _ in range(count))

    return [
        {
            "id": f"{number:06d}", "group": f"{number}", "half": "policy", "pool": "any",
            "messages": [{"role": "user", "content": words(prompt)}],
            "chosen": words(chosen), "rejected": words(rejected),
        }
        for number, (prompt, chosen, rejected) in enumerate(_lengths(cell, draw))
    ]  # fmt: skip


def _rows_of_val() -> list[Row]:
    """A few short rows for what a stage looks at beside its training."""
    return [
        {
            "id": f"v{number:03d}", "group": f"v{number}", "half": "policy", "pool": "any", "chosen": "w1 w2",
            "rejected": "w3", "messages": [{"role": "user", "content": f"w{number} w1"}],
        }
        for number in range(16)
    ]  # fmt: skip


def _write_rows(folder: Path, chat: Chat, rows: list[Row]) -> None:
    tokens = [
        {
            "prompt": chat.encode_prompt(row["messages"]),
            "chosen": chat.encode_completion(row["chosen"]),
            "rejected": chat.encode_completion(row["rejected"]),
        }
        for row in rows
    ]
    (folder / "tokens.json").write_text(json.dumps(tokens), encoding="utf-8")
    write_splits(folder, rows, _rows_of_val())


def write_splits(folder: Path, train: list[Row], val: list[Row]) -> None:
    """Pairs, and of the same rows prompts and demonstrations, as stages read them."""
    for split, some in (("train", train), ("val", val)):
        write_rows(folder / f"pairs/{split}.jsonl", some)
        write_rows(folder / f"prompts/{split}.jsonl", [_without(row, "chosen", "rejected") for row in some])
        told = [_without(row, "chosen", "rejected") | {"messages": _answered(row)} for row in some]
        write_rows(folder / f"demonstrations/{split}.jsonl", told)


def _without(row: Row, *names: str) -> Row:
    return {name: value for name, value in row.items() if name not in names}


def _answered(row: Row) -> list[dict[str, str]]:
    return [*row["messages"], {"role": "assistant", "content": row["chosen"]}]


if __name__ == "__main__":
    torch.set_num_threads(1)
    main(Path(sys.argv[1]))
