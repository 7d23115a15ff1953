"""What lowering computes, element by element in plain loops, against the numpy meaning of every primitive."""

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
    index = lambda n: tirx.const(int(n), "int64")
    with IRBuilder() as ib, T.prim_func(s_tir=True):
        buffers = [T.arg(f"p{i}", T.buffer([index(n) for n in t.shape] or [index(1)], DTYPES[t.dtype]))
                   for i, t in enumerate((*types, node.type))]
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
    return ib.get()


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


@pytest.fixture(scope="module")
def compiled():
    """All kernels of all cases in one module: [(case, node, function name, operand values, expected)]."""
    module, work, known = tvm.IRModule({}), [], {}
    for case in CASES:
        graph, values = joint_graph(case)
        want = run(graph, {}, values, "float32", every=True)
        for node in graph.nodes():
            if node.op in LEAVES:
                continue
            types = [graph[i].type for i in node.inputs]
            key = str((node.op, node.type, types, sorted(node.attrs.items(), key=str)))
            if key not in known:
                known[key] = f"k{len(known)}"
                module[known[key]] = plain_kernel(node, types).with_attr("global_symbol", known[key])
                work.append((case, node, known[key], [want[i] for i in node.inputs], want[node.name]))
    return tvm.compile(module, tvm.target.Target({"kind": "llvm", "mcpu": "x86-64-v3", "opt-level": 1})).jit(), work


def test_every_primitive_computes_what_it_means(compiled):
    library, work = compiled
    wrong = []
    for case, node, name, operands, want in work:
        arrays = [tvm.runtime.tensor(np.ascontiguousarray(v.reshape(v.shape or (1,)))) for v in operands]
        out = tvm.runtime.tensor(np.full(want.shape or (1,), 99, want.dtype))
        library[name](*arrays, out)
        error = relative_error(want, out.numpy().reshape(want.shape))
        if not error < 3e-6:
            wrong.append((str(case), node.name, node.op, error))
    assert not wrong


def test_every_primitive_was_computed(compiled):
    _, work = compiled
    seen = {node.op for _, node, *_ in work}
    primitives = {op.name for op in REGISTRY.values() if op.has("scalar") or op.has("compute")} - set(LEAVES)
    elsewhere = {"random_uniform", "max_pool_select", "bias_correction"}
    assert primitives - seen == elsewhere
