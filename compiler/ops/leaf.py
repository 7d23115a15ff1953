"""The leaves of a graph: inputs, parameters and constants."""

from compiler.ir import DTYPES
from compiler.ops.base import Op, register

WORDS = {numpy: word for word, numpy in DTYPES.items()}


@register
class Input(Op):
    """attrs: role ("input", "label" or "scalar"), classes (labels: how many, or None)."""

    name = "input"


@register
class Parameter(Op):
    """attrs: init, fans; trainable, state, optimizer, decay, lr. The node's name is the weight's path."""

    name = "parameter"


@register
class Constant(Op):
    """attrs: value, a numpy array."""

    name = "constant"

    def scalar(self, t, a):
        return t.const(a.value.item(), WORDS[str(a.value.dtype)])

    def numpy(self, a):
        return a.value
