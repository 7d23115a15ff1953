"""The device `cuda-emulator`: CUDA kernels of an artifact run on the CPU, and faults in them found.

Environment: NETC_EMULATOR_CHECK=1 checks every access to memory; NETC_EMULATOR_ORDER=forward, reverse or
random[:SEED] is the order in which threads and blocks take turns.
"""
