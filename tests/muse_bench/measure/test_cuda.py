"""What a step's time is divided into."""

import pytest

from muse_bench.config import Case
from muse_bench.measure.cuda import decode_speeds


def test_the_prompt_has_its_own_time_and_gives_the_first_new_token():
    """A rate over the whole step would count the prompt's time against generation."""
    found = decode_speeds(Case(model="ultra", config=None, mode="decode", batch=2, new_tokens=5), 0.9, 0.1)
    assert found == pytest.approx({"prefill_seconds": 0.1, "new_token_seconds": 0.2, "tokens_per_second": 10.0})


@pytest.mark.parametrize(("new_tokens", "step"), [(1, 0.9), (5, 0.1)])
def test_a_rate_that_cannot_be_had_is_missing(new_tokens, step):
    """One token comes with the prompt; and a step is not shorter than its prompt but by noise."""
    found = decode_speeds(Case(model="ultra", config=None, mode="decode", new_tokens=new_tokens), step, 0.1)
    assert found == {"prefill_seconds": 0.1, "new_token_seconds": None, "tokens_per_second": None}
