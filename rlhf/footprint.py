"""Memory that training and sampling take, worked out from a model's sizes before any weight is loaded.

What is counted is what this library's own passes keep. F is bytes of a value in the model's precision, N tokens that
go through the model (of what rows share once, see `rlhf.models.packing`), B·T places of the padded batch, M tokens
under the loss mask, and of the model L blocks of width H, with A = heads · head size, K = key heads · head size,
I inner width, V vocabulary, P weights, Φ trained ones.

    weights       F·P, and 4·Φ of float32 copies where F is 2
    gradients     F·Φ, and 4·Φ more at the update where F is 2
    moments       8·Φ of AdamW, 2·Φ with 8 bits
    activations   of a block, for the backward pass: F·N·(4·H + A + 3·I) + F·B·T·(A + 2·K), of padded rows A more
    logits        4·M·V, at most 4·2^27: written over by their own gradient (`rlhf.models.logprobs`); where F is 2,
                  2·M·V more as they are widened; on a GPU at least 4·2^24 of a block that is worked on, or all again
    keys, values  2·F·L·K a token, of every row at its full length

`step` says which of these are there at once.
"""

from collections.abc import Mapping
from dataclasses import replace

from rlhf.sizes import How, Pass, Sizes

LOGITS_AT_ONCE = 2**27
"""That of `rlhf.models.forward`; a test holds them together."""
BLOCK_ON_A_GPU = 2**24
"""`rlhf.models.logprobs.ON_A_GPU`; likewise."""
LARGE = 2**22
"""`rlhf.adamw.LARGE`; likewise."""
NF4 = 0.516
"""Bytes of a weight in 4 bits with double quantisation (2305.14314): 4 bits, and 8.13 bits for each 64 of them."""
NARROW, WIDE, ADAPTED, LATE = 2.13, 0.73, 2.6, 0.86
"""Resident bytes of a processor's heap for each byte that is kept, as freed ones leave holes which fit what is asked
for next, or do not: of activations as wide as the residual stream, of those of the inner width, of all of them with
adapters (each of whose layers makes four results of which one stays), and of gradients, some of which lie where wide
activations were. Four figures that were fitted on the measurements of `bench.plan`."""
DRAWING = 20
"""Bytes of one logit while a token is drawn: float32 three times and one cumulative sum in float64."""


Terms = dict[str, float]
"""Bytes by name: weights, gradients, moments, activations, logits, keys and values, other models."""


def weights(sizes: Sizes, how: How, trained: bool, whole: bool = True) -> float:
    """Bytes of a model in memory; adapters are in float32, float32 copies belong to what is trained.

    With shards the blocks are put together, beside this process's share of them: all for passes that do not train, in
    training (`whole` False) two at a time.
    """
    together = 0.0 if how.shards == 1 else 1.0 if whole else 2.0 / sizes.layers
    base = how.value * (_share(sizes, how) + together * sizes.blocks)
    if how.method == "full":
        return base + (4.0 * held(sizes, how) if trained and how.value == 2 else 0.0)
    if how.method == "qlora":
        base = NF4 * sizes.linear + how.value * (sizes.parameters - sizes.linear)
    return base + 4 * (held(sizes, how) + together * sizes.adapter(how.rank))


def trained(sizes: Sizes, how: How) -> int:
    """Φ: weights that an optimiser has."""
    return sizes.parameters if how.method == "full" else sizes.adapter(how.rank)


def held(sizes: Sizes, how: How) -> float:
    """Those of Φ whose gradients and moments one process has: of blocks its share, and all that is outside of them.

    Adapters lie within the blocks.
    """
    return _share(sizes, how) if how.method == "full" else sizes.adapter(how.rank) / how.shards


def _share(sizes: Sizes, how: How) -> float:
    """Weights of a model that one process has all the time."""
    return sizes.parameters - sizes.blocks * (1 - 1 / how.shards)


def gradients(sizes: Sizes, how: How) -> float:
    """Bytes of all gradients; adapters are float32 whatever the base is."""
    return held(sizes, how) * (how.value if how.method == "full" else 4)


def moments(sizes: Sizes, how: How) -> float:
    """Bytes of the optimiser's two moments."""
    return held(sizes, how) * (8 if how.optimizer == "adamw" else 2)


def block(sizes: Sizes, how: How, work: Pass) -> float:
    """Bytes that the backward pass of one block needs from the forward pass."""
    wide, narrow = sizes.heads * sizes.head_size, sizes.kv_heads * sizes.head_size
    rows = wide + 2 * narrow + (wide if work.packed else 0)
    found = work.places * (how.value * rows + 4 * sizes.heads) + work.tokens * how.value * wide
    gates = _gates(sizes, how) * sizes.intermediate
    found += work.tokens * (how.value * gates + _norms(sizes, how) + _inputs(sizes, how))
    return float(found)


def _gates(sizes: Sizes, how: How) -> int:
    """Values of the inner width that a feed-forward block keeps, beside what its last matrix reads.

    Called by its parts (`rlhf.models.blocks`) a gated one computes silu again; divided among processes it is whole.
    """
    return 3 if sizes.gated and not (sizes.by_parts and how.shards == 1) else 2


def _norms(sizes: Sizes, how: How) -> int:
    """A token's bytes of two norms: what they read, of those of transformers in float32, and what these scaled."""
    if how.value == 4 and not how.cuda:
        return 2 * 4 * sizes.hidden
    return 2 * sizes.hidden * (4 + (how.value if how.method == "full" else 0))


def _inputs(sizes: Sizes, how: How) -> int:
    """A token's bytes of what linear layers read, by which their gradients are worked out.

    Adapters read the same, but each for itself a float32 copy where the base is in half precision; frozen layers keep
    nothing.
    """
    own = how.value * (2 * sizes.hidden + sizes.intermediate)
    if how.method == "full":
        return own
    inner = 4 * how.rank * len(sizes.matrices)
    return inner + (own if how.value == 4 else 4 * sum(rows for rows, _ in sizes.matrices))


def activations(sizes: Sizes, how: How, work: Pass) -> float:
    """Bytes that a backward pass needs of all blocks; with recomputing the blocks' inputs and one block whole."""
    ends = work.tokens * sizes.hidden * max(4, how.value) + work.under_loss * sizes.hidden * how.value
    one = block(sizes, how, work)
    if how.gradient_checkpointing:
        return ends + sizes.layers * work.tokens * sizes.hidden * how.value + one
    return ends + sizes.layers * one


def heap(sizes: Sizes, how: How, work: Pass) -> tuple[float, float]:
    """Resident bytes of a processor for each byte of `activations`, and for each of gradients."""
    if how.method != "full":
        return ADAPTED, 1.0
    blocks = 1 if how.gradient_checkpointing else sizes.layers
    inner = blocks * work.tokens * how.value * (_gates(sizes, how) + 1) * sizes.intermediate
    share = inner / activations(sizes, how, work)
    return WIDE * share + NARROW * (1 - share), 1.0 if work.several else LATE


def logits(sizes: Sizes, work: Pass) -> float:
    """Bytes of the logits of a pass, which are float32."""
    return 4.0 * min(work.under_loss * sizes.vocab, LOGITS_AT_ONCE)


def reading(sizes: Sizes, how: How, work: Pass) -> float:
    """Bytes at the LM head at the most: logits with what they were widened from, or with what is worked on at a time.

    That is, on a GPU, the exponentials of a block; on a processor next to nothing.
    """
    kept = logits(sizes, work)
    narrow = kept / 2 if how.value == 2 else 0.0
    return kept + max(narrow, min(kept, 4.0 * BLOCK_ON_A_GPU) if how.cuda else 0.0)


def sampling(sizes: Sizes, how: How, rows: int, length: int) -> float:
    """Bytes of keys and values of `rows` completions of `length` tokens, prompts included, and of drawing a token."""
    cache = 2 * how.value * sizes.layers * sizes.kv_heads * sizes.head_size * rows * length
    return float(cache + DRAWING * rows * sizes.vocab)


def scoring(sizes: Sizes, how: How, work: Pass, head: bool) -> float:
    """Bytes of a pass without a backward pass: one block's values, and logits where the LM head is read."""
    alive = work.tokens * how.value * (3 * sizes.hidden + 3 * sizes.intermediate)
    return alive + (reading(sizes, how, work) if head else 0.0)


def step(sizes: Sizes, how: How, work: Pass, head: bool = True) -> Terms:
    """Of one model that is trained, at its peak: `weights`, `moments`, `gradients`, `activations`, `logits`.

    Without `head` the LM head is not read: where it is a matrix of its own it gets neither gradient nor moments.

    On a GPU memory that is freed is used again, so the peak is at the end of the forward pass, where all activations
    are there and no new gradient but that of the LM head, or at the end of the backward pass, where all gradients are
    and, of tied embeddings, one of them twice. On a processor the heap has holes by then: gradients, which are made
    block by block as activations go, lie where these were or elsewhere, and the peak is most of it (`heap`).
    """
    learns = _learns(sizes, how, head)
    whole = gradients(sizes, how) * learns
    kept: Terms = {
        "weights": weights(sizes, how, trained=True, whole=False),
        "moments": moments(sizes, how) * learns,
    }
    of_blocks, read = activations(sizes, how, work), reading(sizes, how, work) if head else 0.0
    copies = 4.0 * held(sizes, how) if how.value == 2 and how.method == "full" else 0.0
    if not how.cuda:
        held_on, late = heap(sizes, how, work)
        whole -= _rows(sizes, how)
        return kept | {"gradients": late * whole + copies, "activations": held_on * of_blocks, "logits": read}
    of_head = how.value * sizes.embedding if how.method == "full" and head else 0.0
    through_a_block = work.tokens * how.value * (3.0 * sizes.intermediate + 2.0 * sizes.hidden)
    ends = (
        {
            "gradients": of_head + (whole if work.several else 0.0),
            "activations": of_blocks,
            "logits": max(read, through_a_block),
        },
        {"gradients": whole + max(of_head if sizes.tied else 0.0, copies), "activations": 0.0, "logits": 0.0},
    )
    return kept | max(ends, key=total)


def _rows(sizes: Sizes, how: How) -> float:
    """Bytes that the gradient of a large embedding does not take on a processor: it is the rows that were read."""
    alone = not sizes.tied and how.optimizer == "adamw" and how.shards == 1 and sizes.embedding >= LARGE
    return 4.0 * sizes.embedding if alone and how.method == "full" and how.value == 4 else 0.0


def gathered(sizes: Sizes, how: How, head: bool = True) -> Terms:
    """Of one model that several processes divide, before each step and after the last one: put together again."""
    return {
        "weights": weights(sizes, how, trained=True),
        "moments": moments(sizes, how) * _learns(sizes, how, head),
    }


def checkpoint(sizes: Sizes, how: How, head: bool = True) -> float:
    """Bytes on disk of one model that is trained: float32 weights and moments, of all processes together."""
    alone = replace(how, shards=1)
    return 4.0 * trained(sizes, how) + moments(sizes, alone) * _learns(sizes, alone, head)


def _learns(sizes: Sizes, how: How, head: bool) -> float:
    """Share of what a process holds that gets gradients and moments: all but an LM head of its own that is not read."""
    return 1.0 if head or sizes.tied or how.method != "full" else 1 - sizes.embedding / held(sizes, how)


def total(terms: Mapping[str, float]) -> float:
    """Bytes in all."""
    return sum(terms.values())
