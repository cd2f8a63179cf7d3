"""Puts operators and tensors together into the source of a NumPy reference, float32 inside."""

from __future__ import annotations

from dataclasses import replace

from tools.generate.declarations import NamedTensor
from tools.generate.expression import Expression
from tools.generate.formula import ALL, Node, Options
from tools.generate.operators import (
    ALONG,
    FUNCTIONS,
    GATES,
    PAIRS,
    POSITIVE_INPUT,
    Composition,
    Shape,
    Value,
    Writer,
    broadcasts,
    is_vector,
    number,
    show,
    spoken,
)
from tools.generate.request import WAY_OUT, Request, check_words, nearest
from tools.generate.sentence import Sentence
from tools.task_errors import RequestError

_ROLES = {
    "bias": ("b", "bias", "beta", "shift"), "scale": ("scale", "s", "g", "gain", "gamma", "alpha"), "gain": ("g", "gain", "gamma", "weight", "scale", "s", "w"),
    "shift": ("b", "beta", "bias", "shift"), "residual": ("residual", "r", "res", "skip", "z", "shortcut"),
}  # fmt: skip
"""Names that tell what a tensor is for."""
_ACTIVATIONS = {"squared_relu": ("relu", "square")}


def compose(request: Request) -> Composition:
    """Make the reference that a request asks for.

    Raises:
        RequestError: words aren't understood, shapes are missing or don't fit together.
    """
    return _Lowering(request, Composition()).compose()


def extend(made: Composition, said: Request) -> Composition:
    """Apply the operators that a follow-up names to what has been made."""
    return _Lowering(said, made).go_on()


class _Lowering:
    """Turns the formula of a sentence into lines of NumPy."""

    def __init__(self, request: Request, made: Composition) -> None:
        self.request, self.made, self.write = request, made, Writer(made)
        self.tensors = list(request.tensors)
        self.loose = [t for t in self.tensors if not t.name]
        self.used: dict[str, Value] = {}
        self.known: dict[Node, Value] = {}
        self.free: list[NamedTensor] = []
        self.start: Value | None = None

    # -- the whole -----------------------------------------------------------------------------------------------------

    def compose(self) -> Composition:
        """The composition of a request that stands alone."""
        request = self.request
        self._split_products()
        names = {t.name for t in self.tensors if t.name}
        if not request.operates:
            raise RequestError(_no_operation(request, names))
        sentence = Sentence(request)
        check_words(sentence.tokens, names | {n for t in sentence.tokens if t.kind == "expression" for n in t.names})
        results = sentence.parse()
        self.assigned = sentence.assigned
        if not results:
            raise RequestError(_no_operation(request, names))
        self._free(results)
        return self._finish(results)

    def go_on(self) -> Composition:
        """What has been made, with the sentence's operators behind it."""
        made = self.made
        sentence = Sentence(self.request, started=True)
        names = {t.name for t in self.tensors if t.name} | set(made.parameters)
        check_words(sentence.tokens, names | {n for t in sentence.tokens if t.kind == "expression" for n in t.names})
        results = sentence.parse()
        self.assigned = sentence.assigned
        for name, shape in made.parameters.items():
            self.used[name] = Value(name, shape)
        if not made.shape:
            raise RequestError(
                "the shape of the result isn't known, so nothing can follow it: write all of it as one expression, or give "
                "a NumPy reference with --reference file.py:function."
            )
        self.start = Value(made.value, made.shape)
        if not made.value.isidentifier():
            self.start = Value(made.line("start", made.value), made.shape)
        self._free(results)
        return self._finish(results)

    def _finish(self, results: list[Node]) -> Composition:
        made = self.made
        self._check_without()
        self._check_names(results)
        values = [self._value(node) for node in results]
        self._all_used()
        self._check_sizes()
        if len(values) == 1 and not values[0].plain:
            values = [Value(made.line("result", values[0].text), values[0].shape)]
        values = [self._as_array(v) for v in values]
        made.value = ", ".join(v.text for v in values)
        made.ops = list(dict.fromkeys(made.ops)) or ["elementwise"]
        self._order_parameters()
        made.shape = self._traced_shape()
        if len(values) == 1 and made.lines and made.value in made.parameters and values[0].text == made.value:
            raise RequestError("the result is an input unchanged: say what to compute with it.")
        return made

    def _free(self, results: list[Node]) -> None:
        """Tensors that the formula doesn't name are there for operators that must find theirs."""
        said: set[str] = set()
        for node in results:
            said |= {n.lower() for n in _names(node)}
            for text in _texts(node):
                said |= {v.lower() for v in self._expression(text).variables()}
        for node in self.assigned.values():
            for text in _texts(node):
                said |= {v.lower() for v in self._expression(text).variables()}
        indices = {int(i) for node in results for i in _loose(node)}
        vectors = {n.lower() for node in results for n in _vector_names(node)}
        nameless = [n for n in self._unshaped(said) if n not in {a.lower() for a in self.assigned} | vectors]
        open_shapes = [t for i, t in enumerate(self.loose) if i not in indices]
        if nameless and open_shapes:
            open_shapes = self._share(nameless, open_shapes)
        elif nameless and self.request.rows and self.request.columns:
            for name in nameless:
                self.tensors.append(NamedTensor(name, (self.request.rows, self.request.columns)))
        self.free = [
            t
            for t in self.tensors
            if (t.name and t.name.lower() not in said and t.name not in self.used) or t in open_shapes
        ]
        self.free = [t for t in self.free if t.name or any(t is o for o in open_shapes)]

    def _unshaped(self, said: set[str]) -> list[str]:
        have = {t.name.lower() for t in self.tensors if t.name} | {n.lower() for n in self.used}
        order = [t.text for t in self.request.tokens if t.kind == "word"]
        for token in self.request.tokens:
            if token.kind == "expression":
                order += self._expression(token.text).variables()
        return [n for n in dict.fromkeys(w.lower() for w in order) if n in said and n not in have]

    def _share(self, names: list[str], shapes: list[NamedTensor]) -> list[NamedTensor]:
        """Shapes without a name belong to the names without a shape: one for all, or one each in order."""
        if len(shapes) == 1:
            shapes = shapes * len(names)
        if len(shapes) != len(names):
            raise RequestError(
                f"{len(names)} tensors ({', '.join(names)}) and {len(shapes)} shapes don't go together: say the shape of each, for example "
                f"{names[0]} {show(shapes[0].shape)}."
            )
        for name, tensor in zip(names, shapes):
            self.tensors.append(replace(tensor, name=name))
        return []

    def _all_used(self) -> None:
        left = [t for t in self.free if t.name or self.loose]
        if left:
            label = f"{left[0].name} " if left[0].name else ""
            what = " then ".join(spoken(op) for op in dict.fromkeys(self.made.ops)) or "the expression"
            raise RequestError(
                f"the tensor {label}{show(left[0].shape)} isn't used by {what}: drop it, change its shape, or name the operator that "
                "takes it."
            )

    def _as_array(self, value: Value) -> Value:
        """A single number as an array of one element, which a kernel can return."""
        if value.shape != ():
            return value
        self.made.notes.append("a single number is returned as an array of one element.")
        return Value(self.made.line("single", f"np.reshape({value.text}, (1,))"), (1,))

    def _order_parameters(self) -> None:
        """Arguments in the order in which the request declares them; those that it doesn't keep their places."""
        made = self.made
        order = {t.name: i for i, t in reversed(list(enumerate(self.request.tensors))) if t.name}
        names = list(made.parameters)
        places = [i for i, n in enumerate(names) if n in order]
        declared = sorted((names[i] for i in places), key=lambda n: order[n])
        for place, name in zip(places, declared):
            names[place] = name
        made.parameters = {n: made.parameters[n] for n in names}

    def _check_without(self) -> None:
        """What the request excludes must not be asked for as well, nor be part of the operator by nature."""
        tokens = [t for t in self.request.tokens if t.is_("op") and t.entry is not None]
        for word in sorted(self.request.without):
            arities = {
                "bias": ("bias",),
                "residual": ("residual",),
                "scale": ("scale", "attention"),
                "activation": ("unary", "gated"),
            }.get(word, ())
            asked = next((t for t in tokens if t.entry is not None and t.entry.arity in arities), None)
            if asked is not None:
                raise RequestError(
                    f"{asked.text!r} without {word} isn't understood: say only what is to be computed, or {WAY_OUT}"
                )

    def _check_names(self, results: list[Node]) -> None:
        """`h = x @ w1; y = gelu(x) @ w2` would leave h out."""
        texts = [t for n in [*results, *self.assigned.values()] for t in _texts(n)]
        used = {v for t in texts for v in self._expression(t).variables()} | {n for r in results for n in _names(r)}
        final = {name for name, node in self.assigned.items() if any(_uses(r, node) for r in results)}
        left = next((n for n in self.assigned if n not in used | final), None)
        if left is not None:
            raise RequestError(f"{left} is computed but not used: leave it out, or use it in what follows.")

    def _check_sizes(self) -> None:
        """Rows and columns in words must be those of a tensor."""
        for size, name, at in ((self.request.rows, "rows", 0), (self.request.columns, "columns", -1)):
            shapes = [s for s in self.made.parameters.values() if s]
            if size and not any(s[at] == size or (at == 0 and len(s) > 2 and size in s[:-1]) for s in shapes):
                raise RequestError(
                    f"{size} {name} contradict the shape {show(shapes[0])} of {next(iter(self.made.parameters))}: give one number of {name}."
                )

    def _traced_shape(self) -> Shape:
        """Run the shapes through NumPy on symbols and report what doesn't fit."""
        from tools.generate.errors import BeyondOffline
        from tools.generate.tracing import trace_reference

        specs = [{"name": n, "shape": s or (1,), "dtype": "float32"} for n, s in self.made.parameters.items()]
        if not specs:
            raise RequestError("the request names no tensor: say one with its shape, for example x 4096x1024.")
        try:
            graph = trace_reference(self.made.source("check"), "reference", specs)
        except BeyondOffline:
            return ()
        except ValueError as error:
            reason = str(error).split(": ", 2)[-1].rstrip(".")
            raise RequestError(f"the shapes contradict each other: {reason}; change a shape.") from error
        return tuple(graph["nodes"][graph["outputs"][0]]["shape"])

    # -- tensors -------------------------------------------------------------------------------------------------------

    def _split_products(self) -> None:
        """`512x1024x2048 gemm` is M x K x N, and four sizes are two matrices."""
        request = self.request
        product = any(t.is_("op", "matmul") for t in request.tokens)
        if not product or len(self.tensors) != 1 or self.tensors[0].name or request.rows:
            return
        sizes, dtype = self.tensors[0].shape, self.tensors[0].dtype
        if len(sizes) == 3:
            m, k, n = sizes
            pair: tuple[Shape, Shape] = ((m, k), (k, n))
        elif len(sizes) == 4 and sizes[1] == sizes[2]:
            pair = (sizes[:2], sizes[2:])
        else:
            return
        self.tensors = [NamedTensor("x", pair[0], dtype), NamedTensor("w", pair[1], dtype)]
        self.loose = []
        request.tensors = list(self.tensors)
        request.tokens = [t for t in request.tokens if t.kind != "tensor"]

    def _parameter(self, tensor: NamedTensor, fallback: str) -> Value:
        """Make a declared tensor an argument of the reference."""
        self.free = [t for t in self.free if t is not tensor]
        name = self.made.parameter(tensor.name or fallback, tensor.shape, tensor.dtype)
        value = Value(name, tensor.shape)
        if tensor.transposed:
            self.made.notes.append(f"{name} is stored transposed.")
            value = self.write.transpose(value)
        if tensor.name:
            self.used[tensor.name] = value
        return value

    def _named(self, name: str) -> Value:
        if name in self.used:
            return self.used[name]
        if name in self.assigned:
            value = self._value(self.assigned[name])
            self.used[name] = self.write.named(value, name if name.isidentifier() else "part")
            return self.used[name]
        tensor = next((t for t in self.tensors if t.name == name), None) or next(
            (t for t in self.tensors if t.name.lower() == name.lower()), None
        )
        if tensor is None:
            raise RequestError(f"no shape is given for {name}: say it, for example {name} 4096x1024.")
        if tensor.name in self.used:
            return self.used[tensor.name]
        return self._parameter(tensor, tensor.name)

    def _begin(self, key: str = "") -> Value:
        """The tensor that the sentence begins with."""
        if self.start is not None:
            return self.start
        request = self.request
        if not self.free:
            if request.rows and request.columns:
                self.free = [NamedTensor("x", (request.rows, request.columns))]
            elif request.columns:
                self.free = [NamedTensor("x", (request.columns,))]
            else:
                raise RequestError(
                    f"no shape is given for {spoken(key) or 'the input'}: say the sizes of its inputs, for example x 4096x1024"
                    + (" by w 1024x2048." if key in ("matmul", "swiglu") else ".")
                )
        first = next((t for t in self.free if len(t.shape) > 1), self.free[0])
        if _weight(first.name):
            first = next(
                (
                    t
                    for t in self.free
                    if t.name.lower() in ("x", "input", "a", "inputs", "h", "hidden") and len(t.shape) > 1
                ),
                first,
            )
        if request.rows and _weight(first.name) and len(first.shape) == 2:
            self.free.insert(0, NamedTensor("x", (request.rows, first.shape[0]), first.dtype))
            first = self.free[0]
        if key == "matmul" and first.name in ("w", "weight", "weights") and len(self.free) == 1:
            raise RequestError("no shape is given for the input: say it, for example x 4096x1024.")
        if request.rows and len(first.shape) >= 2 and first.shape[0] != request.rows:
            raise RequestError(
                f"{request.rows} rows contradict the shape {show(first.shape)} of {first.name or 'the input'}: give one number of rows."
            )
        if request.columns and first.shape[-1] != request.columns:
            raise RequestError(
                f"{request.columns} columns contradict the shape {show(first.shape)} of {first.name or 'the input'}: give one number of "
                "columns."
            )
        self.start = self._parameter(first, "x")
        return self.start

    def _fitting(self, role: str, other: Shape | None, product: bool = False) -> Value:
        """The free tensor that an operator must mean: by its usual name, else the first that fits."""
        if other is None:
            raise RequestError(f"{spoken(role)} needs its tensor named here: say 'with NAME' and its shape.")
        wanted = _ROLES.get(role, ())
        said = {t.entry.key for t in self.request.tokens if t.is_("op") and t.entry is not None}
        others = {
            n
            for key, names in _ROLES.items()
            if key != role and key in said
            for n in names
            if n not in wanted and len(n) > 1
        }
        width = other[-1] if other else 1

        def fits(t: NamedTensor) -> bool:
            if product:
                return len(t.shape) >= 2 and t.name.lower() not in ("residual", "mask")
            if role in ("bias", "gain", "shift", "scale"):
                return is_vector(t.shape, width)
            if role == "residual":
                return t.shape == other
            return broadcasts(t.shape, other) or broadcasts(other, t.shape)

        named = [t for t in self.free if t.name.lower() in wanted]
        if named and role in ("bias", "gain", "shift", "scale") and not fits(named[0]) and not (
            role in ("bias", "scale") and broadcasts(named[0].shape, other)
        ):  # fmt: skip
            raise RequestError(
                f"the shapes contradict each other: the {role} {show(named[0].shape)} doesn't fit rows of {width}; give it {width} elements."
            )
        chosen = named[0] if named and (fits(named[0]) or broadcasts(named[0].shape, other)) else None
        if chosen is None:
            candidates = [t for t in self.free if fits(t) and (product or t.name.lower() not in others)]
            candidates.sort(key=lambda t: role not in ("bias", "gain", "shift", "scale") and t.shape != other)
            chosen = candidates[0] if candidates else None
        fallback = {"bias": "b", "gain": "g", "shift": "b", "residual": "residual", "scale": "scale"}.get(
            role, "w" if product else "y"
        )
        if chosen is not None:
            return self._parameter(chosen, fallback)
        if product:
            vector = next(
                (t for t in self.free if t.shape == (width,) and t.name.lower() not in ("b", "bias", "g")), None
            )
            if vector is not None:
                return self._parameter(vector, "v")
            raise RequestError(
                f"matmul needs a second matrix besides {show(other)}: give its shape, for example w {width}x512."
            )
        if role in ("bias", "gain", "shift", "scale"):
            self.made.notes.append(f"the {role} is one number a column.")
            return Value(self.made.parameter(fallback, (width,)), (width,))
        if role == "residual":
            start = next(iter(self.made.parameters), None)
            if start is not None and self.made.parameters[start] == other and self.made.lines:
                self.made.notes.append(f"the residual is the input {start}.")
                return Value(start, other)
            return Value(self.made.parameter(fallback, other), other)
        if self.free and role == "cross_entropy":
            return self._parameter(self.free[0], "targets")
        if self.free:
            raise RequestError(
                f"the shapes contradict each other: {spoken(role)} of {show(other)} and {show(self.free[0].shape)}; make them equal or broadcastable"
                + ("; say 'matmul' for a matrix product." if role in ("multiply", "product", "times") else ".")
            )
        raise RequestError(
            f"{spoken(role)} needs a second tensor besides {show(other)}: give its name and shape, for example y {show(other)}."
        )

    # -- formulas ------------------------------------------------------------------------------------------------------

    def _expression(self, text: str) -> Expression:
        names = self.request.names
        return Expression(text, self.made, self._named, names)

    def _value(self, node: Node, key: str = "") -> Value:
        """Write a formula and give its value; a formula that stands twice is written once."""
        if node in self.known:
            return self.known[node]
        if node.kind == "number":
            return Value(f"({number(node.number)})" if node.number < 0 else number(node.number), ())
        if node.kind == "name":
            return self._named(node.key)
        if node.kind == "loose":
            usual = {
                "matmul": "w",
                "bias": "b",
                "residual": "residual",
                "scale": "scale",
                "attention": "qkv"[min(len(self.made.parameters), 2)],
            }
            first = not self.made.parameters and key not in ("bias", "residual", "scale", "attention")
            value = self._parameter(self.loose[int(node.key)], "x" if first else usual.get(key, "y"))
        elif node.kind in ("begin", "it"):
            return self._begin(key)
        elif node.kind == "fit":
            raise RequestError(f"it isn't clear which tensor the {spoken(node.key)} is here: say it by its name.")
        elif node.kind == "expression":
            value = self._expression(node.key).value()
            if not value.plain and value.shape != ():
                value = Value(self.made.line("value", value.text), value.shape)
        else:
            value = self._operator(node)
        self.known[node] = value
        return value

    def _operator(self, node: Node) -> Value:
        key, arity, options, made = node.key, node.arity, node.options, self.made
        if arity == "attention":
            return self._attention(node)
        if arity == "gated":
            return self._gated(node)
        if arity == "rope":
            return self._rope(node)
        if arity == "lora":
            return self._lora(node)
        if arity in ("binary", "matmul", "error", "loss"):
            return self._two_sided(node)
        first = self._value(node.args[0], key) if node.args else self._begin(key)
        if key in ("rows", "columns"):
            return first
        if arity in ("bias", "residual"):
            made.ops.append(key)
            other = (
                self._row_vector(node.args[1], key, first) if key == "bias" else self._other(node.args[1], key, first)
            )
            return self._checked_binary("add", first, other, key)
        if arity == "scale":
            return self._scale(node, first)
        if arity == "mean2":
            made.ops.append("average")
            return self.write.average([first, *(self._value(a) for a in node.args[1:])])
        if arity == "clip":
            made.ops.append(key)
            return self.write.clip(first, options.low, options.high)
        if arity == "transpose":
            made.ops.append(key)
            return self.write.transpose(first)
        if arity == "top":
            made.ops.append(f"top{options.count}")
            if not options.count:
                raise RequestError("top-k needs its k: say for example 'top 5 of each row'.")
            if options.count > 16:
                raise RequestError(f"top-{options.count} isn't offered in words: ask for at most 16 values.")
            return self.write.top(first, options.count)
        if arity in ("reduce", "index"):
            return self._reduce(node, first)
        if key in ALONG:
            return self._along(node, first)
        for step in _ACTIVATIONS.get(key, (key,)):
            made.ops.append(step)
            if step in POSITIVE_INPUT:
                made.positive.add(first.text)
            assert step in FUNCTIONS, step
            first = self.write.unary(step, first, options.alpha if step in ("leaky_relu", "elu") else None)
        return first

    def _row_vector(self, node: Node | None, role: str, beside: Value) -> Value:
        """A gain or bias: one number a column, whose length needn't be said."""
        if node is None or node.kind == "fit":
            return self._fitting(role, beside.shape)
        declared = any(t.name.lower() == node.key.lower() for t in self.tensors)
        if (
            node.kind == "name"
            and not declared
            and node.key not in self.used
            and node.key not in self.assigned
            and beside.shape
        ):
            self.used[node.key] = Value(self.made.parameter(node.key, beside.shape[-1:]), beside.shape[-1:])
        return self._value(node, role)

    def _other(self, node: Node, role: str, beside: Value) -> Value:
        if node.kind == "fit":
            return self._fitting(node.key if node.key in _ROLES else role, beside.shape, product=node.key == "matmul")
        return self._value(node, role)

    def _checked_binary(self, key: str, left: Value, right: Value, role: str) -> Value:
        if role == "bias" and left.shape and right.shape is not None and not broadcasts(right.shape, left.shape):
            raise RequestError(
                f"the shapes contradict each other: the bias {show(right.shape)} doesn't fit rows of {left.shape[-1]}; give it "
                f"{left.shape[-1]} elements."
            )
        if role == "residual" and left.shape is not None and right.shape is not None and left.shape != right.shape:
            raise RequestError(
                f"the shapes contradict each other: the residual {show(right.shape)} is added to {show(left.shape)}; make them equal."
            )
        return self.write.binary(key, left, right)

    def _two_sided(self, node: Node) -> Value:
        key, made = node.key, self.made
        left_node, right_node = node.args[0], node.args[1]
        left = self._value(left_node, key)
        product = right_node.kind == "fit" and right_node.key == "matmul"
        if key == "times" and right_node.kind == "fit":
            product = False
        right = (
            self._fitting(right_node.key, left.shape, product=product)
            if right_node.kind == "fit"
            else self._value(right_node, key)
        )
        self._check_rows(node, left, right)
        if key in ("times", "multiply", "product") and not node.options.elementwise:
            key = self._product(key, left, right)
        made.ops.append(key)
        if key == "outer":
            return self.write.outer(left, right)
        if key in PAIRS:
            if node.options.axis not in ("", "row", "-1"):
                raise RequestError(f"{spoken(key)} works along the last axis: transpose, or write it as an expression.")
            return self.write.pair(key, left, right)
        if node.arity == "error":
            axis = self._axis(node, left)
            if isinstance(axis, tuple):
                raise RequestError(f"{spoken(key)} along several axes isn't offered in words: {WAY_OUT}")
            return self.write.error(key, left, right, axis)
        if node.arity == "loss":
            return self.write.cross_entropy(left, right)
        if key == "matmul":
            return self.write.matmul(left, right)
        value = self.write.binary(key, left, right)
        for extra in node.args[2:]:
            value = self.write.binary(key, value, self._value(extra, key))
        return value

    def _check_rows(self, node: Node, left: Value, right: Value) -> None:
        """`multiply each row of x by s` with as many rows as columns can mean a number a row or a number a column."""
        for side, whole, other in ((node.args[0], left, right), (node.args[1], right, left)):
            vector = other.shape is not None and len(other.shape) == 1
            if side.key not in ("rows", "columns") or not vector or whole.shape is None:
                continue
            sure = (side.key == "rows" and node.key in ("add", "subtract")) or whole.shape[-2:-1] != whole.shape[-1:]
            if side.key == "columns" or not sure:
                raise RequestError(
                    f"each {side.key[:-1]} of {show(whole.shape)} with {show(other.shape)} can mean a number a row or a number a column: write "
                    "it as an expression, such as x * s or x * s[:, None]."
                )

    def _product(self, key: str, left: Value, right: Value) -> str:
        """`times` and `multiply` of two matrices: element by element or a matrix product, whichever is possible."""
        a, b = left.shape, right.shape
        if a is None or b is None or len(a) < 2 or len(b) < 2:
            return "multiply"
        matrix = a[-1] == b[-2]
        elementwise = all(m == n or 1 in (m, n) for m, n in zip(a[::-1], b[::-1]))
        asked = any(t.is_("op", "matmul") for t in self.request.tokens)
        if matrix and elementwise and key == "product":
            raise RequestError(
                f"'product' of {show(a)} and {show(b)} can mean the matrix product or the one element by element: say 'matmul' or "
                "'elementwise product'."
            )
        if matrix and (asked or (not elementwise and key != "multiply")):
            return "matmul"
        if elementwise and matrix:
            self.made.notes.append(f"{spoken(key)} is element by element; say 'matmul' for the matrix product.")
        if not elementwise and matrix:
            raise RequestError(
                f"the shapes contradict each other: multiply of {show(a)} and {show(b)}; make them equal or broadcastable; say 'matmul' for a "
                "matrix product."
            )
        return "multiply"

    def _scale(self, node: Node, first: Value) -> Value:
        numbers = [a for a in node.args if a.kind == "number"]
        others = [a for a in node.args if a.kind != "number"]
        self.made.ops.append("scale")
        if numbers:
            base_node = others[0] if others else None
            base = self._value(base_node, "scale") if base_node is not None else self._begin("scale")
            return self.write.binary("multiply", base, self._value(numbers[0]))
        if len(others) == 2:
            return self.write.binary("multiply", self._value(others[0], "scale"), self._value(others[1], "scale"))
        return self.write.binary("multiply", first, self._fitting("scale", first.shape))

    # -- along an axis -------------------------------------------------------------------------------------------------

    def _axis(self, node: Node, x: Value) -> int | tuple[int, ...] | None:
        """The axis that the words name, for this shape."""
        said, shape = node.options.axis, x.shape
        rank = len(shape) if shape is not None else 2
        name = spoken(node.key)
        if said in ("", ALL):
            return None
        if said in ("-1", "row"):
            return -1
        if said == "over rows":
            self.made.notes.append("'over the rows' is read as: within each row, axis -1.")
            return -1
        if said in ("over columns", "across rows", "?"):
            phrase = {"over columns": "over the columns", "across rows": "across rows", "?": "the middle axis"}[said]
            raise RequestError(
                f"{phrase!r} isn't understood here: say '{name} of each row', '{name} of each column' or 'axis=0'; what goes further needs a "
                "NumPy reference with --reference file.py:function."
            )
        if said == "column":
            if rank == 1:
                raise RequestError(
                    f"a column {name} needs a matrix, not {show(shape)}: give two sizes, such as 4096x1024."
                )
            if rank > 2:
                raise RequestError(
                    f"'column' isn't understood for {show(shape)}: name the axis by its number, for example axis=1."
                )
            return 0
        axes = tuple(int(a) for a in said.split(","))
        for axis in axes:
            if not -rank <= axis < rank:
                raise RequestError(
                    f"axis {axis} isn't understood here: {show(shape)} has {rank} dimension{'s' if rank > 1 else ''}, counted from 0."
                )
        if len(axes) > 1:
            return axes
        return -1 if axes[0] % rank == rank - 1 else axes[0]

    def _reduce(self, node: Node, x: Value) -> Value:
        options, key = node.options, node.key
        if key == "row_norm":
            key = "norm"
        if key == "l2_norm":
            if not options.axis:
                raise RequestError(
                    "'l2 norm' can mean the norm of each row or each row divided by its norm: say 'L2 norm of each row' or 'L2 normalise "
                    "each row'."
                )
            key = "norm"
        if not options.axis and x.shape is not None and len(x.shape) > 1:
            raise RequestError(
                f"{spoken(key)!r} of {show(x.shape)} can mean that of each row, of each column or of all elements: say '{spoken(key)} of each "
                f"row', '{spoken(key)} of each column' or '{spoken(key)} of all elements'."
            )
        axis = self._axis(node, x)
        rank = len(x.shape) if x.shape is not None else 0
        place = (
            "total"
            if axis is None and rank > 1
            else "row"
            if axis in (-1, None)
            else "column"
            if rank == 2
            else f"axis{axis}"
        )
        self.made.ops.append(f"{place}_{key}" if isinstance(axis, int) or axis is None else f"partial_{key}")
        if node.arity == "index":
            return self.write.index(key, x, -1 if axis is None and rank == 1 else axis, options.keepdims)  # type: ignore[arg-type]
        return self.write.reduce(key, x, axis, options.keepdims)

    def _along(self, node: Node, x: Value) -> Value:
        key, options = node.key, node.options
        axis = self._axis(node, x)
        if options.axis == ALL and x.shape is not None and len(x.shape) > 1:
            raise RequestError(f"{spoken(key)} over all elements isn't offered in words: {WAY_OUT}")
        if isinstance(axis, tuple):
            raise RequestError(f"{spoken(key)} along two axes isn't offered in words: {WAY_OUT}")
        self.made.ops.append(key)
        if options.causal:
            x = self._masked(x)
        if options.temperature is not None:
            x = self.write.binary("divide", x, Value(number(options.temperature), ()))
        value = self.write.along(key, x, -1 if axis is None else axis, options.eps)
        if key not in ("rmsnorm", "layernorm"):
            return value
        return self._affine(node, value, axis)

    def _masked(self, scores: Value) -> Value:
        """Scores of which row i keeps columns 0..i."""
        shape = scores.shape
        if shape is None or len(shape) < 2 or shape[-2] != shape[-1]:
            raise RequestError(f"a causal softmax needs square scores, not {show(shape)}: give them as [..., n, n].")
        scores = self.write.named(scores)
        n = shape[-1]
        self.made.notes.append("causal: row i keeps columns 0..i.")
        seen = self.made.line("seen", f"np.arange({n}) <= np.arange({n})[:, None]")
        return Value(self.made.line("masked", f"np.where({seen}, {scores.text}, np.float32(-1e30))"), shape)

    def _affine(self, node: Node, value: Value, axis: int | None) -> Value:
        """Gain and shift of a norm, said or declared under their usual names."""
        options = node.options
        gain, shift = options.gain, options.shift
        width = value.shape[-1] if value.shape else 1
        later = any(t.is_("op", "bias") for t in self.request.tokens)

        def declared(role: str) -> bool:
            return any(t.name.lower() in _ROLES[role] and is_vector(t.shape, width) for t in self.free)

        implied_gain = gain is None and declared("gain") and not any(t.is_("op", "scale") for t in self.request.tokens)
        implied_shift = (
            node.key == "layernorm"
            and shift is None
            and declared("shift")
            and (gain is not None or implied_gain or not later)
        )
        if (gain is not None or shift is not None or implied_gain) and axis not in (None, -1):
            raise RequestError(
                f"{spoken(node.key)} with a gain works along the last axis: leave the gain out, or transpose."
            )
        excluded = self.request.without
        if (gain is not None and excluded & {"gain", "gamma", "weight", "scale"}) or (
            shift is not None and excluded & {"bias", "beta", "shift"}
        ):
            raise RequestError("the request asks for a gain or bias and excludes it: say one of them.")
        if gain is not None or implied_gain:
            other = self._row_vector(gain, "gain", value)
            value = self.write.binary("multiply", value, other)
        if shift is not None or implied_shift:
            other = self._row_vector(shift, "shift", value)
            value = self.write.binary("add", value, other)
        return value

    # -- blocks --------------------------------------------------------------------------------------------------------

    def _pick(self, *names: str) -> NamedTensor | None:
        return next((t for name in names for t in self.free if t.name.lower() == name), None)

    def _attention(self, node: Node) -> Value:
        options = node.options
        self.made.ops.append("attention")
        values = [self._value(a, "attention") for a in node.args]
        if self.start is not None and not values:
            raise RequestError("attention can't follow another operator: ask for it alone, or give a NumPy reference.")
        if not values:
            q, k, v = (
                self._pick("q", "query", "queries"),
                self._pick("k", "key", "keys"),
                self._pick("v", "value", "values"),
            )
            if q is None or k is None or v is None:
                free = list(self.free)
                if not free:
                    raise RequestError(
                        "no shape is given for attention: say the sizes of q, k and v, for example q, k and v 8x1024x64."
                    )
                if len(free) == 1 and not free[0].name:
                    free = [NamedTensor(n, free[0].shape, free[0].dtype) for n in "qkv"]
                    self.free = list(free)
                    self.made.notes.append("q, k and v have the same shape.")
                if len(free) != 3:
                    raise RequestError(
                        f"attention takes q, k and v, not {len(free)} tensors: give the three, for example q, k and v 8x1024x64."
                    )
                q, k, v = free
            values = [self._parameter(t, n) for t, n in zip((q, k, v), "qkv")]
        roles = {"q": 0, "query": 0, "queries": 0, "k": 1, "key": 1, "keys": 1, "v": 2, "value": 2, "values": 2}
        said = [roles.get(a.key.lower()) if a.kind == "name" else None for a in node.args]
        if len(values) == 3 and set(said) == {0, 1, 2}:
            values = [v for _, v in sorted(zip(said, values), key=lambda pair: pair[0] or 0)]
        if len(values) == 1:
            shared = self.made.parameters.get(values[0].text, None)
            raise RequestError(
                f"attention takes q, k and v, not one tensor{' of ' + show(shared) if shared else ''}: give the three, for example q, k and v 8x1024x64."
            )
        if len(values) != 3:
            raise RequestError(
                f"attention takes q, k and v, not {len(values)} tensors: give the three, for example q, k and v 8x1024x64."
            )
        shape = values[0].shape
        if options.heads and shape is not None and (len(shape) < 3 or shape[-3] != options.heads):
            raise RequestError(
                f"{options.heads} heads aren't an axis of {show(shape)}: give q, k and v with their heads, for example "
                f"q, k and v {options.heads}x1024x64."
            )
        mask = self._pick("mask", "attn_mask")
        return self.write.attention(
            *values,
            causal=options.causal,
            scale=options.scale,
            mask=self._parameter(mask, "mask") if mask is not None else None,
        )

    def _gated(self, node: Node) -> Value:
        key = node.key
        self.made.ops.append(key)
        values = [self._value(a, key) for a in node.args]
        if values:
            x, given = values[0], values[1:]
        else:
            x, given = self._begin(key), []
        width = x.shape[-1] if x.shape else 1
        if len(given) == 1 and given[0].shape == x.shape and len(x.shape or ()) == 2:
            self.made.notes.append(f"{key} is act({x.text}) * {given[0].text}, element by element.")
            return self.write.binary("multiply", self.write.unary(GATES[key], x), given[0])
        if not given:
            gate = self._pick("gate", "w_gate", "wg", "w1", "gate_proj", "g")
            up = self._pick("up", "w_up", "wu", "w3", "up_proj", "u")
            down = self._pick("down", "w_down", "wd", "w2", "down_proj", "d")
            if gate is not None and up is not None:
                chosen = [gate, up, *([down] if down is not None else [])]
            else:
                chosen = [t for t in self.free if len(t.shape) == 2]
                if (chosen and not gate and not any(t.name for t in chosen)) or (
                    gate is not None and up is None and len(chosen) == 1
                ):
                    if len(chosen) == 1:
                        chosen = [chosen[0], NamedTensor("up", chosen[0].shape, chosen[0].dtype)]
                        self.made.notes.append("gate and up have the same shape.")
                elif len(chosen) == 1 and chosen[0].name.lower() in ("w", "weight", "weights"):
                    chosen = []
            if len(chosen) < 2:
                raise RequestError(
                    f"{key} needs its gate and up matrices: give their shapes, for example gate {width}x3072 and up {width}x3072."
                )
            if chosen[0].shape != chosen[1].shape or chosen[0].shape[0] != width:
                raise RequestError(
                    f"the shapes contradict each other: {key} of {show(x.shape)} by {show(chosen[0].shape)} and {show(chosen[1].shape)}; both must "
                    f"be {width} by the hidden size."
                )
            given = [self._parameter(t, n) for t, n in zip(chosen[:3], ("gate", "up", "down"))]
        if len(given) not in (2, 3):
            raise RequestError(f"{key} takes x with a gate, an up and perhaps a down matrix: give those.")
        self.made.notes.append(
            f"{key} is act(x @ {given[0].text}) * (x @ {given[1].text})"
            + (f" @ {given[2].text}." if len(given) > 2 else ".")
        )
        return self.write.gated(key, x, given[0], given[1], given[2] if len(given) > 2 else None)

    def _rope(self, node: Node) -> Value:
        self.made.ops.append("rope")
        values = [self._value(a, "rope") for a in node.args]
        x = values[0] if values else None
        cos, sin = self._pick("cos", "cosine", "c"), self._pick("sin", "sine", "s")
        if x is None:
            x = self._begin("rope")
        if len(values) == 3:
            return self.write.rope(x, values[1], values[2])
        if cos is None or sin is None or len(values) > 1:
            half = x.shape[-1] // 2 if x.shape else 32
            rows = x.shape[-2] if x.shape and len(x.shape) > 1 else 1
            raise RequestError(f"rope needs its angles: give cos {rows}x{half} and sin {rows}x{half}.")
        return self.write.rope(x, self._parameter(cos, "cos"), self._parameter(sin, "sin"))

    def _lora(self, node: Node) -> Value:
        """x @ w + (x @ a) @ b."""
        self.made.ops.append("lora")
        values = [self._value(a, "lora") for a in node.args]
        w, a, b = self._pick("w", "weight"), self._pick("a", "lora_a"), self._pick("b", "lora_b")
        x = values[0] if values else self._begin("lora")
        if w is None or a is None or b is None or len(values) > 1:
            raise RequestError(
                "lora needs x, w, a and b: give their shapes, for example x 512x1024, w 1024x1024, a 1024x16, b 16x1024."
            )
        self.made.notes.append("lora is x @ w + (x @ a) @ b, without a factor.")
        x = self.write.named(x)
        base = self.write.matmul(x, self._parameter(w, "w"))
        low = self.write.matmul(self.write.matmul(x, self._parameter(a, "a")), self._parameter(b, "b"))
        return self.write.binary("add", base, low)


def _no_operation(request: Request, names: set[str]) -> str:
    unknown = [t.text for t in request.tokens if t.kind == "word" and t.entry is None and t.text not in names]
    near = next((n for w in unknown if (n := nearest(w))), "")
    hint = f"did you mean {near!r}? Otherwise " if near else ""
    return f"the request names no operation: {hint}say what to compute, for example 'softmax', 'matmul' or 'layernorm then gelu'."


def _weight(name: str) -> bool:
    return name.lower() in ("w", "weight", "weights", "w1")


def _names(node: Node) -> set[str]:
    found = {node.key} if node.kind == "name" else set()
    for option in (node.options.gain, node.options.shift):
        found |= _names(option) if option is not None else set()
    return found.union(*(_names(a) for a in node.args)) if node.args else found


def _vector_names(node: Node) -> set[str]:
    """Names that stand for a gain, a shift or a bias, whose length follows from the rows."""
    found = {o.key for o in (node.options.gain, node.options.shift) if o is not None and o.kind == "name"}
    if node.arity == "bias" and node.args[1].kind == "name":
        found.add(node.args[1].key)
    return found.union(*(_vector_names(a) for a in node.args)) if node.args else found


def _texts(node: Node) -> set[str]:
    found = {node.key} if node.kind == "expression" else set()
    return found.union(*(_texts(a) for a in node.args)) if node.args else found


def _uses(node: Node, part: Node) -> bool:
    return node == part or any(_uses(a, part) for a in node.args)


def _loose(node: Node) -> set[str]:
    found = {node.key} if node.kind == "loose" else set()
    return found.union(*(_loose(a) for a in node.args)) if node.args else found


__all__ = ["Composition", "Options", "compose", "extend"]
