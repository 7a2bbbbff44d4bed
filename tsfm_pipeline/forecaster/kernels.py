"""The decoder's work on a CPU: matrix products, attention, norms and activation, each in one pass
over memory.

What belongs here: loops that numba compiles for this processor, once per installation (into
`__pycache__`, or NUMBA_CACHE_DIR). They hold no lock, so batches run side by side. What does not:
the decoder that calls them (`compiled_decoder`), and the same operations on other devices
(`torch_decoder`).

The file contains first what the decoder calls, then the loops, then the vectors that the loops use.
A vector is sixteen float32 values, a numba type whose values stay in registers. It exists because
LLVM does not vectorise short loops over arrays that might overlap (a head's dimensions, a window's
tokens). A processor with narrower registers uses two registers per vector.

All loops are in one long file that imports nothing of the package, because numba keeps a compiled
function as long as that function's own file is unchanged, and does not notice a change in another
file. Factors are float32, or bfloat16 as the upper halves of float32 (stored as uint16, because
numpy has no such type). Sums and products are float32. Every size is a multiple of 16 (LANES).
"""

import math
import operator
from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
from llvmlite import ir
from numba import njit
from numba.core import cgutils, types
from numba.core.datamodel import models, register_default
from numba.core.registry import cpu_target
from numba.extending import intrinsic, overload

LANES = 16
_TARGET = cpu_target.target_context.codegen().magic_tuple()
TARGET = " ".join(_TARGET)
"""What the loops are compiled for: LLVM's triple, processor and features."""
_FEATURES = _TARGET[2].split(",")
NEEDED = ("+avx2", "+fma")
"""Processor features that the loops need and are tested with."""
if not set(NEEDED) <= set(_FEATURES):
    raise ImportError(f"the compiled loops need a processor with {' and '.join(NEEDED)}")
TILE_ROWS = 6
TILE_VECTORS = 4 if "+avx512f" in _FEATURES else 1
"""A tile of a product and the vectors that it is computed from fill the registers: 32 of sixteen
lanes, or 16 of eight (AVX2).
"""
PANEL = TILE_VECTORS * LANES
"""Columns of a tile."""
LIBRARY_ROWS = 32
"""Rows of a block that oneDNN multiplies: two tiles of an AMX processor."""
BLOCK = 192
"""Rows that pass through a feed-forward block at a time."""
QUERIES = 8
"""Queries that read a window's keys and values together: enough independent sums to hide the
latency of a multiply-add.
"""
NORM_EPSILON = np.float32(1e-6)
LOG2_E = np.float32(math.log2(math.e))
TAYLOR = tuple(np.float32(math.log(2) ** n / math.factorial(n)) for n in range(7))
"""2^r = sum of TAYLOR[n] r^n."""


class Weights(NamedTuple):
    """`model.Layer` as arrays: matrices packed, vectors as single rows.

    Its fields are part of the compiled code, so it is defined in this file.
    """

    query: npt.NDArray[np.generic]
    key_value: npt.NDArray[np.generic]
    query_scale: npt.NDArray[np.generic]
    attention_out: npt.NDArray[np.generic]
    after_attention: npt.NDArray[np.generic]
    ff0: npt.NDArray[np.generic]
    ff1: npt.NDArray[np.generic]
    after_ff: npt.NDArray[np.generic]


class Library(NamedTuple):
    """Addresses of oneDNN's products of small blocks, as torch exports them, and of the function
    that ends their use; 0 where the loops of this file multiply instead.

    float32, bfloat16: `void (int64 rows, int64 columns, int64 inputs, int64 stride of A, int64
    stride of B, int64 stride of C, bool add, A*, B*, float* C, bool pairs)`. release: `void
    (bool)`.
    """

    float32: int
    bfloat16: int
    release: int


def fit(head_dims: int, model_dims: int, ff_dims: int) -> bool:
    """Return whether heads of this size fill whole vectors and matrices fill whole panels."""
    return head_dims % LANES == 0 and model_dims % PANEL == 0 and ff_dims % PANEL == 0


def _compiled(function: Callable[..., Any]) -> Callable[..., Any]:
    try:
        return njit(cache=True, nogil=True, error_model="numpy")(function)
    except RuntimeError as error:
        raise ImportError(
            f"numba has no writable folder for its cache (set NUMBA_CACHE_DIR): {error}"
        ) from error


_inlined = njit(inline="always", error_model="numpy")


@_inlined
def _exp(x):  # type: ignore[no-untyped-def]
    """Return e^x for x <= 88, as 2^n 2^r with |r| <= 1/2 and six terms of the Taylor series of 2^r;
    the error is at most 1e-7.
    """
    power = larger(x * splat(LOG2_E), splat(np.float32(-126)))
    n = whole(power + splat(np.float32(0.5)))
    r = power - n
    series = splat(TAYLOR[6])
    for i in (5, 4, 3, 2, 1, 0):
        series = fused(series, r, splat(TAYLOR[i]))
    return series * power_of_two(n)


@_compiled
def product(x, matrix, out, library):  # type: ignore[no-untyped-def]
    """Compute out = x times a packed matrix of its type, in float32; or float32 x times a matrix
    that is packed in bfloat16 parts (`compiled_decoder.PackedMatrix.in_parts`).
    """
    _product(x, matrix, out, library)
    end_use(library.release)


def _product(x, matrix, out, library):  # type: ignore[no-untyped-def]
    """As `product`; the caller calls `end_use`."""
    raise NotImplementedError("for compiled loops only")


@overload(_product)
def _product_of_types(x, matrix, out, library):  # type: ignore[no-untyped-def]
    """Choose when compiling, so that no loop is compiled for types that it never gets."""
    multiply = _whole_product if x.dtype == matrix.dtype else _product_in_parts

    def of_these_types(x, matrix, out, library):  # type: ignore[no-untyped-def]
        multiply(x, matrix, out, library)

    return of_these_types


@_compiled
def _whole_product(x, matrix, out, library):  # type: ignore[no-untyped-def]
    """Compute a product with a matrix of x's type.

    The loops keep a panel of the matrix in the first-level cache while all rows pass. oneDNN gets
    blocks of `LIBRARY_ROWS` rows and one panel, always: a row's result then does not depend on the
    number of rows, and no thread makes more than one kernel per matrix. The last block begins
    earlier if it would not be full, so that its first rows are computed twice, with equal results.
    """
    multiply_block = of_its_type(library, matrix)
    n_rows = x.shape[0]
    if multiply_block == 0:
        for panel in range(matrix.shape[0]):
            for row in range(0, n_rows, TILE_ROWS):
                multiply(x, row, matrix, panel, out)
    elif n_rows >= LIBRARY_ROWS:
        for start in range(0, n_rows, LIBRARY_ROWS):
            row = min(start, n_rows - LIBRARY_ROWS)
            for panel in range(matrix.shape[0]):
                multiply_by_library(multiply_block, x, row, matrix, panel, out)
    else:
        filled = np.zeros((LIBRARY_ROWS, x.shape[1]), x.dtype)
        _copy(x, filled, n_rows)
        results = np.empty((LIBRARY_ROWS, out.shape[1]), np.float32)
        for panel in range(matrix.shape[0]):
            multiply_by_library(multiply_block, filled, 0, matrix, panel, results)
        _copy(results, out, n_rows)


@_compiled
def _copy(source, target, n_rows):  # type: ignore[no-untyped-def]
    """Copy the first rows; numba compiles this sooner than an assignment of slices."""
    for t in range(n_rows):
        for d in range(source.shape[1]):
            target[t, d] = source[t, d]


@_compiled
def _product_in_parts(x, matrix, out, library):  # type: ignore[no-untyped-def]
    """Compute a product with a matrix in parts. A value of x is the sum of its bfloat16 and of what
    that leaves, also in bfloat16, and so is a value of the matrix; of the four products of these,
    that of both small parts is left out.
    """
    n_block = min(x.shape[0], BLOCK)
    parts = np.empty((n_block, 3 * x.shape[1]), np.uint16)
    for start in range(0, x.shape[0], n_block):
        stop = min(start + n_block, x.shape[0])
        _split(x[start:stop], parts)
        _whole_product(parts[: stop - start], matrix, out[start:stop], library)


@_compiled
def _split(x, out):  # type: ignore[no-untyped-def]
    """Write x in bfloat16, what that leaves, and again x in bfloat16, side by side."""
    n_columns = x.shape[1]
    for t in range(x.shape[0]):
        for d in range(0, n_columns, LANES):
            value = load(x, t, d)
            high = in_bfloat16(value)
            store(out, t, d, high)
            store(out, t, n_columns + d, value - high)
            store(out, t, 2 * n_columns + d, high)


@_compiled
def layer(x, normed, key_value, weights, turns, tokens, queries, position, out, library):  # type: ignore[no-untyped-def]
    """Compute `FrozenDecoder.rest_of_layer`; out = x RMS-normed. Attention runs over all rows; the
    operations per row then run in blocks whose values stay in a core's caches.
    """
    n_rows, dims = x.shape
    query, read = np.empty((n_rows, dims), np.float32), np.empty((n_rows, dims), np.float32)
    _product(normed, weights.query, query, library)
    _attend(query, key_value, weights.query_scale, turns, tokens, queries, position, read)
    n_block, n_hidden = min(n_rows, BLOCK), weights.ff0.shape[0] * PANEL
    change, hidden = (
        np.empty((n_block, dims), np.float32),
        np.empty((n_block, n_hidden), np.float32),
    )
    normed_block, active = (
        np.empty((n_block, dims), weights.ff0.dtype),
        np.empty((n_block, n_hidden), weights.ff1.dtype),
    )
    for start in range(0, n_rows, n_block):
        stop = min(start + n_block, n_rows)
        n = stop - start
        _product(read[start:stop], weights.attention_out, change[:n], library)
        _add_normed(x[start:stop], change[:n], weights.after_attention, normed_block[:n])
        _product(normed_block[:n], weights.ff0, hidden[:n], library)
        _silu(hidden[:n], active[:n])
        _product(active[:n], weights.ff1, change[:n], library)
        _add_normed(x[start:stop], change[:n], weights.after_ff, out[start:stop])
    end_use(library.release)


@_compiled
def _silu(x, out):  # type: ignore[no-untyped-def]
    """Compute out = x / (1 + exp(-x))."""
    one, most = splat(np.float32(1)), splat(np.float32(88))
    for t in range(x.shape[0]):
        for d in range(0, x.shape[1], LANES):
            value = load(x, t, d)
            store(out, t, d, value / (one + _exp(smaller(splat(np.float32(0)) - value, most))))


@_inlined
def _inverse_rms(matrix, row, column, dims):  # type: ignore[no-untyped-def]
    squares = splat(np.float32(0))
    for d in range(column, column + dims, LANES):
        value = load(matrix, row, d)
        squares = fused(value, value, squares)
    return splat(np.float32(1) / np.sqrt(total(squares) / np.float32(dims) + NORM_EPSILON))


@_compiled
def _add_normed(x, change, scale, normed):  # type: ignore[no-untyped-def]
    """Add the RMS-normed change times the scale to x; write x RMS-normed to `normed`."""
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
    """Write a head's values matrix[row, column:], normed, rotated and scaled, to out[out_row]."""
    dims = out.shape[1]
    factor = _inverse_rms(matrix, row, column, dims)
    for d in range(0, dims, LANES):
        value = load(matrix, row, column + d) * factor
        turned = fused(
            value, load(turns, position, d), neighbours(value) * load(turns, position, dims + d)
        )
        store(out, out_row, d, turned * load(scale, 0, d))


@_inlined
def _softmax(products, row, n_seen, n_columns):  # type: ignore[no-untyped-def]
    """Turn the first n_seen products of a row into weights and the others into (almost) 0; return 1
    / the weights' sum.
    """
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
def _attend(query, key_value, scale, turns, tokens, queries, position, out):  # type: ignore[no-untyped-def]
    """Compute what queries read from the tokens of their own windows, up to their own position.

    For each window and head, lay out the keys for the vectors, then take the queries eight at a
    time, so that keys and values are loaded once for eight queries.
    """
    dims = scale.shape[1]
    n_heads = query.shape[1] // dims
    longest = 0
    for w in range(len(tokens) - 1):
        longest = max(longest, tokens[w + 1] - tokens[w])
    width = -(-longest // LANES) * LANES
    ones = np.ones((1, dims), np.float32)
    rows = np.zeros((width, dims), np.float32)
    keys = np.empty((dims, width), np.float32)
    rotated = np.empty((QUERIES, dims), np.float32)
    weights = np.empty((QUERIES, width), np.float32)
    read = np.empty((QUERIES, dims), np.float32)
    factors = np.empty(QUERIES, np.float32)
    for w in range(len(tokens) - 1):
        if queries[w] == queries[w + 1]:
            continue
        n_tokens = tokens[w + 1] - tokens[w]
        for head in range(n_heads):
            for j in range(n_tokens):
                _rotate(key_value, tokens[w] + j, head * dims, turns, j, ones, rows, j)
            for j in range(0, n_tokens, LANES):
                for d in range(0, dims, LANES):
                    transpose(rows, j, d, keys)
            for i in range(queries[w], queries[w + 1], QUERIES):
                n_rows = min(QUERIES, queries[w + 1] - i)
                n_keys = 0
                for r in range(QUERIES):
                    row = i + min(r, n_rows - 1)  # fewer than eight: repeat the last
                    n_keys = max(n_keys, position[row] + 1)
                    _rotate(query, row, head * dims, turns, position[row], scale, rotated, r)
                for j in range(0, n_keys, LANES):
                    read_off(rotated, keys, 0, j, dims, weights, j)
                for r in range(n_rows):
                    factors[r] = _softmax(weights, r, position[i + r] + 1, n_keys)
                for d in range(0, dims, LANES):
                    read_off(
                        weights, key_value, tokens[w], (n_heads + head) * dims + d, n_keys, read, d
                    )
                for r in range(n_rows):
                    for d in range(0, dims, LANES):
                        store(out, i + r, head * dims + d, load(read, r, d) * splat(factors[r]))


_FLOATS = ir.VectorType(ir.FloatType(), LANES)
_INTS = ir.VectorType(ir.IntType(32), LANES)


class _BFloat16(ir.Type):
    """The bfloat16 type by LLVM's name, because llvmlite does not know it."""

    def _to_string(self) -> str:
        return "bfloat"


_HALVES = ir.VectorType(ir.IntType(16), LANES)
_PAIRS = ir.VectorType(_BFloat16(), 2 * LANES)


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
    one = builder.insert_element(
        ir.Constant(kind, ir.Undefined), value, ir.Constant(ir.IntType(32), 0)
    )
    return builder.shuffle_vector(one, ir.Constant(kind, ir.Undefined), _constant(_INTS, 0))


def _call(builder: Any, name: str, result: Any, *args: Any, fastmath: tuple[str, ...] = ()) -> Any:
    function = cgutils.get_or_insert_function(
        builder.module, ir.FunctionType(result, [arg.type for arg in args]), name
    )
    return builder.call(function, args, fastmath=fastmath)


def _array_of(context: Any, builder: Any, signature: Any, args: Any, which: int) -> Any:
    """Return the array that is this argument of an intrinsic."""
    return context.make_array(signature.args[which])(context, builder, args[which])


def _address(
    context: Any, builder: Any, signature: Any, args: Any, which: int, at: Any, kind: Any
) -> Any:
    """Return a pointer of type `kind` to the values at these indices of an array argument."""
    array = _array_of(context, builder, signature, args, which)
    return builder.bitcast(
        cgutils.get_item_pointer(
            context, builder, signature.args[which], array, at, wraparound=False
        ),
        kind.as_pointer(),
    )


@intrinsic
def load(_: Any, array: Any, i: Any, j: Any) -> Any:
    """Return array[i, j : j + 16] of a float32 array."""

    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        return builder.load(
            _address(context, builder, signature, args, 0, args[1:], _FLOATS), align=4
        )

    return vector(array, types.intp, types.intp), generate


def _rounded(builder: Any, value: Any) -> Any:
    """Return the bits of a vector whose upper halves are its values in bfloat16."""
    bits = builder.bitcast(value, _INTS)
    odd = builder.and_(builder.lshr(bits, _constant(_INTS, 16)), _constant(_INTS, 1))
    return builder.add(builder.add(bits, _constant(_INTS, 0x7FFF)), odd)


@intrinsic
def in_bfloat16(_: Any, value: Any) -> Any:
    """Return a vector's values rounded to bfloat16, as float32."""

    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        upper = builder.and_(_rounded(builder, args[0]), _constant(_INTS, 0xFFFF0000))
        return builder.bitcast(upper, _FLOATS)

    return vector(vector), generate


@intrinsic
def store(_: Any, array: Any, i: Any, j: Any, value: Any) -> Any:
    """Set array[i, j : j + 16] = value, rounded to nearest with ties to even in bfloat16."""

    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        kind, value = _FLOATS, args[3]
        if array.dtype != types.float32:
            upper = builder.lshr(_rounded(builder, value), _constant(_INTS, 16))
            kind, value = _HALVES, builder.trunc(upper, _HALVES)
        builder.store(
            value, _address(context, builder, signature, args, 0, args[1:3], kind), align=2
        )
        return context.get_dummy_value()

    return types.void(array, types.intp, types.intp, vector), generate


def _sums(
    builder: Any,
    n: Any,
    factors: list[Any],
    n_vectors: int,
    load_vector: Callable[[Any, int], Any],
    add: Callable[..., Any],
) -> list[list[Any]]:
    """Return, for each row, the sums over k < n of the row's k-th factor times the k-th vectors,
    kept in registers. `factors` are pointers to each row's first factor.
    """
    sums = [
        [cgutils.alloca_once_value(builder, _constant(_FLOATS, 0.0)) for _ in range(n_vectors)]
        for _ in factors
    ]
    with cgutils.for_range(builder, n, intp=n.type) as loop:
        vectors = [load_vector(loop.index, v) for v in range(n_vectors)]
        for factor, of_row in zip(factors, sums, strict=True):
            everywhere = _everywhere(
                builder, builder.load(builder.gep(factor, [loop.index]), align=4)
            )
            for part, sum_ in zip(vectors, of_row, strict=True):
                builder.store(add(everywhere, part, builder.load(sum_)), sum_)
    return [[builder.load(sum_) for sum_ in of_row] for of_row in sums]


def _fused(builder: Any, a: Any, b: Any, c: Any) -> Any:
    return _call(builder, f"llvm.fmuladd.v{LANES}f32", _FLOATS, a, b, c)


@intrinsic
def multiply(_: Any, x: Any, row: Any, matrix: Any, panel: Any, out: Any) -> Any:
    """Set out[row : row + 6, columns of the panel] = x[row : row + 6] times a panel of a packed
    matrix. Rows beyond the last one repeat the last.
    """
    wide = matrix.dtype == types.float32
    of_x, of_matrix = (ir.FloatType(), _FLOATS) if wide else (ir.IntType(32), _INTS)

    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        def index(value: int) -> ir.Constant:
            return ir.Constant(args[1].type, value)

        def size(which: int, axis: int) -> Any:
            return builder.extract_value(
                _array_of(context, builder, signature, args, which).shape, axis
            )

        def address(which: int, at: list[Any], kind: Any) -> Any:
            return _address(context, builder, signature, args, which, at, kind)

        def of_panel(k: Any, v: int) -> Any:
            return builder.load(
                builder.gep(columns, [builder.add(builder.mul(k, index(TILE_VECTORS)), index(v))]),
                align=4,
            )

        def add(a: Any, b: Any, sum_: Any) -> Any:
            if wide:
                return _fused(builder, a, b, sum_)
            if "+avx512bf16" in _FEATURES:
                pairs = [builder.bitcast(part, _PAIRS) for part in (a, b)]
                return _call(builder, "llvm.x86.avx512bf16.dpbf16ps.512", _FLOATS, sum_, *pairs)
            first = [builder.shl(part, _constant(_INTS, 16)) for part in (a, b)]
            second = [builder.and_(part, _constant(_INTS, 0xFFFF0000)) for part in (a, b)]
            for parts in (first, second):
                sum_ = _fused(
                    builder,
                    builder.bitcast(parts[0], _FLOATS),
                    builder.bitcast(parts[1], _FLOATS),
                    sum_,
                )
            return sum_

        last = builder.sub(size(0, 0), index(1))
        rows = [builder.add(args[1], index(r)) for r in range(TILE_ROWS)]
        rows = [builder.select(builder.icmp_signed("<", one, last), one, last) for one in rows]
        columns = address(2, [args[3], index(0), index(0)], of_matrix)
        sums = _sums(
            builder,
            size(2, 1),
            [address(0, [one, index(0)], of_x) for one in rows],
            TILE_VECTORS,
            of_panel,
            add,
        )
        for one, of_row in zip(rows, sums, strict=True):
            for v, sum_ in enumerate(of_row):
                column = builder.add(builder.mul(args[3], index(PANEL)), index(v * LANES))
                builder.store(sum_, address(4, [one, column], _FLOATS), align=4)
        return context.get_dummy_value()

    return types.void(x, types.intp, matrix, types.intp, out), generate


@intrinsic
def of_its_type(_: Any, library: Any, matrix: Any) -> Any:
    """Return the member of a `Library` that multiplies by a matrix of this type."""
    which = Library._fields.index("float32" if matrix.dtype == types.float32 else "bfloat16")

    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        return builder.extract_value(args[0], which)

    return types.int64(library, matrix), generate


def _function_at(builder: Any, address: Any, kinds: list[Any]) -> Any:
    """Return the C function without a result at this address."""
    return builder.inttoptr(address, ir.FunctionType(ir.VoidType(), kinds).as_pointer())


@intrinsic
def multiply_by_library(
    _: Any, function: Any, x: Any, row: Any, matrix: Any, panel: Any, out: Any
) -> Any:
    """Set out[row : row + LIBRARY_ROWS, columns of the panel] = x[row : row + LIBRARY_ROWS] times a
    panel of a packed matrix, by the function at this address (see `Library`). bfloat16 panels hold
    pairs, as it expects where it uses AMX.
    """

    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        size, byte = ir.IntType(64), ir.IntType(8)

        def address(which: int, at: list[Any]) -> Any:
            return _address(context, builder, signature, args, which, at, byte)

        zero = ir.Constant(args[2].type, 0)
        n_inputs = builder.extract_value(_array_of(context, builder, signature, args, 1).shape, 1)
        n_columns = builder.extract_value(_array_of(context, builder, signature, args, 5).shape, 1)
        columns = builder.mul(args[4], ir.Constant(args[4].type, PANEL))
        values = [
            ir.Constant(size, LIBRARY_ROWS),
            ir.Constant(size, PANEL),
            n_inputs,
            n_inputs,
            ir.Constant(size, PANEL),
            n_columns,
            ir.Constant(byte, 0),
            address(1, [args[2], zero]),
            address(3, [args[4], zero, zero]),
            address(5, [args[2], columns]),
            ir.Constant(byte, int(matrix.dtype != types.float32)),
        ]
        builder.call(_function_at(builder, args[0], [value.type for value in values]), values)
        return context.get_dummy_value()

    return types.void(function, x, types.intp, matrix, types.intp, out), generate


@intrinsic
def end_use(_: Any, function: Any) -> Any:
    """Call a library's `release`, if there is one: it frees the tile registers of this thread.
    Other AMX code in it would otherwise find them set up for these products.
    """

    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        with builder.if_then(builder.icmp_signed("!=", args[0], ir.Constant(args[0].type, 0))):
            true = ir.Constant(ir.IntType(8), 1)
            builder.call(_function_at(builder, args[0], [true.type]), [true])
        return context.get_dummy_value()

    return types.void(types.int64), generate


@intrinsic
def read_off(_: Any, a: Any, b: Any, i: Any, j: Any, n: Any, out: Any, column: Any) -> Any:
    """Set out[:8, column : column + 16] = a[:8, :n] @ b[i : i + n, j : j + 16], in float32."""

    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        def address(which: int, row: Any, column: Any, kind: Any) -> Any:
            return _address(context, builder, signature, args, which, [row, column], kind)

        def of_b(k: Any, _: int) -> Any:
            return builder.load(address(1, builder.add(args[2], k), args[3], _FLOATS), align=4)

        index = [ir.Constant(args[2].type, r) for r in range(QUERIES)]
        sums = _sums(
            builder,
            args[4],
            [address(0, r, index[0], ir.FloatType()) for r in index],
            1,
            of_b,
            partial(_fused, builder),
        )
        for r, (sum_,) in zip(index, sums, strict=True):
            builder.store(sum_, address(5, r, args[6], _FLOATS), align=4)
        return context.get_dummy_value()

    return types.void(a, b, types.intp, types.intp, types.intp, out, types.intp), generate


@intrinsic
def transpose(_: Any, source: Any, i: Any, j: Any, target: Any) -> Any:
    """Set target[j : j + 16, i : i + 16] = source[i : i + 16, j : j + 16].T, in float32."""

    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        def address(array: int, i: Any, j: Any, step: int) -> Any:
            return _address(
                context,
                builder,
                signature,
                args,
                array,
                [builder.add(i, ir.Constant(i.type, step)), j],
                _FLOATS,
            )

        rows = [builder.load(address(0, args[1], args[2], step), align=4) for step in range(LANES)]
        for distance in (
            1,
            2,
            4,
            8,
        ):  # exchange blocks of this size across the diagonal, in pairs of rows this far apart
            low = [lane + (LANES - distance) * (lane & distance > 0) for lane in range(LANES)]
            for first in (row for row in range(LANES) if not row & distance):
                pair = rows[first], rows[first + distance]
                rows[first] = builder.shuffle_vector(*pair, ir.Constant(_INTS, low))
                rows[first + distance] = builder.shuffle_vector(
                    *pair, ir.Constant(_INTS, [lane + distance for lane in low])
                )
        for step, row in enumerate(rows):
            builder.store(row, address(3, args[2], args[1], step), align=4)
        return context.get_dummy_value()

    return types.void(source, types.intp, types.intp, target), generate


@intrinsic
def splat(_: Any, value: Any) -> Any:
    """Return a vector with a float32 value in every lane."""
    return vector(types.float32), lambda _, builder, __, args: _everywhere(builder, args[0])


@intrinsic
def fused(_: Any, a: Any, b: Any, c: Any) -> Any:
    """Return a * b + c, rounded once where the processor supports it."""
    return vector(vector, vector, vector), lambda _, builder, __, args: _fused(builder, *args)


@intrinsic
def larger(_: Any, a: Any, b: Any) -> Any:
    """Return the larger value of each lane."""
    return vector(vector, vector), lambda _, builder, __, args: builder.select(
        builder.fcmp_ordered(">", *args), *args
    )


@intrinsic
def smaller(_: Any, a: Any, b: Any) -> Any:
    """Return the smaller value of each lane."""
    return vector(vector, vector), lambda _, builder, __, args: builder.select(
        builder.fcmp_ordered("<", *args), *args
    )


@intrinsic
def total(_: Any, a: Any) -> Any:
    """Return the sum of the lanes, added in pairs."""

    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        zero = ir.Constant(ir.FloatType(), 0.0)
        return _call(
            builder,
            f"llvm.vector.reduce.fadd.v{LANES}f32",
            ir.FloatType(),
            zero,
            args[0],
            fastmath=("reassoc",),
        )

    return types.float32(vector), generate


@intrinsic
def largest(_: Any, a: Any) -> Any:
    """Return the largest lane."""

    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        return _call(
            builder,
            f"llvm.vector.reduce.fmax.v{LANES}f32",
            ir.FloatType(),
            args[0],
            fastmath=("nnan",),
        )

    return types.float32(vector), generate


@intrinsic
def neighbours(_: Any, a: Any) -> Any:
    """Return lanes 1, 0, 3, 2, ..."""

    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        return builder.shuffle_vector(
            args[0], args[0], ir.Constant(_INTS, [lane ^ 1 for lane in range(LANES)])
        )

    return vector(vector), generate


@intrinsic
def first_lanes(_: Any, a: Any, n: Any, other: Any) -> Any:
    """Return the first n lanes of `a` and the remaining lanes of `other`."""

    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        lanes = ir.Constant(ir.VectorType(ir.IntType(64), LANES), list(range(LANES)))
        return builder.select(
            builder.icmp_signed("<", lanes, _everywhere(builder, args[1])), args[0], args[2]
        )

    return vector(vector, types.int64, vector), generate


@intrinsic
def whole(_: Any, a: Any) -> Any:
    """Return the floor of each lane."""
    return vector(vector), lambda _, builder, __, args: _call(
        builder, f"llvm.floor.v{LANES}f32", _FLOATS, *args
    )


@intrinsic
def power_of_two(_: Any, a: Any) -> Any:
    """Return 2^a for whole numbers a from -126 to 127, by writing the exponent."""

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


for _operator, _name in (
    (operator.add, "fadd"),
    (operator.sub, "fsub"),
    (operator.mul, "fmul"),
    (operator.truediv, "fdiv"),
):
    overload(_operator, inline="always")(_binary(_name))
