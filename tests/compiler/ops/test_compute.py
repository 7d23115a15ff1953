"""What lowering computes, element by element in plain loops, against the numpy meaning of every primitive."""

from dataclasses import dataclass, field

import numpy as np
import pytest
import tvm
import tvm.script.ir_builder.tirx as T
from tvm import tirx
from tvm.script.ir_builder import IRBuilder

from compiler import scalar
from compiler.autodiff import differentiate
from compiler.build import Builder
from compiler.interpret import relative_error, run
from compiler.ir import DTYPES, Graph, Node, TensorType
from compiler.ops import REGISTRY, Operand, Reduce, namespace
from compiler.passes.expand import expand
from tests.compiler.ops.table import CASES, graph_of

LEAVES = ("input", "parameter", "constant")


def plain_kernel(node: Node, types: list[TensorType]):
    """One node as a function of pointers (operands, then the result), in serial loops."""
    op, a = REGISTRY[node.op], namespace(node.attrs)
    with IRBuilder() as ib, T.prim_func(is_private=True, s_tir=True):
        T.func_attr({"tirx.noalias": True})
        pointers = [T.arg(f"p{i}", T.handle(DTYPES[t.dtype])) for i, t in enumerate((*types, node.type))]
        T.func_ret(tvm.ir.PrimType("int32"))
        buffers = [T.decl_buffer([index(n) for n in t.shape] or [index(1)], DTYPES[t.dtype], data=p)
                   for t, p in zip((*types, node.type), pointers)]
        xs = [Operand(t, tuple(map(index, t.shape)), lambda idx, b=b: b[tuple(idx) or (index(0),)])
              for t, b in zip(types, buffers)]
        out = Operand(node.type, tuple(map(index, node.type.shape)), None)
        with T.grid(*out.shape or [index(1)]) as loops:
            idx = [loops] if isinstance(loops, tirx.Var) else list(loops)
            idx = idx if node.type.shape else []
            value = op.compute(scalar, a, out, idx, *xs)
            if isinstance(value, Reduce):
                value = reduced(value)
            T.buffer_store(buffers[-1], value, idx or [index(0)])
        T.add_to_parent(tirx.Return(tirx.IntImm("int32", 0)))
    return ib.get()


def index(n: int):
    return tirx.const(int(n), "int64")


def reduced(r: Reduce):
    first = r.value(*[tirx.const(0, "int64") for _ in r.extents])
    dtype = str(first.ty.dtype)
    word = next(w for w, d in DTYPES.items() if d == dtype)
    start = {"sum": scalar.const(0, word), "max": scalar.lowest(word), "min": scalar.highest(word),
             "argmax": scalar.lowest(word)}[r.kind]
    total = T.alloc_buffer((1,), dtype)
    at = T.alloc_buffer((1,), "int32")
    T.buffer_store(total, start, [0])
    T.buffer_store(at, tirx.const(0, "int32"), [0])
    with T.grid(*[scalar.index(e) for e in r.extents]) as loops:
        where = [loops] if isinstance(loops, tirx.Var) else list(loops)
        value = r.value(*where)
        if r.kind == "argmax":
            flat = scalar.index(0)
            for i, extent in zip(where, r.extents):
                flat = flat * extent + i
            with T.If(value > total[0]), T.Then():
                T.buffer_store(total, value, [0])
                T.buffer_store(at, scalar.cast(flat, "i32"), [0])
        else:
            step = {"sum": lambda x, y: x + y, "max": scalar.maximum, "min": scalar.minimum}[r.kind]
            T.buffer_store(total, step(total[0], value), [0])
    result = at[0] if r.kind == "argmax" else total[0]
    return r.finish(result) if r.finish else result


def joint_graph(case) -> tuple[Graph, dict]:
    """The call, and its gradients where it has some, as primitives."""
    graph, values = graph_of(case)
    op = REGISTRY[case.op]
    if not op.undifferentiable and any(t.dtype == "f32" for t in case.operands):
        b = Builder(graph)
        y = b.value("y")
        if y.type.is_float:
            weights = b.constant(np.random.default_rng(0).uniform(0.5, 1.5, y.shape), name="weights")
            graph.losses["loss"] = b.op("sum", y * weights, axes=tuple(range(y.type.rank)), keepdims=False).name \
                if y.shape else (y * weights).name
            graph, gradients = differentiate(graph)
            graph.gradients = gradients
    return expand(graph), values


@dataclass
class Work:
    """One kernel, where its operands and its result lie in the arena, and what the result should be."""

    case: str
    node: Node
    function: str
    operands: list[np.ndarray]
    want: np.ndarray
    offsets: list[int] = field(default_factory=list)


def collect(module: tvm.IRModule) -> list[Work]:
    """The different primitives of all cases; their kernels go into `module`."""
    work, known = [], set()
    for case in CASES:
        graph, values = joint_graph(case)
        want = run(graph, {}, values, "float32", every=True)
        for node in graph.nodes():
            types = [graph[i].type for i in node.inputs]
            plain = REGISTRY[node.op].pointwise or node.op in ("sum", "mean", "count", "position")
            key = str((node.op, [(t.dtype, t.rank if plain else t.shape) for t in (*types, node.type)],
                       sorted((k, v) for k, v in node.attrs.items() if k != "shape" or not plain)))
            if node.op not in LEAVES and key not in known:
                known.add(key)
                name = f"k{len(known)}"
                module[name] = plain_kernel(node, types)
                work.append(Work(str(case), node, name, [want[i] for i in node.inputs], want[node.name]))
    return work


@pytest.fixture(scope="module")
def computed() -> list[tuple[Work, np.ndarray]]:
    """Every kernel's result. All are called by one function, on one arena: entry points are slow to compile."""
    module = tvm.IRModule({})
    work = collect(module)
    top = 0
    for w in work:
        for array in (*w.operands, w.want):
            w.offsets.append(top)
            top += -(-array.nbytes // 64) * 64
    with IRBuilder() as ib, T.prim_func(s_tir=True):
        arena = T.arg("arena", T.buffer((index(top),), "uint8"))
        for w in work:
            T.evaluate(tvm.ir.Call(module.get_global_var(w.function),
                                   [T.address_of(arena[index(o)]) for o in w.offsets],
                                   ret_ty="int32"))
    module["main"] = ib.get().with_attr("global_symbol", "main")
    memory = np.full(top, 0xAB, "uint8")
    for w in work:
        for array, offset in zip(w.operands, w.offsets):
            memory[offset:offset + array.nbytes] = np.frombuffer(array.tobytes(), "uint8")
    device = tvm.runtime.tensor(memory)
    tvm.compile(module, tvm.target.Target({"kind": "llvm", "opt-level": 0})).jit()["main"](device)
    memory = device.numpy()
    return [(w, memory[w.offsets[-1]:w.offsets[-1] + w.want.nbytes].view(w.want.dtype).reshape(w.want.shape))
            for w in work]


def test_every_primitive_computes_what_it_means(computed):
    wrong = []
    for w, got in computed:
        # A sum of many numbers is as exact as they are large.
        size = max([np.abs(v).max() for v in w.operands if v.dtype.kind == "f"] if w.node.op in ("sum",
                                                                                                 "mean") else [0])
        error = relative_error(w.want, got) * np.abs(w.want).max() / max(size, np.abs(w.want).max()) \
            if np.isfinite(w.want).all() else relative_error(w.want, got)
        if not error < 3e-6:
            wrong.append((w.case, w.node.name, w.node.op, error))
    assert not wrong


def test_every_primitive_was_computed(computed):
    seen = {w.node.op for w, _ in computed}
    primitives = {op.name for op in REGISTRY.values() if op.has("scalar") or op.has("compute")} - set(LEAVES)
    elsewhere = {"random_uniform", "max_pool_select", "bias_correction", "copy", "winograd_conv", "winograd_weight",
                 "fft_conv", "fft_weight"}
    assert primitives - seen == elsewhere
