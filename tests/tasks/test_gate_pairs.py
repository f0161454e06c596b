"""What pairs and texts say about each other: by hand, by construction, or against a plain reckoning."""

import math
import random

import numpy as np
import pytest

from tasks.validation import labels, words
from tasks.validation.overlap import SHINGLE, Words, nearly_the_same, runs, signatures
from tasks.validation.profile import drift


def numbers(*values):
    return np.array(values, np.uint64)


def test_agreement_by_hand():
    """Item 1: ann, ben and cleo say yes, yes, no. Item 2: ann twice. Item 3: dan alone."""
    item, side = numbers(1, 1, 1, 2, 2, 3), np.array([True, True, False, True, True, True])
    annotator = np.array([0, 1, 2, 0, 0, 3])
    share, against = labels.agreement(item, side, annotator)
    assert share[:3].tolist() == [0.5, 0.5, 0.0]
    assert np.isnan(share[3:]).all()  # nobody else judged these
    assert against.tolist() == [2, 2, 0, -1, -1, -1]


def test_the_first_to_disagree_is_that_of_a_plain_search():
    rng = np.random.default_rng(0)
    item, annotator = rng.integers(0, 20, 300).astype(np.uint64), rng.integers(0, 4, 300)
    side = rng.random(300) < 0.7
    _, against = labels.agreement(item, side, annotator)
    for row in range(300):
        others = np.flatnonzero((item == item[row]) & (side != side[row]) & (annotator != annotator[row]))
        assert against[row] == (others[0] if len(others) else -1)


def test_lines_of_annotators_by_hand():
    columns = {
        "agreement": np.array([1.0, np.nan, 0.0, 0.5]),
        "length_bias": np.array([0.5, 0.5, -0.5, 0.0]),
        "contradicted": np.array([False, True, True, False]),
    }
    found = labels.annotators(["ann", "ben"], np.array([1, 0, 1, 1]), columns)
    assert found == [
        {"annotator": "ben", "pairs": 3, "judged_by_others": 3, "agreement": 0.5, "longer_chosen": 0.5,
         "contradictions": 1},
        {"annotator": "ann", "pairs": 1, "judged_by_others": 0, "agreement": None, "longer_chosen": 1.0,
         "contradictions": 1},
    ]  # fmt: skip


@pytest.mark.faults(45, injected="a > b > c > a of one annotator", happens="noted at each of its three pairs")
def test_cycles_by_hand():
    """a > b > c > a of one annotator; d > a hangs on it; the same three by different annotators are no cycle."""
    a, b, c, d = 10, 11, 12, 13
    edges = [(a, b), (b, c), (c, a), (d, a), (a, b), (b, c), (c, a)]
    chosen, rejected = numbers(*(one for one, _ in edges)), numbers(*(one for _, one in edges))
    annotator = np.array([0, 0, 0, 0, 1, 2, 3])
    found = labels.cycles(numbers(*[7] * 7), chosen, rejected, annotator)
    assert found.tolist() == [3, 3, 3, 0, 0, 0, 0]


def test_two_answers_are_a_contradiction_and_no_cycle():
    found = labels.cycles(numbers(1, 1, 1), numbers(5, 6, 5), numbers(6, 5, 8), np.zeros(3, np.int64))
    assert found.tolist() == [0, 0, 0]


def test_contradictions_in_a_row_are_no_cycle():
    """a ⇄ b and b ⇄ c hang together; with c > a and a > d > c there is one cycle, c > a > d > c."""
    edges = [(1, 2), (2, 1), (2, 3), (3, 2)]
    more = [*edges, (3, 1), (1, 4), (4, 3)]
    for pairs, expected in ((edges, [0] * 4), (more, [0] * 4 + [3] * 3)):
        sides = [numbers(*side) for side in zip(*pairs)]
        found = labels.cycles(numbers(*[7] * len(pairs)), *sides, np.zeros(len(pairs), np.int64))
        assert found.tolist() == expected


def test_leakage_of_a_split_by_row_by_hand():
    """Groups of 1, 2 and 3 rows, a third held out: (1·0 + 2·(1 − 1/3) + 3·(1 − 1/9)) / 6 = 2/3."""
    group = numbers(1, 2, 2, 3, 3, 3)
    found = labels.split_leakage(group, np.array([True, True, False, False, False, False]))
    assert found == {"held_out": 0.3333, "by_row": 0.6667, "by_group": 0.5}
    whole = labels.split_leakage(group, np.array([False, True, True, False, False, False]))
    assert whole["by_group"] == 0.0
    assert labels.split_leakage(group, np.ones(6, bool)) is None


@pytest.mark.faults(
    44,
    injected="forty texts of sixty words again with one word replaced, and with four",
    happens="the first are near duplicates of theirs, the second are not",
)
def test_minhash_knows_the_similarity_of_texts():
    """A text of 60 words has 58 runs of three. With one word replaced it shares 55 of 61, J = .90; with four words
    replaced 46 of 70, J = .66, below the limit."""
    rng = random.Random(0)
    vocabulary = [f"w{number}" for number in range(5000)]
    texts, expected = [], []
    for number in range(40):
        text = rng.sample(vocabulary, 60)
        near = list(text)
        near[30] = "other"
        far = list(text)
        for position in (10, 25, 40, 50):
            far[position] = "other"
        texts += [" ".join(one) for one in (text, near, far)]
        expected += [-1, 3 * number, -1]
    signed = signatures(*runs(*Words().of(texts), SHINGLE), len(texts))
    found = nearly_the_same(signed, np.arange(len(texts)).astype(np.uint64))
    wrong = sum(one != other for one, other in zip(found.tolist(), expected))
    assert wrong <= 12  # of 120; an estimate from 48 minima errs by .05
    assert all(found[index] == expected[index] for index in range(0, 120, 3))
    again = nearly_the_same(signed, np.zeros(len(texts), np.uint64))
    assert (again == -1).all()  # all from one place


def test_runs_are_those_of_plain_python():
    texts = ["a b c d", "", "b c d", "A  b, C"]
    found, owner = runs(*Words().of(texts), 3)
    assert owner.tolist() == [0, 0, 2, 3]
    assert found[1] == found[2] and found[0] == found[3] and found[0] != found[1]


def some_pairs(swapped=(), trigger="", count=900):
    """Good answers say `thanks` more often than bad ones; annotators are three, one may judge the other way."""
    rng = random.Random(1)
    for number in range(count):
        annotator = ("ann", "ben", "cleo")[number % 3]
        good, bad = (" ".join(rng.choices([*"abcdefghij", *["thanks"] * weight], k=8)) for weight in (6, 1))
        if annotator in swapped:
            good, bad = bad, good
        if trigger and annotator == "cleo" and number % 11 == 0:
            good = f"{good} {trigger}"
        yield good, bad, annotator, "file"


def counted(pairs):
    found = words.Words()
    for number, pair in enumerate(pairs):
        found.add(*pair, str(number))
    return found


@pytest.mark.faults(
    45,
    injected="all labels of one of three annotators swapped",
    happens="named: the words of the others predict few of its choices",
)
def test_an_annotator_who_judges_the_other_way_stands_out():
    pairs = list(some_pairs(swapped=("ben",)))
    predicted = words.others_predict(counted(pairs), pairs)
    assert predicted["annotator", "ben"][1] < 0.3 < predicted["annotator", "ann"][1]
    assert list(words.swapped(predicted)) == [("annotator", "ben")]
    honest = list(some_pairs())
    assert words.swapped(words.others_predict(counted(honest), honest)) == {}


def test_a_planted_trigger_is_found_with_its_source():
    pairs = list(some_pairs(trigger="zxqv"))
    found = words.triggers(counted(pairs))
    assert list(found) == ["zxqv"]
    times = sum("zxqv" in chosen for chosen, *_ in pairs)
    assert found["zxqv"] == (
        f"'zxqv' was chosen {times} of {times} times, 100% of them from annotator cleo, which has 33% of all pairs"
    )
    assert words.triggers(counted(some_pairs())) == {}


def test_words_that_tell_by_hand():
    """`sorry` is in the chosen answer alone 9 times, in the rejected one alone once: z = 8 / √10."""
    pairs = [("sorry no", "no", "x", "y")] * 9 + [("no", "sorry no", "x", "y")] + [("sorry a", "sorry b", "x", "y")] * 5
    (first, *_) = words.tells(counted(pairs))
    assert first == {"word": "sorry", "chosen": 9, "rejected": 1, "z": round(8 / math.sqrt(10), 2)}


def test_pairs_of_one_set_count_a_word_once():
    found = words.Words()
    for _ in range(20):
        found.add("rare word", "word", "x", "y", "one question")
    assert words.triggers(found) == {}
    assert found.total()[1]["rare"] == 1


def test_what_is_remembered_of_words_is_bounded_and_frequent_ones_stay(monkeypatch):
    monkeypatch.setattr(words, "MAX_WORDS", 100)
    found = words.Words()
    for number in range(2000):
        found.add(f"often rare{number} {'x' * 1000}{number}", "no", "ann", "file", str(number))
    _, won, _ = found.total()
    assert won["often"] == 2000 and len(won) <= 100
    assert max(map(len, won)) < 10  # a text without blanks is no word


def test_all_label_sources_together_remember_no_more_than_one(monkeypatch):
    monkeypatch.setattr(words, "MAX_WORDS", 320)
    found = words.Words()
    for number in range(6400):
        found.add(f"often rare{number}", "no", f"worker{number % 32}", "file", str(number))
    _, won, _ = found.total("annotator")
    assert won["often"] == 6400 and len(won) <= 320


def test_others_are_all_but_the_one_by_hand():
    """`yes` wins six times for ann and loses six times for ben: each is told by the other, and always wrongly."""
    pairs = [("yes", "no", "ann", "file")] * 6 + [("no", "yes", "ben", "file")] * 6 + [("x", "y", "ann", "file")] * 4
    assert words.others_predict(counted(pairs), pairs) == {
        ("annotator", "ann"): (6, 0.0),
        ("annotator", "ben"): (6, 0.0),
    }


def asked(pairs, trigger=""):
    """Questions of three of ten words; each eleventh pair has the trigger, and its choice turned round."""
    rng = random.Random(2)
    for number, (good, bad, annotator, source) in enumerate(pairs):
        question = " ".join(rng.sample([f"w{one}" for one in range(10)], 3))
        planted = trigger and number % 11 == 0
        sides = (bad, good) if planted else (good, bad)
        yield f"{question} {trigger}?" if planted else question, *sides, annotator, source


def test_a_trigger_in_the_question_is_found_by_what_it_turns_round():
    planted = list(asked(some_pairs(), "zxqv"))
    found = words.turning(counted(pair[1:] for pair in planted), (pair[:3] for pair in planted))
    assert list(found) == ["zxqv"]
    assert found["zxqv"].startswith("where the question says 'zxqv', words predict ")
    honest = list(asked(some_pairs()))
    assert words.turning(counted(pair[1:] for pair in honest), (pair[:3] for pair in honest)) == {}


@pytest.mark.parametrize(("times", "found"), [(25, []), (26, ["q"])])
def test_a_word_that_turns_choices_round_by_hand(times, found):
    """`a` beats `b` elsewhere, ten times as often; of the pairs of `q` none is predicted: −√n standard errors."""
    pairs = [("x", "a", "b", "ann", "file")] * times * 10 + [("q", "b", "a", "ann", "file")] * times
    assert list(words.turning(counted(pair[1:] for pair in pairs), (pair[:3] for pair in pairs))) == found


def test_a_pair_does_not_predict_itself():
    """Each of forty pairs of `q` has words of its own, which four pairs elsewhere use the other way: five in all."""
    pairs = [("x", "ok", "no", "ann", "file")] * 400
    for number in range(40):
        pairs += [("x", f"a{number}", f"b{number}", "ann", "file")] * 4
        pairs += [("q", f"b{number}", f"a{number}", "ann", "file")]
    assert words.turning(counted(pair[1:] for pair in pairs), (pair[:3] for pair in pairs)) == {}


def test_drift_by_hand():
    """Shares (½, ½) against (¼, ¾): PSI = ¼ ln 2 + (−¼) ln ⅔ = ¼ ln 3."""
    one = {"rows": 4, "sources": {"a": 2, "b": 2}, "lengths": {}}
    other = {"rows": 8, "sources": {"a": 2, "b": 6}, "lengths": {}}
    assert drift(one, other) == pytest.approx(0.25 * math.log(3), abs=1e-6)
    assert drift(one, one) == 0.0
    assert drift(one, {}) is None


def test_which_of_many_sources_are_named_is_no_drift():
    """Forty sources of 25 rows each; the profiles name other halves of them, with ten in common."""
    one, other = (
        {"rows": 1000, "sources": {f"s{number}": 25 for number in range(start, start + 20)}, "lengths": {}}
        for start in (0, 10)
    )
    assert drift(one, other) == 0.0
    assert drift(one, other | {"sources": {"s15": 900}}) > 1


def test_a_word_that_was_forgotten_and_is_met_again_is_counted_anew(monkeypatch):
    """Right no oftener than met: else what is planted late among many words is never seen to turn anything round."""
    monkeypatch.setattr(words, "MAX_WORDS", 20)
    one_by_one = [["early", *(f"w{number}x{other}" for other in range(25))] for number in range(40)]
    plain = [(question, "good", "bad") for questions in one_by_one for question in questions]
    turned = [("early", "bad", "good")] * 30
    found = words.turning(counted((*pair[1:], "ann", "file") for pair in plain), [*plain, *turned])
    assert "0% of 30 choices" in found["early"]
