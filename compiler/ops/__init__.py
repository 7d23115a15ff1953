"""The ops of the language and of the IR, one file a family. Importing this package registers them all."""

from compiler.ops import activation, conv, elementwise, leaf, normalize, pool, reduce, shape, softmax  # noqa: F401
from compiler.ops.base import REGISTRY, Arg, Op, OpError, Operand, Reduce, Weight, namespace, register  # noqa: F401
