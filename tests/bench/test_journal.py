"""`python -m bench.journal`, which watches a stage through its log, and so breaks where that changes."""

import pytest

from bench import journal


@pytest.mark.slow
def test_of_a_step_little_goes_into_saying_what_it_came_to() -> None:
    stage, calls, each, share = journal.measured("sft")
    assert stage == "sft" and int(calls) > 50 and float(each) > 0
    assert 0 < float(share.removesuffix("%")) < 1
