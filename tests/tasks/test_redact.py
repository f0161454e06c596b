import pytest

from tasks import redact
from tasks.redact import address, hidden_in, logged, masked_value, redacted, secret_in

SECRETS = {  # put together here, so that no scanner takes this file for a leak
    "Hugging Face token": "hf_" + "aB3" * 8,
    "OpenAI-style key": "sk-" + "proj-abc123DEF456ghi7",
    "AWS access key": "AKIA" + "ABCDEFGH12345678",
    "GitHub token": "ghp_" + "a1" * 18,
    "fine-grained GitHub token": "github_pat_" + "a1" * 18,
    "Google API key": "AIza" + "aB-4_" * 7,
    "Stripe key": "sk_" + "live_" + "a1" * 12,
    "Slack token": "xoxb-" + "1234567890-abc",
    "private key": "-----BEGIN RSA PRIVATE KEY-----\nMIIabc+/=\n-----END RSA PRIVATE KEY-----",
    "password in a URL": "://ann:hunter2@",
}


@pytest.mark.parametrize("kind", SECRETS)
def test_a_secret_is_named_by_kind_and_masked(kind):
    text = f"use https{SECRETS[kind]} please" if kind == "password in a URL" else f"use {SECRETS[kind]} please"
    assert secret_in(text) == kind
    assert SECRETS[kind] not in redacted(text)
    assert f"[{kind}]" in redacted(text) and redacted(text).endswith(" please" if "://" not in text else "please")
    assert secret_in(redacted(text)) is None


@pytest.mark.parametrize(
    "text",
    [
        "a risk-assessment-of-everything",
        "https://example.org/a:b@c",
        "hf_short",
        "shelf_" + "a" * 30,
        "10:30 ann@example.org",
    ],
)
def test_ordinary_text_is_left_alone(text):
    assert secret_in(text) is None
    assert redacted(text) == text


@pytest.mark.parametrize("user", [":pa55", "ann:p@ss", "ann:pa:ss"])
def test_a_password_in_a_url_is_whatever_stands_before_the_host(user):
    assert redacted(f"redis://{user}@host/0") == "redis[password in a URL]host/0"


def test_an_address_names_nobody():
    assert address("https://t0ken@host:5000/mlflow") == "https://host:5000/mlflow"
    assert address("http://ann:p@ss@host") == "http://host"
    assert address("sqlite:////a/b.db") == "sqlite:////a/b.db"


WORD = "Tr0ub4dor&3"


@pytest.mark.parametrize(
    ("name", "value", "hidden"),
    [
        ("AWS_SECRET_ACCESS_KEY", "wJalrXUtnFEMI/K7MDENG", "wJalrXUtnFEMI/K7MDENG"),
        ("ANYTHING", WORD, WORD),
        ("MLFLOW_TRACKING_URI", f"https://ann:{WORD}@host/mlflow", WORD),
        ("PREFLOW_HOME", f"ssh://{WORD}@host/store", WORD),  # an address has it, whatever its variable is called
        ("PREFECT_API_URL", "http://127.0.0.1:4200/api", None),
        ("PYTHONPATH", "/nowhere/at/all:/here", None),
        ("PROJECT", "/", None),
        ("BUILD", "20261130.0415", None),
        ("STAGE", "release", None),  # too short to be told from a word
    ],
)
def test_of_the_environment_only_what_is_known_to_be_harmless_is_shown(name, value, hidden):
    assert list(hidden_in({name: value})) == ([(hidden, name)] if hidden else [])


def test_a_line_of_a_log_has_neither(monkeypatch):
    monkeypatch.setenv("STORE_PASSWORD", WORD)
    redact._hidden.cache_clear()
    try:
        said = logged(f"store said no to {WORD}, and to {SECRETS['GitHub token']}")
    finally:
        redact._hidden.cache_clear()
    assert said == "store said no to [$STORE_PASSWORD], and to [GitHub token]"


def test_values_of_json_are_masked_however_deep():
    token = SECRETS["Hugging Face token"]
    assert masked_value({"a": [(token, 1)], token: None}) == {
        "a": [["[Hugging Face token]", 1]], "[Hugging Face token]": None
    }  # fmt: skip
