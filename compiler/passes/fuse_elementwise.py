"""Element-wise work goes into the kernel that makes what it reads: from here on a graph says which nodes share a kernel."""

from __future__ import annotations

from compiler.ir import Graph
from compiler.kernels import choose_kernels
from compiler.passes.base import Context, Rewrite, graph_pass, layers


def separate(graph: Graph, context: Context) -> list[Rewrite]:
    """One kernel for each op: what nothing is fused into."""
    choose_kernels(graph, fuse=False)
    return []


@graph_pass("fuse_elementwise", otherwise=separate)
def fuse_elementwise(graph: Graph, context: Context) -> list[Rewrite]:
    """Bias, activation and other element-wise work joins the kernel before it; each group becomes one kernel."""
    choose_kernels(graph)
    return [Rewrite(f"{len(g.nodes)} ops in one kernel: {', '.join(graph[n].op for n in g.nodes)}",
                    layers(*(graph[n] for n in g.nodes)))
            for launch in graph.kernels for g in launch.groups if len(g.nodes) > 1]
