"""The ops of the language and of the IR, one file a family. Importing this package registers them all."""

from compiler.ops import (activation, conv, dense, elementwise, fft, leaf, loss, metric, normalize, optimize, pool,
                          random, reduce, shape, softmax, winograd)
from compiler.ops.base import REGISTRY, Arg, Op, OpError, Operand, Reduce, Weight, namespace, register  # noqa: F401
