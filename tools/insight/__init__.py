"""Why a kernel is slow, on which line, and what removing each cause would gain.

`explain_gap(trace, machine, engine="Tensor")` explains idle time; `advise(observed)` runs the bottleneck rules;
`what_if(trace)` times the same program on every generation. Everything reads the recorded trace only.
"""

from tools.insight import rules
from tools.insight.advice import RULES, Advice, advise
from tools.insight.counterfactual import Counterfactual
from tools.insight.gaps import Explanation, IdleCause, explain_gap
from tools.insight.generations import Generation, what_if
from tools.insight.locate import Location, locate, locate_by_trace
from tools.insight.lockstep import Lockstep, lockstep
from tools.insight.observed import Observed
from tools.insight.precision import LinePrecision, PrecisionReport, precision_report
from tools.insight.questions import Answer, answer
from tools.insight.soundness import TraceError, check, check_order
from tools.insight.steps import Step, instrumented
from tools.insight.unwritten import unwritten_outputs, unwritten_reads

__all__ = [
    "RULES",
    "Advice",
    "Answer",
    "Counterfactual",
    "Explanation",
    "Generation",
    "IdleCause",
    "LinePrecision",
    "Location",
    "Lockstep",
    "Observed",
    "PrecisionReport",
    "Step",
    "TraceError",
    "advise",
    "answer",
    "check",
    "check_order",
    "explain_gap",
    "instrumented",
    "locate",
    "locate_by_trace",
    "lockstep",
    "precision_report",
    "rules",
    "unwritten_outputs",
    "unwritten_reads",
    "what_if",
]
