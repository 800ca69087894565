"""What the load generator of the benchmarks says, and what is made of it."""

from __future__ import annotations

import pytest

from tests.benchmarks.contender import Failed
from tests.benchmarks.load import Load, load_from

SAID = '{"duration": 2000000, "requests": 900, "refused": 100, "broken": 7, "p50": 1500, "p99": 80000}'


def test_only_good_answers_count_as_requests_per_second_and_all_others_as_errors() -> None:
    assert load_from(f"Running 2s test\nRequests/sec: 450.00\n{SAID}\n") == Load(900, 400.0, 0.0015, 0.08, 107)


@pytest.mark.parametrize("output", ["", "Requests/sec: 450.00", "[]", '{"requests": 1}', SAID.replace("2000000", "0")])
def test_an_output_without_figures_is_a_failure(output: str) -> None:
    with pytest.raises(Failed, match="did not say"):
        load_from(output)


def test_a_server_that_refuses_everything_has_failed_however_fast_it_was() -> None:
    with pytest.raises(Failed, match="107 errors"):
        load_from(SAID.replace("900", "100"))
