"""Which records answer a question, and which of several that do."""

import dataclasses
import math

import pytest

from muse_bench.analysis.claims.question import Question
from muse_bench.quality.record import CorpusFacts, QualityRow, QualityRun, TokenizerFacts
from muse_bench.record import Environment

MEASURED = {"provenance": "measured", "gpu": "NVIDIA H200"}
OFF = {**MEASURED, "workspace_setting": "off"}


def changed_config(record, **changes):
    return dataclasses.replace(record, config={**record.config, **changes})


def test_a_record_of_the_case_answers(question, answer_to):
    """A question so strict that its own case does not answer it."""
    assert question.is_answered_by(answer_to(question))
    assert question.is_answered_by(answer_to(question, **OFF))


@pytest.mark.parametrize(
    "other",
    [
        {"model": "tuned"},
        {"mode": "forward-backward"},
        {"batch": 1},
        {"seq": 32},
        {"logits": "last"},
        {"micro_batch": 1},
        {"optimizer": "adamw-fused"},
        {"optimizer": None},
        {"dtype": "fp16"},
        {"autocast": "bf16"},
    ],
    ids=lambda other: next(iter(other)),
)
def test_a_record_of_another_case_does_not(question, answer_to, other):
    """A claim settled by a record of something else: half the batch, no optimizer, or half the bytes a value."""
    assert not question.is_answered_by(dataclasses.replace(answer_to(question), **other))


@pytest.mark.parametrize("size", ["vocab_size", "d_model", "n_layers"])
def test_a_record_of_other_sizes_does_not(question, answer_to, size):
    """A model of the same name at another width, depth or vocabulary."""
    assert not question.is_answered_by(changed_config(answer_to(question), **{size: 7}))
    assert not question.is_answered_by(answer_to(question, config={}))


def test_the_optimizer_is_the_presets_unless_one_is_named(question, answer_to):
    """AdamW asked for of a preset that has its own; none taken for any."""
    fused, none = dataclasses.replace(question, model="tuned"), dataclasses.replace(question, optimizer="none")
    assert fused.is_answered_by(answer_to(fused, optimizer="adamw-fused"))
    assert not fused.is_answered_by(answer_to(fused, optimizer="adamw"))
    assert none.is_answered_by(answer_to(none, optimizer="none"))
    assert none.is_answered_by(answer_to(none, optimizer=None))
    assert not none.is_answered_by(answer_to(none, optimizer="adamw"))


def test_outside_of_training_no_optimizer_is_compared(question, answer_to):
    """A forward pass refused since its record has no optimizer, as it should not."""
    reading = dataclasses.replace(question, mode="inference")
    assert reading.is_answered_by(answer_to(reading, optimizer=None))


def test_a_dtype_in_the_name_is_part_of_the_model(question, answer_to):
    """The variant in half precision refused, since its preset is in full."""
    half = question.of("baseline+dtype=fp16")
    assert half.is_answered_by(answer_to(half))
    assert not half.is_answered_by(answer_to(half, dtype="fp32"))


def test_a_model_of_a_factory_has_no_sizes_to_compare(question, answer_to):
    """What has no preset looked up among the presets."""
    table = question.of("muse_bench.models.tables:dense_10000")
    assert table.is_answered_by(answer_to(table))
    assert not table.is_answered_by(answer_to(table, batch=1))


def test_records_of_two_files_or_of_two_settings_are_no_pair(question, answer_to, known):
    """A reduction between two machines, or between a peak with workspaces and one without."""
    other = question.of("ultra")
    ours, theirs = answer_to(question, **OFF), answer_to(other, **OFF)
    with_workspaces = answer_to(other, **MEASURED)
    assert known(saved=[[ours], [theirs]]).best([question, other]) is None
    assert known(saved=[[ours, with_workspaces]]).best([question, other]) is None
    assert known(ours, saved=[[theirs]]).best([question, other]) is None
    assert known(saved=[[ours], [ours, theirs]]).best([question, other]).records == (ours, theirs)


def test_best_is_measured_without_workspaces_then_with_then_this_run(question, answer_to, known):
    """A prediction shown where a measurement is at hand, or workspaces of a library counted as the model's."""
    run, on, off = answer_to(question), answer_to(question, **MEASURED), answer_to(question, **OFF)
    assert known(run, saved=[[on], [off]]).best([question]).records == (off,)
    assert known(run, saved=[[on, off]]).best([question]).records == (off,)
    found = known(run, saved=[[on]]).best([question])
    assert (found.records, found.origin) == ((on,), "measured, NVIDIA H200")
    assert known(run).best([question]).origin == "predicted, NVIDIA GeForce RTX 4060"
    assert known().best([question]) is None
    assert known(run).best([]) is None


def test_asked_takes_this_run_alone(question, answer_to, known):
    """Their protocol on the GPU that was asked for answered with a saved record of another GPU."""
    run, on = answer_to(question), answer_to(question, **MEASURED)
    assert known(run, saved=[[on]]).asked([question]).records == (run,)
    assert known(saved=[[on]]).asked([question]) is None
    assert known(run).asked([question, question.of("ultra")]) is None


def test_times_are_this_runs_or_else_saved_ones(question, answer_to, known):
    """A prediction, which has no times, standing in the way of times that were measured."""
    run, timed = answer_to(question), answer_to(question, **MEASURED, step_time_seconds=0.5)
    untimed = answer_to(question, **OFF)
    assert known(run, saved=[[untimed], [timed]]).timed([question]).records == (timed,)
    assert known(timed, saved=[[dataclasses.replace(timed, gpu="other")]]).timed([question]).records == (timed,)
    assert known(run, saved=[[untimed]]).timed([question]) is None


@pytest.mark.parametrize("status", ["oom", "crashed", "skipped"])
def test_what_did_not_run_is_no_evidence(question, answer_to, known, status):
    """The peak that a case had reached when it crashed taken for its peak."""
    broken, whole = answer_to(question, **OFF, status=status), answer_to(question, **OFF)
    assert known(broken, saved=[[broken]]).best([question]) is None
    assert known(broken).asked([question]) is None
    assert known(saved=[[broken, whole]]).best([question]).records == (whole,)


def test_the_largest_that_was_trained_with_its_weights_in_host_memory(make_record, known):
    """A model that only read a prompt, ran out of memory, or went over its budget: its size was not reached."""
    seven = make_record("streamed", **MEASURED, parameters=7, verdict="PASS")
    others = [
        dataclasses.replace(seven, parameters=3),
        dataclasses.replace(seven, parameters=100, mode="inference"),
        dataclasses.replace(seven, parameters=200, status="oom"),
        dataclasses.replace(seven, parameters=300, verdict="FAIL"),
        dataclasses.replace(seven, parameters=400, model="muse"),
    ]
    assert known(saved=[others, [seven]]).streamed() == seven
    assert known(seven).streamed() is None  # a prediction of this run is none
    assert known(saved=[others[1:]]).streamed() is None


ROW = QualityRow(
    model="baseline",
    config={"vocab_size": 300},
    stage="final",
    seed=0,
    lr=1e-3,
    tokens=1_000,
    pool_tokens=1_000,
    batch=4,
    seq=16,
    dtype="fp32",
    optimizer="adamw",
)
ULTRA = dataclasses.replace(ROW, model="ultra", dtype="bf16")


def trained(*rows, sha256="a", gpu="NVIDIA H200"):
    facts = {"files": 1, "train_files": 1, "train_bytes": 1, "validation_bytes": 1}
    return QualityRun(
        environment=Environment(muse_bench="0.1.0", gpu=gpu),
        corpus=CorpusFacts(source="text", sha256=sha256, **facts),
        tokenizer=TokenizerFacts(vocab=300, words=300, sha256="b"),
        rows=rows,
    )


def ended(row, *losses, **changes):
    """A run a seed, which ended with this loss."""
    return [dataclasses.replace(row, seed=seed, validation_loss=loss, **changes) for seed, loss in enumerate(losses)]


def perplexities(known, *runs):
    found = known(trained=tuple(runs)).perplexities("ultra", "baseline")
    return None if found is None else tuple(map(math.log, found))


def test_each_model_stands_at_its_own_best_rate_over_its_seeds(known):
    """A model judged at a rate that suits the other one; one lucky seed in place of the mean."""
    rows = [*ended(ROW, 3.0, 3.2), *ended(ROW, 2.9, 5.0, lr=4e-3), *ended(ULTRA, 6.0), *ended(ULTRA, 4.0, lr=4e-3)]
    assert perplexities(known, trained(*rows)) == pytest.approx((4.0, 3.1))


@pytest.mark.parametrize("other", [{"tokens": 2_000}, {"batch": 8}, {"seq": 32}, {"config": {"vocab_size": 500}}])
def test_models_of_unequal_trainings_are_no_pair(known, other):
    """A model that saw twice the tokens praised for its loss."""
    assert perplexities(known, trained(*ended(ROW, 3.0), *ended(ULTRA, 2.0, **other))) is None


@pytest.mark.parametrize("other", [{"sha256": "c"}, {"gpu": "other"}])
def test_models_of_other_texts_or_machines_are_no_pair(known, other):
    """Losses on two texts subtracted from each other."""
    assert perplexities(known, trained(*ended(ROW, 3.0)), trained(*ended(ULTRA, 2.0), **other)) is None
    assert perplexities(known, trained(*ended(ROW, 3.0)), trained(*ended(ULTRA, 2.0))) is not None


def test_of_several_trainings_the_one_of_most_tokens_counts(known):
    """A short trial preferred to the training, whichever file came first."""
    short, long = [*ended(ROW, 5.0), *ended(ULTRA, 9.0)], [*ended(ROW, 3.0), *ended(ULTRA, 4.0)]
    long = [dataclasses.replace(row, tokens=99_000) for row in long]
    for rows in ([*short, *long], [*long, *short]):
        assert perplexities(known, trained(*rows)) == pytest.approx((4.0, 3.0))


def test_a_sweep_or_a_run_that_diverged_is_no_training(known):
    """The loss before it diverged, or that of a short sweep, taken for the end's."""
    diverged = ended(ULTRA, 2.0, status="diverged")
    assert perplexities(known, trained(*ended(ROW, 3.0), *diverged)) is None
    assert perplexities(known, trained(*ended(ROW, 3.0), *ended(ULTRA, 2.0, stage="sweep"))) is None
    assert known().perplexities("ultra", "baseline") is None


def test_a_question_about_another_model_is_otherwise_the_same(question):
    """A pair of which one has another protocol."""
    special = dataclasses.replace(question, optimizer="none", micro_batch=1, logits="last")
    assert special.of("ultra") == dataclasses.replace(special, model="ultra")
    assert isinstance(special.of("ultra"), Question)
