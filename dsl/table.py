"""The LALR(1) machine that Lark compiled from the grammar, run over stacks of our own, so that a parse can be cut back.

Lark's runner does the same; here the chain of one-child reductions above every operand (`?sum: product`, …) is done in
place, which is where most of the time went, and an error is a return value, not an exception.
"""

from __future__ import annotations

import re
import threading
from pathlib import Path

from lark import Lark

from dsl.build import Builder
from dsl.lexer import Token


class _KeepAll:
    """Tells Lark to keep the terminals that no rule uses."""

    always_accept = ("COMMENT", "OPEN_STRING", "FOREIGN")

    def process(self, stream):
        return stream


class Table(threading.local):
    """The compiled grammar (0.15 s, once a thread, because `builder` keeps the text it works on)."""

    def __init__(self) -> None:
        self.builder = Builder()
        grammar = (Path(__file__).parent / "grammar.lark").read_text(encoding="utf-8")
        lark = Lark(grammar, start="file", parser="lalr", lexer="basic", keep_all_tokens=True,
                    maybe_placeholders=False, postlex=_KeepAll(), transformer=self.builder)
        terminals = sorted(lark.terminals, key=lambda terminal: (-terminal.priority, -len(terminal.pattern.value)))
        self.terminals = re.compile("|".join(f"(?P<{t.name}>{t.pattern.to_regexp()})" for t in terminals))
        machine = lark.parse_interactive("").parser_state.parse_conf
        self.start, self.end = machine.start_state, machine.end_state
        self.actions: dict = {}  # state, terminal: the next state, or a reduction (rule's name, its size, its callback)
        self.goto: dict = {}  # state, rule's name: the next state
        reductions: dict = {}
        for state, row in machine.states.items():
            self.actions[state], self.goto[state] = {}, {}
            for name, (_, argument) in row.items():
                if not name.isupper():
                    self.goto[state][str(name)] = argument
                elif hasattr(argument, "expansion"):
                    if argument not in reductions:
                        size = len(argument.expansion)
                        passes = argument.options.expand1 and size == 1 and argument.alias is None
                        callback = None if passes else machine.callbacks[argument]
                        reductions[argument] = (str(argument.origin.name), size, callback)
                    self.actions[state][name] = reductions[argument]
                else:
                    self.actions[state][name] = argument

    def feed(self, states: list, values: list, token: Token) -> bool:
        """Advances the stacks by one token; False, and no shift, if it may not stand there."""
        actions, goto, kind = self.actions, self.goto, token.type
        while True:
            action = actions[states[-1]].get(kind)
            if action is None:
                return False
            if type(action) is not tuple:
                states.append(action)
                values.append(token)
                return True
            name, size, callback = action
            if callback is None:
                states[-1] = goto[states[-2]][name]
                continue
            if size:
                children = values[-size:]
                del states[-size:], values[-size:]
            else:
                children = []
            values.append(callback(children))
            states.append(goto[states[-1]][name])

    def finish(self, states: list, values: list):
        """The value of the whole text, when everything else was fed."""
        while states[-1] != self.end:
            name, size, callback = self.actions[states[-1]]["$END"]
            children = values[-size:] if size else []
            if size:
                del states[-size:], values[-size:]
            values.append(callback(children) if callback else children[0])
            states.append(self.goto[states[-1]][name])
        return values[-1]

    def expected(self, states: list) -> set[str]:
        """The terminals that may really come next: the table's row over-approximates, so each reduction is followed."""
        return {name for name in self.actions[states[-1]] if self._shifts(states, name)}

    def _shifts(self, states: list, name: str) -> bool:
        popped, pushed = 0, []
        while True:
            action = self.actions[pushed[-1] if pushed else states[-1 - popped]].get(name)
            if type(action) is not tuple:
                return action is not None
            rule, size, _ = action
            for _ in range(size):
                if pushed:
                    pushed.pop()
                else:
                    popped += 1
            pushed.append(self.goto[pushed[-1] if pushed else states[-1 - popped]][rule])
