"""Lengths of rows in the tokens of a model, for `preflow data check --model`."""

from pathlib import Path
from typing import Any

from rlhf.errors import PreflowError


def tokenizer_of(model: str) -> tuple[Any, int]:
    """The tokenizer of a folder, and the room of its model in tokens (0 where it does not say)."""
    file = Path(model) / "tokenizer.json"
    if not file.is_file():
        raise PreflowError(
            f"--model {model}: no tokenizer.json there; name a folder of a model in Hugging Face's layout"
        )
    from tokenizers import Tokenizer

    from rlhf.models.pretrained import room_in

    try:
        room = room_in(Path(model))
        tokenizer = Tokenizer.from_file(str(file))
    except Exception as error:  # tokenizers raises nothing more exact
        raise PreflowError(f"--model {model}: it cannot be read ({error}); is it whole?") from error
    tokenizer.no_padding()  # some are saved with what their last batch was padded and cut to
    tokenizer.no_truncation()
    tokenizer.encode_special_tokens = True  # as `rlhf.chat` encodes what people say
    return tokenizer, room


def count(kind: str, prepared: Path, tokenizer: Any, room: int) -> dict[str, Any]:
    """Tokens of prompts and answers, without the markup of turns: quantiles, rows without room, equal pairs."""
    import numpy as np

    from tasks.validation import Stored
    from tasks.validation.context import chunks
    from tasks.validation.facts import answers_of

    prompts: list[int] = []
    answers: list[int] = []
    too_long = equal = 0
    for chunk in chunks(Stored(prepared)):
        for row in chunk:
            said = [message["content"] for message in row.get("messages", [])] or [row.get("text", "")]
            replies = answers_of(kind, row)
            before = said[:-1] if kind == "demonstrations" else said
            encoded = tokenizer.encode_batch([*before, *replies], add_special_tokens=False)
            ids = [one.ids for one in encoded]
            length, lengths = sum(map(len, ids[: len(before)])), [len(one) for one in ids[len(before) :]]
            prompts.append(length)
            answers += lengths
            too_long += bool(room) and length + max(lengths, default=0) > room
            equal += kind == "preferences" and ids[-1] == ids[-2]
    quantiles = {
        name: list(map(int, np.quantile(counted, (0.05, 0.5, 0.95, 1), method="lower")))
        for name, counted in (("before the answer", prompts), ("answer", answers))
        if counted
    }
    pairs = equal if kind == "preferences" else None
    return {"rows": len(prompts), "room": room, "too_long": too_long, "equal_pairs": pairs, "quantiles": quantiles}
