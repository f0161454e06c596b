import torch

from rlhf.seeding import derive, generator


def test_streams_differ_by_seed_name_index_and_type() -> None:
    names: list[tuple[str | int, ...]] = [(), ("a",), ("b",), ("a", 1), ("a", "1"), ("a1",), ("a", "b"), ("b", "a")]
    seeds = [derive(0, *name) for name in names] + [derive(1)]
    assert len(set(seeds)) == len(seeds)
    assert all(0 <= seed < 2**63 for seed in seeds)


def test_the_same_in_every_process() -> None:
    """Computed in another process: nothing of it may depend on PYTHONHASHSEED."""
    assert derive(7, "rollout", 3) == 4331085658198618033


def test_generator_starts_over() -> None:
    first, second = (torch.rand(3, generator=generator(5, "x")) for _ in range(2))
    assert torch.equal(first, second)
