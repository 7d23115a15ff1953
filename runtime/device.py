"""Arrays on an NVIDIA GPU: parameters and arenas stay there, inputs that lie there are read in place, and results are
handed on by DLPack.

Everything happens on CUDA's legacy default stream, and a call returns when its results are complete, so no other
stream ever has to wait for one of them.
"""

from __future__ import annotations

import ctypes
import os
import threading
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from math import prod
from typing import Any
from weakref import WeakKeyDictionary

import numpy as np
import tvm_ffi

from runtime import cuda, native
from runtime.arrays import ALIGNMENT, address, aligned
from runtime.errors import NetcError
from runtime.execute import Argument, Bound, Host, Plan
from runtime.graphs import Graphs

LEGACY_STREAM = 1  # how DLPack calls the legacy default stream of CUDA
_UP, _DOWN, _ACROSS = 1, 2, 3  # cudaMemcpyKind


class DeviceArray:
    """A contiguous array in the memory of a GPU: `torch.from_dlpack(a)` and `cupy.from_dlpack(a)` share it, `a.numpy()` copies.

    shape: tuple of int. dtype: of numpy. address: where the first element lies on the GPU.
    """

    def __init__(self, gpu: Gpu, tensor: tvm_ffi.Tensor):
        self._gpu, self._tensor = gpu, tensor
        self.shape, self.dtype = tensor.shape, np.dtype(str(tensor.dtype))
        self.address = tensor.data_ptr()

    @property
    def nbytes(self) -> int:
        return prod(self.shape) * self.dtype.itemsize

    def __repr__(self) -> str:
        return f"DeviceArray({self.dtype}{list(self.shape)} on GPU {self._gpu.device[1]})"

    def numpy(self) -> np.ndarray:
        """A copy in host memory."""
        array = aligned(self.shape, self.dtype)
        self._gpu.copy(address(array), self.address, self.nbytes, _DOWN)
        return array

    def __dlpack_device__(self) -> tuple[int, int]:
        return self._gpu.device

    def __dlpack__(self, *, stream: int | None = None, max_version: tuple[int, int] | None = None,
                   dl_device: tuple[int, int] | None = None, copy: bool | None = None) -> Any:
        """The array API's exchange protocol. dl_device (1, 0): a copy in host memory. stream: any, see above."""
        if dl_device is not None and tuple(dl_device) == (native.CPU, 0):
            if copy is False:
                raise BufferError("an array on a GPU comes to the host as a copy only")
            return self.numpy().__dlpack__(max_version=max_version)
        return self._tensor.__dlpack__(max_version=max_version, dl_device=dl_device, copy=copy)


class DeviceBlock:
    """Zeroed bytes on a GPU: an arena, or all parameters. As `arrays.Block`, but read by copies."""

    def __init__(self, gpu: Gpu, bytes: int):
        self.bytes = max(bytes, 1)
        self._gpu, self._array = gpu, gpu.allocate((self.bytes,), np.dtype(np.uint8))
        self.address = self._array.address
        gpu.zero(self.address, self.bytes)

    def read(self, start: int, count: int) -> np.ndarray:
        """uint8[count]: a copy, read-only."""
        raw = aligned((count,))
        self._gpu.copy(address(raw), self.address + start, count, _DOWN)
        raw.flags.writeable = False
        return raw

    def write(self, start: int, raw: np.ndarray) -> None:
        self._gpu.copy(self.address + start, address(raw), len(raw), _UP)


@dataclass(frozen=True)
class GpuBound(Bound):
    """A program whose arguments partly lie in host memory: they are copied before and after each call."""

    gpu: Gpu
    uploads: Sequence[tuple[DeviceArray, np.ndarray]]
    downloads: Sequence[tuple[DeviceArray, np.ndarray]]

    def __call__(self, begin: int = 0, end: int | None = None) -> None:
        end = self.plan.kernels if end is None else end
        # A part of the kernels leaves some results as they are.
        also = self.downloads if (begin, end) != (0, self.plan.kernels) else ()
        with self.lock:
            for theirs, ours in (*self.uploads, *also):
                self.gpu.copy(theirs.address, address(ours), theirs.nbytes, _UP)
            self.gpu.launch(self.plan, self.addresses, begin, end)
            for theirs, ours in self.downloads:
                self.gpu.copy(address(ours), theirs.address, theirs.nbytes, _DOWN)
            self.gpu.wait()

    def repeat(self, kernel: int, count: int) -> None:
        """Runs one kernel so many times, on what is there, and waits for the last."""
        with self.lock:
            for _ in range(count):
                self.gpu.launch(self.plan, self.addresses, kernel, kernel + 1)
            self.gpu.wait()


class Gpu(Host):
    """Where a CUDA artifact's tensors lie: on GPU `index`, and what the caller has on the host beside it."""

    alignment = 1  # what lies on the host is copied anyway

    def __init__(self, host: native.Object, members: Mapping[str, bytes], index: int = 0):
        """host: the loaded host.o, which gets its kernels. members: of the artifact. Raises as `cuda.load`."""
        self.device, self.name = (native.CUDA, index), cuda.gpu_name(index)
        self._cudart = cuda.load(host, members, index)
        self._graphs = Graphs(self._cudart, index) if os.environ.get("NETC_CUDA_GRAPH") != "0" else None
        self._allocate = tvm_ffi.get_global_func("runtime.TVMTensorAllocWithScope")
        # Device memory for the arguments that come from the host, as long as their shapes stay the same.
        self._staged: WeakKeyDictionary[Plan, dict[int, DeviceArray]] = WeakKeyDictionary()

    def launch(self, plan: Plan, addresses: Sequence[int], begin: int, end: int) -> None:
        """Launches kernels [begin, end). Raises NetcError E0650, E0724."""
        try:
            if self._graphs is None:
                plan.call(addresses, begin, end)
            else:
                self._graphs.run(plan, addresses, begin, end)
        except NetcError as error:
            raise cuda.explained(error) from None

    def room(self) -> int:
        """Bytes of the GPU's memory that nobody has."""
        free, total = ctypes.c_size_t(), ctypes.c_size_t()
        self._checked(self._cudart.cudaMemGetInfo(ctypes.byref(free), ctypes.byref(total)))
        return free.value

    def allocate(self, shape: tuple[int, ...], dtype: np.dtype) -> DeviceArray:
        """Uninitialized memory. Raises NetcError E0723 where there is not so much."""
        try:
            return DeviceArray(self, self._allocate(shape, str(dtype), tvm_ffi.device("cuda", self.device[1]), None))
        except RuntimeError as error:
            if "out of memory" not in str(error):
                raise
            self._cudart.cudaGetLastError()  # else the next launch would take the error for its own
            raise NetcError("E0723", f"the GPU has no room for {prod(shape) * dtype.itemsize:,} more bytes: "
                            f"{self.room():,} are free", "use a smaller batch, end other programs on this GPU "
                            "(nvidia-smi shows them), or use the CPU (--device cpu)") from None

    def copy(self, to: int, source: int, bytes: int, kind: int) -> None:
        """cudaMemcpy, in the order of the stream; what comes down is there when it returns."""
        self._checked(self._cudart.cudaMemcpy(ctypes.c_void_p(to), ctypes.c_void_p(source), ctypes.c_size_t(bytes), kind))

    def zero(self, to: int, bytes: int) -> None:
        self._checked(self._cudart.cudaMemset(ctypes.c_void_p(to), 0, ctypes.c_size_t(bytes)))

    def wait(self) -> None:
        self._checked(self._cudart.cudaStreamSynchronize(None))

    def _checked(self, status: int) -> None:
        if status:
            self._cudart.cudaGetErrorString.restype = ctypes.c_char_p
            raise NetcError("E0650", f"CUDA reports: {self._cudart.cudaGetErrorString(status).decode()}",
                            "`netc explain E0650` says what this may be")

    # --- what Executable asks ------------------------------------------------------------------------------------

    def block(self, bytes: int) -> DeviceBlock:
        return DeviceBlock(self, bytes)

    def take(self, argument: Argument, value: Any) -> np.ndarray | DeviceArray:
        """An input where it lies: on this GPU or on the host. Raises NetcError E0613, E0616."""
        if hasattr(value, "__dlpack_device__") and value.__dlpack_device__()[0] == native.CUDA:
            return self._import(argument, value)
        return super().take(argument, value)

    def _import(self, argument: Argument, value: Any) -> DeviceArray:
        name, (_, index) = argument.name, value.__dlpack_device__()
        if index != self.device[1]:
            raise NetcError("E0616", f"the input `{name}` lies on GPU {index}, this artifact runs on GPU {self.device[1]}",
                            "copy it there, or choose the GPU with CUDA_VISIBLE_DEVICES")
        try:
            tensor = tvm_ffi.from_dlpack(value.__dlpack__(stream=LEGACY_STREAM))
        except (BufferError, RuntimeError, TypeError, ValueError) as problem:
            raise NetcError("E0613", f"the input `{name}` cannot be had by DLPack: {problem}",
                            "give a tensor of numbers, on the GPU or on the host") from problem
        if str(tensor.dtype) != str(argument.dtype):
            raise NetcError("E0613", f"the input `{name}` is {tensor.dtype}, the net needs {argument.dtype}",
                            f"convert it to {argument.dtype} on the GPU")
        if not tensor.is_contiguous():
            raise NetcError("E0616", f"the input `{name}` on GPU {index} has gaps or another order of its axes",
                            "give a contiguous tensor (PyTorch: .contiguous(), CuPy: cupy.ascontiguousarray)")
        array = DeviceArray(self, tensor)
        if array.address % ALIGNMENT:
            copy = self.allocate(array.shape, array.dtype)
            self.copy(copy.address, array.address, array.nbytes, _ACROSS)
            return copy
        return array

    def empty(self, shape: tuple[int, ...], dtype: np.dtype,
              inputs: Iterable[np.ndarray | DeviceArray]) -> np.ndarray | DeviceArray:
        """Room for a result: on the GPU where an input lies there."""
        if any(isinstance(array, DeviceArray) for array in inputs):
            return self.allocate(shape, dtype)
        return aligned(shape, dtype)

    def bound(self, plan: Plan, arrays: Sequence[np.ndarray | DeviceArray], results: dict[str, Any],
              lock: threading.Lock) -> GpuBound:
        staged = self._staged.setdefault(plan, {})
        placed, uploads, downloads = [], [], []
        for position, array in enumerate(arrays):
            if not isinstance(array, DeviceArray):
                if position not in staged:
                    staged[position] = self.allocate(array.shape, array.dtype)
                is_result = any(array is result for result in results.values())
                (downloads if is_result else uploads).append((staged[position], array))
                array = staged[position]
            placed.append(array)
        return GpuBound(plan, [a.address for a in placed], results, placed, lock, self, uploads, downloads)

    def local(self, feeds: Mapping[str, np.ndarray]) -> dict[str, DeviceArray]:
        out = {}
        for name, array in feeds.items():
            out[name] = self.allocate(array.shape, array.dtype)
            self.copy(out[name].address, address(array), array.nbytes, _UP)
        return out
