"""Every diagnostic code of the simulator with its meaning, and `docs/diagnostics.md` made from it.

`python -m tools.sim.diagnostics` prints the page. A test compares the table with the codes that the source uses.
"""

from __future__ import annotations

import ast
from pathlib import Path

MEANINGS: dict[str, str] = {
    "KW-ABSENT-MODULE": "the kernel itself calls into a module that isn't installed here",
    "KW-ACTIVATE2-OPS": "activate2: this pair of prologue operators doesn't exist",
    "KW-ACTIVATION-BIAS": "a number as activation bias on trn1, which takes only a [P, 1] tile",
    "KW-ACTIVATION-RANGE": "an activation's argument lies outside the range that the hardware's table covers",
    "KW-ACTIVATION-SCALE": "activation scale is a tile that isn't float32",
    "KW-ACTIVATION-UNKNOWN": "no such activation function",
    "KW-ADDRESS-OVERLAP": "two tiles placed over each other while both hold live data",
    "KW-ADDRESS-RANGE": "a placed tile reaches beyond SBUF, PSUM or their partitions",
    "KW-AFFINE-OUTPUT": "several iterations of an affine_range write one place",
    "KW-ALLOCATION": "an allocator call of Beta 1 can't be carried out",
    "KW-AP-PARTITION-STEP": "an access pattern doesn't step from partition to partition by the tile's row",
    "KW-AP-VECTOR-OFFSET": "rows gathered by an index tile where that isn't possible (on chip, or not dimension 0)",
    "KW-ARGUMENT": "an argument that this function doesn't have, or doesn't take so",
    "KW-ARGUMENTS": "the kernel can't be called with the arguments given",
    "KW-ASSIGN": "`tensor[...] = value` with a value that is neither a tensor nor a number",
    "KW-BARRIER-CORES": "core_barrier over other cores than (0, 1)",
    "KW-BARRIER-DATA": "a barrier on data that the other core doesn't see",
    "KW-BITWISE-DTYPE": "a bitwise operator on a tile that isn't an integer",
    "KW-BLOCK-INDEX": "block dimensions in front of the partition dimension aren't indexed away",
    "KW-BN-STATS-SIZE": "bn_stats over more elements than one instruction takes",
    "KW-BROADCAST": "a dimension that isn't 1 can't be repeated",
    "KW-BUFFER": "no such memory",
    "KW-COLLECTIVE-DIM": "a dimension that a collective can't split or join along",
    "KW-COLLECTIVE-OPERANDS": "tensors that a collective doesn't take together",
    "KW-DEADLOCK": "the cores wait for each other for ever",
    "KW-DMA-COMPUTE": "dma_compute with an operator, scale or index mode that it doesn't have",
    "KW-DMA-HWDGE-CAST": "a cast in a DMA whose descriptors hardware makes",
    "KW-DMA-PSUM": "a DMA from or to PSUM",
    "KW-DMA-SHAPE": "source and destination of a DMA differ in elements or shape",
    "KW-DMA-TRANSPOSE-AXES": "a permutation that dma_transpose doesn't do",
    "KW-DOUBLE-ROW": "double_row without fp8 operands [K, 2, F], or on trn1",
    "KW-DTYPE": "an operand's data type isn't allowed here, or unknown",
    "KW-DYNAMIC-LOOP": "a dynamic loop of Beta 1 that isn't possible",
    "KW-DYNAMIC-STEP": "the step of dynamic_range isn't a positive integer",
    "KW-EMPTY-SLICE": "a slice that holds no element",
    "KW-ENGINE": "an engine that can't execute the instruction",
    "KW-GATHER-COUNT": "more gather indices than one GpSimd core takes, or than the index tile holds",
    "KW-GATHER-RUN": "num_elem_per_idx isn't a power of two up to 32",
    "KW-GENERATION": "the target's NeuronCore doesn't have the instruction",
    "KW-GPSIMD-PSUM": "the GpSimd Engine can't access PSUM",
    "KW-HBM-CAPACITY": "the kernel's HBM tensors need more host memory than allowed",
    "KW-HBM-INIT": "an HBM tensor can't be created with a value",
    "KW-IMPORT": "untrusted kernel source imports a module that it may not",
    "KW-INDEX-1D": "a tile indexed with a one-dimensional arange",
    "KW-INDEX-ASSIGN": "writing into an index object",
    "KW-INDEX-BOUNDS": "an index read from a tile points outside the tensor",
    "KW-INDEX-COUNT": "fewer indices than rows",
    "KW-INDEX-MIX": "slices and index objects mixed in one subscript",
    "KW-INDEX-PARTITION": "an index object that doesn't walk partitions as the hardware can",
    "KW-INDEX-RANK": "more indices than dimensions",
    "KW-INDEX-SHAPE": "index objects whose shapes don't go together",
    "KW-INDEX-TRUTH": "an index object used as a condition",
    "KW-INDEX-TYPE": "a value that can't be an index",
    "KW-INDIRECT-GROUPS": "an index tile whose groups of partitions hold different offsets",
    "KW-INDIRECT-OPERAND": "an indirect view where the instruction takes none",
    "KW-INDIRECT-SLICE": "slicing a dimension that an index tile gathers",
    "KW-INDIRECT-TWICE": "gathering what is already gathered",
    "KW-INSTRUCTION-LIMIT": "more instructions than the run allows",
    "KW-IOTA-EXPRESSION": "an expression that iota can't write",
    "KW-LANE-SCALAR": "an operand that must have one element a partition",
    "KW-LNC": "an instruction for two cores in a kernel that runs on one",
    "KW-LNC-DEGREE": "a launch grid that the target can't join",
    "KW-LNC-OUTPUTS": "the two cores return different tensors",
    "KW-LOOP-BODY": "a loop body that returns what it may not",
    "KW-MASK-AND": "masks joined with `and` instead of `&`",
    "KW-MASK-EXPRESSION": "a mask that isn't made of comparisons of affine expressions",
    "KW-MASK-SHAPE": "a mask whose shape doesn't fit the tile",
    "KW-MATMUL-DST": "a matmul result outside PSUM",
    "KW-MATMUL-DST-DTYPE": "a matmul result type that the target's PSUM doesn't take",
    "KW-MATMUL-DTYPE": "matmul operand types that the PE array doesn't take, or not together",
    "KW-MATMUL-K": "the contraction dimensions of the operands differ",
    "KW-MATMUL-MOVING": "a moving operand that is too wide",
    "KW-MATMUL-SHAPE": "the result's shape isn't that of the product",
    "KW-MATMUL-STATIONARY": "a stationary operand that is too wide",
    "KW-MATMUL-TRANSPOSE": "nl.matmul without transpose_x in a dialect that needs it",
    "KW-MEMSET-VALUE": "a fill value that the tile's type doesn't take",
    "KW-MX-SCALE": "a scale tile that is too small for its data",
    "KW-MX-SHAPE": "shapes that microscaling instructions don't take",
    "KW-NESTED-GRID": "a launch grid on a call inside a kernel",
    "KW-NO-FUNCTION": "the file holds no such function or module",
    "KW-NO-OUTPUT": "the kernel returns no tensor and writes none of its arguments",
    "KW-OP-CALL": "an operator handle called as a function",
    "KW-OP-MIX": "operators that can't stand together in one instruction",
    "KW-OP-REDUCE": "an operator that can't reduce here",
    "KW-OP-UNKNOWN": "no such operator",
    "KW-OPERAND-MISSING": "an operator without its operand",
    "KW-OPERAND-TYPE": "an operand that isn't a tensor, number or register as needed",
    "KW-ORDERED-LOOP": "a dynamic loop inside no_reorder",
    "KW-OUT-OF-BOUNDS": "a view that reaches outside its tensor",
    "KW-OUTPUT-PLACEMENT": "a returned tensor that doesn't lie in HBM",
    "KW-OUTPUT-UNWRITTEN": "a returned tensor with elements that nothing wrote",
    "KW-OUTSIDE-KERNEL": "a language function called outside a kernel",
    "KW-PARTITION-LIMIT": "more partitions than the memory has",
    "KW-PARTITION-MISMATCH": "operands with different partition counts",
    "KW-PARTITION-MULTIPLE": "a partition count that must be a multiple of 16",
    "KW-PATTERN-RANK": "an index pattern with more than four dimensions",
    "KW-PE-TILE": "tile_position and tile_size that name no tile of the PE array",
    "KW-PERMUTE": "no permutation of the dimensions",
    "KW-PERMUTE-PARTITION": "a permutation that moves the partition dimension",
    "KW-PLACEMENT": "an operand in a memory that the instruction can't reach",
    "KW-PREDICATE": "a predicate that the instruction doesn't take",
    "KW-PROGRAM-AXIS": "an axis that the launch grid doesn't have",
    "KW-PSUM-ACCUMULATE": "accumulation onto what no matmul wrote",
    "KW-PSUM-ADDRESS": "a PSUM address that isn't a bank boundary",
    "KW-PSUM-BANK": "a matmul result across PSUM banks before trn3",
    "KW-PSUM-CAPACITY": "more PSUM than there is",
    "KW-PYTHON": "the kernel's own Python raised an exception",
    "KW-RACE-SHARED": "two cores touch the same bytes of shared HBM without a barrier between",
    "KW-RANDOM-RANGE": "random numbers with min not below max",
    "KW-RANGE-FILL": "range_select with another fill value than the smallest float32",
    "KW-RANGE-START": "range_select indices beyond 2**24",
    "KW-RANK": "an operand with too many or too few dimensions",
    "KW-RANK-RANGE": "a rank outside the group",
    "KW-REARRANGE": "a rearrange pattern that doesn't describe the tensor",
    "KW-REDUCE-AXIS": "reduction axes that aren't the last free dimensions",
    "KW-REDUCE-CMD": "a register command that the instruction doesn't have",
    "KW-REDUCE-IDLE": "registers stored although nothing was folded into them",
    "KW-REDUCE-INIT": "a register start value without load_reduce, or load_reduce without it",
    "KW-REDUCE-OP": "a missing or impossible operator for the accumulator registers",
    "KW-REGISTER-FROZEN": "a loop's own register written",
    "KW-REGISTER-VALUE": "a register used as a Python condition or integer",
    "KW-REMOVED": "a tool of Beta 1 that the current namespace no longer has",
    "KW-REPLICA-GROUP": "ranks that don't form a replica group",
    "KW-RESHAPE": "a reshape that changes the number of elements",
    "KW-RESHAPE-PARTITION": "a reshape that changes the partition dimension",
    "KW-RESHAPE-STRIDED": "a reshape that needs a copy",
    "KW-RESULT-TYPE": "dtype= of 0.2 names another type than dst has",
    "KW-SBUF-CAPACITY": "more SBUF live at once than there is",
    "KW-SCALAR-TENSOR-SCALAR": "tensor_scalar operators that the Scalar Engine doesn't have",
    "KW-SEED": "a random seed that isn't one 32-bit element",
    "KW-SENDRECV-PEER": "sendrecv partners that don't name each other",
    "KW-SENDRECV-SIZE": "more bytes a partition than GpSimd's DMA carries",
    "KW-SHAPE": "an impossible tensor shape",
    "KW-SHAPE-MISMATCH": "operands whose sizes don't fit together",
    "KW-SHARED-MISMATCH": "the cores allocate different shared tensors",
    "KW-SHUFFLE-MASK": "a shuffle mask that isn't 32 partitions, or reaches outside the source",
    "KW-SIZE-RANGE": "elements per partition outside an instruction's range",
    "KW-SLICE-STEP": "a slice step below 1",
    "KW-SQUEEZE": "a dimension that can't be dropped",
    "KW-START-PARTITION": "an access that starts at a partition where the hardware can't start",
    "KW-STRICT-ALLOCATED": "strict, Beta 1: a hidden tile in a kernel that places its tiles itself",
    "KW-STRICT-CLASS": "strict: a class used inside a kernel that doesn't inherit nl.NKIObject",
    "KW-STRICT-DEPRECATED": "strict: a spelling that still works but is on its way out",
    "KW-STRICT-IMMUTABLE": "strict, Beta 1: a kernel writes a parameter that isn't annotated nt.mutable_tensor",
    "KW-STRICT-INDIRECT": "strict, Beta 1: a tile picks elements that are no rows of an HBM tensor",
    "KW-STRICT-JIT": "strict: an argument that nki.jit no longer has",
    "KW-STRICT-MASK": "strict, Beta 1: masks joined with and, or, not",
    "KW-STRICT-NAMESPACE": "strict: neuronxcc.nki imported by a kernel of the current dialect",
    "KW-STRICT-NESTED": "strict: a jitted function called inside a kernel",
    "KW-STRICT-NO-COMPILE": "strict: simulates, but the compiler has no code for it",
    "KW-STRICT-NOT-RETURNED": "strict, Beta 1: a parameter annotated nt.mutable_tensor isn't among the results",
    "KW-STRICT-OUTPUT": "strict: a result that isn't in shared_hbm",
    "KW-STRICT-PYTHON": "strict: Python that the kernel language doesn't have",
    "KW-STRICT-REMOVED": "strict: an API or argument that a version removed",
    "KW-STRICT-SCOPE": "strict, Beta 1: a tile used outside the block that made it",
    "KW-STRICT-SHARED-HBM": "strict, Beta 1: a shared_hbm tensor made inside a loop or a helper function",
    "KW-STRICT-WHILE": "strict, Beta 1: a while loop that may not run at all",
    "KW-SYNTAX": "the source isn't Python",
    "KW-TENSOR-OPERATOR": "a Python operator on tensors in a dialect without them",
    "KW-TENSOR-TRUTH": "a tensor used as a condition",
    "KW-TRANSPOSE-DTYPE": "a transpose into another type",
    "KW-TRANSPOSE-IDENTITY": "transpose mode without an identity",
    "KW-TRANSPOSE-SIZE": "a transpose that is too large for its engine",
    "KW-TWO-PSUM": "two inputs of one instruction in PSUM",
    "KW-UNINITIALISED": "an element read that nothing ever wrote",
    "KW-UNKNOWN-NAME": "a name that the language's modules don't have",
    "KW-UNUSED-RESULT": "a tile written and never read",
    "KW-VIEW": "bytes that can't be seen as another type",
    "KW-VIEW-DIM": "a dimension that the view doesn't have",
    "KW-VIEW-PARTITION": "a view method on the partition dimension",
}
"""What each code says, by code. Codes are stable: they are never renamed or given another meaning."""

_SIMULATOR = Path(__file__).parent


def used_codes() -> dict[str, list[str]]:
    """Codes that the simulator's source can emit, each with the modules that do."""
    found: dict[str, set[str]] = {}
    for path in sorted(_SIMULATOR.rglob("*.py")):
        if path == Path(__file__):
            continue
        module = path.relative_to(_SIMULATOR).with_suffix("").as_posix().removesuffix("/__init__")
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Constant) and isinstance(node.value, str) and _is_code(node.value):
                found.setdefault(node.value, set()).add(module)
    return {code: sorted(modules) for code, modules in sorted(found.items())}


def _is_code(text: str) -> bool:
    return text.startswith("KW-") and len(text) > 3 and all(c.isupper() or c.isdigit() or c == "-" for c in text[3:])


def page() -> str:
    """The text of `docs/diagnostics.md`."""
    lines = [
        "# Diagnostics",
        "",
        "Every finding about a kernel carries one of these codes, a severity, the source range, the operand, what was found,",
        "what is allowed, and a fix. An error stops the kernel (or makes it unusable); warnings and notes don't. Findings of",
        "the lint, the evaluation and the agent have codes of their own.",
        "",
        "Generated by `python -m tools.sim.diagnostics`.",
        "",
        "| code | meaning | from |",
        "|---|---|---|",
    ]
    for code, modules in used_codes().items():
        lines.append(f"| `{code}` | {MEANINGS.get(code, '')} | {', '.join(modules)} |")
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    print(page(), end="")
