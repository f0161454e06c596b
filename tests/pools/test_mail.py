"""Parcels: what a stage says arrives once, in order, where it belongs, and nowhere else."""

import hashlib
import io
import tarfile
from pathlib import Path, PurePosixPath

import pytest

from flows.pools.exchange import Exchange
from flows.pools.mail import Attempts, Inbox, Outbox
from rlhf.errors import PreflowError


@pytest.fixture
def exchange(tmp_path: Path) -> Exchange:
    return Exchange(str(tmp_path / "exchange"))


def attempts(tmp_path: Path) -> Attempts:
    return Attempts(tmp_path / "here", tmp_path / "reports", "rl")


def test_a_growing_journal_arrives_as_it_is_there(tmp_path: Path, exchange: Exchange) -> None:
    there = tmp_path / "there" / "rl-1"
    there.mkdir(parents=True)
    journal, picture = there / "events.jsonl", there / "files" / "plot.png"
    picture.parent.mkdir()
    outbox = Outbox(exchange, "mail/rl", {"journal": tmp_path / "there"})
    inbox = Inbox(exchange, "mail/rl", attempts(tmp_path).place)
    sizes = []
    for text in ("one\n", "one\ntw", "one\ntwo\nthree\n"):
        journal.write_text(text)
        picture.write_bytes(text.encode() * 100)
        outbox.post()
        outbox.post()  # nothing is new: nothing is sent
        sizes.append(len(exchange.names("mail/rl")))
        assert inbox.take() is None
        assert (tmp_path / "here/rl-1/events.jsonl").read_text() == text
        assert (tmp_path / "here/rl-1/files/plot.png").read_bytes() == picture.read_bytes()
    assert sizes == [1, 2, 3]
    outbox.post({"it": "ran"})
    assert inbox.take() == {"it": "ran"}


def test_attempts_get_numbers_of_their_own_and_one_log(tmp_path: Path, exchange: Exchange) -> None:
    for number, words in ((1, "first\n"), (2, "second\n")):
        there = tmp_path / f"host-{number}"
        (there / "rl-1").mkdir(parents=True)
        (there / "rl-1/events.jsonl").write_text(words)
        (there / "rl.log").write_text(words)
        (there / "sft.log").write_text("of another stage\n")
        Outbox(exchange, f"mail/{number}", {"journal": there}).post({})
        Inbox(exchange, f"mail/{number}", attempts(tmp_path).place).take()
    assert (tmp_path / "here/rl-1/events.jsonl").read_text() == "first\n"
    assert (tmp_path / "here/rl-2/events.jsonl").read_text() == "second\n"
    assert (tmp_path / "here/rl.log").read_text() == "first\nsecond\n"
    assert not (tmp_path / "here/sft.log").exists()


def test_half_a_parcel_is_none_yet(tmp_path: Path, exchange: Exchange) -> None:
    Outbox(exchange, "mail/rl", {}).post({"it": "ran"})
    whole = exchange.get("mail/rl/000000")
    assert whole
    exchange.put("mail/rl/000000", whole[:-1])
    inbox = Inbox(exchange, "mail/rl", attempts(tmp_path).place)
    assert inbox.take() is None
    exchange.put("mail/rl/000000", whole)
    assert inbox.take() == {"it": "ran"}


@pytest.mark.parametrize("name", ["journal/../../evil", "/etc/evil", "journal/rl-1/../../../evil"])
def test_a_parcel_cannot_write_elsewhere(tmp_path: Path, exchange: Exchange, name: str) -> None:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w:gz") as tar:
        tar.addfile(tarfile.TarInfo(name), io.BytesIO())
    data = buffer.getvalue()
    exchange.put("mail/rl/000000", hashlib.sha256(data).digest() + data)
    with pytest.raises(PreflowError, match="which is no file of a stage"):
        Inbox(exchange, "mail/rl", attempts(tmp_path).place).take()


def test_a_link_is_no_file_of_a_stage(tmp_path: Path, exchange: Exchange) -> None:
    buffer = io.BytesIO()
    link = tarfile.TarInfo("journal/rl-1/events.jsonl")
    link.type, link.linkname = tarfile.SYMTYPE, "/etc/passwd"
    with tarfile.open(fileobj=buffer, mode="w:gz") as tar:
        tar.addfile(link)
    data = buffer.getvalue()
    exchange.put("mail/rl/000000", hashlib.sha256(data).digest() + data)
    with pytest.raises(PreflowError, match="which is no file of a stage"):
        Inbox(exchange, "mail/rl", attempts(tmp_path).place).take()


@pytest.mark.parametrize("name", ["journal/rl/events.jsonl", "journal/rl-0/events.jsonl", "other/rl-1/x", "journal"])
def test_what_belongs_nowhere_is_left(tmp_path: Path, name: str) -> None:
    assert attempts(tmp_path).place(PurePosixPath(name)) is None
