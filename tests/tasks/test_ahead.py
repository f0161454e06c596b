"""Modules that are imported ahead: in another thread, and an error is left to who uses them."""

import sys
import threading
from pathlib import Path
from types import SimpleNamespace

import pytest

from tasks.ahead import import_ahead


def test_modules_are_imported_in_their_order_in_another_thread(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    told = SimpleNamespace(order=[], done=threading.Event(), threads=set())
    monkeypatch.setitem(sys.modules, "told_of_imports", told)  # type: ignore[arg-type]
    monkeypatch.syspath_prepend(tmp_path)
    head = "import threading\nfrom told_of_imports import done, order, threads\n"
    for name, last in (("ahead_one", ""), ("ahead_two", "done.set()\n")):
        body = f"order.append({name!r})\nthreads.add(threading.current_thread())\n"
        (tmp_path / f"{name}.py").write_text(head + body + last)
    import_ahead("ahead_one", "ahead_two")
    assert told.done.wait(30)
    assert told.order == ["ahead_one", "ahead_two"]
    assert threading.main_thread() not in told.threads


def test_what_goes_wrong_is_left_to_who_uses_it(monkeypatch: pytest.MonkeyPatch) -> None:
    failed: list[object] = []
    monkeypatch.setattr(threading, "excepthook", failed.append)
    begun = set(threading.enumerate())
    import_ahead("no_module_of_this_name")
    for thread in set(threading.enumerate()) - begun:
        thread.join(30)
    assert failed == []
