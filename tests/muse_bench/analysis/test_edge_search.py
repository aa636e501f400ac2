"""The largest count that fits: found exactly, with few predictions, whatever memory does on the way."""

import dataclasses

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from muse_bench.analysis.edge_search import Search
from muse_bench.analysis.frontier import Budget
from muse_bench.record import Record

MIB = 1 << 20
LARGEST = 65_536
BUDGETS = tuple(Budget(budget_bytes=size << 30, headroom=0.1) for size in (8, 12, 16, 24))


def measure(reserved, *, fails_from=None, **options):
    """A search over a function from a count to reserved MiB, beside 200 MiB of context; and the counts it asked for."""
    asked = []

    def predict(count):
        asked.append(count)
        record = Record(
            model="ultra",
            config={},
            mode="train",
            dtype="fp16",
            batch=count,
            seq=1,
            status="ok",
            provenance="predicted",
            context_source="measured: by hand",
        )
        if fails_from is not None and count >= fails_from:
            return dataclasses.replace(record, status="crashed", reason="timed out after 9 s")
        size = int(reserved(count) * MIB)
        return dataclasses.replace(record, peak_reserved_bytes=size, device_peak_bytes=size + 200 * MIB)

    return Search(predict, **{"start": 1, "largest": LARGEST, **options}), asked


def truth(reserved, budget, largest=LARGEST):
    """The largest count whose upper bound fits, by trying all."""
    fitting = (c for c in range(1, largest + 1) if int(int(reserved(c) * MIB) * 1.08) + 216 * MIB <= budget.limit_bytes)
    return max(fitting, default=0)


SHAPES = {
    "a line": lambda n: 300 + 10 * n,
    "a steep line": lambda n: 2_000 + 2_700 * n,
    "flat, then a line": lambda n: max(1_800, 900 + 131 * n),
    "in steps of 20": lambda n: 300 + 20 * ((n * 7) // 20),
    "a square": lambda n: 500 + 0.01 * n * n,
    "a root": lambda n: 500 + 150 * n**0.5,
    "larger from the first": lambda n: 90_000 + n,
}


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("start", [1, 12, 5_000])
def test_every_edge_is_exact_and_no_count_is_predicted_twice(shape, start):
    reserved = SHAPES[shape]
    search, asked = measure(reserved, start=start)
    assert [search.edge(budget).count for budget in BUDGETS] == [truth(reserved, budget) for budget in BUDGETS]
    assert len(asked) == len(set(asked))


@pytest.mark.parametrize("shape", ["a line", "flat, then a line", "in steps of 20"])
def test_few_predictions_serve_four_budgets(shape):
    """Doubling and halving alone would take over fifty for the line."""
    search, asked = measure(SHAPES[shape])
    for budget in BUDGETS:
        search.edge(budget)
    assert len(asked) <= 24


@settings(deadline=None)
@given(st.lists(st.integers(0, 400), min_size=1, max_size=200), st.integers(1, 200), st.integers(1, 20))
def test_any_growth_is_followed(growth, start, scale):
    sizes = [0]
    for more in growth:
        sizes.append(sizes[-1] + more * scale)
    search, _ = measure(lambda n: sizes[n], start=start, largest=len(growth))
    for budget in BUDGETS:
        assert search.edge(budget).count == truth(lambda n: sizes[n], budget, len(growth))


def test_the_edge_passes_and_the_next_does_not():
    search, asked = measure(SHAPES["a line"])
    edge = search.edge(BUDGETS[0])
    assert edge.record.batch == edge.count
    assert edge.record.verdict == "PASS"
    assert edge.record.limit_bytes == BUDGETS[0].limit_bytes
    assert edge.beyond == edge.count + 1
    assert edge.beyond in asked


@pytest.mark.parametrize("shape", SHAPES)
def test_an_edge_within_a_tolerance_takes_fewer_predictions(shape):
    exact, asked_exactly = measure(SHAPES[shape])
    near, asked = measure(SHAPES[shape], tolerance=0.01)
    for budget in BUDGETS:
        edge, found = exact.edge(budget), near.edge(budget)
        assert found.count <= edge.count < found.beyond
        assert found.beyond - found.count <= max(1, found.count // 100)
    assert len(asked) <= len(asked_exactly)


def test_nothing_that_fits_shows_what_the_least_takes():
    search, _ = measure(lambda n: 8_000 + 100 * n, start=4)
    edge = search.edge(BUDGETS[0])
    assert (edge.count, edge.beyond, edge.record.batch, edge.record.verdict) == (0, 1, 1, "FAIL")


def test_what_fits_to_the_end_of_the_search_may_go_on():
    search, asked = measure(lambda n: 100 + n / 1_000, largest=1_000)
    edge = search.edge(BUDGETS[0])
    assert (edge.count, edge.is_least, edge.reason) == (1_000, True, None)
    assert len(asked) <= 6


def test_a_prediction_that_fails_ends_the_search_at_what_is_known():
    """A trace that takes too long takes no less for the next budget."""
    search, asked = measure(SHAPES["a line"], fails_from=40)
    edges = [search.edge(budget) for budget in BUDGETS]
    assert all(edge.is_least and edge.reason == "timed out after 9 s" for edge in edges)
    assert all(0 < edge.count < 40 for edge in edges)
    assert sum(count >= 40 for count in asked) == 1


def test_a_model_of_which_nothing_can_be_predicted():
    search, asked = measure(SHAPES["a line"], fails_from=1)
    edges = [search.edge(budget) for budget in BUDGETS]
    assert all((edge.count, edge.record) == (0, None) and edge.is_least and edge.reason for edge in edges)
    assert asked == [1]


def test_a_size_that_fits_again_beyond_the_edge_is_told():
    """Two of the counts that the first budget asks for lie beyond the second's hump."""
    search, _ = measure(lambda n: 9_000 if 10 <= n <= 20 else 100 + n, start=30)
    assert search.edge(BUDGETS[2]).count >= 30
    search.samples |= {15: search._predict(15)}
    edge = search.edge(BUDGETS[0])
    assert edge.count < 15
    assert 30 in edge.passes_again


def test_sizes_of_another_parity_that_fit_beyond_the_edge_are_told():
    """Where even counts leave a gap in the allocator's segments, odd ones may fit."""
    search, _ = measure(lambda n: 300 + 10 * n + 800 * (n % 2 == 0))
    edge = search.edge(BUDGETS[0])
    assert edge.passes_again == (edge.count + 2,)


@pytest.mark.parametrize("shape", ["a line", "a square"])
def test_no_guess_leaps_too_far(shape):
    """Deep models take long to trace."""
    search, asked = measure(SHAPES[shape], leap=4)
    search.edge(BUDGETS[3])
    largest = 1
    for count in asked[1:]:
        assert count <= 4 * largest
        largest = max(largest, count)


def on_host(reserved, host, **options):
    """As `measure`, with MiB of host memory by count."""
    search, asked = measure(reserved, **options)
    predict = search._predict
    search._predict = lambda count: dataclasses.replace(predict(count), host_bytes={"weights": int(host(count) * MIB)})
    return search, asked


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize(("start", "least"), [(1, 1), (987, 13), (40_000, 4_301)])
def test_counts_of_two_digits_are_tried_and_the_best_of_them_is_found(shape, start, least):
    reserved = SHAPES[shape]
    search, asked = measure(reserved, start=start, least=least, digits=2)
    two_digits = [n for n in range(least, LARGEST + 1) if n % 10 ** max(0, len(str(n)) - 2) == 0]
    for budget in BUDGETS:
        fitting = [n for n in two_digits if truth(lambda _, n=n: reserved(n), budget, 1)]
        assert search.edge(budget).count == max(fitting, default=0)
    assert set(asked) <= set(two_digits)
    assert len(asked) == len(set(asked))


def test_where_the_least_count_does_not_fit_there_is_no_more_to_try():
    search, asked = measure(lambda n: 8_000 + 100 * n, start=40, least=13, digits=2)
    edge = search.edge(BUDGETS[0])
    assert (edge.count, edge.beyond, edge.is_least) == (0, 13, False)
    assert min(asked) == 13


def test_host_memory_ends_what_the_device_would_still_take():
    """2 MiB a count in 16 GiB: 8,192, of which the device knows nothing."""
    search, asked = on_host(lambda n: 300 + n / 1_000, lambda n: 2 * n)
    edge = search.edge(Budget(budget_bytes=8 << 30, headroom=0.1, host_bytes=16 << 30))
    assert (edge.count, edge.beyond) == (8_192, 8_193)
    assert len(asked) <= 12
