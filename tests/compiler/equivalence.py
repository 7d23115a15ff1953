"""Optimized = unoptimized: what the passes make of a net computes what the net does, forward and backward.

    python -m tests.compiler.equivalence [--count 500] [--compiled 20] [--seed 0] [--no-specs]

runs random nets and every spec through all passes and through none. In f64 all results of the interpreter agree within
1e-12 relative error, in f32 within 1e-5, and so do the compiled programs of other random nets. Where that does not
hold, the net is made smaller, and the pass without which it does hold is named.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from hypothesis import HealthCheck, Phase, given, seed, settings
from hypothesis import strategies as st

import netc
from compiler import programs
from compiler.artifact import build
from compiler.elaborate import Program
from compiler.interpret import relative_error, run as interpret
from compiler.ir import Graph
from compiler.optimizer import OPTIMIZERS
from compiler.passes.pipeline import PIPELINE
from runtime.execute import Executable
from runtime.format import Artifact
from runtime.train_config import TrainConfig
from tests.compiler.nets import Net, nets
from tests.specs.weights import random_weights

FOLDER = Path(netc.__file__).parent.parent / "specs"
# Every net that is shipped, with settings that make it small where it has any.
SPECS: dict[str, dict[str, Any]] = {
    "deep_linear": {}, "digits": {}, "lenet": {}, "logistic": {}, "mlp": {}, "traffic_sign": {},
    "squeezenet": {"side": 32, "classes": 10}, "mobilenet": {"side": 32, "classes": 10},
    "resnet": {"depth": 18, "side": 32, "classes": 10}, "inception_v3": {"side": 75, "classes": 10},
    "vgg": {"side": 32, "hidden": 16, "classes": 10}, "googlenet": {"classes": 10},
}

SCALARS = {"lr": np.float32(0.1), "step": np.float32(1), "seed": np.int32(3)}
SINGLE, DOUBLE = 1e-5, 1e-12
EPS_RATIO = np.finfo("f8").eps / np.finfo("f4").eps
OPTIMIZER = st.sampled_from(sorted(OPTIMIZERS))
BLOCK = 8  # channels that kernels like together, whatever the machine


def config(optimizer: str) -> dict[str, Any]:
    return {"optimizer": {"name": optimizer, "args": {"weight_decay": 0.01}}}


def graphs(source: Graph, train: dict[str, Any] | None, off: Collection[str] = (), check: bool = False,
           names: Collection[str] = ("run", "evaluate", "step")) -> dict[str, Graph]:
    """Programs of a net, down to kernels and places; `train` is None for a net that is not trained."""
    options = programs.Options(block=BLOCK, off=off, check=check)
    made = {}
    if "run" in names:
        made["run"] = programs.kernels(programs.run(source, options), options)
    if "evaluate" in names and source.losses:
        made["evaluate"] = programs.kernels(programs.evaluate(source, options), options)
    if "step" in names and train:
        made["step"] = programs.kernels(programs.step(source, train, options), options, training=True, packed=False)
    return made


def results(graph: Graph) -> dict[str, str]:
    """What a program is for, by a name that passes keep → its node."""
    tables = {"output": graph.outputs, "loss": graph.losses, "metric": graph.metrics, "update of": graph.updates}
    return {f"{table} {key}": node for table, entries in tables.items() for key, node in entries.items()}


def start(graphs: Mapping[str, Graph], values: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Values for all parameters: those given, and optimizer state in the midst of a training."""
    stream = np.random.default_rng(5)
    needed = {n.name: n.type.shape for graph in graphs.values() for n in graph.leaves("parameter")}
    missing = sorted(needed.keys() - values.keys())
    return {**values, **{path: stream.uniform(0.1, 0.2, needed[path]).astype("f4") for path in missing}}


def compute(graph: Graph, feeds: Mapping[str, Any], values: Mapping[str, Any], dtype: str) -> dict[str, np.ndarray]:
    """The results of a program by the interpreter."""
    given = {n.name: {**SCALARS, **feeds}[n.name] for n in graph.leaves("input")}
    got = interpret(graph, given, values, dtype)
    return {key: got[node] for key, node in results(graph).items()}


def wrong(source: Graph, feeds: Mapping[str, Any], values: Mapping[str, Any], train: dict[str, Any] | None = None,
          off: Collection[str] = ()) -> str:
    """What of a net the passes (but those in `off`) change; empty where nothing is.

    Ill-conditioned nets get as much room as rounding needs: ten times what f32 differs from f64 without any pass.
    """
    plain, made = graphs(source, train, PIPELINE), graphs(source, train, off, check=True)
    values = start({f"{name}.{i}": g for i, made_of in enumerate((plain, made)) for name, g in made_of.items()}, values)
    for name, graph in plain.items():
        if results(graph).keys() != results(made[name]).keys():
            return f"{name}: only one has {sorted(results(graph).keys() ^ results(made[name]).keys())}"
        exact, single = (compute(graph, feeds, values, dtype) for dtype in ("float64", "float32"))
        for dtype, bound, share in (("float64", DOUBLE, EPS_RATIO), ("float32", SINGLE, 1.0)):
            reference = exact if dtype == "float64" else single
            for key, got in compute(made[name], feeds, values, dtype).items():
                room = max(bound, 10 * share * relative_error(exact[key], single[key]))
                if not relative_error(reference[key], got) <= room:
                    return f"{name}, {key}, in {dtype}: {relative_error(reference[key], got):.1e}, allowed {room:.1e}"
    return ""


def culprits(failing: Callable[[Collection[str]], str], suspects: Sequence[str] = PIPELINE) -> str:
    """The passes without any one of which nothing is wrong, and those that are wrong alone."""
    single = [p for p in suspects if not failing([p])]
    alone = [p for p in suspects if failing([q for q in PIPELINE if q != p])]
    return f"right without any of {single}, wrong with any of {alone} alone"


def spec_problem(name: str, settings: Mapping[str, Any], off: Collection[str] = (), backward: bool = True) -> str:
    """What passes change of a spec with these settings, on two random examples."""
    net = netc.load(FOLDER / f"{name}.net", settings=settings)
    stream = np.random.default_rng(0)
    feeds = {}
    for field in net.fields:
        shape = [2 if size == "N" else size for size in field["shape"]]
        feeds[field["name"]] = stream.standard_normal(shape).astype("f4") if field["dtype"] == "float32" \
            else stream.integers(0, field["classes"] or 256, shape).astype(field["dtype"])
    train = (net.train_config or config("sgd")) if backward and net.graph.losses else None
    return wrong(net.graph, feeds, random_weights(net.graph), train, off)


def check(net: Net, optimizer: str) -> None:
    """Raises AssertionError where the interpreter finds passes to change a net."""
    problem = wrong(net.graph, net.feeds(2), net.parameters(), config(optimizer))
    assert not problem, problem


def compiled(source: Graph, values: Mapping[str, np.ndarray], train: dict[str, Any] | None,
             off: Collection[str] = (), precision: str = "f32") -> Executable:
    """A graph compiled as the product does it; optimizer state is that of `start`."""
    section = train and TrainConfig.from_json({**train, "name": "fit", "net": "random", "run": {"epochs": 1},
                                               "schedule": {"kind": "constant", "args": {"lr": 0.1}}})
    program = Program(source, "random", {}, section, None, ())
    exe = Executable(Artifact(*build(program, names=["run", *(["step"] if train else [])], parameters=values, off=off,
                                     precision=precision)))
    return exe


def check_compiled(net: Net, optimizer: str) -> None:
    """Raises AssertionError where compiled programs with all passes and with none differ by more than 1e-5."""
    train, values = config(optimizer), net.parameters()
    plain = graphs(net.graph, train, PIPELINE)
    state = start(plain, values)
    made = {off: compiled(net.graph, values, train, off) for off in ((), tuple(PIPELINE))}
    feeds = {**SCALARS, **net.feeds(2)}
    for name in ("run", "step"):
        found = {}
        for off, exe in made.items():
            for path in exe.parameters.paths("weight", "state", "optimizer"):
                exe.parameters[path][...] = state[path]
            got = exe.call(name, {n.name: feeds[n.name] for n in plain[name].leaves("input")})
            found[off] = {**{k: v.copy() for k, v in got.items()},
                          **{f"update of {p}": exe.parameters[p].copy() for p in plain[name].updates}}
        exact, single = (compute(plain[name], net.feeds(2), state, dtype) for dtype in ("float64", "float32"))
        rounding = {key.removeprefix("output ").removeprefix("loss ").removeprefix("metric "):
                    relative_error(exact[key], single[key]) for key in exact}
        for key, want in found[tuple(PIPELINE)].items():
            room = max(SINGLE, 10 * rounding[key])
            error = relative_error(want, found[()][key])
            assert error <= room, f"compiled {name}, {key}: {error:.1e}, allowed {room:.1e}\n" + "\n".join(net.calls)


def _problem(net: Net, optimizer: str, off: Collection[str]) -> str:
    try:
        return wrong(net.graph, net.feeds(2), net.parameters(), config(optimizer), off)
    except Exception as problem:  # a pass that fails is as wrong as one whose numbers are
        return repr(problem)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--count", type=int, default=500)
    parser.add_argument("--compiled", type=int, default=20, help="how many other random nets are compiled")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--specs", action=argparse.BooleanOptionalAction, default=True)
    options = parser.parse_args()
    counts: dict[str, int] = {}
    last: list[Any] = []
    begin = time.perf_counter()
    for name, given_to in SPECS.items() if options.specs else ():
        problem = spec_problem(name, given_to)
        assert not problem, f"{name}: {problem}; {culprits(lambda off: spec_problem(name, given_to, off))}"
        print(f"{name} {given_to}: all passes and none agree, {time.perf_counter() - begin:.0f} s", flush=True)
    for title, how, count in (("interpreted", check, options.count), ("compiled", check_compiled, options.compiled)):
        phases = [Phase.generate, Phase.shrink] if how is check else [Phase.generate]

        @seed(options.seed)
        @settings(max_examples=count, database=None, deadline=None, phases=phases,
                  suppress_health_check=list(HealthCheck))
        @given(nets(modules=3), OPTIMIZER)
        def all_agree(net: Net, optimizer: str) -> None:
            last[:] = net, optimizer
            how(net, optimizer)
            counts[title] = counts.get(title, 0) + 1

        if count:
            try:
                all_agree()
            except Exception:
                net, optimizer = last
                print("\n".join(net.calls), optimizer, culprits(lambda off: _problem(net, optimizer, off)), sep="\n")
                raise
            seconds = time.perf_counter() - begin
            print(f"{counts[title]} random nets {title}: all passes and none agree, {seconds:.0f} s", flush=True)


if __name__ == "__main__":
    main()
