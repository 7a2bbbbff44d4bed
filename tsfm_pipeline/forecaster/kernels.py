"""What the decoder does between its matrix products, on a CPU: attention, norms and activation, each in one pass over memory.

Here: loops that numba compiles for the processor at hand, once per installation (into `__pycache__`, or NUMBA_CACHE_DIR); they hold
no lock, so batches run side by side. First what the decoder calls, then the loops, then the vectors that they are written in: sixteen
float32, as a type of numba's whose values stay in registers, because LLVM by itself makes no vector code of short loops over arrays
that might overlap (a head's dimensions, a window's tokens). A processor with narrower registers takes two or four for one.
Not here: matrix products, and the same operations on other devices (`model`).

All in one file, because numba's cache sees no change in another. Matrices are float32, or bfloat16 as the upper halves of float32
(uint16: numpy has no such type); sums are float32 in either case. Every size is a multiple of 16 (LANES).
"""

import math
import operator
import warnings
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from llvmlite import ir
from numba import njit
from numba.core import cgutils, types
from numba.core.datamodel import models, register_default
from numba.extending import intrinsic, overload

from tsfm_pipeline.forecaster.plan import IntArray

LANES = 16
NORM_EPSILON = np.float32(1e-6)
LOG2_E = np.float32(math.log2(math.e))
TAYLOR = tuple(np.float32(math.log(2) ** n / math.factorial(n)) for n in range(7))
"""2^r = sum of TAYLOR[n] r^n."""


class Windows(NamedTuple):
    """W windows side by side: where each one's tokens and queries begin and end [W + 1], and each query's position in its window [N]."""

    tokens: IntArray
    queries: IntArray
    position: IntArray


def attend(
    query: torch.Tensor, key_value: torch.Tensor, n_heads: int, scale: torch.Tensor, turns: torch.Tensor, windows: Windows
) -> torch.Tensor:
    """What N queries read from the tokens of their own windows, up to their own position: [N, M], in the queries' type.

    query: [N, M or more], in its first M columns, heads side by side. key_value: [T, 2 M or more], in its last 2 M columns. Both as
    they come from their products; here queries and keys are RMS-normed and rotated. scale: float32 [D] (M = heads x D), of query
    times key. turns: float32 [tokens of the longest window or more, 2 D], the rotary position embedding: what a dimension is multiplied
    by, then what its neighbour (1, 0, 3, 2, ...) is before it is added.
    """
    out = torch.empty(query.shape[0], n_heads * scale.shape[0], dtype=query.dtype)
    _attend(_array(query), _array(key_value), n_heads, _array(scale)[None], _array(turns), *windows, _array(out))
    return out


def add_normed(x: torch.Tensor, change: torch.Tensor, scale: torch.Tensor) -> torch.Tensor:
    """Add the RMS-normed change [T, M] times the scale [M] to x (float32 [T, M], in place); returns x RMS-normed, in the change's type."""
    normed = torch.empty_like(change)
    _add_normed(_array(x), _array(change), _array(scale)[None], _array(normed))
    return normed


def silu(x: torch.Tensor) -> torch.Tensor:
    """x / (1 + exp(-x)), in place."""
    _silu(_array(x))
    return x


def _array(tensor: torch.Tensor) -> npt.NDArray[np.generic]:
    """A tensor's memory as an array, in bfloat16 as uint16."""
    return (tensor.view(torch.uint16) if tensor.dtype == torch.bfloat16 else tensor).numpy()


def _compiled(function: Callable[..., Any]) -> Callable[..., Any]:
    options = {"nogil": True, "error_model": "numpy"}
    try:
        return njit(cache=True, **options)(function)  # type: ignore[no-any-return]
    except RuntimeError:
        warnings.warn("numba finds no folder for its cache, so every process compiles anew: set NUMBA_CACHE_DIR", stacklevel=2)
        return njit(**options)(function)  # type: ignore[no-any-return]


_inlined = njit(inline="always", error_model="numpy")


@_inlined
def _exp(x):  # type: ignore[no-untyped-def]
    """e^x of x <= 88, as 2^n 2^r with |r| <= 1/2 and six terms of the Taylor series of 2^r, 1e-7 off at most."""
    power = larger(x * splat(LOG2_E), splat(np.float32(-126)))
    n = whole(power + splat(np.float32(0.5)))
    r = power - n
    series = splat(TAYLOR[6])
    for i in (5, 4, 3, 2, 1, 0):
        series = fused(series, r, splat(TAYLOR[i]))
    return series * power_of_two(n)


@_compiled
def _silu(x):  # type: ignore[no-untyped-def]
    one, most = splat(np.float32(1)), splat(np.float32(88))
    for t in range(x.shape[0]):
        for d in range(0, x.shape[1], LANES):
            value = load(x, t, d)
            store(x, t, d, value / (one + _exp(smaller(splat(np.float32(0)) - value, most))))


@_inlined
def _inverse_rms(matrix, row, column, dims):  # type: ignore[no-untyped-def]
    squares = splat(np.float32(0))
    for d in range(column, column + dims, LANES):
        value = load(matrix, row, d)
        squares = fused(value, value, squares)
    return splat(np.float32(1) / np.sqrt(total(squares) / np.float32(dims) + NORM_EPSILON))


@_compiled
def _add_normed(x, change, scale, normed):  # type: ignore[no-untyped-def]
    n_rows, dims = x.shape
    for t in range(n_rows):
        factor = _inverse_rms(change, t, 0, dims)
        for d in range(0, dims, LANES):
            store(x, t, d, fused(load(change, t, d) * factor, load(scale, 0, d), load(x, t, d)))
        factor = _inverse_rms(x, t, 0, dims)
        for d in range(0, dims, LANES):
            store(normed, t, d, load(x, t, d) * factor)


@_inlined
def _rotate(matrix, row, column, turns, position, scale, out, out_row):  # type: ignore[no-untyped-def]
    """A head's values matrix[row, column:], RMS-normed, rotated and scaled, to out[out_row]."""
    dims = out.shape[1]
    factor = _inverse_rms(matrix, row, column, dims)
    for d in range(0, dims, LANES):
        value = load(matrix, row, column + d) * factor
        turned = fused(value, load(turns, position, d), neighbours(value) * load(turns, position, dims + d))
        store(out, out_row, d, turned * load(scale, 0, d))


@_inlined
def _tile(a, b, n, column, out):  # type: ignore[no-untyped-def]
    """out[:4, column : column + 16] = a[:4, :n] @ b[:n, column : column + 16]; the sums stay in registers."""
    sum0 = sum1 = sum2 = sum3 = splat(np.float32(0))
    for k in range(n):
        factor = load(b, k, column)
        sum0 = fused(splat(a[0, k]), factor, sum0)
        sum1 = fused(splat(a[1, k]), factor, sum1)
        sum2 = fused(splat(a[2, k]), factor, sum2)
        sum3 = fused(splat(a[3, k]), factor, sum3)
    store(out, 0, column, sum0)
    store(out, 1, column, sum1)
    store(out, 2, column, sum2)
    store(out, 3, column, sum3)


@_inlined
def _softmax(products, row, n_seen, n_columns):  # type: ignore[no-untyped-def]
    """The first n_seen products of a row become weights, the others (next to) 0; returns 1 / their sum."""
    never = splat(np.float32(-1e30))
    most = never
    for j in range(0, n_columns, LANES):
        product = first_lanes(load(products, row, j), n_seen - j, never)
        store(products, row, j, product)
        most = larger(most, product)
    most = splat(largest(most))
    weights = splat(np.float32(0))
    for j in range(0, n_columns, LANES):
        weight = _exp(load(products, row, j) - most)
        store(products, row, j, weight)
        weights = weights + weight
    return np.float32(1) / total(weights)


@_compiled
def _attend(query, key_value, n_heads, scale, turns, tokens, queries, position, out):  # type: ignore[no-untyped-def]
    """Of every window and head: keys and values laid out for the vectors, then queries by fours, so that each is loaded once for four."""
    dims = scale.shape[1]
    longest = 0
    for w in range(len(tokens) - 1):
        longest = max(longest, tokens[w + 1] - tokens[w])
    width = -(-longest // LANES) * LANES
    ones = np.ones((1, dims), np.float32)
    rows = np.zeros((width, dims), np.float32)
    keys = np.empty((dims, width), np.float32)
    values = np.empty((width, dims), np.float32)
    asking = np.empty((4, dims), np.float32)
    weights = np.empty((4, width), np.float32)
    read = np.empty((4, dims), np.float32)
    factors = np.empty(4, np.float32)
    first_key = key_value.shape[1] - 2 * n_heads * dims
    for w in range(len(tokens) - 1):
        if queries[w] == queries[w + 1]:
            continue
        for head in range(n_heads):
            for j in range(tokens[w + 1] - tokens[w]):
                _rotate(key_value, tokens[w] + j, first_key + head * dims, turns, j, ones, rows, j)
                for d in range(0, dims, LANES):
                    store(values, j, d, load(key_value, tokens[w] + j, first_key + (n_heads + head) * dims + d))
            for j in range(0, tokens[w + 1] - tokens[w], LANES):
                for d in range(0, dims, LANES):
                    transpose(rows, j, d, keys)
            for i in range(queries[w], queries[w + 1], 4):
                n_rows = min(4, queries[w + 1] - i)
                n_keys = 0
                for r in range(4):
                    row = i + min(r, n_rows - 1)  # fewer than four: the last again
                    n_keys = max(n_keys, position[row] + 1)
                    _rotate(query, row, head * dims, turns, position[row], scale, asking, r)
                for j in range(0, n_keys, LANES):
                    _tile(asking, keys, dims, j, weights)
                for r in range(n_rows):
                    factors[r] = _softmax(weights, r, position[i + r] + 1, n_keys)
                for d in range(0, dims, LANES):
                    _tile(weights, values, n_keys, d, read)
                for r in range(n_rows):
                    for d in range(0, dims, LANES):
                        store(out, i + r, head * dims + d, load(read, r, d) * splat(factors[r]))


_FLOATS = ir.VectorType(ir.FloatType(), LANES)
_INTS = ir.VectorType(ir.IntType(32), LANES)
_SHORTS = ir.VectorType(ir.IntType(16), LANES)


class _Vector(types.Type):
    def __init__(self) -> None:
        super().__init__(name="float32x16")


vector = _Vector()


@register_default(_Vector)
class _VectorModel(models.PrimitiveModel):
    def __init__(self, manager: Any, kind: Any) -> None:
        super().__init__(manager, kind, _FLOATS)


def _constant(kind: ir.VectorType, value: object) -> ir.Constant:
    return ir.Constant(kind, [value] * LANES)


def _everywhere(builder: Any, value: Any) -> Any:
    kind = ir.VectorType(value.type, LANES)
    one = builder.insert_element(ir.Constant(kind, ir.Undefined), value, ir.Constant(ir.IntType(32), 0))
    return builder.shuffle_vector(one, ir.Constant(kind, ir.Undefined), _constant(_INTS, 0))


def _call(builder: Any, name: str, result: Any, *args: Any, fastmath: tuple[str, ...] = ()) -> Any:
    function = cgutils.get_or_insert_function(builder.module, ir.FunctionType(result, [arg.type for arg in args]), name)
    return builder.call(function, args, fastmath=fastmath)


def _address(context: Any, builder: Any, kind_of_args: Any, args: Any, kind: ir.VectorType) -> Any:
    array = context.make_array(kind_of_args[0])(context, builder, args[0])
    pointer = cgutils.get_item_pointer(context, builder, kind_of_args[0], array, args[1:3], wraparound=False)
    return builder.bitcast(pointer, kind.as_pointer())


@intrinsic
def load(_: Any, array: Any, i: Any, j: Any) -> Any:
    """array[i, j : j + 16] of a float32 array, or of bfloat16 as the upper halves of float32 (uint16)."""

    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        if array.dtype == types.float32:
            return builder.load(_address(context, builder, signature.args, args, _FLOATS), align=4)
        halves = builder.zext(builder.load(_address(context, builder, signature.args, args, _SHORTS), align=2), _INTS)
        return builder.bitcast(builder.shl(halves, _constant(_INTS, 16)), _FLOATS)

    return vector(array, types.intp, types.intp), generate


@intrinsic
def store(_: Any, array: Any, i: Any, j: Any, value: Any) -> Any:
    """array[i, j : j + 16] = value; in bfloat16 the nearest, ties to even."""

    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        if array.dtype == types.float32:
            builder.store(args[3], _address(context, builder, signature.args, args, _FLOATS), align=4)
        else:
            bits = builder.bitcast(args[3], _INTS)
            odd = builder.and_(builder.lshr(bits, _constant(_INTS, 16)), _constant(_INTS, 1))
            rounded = builder.add(builder.add(bits, _constant(_INTS, 0x7FFF)), odd)
            halves = builder.trunc(builder.lshr(rounded, _constant(_INTS, 16)), _SHORTS)
            builder.store(halves, _address(context, builder, signature.args, args, _SHORTS), align=2)
        return context.get_dummy_value()

    return types.void(array, types.intp, types.intp, vector), generate


@intrinsic
def transpose(_: Any, source: Any, i: Any, j: Any, target: Any) -> Any:
    """target[j : j + 16, i : i + 16] = source[i : i + 16, j : j + 16].T, of float32."""

    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        def address(array: int, i: Any, j: Any, step: int) -> Any:
            row = builder.add(i, ir.Constant(i.type, step))
            return _address(context, builder, (signature.args[array],), (args[array], row, j), _FLOATS)

        rows = [builder.load(address(0, args[1], args[2], step), align=4) for step in range(LANES)]
        for distance in (1, 2, 4, 8):  # exchange blocks of this size across the diagonal, of pairs of rows this far apart
            low = [lane + (LANES - distance) * (lane & distance > 0) for lane in range(LANES)]
            for first in (row for row in range(LANES) if not row & distance):
                pair = rows[first], rows[first + distance]
                rows[first] = builder.shuffle_vector(*pair, ir.Constant(_INTS, low))
                rows[first + distance] = builder.shuffle_vector(*pair, ir.Constant(_INTS, [lane + distance for lane in low]))
        for step, row in enumerate(rows):
            builder.store(row, address(3, args[2], args[1], step), align=4)
        return context.get_dummy_value()

    return types.void(source, types.intp, types.intp, target), generate


@intrinsic
def splat(_: Any, value: Any) -> Any:
    """A float32 in every lane."""
    return vector(types.float32), lambda _, builder, __, args: _everywhere(builder, args[0])


@intrinsic
def fused(_: Any, a: Any, b: Any, c: Any) -> Any:
    """a * b + c, rounded once where the processor can."""
    return vector(vector, vector, vector), lambda _, builder, __, args: _call(builder, f"llvm.fmuladd.v{LANES}f32", _FLOATS, *args)


@intrinsic
def larger(_: Any, a: Any, b: Any) -> Any:
    """The larger of each lane."""
    return vector(vector, vector), lambda _, builder, __, args: builder.select(builder.fcmp_ordered(">", *args), *args)


@intrinsic
def smaller(_: Any, a: Any, b: Any) -> Any:
    """The smaller of each lane."""
    return vector(vector, vector), lambda _, builder, __, args: builder.select(builder.fcmp_ordered("<", *args), *args)


@intrinsic
def total(_: Any, a: Any) -> Any:
    """The sum of the lanes, in pairs."""

    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        zero = ir.Constant(ir.FloatType(), 0.0)
        return _call(builder, f"llvm.vector.reduce.fadd.v{LANES}f32", ir.FloatType(), zero, args[0], fastmath=("reassoc",))

    return types.float32(vector), generate


@intrinsic
def largest(_: Any, a: Any) -> Any:
    """The largest lane."""

    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        return _call(builder, f"llvm.vector.reduce.fmax.v{LANES}f32", ir.FloatType(), args[0], fastmath=("nnan",))

    return types.float32(vector), generate


@intrinsic
def neighbours(_: Any, a: Any) -> Any:
    """Lanes 1, 0, 3, 2, ..."""

    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        return builder.shuffle_vector(args[0], args[0], ir.Constant(_INTS, [lane ^ 1 for lane in range(LANES)]))

    return vector(vector), generate


@intrinsic
def first_lanes(_: Any, a: Any, n: Any, other: Any) -> Any:
    """The first n lanes of a, and the rest of another."""

    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        lanes = ir.Constant(ir.VectorType(ir.IntType(64), LANES), list(range(LANES)))
        return builder.select(builder.icmp_signed("<", lanes, _everywhere(builder, args[1])), args[0], args[2])

    return vector(vector, types.int64, vector), generate


@intrinsic
def whole(_: Any, a: Any) -> Any:
    """The largest whole number that is not above each lane."""
    return vector(vector), lambda _, builder, __, args: _call(builder, f"llvm.floor.v{LANES}f32", _FLOATS, *args)


@intrinsic
def power_of_two(_: Any, a: Any) -> Any:
    """2^a of whole numbers from -126 to 127, by writing the exponent."""

    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        exponent = builder.add(builder.fptosi(args[0], _INTS), _constant(_INTS, 127))
        return builder.bitcast(builder.shl(exponent, _constant(_INTS, 23)), _FLOATS)

    return vector(vector), generate


def _binary(name: str) -> Any:
    @intrinsic
    def operation(_: Any, a: Any, b: Any) -> Any:
        return vector(vector, vector), lambda _, builder, __, args: getattr(builder, name)(*args)

    def typed(a, b):  # type: ignore[no-untyped-def]
        return (lambda a, b: operation(a, b)) if a is vector and b is vector else None

    return typed


for _operator, _name in ((operator.add, "fadd"), (operator.sub, "fsub"), (operator.mul, "fmul"), (operator.truediv, "fdiv")):
    overload(_operator, inline="always")(_binary(_name))
