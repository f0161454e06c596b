"""The ten kinds of instruction.

What is right needs only copying, small look-ups and order, which a two-layer model can learn to do. Wrong answers
are wrong in their words: a name nobody said, an item missing or said twice, a number off by one.
"""

from rlhf.world.copying import BACKWARDS, GREET, MESSAGE, REFUSE, REPEAT
from rlhf.world.kind import Args, Kind
from rlhf.world.knowing import ADD, CATEGORY, COUNT, OPPOSITES, PICK

__all__ = ["KINDS", "Args", "Kind"]

KINDS: dict[str, Kind] = {
    "greet": GREET,
    "repeat": REPEAT,
    "backwards": BACKWARDS,
    "opposites": OPPOSITES,
    "category": CATEGORY,
    "pick": PICK,
    "count": COUNT,
    "add": ADD,
    "message": MESSAGE,
    "refuse": REFUSE,
}
