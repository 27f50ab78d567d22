"""Wherever and however rows lie in memory they are read as they are, and nothing beside them."""

from __future__ import annotations

import ctypes
import mmap
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

import pdepth
from pdepth import definition, native
from pdepth.arrays.rows import TYPES

from helpers.cases import DTYPES, KINDS, cast, first_difference
from helpers.torch_or_skip import HAS_TORCH, torch

LEVELS = [name for name, runs in native.simd_levels().items() if runs]
PAGE = mmap.PAGESIZE
MADE_BY = ["numpy", "swapped", *["torch"] * HAS_TORCH]
ELEMENTS = [*(kind for kind in TYPES if HAS_TORCH or kind != "bfloat16"), "bool"]
Bytes = NDArray[np.uint8]


# ---- where bytes lie: each store holds a copy of them, read-only ----


def on_the_heap(content: Bytes) -> Bytes:
    held = content.copy()
    held.setflags(write=False)
    return held


def in_a_file(content: Bytes) -> Bytes:
    with tempfile.NamedTemporaryFile() as file:
        file.write(b"header." + content.tobytes())
        file.flush()
        return np.memmap(file.name, np.uint8, "r", offset=len("header."))


def guarded(content: Bytes, at_end: bool) -> Bytes:
    """Pages that none can write between two that none can read; `at_end`: up to the last byte."""
    inside = -(-len(content) // PAGE) * PAGE
    pages = np.frombuffer(mmap.mmap(-1, inside + 2 * PAGE), np.uint8)
    begin = PAGE + (inside - len(content) if at_end else 0)
    held = pages[begin : begin + len(content)]
    held[:] = content
    libc, address = ctypes.CDLL(None, use_errno=True), pages.ctypes.data
    for start, size, allowed in (
        (0, PAGE, 0),
        (PAGE, inside, mmap.PROT_READ),
        (PAGE + inside, PAGE, 0),
    ):
        done = libc.mprotect(ctypes.c_void_p(address + start), ctypes.c_size_t(size), allowed)
        assert done == 0, ctypes.get_errno()
    held.setflags(write=False)
    return held


def after_a_guard(content: Bytes) -> Bytes:
    return guarded(content, at_end=False)


def before_a_guard(content: Bytes) -> Bytes:
    return guarded(content, at_end=True)


STORES: tuple[Callable[[Bytes], Bytes], ...] = (
    *(on_the_heap, in_a_file),
    *(after_a_guard, before_a_guard),
)


# ---- how arrays lie in them ----


@dataclass(frozen=True)
class Layout:
    """Strides of two dimensions: steps in elements, and bytes that lie between rows besides."""

    store: Callable[[Bytes], Bytes]
    order: str  # "C", "F", or "overlapping": both steps count single elements
    steps: tuple[int, int]
    gap: int
    lead: int  # bytes before the first

    def place(self, values: NDArray[Any]) -> NDArray[Any]:
        """`values` (n, D) laid out so; where places coincide the last one written holds."""
        size = values.itemsize
        rows, columns = (abs(step) * size for step in self.steps)
        if self.order == "C":
            rows = rows * values.shape[1] * max(1, abs(self.steps[1])) + self.gap
        elif self.order == "F":
            columns = columns * values.shape[0] * max(1, abs(self.steps[0])) + self.gap
        if 0 in self.steps:  # the gap is no step
            rows, columns = rows * (self.steps[0] != 0), columns * (self.steps[1] != 0)
        lengths = [(n - 1) * s for n, s in zip(values.shape, (rows, columns), strict=True)]
        offset = self.lead + sum(n for n, step in zip(lengths, self.steps, strict=True) if step < 0)
        strides = tuple(
            -s if step < 0 else s for s, step in zip((rows, columns), self.steps, strict=True)
        )
        memory = np.full(self.lead + sum(lengths) + size, 0xFF, np.uint8)  # no number in floats
        np.ndarray(values.shape, values.dtype, memory, offset, strides)[:] = values
        return np.ndarray(values.shape, values.dtype, self.store(memory), offset, strides)


@st.composite
def layouts(draw: st.DrawFn, size: int, tensor: bool) -> Layout:
    """Torch wants strides that are whole elements and not negative."""
    step = st.integers(0 if tensor else -3, 3)
    overlap = draw(st.sampled_from(["C", "C", "F", "overlapping"]))
    return Layout(
        draw(st.sampled_from(STORES)),
        overlap,
        (draw(st.just(1) | step), draw(st.just(1) | step)),
        draw(st.sampled_from([0, size] if tensor else [0, 1, size])),
        draw(st.sampled_from([0, 1, 4])),
    )


@dataclass(frozen=True, eq=False)
class Given:
    """An argument, a plain copy of it for the definition, and what it is, for the message."""

    array: Any
    plain: Any
    name: str

    def unchanged(self) -> bool:
        return first_difference(*(bits(a) for a in (self.array, self.plain))) is None


def bits(array: Any) -> NDArray[Any]:
    if isinstance(array, torch.Tensor):
        array = array.view(torch.int16).numpy() if array.dtype == torch.bfloat16 else array.numpy()
    return np.asarray(array)


def plain_of(array: Any) -> Any:
    if isinstance(array, torch.Tensor):
        return array.clone(memory_format=torch.contiguous_format)
    return np.array(array, array.dtype.newbyteorder("="), order="C")


@st.composite
def placed(draw: st.DrawFn, values: NDArray[Any], bfloat16: bool = False) -> Given:
    """`values` (n, D) as NumPy's or torch's, in some layout."""
    kind = "torch" if bfloat16 else draw(st.sampled_from(MADE_BY))
    if kind == "swapped":
        values = values.astype(values.dtype.newbyteorder())
    layout = draw(layouts(values.itemsize, kind == "torch"))
    array: Any = layout.place(values)
    if kind == "torch":
        array = torch.from_numpy(array)
        array = array.view(torch.bfloat16) if bfloat16 else array
    return Given(array, plain_of(array), f"{kind} {array.dtype} {tuple(array.shape)} {layout}")


@st.composite
def embeddings(draw: st.DrawFn, rows: int, width: int) -> Given:
    dtype = draw(st.sampled_from(ELEMENTS))
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    values = draw(st.sampled_from(KINDS))(rng, rows, width)
    if dtype not in DTYPES:  # other integers: whatever bits come
        return draw(placed(cast(values, "int64").astype(dtype)))
    own = cast(values, dtype)
    return draw(placed(own.view(torch.int16).numpy(), True) if dtype == "bfloat16" else placed(own))


@st.composite
def whole_numbers(draw: st.DrawFn, low: int, high: int, count: int, dtypes: str) -> Given:
    """(count,) integers in [low, high]: a column of something larger, or a list."""
    values = draw(st.lists(st.integers(low, high), min_size=count, max_size=count))
    fitting = [
        dtype
        for dtype in dtypes.split()
        if dtype == "bool" or np.iinfo(dtype).min <= low <= high <= np.iinfo(dtype).max
    ]
    whole = draw(placed(np.array(values).astype(draw(st.sampled_from(fitting)))[:, None]))
    if draw(st.booleans()):
        return Given(whole.array[:, 0], whole.plain[:, 0], whole.name)
    return Given(values, values, "list")


ROWS = st.integers(2, 40) | st.integers(2, 200)
WIDTHS = st.integers(1, 40) | st.integers(1, 700)
INTEGERS = "int8 int16 int32 int64 uint8 uint16 uint32 uint64"


@given(data=st.data(), rows=ROWS, width=WIDTHS)
@pytest.mark.filterwarnings("ignore:The given NumPy array is not writ:UserWarning")
def test_any_layout_gets_the_definitions_answer(data: st.DataObject, rows: int, width: int) -> None:
    support = data.draw(embeddings(rows, width))
    low, high = data.draw(st.sampled_from([(0, 1), (-3, 3), (0, 100), (-(2**63), 2**63 - 1)]))
    labels = data.draw(whole_numbers(low, high, rows, INTEGERS + " bool"))
    way = data.draw(st.sampled_from(["queries", "same", "own", "some"]))
    queries = asked = None
    if way == "queries":
        queries = data.draw(embeddings(data.draw(st.integers(1, 50)), width))
    elif way == "same":
        queries = support
    elif way == "some":
        asked = data.draw(whole_numbers(0, rows - 1, data.draw(st.integers(1, 50)), INTEGERS))
    exclude_self = data.draw(st.booleans())
    k = data.draw(st.integers(1, rows - (queries is None and exclude_self)))
    threads = data.draw(st.integers(1, 4))
    arguments = [one for one in (support, labels, queries, asked) if one is not None]
    name = f"{way}, k={k}, {threads} threads: " + "; ".join(one.name for one in arguments)

    options = {"k": k, "exclude_self": exclude_self}
    plain = None if queries is None else queries.plain
    rest = options | {"query_rows": None if asked is None else asked.plain}
    with np.errstate(over="ignore"):
        oracle = definition.probe_votes(support.plain, labels.plain, plain, **rest)
        nearest = definition.kneighbors(support.plain, plain, **rest)
    given_queries = None if queries is None else queries.array
    rest = options | {"query_rows": None if asked is None else asked.array, "num_threads": threads}
    for level in LEVELS:
        with pytest.MonkeyPatch.context() as patch:
            patch.setenv(native.SIMD, level)
            votes = pdepth.probe_votes(
                support.array, labels.array, given_queries, return_counts=True, **rest
            )
            found = pdepth.kneighbors(support.array, given_queries, **rest)
        for field in ("classes", "votes", "tied", "counts"):
            where = first_difference(getattr(votes, field), getattr(oracle, field))
            assert where is None, f"{level}, {name}: {field} differ first at {where}"
        for part, wanted in zip(found, nearest, strict=True):
            assert first_difference(part, wanted) is None, f"{level}, {name}"
    assert all(one.unchanged() for one in arguments), name


def test_a_tensor_that_is_a_negated_view() -> None:
    rng = np.random.default_rng(0)
    values = torch.from_numpy(rng.standard_normal((40, 9, 2)))
    negated = torch.view_as_complex(values).conj().imag
    assert negated.is_neg()
    wanted = definition.kneighbors(-values[..., 1].numpy(), k=5)
    for part, own in zip(pdepth.kneighbors(negated, k=5), wanted, strict=True):
        assert first_difference(part, own) is None


def wrong_calls(data: st.DataObject, rows: int, width: int) -> Iterator[dict[str, Any]]:
    """Calls each with one thing wrong; zero sizes among them."""
    values = np.ones((rows, width))
    labels = np.zeros(rows, int)
    for spoil in (np.nan, np.inf, -np.inf):
        spoiled = np.full((rows, width), spoil, data.draw(st.sampled_from(["f2", "f4", "f8"])))
        yield {"support": data.draw(placed(spoiled)).array, "labels": labels}
        yield {"support": values, "queries": data.draw(placed(spoiled)).array, "labels": labels}
    for shape in ((0, width), (rows, 0), (0, 0), (rows, 0, 3), (rows,), ()):
        empty = np.ones(shape, data.draw(st.sampled_from(["f4", "f8", "i8", ">f4", "bool"])))
        for array in (empty, torch.from_numpy(empty.astype("f4")) if HAS_TORCH else empty):
            yield {"support": array, "labels": labels[: shape[0] if shape else 0], "k": 1}
            yield {"support": values, "queries": array, "labels": labels}
    for dtype in ("c8", "U3", "S2", "O", "M8[s]", "m8[s]", "V5", [("a", "f4"), ("b", "f4")], "g"):
        yield {"support": np.zeros((rows, width), dtype), "labels": labels}
        yield {"support": values, "labels": np.zeros(rows, dtype)}
        yield {"support": values, "labels": labels, "query_rows": np.zeros(rows, dtype)}
    yield {"support": values, "labels": labels, "queries": np.ones((rows, width + 1))}
    yield {"support": values, "labels": np.append(labels, 0)}
    yield {"support": values, "labels": [2**70] * rows}
    for out in (rows, -1, 2**63 - 1, -(2**63)):
        yield {"support": values, "labels": labels, "query_rows": [0, out]}
    for k in (0, -1, rows, 2**31, 2**63 - 1, 2**80):
        yield {"support": values, "labels": labels, "k": k}
    yield {"support": values, "labels": labels, "query_rows": np.zeros(0, np.int32)}


@given(data=st.data(), shape=st.tuples(st.integers(2, 20), st.integers(1, 20)))
@settings(max_examples=20)
@pytest.mark.filterwarnings("ignore:The given NumPy array is not writ:UserWarning")
def test_what_cannot_be_read_is_refused_in_one_sentence(
    data: st.DataObject, shape: tuple[int, int]
) -> None:
    for call in wrong_calls(data, *shape):
        with pytest.raises((ValueError, TypeError)) as caught:
            pdepth.probe_votes(**{"k": 1} | call)
        assert "\n" not in str(caught.value), call
        assert str(caught.value).endswith("."), (call, caught.value)
