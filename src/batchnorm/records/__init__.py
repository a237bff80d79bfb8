"""Plain data that one part of the library hands to another, and its JSON form.

Frozen dataclasses of numbers and text; the standard library only, so that a saved study can be
rendered where torch is not installed. A number that is not finite is written as null.
"""

from .bench import BENCH_SCHEMA, BenchResult, GeometricMean, Timing
from .change import Change
from .diagnosis import (
    DIAGNOSIS_SCHEMA,
    DiagnosisResult,
    Finding,
    Histogram,
    LayerResult,
    Measure,
    grouped,
)
from .serialization import from_json, to_json, write_text
from .study import (
    SCHEMA,
    Claim,
    Counts,
    CurvePoint,
    DeadUnits,
    Distribution,
    Drift,
    Effect,
    Failure,
    Gap,
    Profile,
    Run,
    Spend,
    Stability,
    StudyResult,
    Test,
)

__all__ = [
    "BENCH_SCHEMA",
    "DIAGNOSIS_SCHEMA",
    "SCHEMA",
    "BenchResult",
    "Change",
    "Claim",
    "Counts",
    "CurvePoint",
    "DeadUnits",
    "DiagnosisResult",
    "Distribution",
    "Drift",
    "Effect",
    "Failure",
    "Finding",
    "Gap",
    "GeometricMean",
    "Histogram",
    "LayerResult",
    "Measure",
    "Profile",
    "Run",
    "Spend",
    "Stability",
    "StudyResult",
    "Test",
    "Timing",
    "from_json",
    "grouped",
    "to_json",
    "write_text",
]
