"""The leaves of a graph: inputs, parameters and constants."""

from compiler.ops.base import Op, register


@register
class Input(Op):
    """attrs: role ("input", "label" or "scalar"), classes (labels: how many, or None)."""

    name = "input"


@register
class Parameter(Op):
    """attrs: init, fans, seed_path; trainable, state, decay, lr. The node's name is the weight's path."""

    name = "parameter"


@register
class Constant(Op):
    """attrs: value, a numpy array."""

    name = "constant"

    def scalar(self, t, a):
        return t.const(a.value.item(), {"float32": "f32"}.get(str(a.value.dtype), str(a.value.dtype)))

    def numpy(self, a):
        return a.value
