"""A judge as reward: the share of a prompt's other completions that a completion beats."""

from collections import Counter
from collections.abc import Sequence
from itertools import combinations

import torch
from torch import Tensor

from rlhf.errors import PreflowError
from rlhf.judge import Ask, Verdict, compare
from rlhf.parallel import in_parallel
from rlhf.rewards.base import Asked
from rlhf.rewards.rules import Decode
from rlhf.sampler import Completion

MAX_UNPARSABLE = 0.5
"""Share of replies without a verdict above which the judge counts as no judge."""


class Judged:
    """Win share in [0, 1] of each completion against the prompt's others; equal texts tie, and so does a lone one.

    Every two different completions of a prompt are compared in both orders: G·(G − 1) requests a group of G. One that
    was cut off is not shown to the judge: it loses to every one that came to its end, and ties with other cut ones. The
    mean over a group is ½ whatever the policy, so this tells completions apart and never policies: keep the best
    checkpoint by something else. `figures` has the shares of the last call's replies that were `judge_unparsable`
    (counted as ties) or `judge_tie`, that chose what was shown first (`judge_first_place`), and of comparisons whose
    two orders gave no winner (`judge_undecided`).
    """

    def __init__(self, ask: Ask, decode: Decode, parallel: int = 8) -> None:
        """`parallel` is the number of comparisons asked at a time."""
        self._ask, self._decode, self._parallel = ask, decode, parallel
        self.figures: dict[str, float] = {}

    def __call__(self, prompts: Sequence[Asked], completions: Sequence[Completion]) -> Tensor:
        """[B]. Raises PreflowError where more than half of the replies hold no verdict."""
        texts = [self._decode(one.ids) if one.stop_reason == "stop" else None for one in completions]
        rows: dict[int, list[int]] = {}
        finished: dict[int, dict[str, None]] = {}  # different texts of each prompt, in their order
        for row, (one, text) in enumerate(zip(completions, texts, strict=True)):
            rows.setdefault(one.prompt_index, []).append(row)
            if text is not None:
                finished.setdefault(one.prompt_index, {})[text] = None
        asked = [(index, *pair) for index, different in finished.items() for pair in combinations(different, 2)]

        def one_pair(pair: tuple[int, str, str]) -> Verdict:
            return compare(self._ask, prompts[pair[0]].messages, *pair[1:])

        verdicts = in_parallel(one_pair, asked, self._parallel)
        self._count(verdicts)
        shares: dict[tuple[int, str | None, str | None], float] = {}
        for (index, first, second), verdict in zip(asked, verdicts, strict=True):
            shares[index, first, second] = verdict.share
            shares[index, second, first] = 1.0 - verdict.share
        rewards = torch.full((len(completions),), 0.5)
        for index, group in rows.items():
            for row in group:
                others = [
                    shares.get((index, texts[row], texts[other]), _by_end(texts[row], texts[other]))
                    for other in group
                    if other != row
                ]
                if others:
                    rewards[row] = sum(others) / len(others)
        return rewards

    def _count(self, verdicts: Sequence[Verdict]) -> None:
        if not verdicts:
            self.figures = {}
            return
        replies: Counter[str] = sum((verdict.replies for verdict in verdicts), Counter())
        share = {name: replies[name] / replies.total() for name in ("unparsable", "tie", "first_place")}
        if share["unparsable"] > MAX_UNPARSABLE:
            raise PreflowError(
                f"{replies['unparsable']} of {replies.total()} replies of the judge hold no verdict [[A]], [[B]] or "
                f"[[C]], at most {MAX_UNPARSABLE:.0%} may: name a model that follows instructions"
            )
        undecided = sum(verdict.share == 0.5 for verdict in verdicts) / len(verdicts)
        self.figures = {f"judge_{name}": value for name, value in share.items()} | {"judge_undecided": undecided}


def _by_end(one: str | None, other: str | None) -> float:
    """The share without a judge: None was cut off, and what came to its end beats it; else a tie."""
    return 0.5 + 0.5 * ((one is not None) - (other is not None))
