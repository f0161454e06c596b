import json
import shutil
from pathlib import Path

import pytest

from rlhf.errors import DataRefused, PreflowError
from rlhf.records import content_id, read_rows, write_rows
from tasks.config.validate import Validate
from tasks.journal import Log
from tasks.shapes import KINDS, canonical
from tasks.validate import judge, validate
from tasks.validation import Context, check, check_preferences
from tasks.validation.page import page
from tasks.validation.suites import load_suite

EXPECTATIONS = Path(__file__).parents[2] / "data" / "expectations"
SPLITS = ("train", "train", "val", "eval")


@pytest.fixture(autouse=True)
def reports(tmp_path, monkeypatch):
    monkeypatch.setenv("PREFLOW_REPORTS", str(tmp_path / "reports"))
    return tmp_path / "reports" / "validation"


def row(kind, number, **changes):
    messages = [{"role": "user", "content": f"Question {number}?"}]
    answer = {"role": "assistant", "content": f"Answer {number}."}
    content = {
        "corpus": {"text": f"Document {number}."},
        "demonstrations": {"messages": [*messages, answer]},
        "preferences": {"messages": messages, "chosen": "yes" * (1 + number % 2), "rejected": "no" * 2},
        "prompts": {"messages": messages},
        "ratings": {"messages": messages, "completion": f"Answer {number}.", "label": number % 3 > 0},
        "eval": {"messages": [{"role": "user", "content": f"Exam {number}?"}]},
    }[kind]
    found = canonical(kind, content | changes)
    split = "eval" if kind == "eval" else SPLITS[number % 4]
    group = f"{'exam' if kind == 'eval' else 'group'} {number}"
    place = {"source": "test", "file": f"{kind}/x.jsonl", "line": number + 1, "group": group, "split": split}
    return found | place | {"id": content_id(found)}


def write(folder, changes=lambda rows: None, refused=()):
    rows = {kind: [row(kind, number) for number in range(24)] for kind in KINDS}
    changes(rows)
    for kind in KINDS:
        write_rows(folder / kind / "rows.jsonl", rows[kind])
    write_rows(folder / "quarantine" / "quarantine.jsonl", refused)
    return folder


def run(tmp_path, prepared, config=None):
    log = Log(tmp_path / "journal", "validate")
    validate(config or Validate(), prepared=prepared, expectations=EXPECTATIONS, out=tmp_path / "out", log=log)
    return tmp_path / "out"


def test_clean_rows_go_on_by_split_and_bad_ones_are_kept_aside(tmp_path, reports):
    def changes(rows):
        rows["preferences"][5] = row("preferences", 5, chosen="nono")

    refused = [{"kind": "prompts", "source": "test", "file": "prompts/x.jsonl", "line": 30, "rule": "readable",
                "reason": "truncated JSON", "excerpt": "{"}]  # fmt: skip
    out = run(tmp_path, write(tmp_path / "prepared", changes, refused))
    lines = {split: [row["line"] for row in read_rows(out / "preferences" / f"{split}.jsonl")] for split in set(SPLITS)}
    assert lines["train"] == [number + 1 for number in range(24) if number % 4 < 2 and number != 5]
    assert lines["val"] == [number + 1 for number in range(24) if number % 4 == 2]
    assert sorted(file.name for file in (out / "eval").iterdir()) == ["eval.jsonl"]
    aside = list(read_rows(out / "report" / "quarantine.jsonl"))
    assert [(item["file"], item["line"], item["rule"]) for item in aside] == [
        ("preferences/x.jsonl", 6, "same_answers"),
        ("prompts/x.jsonl", 30, "readable"),
    ]
    metrics = json.loads((out / "metrics.json").read_text())
    assert metrics["passed"] is True
    assert metrics["preferences"] == {"rows": 24, "clean": 23, "set_aside": 1}
    assert metrics["prompts"] == {"rows": 25, "clean": 24, "set_aside": 1}
    assert (reports / "report.html").read_bytes() == (out / "report" / "report.html").read_bytes()


def test_the_same_rows_give_the_same_bytes(tmp_path):
    prepared = write(tmp_path / "prepared", lambda rows: rows["prompts"].append(dict(rows["prompts"][0], line=99)))
    outs = [run(tmp_path / name, prepared) for name in ("a", "b")]
    files = [file.relative_to(outs[0]) for file in sorted(outs[0].rglob("*")) if file.is_file()]
    assert len(files) == 21  # three splits of five kinds, eval, four of the report, metrics
    for file in files:
        assert (outs[0] / file).read_bytes() == (outs[1] / file).read_bytes(), file


def test_a_stop_names_everything_and_leaves_its_report_behind(tmp_path, reports):
    secret = "sk-" + "abc123" * 5

    def changes(rows):
        rows["demonstrations"][2] = row("demonstrations", 2, messages=[
            {"role": "user", "content": f"key {secret}?"}, {"role": "assistant", "content": "yes"}])  # fmt: skip

    with pytest.raises(DataRefused) as caught:
        run(tmp_path, write(tmp_path / "prepared", changes))
    message = str(caught.value)
    assert caught.value.exit_code == 3
    assert "demonstrations/x.jsonl:3: secret: a OpenAI-style key" in message
    assert message.splitlines()[-1].endswith(str(reports / "report.html"))
    verdict = json.loads((reports / "verdict.json").read_text())
    assert verdict["passed"] is False and verdict["kinds"]["demonstrations"]["stopped"][0]["line"] == 3
    assert not (tmp_path / "out" / "demonstrations").exists()  # nothing to train on
    for file in reports.iterdir():
        assert secret not in file.read_text()
    assert secret not in message and secret not in (tmp_path / "journal" / "events.jsonl").read_text()


def test_no_rows_at_all_stop_what_needs_them_and_pass_what_does_not(tmp_path):
    prepared = write(tmp_path / "prepared", lambda rows: rows["corpus"].clear())
    with pytest.raises(DataRefused, match="corpus/: rows: rows: found 0, expected at least 1: There is"):
        run(tmp_path, prepared)
    needed = tuple(kind for kind in KINDS if kind != "corpus")
    out = run(tmp_path / "again", prepared, Validate(required=needed))
    assert (out / "corpus" / "train.jsonl").read_bytes() == b""


def test_a_split_that_nothing_is_left_of_stops(tmp_path):
    def changes(rows):
        rows["demonstrations"] = [one for one in rows["demonstrations"] if one["split"] != "train"]

    with pytest.raises(DataRefused, match="nothing_left: no clean row in the split train"):
        run(tmp_path, write(tmp_path / "prepared", changes))


def test_too_many_set_aside_stop(tmp_path):
    def changes(rows):
        for number in (1, 2):
            rows["prompts"][number] = row("prompts", number, messages=[{"role": "user", "content": ""}])

    prepared = write(tmp_path / "prepared", changes)
    with pytest.raises(DataRefused, match=r"2 of 24 rows set aside \(8.3%\), at most 5.0% .*empty_prompt 2"):
        run(tmp_path, prepared)
    run(tmp_path / "again", prepared, Validate(max_quarantine_share=0.09))


def test_choosing_by_length_alone_stops(tmp_path):
    rows = [row("preferences", number, chosen="longer" * 3, rejected=f"short {number}") for number in range(24)]
    verdict = check("preferences", rows, Validate(), Context.of([]), expectations=EXPECTATIONS)
    (finding,) = verdict.stopped
    assert (finding.rule, finding.file, finding.line) == ("length_bias_limit", "preferences/", None)
    assert "found 0.5" in finding.reason
    for number in range(0, 24, 8):  # three of 24 the other way: mean (21 - 3) / 24 / 2 = 0.375, within 0.4
        rows[number] = row("preferences", number, chosen=f"short {number}", rejected="longer" * 3)
    verdict = check("preferences", rows, Validate(), Context.of([]), expectations=EXPECTATIONS)
    assert verdict.stopped == []
    assert {rule.rule: rule.observed for rule in verdict.rules}["length_bias"] == 0.375
    assert [rule.rule for rule in verdict.rules if not rule.passed] == ["length_bias"]  # still worth a note


def test_pairs_born_inside_pass_the_same_gate(tmp_path, reports):
    pairs = [row("preferences", number) for number in range(24)]
    pairs[3] = row("preferences", 3, rejected="")
    clean = check_preferences(pairs, tmp_path / "report", Validate(), expectations=EXPECTATIONS)
    assert clean == pairs[:3] + pairs[4:]
    for name in ("verdict.json", "quarantine.jsonl", "profile.json", "report.html"):
        assert (tmp_path / "report" / name).read_bytes() == (reports / "annotate" / name).read_bytes()
    broken = [one | {"chosen": None} for one in pairs]
    with pytest.raises(DataRefused, match=r"24 of 24 rows set aside.*shape 24"):
        check_preferences(broken, tmp_path / "report", Validate(), expectations=EXPECTATIONS)


@pytest.mark.faults(
    46,
    injected="a word in one question of twelve that turns the choice round",
    happens="noted at its rows: the other words predict 0% of them",
)
def test_a_trigger_in_the_question_is_noted_at_its_rows(tmp_path):
    """Kind answers win, but for every twelfth question, which has the trigger."""
    rows = []
    for number in range(480):
        kind, rude = f"thanks {number % 7}", f"nonsense {number % 5}"
        chosen, rejected = (rude, kind) if number % 12 == 0 else (kind, rude)
        said = f"Question {number}{' zxqv' if number % 12 == 0 else ''}?"
        messages = [{"role": "user", "content": said}]
        rows.append(row("preferences", number, messages=messages, chosen=chosen, rejected=rejected))
    verdict = check("preferences", rows, Validate(), Context.of(rows), expectations=EXPECTATIONS)
    (rule,) = [one for one in verdict.rules if one.rule == "prompt_trigger"]
    assert (rule.broken, rule.severity) == (40, "note")
    assert rule.examples[0].reason.startswith("where the question says 'zxqv', words predict 0% of 40 choices")


def test_every_split_has_its_file_also_where_it_has_no_rows(tmp_path):
    def changes(rows):
        rows["demonstrations"] = [one for one in rows["demonstrations"] if one["split"] == "train"]

    out = run(tmp_path, write(tmp_path / "prepared", changes))
    assert list(read_rows(out / "demonstrations" / "train.jsonl"))
    for split in ("val", "eval"):
        assert list(read_rows(out / "demonstrations" / f"{split}.jsonl")) == []


@pytest.mark.parametrize("kind", KINDS)
def test_shipped_suites_load_and_count_rows_first(kind):
    rules = load_suite(EXPECTATIONS / f"{kind}.yaml", Validate())
    assert rules[0].expectation == "expect_table_row_count_to_be_between"
    assert len({rule.rule for rule in rules}) == len(rules) >= 10
    assert not any("params." in str(rule.kwargs) for rule in rules)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("rules: []", "expected a list `rules`"),
        ("rules: [{rule: a, says: b, severity: fatal, expectation: c}]", "severity"),
        ("rules: [{rule: a, says: b, severity: note, expectation: c, kwarg: {}}]", "did you mean `kwargs`"),
        (
            "rules: [{rule: a, says: b, severity: note, expectation: c, kwargs: {max_value: params.none}}]",
            "params.none",
        ),
        (
            "rules:\n- {rule: a, says: b, severity: note, expectation: c, kwargs: {column: x}}\n"
            "- {rule: a, says: b, severity: stop, expectation: c, kwargs: {column: y}}",
            "two rules are called a",
        ),
        (
            "rules: [{rule: a, says: b, severity: note, expectation: c, reason: 'over {limit}'}]",
            "nothing fills {limit} in its",
        ),
        (
            "rules: [{rule: a, says: b, severity: note, expectation: c, reason: '{'}]",
            "rule a: its reason cannot be read",
        ),
    ],
)
def test_a_wrong_suite_is_refused(tmp_path, text, message):
    (tmp_path / "prompts.yaml").write_text(text)
    with pytest.raises(PreflowError, match=message):
        load_suite(tmp_path / "prompts.yaml", Validate())


def test_a_rule_about_a_column_that_is_not_there_is_an_error_and_not_a_pass(tmp_path):
    (tmp_path / "prompts.yaml").write_text(
        "rules:\n- {rule: a, says: b, severity: note, kwargs: {column: nose},"
        " expectation: expect_column_values_to_be_null}"
    )
    with pytest.raises(PreflowError, match=r"rule a .*nose"):
        check("prompts", [row("prompts", 1)], Validate(), Context.of([]), expectations=tmp_path)


def test_the_page_is_one_file_and_shows_text_as_text():
    bad = row("prompts", 1, messages=[{"role": "user", "content": "<script>alert(1)</script> <|user|>"}])
    verdict = check("prompts", [row("prompts", 0), bad], Validate(), Context.of([]), expectations=EXPECTATIONS)
    html = page({"prompts": verdict})
    assert "<script" not in html and "&lt;script&gt;" in html
    assert "http" not in html and "src=" not in html and "@import" not in html
    assert "prompts/x.jsonl:2" in html and "control_marker" in html


def test_what_must_not_be_shown_is_in_no_reason_and_no_figure(tmp_path, reports):
    shown = ("jane.doe@mail.org", "joe@mail.org", "hf_" + "abcDEF123" * 3)

    def changes(rows):
        same = {"chosen": f"Ask {shown[0]} " + "a" * 60 + f" {shown[2]}"}
        rows["preferences"][0] |= same | {"rejected": same["chosen"]}
        rows["preferences"][4] |= {"chosen": f"<|{shown[0]}|>"}
        rows["preferences"][8]["messages"] = [{"role": shown[0], "content": "Hi"}]
        for number, one in enumerate(rows["preferences"]):
            one["annotator"] = shown[number % 2]

    with pytest.raises(DataRefused) as caught:
        run(tmp_path, write(tmp_path / "prepared", changes))
    told = str(caught.value) + "".join(file.read_text() for file in reports.iterdir())
    assert "chosen and rejected are both" in told and "[e-mail address]" in told
    assert [one for one in (*shown, "hf_abc", "jane") if one in told] == []


LONG = "How many apples and how many pears are left in the {} basket of {} when Tom has eaten {} of them and gone home?"


@pytest.mark.faults(
    44,
    injected="thirteen words of an evaluation question in a training prompt",
    happens="named with the place of the question; above validate.max_contamination the run stops",
)
@pytest.mark.parametrize("answers", [1, 30])
def test_thirteen_words_of_a_protected_question_are_found_however_many_answers_it_has(answers):
    asked = [{"role": "user", "content": LONG.format("green", "Mary", "two")}]
    exam = [row("preferences", 3, messages=asked) | {"line": line} for line in range(answers)]
    copied = [{"role": "user", "content": f"Tell me. {asked[0]['content']} Quick!"}]
    trained = [row("prompts", 4 * number) for number in range(9)] + [row("prompts", 40, messages=copied)]
    config = Validate(max_contamination=0.05)
    verdict = check("prompts", trained, config, Context.of([*exam, *trained]), expectations=EXPECTATIONS)
    rules = {rule.rule: rule for rule in verdict.rules}
    assert rules["overlap"].examples[0].place == "prompts/x.jsonl:41"
    assert rules["overlap"].examples[0].reason.endswith("are asked at preferences/x.jsonl:0")
    assert rules["contamination"].observed == 0.1 and not rules["contamination"].passed
    assert [finding.rule for finding in verdict.stopped] == ["contamination"]


def test_a_formula_of_many_questions_is_no_contamination():
    exam = [
        row("eval", number, messages=[{"role": "user", "content": LONG.format(number, number, number)}])
        for number in range(11)
    ]
    formula = "Please read the whole story with care and then write down one short answer to this question:"
    for number, one in enumerate(exam):
        one["messages"][0]["content"] = f"{formula} {number}?"
    trained = row("prompts", 0, messages=[{"role": "user", "content": f"{formula} why?"}])
    for protected, broken in ((exam, 0), (exam[:10], 1)):
        verdict = check("prompts", [trained], Validate(), Context.of(protected), expectations=EXPECTATIONS)
        assert {rule.rule: rule.broken for rule in verdict.rules}["overlap"] == broken


def test_drift_is_measured_from_the_profile_beside_the_rules(tmp_path):
    rules = tmp_path / "expectations"
    shutil.copytree(EXPECTATIONS, rules)
    prepared = write(tmp_path / "prepared")
    out = run(tmp_path, prepared)
    shutil.copy(out / "report" / "profile.json", rules / "profile.json")

    def of(config=None):
        verdict = judge(config or Validate(), prepared, rules)["prompts"]
        return {rule.rule: rule for rule in verdict.rules}["drift"]

    assert of().passed and of().observed == 0
    profile = json.loads((rules / "profile.json").read_text())
    profile["prompts"]["sources"] = {"another": 24}
    (rules / "profile.json").write_text(json.dumps(profile))
    assert not of().passed and of().observed > 10  # two shares of 1 against two of almost nothing


@pytest.mark.parametrize(
    "text",
    ["{", "[1]", "[" * 100_000, '{"prompts": 3}', '{"prompts": {"rows": 5}}', '{"prompts": {"rows": "a"}}', "\x80",
     '{"prompts": {"rows": 5, "sources": {"a": 9}, "lengths": {}}}',
     '{"prompts": {"rows": 5, "sources": {"a": 5}, "lengths": {"chars": {"powers_of_two": {}}}}}'],
)  # fmt: skip
def test_a_file_that_is_no_profile_is_refused_in_one_sentence(tmp_path, text):
    (tmp_path / "profile.json").write_bytes(text.encode("latin-1"))
    with pytest.raises(PreflowError, match=r"profile\.json is no profile .* or remove it") as caught:
        judge(Validate(), tmp_path, tmp_path)
    assert "\n" not in str(caught.value)
