"""Equal blocks become one row; the bytes stay."""

from muse_bench.analysis.modules import Contributor, collapse_blocks, largest_contributors, sum_ledgers
from muse_bench.ledger import Ledger, ModuleRow


def _rows(**held: int) -> list[ModuleRow]:
    return [ModuleRow(module=name, ledger=Ledger(parameters=size)) for name, size in held.items()]


def test_equal_blocks_are_summed_and_named_by_their_range():
    rows = _rows(**{f"blocks.{index}.ffn": 10 for index in range(12)})
    assert collapse_blocks(rows) == _rows(**{"blocks.0-11.ffn": 120})


def test_parts_with_other_parameters_stay_apart():
    rows = _rows(**{"head.0": 10, "head.1": 99})
    assert collapse_blocks(rows) == _rows(**{"head.1": 99, "head.0": 10})


def test_only_the_first_number_of_a_path_is_a_block():
    rows = _rows(**{"blocks.0.ffn.0": 5, "blocks.1.ffn.0": 5, "blocks.0.ffn.2": 5, "blocks.1.ffn.2": 5})
    assert [row.module for row in collapse_blocks(rows)] == ["blocks.0-1.ffn.0", "blocks.0-1.ffn.2"]


def test_a_number_inside_a_name_is_no_block():
    rows = _rows(conv1=5, conv2=5)
    assert len(collapse_blocks(rows)) == 2


def test_collapsing_keeps_every_byte():
    rows = _rows(**{"blocks.0": 7, "blocks.1": 7, "blocks.2": 8, "head": 1, "embedding": 0})
    assert sum_ledgers(row.ledger for row in collapse_blocks(rows)).total == 23


def test_the_largest_contributors_name_module_and_category(make_record):
    modules = (
        ModuleRow(module="blocks.0", ledger=Ledger(parameters=4, gradients=30)),
        ModuleRow(module="blocks.1", ledger=Ledger(parameters=4, gradients=30)),
        ModuleRow(module="head", ledger=Ledger(parameters=4, activations_temporary=50)),
    )
    assert largest_contributors(make_record(modules=modules), 2) == [
        Contributor("blocks.0-1", "gradients", 60),
        Contributor("head", "activations_temporary", 50),
    ]


def test_without_modules_the_categories_contribute(make_record):
    record = make_record(ledger=Ledger(parameters=4, gradients=30))
    assert largest_contributors(record, 5) == [
        Contributor("model", "gradients", 30),
        Contributor("model", "parameters", 4),
    ]
    assert largest_contributors(make_record(ledger=None), 5) == []
