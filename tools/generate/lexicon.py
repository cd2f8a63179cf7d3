"""Every word and phrase that a request may contain, and what it is. A word that isn't here is refused, never skipped."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Kind = Literal[
    "op", "then", "after", "and", "infix", "postfix", "prep", "axis", "each", "param", "it", "article", "verb", "filler",
    "noun", "quality", "affine", "ambiguous", "foreign", "first", "count", "transposed", "total", "both", "unit",
]  # fmt: skip
Arity = Literal["unary", "along", "reduce", "index", "binary", "matmul", "bias", "residual", "scale", "gated",
                "attention", "transpose", "error", "clip", "loss", "top", "rope", "mean2", "lora", "logit"]  # fmt: skip


@dataclass(frozen=True, slots=True)
class Entry:
    """What a phrase is.

    Attributes:
        kind: its part of speech.
        key: which one of that kind: an operator's key, a parameter's name, a unit.
        arity: of operators, what they take.
    """

    kind: Kind
    key: str = ""
    arity: Arity | Literal[""] = ""


PHRASES: dict[tuple[str, ...], Entry] = {}


def _add(entry: Entry, *phrases: str) -> None:
    for phrase in phrases:
        PHRASES[tuple(phrase.split())] = entry


def _op(key: str, arity: Arity, *phrases: str) -> None:
    _add(Entry("op", key, arity), *phrases)


def _norm(stem: str) -> list[str]:
    ends = ("norm", "normalization", "normalisation", "normalize", "normalise", "normalized", "normalised", "norms")
    return [f"{stem}{gap}{end}" for gap in ("", " ") for end in ends]


_op("rmsnorm", "along", *_norm("rms"), "root mean square norm", "root mean square normalization",
    "root mean square normalisation", "root mean square layer normalization", "rms layernorm", "rms layer norm")  # fmt: skip
_op("layernorm", "along", *_norm("layer"))
_op("l2norm", "along", "l2norm", "l2 normalize", "l2 normalise", "l2 normalization", "l2 normalisation", "l2 normalized",
    "l2 normalised", "l2 normalizing", "unit normalize")  # fmt: skip
_op("log_softmax", "along", "log softmax", "logsoftmax", "log soft max", "log of softmax", "log of the softmax",
    "logarithm of softmax", "logarithm of the softmax")  # fmt: skip
_op("softmax", "along", "softmax", "soft max", "softmaxed")
_op("softmin", "along", "softmin")
_op("cumsum", "along", "cumsum", "cumulative sum", "cumulative sums", "prefix sum", "prefix sums", "running sum",
    "running sums", "inclusive scan", "cumulated sum")  # fmt: skip
_op("cumprod", "along", "cumprod", "cumulative product", "cumulative products", "running product")
_op("attention", "attention", "attention", "self attention", "scaled dot product attention", "dot product attention",
    "multi head attention", "multihead attention", "grouped query attention", "gqa", "mha", "sdpa", "flash attention",
    "cross attention", "group query attention", "multi query attention", "mqa", "scaled dot product self attention",
    "multi head self attention", "self attention layer")  # fmt: skip
for _gate in ("swiglu", "geglu", "reglu", "glu"):
    _op(
        _gate,
        "gated",
        *(f"{_gate}{tail}" for tail in ("", " mlp", " ffn", " block", " feed forward", " layer", " activation")),
    )
_op("swiglu", "gated", "swi glu", "gated mlp with silu", "llama mlp", "swiglu feed forward block")
_op("matmul", "matmul", "matmul", "matmuls", "mat mul", "matmultiply", "matrix multiplication", "matrix multiplications",
    "matrix matrix multiplication", "matrix multiply", "matrix product", "matrix matrix product", "gemm", "sgemm", "mm",
    "bmm", "batched matmul", "batch matmul", "batched matrix multiplication", "batch matrix multiplication", "linear",
    "linear layer", "linear projection", "linear transformation", "dense", "dense layer", "fully connected layer",
    "fully connected", "projection", "matrix vector product", "matrix vector multiplication", "matvec", "gemv",
    "multiply matrices", "multiply the matrices", "multiply two matrices", "multiply the two matrices",
    "batched gemm", "multiplication of matrices", "product of matrices", "matrix mult", "linear map",
    "matmul projection", "up projection", "down projection", "output projection")  # fmt: skip

_op("row_norm", "reduce", "euclidean norm", "euclidean norms", "euclidean length")
_op("l2_norm", "reduce", "l2 norm", "l2 norms")  # the norm of a row or a normalised row: only with an axis
_op("sum_of_squares", "reduce", "sum of squares", "sums of squares", "sum of the squares", "sum of squared values",
    "sum of squared elements", "sum of the squared elements", "sum of the squared values", "sum squares")  # fmt: skip
_add(Entry("ambiguous", "'squared sum' can mean the square of the sum or the sum of squares: say which"), "squared sum")
_op(
    "mean_square",
    "reduce",
    "mean square",
    "mean of squares",
    "mean of the squares",
    "mean squares",
    "average of squares",
)
_op("rms", "reduce", "rms", "root mean square")
_op("abs_sum", "reduce", "l1 norm", "sum of absolute values", "sum of the absolute values")
_op("sum", "reduce", "sum", "sums", "reduce sum", "sum reduction", "summation", "sum up", "add up", "summing")
_op("mean", "reduce", "mean", "means", "average", "averages", "reduce mean", "mean reduction", "avg", "arithmetic mean")
_op("max", "reduce", "max", "maximum", "maxima", "maximums", "reduce max", "max reduction", "largest value", "largest element",
    "amax", "biggest element", "maximum value", "max value")  # fmt: skip
_op("min", "reduce", "min", "minimum", "minima", "minimums", "reduce min", "min reduction", "smallest value",
    "smallest element", "amin", "minimum value", "min value")  # fmt: skip
_op("var", "reduce", "variance", "variances", "var", "population variance")
_op("std", "reduce", "std", "standard deviation", "standard deviations", "stddev", "population standard deviation")
_op("prod", "reduce", "reduce prod", "product of all elements", "product of the elements", "product of elements")
_op(
    "logsumexp",
    "reduce",
    "logsumexp",
    "log sum exp",
    "log of the sum of exponentials",
    "log of the sum of the exponentials",
)
_op("argmax", "index", "argmax", "arg max", "index of the maximum", "index of the largest element", "argmaximum")
_op("argmin", "index", "argmin", "arg min", "index of the minimum", "index of the smallest element")
_op("topk", "top", "top", "top k", "topk", "k largest values", "k largest elements", "largest values", "largest elements", "largest entries",
    "biggest values", "biggest elements", "highest values")  # fmt: skip

_op("mse", "error", "mse", "mean squared error", "mse loss", "mean square error", "l2 loss")
_op("rmse", "error", "rmse", "root mean squared error", "root mean square error")
_op("mae", "error", "mae", "mean absolute error", "l1 loss")
_op("cosine", "error", "cosine similarity", "row wise cosine similarity", "rowwise cosine similarity")
_op(
    "row_dot", "error", "row wise dot product", "rowwise dot product", "row wise dot products", "row wise inner product"
)
_op("outer", "error", "outer product")
_op(
    "cross_entropy",
    "loss",
    "cross entropy",
    "cross entropy loss",
    "softmax cross entropy",
    "softmax cross entropy loss",
)

_op(
    "bias", "bias", "bias", "bias add", "bias addition", "add bias", "adding bias", "biases", "bias term", "bias vector"
)
_op("residual", "residual", "residual", "residual add", "residual addition", "residual connection", "skip connection",
    "skip add", "add residual", "residual sum", "shortcut")  # fmt: skip

_op("leaky_relu", "unary", "leaky relu", "leakyrelu", "lrelu")
_op("exact_gelu", "unary", "exact gelu", "gelu exact", "erf gelu", "gelu erf", "gelu with erf", "gelu using erf",
    "erf based gelu", "gelu without approximation", "exact gelu with erf", "gelu exact form")  # fmt: skip
_op("gelu", "unary", "gelu", "tanh approximation of gelu", "gelu tanh", "gelu with tanh", "gelu with tanh approximation",
    "gelu tanh approximation", "tanh approximated gelu", "approximate gelu", "gelu approximate", "approximated gelu",
    "gelu with the tanh approximation", "gelu new", "gelu using tanh", "tanh approximate gelu", "gelu tanh form")  # fmt: skip
_add(Entry("ambiguous", "'tanh gelu' can mean gelu in its tanh form or tanh followed by gelu: say 'gelu with tanh approximation' or "
           "'tanh then gelu'"), "tanh gelu")  # fmt: skip
_op("quick_gelu", "unary", "quick gelu", "quickgelu", "sigmoid gelu", "gelu with sigmoid approximation")
_op("silu", "unary", "silu", "swish", "sigmoid linear unit")
_op("relu", "unary", "relu", "rectified linear unit", "rectifier")
_op(
    "squared_relu",
    "unary",
    "squared relu",
    "relu squared",
    "relu square",
    "square of relu",
    "square of the relu",
    "relu2",
)
_op("relu6", "unary", "relu6")
_op("elu", "unary", "elu")
_op("selu", "unary", "selu")
_op("hardtanh", "unary", "hardtanh", "hard tanh")
_op("hardsigmoid", "unary", "hardsigmoid", "hard sigmoid")
_op("hardswish", "unary", "hardswish", "hard swish")
_op("softsign", "unary", "softsign")
_op("sigmoid", "unary", "sigmoid", "logistic", "logistic function", "logistic sigmoid")
_op("log_sigmoid", "unary", "log sigmoid", "logsigmoid")
_op("softplus", "unary", "softplus")
_op("mish", "unary", "mish")
_op("tanh", "unary", "tanh", "hyperbolic tangent")
_op("rsqrt", "unary", "rsqrt", "reciprocal square root", "inverse square root", "reciprocal sqrt", "inverse sqrt")
_op("sqrt", "unary", "sqrt", "square root", "squareroot")
_op("square", "unary", "square", "squaring", "squares")
_op("cube", "unary", "cube", "third power")
_op("exp", "unary", "exp", "exponential", "exponentials", "exponent function", "exponentiate")
_op("exp2", "unary", "exp2")
_op("expm1", "unary", "expm1")
_op("log", "unary", "log", "logarithm", "natural log", "natural logarithm", "logarithms")
_op("log2", "unary", "log2", "binary logarithm")
_op("log10", "unary", "log10", "decimal logarithm")
_op("log1p", "unary", "log1p")
_op("abs", "unary", "abs", "absolute", "absolute value", "absolute values", "magnitude")
_op("sign", "unary", "sign", "signum")
_op("round", "unary", "round", "rounded", "rounding")
_op("floor", "unary", "floor")
_op("ceil", "unary", "ceil", "ceiling")
_op("erf", "unary", "erf", "error function")
_op("sin", "unary", "sin", "sine")
_op("cos", "unary", "cos", "cosine")
_op("tan", "unary", "tan", "tangent")
_op("arctan", "unary", "arctan", "atan")
_op("sinh", "unary", "sinh")
_op("cosh", "unary", "cosh")
_op("reciprocal", "unary", "reciprocal", "elementwise inverse", "multiplicative inverse")
_op("negate", "unary", "negate", "negation", "negative", "negated", "minus sign")
_op("copy", "unary", "copy")
_op("transpose", "transpose", "transpose", "transposition", "transposing")
_op("clip", "clip", "clip", "clamp", "clipped", "clamped", "clipping", "clamping")
_op("scale", "scale", "scale", "scaling", "scaled", "rescale", "rescaling")
_op("rope", "rope", "rope", "rotary embedding", "rotary embeddings", "rotary position embedding", "rotary positional embedding",
    "rotary position embeddings")  # fmt: skip
_op("lora", "lora", "lora", "lora linear", "lora layer", "low rank adapter")
_op("add", "binary", "add", "addition", "adding", "adds", "vector add", "vector addition", "tensor add", "matrix add",
    "matrix addition", "tensor addition", "elementwise add", "elementwise addition", "elementwise sum", "element wise sum",
    "element wise add", "element wise addition", "pointwise add", "added")  # fmt: skip
_op("subtract", "binary", "subtract", "subtraction", "subtracting", "difference", "elementwise difference",
    "element wise difference", "elementwise subtract", "elementwise subtraction", "subtracts", "matrix subtraction")  # fmt: skip
_op("multiply", "binary", "multiply", "multiplication", "multiplying", "elementwise product", "element wise product",
    "elementwise multiply", "element wise multiply", "elementwise multiplication", "element wise multiplication",
    "hadamard product", "pointwise product", "pointwise multiply", "multiplies", "elementwise mul", "mul", "hadamard")  # fmt: skip
_op("product", "binary", "product")
_op("divide", "binary", "divide", "division", "dividing", "quotient", "elementwise division", "elementwise divide",
    "element wise division", "element wise divide", "ratio", "divides")  # fmt: skip
_op("maximum", "binary", "elementwise max", "elementwise maximum", "element wise max", "element wise maximum",
    "pointwise maximum", "pointwise max")  # fmt: skip
_op("minimum", "binary", "elementwise min", "elementwise minimum", "element wise min", "element wise minimum",
    "pointwise minimum", "pointwise min")  # fmt: skip

for _key, _words in {
    "add": ("plus", "added to"), "subtract": ("minus",), "subtracted": ("subtracted from",), "times": ("times",),
    "multiply": ("multiplied by", "multiplied with", "multiplied elementwise by", "elementwise times"),
    "divide": ("divided by",), "power": ("to the power of", "to the power", "raised to", "raised to the power of", "raised to the power"), "matmul": ("matrix multiplied by", "matrix multiplied with"),
}.items():  # fmt: skip
    _add(Entry("infix", _key), *_words)
_add(Entry("postfix", "square"), "squared")
_add(Entry("postfix", "cube"), "cubed")
_add(Entry("transposed"), "transposed", "stored transposed", "is transposed", "is stored transposed")

_add(Entry("then"), "then", "and then", "followed by", "and finally", "finally", "next", "afterwards", "after that", "before",
     "passed through", "passed to", "fed into", "fed to", "into", "and after that", "is followed by", "then finally", "which is then",
     "and next", "and afterwards", "then followed by", "subsequently", "then a", "before applying", "before the", "and put it through",
     "and pass it through", "pass it through", "which is passed through", "which is passed to", "goes through", "thereafter",
     "and then a", "that is then", "and the result is passed to", "and pass the result through", "lastly", "and lastly",
     "followed up by", "succeeded by", "and feed it to", "after which", "and pass that through", "then to", "and then to")  # fmt: skip
_add(Entry("after"), "after", "applied to", "on top of", "applied on", "applied after", "on the result of",
     "to the result of", "of the result of", "applied to the result of", "over the result of", "to the output of", "on the output of",
     "of the output of", "applied to the output of")  # fmt: skip
_add(Entry("ambiguous", "'following' can mean before or after: say 'then'"), "following")
_add(Entry("and"), "and", "as well as", "and also", "together with", "along with", "and a", "and the")
_add(Entry("first"), "first", "firstly", "to begin with", "start with", "starting with", "starting from", "start from")
for _word in (
    "of",
    "on",
    "for",
    "over",
    "to",
    "from",
    "by",
    "with",
    "between",
    "at",
    "in",
    "using",
    "via",
    "against",
    "per",
    "as",
    "among",
):
    _add(Entry("prep", _word), _word)
_add(Entry("prep", "with"), "and using")
_add(Entry("it"), "it", "them", "this", "that result", "the result", "result", "the results", "the output", "its result",
     "that", "the outcome", "the answer", "both of them", "the resulting matrix", "the resulting tensor", "what comes out")  # fmt: skip
_add(Entry("it", "its"), "its")
_add(Entry("article"), "a", "an", "the", "some")
_add(Entry("both"), "both", "all", "each", "all of them", "all three", "respectively")
_add(Entry("total"), "total", "overall", "grand total", "global", "whole", "entire", "full")
_add(Entry("total", "axis"), "all elements", "all the elements", "all entries", "all values", "the whole matrix", "the whole tensor",
     "the entire matrix", "the entire tensor", "every element", "everything", "all axes", "all dimensions", "both axes",
     "both dimensions", "the entire array", "the whole array", "all its elements", "all the entries", "all of the elements")  # fmt: skip

_LAST = ("last axis", "last dim", "last dimension", "feature axis", "feature dimension", "feature dim", "features", "hidden dimension",
         "hidden dim", "hidden axis", "innermost axis", "innermost dimension", "columns of each row", "columns in each row",
         "channel dimension", "embedding dimension", "free axis", "final axis", "final dimension", "elements of each row",
         "elements in each row", "entries of each row", "last axes", "trailing axis", "trailing dimension", "model dimension")  # fmt: skip
_FIRST = ("first axis", "first dim", "first dimension", "batch axis", "batch dimension", "batch dim", "leading axis", "leading dimension",
          "outermost axis", "rows of each column", "zeroth axis", "batch", "partition axis", "outer dimension", "outer axis",
          "elements of each column", "elements in each column")  # fmt: skip
_add(Entry("axis", "-1"), *_LAST, *(f"the {p}" for p in _LAST), *(f"its {p}" for p in _LAST))
_add(Entry("axis", "0"), *_FIRST, *(f"the {p}" for p in _FIRST), *(f"its {p}" for p in _FIRST))
_add(
    Entry("axis", "1"),
    "second axis",
    "second dimension",
    "the second axis",
    "the second dimension",
    "second dim",
    "the second dim",
)
_add(Entry("axis", "2"), "third axis", "third dimension", "the third axis", "the third dimension")
_add(Entry("axis", "-2"), "second to last axis", "second last axis", "the second to last axis", "sequence dimension",
     "the sequence dimension", "sequence axis", "the sequence axis", "second to last dimension", "the second to last dimension")  # fmt: skip
_add(Entry("axis", "?"), "middle axis", "the middle axis", "middle dimension", "the middle dimension")
_add(Entry("axis", "row"), "row", "each row", "every row", "rows", "the rows", "all rows", "all the rows", "its rows", "row wise",
     "rowwise", "per row", "by row", "row by row", "for each row", "within each row", "in each row", "of each row", "along each row",
     "across each row", "over each row", "for every row", "of every row", "individual rows", "token", "each token", "per token",
     "every token", "along rows", "along the rows", "the row", "of the rows", "of every single row", "on each row", "of all rows",
     "of all the rows", "of rows", "over every row", "per sample", "each sample", "on every row", "each individual row")  # fmt: skip
_add(Entry("axis", "column"), "column", "each column", "every column", "column wise", "columnwise", "per column", "by column",
     "column by column", "for each column", "within each column", "in each column", "of each column", "along each column",
     "down each column", "for every column", "of every column", "over each column", "across each column", "of the columns",
     "of columns", "per feature", "each feature", "per channel", "of all columns", "columns", "on each column", "down the columns",
     "down columns", "every single column")  # fmt: skip
_add(Entry("axis", "over rows"), "over rows", "over the rows", "over all rows", "over all the rows")
_add(Entry("axis", "over columns"), "over columns", "over the columns", "over all columns", "along columns", "along the columns",
     "across columns", "across the columns", "across all columns", "along all columns", "over all the columns", "the columns")  # fmt: skip
_add(
    Entry("axis", "across rows"),
    "across rows",
    "across the rows",
    "across all rows",
    "along all rows",
    "down the rows",
    "down rows",
)
_add(Entry("each", "along"), "along", "across", "axis", "dim", "dimension", "axes", "dims")

for _key, _words in {
    "eps": ("eps", "epsilon", "ε", "ϵ"), "alpha": ("alpha", "slope", "negative slope", "leak", "negative_slope", "α"),
    "temperature": ("temperature", "temp", "τ", "tau"), "heads": ("heads", "num heads", "attention heads", "head", "query heads"),
    "low": ("lower bound", "lower limit"), "high": ("upper bound", "upper limit"), "keepdims": ("keepdims", "keepdim"),
}.items():  # fmt: skip
    _add(Entry("param", _key), *_words)
_add(Entry("quality", "causal"), "causal", "causally masked", "autoregressive", "causal mask", "with causal mask", "with a causal mask",
     "lower triangular mask", "with causal masking", "causal masking", "with a lower triangular mask", "masked causally",
     "using a causal mask", "and a causal mask", "and causal mask", "with the causal mask", "decoder style", "and causal masking")  # fmt: skip
_add(Entry("quality", "unmasked"), "unmasked", "non causal", "not causal", "noncausal", "bidirectional", "without mask",
     "without a mask", "no mask", "without masking", "no masking", "without causal mask", "without a causal mask", "no causal mask")  # fmt: skip
_add(Entry("quality", "stable"), "numerically stable", "stable", "safe", "numerically safe", "online")
_add(Entry("quality", "exact"), "exact")
_add(Entry("quality", "elementwise"), "elementwise", "element wise", "pointwise", "element by element")
_add(Entry("quality", "batched"), "batched", "batchwise")
_add(Entry("affine", "gain"), "gain", "gamma", "learnable gain", "learned gain", "weight", "learnable weight", "gain vector",
     "gain weight", "weight vector", "learned weight", "γ", "learnable scale", "gains")  # fmt: skip
_add(Entry("affine", "shift"), "beta", "shift", "β", "learnable bias", "learned bias", "shift vector", "offset")
_add(Entry("affine", "both"), "affine", "affine parameters", "affine transform", "learnable affine parameters",
     "learnable parameters", "gain and bias", "gamma and beta", "weight and bias", "scale and shift", "scale and bias",
     "gain and shift", "elementwise affine", "weights and biases", "gamma beta", "learnable scale and bias", "learnable gain and bias",
     "learnable weight and bias", "learned gain and bias", "learned scale and shift", "a gain and a bias", "gain and a bias",
     "affine gamma and beta")  # fmt: skip

_add(Entry("verb"), "apply", "compute", "calculate", "evaluate", "perform", "do", "take", "run", "use", "applying", "computing", "doing",
     "get", "find", "return", "returns", "computes", "calculates", "performs", "does", "applies", "takes", "evaluates", "have", "execute",
     "gets", "finds", "calculating", "performing", "taking", "apply an", "append", "fuse", "fuses", "fusing", "return the", "give",
     "output", "outputs", "produces", "produce", "implements", "implement", "calc", "outputting", "returning")  # fmt: skip
_add(Entry("filler"), "please", "pls", "write", "make", "create", "generate", "build", "develop", "code", "need", "want", "would like", "i would like", "would", "id like", "i d like", "we would like",
     "could", "can", "you", "i", "we", "us", "our", "me", "my", "your", "hi", "hello", "hey", "thanks", "thank", "kernel", "kernels",
     "nki", "efficient", "efficiently", "optimized", "optimised", "optimal", "performant", "high performance", "simple",
     "fused", "single", "that computes", "which computes", "which", "is", "are", "be", "so", "let", "s",
     "operation", "operations", "operator", "operators", "op", "ops", "function", "layer", "layers", "activation", "activations",
     "activation function", "activation layer", "step", "steps", "block", "calculation", "computation", "pass", "forward pass",
     "where", "here", "given", "inputs are", "let us", "should", "must", "will", "program", "code for", "implementation", "new",
     "inference", "trainium", "neuroncore", "aws", "simulated", "also", "everything in one kernel", "in one kernel",
     "in a single kernel", "all in one kernel", "as one kernel", "fused together", "im", "i m", "d", "id", "there", "now", "good", "good",
     "very", "quick", "quickly", "really", "task", "problem", "following operation", "simply", "test", "example",
     "vector", "matrix", "tensor", "array", "matrices", "tensors", "arrays", "vectors", "input", "inputs", "data", "values", "value of",
     "elements", "element", "entries", "numbers", "input tensor", "input matrix", "input tensors", "input matrices", "operand",
     "operands", "type", "types", "dtype", "dtypes", "precision", "shape", "shapes", "size", "sizes", "batches", "feature map", "hidden states",
     "row major", "contiguous", "dense matrix", "dense matrices", "square matrix", "square matrices",
     "written in nki", "in nki", "for trainium", "on trainium", "for neuron",
     "of type", "of dtype", "with dtype", "with type", "two", "ok", "okay", "sequence", "pipeline", "of operations",
     "each of shape", "with shapes", "of shapes", "with sizes", "the inputs are", "tiles",
     "them being", "being", "called", "named", "namely", "like so", "as follows", "up to you", "best", "well", "work", "works",
     "running", "correct", "nice", "training", "gimme", "plz", "forward", "lets", "im looking for", "i am looking for", "looking for",
     "hey there", "dear", "what about", "how about", "cheers", "quick one")  # fmt: skip
_add(Entry("total", "axis"), "everything")
_add(Entry("noun"), "matrix", "tensor", "array", "matrices", "tensors", "arrays", "vectors", "vector", "input", "inputs", "input tensor",
     "input matrix", "input tensors", "input matrices", "square matrix", "square matrices", "activations", "image", "images", "embeddings",
     "hidden states", "float tensor", "float matrix", "random matrix", "random tensor", "2d tensor", "2d array", "2d matrix", "1d array",
     "1d tensor", "3d tensor", "4d tensor", "3d array", "4d array", "1d vector", "2d input", "3d input", "4d input", "3d matrix", "one tensor",
     "one matrix", "numpy array", "data", "array of floats", "row vector", "input array", "batch of rows")  # fmt: skip
_add(Entry("count", "2"), "two", "both", "a pair of")
_add(Entry("count", "3"), "three")
_add(Entry("count", "4"), "four")
_add(Entry("both"), "both")

_add(Entry("ambiguous", "'normalize' names no operator: say layernorm, rmsnorm, softmax or 'L2 normalise each row'"), "normalize", "normalise",
     "normalization", "normalisation", "normalized", "normalised", "norm", "norms", "normalizing", "normalising")  # fmt: skip
_add(Entry("ambiguous", "'ln' can mean layernorm or the natural logarithm: say which"), "ln")
_add(Entry("ambiguous", "'dot product' can mean one number a row or a matrix product: say 'matmul', or write sum(x * y, axis=-1)"),
     "dot product", "dot products", "inner product", "dot", "inner products")  # fmt: skip
_add(Entry("ambiguous", "'inverse' can mean one divided by each element or the inverse matrix: say 'reciprocal' for the first"), "inverse",
     "inverted", "invert")  # fmt: skip
_add(Entry("ambiguous", "'masked' names no mask: say 'causal attention', or give the mask as a tensor in an expression"), "masked", "mask",
     "masking", "with mask", "with a mask")  # fmt: skip

_add(Entry("foreign"), "conv", "convolution", "convolutions", "conv1d", "conv2d", "conv3d", "depthwise convolution", "convolve", "pool",
     "pooling", "max pool", "max pooling", "avg pool", "average pooling", "maxpool", "avgpool", "fft", "sort", "sorting", "sorted", "scan",
     "embedding lookup", "embedding", "gather", "scatter", "dropout", "mamba", "quantize", "quantise", "quantization", "dequantize",
     "group norm", "groupnorm", "batch norm", "batchnorm", "instance norm", "instancenorm", "lstm", "gru", "rnn", "einsum", "histogram",
     "all reduce", "allreduce", "all gather", "allgather", "cholesky", "svd", "qr", "determinant", "median", "mode", "quantile",
     "percentile", "adam", "adamw", "sgd", "optimizer step", "backward", "backward pass", "gradient", "gradients", "backprop", "loss",
     "sliding window", "alibi", "mlp", "ffn", "feed forward", "transformer block", "transformer", "kl divergence", "huber loss",
     "trace", "diagonal", "cumulative max", "cummax", "reverse",
     "flip", "roll", "concat", "concatenate", "concatenation", "stack", "split", "pad", "padding", "one hot", "topk indices", "unique",
     "kronecker product", "cross product", "eigenvalues", "upsample", "interpolate", "resize", "grouped gemm", "moe", "mixture of experts",
     "paged attention", "kv cache", "lookup", "where condition", "prelu", "celu", "glu gate", "gumbel softmax", "sparsemax",
     "2d convolution", "1d convolution", "moving average", "stencil", "xor", "modulo", "remainder", "power", "inverse matrix")  # fmt: skip

NOT_SAID = ("not", "but", "except", "instead", "without", "no", "never", "unless", "if", "else", "when", "skip", "ignore", "don't", "dont", "neither",
            "nor", "rather", "other", "than", "or", "either", "otherwise", "excluding", "omit")  # fmt: skip
"""Words that turn a meaning around; none has a grammar beyond the fixed phrases above."""

TENSOR_NOUNS = frozenset(
    """weight weights bias beta gamma gain residual scale gate up down query key value queries keys values cos sin mask logits labels
    targets target probs probabilities input inputs inp src hidden out wq wk wv wo mat vec matrix vector tensor array image shift skip
    weight1 weight2 lhs rhs left right other data tokens act acts activations grad cosine sine noise pos embeddings states context
    hidden_states attn scores pred preds prediction predictions truth label gt ref lr lora_a lora_b""".split()
)
"""Words that may name a tensor without a colon; other names have one or two letters, a digit or an underscore."""
