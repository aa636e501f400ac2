"""Figures by hand: from records whose bytes are known, from counts, from trainings."""

import dataclasses

import pytest

from muse_bench.analysis.claims.evidence import Evidence
from muse_bench.analysis.claims.figures import (
    BeforeStep,
    Compression,
    FewerParameters,
    Fits,
    Floor,
    Found,
    Growth,
    LargestTrained,
    Nothing,
    Part,
    Peak,
    PeakLessBefore,
    Possible,
    QualityLoss,
    Reduction,
    Saved,
    Slowdown,
    TableParameters,
)
from muse_bench.analysis.claims.sizes import REFERENCE, TABLE
from muse_bench.analysis.floor import Floor as LeastMemory
from muse_bench.analysis.floor import Part as LeastPart
from muse_bench.ledger import Ledger, ModuleRow
from muse_bench.models.parameters import count_parameters
from muse_bench.models.presets import PRESETS

MIB = 1 << 20
MEASURED = {"provenance": "measured", "gpu": "NVIDIA H200"}


def holding(peak, workspace=8):
    """Fields of a record of so many MiB, of which 10 are parameters."""
    ledger = Ledger(parameters=10 * MIB, gradients=(peak - workspace - 10) * MIB, workspace=workspace * MIB)
    return {"ledger": ledger, "peak_allocated_bytes": peak * MIB}


def value(figure, evidence, side="theirs"):
    found = figure.find(evidence, side)
    return None if found is None else found.value


def test_a_peak_apart_is_without_the_workspaces(question, answer_to, known):
    """Workspaces left in, or taken off twice, or off a peak that says nothing of them."""
    evidence = known(answer_to(question, **holding(40)))
    assert (value(Peak(question), evidence), value(Peak(question, apart=True), evidence)) == (40.0, 32.0)
    assert Peak(question).find(evidence, "theirs").origin == "predicted, NVIDIA GeForce RTX 4060"
    unknown = answer_to(question, peak_allocated_bytes=40 * MIB, ledger=None)
    assert value(Peak(question, apart=True), known(unknown)) is None
    assert value(Peak(question, apart=True), known(dataclasses.replace(unknown, workspace_setting="off"))) == 40.0
    assert value(Peak(question), known(dataclasses.replace(unknown, peak_allocated_bytes=None))) is None


def test_their_figure_is_of_this_run_and_a_sound_one_of_what_was_measured(question, answer_to, known):
    """The reports' GPU, whose workspaces count, replaced by another one that was measured; or the other way round."""
    evidence = known(answer_to(question, **holding(40)), saved=[[answer_to(question, **MEASURED, **holding(50))]])
    assert [value(Peak(question), evidence, side) for side in ("theirs", "sound", "ours")] == [40.0, 50.0, 50.0]


def test_a_reduction_and_what_is_saved(question, answer_to, known):
    """A ratio the wrong way round, or one of peaks of which one has its workspaces."""
    evidence = known(answer_to(question.of("ultra"), **holding(28)), answer_to(question, **holding(48)))
    ultra = question.of("ultra")
    assert value(Reduction(ultra, "baseline"), evidence) == pytest.approx(100 * 20 / 48)
    assert value(Reduction(ultra, "baseline", apart=True), evidence) == pytest.approx(50.0)
    assert value(Reduction(question, "baseline"), evidence) == 0.0
    assert value(Saved(ultra, "baseline"), evidence) == 20.0
    assert value(Reduction(ultra, "tuned"), evidence) is None
    assert value(Saved(ultra, "tuned"), evidence) is None


@pytest.mark.parametrize(("workspaces", "before", "more"), [(0, 10.0, 30.0), (1, 18.125, 22.0), (2, 26.25, 22.0)])
def test_before_a_step_there_are_parameters_and_workspaces(question, answer_to, known, workspaces, before, more):
    """Workspaces of the GPU that was measured in place of those that the run is about, or counted once for two, or
    taken off a peak that had none of them: activations of less than nothing."""
    evidence = known(answer_to(question, **holding(40)), workspace_bytes=8 * MIB + (1 << 17))
    assert value(BeforeStep(question, workspaces), evidence) == before
    assert value(PeakLessBefore(question, workspaces), evidence) == more
    unknown = known(answer_to(question, ledger=None))
    assert value(BeforeStep(question, workspaces), unknown) is None
    assert value(PeakLessBefore(question, workspaces), unknown) is None


def test_what_a_part_holds_by_module_and_by_category(question, answer_to, known):
    """A layer missed since it is the first or the last of a path, or one whose name another only begins with."""
    held = Ledger(parameters=MIB, gradients=2 * MIB, activations_saved=4 * MIB)
    names = ("embedding", "blocks.0.mixer", "blocks.1.mixer.out", "blocks.0.mixers", "ffn.up")
    rows = tuple(ModuleRow(module=name, ledger=held) for name in names)
    evidence = known(answer_to(question, modules=rows, **holding(40)))
    assert value(Part(question, "embedding.", ("parameters", "gradients")), evidence) == 3.0
    assert value(Part(question, ".mixer.", ("parameters", "gradients")), evidence) == 6.0
    assert value(Part(question, ".mixer.", ("activations_saved",)), evidence) == 8.0
    assert value(Part(question, "", ("parameters", "workspace")), evidence) == 18.0
    assert value(Part(question, ".ffn.", ("parameters",)), evidence) == 1.0
    assert value(Part(question, ".norm.", ("parameters",)), evidence) is None
    assert value(Part(question, "", ("parameters",)), known(answer_to(question, ledger=None))) is None


def test_a_slowdown_is_of_times_that_were_measured(question, answer_to, known):
    """Speed-up for slowdown; a prediction, which has no times, in the way of the times that there are."""
    timed = [
        answer_to(question, **MEASURED, step_time_seconds=0.2),
        answer_to(question.of("ultra"), **MEASURED, step_time_seconds=0.5),
    ]
    predicted = [answer_to(question), answer_to(question.of("ultra"))]
    figure = Slowdown(question.of("ultra"), "baseline")
    assert figure.find(known(*predicted, saved=[timed]), "theirs") == Found(2.5, "measured, NVIDIA H200")
    assert figure.find(known(*predicted), "theirs") is None


def test_whether_it_fits_is_the_records_verdict(question, answer_to, known):
    """A verdict taken for granted where none was given."""
    assert value(Fits(question), known(answer_to(question, verdict="FAIL"))) == "FAIL"
    assert value(Fits(question), known(answer_to(question))) is None


def test_growth_finds_the_exponent_that_the_times_were_made_with(question, answer_to, known):
    """A fit through all lengths that leaves one out, or one of the values in place of their logarithms."""
    lengths = (16, 32, 64, 128)
    asked = tuple(
        dataclasses.replace(question, sizes=dataclasses.replace(question.sizes, seq_len=length)) for length in lengths
    )
    records = [answer_to(one, step_time_seconds=3e-4 * one.sizes.seq_len**1.3) for one in asked]
    assert value(Growth(asked), known(*records)) == pytest.approx(1.3)
    assert value(Growth(asked), known(*records[:3])) is None


def test_parameters_of_a_dense_table_and_of_a_tensor_train(known):
    """Phases left out of the train, or the rest of the model counted as the table."""
    cores = 225 * 32 * 16 + 16 * 224 * 32  # 225 x 224 words of 32 x 32 features, rank 16
    assert cores + 16 == 229_904  # and a phase for each rank
    assert TableParameters(TABLE, None, 1.0).find(known(), "theirs") == Found(50_257 * 1_024, "counted")
    assert value(TableParameters(TABLE, 16, 1.0), known()) == 229_904
    assert value(TableParameters(TABLE, 16, 1e3), known()) == 229.904


def test_compression_is_the_mean_over_ranks(known):
    """Ranks averaged in place of the compressions, or a share of what is kept in place of what is not."""
    dense = 50_257 * 1_024
    assert value(Compression(TABLE, (16,)), known()) == pytest.approx(100 * (1 - 229_904 / dense))
    each = [value(Compression(REFERENCE, (rank,)), known()) for rank in (16, 2)]
    assert value(Compression(REFERENCE, (16, 2)), known()) == pytest.approx(sum(each) / 2)


def test_fewer_parameters_are_those_of_the_whole_models(known):
    """The ratio the wrong way round, or of embeddings alone."""
    ultra, encoder = (count_parameters(PRESETS[name].configure(REFERENCE)) for name in ("ultra", "encoder"))
    found = value(FewerParameters("ultra", "encoder", REFERENCE), known())
    assert found == pytest.approx(100 * (encoder - ultra) / encoder)
    assert 95 < found < 100


def test_a_floor_is_of_all_logits_or_of_the_last_whole_or_of_a_category(known):
    """The two floors mixed up, or the whole given for a part."""
    every = LeastMemory((LeastPart("parameters", "", 2 * MIB), LeastPart("activations", "", 10 * MIB)), 0)
    last = LeastMemory((LeastPart("parameters", "", 2 * MIB), LeastPart("activations", "", MIB)), 0)
    evidence = known(floors=(every, last))
    assert value(Floor(None, "all"), evidence) == 12.0
    assert value(Floor("activations", "all"), evidence) == 10.0
    assert value(Floor("activations", "last"), evidence) == 1.0
    assert value(Floor(None, "all"), known()) is None
    assert value(Nothing(), known()) == 0.0


@pytest.fixture
def losing(monkeypatch):
    """Sets the perplexities that trainings gave."""
    return lambda pair: monkeypatch.setattr(Evidence, "perplexities", lambda self, model, against: pair)


def test_the_loss_of_quality_is_of_perplexities(known, losing):
    """A difference of losses in nats shown as percent, or a gain shown as a loss."""
    losing((110.0, 100.0))
    assert QualityLoss("ultra").find(known(), "sound") == Found(pytest.approx(10.0), "trained")
    losing((50.0, 100.0))
    assert value(QualityLoss("ultra"), known()) == pytest.approx(-50.0)
    losing(None)
    assert value(QualityLoss("ultra"), known()) is None


@pytest.mark.parametrize(
    ("peak", "pair", "expected"),
    [
        (5, (90.0, 100.0), "yes"),
        (5, (100.0, 100.0), "yes"),
        (5, (101.0, 100.0), "no"),
        (6, (90.0, 100.0), "no"),
        (5, None, None),
        (None, (90.0, 100.0), None),
    ],
)
def test_what_is_possible_needs_both_the_reduction_and_the_quality(
    question, answer_to, known, losing, peak, pair, expected
):
    """One of the two enough for a yes; a no where one of them is not known."""
    losing(pair)
    records = [answer_to(question, peak_allocated_bytes=100 * MIB)]
    if peak is not None:
        records.append(answer_to(question.of("ultra"), peak_allocated_bytes=peak * MIB))
    figure = Possible(Reduction(question.of("ultra"), "baseline"), QualityLoss("ultra"), least=95.0)
    assert value(figure, known(*records)) == expected
    assert figure.questions == (question.of("ultra"), question)


def test_the_largest_that_was_trained_must_have_passed(make_record, known):
    """A model over its budget, or one that nobody judged, counted as computable within it."""
    large = make_record("streamed", **MEASURED, parameters=100_291_949_264, verdict="PASS")
    found = LargestTrained().find(known(saved=[[large]]), "ours")
    assert found == Found(pytest.approx(100.292, abs=1e-3), "measured, NVIDIA H200")
    for verdict in ("FAIL", "INCONCLUSIVE", None):
        assert value(LargestTrained(), known(saved=[[dataclasses.replace(large, verdict=verdict)]])) is None
    assert value(LargestTrained(), known(saved=[[dataclasses.replace(large, parameters=None)]])) is None
