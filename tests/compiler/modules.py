"""Structures of known networks for random nets: what the optimizer looks for, of random sizes, with a twist at times."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from hypothesis import strategies as st

if TYPE_CHECKING:
    from compiler.build import Value
    from tests.compiler.nets import Net


def module(draw: Any, net: Net, smooth: bool) -> None:
    """Adds one structure behind a value with maps (behind the deepest one that has any)."""
    maps = [v for v in net.values if v.type.rank == 4]
    if maps:
        kind = draw(st.sampled_from([_inception, _inception, _residual, _normalized, _pooled, _linear, _squeeze]))
        kind(draw, net, maps[-1], smooth)


def _activation(draw: Any, net: Net, x: Value, smooth: bool) -> Value:
    kinds = ["tanh", "sigmoid"] if smooth else ["relu", "relu", "relu", "relu6", "tanh", ""]
    op = draw(st.sampled_from(kinds))
    return net.call(op, x) if op else x


def _conv(draw: Any, net: Net, x: Value, ch: int, k: Any = 1, **given: Any) -> Value:
    """A convolution that keeps the size of its maps, with a bias or with batch norm."""
    given = {"pad": "same", "bias": draw(st.booleans()), **given}
    y = net.call("conv", x, ch=ch, k=k, **given)
    return net.call("batch_norm", y, eps=0.1) if draw(st.integers(0, 2)) == 0 else y


def _channels(draw: Any) -> int:
    return draw(st.sampled_from([1, 2, 3, 4, 5, 8, 9]))


def _inception(draw: Any, net: Net, x: Value, smooth: bool) -> None:
    """Branches of 1×1, 1×1 and k×k, pool and 1×1 convolutions that a concat joins."""
    branches = []
    for kind in draw(st.lists(st.sampled_from(["1", "k", "k", "pool"]), min_size=2, max_size=4)):
        y = x
        if kind == "pool":
            op = "avg_pool" if smooth else draw(st.sampled_from(["max_pool", "avg_pool"]))
            include = {"count_include_pad": draw(st.booleans())} if op == "avg_pool" else {}
            y = net.call(op, y, k=3, stride=1, pad="same", **include)
        y = _activation(draw, net, _conv(draw, net, y, _channels(draw)), smooth)
        if kind == "k":
            window = draw(st.sampled_from([3, 3, (1, 3), 5]))
            y = _activation(draw, net, _conv(draw, net, y, _channels(draw), window), smooth)
        branches.append(y)
    net.call("concat", *branches, axis=1)


def _residual(draw: Any, net: Net, x: Value, smooth: bool) -> None:
    """Two convolutions beside a shortcut, which is a 1×1 convolution where stride or channels change."""
    stride, same = draw(st.sampled_from([1, 1, 2])), draw(st.booleans())
    ch = x.shape[1] if same else _channels(draw)
    pad = 1 if min(x.shape[2:]) > 1 else "same"
    y = _activation(draw, net, _conv(draw, net, x, ch, 3, stride=stride, pad=pad), smooth)
    y = _conv(draw, net, y, ch, 3)
    short = x if stride == 1 and same else _conv(draw, net, x, ch, stride=stride, pad="valid")
    if short.shape == y.shape:
        y = net.call("add", y, short)
    _activation(draw, net, y, smooth)


def _normalized(draw: Any, net: Net, x: Value, smooth: bool) -> None:
    """Scales, biases and normalization before and behind a convolution, depthwise at times."""
    for op in draw(st.lists(st.sampled_from(["scale", "batch_norm", "normalize"]), max_size=2)):
        x = _affine(draw, net, x, op)
    groups = draw(st.sampled_from([1, x.shape[1]]))
    y = net.call("conv", x, ch=groups * draw(st.integers(1, 2)), k=draw(st.sampled_from([1, 3])), groups=groups,
                 pad=draw(st.sampled_from(["same", 0] if min(x.shape[2:]) > 2 else ["same"])), bias=draw(st.booleans()))
    for op in draw(st.lists(st.sampled_from(["batch_norm", "scale"]), min_size=1, max_size=2)):
        y = _affine(draw, net, y, op)
    _activation(draw, net, y, smooth)


def _affine(draw: Any, net: Net, x: Value, op: str) -> Value:
    if op == "normalize":
        channels = x.shape[1]
        mean = [draw(st.sampled_from([0.0, 0.25])) for _ in range(channels)]
        return net.call(op, x, mean=mean, std=[0.5 + 0.25 * (i % 3) for i in range(channels)])
    given = {"by": 0.75, "offset": draw(st.sampled_from([0.0, 0.25]))} if op == "scale" else {"eps": 0.1}
    return net.call(op, x, **given)


def _pooled(draw: Any, net: Net, x: Value, smooth: bool) -> None:
    """A convolution, an activation and a pool, in some order."""
    y = x
    for kind in draw(st.permutations(["conv", "activation", "pool"])):
        if kind == "conv":
            y = _conv(draw, net, y, _channels(draw), draw(st.sampled_from([1, 1, 3])))
        elif kind == "activation":
            y = _activation(draw, net, y, smooth)
        else:
            op = draw(st.sampled_from(["avg_pool", "global_avg_pool"] + ([] if smooth else ["max_pool", "max_pool"])))
            given = {} if op == "global_avg_pool" else {"k": draw(st.integers(2, 3)), "stride": draw(st.integers(1, 2)),
                                                        "pad": draw(st.integers(0, 1)), "ceil": draw(st.booleans())}
            made = net.call(op, y, **given)
            y = y if made is None else made


def _linear(draw: Any, net: Net, x: Value, smooth: bool) -> None:
    """Convolutions with nothing between them, one of them 1×1."""
    y = net.call("conv", x, ch=_channels(draw), k=draw(st.sampled_from([1, 3])), pad="same", bias=draw(st.booleans()))
    for _ in range(draw(st.integers(1, 2))):
        window = draw(st.sampled_from([1, 1, 3]))
        y = net.call("conv", y, ch=_channels(draw), k=window, pad="same", bias=draw(st.booleans()))
    if draw(st.booleans()):
        net.call("dense", net.call("flatten", y), units=draw(st.integers(1, 6)))


def _squeeze(draw: Any, net: Net, x: Value, smooth: bool) -> None:
    """Squeeze and excitation: maps times a number for each channel that the means of all maps determine."""
    s = _activation(draw, net, net.call("conv", net.call("global_avg_pool", x), ch=_channels(draw)), smooth)
    s = net.call("sigmoid", net.call("conv", s, ch=x.shape[1]))
    net.call("mul", x, s)
