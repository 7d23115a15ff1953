"""Predicted figures of CUDA code, without a GPU: ours beside element-wise fusion and TVM's default (Relax and dlight).

    python benchmarks/cuda.py [--nets googlenet resnet lenet 3a 4e 5b] [--programs run step] [--archs sm_80 sm_90]
                              [--batch 1] [--train-batch 32] [--no-dlight] [--json FILE]

Every kernel of a net is compiled to machine code, from which registers, shared memory, spills and occupancy are read.
3a, 4e and 5b are GoogLeNet's modules. A launch's bytes are its unique tensors, read or written once; its predicted time is
max(FLOPs / peak, bytes / bandwidth) + launch latency of the GPU's data sheet, for all three alike. `registers` is the most
of any kernel, `occupancy` the mean over launches, `blocks` the fewest of a launch that multiplies (a million FLOPs or more),
`limits` how many kernels spill, take more than 128 registers or too much shared memory. Exits with 1 where one does. With
--json each kernel has its row, with its blocks and, where nvdisasm is installed, its instructions.
"""

import argparse
import json
import sys
import tempfile
from pathlib import Path
from statistics import mean
from unittest.mock import patch

import tvm
from tvm import tirx
from tvm.sym import Analyzer

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

import netc  # noqa: E402
from benchmarks import dlight  # noqa: E402
from compiler import artifact, cuda, programs, tally  # noqa: E402
from compiler.cost import MACHINES  # noqa: E402
from compiler.gpus import GPUS, Gpu, nearest  # noqa: E402
from compiler.passes.select_mode import select_mode  # noqa: E402
from compiler.resources import rows  # noqa: E402

OPTIMIZER = "sgd(lr = 0.01, momentum = 0.9, weight_decay = 5e-4)"
MODULES = {"3a": (192, 28, "64, 96, 128, 16, 32, 32"), "4e": (528, 14, "256, 160, 320, 32, 128, 128"),
           "5b": (832, 7, "384, 192, 384, 48, 128, 128")}
MODULE = """import "inception.net" as g

net module_{name} {{
  input x: f32[N, {channels}, {side}, {side}]
  label class: i32[N] in 10
  y = x -> g.inception({widths})
  logits = y -> global_avg_pool -> flatten -> dense(10)
  output out = y
  loss cross_entropy(logits, class)
}}
"""
TRAIN = '\ndata d {{ source = "npz:d.npz", batch = {batch} }}\n\n' \
        "train fit {{ net = {net}, data = d, optimizer = {optimizer}, run = 1 epochs }}\n"


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--nets", nargs="+", default=["googlenet", "resnet", "lenet", *MODULES])
    parser.add_argument("--programs", nargs="+", default=["run", "step"], choices=["run", "step"])
    parser.add_argument("--archs", nargs="+", default=["sm_80", "sm_90"], choices=list(GPUS))
    parser.add_argument("--batch", type=int, default=1, help="of inference")
    parser.add_argument("--train-batch", type=int, default=32)
    parser.add_argument("--no-dlight", action="store_true", help="leave TVM's default out")
    parser.add_argument("--json", metavar="FILE")
    return parser.parse_args()


def load(name: str, batch: int) -> netc.api.Net:
    """The net, with a train section of this batch."""
    if name in MODULES:
        channels, side, widths = MODULES[name]
        text, net = MODULE.format(name=name, channels=channels, side=side, widths=widths), f"module_{name}"
    else:
        text, net = (ROOT / f"specs/{name}.net").read_text(), name
    if "\ntrain " not in text:
        text += TRAIN.format(batch=batch, net=net, optimizer=OPTIMIZER)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / f"{net}.net"
        path.write_text(text)
        loaded = netc.load(path)
    loaded.program.data["batch"] = batch
    return loaded


def ours(net: netc.api.Net, program: str, batch: int, archs: list[str]) -> dict[str, list[dict]]:
    """Rows of a program by architecture."""
    build, blocks = cuda.build, {}

    def counting(module: tvm.IRModule, *rest, **others):
        blocks.update({name.name_hint: grid(kernel, batch) for name, kernel in module.functions.items()
                       if "global_symbol" not in kernel.attrs})
        return build(module, *rest, **others)

    with patch.object(cuda, "build", counting):
        made = artifact.code(net.program, "cuda:" + ",".join(archs), names=[program], batch=batch)
    found = [{**row, "blocks": blocks[row["kernel"]]} for row in rows(*made, program, batch)]
    return {arch: [row for row in found if row["arch"] == arch] for arch in archs}


def grid(kernel: tirx.PrimFunc, batch: int) -> int:
    """How many blocks a kernel is launched with."""
    inside = [kernel.body]
    while inside:
        statement = inside.pop()
        if getattr(statement, "attr_key", "") == "thread_extent" and statement.node.thread_tag == "blockIdx.x":
            analyzer = Analyzer()
            for symbol in tirx.analysis.undefined_vars(statement.value):
                analyzer.bind(symbol, tirx.const(batch, symbol.ty.dtype))
            return int(analyzer.simplify(statement.value))
        inside += [*getattr(statement, "seq", []), *filter(None, [getattr(statement, "body", None)])]
    raise ValueError("no launch")


def peer(net: netc.api.Net, batch: int, gpu: Gpu) -> list[dict]:
    """The same of TVM's default."""
    return [{"registers": one.taken.registers, "shared_bytes": one.taken.shared, "spill_bytes": one.taken.local,
             "occupancy": gpu.occupancy(one.taken.threads or 1024, one.taken.registers, one.taken.shared),
             "dram_bytes": one.bytes, "flops": one.flops, "predicted_us": 1e6 * gpu.time(one.flops, one.bytes)}
            for one in dlight.launches(net.graph, batch, cuda.find_compiler(), gpu.arch)]


def fused(net: netc.api.Net, program: str, batch: int, arch: str) -> dict[str, float]:
    """Element-wise fusion alone, counted on the graph."""
    if program == "run":
        counts = tally.elementwise_fused(select_mode(net.graph, "deploy"), MACHINES[arch], batch)
    else:
        joint = programs.join(select_mode(net.graph, "train"), net.train_config)
        counts = tally.elementwise_fused_step(joint, MACHINES[arch], batch)
    return {"launches": counts["kernels"], "dram_bytes": counts["bytes"], "predicted_us": 1e3 * counts["predicted_ms"]}


def summary(launches: list[dict], gpu: Gpu) -> dict:
    """What is printed of a program's launches."""
    return {"launches": len(launches), "dram_bytes": sum(row["dram_bytes"] for row in launches),
            "predicted_us": sum(row["predicted_us"] for row in launches),
            "registers": max(row["registers"] for row in launches),
            "shared_bytes": max(row["shared_bytes"] for row in launches),
            "spill_bytes": sum(row["spill_bytes"] for row in launches),
            "occupancy": mean(row["occupancy"] for row in launches),
            "blocks": min((row["blocks"] for row in launches if "blocks" in row and row["flops"] >= 1e6), default=None),
            "limits": sum(over(row, gpu) for row in launches)}


def over(row: dict, gpu: Gpu) -> bool:
    """Whether a kernel is beyond what is allowed."""
    most = 255 if row.get("mix") and row["mix"]["hmma"] else 128
    return bool(row["spill_bytes"] or row["registers"] > most or row["shared_bytes"] > gpu.shared_block)


def measure(name: str, program: str, options: argparse.Namespace) -> list[dict]:
    batch = options.batch if program == "run" else options.train_batch
    net = load(name, options.train_batch)
    compiled, found = ours(net, program, batch, options.archs), []
    for arch in options.archs:
        gpu = nearest(arch)
        kinds = {"ours": summary(compiled[arch], gpu), "element-wise fused": fused(net, program, batch, arch)}
        if program == "run" and not options.no_dlight:
            kinds["TVM dlight"] = summary(peer(net, batch, gpu), gpu)
        for kind, counts in kinds.items():
            row = {"net": name, "program": program, "batch": batch, "arch": arch, "made by": kind, **counts,
                   "ratio": kinds["ours"]["predicted_us"] / counts["predicted_us"]}
            found.append(row)
            show(row)
        found[-len(kinds)]["kernels"] = compiled[arch]
        for row in compiled[arch]:
            if over(row, gpu):
                print(f"    beyond the limits: {row['kernel']} of {', '.join(row['layers'])}: {row['registers']} registers, "
                      f"{row['spill_bytes']} bytes spilled, {row['shared_bytes']} bytes shared", flush=True)
    return found


def show(row: dict) -> None:
    taken = ""
    if "registers" in row:
        taken = f"{row['registers']:>10}{row['spill_bytes']:>8}{row['occupancy']:>10.0%}{row['limits']:>7}{row['blocks'] or '':>7}"
    print(f"{row['net']:<11}{row['program']:<5}{row['batch']:>5} {row['arch']:<7}{row['made by']:<20}{row['launches']:>9}"
          f"{row['dram_bytes']:>15,}{row['predicted_us']:>13.1f}{row['ratio']:>7.2f}{taken}", flush=True)


def main() -> int:
    options = arguments()
    print(f"{cuda.find_compiler().name}; all times are predicted: ratio is ours to the row's")
    print(f"{'net':<11}{'':<5}{'batch':>5} {'arch':<7}{'made by':<20}{'launches':>9}{'DRAM bytes':>15}{'predicted µs':>13}"
          f"{'ratio':>7}{'registers':>10}{'spilled':>8}{'occupancy':>10}{'limits':>7}{'blocks':>7}")
    found = [row for name in options.nets for program in options.programs for row in measure(name, program, options)]
    if options.json:
        Path(options.json).write_text(json.dumps(found, indent=1))
    return int(any(row.get("limits") for row in found if row["made by"] == "ours"))


if __name__ == "__main__":
    sys.exit(main())
