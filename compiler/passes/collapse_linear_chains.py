"""Linear layers that follow each other with nothing between them become one, where the cost model says it saves work.

W2 (W1 x + b1) + b2 = (W2 W1) x + (W2 b1 + b2). The same holds of a convolution and a 1×1 one before or behind it,
and of a dense layer that reads the flattened maps of a convolution. Products of weights are arithmetic on the user's
parameters.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from compiler.build import Builder, Value
from compiler.dims import Dim
from compiler.ir import Graph, Node, TensorType, unite
from compiler.ops import REGISTRY, OpError, namespace
from compiler.passes.base import Context, Rewrite, graph_pass, layers
from compiler.passes.price import become, fixed, only_reader, price

BETWEEN = ("flatten", "dropout", "copy")  # dropout does nothing where this pass runs
ANYWHERE = 64  # longer chains of weights are split near the middle, so that recursion stays shallow


@dataclass(frozen=True)
class Layer:
    """A dense layer or convolution without its weights: types of what it reads, makes and multiplies by."""

    op: str
    attrs: tuple[tuple[str, Any], ...]
    x: TensorType
    weight: TensorType
    bias: bool

    @property
    def operands(self) -> list[TensorType]:
        return [self.x, self.weight, *([self.weight.with_shape(self.weight.shape[0])] if self.bias else [])]

    @property
    def result(self) -> TensorType:
        return REGISTRY[self.op].infer(namespace(dict(self.attrs)), *self.operands)

    def __getitem__(self, attr: str) -> Any:
        return dict(self.attrs)[attr]

    @property
    def pointwise(self) -> bool:
        """Whether this is a 1×1 convolution that pads nothing."""
        return self.op == "conv" and set(self["kernel"]) == {1} and not self.padded

    @property
    def padded(self) -> bool:
        return any(map(any, self["pad"]))


class Layers:
    """Layers by number, and what two of them make; a net has few different ones, so long chains are searched fast."""

    def __init__(self, context: Context):
        self.context = context
        self.all: list[Layer] = []
        self.seconds: list[float] = []
        self.numbers: dict[Layer, int] = {}
        self.pairs: dict[tuple[int, int], int | str] = {}

    def number(self, layer: Layer) -> int:
        if layer not in self.numbers:
            self.numbers[layer] = len(self.all)
            self.all.append(layer)
            self.seconds.append(price(self.context, layer.op, dict(layer.attrs), *layer.operands))
        return self.numbers[layer]

    def pair(self, first: int, second: int) -> int | str:
        """The number of second ∘ first, or why there is no such layer."""
        key = first, second
        if key not in self.pairs:
            made = compose(self.all[first], self.all[second])
            self.pairs[key] = made if isinstance(made, str) else self.number(made)
        return self.pairs[key]

    def whole(self, chain: Sequence[int]) -> int | str:
        """All of a chain as one layer. From its end: dense layers take in what stands before them."""
        made: int | str = chain[-1]
        for number in reversed(chain[:-1]):
            made = self.pair(number, made)
            if isinstance(made, str):
                return made
        return made


@graph_pass("collapse_linear_chains", training=False,
            reason="in training weights change, and their products would have to be made and differentiated anew in "
                   "every step")
def collapse_linear_chains(graph: Graph, context: Context) -> list[Rewrite]:
    """Makes one layer of dense layers, of convolutions and 1×1 convolutions, and of dense layers behind convolutions,
    that follow each other with a single reader each."""
    known = Layers(context)
    done: list[Rewrite] = []
    for chain in _chains(graph, done):
        numbers = [known.number(_layer(graph, graph[name])) for name in chain]
        cuts = _cheapest(known, numbers)
        for start, end in zip(cuts, cuts[1:]):
            if end - start > 1:
                done.append(_collapse(graph, known, chain[start:end], numbers[start:end]))
            if end < len(chain):
                done.append(_refusal(graph, known, chain[end - 1:end + 1], numbers[end - 1:end + 1]))
    return done


def _chains(graph: Graph, done: list[Rewrite]) -> list[list[str]]:
    """The longest runs of linear layers, each of which alone reads the one before it."""
    behind: dict[str, str] = {}
    for node in graph.sorted():
        if node.op not in ("dense", "conv") or not all(fixed(graph, i) for i in node.inputs[1:]):
            continue
        source, alone = node.inputs[0], True
        while graph[source].op in BETWEEN:
            alone = alone and only_reader(graph, source)
            source = graph[source].inputs[0]
        before = graph[source]
        if before.op not in ("dense", "conv") or not all(fixed(graph, i) for i in before.inputs[1:]):
            continue
        if alone and only_reader(graph, source):
            behind[source] = node.name
        else:
            done.append(Rewrite(f"{before.op} · {node.op}", layers(before, node), False,
                                why="what the first makes is read elsewhere too"))
    chains = []
    for start in behind.keys() - set(behind.values()):
        chain = [start]
        while chain[-1] in behind:
            chain.append(behind[chain[-1]])
        chains.append(chain)
    order = {node.name: i for i, node in enumerate(graph.sorted())}
    return sorted(chains, key=lambda chain: order[chain[0]])


def _layer(graph: Graph, node: Node) -> Layer:
    types = [graph[i].type for i in node.inputs]
    return Layer(node.op, tuple(sorted(node.attrs.items())), types[0], types[1], len(types) == 3)


# --- what two layers make --------------------------------------------------------------------------------------------

def compose(first: Layer, second: Layer) -> Layer | str:
    """second ∘ first, or why no single layer does the same."""
    if second.op == "dense":
        if first.op == "dense":
            return _checked(first, second, "dense", (), first.x, (second.weight.shape[0], first.x.shape[1]))
        size = first.x.shape[1:]
        if not all(isinstance(s, int) for s in (*size, *first.result.shape[1:])):
            return "the size of the maps is not known"
        features = _product(size)
        flat = first.x.with_shape(first.x.shape[0], features)
        return _checked(first, second, "dense", (), flat, (second.weight.shape[0], features))
    if first.op == "dense":
        return "a convolution does not read what a dense layer makes"
    if first["groups"] != 1 or second["groups"] != 1:
        return "one of them is grouped"
    shape = (second.weight.shape[0], first.weight.shape[1])
    if second.pointwise:
        attrs = {**dict(first.attrs), "stride": _times(first["stride"], second["stride"])}
        return _checked(first, second, "conv", attrs, first.x, (*shape, *first["kernel"]))
    if not first.pointwise:
        return "neither is 1×1"
    if first.bias and second.padded:
        return "the padding between them is zeros, where the bias of the first would reach"
    step = first["stride"]
    attrs = {**dict(second.attrs), "stride": _times(step, second["stride"]),
             "dilation": _times(step, second["dilation"]),
             "pad": tuple((lo * s, hi * s) for (lo, hi), s in zip(second["pad"], step))}
    return _checked(first, second, "conv", attrs, first.x, (*shape, *second["kernel"]))


def _checked(first: Layer, second: Layer, op: str, attrs: Any, x: TensorType, shape: tuple[int, ...]) -> Layer | str:
    made = Layer(op, tuple(sorted(dict(attrs).items())), x, second.weight.with_shape(*shape), first.bias or second.bias)
    try:
        same = made.result == second.result
    except OpError:
        same = False
    return made if same else "strides and padding between them leave other windows"


def _times(left: tuple[int, ...], right: tuple[int, ...]) -> tuple[int, ...]:
    return tuple(a * b for a, b in zip(left, right))


def _product(sizes: Sequence[Dim]) -> Dim:
    total: Dim = 1
    for size in sizes:
        total = total * size
    return total


# --- which layers become one -----------------------------------------------------------------------------------------

def _cheapest(known: Layers, chain: list[int]) -> list[int]:
    """Where to cut a chain so that its pieces, each one layer, take the least predicted time."""
    best: list[tuple[float, int]] = [(0.0, 0)]
    cut = [0]
    for end in range(1, len(chain) + 1):
        found, at = (best[end - 1][0] + known.seconds[chain[end - 1]], best[end - 1][1] + 1), end - 1
        whole: int | str = chain[end - 1]
        for start in range(end - 2, -1, -1):
            whole = known.pair(chain[start], whole)
            if isinstance(whole, str):
                break
            now = best[start][0] + known.seconds[whole], best[start][1] + 1
            if now < found:
                found, at = now, start
        best.append(found)
        cut.append(at)
    cuts = [len(chain)]
    while cuts[-1]:
        cuts.append(cut[cuts[-1]])
    return cuts[::-1]


def _refusal(graph: Graph, known: Layers, names: list[str], numbers: list[int]) -> Rewrite:
    nodes = [graph[name] for name in names]
    what = " · ".join(node.op for node in nodes)
    whole = known.pair(*numbers)
    if isinstance(whole, str):
        return Rewrite(what, layers(*nodes), False, why=whole)
    gain = known.seconds[numbers[0]] + known.seconds[numbers[1]] - known.seconds[whole]
    why = "one layer is more work than two" if gain <= 0 else "other cuts of the chain save more"
    return Rewrite(what, layers(*nodes), False, gain, why)


# --- making it -------------------------------------------------------------------------------------------------------

@dataclass(frozen=True)
class Made:
    """A layer with its weights in the graph."""

    layer: Layer
    weight: Value
    bias: Value | None


def _collapse(graph: Graph, known: Layers, names: list[str], numbers: list[int]) -> Rewrite:
    nodes = [graph[name] for name in names]
    whole = known.whole(numbers)
    assert not isinstance(whole, str)
    gain = sum(known.seconds[n] for n in numbers) - known.seconds[whole]
    ops = [node.op for node in nodes]
    what = f"{' · '.join(ops) if len(ops) <= 4 else f'{len(ops)} linear layers'} -> {known.all[whole].op}"
    done = Rewrite(what, layers(*nodes), gain=gain)

    last, gone = nodes[-1], []
    source = last.inputs[0]
    while source != nodes[0].inputs[0]:
        gone.append(source)
        source = graph[source].inputs[0]
    b = Builder(graph)
    with b.within(f"{last.name}/collapsed", unite(graph[n].origins for n in [last.name, *gone])):
        made = _multiply(b, known, [_made(b, known.all[n], node) for n, node in zip(numbers, nodes)], numbers)
        x = b.value(source)
        if made.layer.op == "dense" and x.type.rank != 2:
            x = b.op("flatten", x, shape=made.layer.x.shape)
    operands = [x, made.weight, *([made.bias] if made.bias else [])]
    become(graph, last.name, made.layer.op, dict(made.layer.attrs), operands, gone)
    return done


def _made(b: Builder, layer: Layer, node: Node) -> Made:
    weight, *bias = (b.value(i) for i in node.inputs[1:])
    return Made(layer, weight, bias[0] if bias else None)


def _multiply(b: Builder, known: Layers, parts: list[Made], numbers: list[int]) -> Made:
    """The product of a chain, split where what lies between is narrowest, which keeps the products small; of equal ones
    nearest the middle, which keeps rounding errors small as well."""
    if len(parts) == 1:
        return parts[0]
    size = len(parts)
    places = range(1, size) if size <= ANYWHERE else range(size // 4, size - size // 4)
    for at in sorted(places, key=lambda at: (_product(parts[at].layer.x.shape[1:]), abs(2 * at - size))):
        left, right = known.whole(numbers[:at]), known.whole(numbers[at:])
        if not isinstance(left, str) and not isinstance(right, str) and not isinstance(known.pair(left, right), str):
            return _product_of(b, _multiply(b, known, parts[:at], numbers[:at]),
                               _multiply(b, known, parts[at:], numbers[at:]))
    made = parts[-1]
    for part in reversed(parts[:-1]):
        made = _product_of(b, part, made)
    return made


def _product_of(b: Builder, first: Made, second: Made) -> Made:
    layer = compose(first.layer, second.layer)
    assert not isinstance(layer, str)
    outer = second.weight.shape[0]
    if second.layer.op == "dense" and first.layer.op == "conv":
        maps = first.layer.result.shape[1:]
        rows = b.op("reshape", second.weight, shape=(outer, *maps))
        attrs = {k: v for k, v in first.layer.attrs}
        weight = b.op("conv_input_grad", rows, first.weight, size=first.layer.x.shape[1:], **attrs)
        weight = b.op("reshape", weight, shape=layer.weight.shape)
        seen = b.op("sum", b.op("reshape", second.weight, shape=(outer, maps[0], _product(maps[1:]))), axes=(2,),
                    keepdims=False) if first.bias else None
    else:
        weight, seen = _weights(b, first, second, layer)
    bias = second.bias
    if first.bias is not None:
        reached = b.op("matmul", b.op("reshape", first.bias, shape=(1, first.bias.shape[0])), seen,
                       transpose_a=False, transpose_b=True)
        reached = b.op("reshape", reached, shape=(outer,))
        bias = reached if bias is None else reached + bias
    return Made(replace(layer, bias=bias is not None), weight, bias)


def _weights(b: Builder, first: Made, second: Made, layer: Layer) -> tuple[Value, Value | None]:
    """The product of two weights of one kind, and what a bias of the first is multiplied by: [outer, inner]."""
    outer, inner = second.weight.shape[:2]
    if first.layer.op == "dense":
        return b.op("matmul", second.weight, first.weight, transpose_a=False, transpose_b=False), second.weight
    if second.layer.pointwise:
        columns = b.op("reshape", first.weight, shape=(inner, _product(first.weight.shape[1:])))
        rows = b.op("reshape", second.weight, shape=(outer, inner))
        weight = b.op("matmul", rows, columns, transpose_a=False, transpose_b=False)
        return b.op("reshape", weight, shape=layer.weight.shape), rows
    # The first is 1×1: each tap of the second, [outer, inner], times it: a 1×1 convolution of the taps.
    taps = b.op("reshape", second.weight, shape=(outer, inner, _product(second.weight.shape[2:])))
    read = first.weight.shape[1]
    turned = b.op("transpose", b.op("reshape", first.weight, shape=(inner, read)), order=(1, 0))
    turned = b.op("reshape", turned, shape=(read, inner, 1))
    weight = b.op("conv", taps, turned, kernel=(1,), stride=(1,), dilation=(1,), pad=((0, 0),), groups=1)
    seen = b.op("sum", taps, axes=(2,), keepdims=False) if first.bias is not None else None
    return b.op("reshape", weight, shape=layer.weight.shape), seen
