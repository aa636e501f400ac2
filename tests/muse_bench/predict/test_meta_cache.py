"""Results from memory are the results that PyTorch would compute."""

import torch

from muse_bench.predict.meta_cache import MetaCache

aten = torch.ops.aten


def meta(*shape: int, dtype: torch.dtype = torch.float32) -> torch.Tensor:
    return torch.empty(shape, dtype=dtype, device="meta")


def test_a_hit_has_the_shape_strides_and_dtype_of_a_run() -> None:
    cache, x, y = MetaCache(), meta(4, 6).t(), meta(6, 4, dtype=torch.float16)
    first, second = (cache.run(aten.add.Tensor, (x, y), {}) for _ in range(2))
    assert (first.shape, first.stride(), first.dtype) == (second.shape, second.stride(), second.dtype)
    assert first.untyped_storage()._cdata != second.untyped_storage()._cdata


def test_strides_and_dtypes_are_part_of_the_question() -> None:
    cache = MetaCache()
    assert cache.run(aten.clone.default, (meta(4, 6),), {}).stride() == (6, 1)
    assert cache.run(aten.clone.default, (meta(6, 4).t(),), {}).stride() == (1, 4)
    assert cache.run(aten.clone.default, (meta(4, 6, dtype=torch.int8),), {}).dtype == torch.int8


def test_an_operation_that_returns_a_view_in_secret_stays_a_view() -> None:
    """_unsafe_view's schema names no alias; a remembered result would be counted as new memory."""
    cache = MetaCache()
    for _ in range(2):
        x = meta(4, 6)
        out = cache.run(aten._unsafe_view.default, (x, [24]), {})
        assert out.untyped_storage()._cdata == x.untyped_storage()._cdata


def test_in_place_and_out_operations_return_what_they_wrote() -> None:
    cache = MetaCache()
    for _ in range(2):
        x, y, out = meta(4), meta(4), meta(4)
        assert cache.run(aten.add_.Tensor, (x, y), {}) is x
        assert cache.run(aten.add.out, (x, y), {"out": out}) is out


def test_several_results_come_back_as_a_tuple() -> None:
    cache, x = MetaCache(), meta(3, 8)
    arguments = (x, [8], meta(8), meta(8), 1e-5)
    shapes = [[one.shape for one in cache.run(aten.native_layer_norm.default, arguments, {})] for _ in range(2)]
    assert shapes[0] == shapes[1] == [(3, 8), (3, 1), (3, 1)]


def test_numbers_of_other_types_are_other_questions() -> None:
    """1, 1.0 and True are equal, and give results of different dtypes."""
    cache, x = MetaCache(), meta(4, dtype=torch.int64)
    assert cache.run(aten.mul.Tensor, (x, 1), {}).dtype == torch.int64
    assert cache.run(aten.mul.Tensor, (x, 1.0), {}).dtype == torch.float32


def test_tensors_on_the_cpu_are_computed() -> None:
    cache = MetaCache()
    for value in (1.0, 2.0):
        assert cache.run(aten.add.Tensor, (torch.tensor(value), torch.tensor(1.0)), {}).item() == value + 1
