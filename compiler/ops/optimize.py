"""What optimizers need beyond arithmetic."""

import numpy as np

from compiler.ops.base import Op, register


@register
class BiasCorrection(Op):
    """1 - beta^step of a number of steps, the divisor of Adam's moments (Kingma and Ba, 2015). attrs: beta."""

    name = "bias_correction"
    pointwise = True
    undifferentiable = "part of the optimizer"

    def infer(self, a, step):
        return step

    def numpy(self, a, step):
        return np.asarray(-np.expm1(step.astype("float64") * np.log(a.beta)), step.dtype)

    def scalar(self, t, a, step):
        # In f64: for the first steps the difference is as small as 1 - beta, and f32 would keep 4 digits of it.
        power = t.exp(t.cast(step, "f64") * t.const(float(np.log(a.beta)), "f64"))
        return t.cast(t.const(1, "f64") - power, "f32")
