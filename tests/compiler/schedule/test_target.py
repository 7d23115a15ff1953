"""Names of CPU targets."""

import pytest
from tvm.target import Target, codegen

from compiler.target import CPUS, TargetError, host, parse_cpu


def test_every_target_is_known_to_llvm():
    for cpu in [*CPUS.values(), host()]:
        assert codegen.llvm_get_cpu_features(Target(cpu.llvm))
        assert cpu.registers in (16, 32) and cpu.lanes in (4, 8, 16)


def test_names():
    assert parse_cpu("cpu") == parse_cpu("cpu:host") == host()
    assert parse_cpu("cpu:x86-64-v3").lanes == 8
    with pytest.raises(TargetError) as error:
        parse_cpu("cpu:z80")
    assert error.value.code == "E0701" and "x86-64-v3" in error.value.hint
