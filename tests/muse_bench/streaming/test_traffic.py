"""What crosses the link in a step, by hand from the sizes of what is kept in host memory."""

import dataclasses

import pytest
import torch

from muse_bench.config import Case, Mode, Sizes
from muse_bench.models.presets import PRESETS
from muse_bench.streaming.lane import Lane
from muse_bench.streaming.page import Page
from muse_bench.streaming.ring import Ring
from muse_bench.streaming.traffic import Traffic, counted, to_device, to_host
from muse_bench.workload import Workload, build_workload

BATCH, SEQ, VOCAB, NEW = 3, 24, 301, 5
SIZES = Sizes(vocab_size=VOCAB, d_model=32, n_layers=3, n_heads=2, seq_len=SEQ + NEW)
PRESET = PRESETS["muse"]


def build(mode: Mode, device: str = "meta", vocab: int = VOCAB) -> Workload:
    case = Case(
        model="muse",
        config=dataclasses.replace(PRESET.configure(SIZES), n_heads=2, vocab_size=vocab),
        mode=mode,
        dtype="bf16",
        batch=BATCH,
        seq=SEQ,
        vocab_size=vocab,
        optimizer="sgd",  # no state
        update="in-backward" if mode == "train" else "after",
        new_tokens=NEW,
    )
    return build_workload(case, torch.device(device))


def pages(work: Workload) -> list[int]:
    return [page.size_bytes for page in work.model._weights.pages]


def table_bytes(work: Workload) -> int:
    return work.model.head.up.weight.nbytes


def both(traffic: Traffic | None) -> tuple[int, int]:
    assert traffic is not None
    return traffic.to_device_bytes, traffic.to_host_bytes


@pytest.mark.parametrize("device", ["meta", "cpu"])
@pytest.mark.parametrize("vocab", [VOCAB, 40 * VOCAB])
def test_training_takes_weights_in_twice_and_out_once_with_the_checkpoints(vocab: int, device: str) -> None:
    """A copy that is not counted, or counted only where there are values."""
    work = build("train", device, vocab)
    for _ in range(2):
        work.step()
    weights, table = sum(pages(work)), table_bytes(work)
    fits = table <= 2 * max(pages(work))  # the table then lies where weights take turns, which they have left
    assert fits == (vocab == VOCAB)
    here = 0 if fits else sum(pages(work)[-2:])  # in both slots at the turn from forward to backward
    row = work.model.head.up.weight.shape[1] * 2
    checkpoints = len(pages(work)) * BATCH * SEQ * 32 * 2
    rounded = -(-table // 512) * 512
    assert both(work.traffic) == (
        2 * weights - here + rounded + BATCH * SEQ * row + checkpoints,
        weights + table + checkpoints,
    )


def test_optimizer_state_crosses_both_ways() -> None:
    """State that stays on the device after the first step would cross neither way."""
    plain = build("train")
    with_state = build_workload(dataclasses.replace(plain.case, optimizer="adamw"), torch.device("meta"))
    for work in (plain, with_state):
        for _ in range(3):
            work.step()
    of_parts = sum(page.size_bytes for page in with_state.model._weights._state_pages.values())
    of_table = 2 * table_bytes(with_state)  # two moments, in the weights' dtype
    assert of_parts >= 2 * sum(pages(with_state))
    assert both(with_state.traffic)[1] - both(plain.traffic)[1] == of_parts + of_table


def test_a_new_token_takes_every_weight_in_once() -> None:
    work = build("decode")
    work.step()
    row = work.model.head.up.weight.shape[1] * 2
    assert work.new_token_bytes == sum(pages(work)) + table_bytes(work) + BATCH * row
    assert both(work.traffic)[0] == NEW * (sum(pages(work)) + table_bytes(work)) + BATCH * (SEQ + NEW - 1) * row
    assert both(work.traffic)[1] == 0


def test_a_model_on_the_device_crosses_nothing() -> None:
    work = build("inference")
    work.case = dataclasses.replace(work.case, config=dataclasses.replace(work.case.config, weights="device"))
    work = build_workload(work.case, torch.device("meta"))
    work.step()
    assert both(work.traffic) == (0, 0)


def test_a_page_that_is_there_already_does_not_cross_again() -> None:
    ring = Ring([Page([torch.zeros(5)]) for _ in range(3)], Lane(torch.device("cpu")), Lane(torch.device("cpu")))
    ring.begin(2)
    with counted() as traffic:
        for index, keep in ((0, False), (1, True), (0, False), (2, False)):
            with ring.lend(index, None, keep=keep):
                pass
    assert both(traffic) == (3 * 512, 512)


def test_those_who_ask_inside_one_another_each_get_their_own() -> None:
    with counted() as outer:
        to_device(1)
        with counted() as inner:
            to_host(2)
        to_device(4)
    to_host(8)
    assert (both(outer), both(inner)) == ((5, 2), (0, 2))
