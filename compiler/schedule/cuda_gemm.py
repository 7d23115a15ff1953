"""One tiled matrix product on CUDA cores in f32: C[m, n] = sum over k of A[m, k] * B[k, n], for operands that are read by
index maps (a convolution's windows are never in memory).

A block of threads makes a tile of C. Tiles of A and B go through registers into shared memory, twice as much of it as one
step needs, so that the next step's loads are under way while this one is multiplied. They lie there with k outermost: a
thread reads four neighbours at once, and keeps its part of C (up to 8x8) in registers. Rows of A in shared memory are 4
words longer than the tile, so that what is transposed on the way hits 32 different banks.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from tvm import tirx
from tvm.script.ir_builder import tirx as T

from compiler.gpus import WARP
from compiler.schedule.cuda_index import Grid, assumed, bind, both, ceildiv, i32, i64, static, truncdiv
from compiler.schedule.cuda_tiles import Tile
from compiler.schedule.kernel import COUNTERS, Kernel


@dataclass(frozen=True)
class Side:
    """Rows of A, or columns of B.

    extent: how many in a group; along: whether neighbours in memory follow each other along "k" or along "row", and
    `vector` how many of them one load takes. place(group, row): what a thread needs to know of a row (scalars that are
    kept in registers); inside(place, step): whether the element is one, None for always; read(place, step, lane): the
    element, or its neighbour number `lane`. A step is what `Product.step` makes of k.
    """

    extent: Any
    place: Callable[[Any, Any], Sequence[Any]]
    inside: Callable[[Sequence[Any], Sequence[Any]], Any]
    read: Callable[[Sequence[Any], Sequence[Any], Any], Any]
    along: str = "row"
    vector: int = 1


@dataclass(frozen=True)
class Product:
    """extent: of k; step(base, within, depth): what readers need to know of k = base + within, where base is a multiple of
    depth, the same for all threads, and within < depth. groups: independent products, side by side.

    vector: how many neighbours along n are stored at once; result(group, m): what a thread needs to know of a row of C;
    store(row, group, n, value, width): stores C[m, n + lane] = value(lane) for `width` lanes, at most `vector`. run: steps of k do not cross its
    multiples.
    """

    a: Side
    b: Side
    extent: Any
    step: Callable[[Any, Any, int], Sequence[Any]]
    groups: int
    result: Callable[[Any, Any], Sequence[Any]]
    store: Callable[[Sequence[Any], Any, Any, Callable[[Any], Any], int], None]
    vector: int = 1
    run: int | None = None


class Emitter:
    """The statements of one block of a product. What differs where tensor cores multiply: `within`, `multiply` and `store`."""

    def __init__(self, product: Product, kernel: Kernel, tile: Tile, batch: int):
        self.product, self.kernel, self.tile, self.threads = product, kernel, tile, tile.threads
        self.lengths = tile.m + tile.pad, tile.n + tile.pad
        self.round: Callable[[Any], Any] | None = None  # what is done with operands before they are multiplied
        self.own = tile.m * tile.n // tile.threads  # results of a thread
        self.starts = 0, 2 * tile.k * self.lengths[0]  # in shared memory
        self.steps = ceildiv(product.extent, tile.k)
        self.tiles = ceildiv(product.a.extent, tile.m), ceildiv(product.b.extent, tile.n)
        self.all = self.tiles[0] * self.tiles[1] * product.groups
        # Parts of sums fill the GPU at the design batch; a larger batch has fewer for each tile, and needs no more memory.
        self.most = assumed(self.all, batch) * tile.split
        self.split = tile.split if kernel.counters is not None and self.most <= COUNTERS // 4 else 1

    @property
    def grid(self) -> Grid:
        return Grid(self.all * self.split, self.threads, self.emit, self.tile.words, 0 if self.split == 1 else self.most,
                    self.tile.seconds)

    def emit(self, block: Any, thread: Any, shared: Any, counter: int) -> None:
        if self.split == 1:
            self._block(block, (i32(0), i32(self.steps)), None, thread, shared)
            return
        steps, number = bind(i32(self.steps)), bind(truncdiv(block, self.split))
        part = bind(tirx.truncmod(block, i32(self.split)))
        wanted = bind(tirx.max(i32(1), tirx.min(i32(self.split), tirx.truncdiv(i32(self.most), i32(self.all)))))
        per = bind(tirx.truncdiv(steps + wanted - 1, wanted))
        parts = bind(tirx.truncdiv(steps + per - 1, per))  # the last has fewer steps, but has some
        with T.If(part < parts), T.Then():
            span = bind(part * per), bind(tirx.min((part + 1) * per, steps))
            self._block(number, span, (part, parts, counter), thread, shared)

    def _block(self, number: Any, span: tuple[Any, Any], part: tuple[Any, Any, int] | None, thread: Any, shared: Any) -> None:
        """Tile `number`, or the part of its sum in the steps of `span`. part: its number, how many there are, and the first
        counter."""
        tile, product = self.tile, self.product
        begin, end = span
        rows, columns = self.tiles
        per_group = rows * columns
        group = i32(0) if product.groups == 1 else bind(tirx.truncdiv(number, i32(per_group)))
        turn = number if product.groups == 1 else tirx.truncmod(number, i32(per_group))
        first = (bind(tirx.truncdiv(turn, i32(columns))) * i32(tile.m),
                 bind(tirx.truncmod(turn, i32(columns))) * i32(tile.n))
        loaders = [_Loader(self, side, group, at, thread, shared, *place) for side, at, place in zip(
            (product.a, product.b), first, zip((tile.m, tile.n), self.lengths, self.starts))]
        sums = T.alloc_buffer((self.own,), "float32", scope="local")
        with T.unroll(0, self.own) as i:
            T.buffer_store(sums, tirx.const(0.0, "float32"), [i])
        across, down = self.within(thread)
        for loader in loaders:
            loader.fetch(begin)
        for loader in loaders:
            loader.keep(i32(0))
        _barrier()
        with T.serial(0, end - begin) as step:
            half = bind(tirx.truncmod(step, i32(2)))
            with T.If(step + 1 < end - begin), T.Then():
                for loader in loaders:
                    loader.fetch(begin + step + 1)
            self.multiply(shared, sums, across, down, half)
            with T.If(step + 1 < end - begin), T.Then():
                for loader in loaders:
                    loader.keep(i32(1) - half)
            _barrier()
        if part is None:
            self.store(sums, group, first, across, down)
            return
        last = T.alloc_buffer((1,), "int32", scope="local")
        T.buffer_store(last, i32(1), [0])
        with T.If(part[1] > 1), T.Then():
            self._add_parts(sums, last, thread, number, *part)
        with T.If(last[0] != 0), T.Then():
            self.store(sums, group, first, across, down)

    def _add_parts(self, sums: Any, last: Any, thread: Any, number: Any, part: Any, parts: Any, counter: int) -> None:
        """The sums of this part go to memory; the block that comes last adds those of all parts, in their order."""
        each = self.own // 4
        memory = self.kernel.scratch((i64(self.most * self.tile.m * self.tile.n),), "float32")

        def at(part: Any, i: Any, lane: Any) -> list[Any]:
            return [(((number * parts + part) * each + i) * self.threads + thread) * 4 + lane]

        with T.unroll(0, each) as i, T.vectorized(0, 4) as lane:
            T.buffer_store(memory, sums[i * 4 + lane], at(part, i, lane))
        counters = self.kernel.counters()
        mine = T.address_of(counters[number + counter])
        T.buffer_store(last, T.call_extern("int32", "netc_last_block", mine, parts), [0])
        with T.If(last[0] != 0), T.Then():
            with T.unroll(0, each * 4) as i:
                T.buffer_store(sums, tirx.const(0.0, "float32"), [i])
            with T.serial(0, parts) as other:
                with T.unroll(0, each) as i, T.vectorized(0, 4) as lane:
                    T.buffer_store(sums, sums[i * 4 + lane] + memory[at(other, i, lane)[0]], [i * 4 + lane])

    def within(self, thread: Any) -> tuple[Any, Any]:
        """A thread's column and row among those of the block; a warp is 8 columns wide where there are as many."""
        wide = self.tile.n // self.tile.thread_n
        narrow = min(8, wide)
        high = WARP // narrow
        lane, warp = tirx.truncmod(thread, i32(WARP)), tirx.truncdiv(thread, i32(WARP))
        across = tirx.truncmod(warp, i32(wide // narrow)) * narrow + tirx.truncmod(lane, i32(narrow))
        down = tirx.truncdiv(warp, i32(wide // narrow)) * high + tirx.truncdiv(lane, i32(narrow))
        return bind(across), bind(down)

    def multiply(self, shared: Any, sums: Any, across: Any, down: Any, half: Any) -> None:
        tile = self.tile
        parts = []
        for length, start, size, own, at in zip(self.lengths, self.starts, (tile.m, tile.n), (tile.thread_m, tile.thread_n),
                                                (down, across)):
            base = bind(half * (tile.k * length // 4) + at + start // 4) * 4
            parts.append((T.alloc_buffer((own,), "float32", scope="local"), base, length, size // (own // 4), own // 4))
        with T.unroll(0, tile.k) as k:
            for mine, base, length, apart, count in parts:
                with T.unroll(0, count) as chunk, T.vectorized(0, 4) as lane:
                    T.buffer_store(mine, shared[base + k * length + chunk * apart + lane], [chunk * 4 + lane])
            (a, *_), (b, *_) = parts
            with T.unroll(0, tile.thread_m) as i, T.unroll(0, tile.thread_n) as j:
                at = i * tile.thread_n + j
                T.buffer_store(sums, sums[at] + a[i] * b[j], [at])

    def store(self, sums: Any, group: Any, first: tuple[Any, Any], across: Any, down: Any) -> None:
        tile, product, width = self.tile, self.product, self.product.vector
        row_chunks, column_chunks = tile.thread_m // 4, tile.thread_n // 4
        with T.unroll(0, tile.thread_m) as i:
            m = first[0] + tirx.truncdiv(i, i32(4)) * (tile.m // row_chunks) + down * 4 + tirx.truncmod(i, i32(4))
            with where(None if self.whole(product.a, tile.m) else m < i32(product.a.extent)):
                row = [bind(value) for value in product.result(group, m)]
                with T.unroll(0, tile.thread_n // width) as j:
                    chunk, rest = (j, i32(0)) if width == 4 else (tirx.truncdiv(j, i32(4 // width)), tirx.truncmod(
                        j, i32(4 // width)) * width)
                    n = first[1] + chunk * (tile.n // column_chunks) + across * 4 + rest
                    with where(None if self.whole(product.b, tile.n) else n < i32(product.b.extent)):
                        product.store(row, group, n, lambda lane: sums[i * tile.thread_n + j * width + lane], width)

    @staticmethod
    def whole(side: Side, size: int) -> bool:
        """Whether tiles of so many rows hold nothing but rows."""
        known = static(side.extent)
        return known is not None and known % size == 0


class _Loader:
    """A thread's part of bringing one operand's tiles into shared memory."""

    def __init__(self, emitter: Emitter, side: Side, group: Any, first: Any, thread: Any, shared: Any, size: int, length: int,
                 start: int):
        self.product, self.side, self.shared, self.start = emitter.product, side, shared, start
        self.depth, self.length, self.width, self.round = emitter.tile.k, length, side.vector, emitter.round
        loads = size * self.depth // self.width
        self.count = -(-loads // emitter.threads)
        self.active = None if loads % emitter.threads == 0 else thread < i32(loads)
        self.rows, self.ks, self.places = [], [], []
        whole = emitter.whole(side, size)
        rows: dict[Any, Any] = {}
        for turn in range(self.count):
            key, row, k = self._split(thread, turn, emitter.threads, size)
            if key not in rows:
                row = bind(row) if side.along == "k" else bind(truncdiv(row, self.width)) * self.width
                ok = None if whole else bind(first + row < i32(side.extent))
                rows[key] = row, ok, [bind(value) for value in side.place(group, first + row)]
            row, *place = rows[key]
            self.rows.append(row)
            self.ks.append(k)
            self.places.append(place)
        self.stage = T.alloc_buffer((self.count * self.width,), "float32", scope="local")

    def _split(self, thread: Any, turn: int, threads: int, size: int) -> tuple[int, Any, Any]:
        """The first row and k, within a tile, of a thread's load number `turn`; turns of one number have the same row.

        Along k, 8 elements of a row are read side by side: a sector of memory, and as many as go to different banks.
        """
        if self.side.along == "k":
            across = min(8, self.depth) // self.width
            down, lane = tirx.truncdiv(thread, i32(across)), tirx.truncmod(thread, i32(across))
            sweep = across * size // threads
            if sweep:
                return turn % sweep, down + turn % sweep * (threads // across), (lane + turn // sweep * across) * self.width
            deep = tirx.truncdiv(thread, i32(across * size)) + turn * (threads // (across * size))
            return 0, tirx.truncmod(down, i32(size)), (lane + deep * across) * self.width
        across = size // self.width
        if across > threads:
            sweep = across // threads
            return turn % sweep, (thread + turn % sweep * threads) * self.width, i32(turn // sweep)
        return (0, tirx.truncmod(thread, i32(across)) * self.width,
                tirx.truncdiv(thread, i32(across)) + turn * (threads // across))

    def fetch(self, step: Any) -> None:
        """From memory into registers; zeros where there is nothing."""
        zero = tirx.const(0.0, "float32")
        whole = static(self.product.extent) is not None and static(self.product.extent) % self.depth == 0
        for turn in range(self.count):
            base = bind(step * self.depth)
            k = base + self.ks[turn]
            at = [bind(value) for value in self.product.step(base, self.ks[turn], self.depth)]
            ok, place = self.places[turn]
            condition = both(self.active, ok, None if whole else k < i32(self.product.extent), self.side.inside(place, at))

            def read(lane: Any) -> Any:
                return self.side.read(place, at, lane)

            def put(value: Callable[[Any], Any]) -> None:
                if self.width == 1:
                    T.buffer_store(self.stage, value(i64(0)), [turn])
                    return
                with T.vectorized(0, i64(self.width)) as lane:
                    T.buffer_store(self.stage, value(lane), [turn * self.width + lane])

            if condition is None:
                put(read)
                continue
            with T.If(condition):
                with T.Then():
                    put(read)
                with T.Else():
                    put(lambda lane: zero)

    def keep(self, half: Any) -> None:
        """From registers into shared memory."""
        if self.round is not None:
            with T.unroll(0, self.count * self.width) as i:
                T.buffer_store(self.stage, self.round(self.stage[i]), [i])
        for turn in range(self.count):
            base = self.start + half * (self.depth * self.length) + self.ks[turn] * self.length + self.rows[turn]
            with where(self.active):
                if self.side.along == "k":
                    with T.unroll(0, self.width) as lane:
                        T.buffer_store(self.shared, self.stage[turn * self.width + lane], [base + lane * self.length])
                elif self.width == 1:
                    T.buffer_store(self.shared, self.stage[turn], [base])
                else:
                    with T.vectorized(0, self.width) as lane:
                        T.buffer_store(self.shared, self.stage[turn * self.width + lane], [base + lane])


class where:
    """`with where(condition)`: statements under a condition, or always for None."""

    def __init__(self, condition: Any):
        self.frames = [] if condition is None else [T.If(condition), T.Then()]

    def __enter__(self) -> None:
        for frame in self.frames:
            frame.__enter__()

    def __exit__(self, *problem: Any) -> None:
        for frame in reversed(self.frames):
            frame.__exit__(*problem)


def _barrier() -> None:
    T.evaluate(T.tvm_storage_sync("shared"))
