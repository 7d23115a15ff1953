"""CPU schedules: one kernel becomes loops in the function under construction. The op's name chooses the template."""

from __future__ import annotations

from compiler.schedule.cpu_conv import emit_conv, emit_conv_input_grad
from compiler.schedule.cpu_conv_weight_grad import emit_conv_weight_grad
from compiler.schedule.cpu_matmul import emit_matmul
from compiler.schedule.cpu_nest import emit_concat, emit_nest
from compiler.schedule.cpu_pool import emit_pool, emit_pool_grad
from compiler.schedule.kernel import Kernel
from compiler.target import Cpu

# A template returns False, having emitted nothing, where it does not apply.
TEMPLATES = {
    "avg_pool": emit_pool,
    "avg_pool_grad": emit_pool_grad,
    "concat": emit_concat,
    "conv": emit_conv,
    "conv_input_grad": emit_conv_input_grad,
    "conv_weight_grad": emit_conv_weight_grad,
    "matmul": emit_matmul,
    "max_pool": emit_pool,
    "max_pool_grad": emit_pool_grad,
    "max_pool_index": emit_pool,
}


def emit(kernel: Kernel, cpu: Cpu, batch: int = 1) -> None:
    """Emits `kernel` into the current IRBuilder frame.

    batch: the design batch, what an unknown extent counts for when deciding how much work goes to a thread.
    """
    template = TEMPLATES.get(kernel.op.name)
    if template is None or not template(kernel, cpu, batch):
        emit_nest(kernel, cpu, batch)
