"""Sharded cases predicted: each rank's parts to the byte, by hand from the shapes of the weights."""

import math

import pytest
import torch

from muse_bench.errors import UsageError
from muse_bench.execution.prediction import predicted_values
from muse_bench.models.language_model import LanguageModel
from muse_bench.sharding.group import imagined

SMALLEST_BLOCK = 512
FLOAT = 4


def block_bytes(numbers):
    """What the allocator takes for so many float32."""
    return -(-numbers * FLOAT // SMALLEST_BLOCK) * SMALLEST_BLOCK


def shapes(case):
    with torch.device("meta"):
        return {name: tuple(one.shape) for name, one in LanguageModel(case.config).named_parameters()}


def padded(shape, ranks):
    """Rows of a shard, filled up to those of the first, times their width."""
    return -(-shape[0] // ranks) * math.prod(shape[1:])


def rows_of(rank, shape, ranks):
    each = -(-shape[0] // ranks)
    return max(0, min(each, shape[0] - rank * each))


@pytest.fixture(scope="module", params=[2, 4])
def fully_sharded(request, make_case, predict):
    case = make_case(sharding="fsdp", ranks=request.param)
    return case, predict(case)


def test_each_rank_holds_its_shards_and_the_state_of_those(fully_sharded):
    """Shards are filled up to equal rows, their moments are not: the last rank has fewer of 97 words."""
    case, found = fully_sharded
    assert list(found["of_ranks"]) == [0, case.ranks - 1]
    for rank, values in found["of_ranks"].items():
        moments = [
            block_bytes(rows_of(rank, shape, case.ranks) * math.prod(shape[1:])) for shape in shapes(case).values()
        ]
        assert values["ledger"]["optimizer_state"] == 2 * sum(moments)
    state = [values["ledger"]["optimizer_state"] for values in found["of_ranks"].values()]
    assert state[0] > state[-1]
    assert found["steady_peak_allocated_bytes"] == max(
        values["steady_peak_allocated_bytes"] for values in found["of_ranks"].values()
    )


def test_gathered_weights_are_parameters_beside_the_shards(fully_sharded):
    """At the peak, in the backward of the last block: the outermost weights, that block, and no other block."""
    case, found = fully_sharded
    gathered = [
        block_bytes(padded(shape, case.ranks) * case.ranks)
        for name, shape in shapes(case).items()
        if not name.startswith("blocks.0.")
    ]
    shards = [block_bytes(padded(shape, case.ranks)) for shape in shapes(case).values()]
    assert found["ledger"]["parameters"] == sum(shards) + sum(gathered)


def test_collectives_are_communication_and_nothing_is_without_a_name(fully_sharded):
    _, found = fully_sharded
    for values in found["of_ranks"].values():
        ledger = values["ledger"]
        assert ledger["communication"] > 0
        assert ledger["unattributed"] == 0
        assert sum(ledger.values()) == values["steady_peak_allocated_bytes"]
    assert {row["module"] for row in found["modules"] if row["ledger"]["communication"]} == {"(communication)"}


def test_gradients_of_a_block_are_named_before_they_are_reduced(fully_sharded):
    """Whole ones of the block whose backward runs; without the naming they were temporary activations."""
    case, found = fully_sharded
    largest = max(block_bytes(math.prod(shape)) for name, shape in shapes(case).items() if "blocks.1" in name)
    assert found["ledger"]["gradients"] >= largest


def test_replicas_hold_everything_and_buckets_for_all_gradients(make_case, predict):
    """The buckets are made for backward's order in the second step, in the place of those of the first."""
    case = make_case(sharding="replicas", ranks=2)
    alone, found = predict(make_case()), predict(case)
    parameters = sum(block_bytes(math.prod(shape)) for shape in shapes(case).values())
    numbers = FLOAT * sum(math.prod(shape) for shape in shapes(case).values())
    ledger = found["ledger"]
    assert ledger["parameters"] == alone["ledger"]["parameters"] == parameters
    assert ledger["optimizer_state"] == alone["ledger"]["optimizer_state"]
    assert numbers <= ledger["communication"] < numbers + 4 * SMALLEST_BLOCK * len(shapes(case))
    assert ledger["unattributed"] == 0
    assert sum(ledger.values()) == found["steady_peak_allocated_bytes"]


def test_inference_has_no_buckets(make_case, predict):
    found = predict(make_case(sharding="replicas", ranks=2, mode="inference"))
    assert found["ledger"]["communication"] == 0


def test_a_cut_that_leaves_the_last_rank_less_is_followed(make_case, predict):
    """97 columns of the head in parts of 25 and 22: the last rank was traced with the sizes of the first."""
    found = predict(make_case(sharding="tensor", ranks=4))["of_ranks"]
    kept = [found[rank]["ledger"]["optimizer_state"] // 2 for rank in (0, 3)]
    parts = (32, 32, 1)  # the table's and the head's rows, and the head's bias
    assert kept[0] - kept[1] == sum(block_bytes(25 * width) - block_bytes(22 * width) for width in parts)


@pytest.mark.parametrize("sharding", ["fsdp", "tensor"])
def test_the_ranks_that_are_not_traced_lie_between(make_case, sharding):
    case = make_case(sharding=sharding, ranks=4)
    peaks = []
    for rank in range(case.ranks):
        with imagined(rank, case.ranks):
            peaks.append(predicted_values(case, lambda _: None)[0]["steady_peak_allocated_bytes"])
    assert peaks == sorted(peaks, reverse=True)


def test_a_plan_is_followed(make_case, predict):
    """Half of `up` and of `down`; the bias of `down`, the table and the head stay whole."""
    found = predict(make_case("Planned", sharding="tensor", ranks=2))
    whole = (97 * 32, 32, 97 * 32, 97)
    cut = (256 * 32 // 2, 256 // 2, 32 * 256 // 2)
    kept = sum(map(block_bytes, (*whole, *cut)))
    assert found["ledger"]["parameters"] == kept
    assert found["ledger"]["optimizer_state"] == 2 * kept
    assert sum(found["ledger"].values()) == found["steady_peak_allocated_bytes"]


@pytest.mark.parametrize(
    ("factory", "said"), [("Unplanned", "offers no plan for tensor parallelism"), ("Strange", "has sideways")]
)
def test_a_plan_that_cannot_be_followed_is_refused(make_case, predict, factory, said):
    with pytest.raises(UsageError, match=said) as refused:
        predict(make_case(factory, sharding="tensor", ranks=2))
    assert "\n" not in str(refused.value)
    assert "choose --fsdp" in str(refused.value)
