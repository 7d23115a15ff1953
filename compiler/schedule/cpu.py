"""CPU schedules: one kernel becomes loops in the function under construction. The op's name chooses the template."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from compiler.schedule.cpu_bf16 import emit_widened_conv
from compiler.schedule.cpu_bf16_dot import emit_dot_conv
from compiler.schedule.cpu_bf16_tiles import emit_tiled_conv
from compiler.schedule.cpu_blocked import emit_blocked_conv
from compiler.schedule.cpu_blocked_pool import emit_blocked_pool
from compiler.schedule.cpu_channel_sum import emit_channel_sum
from compiler.schedule.cpu_conv import emit_conv, emit_conv_input_grad
from compiler.schedule.cpu_conv_weight_grad import emit_conv_weight_grad, emit_weight_and_bias_grad
from compiler.schedule.cpu_fft import emit_fft_conv, emit_fft_weight
from compiler.schedule.cpu_loops import share
from compiler.schedule.cpu_matmul import emit_matmul
from compiler.schedule.cpu_nest import emit_concat, emit_nest
from compiler.schedule.cpu_pool import emit_pool, emit_pool_and_index, emit_pool_grad
from compiler.schedule.cpu_pool_grad import emit_max_pool_grad
from compiler.schedule.cpu_softmax import emit_softmax
from compiler.schedule.cpu_staged import emit_staged
from compiler.schedule.cpu_winograd import emit_winograd_conv, emit_winograd_weight
from compiler.schedule.kernel import Kernel, Work
from compiler.target import Cpu

# Tried in order. A template returns Work, whose pieces share one parallel region with others; True, having emitted all of
# it; or False or None, having emitted nothing, where it does not apply.
TEMPLATES: dict[str, tuple[Callable[[Kernel, Cpu, int], Work | bool | None], ...]] = {
    "avg_pool": (emit_staged, emit_blocked_pool, emit_pool),
    "avg_pool_grad": (emit_pool_grad,),
    "channel_sum": (emit_channel_sum,),
    "concat": (emit_concat,),
    "conv": (emit_staged, emit_tiled_conv, emit_dot_conv, emit_widened_conv, emit_blocked_conv, emit_conv),
    "conv_input_grad": (emit_conv_input_grad,),
    "conv_weight_grad": (emit_conv_weight_grad,),
    "fft_conv": (emit_fft_conv,),
    "fft_weight": (emit_fft_weight,),
    "log_softmax": (emit_softmax,),
    "matmul": (emit_matmul,),
    "max_pool": (emit_staged, emit_blocked_pool, emit_pool),
    "max_pool_grad": (emit_max_pool_grad, emit_pool_grad),
    "max_pool_index": (emit_pool,),
    "softmax": (emit_softmax,),
    "winograd_conv": (emit_winograd_conv,),
    "winograd_weight": (emit_winograd_weight,),
}

# For two kernels of one call, one behind the other, that read one tensor: emits both, or returns False.
PAIRS: dict[tuple[str, str], Callable[[Kernel, Kernel, Cpu, int], bool]] = {
    ("conv_weight_grad", "sum"): emit_weight_and_bias_grad,
    ("max_pool", "max_pool_index"): emit_pool_and_index,
}


def emit(kernels: Sequence[Kernel], cpu: Cpu, batch: int = 1) -> None:
    """Emits the kernels of one call, none of which reads what another writes, into the current IRBuilder frame.

    batch: the design batch, what an unknown extent counts for when deciding how much work goes to a thread.
    """
    works: list[Work] = []
    if len(kernels) == 2 and (pair := PAIRS.get((kernels[0].op.name, kernels[1].op.name))) and pair(*kernels, cpu, batch):
        return
    for kernel in kernels:
        done = next(filter(None, (template(kernel, cpu, batch) for template in TEMPLATES.get(kernel.op.name, ()))), None)
        if isinstance(done, Work):
            works.append(done)
        elif not done:
            emit_nest(kernel, cpu, batch)
    share(works, cpu.llvm.get("num-cores", 1))
