"""Ops written with JAX, for gradients that do not come from us. PEERS: op → f(attrs, *operands, weights included)."""

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.scipy.special import erf

jax.config.update("jax_enable_x64", True)
jax.config.update("jax_platforms", "cpu")


def conv(a, x, w, bias=None):
    letters = "HW"[:len(a.kernel)]
    y = lax.conv_general_dilated(x, w, a.stride, a.pad, rhs_dilation=a.dilation, feature_group_count=a.groups,
                                 dimension_numbers=("NC" + letters, "OI" + letters, "NC" + letters))
    return y if bias is None else y + bias.reshape(-1, *[1] * len(a.kernel))


def _padding(a, spatial):
    """Padding that makes floor and ceil the same."""
    out = []
    for size, k, s, d, (lo, hi) in zip(spatial, a.kernel, a.stride, a.dilation, a.pad):
        span = size + lo + hi - (k - 1) * d - 1
        windows = -(-span // s) + 1 if a.ceil else span // s + 1
        if a.ceil and (windows - 1) * s >= size + lo:
            windows -= 1
        out.append((lo, max(hi, (windows - 1) * s + (k - 1) * d + 1 - size - lo)))
    return [(0, 0), (0, 0), *out]


def _windows(a, x, start, combine):
    return lax.reduce_window(x, start, combine, (1, 1, *a.kernel), (1, 1, *a.stride), _padding(a, x.shape[2:]),
                             window_dilation=(1, 1, *a.dilation))


def max_pool(a, x):
    padding = _padding(a, x.shape[2:])
    padded = jnp.pad(x, padding, constant_values=-jnp.inf)
    counts = [(p - (k - 1) * d - 1) // s + 1 for p, k, d, s in zip(padded.shape[2:], a.kernel, a.dilation, a.stride)]
    return jnp.stack([padded[(slice(None), slice(None), *(slice(o * d, o * d + (n - 1) * s + 1, s) for o, d, n, s in
                                                         zip(offset, a.dilation, counts, a.stride)))]
                      for offset in np.ndindex(*a.kernel)]).max(0)


def avg_pool(a, x):
    counted = jnp.ones_like(x)
    if a.count_include_pad:
        counted = jnp.pad(counted, [(0, 0), (0, 0), *a.pad], constant_values=1)
        beyond = [(0, max(hi - own, 0)) for (_, hi), (_, own) in zip(_padding(a, x.shape[2:])[2:], a.pad)]
        counted = lax.reduce_window(counted, 0.0, lax.add, (1, 1, *a.kernel), (1, 1, *a.stride),
                                    [(0, 0), (0, 0), *beyond])
    else:
        counted = _windows(a, counted, 0.0, lax.add)
    return _windows(a, x, 0.0, lax.add) / counted


def lrn(a, x):
    half = a.size // 2
    padded = jnp.pad(x * x, [(0, 0), (half, half), *[(0, 0)] * (x.ndim - 2)])
    total = sum(padded[:, i:i + x.shape[1]] for i in range(a.size))
    return x / (a.k + a.alpha / a.size * total) ** a.beta


def channels(v, x):
    return v.reshape(-1, *[1] * (x.ndim - 2))


def batch_norm(a, x, w, b, mean, var):
    return (x - channels(mean, x)) / jnp.sqrt(channels(var, x) + a.eps) * channels(w, x) + channels(b, x)


def batch_norm_training(a, x, w, b):
    axes = (0, *range(2, x.ndim))
    return batch_norm(a, x, w, b, x.mean(axes), x.var(axes))


def layer_norm(a, x, w, b):
    return (x - x.mean(a.axes, keepdims=True)) / jnp.sqrt(x.var(a.axes, keepdims=True) + a.eps) * w + b


def picked(x, y):
    return jnp.take_along_axis(x, y[:, None].astype(int), 1)[:, 0]


def cross_entropy(a, x, y):
    target = jnp.moveaxis(jax.nn.one_hot(y, x.shape[1]), -1, 1) * (1 - a.label_smoothing)
    target = target + a.label_smoothing / x.shape[1]
    return -(target * jax.nn.log_softmax(x, 1)).sum(1).mean()


def hinge(a, x, y):
    t = y if y.ndim == x.ndim else 2 * jnp.moveaxis(jax.nn.one_hot(y, x.shape[1]), -1, 1) - 1
    return jnp.maximum(0, 1 - x * t).sum() / x.shape[0]


def pad(a, x):
    return jnp.pad(x, list(zip(a.before, a.after)), constant_values=a.value)


def _reduced(f):
    return lambda a, x: f(x, axis=a.axes, keepdims=a.keepdims)


def _global(f):
    return lambda a, x: f(x, axis=tuple(range(2, x.ndim)), keepdims=a.keepdims)


PEERS = {
    "add": lambda a, x, y: x + y, "sub": lambda a, x, y: x - y, "mul": lambda a, x, y: x * y, "div": lambda a, x,
    y: x / y,
    "maximum": lambda a, x, y: jnp.maximum(x, y), "minimum": lambda a, x, y: jnp.minimum(x, y),
    "neg": lambda a, x: -x, "abs": lambda a, x: jnp.abs(x), "square": lambda a, x: x ** 2, "exp": lambda a,
    x: jnp.exp(x),
    "log": lambda a, x: jnp.log(x), "sqrt": lambda a, x: jnp.sqrt(x), "rsqrt": lambda a, x: lax.rsqrt(x),
    "pow": lambda a, x: x ** a.exponent, "where": lambda a, c, x, y: jnp.where(c, x, y),
    "cast": lambda a, x: x, "scale": lambda a, x: x * a.by + a.offset,
    "relu": lambda a, x: jax.nn.relu(x), "leaky_relu": lambda a, x: jax.nn.leaky_relu(x, a.slope),
    "elu": lambda a, x: jax.nn.elu(x, a.alpha), "selu": lambda a, x: jax.nn.selu(x), "erf": lambda a, x: erf(x),
    "gelu": lambda a, x: jax.nn.gelu(x, approximate=a.approximate == "tanh"),
    "clip": lambda a, x: jnp.clip(x, a.low, a.high), "relu6": lambda a, x: jax.nn.relu6(x),
    "hard_tanh": lambda a, x: jax.nn.hard_tanh(x), "hard_sigmoid": lambda a, x: jax.nn.hard_sigmoid(x),
    "hard_swish": lambda a, x: jax.nn.hard_swish(x), "sigmoid": lambda a, x: jax.nn.sigmoid(x),
    "silu": lambda a, x: jax.nn.silu(x), "tanh": lambda a, x: jnp.tanh(x), "softplus": lambda a, x: jax.nn.softplus(x),
    "prelu": lambda a, x, w: jnp.where(x > 0, x, x * channels(w, x)),
    "maxout": lambda a, x: x.reshape(x.shape[0], -1, a.pieces, *x.shape[2:]).max(2),
    "conv": conv, "dense": lambda a, x, w, b=0.0: x @ w.T + b,
    "matmul": lambda a, x, y: (x.T if a.transpose_a else x) @ (y.T if a.transpose_b else y),
    "max_pool": max_pool, "avg_pool": avg_pool, "global_avg_pool": _global(jnp.mean),
    "global_max_pool": _global(jnp.max),
    "flatten": lambda a, x: x.reshape(x.shape[0], -1), "reshape": lambda a, x: x.reshape(a.shape),
    "transpose": lambda a, x: x.transpose(a.order), "broadcast_to": lambda a, x: jnp.broadcast_to(x, a.shape),
    "pad": pad, "slice": lambda a, x: lax.slice_in_dim(x, a.start, a.stop, axis=a.axis),
    "concat": lambda a, *xs: jnp.concatenate(xs, a.axis),
    "sum": _reduced(jnp.sum), "mean": _reduced(jnp.mean), "max": _reduced(jnp.max), "min": _reduced(jnp.min),
    "softmax": lambda a, x: jax.nn.softmax(x, a.axis), "log_softmax": lambda a, x: jax.nn.log_softmax(x, a.axis),
    "normalize": lambda a, x: (x - channels(jnp.array(a.mean), x)) / channels(jnp.array(a.std), x),
    "batch_norm": batch_norm, "layer_norm": layer_norm, "lrn": lrn, "dropout": lambda a, x: x,
    "cross_entropy": cross_entropy, "nll": lambda a, x, y: -picked(x, y).mean(), "hinge": hinge,
    "mse": lambda a, x, y: ((x - y) ** 2).mean(), "l1": lambda a, x, y: jnp.abs(x - y).mean(),
    "binary_cross_entropy": lambda a, x, y: -(y * jax.nn.log_sigmoid(x) + (1 - y) * jax.nn.log_sigmoid(-x)).mean(),
}
