import pytest

from tasks.redact import address, redacted, secret_in

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
