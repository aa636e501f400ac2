"""The zoo's names and factories, without building its models."""

import pytest

from muse_bench.calibration import zoo
from muse_bench.calibration.cases import PARTS, ZooRow, build_case
from muse_bench.models.external import load_factory


@pytest.mark.parametrize("part", PARTS)
def test_every_row_names_a_factory_that_there_is(part):
    """A misspelt row would only be noticed on the GPU, as a case that is skipped."""
    for row in PARTS[part]:
        if isinstance(row, ZooRow):
            assert callable(load_factory(build_case(row).model))


def test_a_name_that_there_is_not_is_no_factory():
    assert not hasattr(zoo, "resnet")
