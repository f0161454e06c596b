"""Languages of 4 and of 16 sentences: one or two tokens out of four. Everything about them can be summed.

Ids 0 to 3 are the vocabulary, 4 is the only prompt, 5 the padding. Policies and critics are tables, and samples are
drawn systematically: each sentence comes up as often as its probability says, to within one. So a batch has almost the
exact expectation, and training through the library's own loop ends where theory says, without noise to wait for.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from rlhf.batching import Batch
from rlhf.sampler import Completion

PROMPT, PAD = [4], 5


@dataclass(frozen=True)
class Language:
    """r(y) and the reference, both by tokens; L is the length of a sentence."""

    rewards: Tensor
    """[4] * L."""
    logits: Sequence[Tensor]
    """Of the reference: for the token at place t, [4] * t for those before it, then [4]."""

    @property
    def reference(self) -> Tensor:
        """log π_ref(y), [4] * L."""
        return log_table([logits.log_softmax(-1) for logits in self.logits])


def _language(length: int) -> Language:
    numbers = torch.Generator().manual_seed(11)
    rewards = torch.rand([4] * length, generator=numbers)
    return Language(rewards, [torch.randn([4] * (place + 1), generator=numbers) for place in range(length)])


WORDS, SENTENCES = _language(1), _language(2)
LANGUAGES = {"one token": WORDS, "two tokens": SENTENCES}


def log_table(conditionals: Sequence[Tensor]) -> Tensor:
    """log π(y), [4] * L, from log π(y_t | y_<t) of every place."""
    table = conditionals[0]
    for conditional in conditionals[1:]:
        table = table[..., None] + conditional
    return table


class TablePolicy(nn.Module):
    """The reference to begin with."""

    def __init__(self, language: Language) -> None:
        super().__init__()
        self.logits = nn.ParameterList([nn.Parameter(logits.clone()) for logits in language.logits])

    def conditionals(self) -> list[Tensor]:
        return [logits.log_softmax(-1) for logits in self.logits]

    def table(self) -> Tensor:
        """log π(y), [4] * L."""
        return log_table(self.conditionals())

    def logprobs(self, batch: Batch) -> Tensor:
        columns = [torch.zeros(len(batch.input_ids))]
        for place, conditional in enumerate(self.conditionals()):
            columns.append(conditional[tuple(batch.input_ids[:, 1 + t] for t in range(place + 1))])
        return torch.stack(columns, dim=1)

    def logprobs_and_entropy(self, batch: Batch) -> tuple[Tensor, Tensor]:
        logprobs = self.logprobs(batch)
        return logprobs, torch.zeros_like(logprobs)

    @torch.no_grad()
    def completions(self, sentences: Sequence[int], group_size: int) -> list[Completion]:
        """Sentences, by their place in the flat table, as the sampler would give them."""
        shape, conditionals = self.table().shape, self.conditionals()
        known: dict[int, tuple[list[int], list[float]]] = {}
        for flat in set(sentences):
            ids = [int(part) for part in torch.unravel_index(torch.tensor(flat), shape)]
            logprobs = [conditional[tuple(ids[: place + 1])].item() for place, conditional in enumerate(conditionals)]
            known[flat] = (ids, logprobs)
        return [Completion(row // group_size, *known[flat], "stop") for row, flat in enumerate(sentences)]


class TableCritic(nn.Module):
    """V before each token; zero to begin with."""

    def __init__(self, language: Language) -> None:
        super().__init__()
        self.values = nn.ParameterList(
            [nn.Parameter(torch.zeros([4] * place)) for place in range(len(language.logits))]
        )

    def forward(self, batch: Batch) -> Tensor:
        count = len(batch.input_ids)
        columns = [torch.zeros(count)]
        for place, values in enumerate(self.values):
            before = tuple(batch.input_ids[:, 1 + t] for t in range(place))
            columns.append(values[before] if before else values.expand(count))
        return torch.stack(columns, dim=1)


def systematic(probabilities: Tensor, count: int, offset: float) -> list[int]:
    """`count` outcomes (as flat indices): the quantiles at (i + offset)/count. Unbiased for a uniform offset."""
    edges = probabilities.double().flatten().cumsum(0)
    points = (torch.arange(count, dtype=torch.float64) + offset) / count * edges[-1]
    return torch.searchsorted(edges, points, right=True).clamp(max=len(edges) - 1).tolist()


def tilted(language: Language, beta: float) -> Tensor:
    """π* = π_ref exp(r/β) / Z, the maximum of E[r] − β KL(π ‖ π_ref)."""
    table = language.reference.double() + language.rewards.double() / beta
    return table.flatten().softmax(0).view(table.shape)


def total_variation(left: Tensor, right: Tensor) -> float:
    """½ Σ |p − q|: the largest difference in probability that any event has."""
    return 0.5 * (left.double() - right.double()).abs().sum().item()
