"""Targets as tables of limits: what a schedule may ask about the machine it emits for."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Cpu:
    """A CPU as schedules see it.

    lanes: f32 elements of a vector register; registers: how many vector registers there are; l1, l2: bytes of cache a
    core has; llvm: the target dict handed to TVM.
    """

    name: str
    lanes: int
    registers: int
    llvm: dict
    l1: int = 32 << 10
    l2: int = 512 << 10
