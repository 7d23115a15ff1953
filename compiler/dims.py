"""Dimensions of tensors: integers, or polynomials over symbols such as the batch `N`, with one normal form.

A `Dim` is an `int` where its value is known and a `Poly` where it is not. Two dims are equal exactly when their normal
forms are: `N*2 + N` is `3*N`. Floor division by a positive integer is carried out where every coefficient divides, and is
otherwise an atom of its own. The largest of several dims is an atom too; only sizes of memory are made of it.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import reduce
from typing import Any

Atom = Any  # a symbol's name, Quotient or Largest
Monomial = tuple[tuple[Atom, int], ...]  # ((atom, power), …) sorted; () is the constant term


@dataclass(frozen=True)
class Quotient:
    """`(numerator) // divisor` that does not come out even."""

    numerator: Poly
    divisor: int

    def __str__(self) -> str:
        return f"(({self.numerator})//{self.divisor})"


@dataclass(frozen=True)
class Largest:
    """The largest of several dims."""

    of: tuple[Dim, ...]

    def __str__(self) -> str:
        return f"max({', '.join(map(str, self.of))})"


@dataclass(frozen=True)
class Poly:
    """A sum of integer multiples of monomials; never a plain number (that is an `int`)."""

    terms: tuple[tuple[Monomial, int], ...]

    def __add__(self, other: Dim) -> Dim:
        sums = dict(self.terms)
        for monomial, factor in _terms(other):
            sums[monomial] = sums.get(monomial, 0) + factor
        return _normal(sums)

    __radd__ = __add__

    def __mul__(self, other: Dim) -> Dim:
        sums: dict[Monomial, int] = {}
        for m, f in self.terms:
            for k, g in _terms(other):
                product = _times(m, k)
                sums[product] = sums.get(product, 0) + f * g
        return _normal(sums)

    __rmul__ = __mul__

    def __neg__(self) -> Dim:
        return self * -1

    def __sub__(self, other: Dim) -> Dim:
        return self + other * -1

    def __rsub__(self, other: Dim) -> Dim:
        return -self + other

    def __floordiv__(self, other: int) -> Dim:
        if not isinstance(other, int) or other <= 0:
            raise ValueError(f"a dimension can be divided by a positive integer only, not by {other}")
        if all(f % other == 0 for _, f in self.terms):
            return _normal({m: f // other for m, f in self.terms})
        return Poly(((((Quotient(self, other), 1),), 1),))

    @property
    def symbols(self) -> frozenset[str]:
        """The names this depends on."""
        found: set[str] = set()
        for monomial, _ in self.terms:
            for atom, _ in monomial:
                if isinstance(atom, Largest):
                    found |= frozenset().union(*map(symbols, atom.of))
                else:
                    found |= atom.numerator.symbols if isinstance(atom, Quotient) else {atom}
        return frozenset(found)

    def __str__(self) -> str:
        out = ""
        for monomial, factor in self.terms:
            names = [str(a) if p == 1 else "*".join([str(a)] * p) for a, p in monomial]
            if abs(factor) != 1 or not names:
                names.append(str(abs(factor)))
            sign = "-" if factor < 0 else "+"
            out += (f" {sign} " if out else ("-" if factor < 0 else "")) + "*".join(names)
        return out

    __repr__ = __str__


Dim = int | Poly


def symbol(name: str) -> Poly:
    """The dimension called `name`, of unknown size."""
    return Poly(((((name, 1),), 1),))


def symbols(dim: Dim) -> frozenset[str]:
    """The names a dim depends on; empty for a number."""
    return frozenset() if isinstance(dim, int) else dim.symbols


def evaluate(dim: Dim, env: Mapping[str, Any], const: Callable[[int], Any] = int,
             larger: Callable[[Any, Any], Any] = max) -> Any:
    """The value of `dim` with symbols replaced by `env`: ints, or anything with `+ * //` (TVM expressions), of which `larger`
    gives the larger of two."""
    if isinstance(dim, int):
        return const(dim)
    total = None
    for monomial, factor in dim.terms:
        value = const(factor) if factor != 1 or not monomial else None
        for atom, power in monomial:
            if isinstance(atom, Quotient):
                one = evaluate(atom.numerator, env, const, larger) // const(atom.divisor)
            elif isinstance(atom, Largest):
                one = reduce(larger, (evaluate(d, env, const, larger) for d in atom.of))
            else:
                one = env[atom]
            for _ in range(power):
                value = one if value is None else value * one
        total = value if total is None else total + value
    return total


def substitute(dim: Dim, env: Mapping[str, int]) -> Dim:
    """`dim` with the symbols of `env` replaced by numbers."""
    return evaluate(dim, {s: env.get(s, symbol(s)) for s in symbols(dim)}, larger=maximum)


def as_json(dim: Dim) -> int | str | list:
    """The prefix form that `runtime.format.size` evaluates."""
    if isinstance(dim, int):
        return dim
    terms = []
    for monomial, factor in dim.terms:
        atoms: list = [factor] if factor != 1 or not monomial else []
        for atom, power in monomial:
            if isinstance(atom, Quotient):
                one: Any = ["//", as_json(atom.numerator), atom.divisor]
            else:
                one = ["max", *map(as_json, atom.of)] if isinstance(atom, Largest) else atom
            atoms += [one] * power
        terms.append(atoms[0] if len(atoms) == 1 else ["*", *atoms])
    return terms[0] if len(terms) == 1 else ["+", *terms]


def maximum(*dims: Dim) -> Dim:
    """The largest of several dims."""
    numbers = [d for d in dims if isinstance(d, int)]
    rest = tuple(sorted({d for d in dims if not isinstance(d, int)}, key=str))
    if not rest:
        return max(numbers)
    of = (*rest, max(numbers)) if numbers else rest
    return of[0] if len(of) == 1 else Poly(((((Largest(of), 1),), 1),))


def product(dims: Any) -> Dim:
    """The product of several dims (1 of none)."""
    result: Dim = 1
    for dim in dims:
        result = result * dim
    return result


def parse(text: str) -> Dim:
    """Reads what `str` prints: `N*3`, `((N + 1)//2)`, `7`. Raises ValueError."""
    tokens = re.findall(r"\d+|[A-Za-z_]\w*|//|[-+*(),]|\S", text)
    position = 0

    def peek() -> str:
        return tokens[position] if position < len(tokens) else ""

    def take() -> str:
        nonlocal position
        position += 1
        return tokens[position - 1] if position <= len(tokens) else ""

    def atom() -> Dim:
        token = take()
        if token == "max" and peek() == "(":
            take()
            of = [total()]
            while peek() == ",":
                take()
                of.append(total())
            if take() != ")":
                raise ValueError(f"not a dimension: {text!r}")
            return maximum(*of)
        if token == "(":
            inner = total()
            if take() != ")":
                raise ValueError(f"not a dimension: {text!r}")
            return inner
        if token == "-":
            return -atom()
        if token.isdigit():
            return int(token)
        if token[:1].isalpha() or token[:1] == "_":
            return symbol(token)
        raise ValueError(f"not a dimension: {text!r}")

    def term() -> Dim:
        value = atom()
        while peek() in ("*", "//"):
            value = value * atom() if take() == "*" else value // atom()
        return value

    def total() -> Dim:
        value = term()
        while peek() in ("+", "-"):
            value = value + term() if take() == "+" else value - term()
        return value

    result = total()
    if position != len(tokens):
        raise ValueError(f"not a dimension: {text!r}")
    return result


def _terms(dim: Dim) -> tuple[tuple[Monomial, int], ...]:
    return dim.terms if isinstance(dim, Poly) else (((), dim),)


def _times(left: Monomial, right: Monomial) -> Monomial:
    powers = dict(left)
    for atom, power in right:
        powers[atom] = powers.get(atom, 0) + power
    return tuple(sorted(powers.items(), key=lambda item: str(item[0])))


def _normal(sums: Mapping[Monomial, int]) -> Dim:
    terms = tuple(sorted(((m, f) for m, f in sums.items() if f), key=lambda t: (not t[0], str(t[0]))))
    if not terms:
        return 0
    if len(terms) == 1 and terms[0][0] == ():
        return terms[0][1]
    return Poly(terms)
