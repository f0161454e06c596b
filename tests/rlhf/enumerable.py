"""A language of 16 sentences: two tokens out of four. Everything about it can be summed instead of estimated.

Ids 0 to 3 are the vocabulary, 4 is the only prompt. Policies and critics are tables.
"""

import torch
from torch import Tensor, nn

from rlhf.batching import Batch
from rlhf.sampler import Completion

PROMPT = [4]
_GENERATOR = torch.Generator().manual_seed(11)
REWARDS = torch.rand(4, 4, generator=_GENERATOR)
"""r(y), by first and second token."""


class TablePolicy(nn.Module):
    """π(y_1) and π(y_2 | y_1) as logits."""

    def __init__(self) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(5)
        self.first = nn.Parameter(torch.randn(4, generator=generator))
        self.second = nn.Parameter(torch.randn(4, 4, generator=generator))

    def log_table(self) -> Tensor:
        """log π(y) of all sentences, [4, 4]."""
        return self.first.log_softmax(-1)[:, None] + self.second.log_softmax(-1)

    def logprobs(self, batch: Batch) -> Tensor:
        first, second = batch.input_ids[:, 1], batch.input_ids[:, 2]
        columns = [
            torch.zeros(len(first)),
            self.first.log_softmax(-1)[first],
            self.second.log_softmax(-1)[first, second],
        ]
        return torch.stack(columns, dim=1)

    def logprobs_and_entropy(self, batch: Batch) -> tuple[Tensor, Tensor]:
        logprobs = self.logprobs(batch)
        return logprobs, torch.zeros_like(logprobs)

    @torch.no_grad()
    def sample(self, count: int, generator: torch.Generator) -> list[Completion]:
        table = self.log_table()
        flat = torch.multinomial(table.exp().flatten(), count, replacement=True, generator=generator)
        completions = []
        for index in flat.tolist():
            first, second = divmod(index, 4)
            logprobs = [self.first.log_softmax(-1)[first].item(), self.second.log_softmax(-1)[first, second].item()]
            completions.append(Completion(0, [first, second], logprobs, "stop"))
        return completions


class TableCritic(nn.Module):
    """V before the first token, and V after each first token; zero at the start."""

    def __init__(self) -> None:
        super().__init__()
        self.start = nn.Parameter(torch.zeros(()))
        self.after = nn.Parameter(torch.zeros(4))

    def forward(self, batch: Batch) -> Tensor:
        first = batch.input_ids[:, 1]
        return torch.stack([torch.zeros(len(first)), self.start.expand(len(first)), self.after[first]], dim=1)


def rewards_of(completions: list[Completion]) -> Tensor:
    return torch.stack([REWARDS[tuple(completion.ids)] for completion in completions])


def tilted(log_reference: Tensor, beta: float) -> Tensor:
    """The optimum of E[r] − β KL(π ‖ π_ref): π* = π_ref exp(r/β) / Z."""
    return (log_reference + REWARDS / beta).flatten().softmax(0).view(4, 4)


def total_variation(left: Tensor, right: Tensor) -> float:
    return 0.5 * (left - right).abs().sum().item()
