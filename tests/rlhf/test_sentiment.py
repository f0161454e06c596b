"""VADER by hand: valences from a small lexicon, every rule in numbers of its own."""

import math
from pathlib import Path

import pytest

from rlhf.errors import PreflowError
from rlhf.sentiment import compound, read_lexicon, words_of

LEXICON = {"good": 2.0, "bad": -2.5, "kind": 2.4, "no": -1.2, ":)": 2.0, "doubt": -1.5}


def score(total: float) -> float:
    return total / math.sqrt(total * total + 15)


@pytest.mark.parametrize(
    ("text", "total"),
    [
        ("", 0.0),
        ("a tree", 0.0),
        ("a good tree", 2.0),
        ("Good, bad.", -0.5),
        ("a :) tree", 2.0),
        ("very good", 2.0 + 0.293),
        ("very bad", -2.5 - 0.293),
        ("barely good", 2.0 - 0.293),
        ("very old good", 2.0 + 0.95 * 0.293),
        ("very old red good", 2.0 + 0.9 * 0.293),
        ("very old red big good", 2.0),
        ("not good", -0.74 * 2.0),
        ("it isn't good", -0.74 * 2.0),
        ("not a very good", -0.74 * (2.0 + 0.293)),  # the nearer word acts first
        ("not very bad", -0.74 * (-2.5 - 0.293)),
        ("never so good", 1.25 * (2.0 + 0.293)),
        ("without doubt good", 2.0 + 0.74 * 1.5),
        ("without any good", -0.74 * 2.0),
        ("least good", -0.74 * 2.0),
        ("at least good", 2.0),
        ("GOOD tree", 2.0 + 0.733),
        ("BAD tree", -2.5 - 0.733),
        ("GOOD TREE", 2.0),  # nothing stands out
        ("VERY good tree", 2.0 + 0.293 + 0.733),
        ("good but bad", 0.5 * 2.0 + 1.5 * -2.5),
        ("no good", -0.74 * 2.0),
        ("no tree", -1.2),
        ("a kind of tree", 0.0),
        ("a kind tree", 2.4),
        ("good!", 2.0 + 0.292),
        ("bad!!", -2.5 - 2 * 0.292),
        ("good!!!!!!!", 2.0 + 4 * 0.292),
        ("good?", 2.0),
        ("good??", 2.0 + 2 * 0.18),
        ("good????", 2.0 + 0.96),
        ("tree!!", 0.0),
    ],
)
def test_every_rule_by_hand(text: str, total: float) -> None:
    assert compound(text, LEXICON) == pytest.approx(score(total), abs=1e-12)


def test_it_lies_between_minus_one_and_one_and_is_odd_in_the_valences() -> None:
    turned = {word: -valence for word, valence in LEXICON.items()}
    text = "very good, not BAD! but kind tree??"
    assert compound(text, turned) == pytest.approx(-compound(text, LEXICON), abs=1e-12)
    assert 0.99 < compound("good " * 50, LEXICON) < 1


def test_words_lose_their_punctuation_and_faces_keep_it() -> None:
    assert words_of('"Good," she said :) (no!) :-D') == ["Good", "she", "said", ":)", "(no!)", ":-D"]


def test_a_lexicon_that_is_none_is_refused(tmp_path: Path) -> None:
    with pytest.raises(PreflowError, match="no such file"):
        read_lexicon(tmp_path / "absent.txt")
    (tmp_path / "bad.txt").write_text("good\t1.9\nbad minus two\n")
    with pytest.raises(PreflowError, match=r"bad\.txt:2: expected word, tab, valence"):
        read_lexicon(tmp_path / "bad.txt")


# Compound scores of the authors' program (vaderSentiment 3.3.2) for sentences with the rules in them, noted once.
PUBLISHED = {
    "He was so happy.": 0.6948,
    "Lily was not happy at all!": -0.509,
    "The dog was very scared, but the boy hugged him and he smiled.": 0.8022,
    "It was a GREAT day!!!": 0.7723,
    "She never felt so good.": 0.5777,
    "Tim was sad because he lost his toy.": -0.6597,
}


def test_the_published_lexicon_gives_the_published_scores(shared: Path) -> None:
    lexicon = read_lexicon(shared / "data/vader_lexicon/vader_lexicon.txt")
    assert len(lexicon) == 7506
    for text, expected in PUBLISHED.items():
        assert compound(text, lexicon) == pytest.approx(expected, abs=1e-4), text
