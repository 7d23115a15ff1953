"""docs/ops.md from the registry of ops, with an example of each: `python -m tests.docs.ops_page` writes it."""

from __future__ import annotations

from compiler.elaborate import load
from compiler.ops import REGISTRY, Op
from compiler.ops.base import KINDS
from tests.docs.examples import ROOT, wrap

PAGE = ROOT / "docs" / "ops.md"

HEAD = """# The ops

Made from the registry by `python -m tests.docs.ops_page`; `netc ops` and `netc ops NAME` print the same. Arguments are
given by position or name; tensors come by pipe, `x -> dense(8)`, or as arguments, `dense(x, 8)`;
[language.md](language.md) says how. In the examples `image` is `f32[N, 3, 32, 32]`, `x` is `f32[N, 16]`, `class` is a
label `i32[N] in 10` and `target` a label `f32[N, 1]`; behind `#` stands the type of the result.

"""

ORDER = ("conv", "pool", "dense", "activation", "normalize", "random", "softmax", "elementwise", "reduce", "shape",
         "loss", "metric")

# An example of each op; those that are not here are `y = x -> NAME`.
EXAMPLES = {
    "add": "add(x, 1.0 * x)", "sub": "x - 0.5", "mul": "x * x", "div": "image / 255", "neg": "-x",
    "maximum": "maximum(x, -x)", "minimum": "minimum(x, -x)", "pow": "x -> pow(2.5)", "less": "less(x, -x)",
    "less_equal": "less_equal(x, -x)", "greater": "greater(x, -x)", "greater_equal": "greater_equal(x, -x)",
    "equal": "equal(x, -x)", "where": "where(less(x, -x), x, -x)", "cast": "less(x, -x) -> cast(i32)",
    "scale": "image -> scale(2, offset = -1)", "leaky_relu": "x -> leaky_relu(0.1)", "prelu": "image -> prelu",
    "elu": "x -> elu(alpha = 0.5)", "gelu": "x -> gelu(approximate = tanh)", "clip": "x -> clip(-1, 1)",
    "maxout": "x -> maxout(4)", "conv": "image -> conv(8, 3x3, stride = 2, pad = same)",
    "matmul": "matmul(x, x, transpose_b)", "dense": "x -> dense(10)", "reshape": "image -> reshape([N, 3, -1])",
    "flatten": "image -> flatten", "transpose": "image -> transpose([0, 2, 3, 1])",
    "broadcast_to": "x -> broadcast_to([5, N, 16])", "pad": "image -> pad([[0, 1], [2, 2]])",
    "slice": "image -> slice(width, 4, -4)", "concat": "concat(image, image, axis = channel)",
    "split": "x -> split(sizes = [4, 12])",
    "cross_entropy": "cross_entropy(x -> dense(10), class, label_smoothing = 0.1)",
    "nll": "nll(x -> dense(10) -> log_softmax, class)",
    "binary_cross_entropy": "binary_cross_entropy(x -> dense(1), target)", "mse": "mse(x -> dense(1), target)",
    "l1": "l1(x -> dense(1), target)", "hinge": "hinge(x -> dense(10), class)",
    "accuracy": "accuracy(x -> dense(10), class)", "top_k": "top_k(x -> dense(10), class, 3)",
    "mean_absolute_error": "mean_absolute_error(x -> dense(1), target)",
    "normalize": "image -> normalize([0.5, 0.5, 0.5], [0.2, 0.2, 0.2])", "batch_norm": "image -> batch_norm",
    "layer_norm": "x -> layer_norm", "lrn": "image -> lrn(3)",
    "max_pool": "image -> max_pool(3x3, stride = 2, ceil)", "avg_pool": "image -> avg_pool(2x2)",
    "global_avg_pool": "image -> global_avg_pool", "global_max_pool": "image -> global_max_pool(keepdims = false)",
    "dropout": "x -> dropout(0.3)", "sum": "image -> sum(axes = [height, width])", "mean": "x -> mean",
    "max": "x -> max(axes = feature, keepdims)", "min": "x -> min(axes = feature)", "argmax": "x -> argmax",
    "argmin": "x -> argmin",
}
NAMES = {"split": "left, right"}


def text() -> str:
    """The whole page."""
    families: dict[str, list] = {}
    for op in REGISTRY.values():
        if op.signature is not None:
            families.setdefault(op.family, []).append(op)
    ordered = sorted(families, key=lambda family: (ORDER.index(family) if family in ORDER else len(ORDER), family))
    parts = [HEAD, " · ".join(f"[{family}](#{family})" for family in ordered), "\n"]
    for family in ordered:
        parts.append(f"\n## {family}\n")
        for op in families[family]:
            parts.append(f"\n**`{op.name}({op.signature})`**\n\n{' '.join(op.doc.split())}\n")
            parts.append(f"\n<!-- in: net -->\n```net\n{example(op)}\n```\n")
    parts.append("\n## Kinds of arguments\n\n| kind | what |\n| --- | --- |\n")
    parts += [f"| `{kind}` | {what} |\n" for kind, what in KINDS.items()]
    parts.append("| words joined by `\\|` | one of the words |\n")
    return "".join(parts)


def example(op: Op) -> str:
    """`y = …  # type`, the type as the compiler infers it. Losses and metrics are statements of their own."""
    value = EXAMPLES.get(op.name, f"x -> {op.name}")
    role = op.roles[0] if op.roles in (("loss",), ("metric",)) else None
    if role:
        statement, results = f"{role} y = {value}", ["y"]
        graph = load(wrap("net", statement), name="example.net").graph
        nodes = [(graph.losses if role == "loss" else graph.metrics)["y"]]
    else:
        names = NAMES.get(op.name, "y")
        statement, results = f"{names} = {value}", names.split(", ")
        outputs = [f"output {name}" for name in results]
        graph = load(wrap("net", "\n".join([statement, *outputs])), name="example.net").graph
        nodes = [graph.outputs[name] for name in results]
    return f"{statement}  # {', '.join(str(graph[node].type) for node in nodes)}"


if __name__ == "__main__":
    PAGE.write_text(text())
