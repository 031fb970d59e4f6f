"""The arithmetic of `calculate_output`, read by a small parser and computed on floats. Nothing is evaluated as code.

    sum     = product {("+" | "-") product}
    product = sign {("*" | "/") sign}
    sign    = {"+" | "-"} power
    power   = atom ["^" sign]                      so 2^3^2 is 2^9 and -2^2 is -4
    atom    = number | name | function "(" sum {"," sum} ")" | "(" sum ")"

Python's own parser would not do: a grader may be called `is`, `pass` or `min`, and `^` binds otherwise there.
"""

import math
import operator
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass

MAX_DEPTH = 64

FUNCTIONS: dict[str, Callable[..., float]] = {
    "min": min,
    "max": max,
    "abs": abs,
    "floor": lambda x: float(math.floor(x)),
    "ceil": lambda x: float(math.ceil(x)),
    "exp": math.exp,
    "sqrt": math.sqrt,
    "log": math.log,
}
_MANY = ("min", "max")
_OPERATORS = {"+": operator.add, "-": operator.sub, "*": operator.mul, "/": operator.truediv}

_TOKEN = re.compile(
    r"\s*(?:(?P<number>(?:\d+(?:\.\d*)?|\.\d+)(?:[eE][+-]?\d+)?)|(?P<name>[^\W\d]\w*)|(?P<sign>[-+*/^(),]))"
)

Node = Callable[[Mapping[str, float]], float]


class FormulaError(ValueError):
    """The text is no formula. The message is a sentence that says what to write instead."""


@dataclass(frozen=True)
class Formula:
    """A formula that was read. Made by `parse`."""

    names: frozenset[str]
    """The variables it uses."""

    _root: Node

    def value(self, scores: Mapping[str, float]) -> float:
        """The result for these scores; may be infinite or NaN.

        Raises ArithmeticError or ValueError where there is none (a division by zero, the root of -1).
        """
        return float(self._root(scores))


def parse(text: str) -> Formula:
    """Read a formula. Raises `FormulaError`."""
    return _Parser(text).formula()


class _Parser:
    """Recursive descent over the tokens; `_depth` bounds the recursion."""

    def __init__(self, text: str) -> None:
        self._tokens = _tokens(text)
        self._at = 0
        self._depth = 0
        self._names: set[str] = set()

    def formula(self) -> Formula:
        root = self._sum()
        if self._peek() is not None:
            raise FormulaError(f"'{self._peek()}' was not expected {self._where()}.")
        return Formula(frozenset(self._names), root)

    def _sum(self) -> Node:
        self._depth += 1
        if self._depth > MAX_DEPTH:
            raise FormulaError(f"The formula is nested deeper than {MAX_DEPTH}.")
        node = self._chain(self._product, "+", "-")
        self._depth -= 1
        return node

    def _product(self) -> Node:
        return self._chain(self._sign, "*", "/")

    def _chain(self, part: Callable[[], Node], *signs: str) -> Node:
        first = part()
        rest: list[tuple[str, Node]] = []
        while (sign := self._peek()) in signs:
            self._at += 1
            rest.append((sign, part()))
        return _left_to_right(first, rest) if rest else first

    def _sign(self) -> Node:
        negative = False
        while (sign := self._peek()) in ("+", "-"):
            self._at += 1
            negative ^= sign == "-"
        power = self._power()
        return _negative(power) if negative else power

    def _power(self) -> Node:
        base = self._atom()
        if self._peek() != "^":
            return base
        self._at += 1
        self._depth += 1
        if self._depth > MAX_DEPTH:
            raise FormulaError(f"The formula is nested deeper than {MAX_DEPTH}.")
        exponent = self._sign()
        self._depth -= 1
        return lambda scores: math.pow(base(scores), exponent(scores))

    def _atom(self) -> Node:
        token = self._peek()
        if token is None:
            raise FormulaError("The formula ends where a number, a grader's name or '(' must follow.")
        self._at += 1
        if token == "(":  # noqa: S105 - a bracket
            inner = self._sum()
            self._expect(")")
            return inner
        if token[0].isdigit() or token[0] == ".":
            number = float(token)
            return lambda _: number
        if not (token[0].isalpha() or token[0] == "_"):
            raise FormulaError(f"'{token}' was not expected {self._where(-1)}.")
        if self._peek() == "(":
            return self._call(token)
        self._names.add(token)
        return lambda scores: scores[token]

    def _call(self, name: str) -> Node:
        if name not in FUNCTIONS:
            raise FormulaError(f"There is no function '{name}'; there are {', '.join(FUNCTIONS)}.")
        self._at += 1
        arguments = [self._sum()]
        while self._peek() == ",":
            self._at += 1
            arguments.append(self._sum())
        self._expect(")")
        if len(arguments) > 1 and name not in _MANY:
            raise FormulaError(f"'{name}' takes one number, not {len(arguments)}.")
        function = FUNCTIONS[name]
        if len(arguments) == 1 and name in _MANY:
            return arguments[0]
        return lambda scores: function(*(argument(scores) for argument in arguments))

    def _peek(self) -> str | None:
        return self._tokens[self._at] if self._at < len(self._tokens) else None

    def _expect(self, token: str) -> None:
        if self._peek() != token:
            found = f"'{self._peek()}'" if self._peek() is not None else "the end"
            raise FormulaError(f"'{token}' is missing before {found}.")
        self._at += 1

    def _where(self, shift: int = 0) -> str:
        before = self._tokens[max(0, self._at + shift - 3) : self._at + shift]
        return f"after '{' '.join(before)}'" if before else "at the beginning"


def _tokens(text: str) -> list[str]:
    tokens, at = [], 0
    text = text.rstrip()
    while at < len(text):
        match = _TOKEN.match(text, at)
        if match is None:
            raise FormulaError(
                f"'{text[at:].lstrip()[:1]}' has no meaning in a formula; use + - * / ^ ( ) and {', '.join(FUNCTIONS)}."
            )
        tokens.append(match[0].strip())
        at = match.end()
    return tokens


def _left_to_right(first: Node, rest: list[tuple[str, Node]]) -> Node:
    """One flat node for a whole chain: nested ones would be as deep as the formula is long."""
    steps = [(_OPERATORS[sign], node) for sign, node in rest]

    def value(scores: Mapping[str, float]) -> float:
        result = first(scores)
        for apply, node in steps:
            result = apply(result, node(scores))
        return result

    return value


def _negative(inner: Node) -> Node:
    return lambda scores: -inner(scores)
