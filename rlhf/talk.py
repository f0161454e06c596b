"""A conversation with a policy, one token at a time: what `preflow chat` shows.

talk = Talk(load_policy(folder))
for piece in talk.ask("hello"):
    print(piece, end="", flush=True)
"""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch

from rlhf.chat import Chat, Message
from rlhf.errors import NumericsError
from rlhf.models import Policy
from rlhf.models.pretrained import room
from rlhf.sampler import draw
from rlhf.seeding import derive

UNFINISHED = "\ufffd"
"""What the bytes of a character decode to before the last of them is there."""


@dataclass
class Talk:
    """A policy, how it is sampled, and what was said so far."""

    policy: Policy
    temperature: float = 0.7
    """0 takes the likeliest token."""
    max_new_tokens: int = 256
    seed: int = 0
    system: str = ""
    """Instructions that stand before the conversation, "" for none."""
    messages: list[Message] = field(default_factory=list)
    asked: int = 0
    """Questions since the last `reset`: each draws from a stream of its own."""
    forgotten: int = 0
    """Messages that were left out of the last prompt, oldest first, as the model has no room for them."""
    cut: bool = False
    """The last answer ended because there was no room for more, not because the policy stopped."""

    def ask(self, text: str) -> Iterator[str]:
        """The answer in pieces, as it is sampled; whoever stops listening keeps what was said until then.

        Raises ValueError, and forgets the question, where the template has no place for it or the model no room.
        """
        said: Message = {"role": "user", "content": text}
        prompt, self.forgotten = self._prompt([*self.messages, said])
        limit = min(self.max_new_tokens, room(self.policy.model) - len(prompt))
        self.asked += 1
        ids: list[int] = []
        self.cut = False
        try:
            yield from _pieces(self.policy.chat, self._sampled(prompt, limit), ids)
            self.cut = len(ids) == limit and ids[-1] != self.policy.chat.stop_id
        finally:
            self.messages += [said, {"role": "assistant", "content": self.policy.chat.decode(ids)}]

    def reset(self) -> None:
        """Begin anew; the system message stays."""
        self.messages.clear()
        self.asked = self.forgotten = 0

    def _sampled(self, prompt: Sequence[int], limit: int) -> Iterator[int]:
        return stream(
            self.policy,
            prompt,
            max_new_tokens=limit,
            temperature=self.temperature,
            seed=derive(self.seed, "chat", self.asked),
        )

    def _prompt(self, messages: Sequence[Message]) -> tuple[list[int], int]:
        """Ids of the longest end of the conversation that leaves room for an answer, and how much was left out."""
        head: list[Message] = [{"role": "system", "content": self.system}] if self.system else []
        positions = room(self.policy.model)
        wanted = min(self.max_new_tokens, positions // 4)
        left_out = 0
        while True:
            ids = self.policy.chat.encode_prompt([*head, *messages[left_out:]])
            if len(ids) + wanted <= positions:
                return ids, left_out
            if left_out + 2 >= len(messages):
                raise ValueError(f"the question makes {len(ids)} tokens; the model has room for {positions - wanted}")
            left_out += 2


@torch.inference_mode()
def stream(
    policy: Policy, prompt: Sequence[int], *, max_new_tokens: int, temperature: float, seed: int
) -> Iterator[int]:
    """Sampled ids of one completion as they are drawn, the stop token included: those that `sample` gives.

    Raises NumericsError for logits that are not finite.
    """
    from transformers import DynamicCache

    model, stop_id = policy.model, policy.chat.stop_id
    decoder, head = model.get_decoder(), model.get_output_embeddings()
    drawing = np.random.Generator(np.random.Philox(key=derive(seed, "sample", 0, 0)))
    uniforms = torch.from_numpy(drawing.random(max_new_tokens)).to(model.device)
    cache: Any = DynamicCache()
    given, start = torch.tensor([list(prompt)], device=model.device), 0
    for step in range(max_new_tokens):
        positions = torch.arange(start, start + given.shape[1], device=model.device)[None]
        output = decoder(input_ids=given, position_ids=positions, past_key_values=cache, use_cache=True)
        logits = head(output.last_hidden_state[:, -1]).float()
        chosen, logprob = draw(logits, temperature, uniforms[step : step + 1] if temperature > 0 else None)
        if not math.isfinite(float(logprob)):
            raise NumericsError("the policy's logits are not finite: choose another version")
        yield int(chosen)
        if int(chosen) == stop_id:
            return
        given, start = chosen[:, None], start + given.shape[1]


def _pieces(chat: Chat, sampled: Iterator[int], ids: list[int]) -> Iterator[str]:
    """Text as it becomes certain; `ids` grows by what was sampled.

    Joined, the pieces are `chat.decode(ids)`, unless bytes were sampled that are no characters.
    """
    shown = 0
    for token_id in sampled:
        ids.append(token_id)
        text = chat.decode(ids)
        if len(text) > shown and not text.endswith(UNFINISHED):
            yield text[shown:]
            shown = len(text)
    if len(whole := chat.decode(ids)) > shown:
        yield whole[shown:]
