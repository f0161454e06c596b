"""Ctrl-C while the main thread is in the middle of anything."""

import signal

import pytest

from flows.stopping import stoppable
from rlhf.errors import Preempted
from rlhf.interruption import Stopped


def test_no_library_takes_a_stop_for_a_failure_of_its_own() -> None:
    """`threading.Thread.start` does, with whatever is an Exception, and its new thread then dies of a KeyError."""
    before = signal.getsignal(signal.SIGINT)
    with pytest.raises(Stopped, match="stopped; the same command starts over") as stop:
        _work_and_be_stopped()
    assert stop.value.exit_code == Preempted.exit_code
    assert signal.getsignal(signal.SIGINT) is before


def _work_and_be_stopped() -> None:
    with stoppable():
        try:
            signal.raise_signal(signal.SIGINT)
        except Exception:
            pytest.fail("taken for a failure")
