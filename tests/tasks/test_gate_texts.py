"""What single texts hide: chat markup in disguise, unseen characters, personal data, sums that do not add up."""

import pytest

from tasks.validation.arithmetic import unchecked, wrong_answer
from tasks.validation.facts import facts_of
from tasks.validation.personal import masked, personal_in, pseudonym
from tasks.validation.texts import hidden, mark_run, marker, tag


@pytest.mark.faults(
    42,
    injected="chat markup in disguise: zero-width, full-width, Cyrillic, nested",
    happens="the gate sees it, and sets the row aside",
)
@pytest.mark.parametrize(
    "text",
    [
        "<|im_start|>", "<|im\u200b_start|>", "<| im_ start |>", "<\n|im_start|>", "＜｜im_start｜＞", "<|іm_ѕtаrt|>",
        "<|im_<|im_start|>start|>", "❮∣assistant∣❯", "<|ASSISTANT|>", "<start_of_turn>", "[INST]", "【INST】",
        "<<SYS>>", "x\n\nHuman: y", "x\n\n### Response:", "<|eot\u2060_id|>", "<|\U000e0041user|>",
    ],
)  # fmt: skip
def test_markup_is_seen_through_its_disguise(text):
    assert marker(f"before {text} after")


@pytest.mark.parametrize(
    "text",
    ["a <| b |> c", "if a < b | c > d", "x[0]", "Human: alone", "1 < 2 and 3 > 2", "naïve “quotes” – ok", "שלום"],
)
def test_plain_text_is_no_markup(text):
    assert marker(text) is None


@pytest.mark.parametrize("text", ["<s>", "</s>", "<user>", "<EOS>"])
def test_tags_of_html_and_placeholders_are_told_from_markup_of_turns(text):
    assert tag(f"the old price, {text}5") == text and marker(f"the old price, {text}5") is None
    assert tag("<span> <session>") is None


@pytest.mark.faults(
    43,
    injected="NUL, bidi override, tag characters; emoji joiners, right-to-left text",
    happens="the former are named, the latter kept",
)
def test_hidden_characters_are_named_and_what_scripts_need_stays():
    assert hidden("a\0b") == "U+0000 control character"
    assert hidden("safe\u202etxt.exe") == "U+202E RIGHT-TO-LEFT OVERRIDE"
    assert hidden("hi\U000e0041\U000e0042") == "U+E0041 TAG LATIN CAPITAL LETTER A"
    scotland = "\U0001f3f4\U000e0067\U000e0062\U000e0073\U000e0063\U000e0074\U000e007f"
    for kept in (
        "tab\tline\nend\r\n",
        "👨‍👩‍👧",
        "می‌خواهم",
        "\u200fשלום\u200e",
        "\u2068isolated\u2069",
        f"I like {scotland}",
    ):
        assert hidden(kept) is None


def test_marks_are_counted_on_one_letter():
    assert mark_run("a" + "\u0301" * 7 + "b" + "\u0301" * 4) == 7
    assert mark_run("e\u0301 e\u0301") == 0 and mark_run("plain ’ text") == 0
    assert mark_run("Z" + "\u0336\u0489" * 500_000) == 1_000_000


@pytest.mark.parametrize(
    ("text", "kind"),
    [
        ("write to jane.doe+x@mail.company.org!", "e-mail address"),
        ("call +1 (202) 456-1111", "phone number"),
        ("card 4111 1111 1111 1111", "card number"),
        ("GB82 WEST 1234 5698 7654 32", "IBAN"),
        ("BE68 5390 0754 7034 CALL ME", "IBAN"),
        ("078-05-1120", "social security number"),
        ("from 93.184.216.34 today", "network address"),
        ("http://93.184.216.34/a", "network address"),
    ],
)
def test_personal_data_is_known_by_its_form_and_masked(text, kind):
    assert personal_in(text) == kind
    assert f"[{kind}]" in masked(text) and personal_in(masked(text)) is None


@pytest.mark.parametrize(
    "text",
    [
        "4111 1111 1111 1112",  # Luhn's sum is 31
        "GB82 WEST 1234 5698 7654 33",
        "me@example.com", "10.0.0.1 and 127.0.0.1", "version 1.2.3.4.5", "OpenSSL 1.2.3.4",
        "Chrome/120.0.0.0", "version 6.1.128.9",
        "300.1.1.1", "1234567890123456 units",
        "2024-05-17 10:15:00", "3 + 4 = 7", "@someone",
    ],
)  # fmt: skip
def test_other_numbers_are_nobodys(text):
    assert personal_in(text) is None


def test_people_who_are_named_by_their_address_are_told_apart_and_not_shown():
    one, other = pseudonym("jane@mail.org"), pseudonym("joe@mail.org")
    assert one != other and one.startswith("[e-mail address] ") and "jane" not in one
    assert pseudonym("worker 17") == "worker 17"


def test_an_equation_must_give_the_answer():
    assert wrong_answer({"equation": "( ( 4.0 - 2.0 ) + 3.0 )", "answer": "1"}) is not None
    assert "is 5, the answer says 1" in wrong_answer({"equation": "(4-2)+3", "answer": "1"})
    for equation, answer in [("( 76.0 - 25.0 )", "51"), ("1/3", "0.3333333"), ("2*-3", ["6", "-6"]), ("1,000", None)]:
        assert wrong_answer({"equation": equation, "answer": answer}) is None
    for equation in ("1/0", "__import__('os').getcwd()", "x=5+3", "2^3", "2 × 3", "(" * 900, ["1+1"]):
        assert wrong_answer({"equation": equation, "answer": "1"}) is None  # nothing is known of the answer
        assert unchecked({"equation": equation, "answer": "1"}) == str(equation)[:80]
        assert unchecked({"equation": equation}) is None
    assert unchecked({"equation": "5+3", "answer": "9"}) is unchecked({"answer": "9"}) is None
    assert wrong_answer({"answer": "1"}) is None
    assert wrong_answer({"equation": "3+5", "answer": "8 apples"}) is None  # right or wrong, it is no plain number
    assert "3+5 is 8, the answer says" in wrong_answer({"equation": "3+5", "answer": ["eight", "7"]})


def test_giant_numbers_are_neither_worked_out_nor_printed():
    assert "more than 300 digits" in wrong_answer({"equation": "*".join(["9" * 90] * 9), "answer": 1})
    assert wrong_answer({"equation": "1+1", "answer": "1e999999999"}) is None
    assert wrong_answer({"equation": "1+1", "answer": {"value": 2}}) is None


def test_a_hundred_thousand_turns_stay_short_and_in_order():
    turns = [{"role": role, "content": "x"} for _ in range(50_000) for role in ("user", "assistant")]
    found = facts_of("demonstrations", {"messages": turns})
    assert found["num_turns"] == 100_000
    assert found["turns"] == "user assistant user assistant user assistant"
    wrong = facts_of("demonstrations", {"messages": turns[::2] + turns[1::2]})
    assert len(wrong["turns"]) < 300
