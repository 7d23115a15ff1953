"""A module of PrimFuncs → one object file: each kernel compiled by itself, on all cores, or taken from the cache.

A kernel's key is its own text with the target and the versions, so kernels that nets, programs or edits have in common
are compiled once. The functions with a symbol of their own (the drivers) form one more object; kernels are called by the
key's name, and `compiler/objects.py` joins them all, so that nothing of this shows outside.
"""

from __future__ import annotations

import json
import os
import tempfile
import threading
from collections.abc import Mapping
from typing import Any

import tvm
import tvm_ffi
from tvm import s_tir, tirx

from compiler import cache, objects, workers

# What the loops that schedules write need of TVM's lowering. Its default pipeline has forty passes more, for other targets
# and for scheduled blocks, and takes four times as long. Among those left out is its search for common subexpressions:
# LLVM finds them, and TVM's analyzer fails on some comparisons that the search binds.
LOWERING = (
    s_tir.transform.CanonicalizeLoop, tirx.transform.StmtSimplify,
    s_tir.transform.LowerOpaqueBlock,  # takes loops of one turn away
    tirx.transform.FlattenBuffer, tirx.transform.BF16ComputeLegalize, tirx.transform.NarrowDataType,
    tirx.transform.VectorizeLoop, tirx.transform.StorageRewrite,
    tirx.transform.StmtSimplify, tirx.transform.UnrollLoop,  # in this order: what is unrolled LLVM folds, and faster
    s_tir.transform.RewriteUnsafeSelect, tirx.transform.AnnotateEntryFunc, tirx.transform.MakePackedAPI,
    tirx.transform.BF16StorageLegalize, tirx.transform.LowerTVMBuiltin, tirx.transform.LowerIntrin)
ARGUMENTS = {tirx.transform.NarrowDataType: (32,), tirx.transform.VectorizeLoop: (True,)}

# Long functions are made of register tiles, whose loops schedules write as they are to run: what LLVM would look for beyond
# that takes two thirds of its time, and finds nothing.
LONG = 150  # lines
QUICK = (
    "-unroll-threshold-default:uint=20",              # loops unrolled beyond what schedules ask for
    "-unroll-max-iteration-count-to-analyze:uint=0",  # what loops would become if they were unrolled
    "-disable-lsr:bool=true",                         # other induction variables
    "-dag-maps-huge-region:uint=32",                  # the order of memory accesses in long blocks, quadratic in these
    "-disable-post-ra:bool=true")                     # the order of instructions, a second time
_llvm = threading.Lock()  # these options are of a whole process: one thread at a time may change them


def _unlock() -> None:
    global _llvm
    _llvm = threading.Lock()


os.register_at_fork(after_in_child=_unlock)  # the thread that holds it may be left behind


def build(module: tvm.IRModule, target: Mapping[str, Any], store: cache.Cache) -> bytes:
    """The object of all functions.

    target: a TVM target. Functions of the module without a symbol must be called from those that have one only.
    """
    settings = json.dumps([tvm.__version__, [p.__name__ for p in LOWERING], QUICK, LONG, dict(target)], sort_keys=True)
    functions = {var.name_hint: function for var, function in module.functions.items()}
    symbols = {name: f"netc_{_key(function, settings)}" for name, function in functions.items()
               if "global_symbol" not in function.attrs}
    work = {symbols[name]: {symbols[name]: functions[name]} for name in symbols}
    drivers = {name: _external_calls(function, symbols) for name, function in functions.items() if name not in symbols}
    work[cache.key(settings, *(cache.key(_key(f, settings)) for f in drivers.values()))] = drivers
    found = {key: data for key in work if (data := store.get(key)) is not None}
    fresh = compile_all({key: work[key] for key in work if key not in found}, target)
    for key, data in fresh.items():
        store.put(key, data)
    if fresh:
        store.trim()
    found |= fresh
    return objects.join([found[key] for key in work], {symbol: name for name, symbol in symbols.items()})


def compile_all(work: Mapping[str, Mapping[str, tirx.PrimFunc]], target: Mapping[str, Any]) -> dict[str, bytes]:
    """The object of each entry, by its key: on all cores, what is longest first."""
    lines = {key: sum(map(_lines, functions.values())) for key, functions in work.items()}
    order, cores = sorted(work, key=lines.__getitem__, reverse=True), len(os.sched_getaffinity(0))

    def compiled(index: int) -> bytes:
        return compile_functions(work[order[index]], target, quick=lines[order[index]] >= LONG)

    if len(order) < 2 or cores < 2:
        return {key: compiled(index) for index, key in enumerate(order)}
    return dict(zip(order, workers.spread(compiled, len(order), cores)))


def compile_functions(functions: Mapping[str, tirx.PrimFunc], target: Mapping[str, Any], quick: bool = False) -> bytes:
    """The object of these functions; one without a symbol gets its name as symbol, with plain C arguments.

    quick: without LLVM's searches (QUICK)."""
    with tempfile.TemporaryDirectory() as folder, _llvm:
        path = os.path.join(folder, "host.o")
        generate(functions, {**target, "cl-opt": list(QUICK)} if quick else target).write_to_file(path)
        with open(path, "rb") as stream:
            return stream.read()


def _lines(function: tirx.PrimFunc) -> int:
    return function.script().count("\n")


def generate(functions: Mapping[str, tirx.PrimFunc], target: Mapping[str, Any]) -> Any:
    """LLVM's module of these functions, which can be written as an object or read (`inspect_source("ll")`)."""
    goal = tvm.target.Target(dict(target))
    goal = goal.with_host(goal)
    module = tirx.transform.BindTarget(goal)(tvm.IRModule(dict(functions)))
    module = tvm.transform.Sequential([made(*ARGUMENTS.get(made, ())) for made in LOWERING])(module)
    named = {var.name_hint: function if "global_symbol" in function.attrs
             else function.with_attr("global_symbol", var.name_hint).without_attr("tirx.is_entry_func")
             for var, function in module.functions.items()}
    return tvm.get_global_func("target.build.llvm")(tvm.IRModule(named), goal)


def _key(function: tirx.PrimFunc, settings: str) -> str:
    """What the function says. The structural hash stands beside the text for what text might round."""
    return cache.key(settings, str(tvm_ffi.structural_hash(function, map_free_vars=True)), function.script())


def _external_calls(function: tirx.PrimFunc, symbols: Mapping[str, str]) -> tirx.PrimFunc:
    """The function with calls of kernels in the module turned into calls of their symbols."""

    def external(call: Any) -> Any:
        if isinstance(call.op, tvm.ir.GlobalVar):
            return tirx.call_extern("int32", symbols[call.op.name_hint], *call.args)
        return call

    return tvm_ffi.structural_map(function, (tvm.ir.Call, external))
