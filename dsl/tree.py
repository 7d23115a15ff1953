"""The syntax tree: what a `.net` text says, with the span of every part. It knows no op and no tensor."""

from __future__ import annotations

from dataclasses import dataclass, field

from dsl.diagnostics import Span


@dataclass(frozen=True)
class Tree:
    """Every part has a span; equality ignores it, so that a formatted text compares equal to its origin."""

    span: Span = field(compare=False, repr=False)


# --- expressions -------------------------------------------------------------------------------------------------

@dataclass(frozen=True)
class Number(Tree):
    """`3`, `0.5`, `5 epochs`, `80%`. `value` is an int where the text has no point or exponent; unit is the text's."""

    value: int | float
    unit: str | None = None


@dataclass(frozen=True)
class Dims(Tree):
    """`5x5`."""

    sizes: tuple[int, ...]


@dataclass(frozen=True)
class String(Tree):
    """A string, escapes resolved."""

    value: str


@dataclass(frozen=True)
class Bool(Tree):
    """`true` or `false`."""

    value: bool


@dataclass(frozen=True)
class Name(Tree):
    """`x`, or `g.inception` for a name of an imported file (`parts` has two)."""

    parts: tuple[str, ...]

    @property
    def text(self) -> str:
        return ".".join(self.parts)


@dataclass(frozen=True)
class Argument(Tree):
    """One argument of a call or one element of a list: `3x3`, or `stride = 2`."""

    value: Expression
    name: str | None = None


@dataclass(frozen=True)
class Call(Tree):
    """`conv(64, 3x3)`. In a pipe a bare `relu` is a Call without arguments and `bare = True`."""

    callee: Name
    arguments: tuple[Argument, ...] = ()
    bare: bool = False


@dataclass(frozen=True)
class List(Tree):
    """`[1, 2]`, `[train = 70%, test = 30%]`; elements may be lists."""

    items: tuple[Argument, ...]


@dataclass(frozen=True)
class Tuple(Tree):
    """`(a, b)`: only at the head of a pipe, and as a side of a rule."""

    items: tuple[Expression, ...]


@dataclass(frozen=True)
class Stage(Tree):
    """One `-> name: f(…) ** 3` of a pipe. `repeat` is an expression or None."""

    call: Call
    name: str | None = None
    repeat: Expression | None = None


@dataclass(frozen=True)
class Pipe(Tree):
    """`head -> stage -> stage`."""

    head: Expression
    stages: tuple[Stage, ...]


@dataclass(frozen=True)
class Unary(Tree):
    """`-x`, `not x`."""

    operator: str
    operand: Expression


@dataclass(frozen=True)
class Binary(Tree):
    """`+ - * / // % == != < <= > >= and or`."""

    operator: str
    left: Expression
    right: Expression


Expression = Number | Dims | String | Bool | Name | Call | List | Tuple | Pipe | Unary | Binary


# --- types -------------------------------------------------------------------------------------------------------

@dataclass(frozen=True)
class TensorSpec(Tree):
    """`f32[N, C*2, H/2, 5]`: a dtype word and dim expressions (Number, Name, Unary, Binary)."""

    dtype: str
    dims: tuple[Expression, ...]


@dataclass(frozen=True)
class TypeName(Tree):
    """`tensor`, `int`, `dims`, `bool`, … in a parameter list."""

    name: str


Type = TensorSpec | TypeName


# --- statements inside nets and blocks ---------------------------------------------------------------------------

@dataclass(frozen=True)
class Target(Tree):
    """The left side of a binding: a name and, optionally, its asserted type."""

    name: str
    type: TensorSpec | None = None


@dataclass(frozen=True)
class Binding(Tree):
    """`y = …`, `y: f32[N, 10] = …`, `a, b = …`."""

    targets: tuple[Target, ...]
    value: Expression


@dataclass(frozen=True)
class Let(Tree):
    """`let k = 3`: a compile-time value. Also stands at the top of a file."""

    name: str
    value: Expression


@dataclass(frozen=True)
class Layer(Tree):
    """`layer tower = encoder(64)`: a layer object; each use of `tower` shares its weights."""

    name: str
    value: Call


@dataclass(frozen=True)
class If(Tree):
    """`if cond { … } else { … }`; `else if` nests in `orelse`."""

    condition: Expression
    then: tuple[Statement, ...]
    orelse: tuple[Statement, ...] = ()


@dataclass(frozen=True)
class Input(Tree):
    """`input image: u8[N, 3, 32, 32]`."""

    name: str
    type: TensorSpec


@dataclass(frozen=True)
class Label(Tree):
    """`label sign: i32[N] in classes`; `classes` may be None for regression targets."""

    name: str
    type: TensorSpec
    classes: Expression | None = None


@dataclass(frozen=True)
class Output(Tree):
    """`output p = …` or `output p` for a value bound before (`value` None)."""

    name: str
    value: Expression | None = None


@dataclass(frozen=True)
class Loss(Tree):
    """`loss cross_entropy(logits, y)`, `loss 0.3 * …`, `loss aux = …`."""

    value: Expression
    name: str | None = None


@dataclass(frozen=True)
class Metric(Tree):
    """`metric accuracy(logits, y)`, `metric top5 = top_k(logits, y, 5)`."""

    value: Expression
    name: str | None = None


Statement = Binding | Let | Layer | If | Input | Label | Output | Loss | Metric


# --- declarations ------------------------------------------------------------------------------------------------

@dataclass(frozen=True)
class Parameter(Tree):
    """`k: dims = 1x1` of a block or net; `type` may be None for a net's `aux = false`."""

    name: str
    type: Type | None = None
    default: Expression | None = None


@dataclass(frozen=True)
class Import(Tree):
    """`import "inception.net" as g`."""

    path: String
    alias: str


@dataclass(frozen=True)
class Block(Tree):
    """`block f(x: tensor, n: int) -> y, z { … }`."""

    name: str
    parameters: tuple[Parameter, ...]
    results: tuple[Target, ...]
    body: tuple[Statement, ...]


@dataclass(frozen=True)
class Net(Tree):
    """`net f(classes: int = 43) { … }`."""

    name: str
    parameters: tuple[Parameter, ...]
    body: tuple[Statement, ...]


@dataclass(frozen=True)
class Rule(Tree):
    """`rule f(x: tensor) { x -> relu -> relu => x -> relu when … }`: what it matches, and what takes its place. A
    rule of several results has a Tuple on both sides."""

    name: str
    parameters: tuple[Parameter, ...]
    pattern: Expression
    replacement: Expression
    condition: Expression | None = None


@dataclass(frozen=True)
class Setting(Tree):
    """`batch = 64` in a data or train section. Settings stand on lines of their own or behind commas."""

    name: str
    value: Expression


@dataclass(frozen=True)
class Section(Tree):
    """`data signs { … }` (kind "data") or `train fit { … }` (kind "train")."""

    kind: str
    name: str
    settings: tuple[Setting, ...]


Declaration = Import | Let | Block | Net | Rule | Section


@dataclass(frozen=True)
class File(Tree):
    """A whole `.net` text. `lang` is the number of its first line, or None where it is left out.

    `comments` keeps every comment for the formatter, in order: each is the text with its `#` and its span.
    """

    lang: int | None
    declarations: tuple[Declaration, ...]
    comments: tuple[tuple[str, Span], ...] = field(default=(), compare=False, repr=False)
