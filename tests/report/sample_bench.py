"""Benchmarks that never ran: made of plain numbers, to draw pages from. No torch."""

import dataclasses
import itertools
import math

from batchnorm.records import BENCH_SCHEMA, BenchResult, GeometricMean, Timing

from .sample import ATTACK

SHAPES = ((32, 64, 112, 112), (32, 256, 14, 14), (2, 32, 256, 256), (64, 100))
OPERATIONS = ("bn", "bn+relu", "bn+add+relu", "inference")
PHASES = ("forward", "backward", "both")
FASTER = {"ours": 3.0, "kernel": 4.0, "eager": 1.0, "onednn": 1.7, "compile": 0.6}
WHY = "PyTorch hands only (N, C, H, W) on to oneDNN's batch normalization"


def timing(shape, layout, operation, phase, variant, dtype="float32"):
    """One row, its time derived from its size and who it is."""
    size = math.prod(shape)
    is_missing = variant == "onednn" and len(shape) == 2
    copy = size * 1e-7 + 1e-3
    floor = copy * {"forward": 1.0, "backward": 1.5, "both": 2.5, "copy": 1.0}[phase]
    eager = 5 * floor + 0.05
    ms = copy if variant == "copy" else eager / FASTER[variant]
    is_copy = variant == "copy"
    return Timing(
        shape=shape,
        layout=layout,
        dtype=dtype,
        megabytes=size * 4e-6,
        operation=operation,
        phase=phase,
        variant=variant,
        ms=None if is_missing else ms,
        low_ms=None if is_missing else ms * 0.96,
        high_ms=None if is_missing else ms * 1.06,
        best_ms=None if is_missing else ms * 0.93,
        repetitions=0 if is_missing else 25,
        floor_ms=None if is_copy or is_missing else floor,
        over_floor=None if is_copy or is_missing else ms / floor,
        over_eager=None if is_copy or is_missing else eager / ms,
        error=None if is_copy or is_missing else 3e-7 * FASTER[variant],
        missing=WHY if is_missing else "",
    )


def timings(operations=OPERATIONS, variants=("ours", "kernel", "eager", "onednn")):
    """Every row of a benchmark."""
    rows = []
    for shape, operation in itertools.product(SHAPES, operations):
        for layout in ("contiguous", "channels-last")[: 2 if len(shape) == 4 else 1]:
            rows.append(timing(shape, layout, operation, "copy", "copy"))
            for phase in PHASES[: 1 if operation == "inference" else 3]:
                rows += [timing(shape, layout, operation, phase, v) for v in variants]
    return tuple(rows)


def mean(operation, variant, against, group="all"):
    """One mean."""
    phase = "forward" if operation == "inference" else "both"
    where = "64×100 contiguous"
    return GeometricMean("float32", operation, phase, variant, against, group, 7, 3.04, 1.26, where)


def bench():
    """Everything there can be, `torch.compile` and the large sizes too."""
    pairs = [("ours", "eager"), ("ours", "onednn"), ("ours", "floor"), ("kernel", "floor")]
    means = [mean(operation, *pair) for pair in pairs for operation in OPERATIONS]
    means.append(mean("bn", "kernel", "floor", "over the cache"))
    return BenchResult(
        schema=BENCH_SCHEMA,
        partial=False,
        wall_seconds=312.0,
        finished="2026-11-22T23:00:00+00:00",
        settings={"measuring time of one cell": "2 s", "torch.compile": "measured"},
        machine={"processor": "Imagined 9000", "threads": "2", "last-level cache": "32 MiB"},
        cache_bytes=32 * 2**20,
        used_by_others=0.02,
        versions={"batchnorm": "0.2.0", "torch": "2.13.0"},
        timings=timings(variants=tuple(FASTER)),
        means=tuple(means),
    )


def stopped():
    """One operation of two shapes, on a busy machine."""
    rows = [r for r in timings(("bn+relu",)) if r.shape in SHAPES[1:3]]
    whole = bench()
    return BenchResult(
        **{
            **{name: getattr(whole, name) for name in ("schema", "wall_seconds", "finished")},
            "partial": True,
            "settings": {},
            "machine": {"processor": ATTACK},
            "cache_bytes": None,
            "used_by_others": 0.4,
            "versions": {},
            "timings": tuple(rows),
            "means": (mean("bn+relu", "ours", "eager"),),
        }
    )


GPU = ("ours", "kernel", "eager", "compile")


def gpu():
    """A run on a GPU: layers, and a training step of a network."""
    whole = bench()
    rows = [on_gpu(r) for r in timings(("bn+relu", "bn+add+relu"), GPU)]
    fields = {name: getattr(whole, name) for name in whole.__dataclass_fields__}
    said = {
        "results": "96 results compared with float64, none is off",
        "CUDA graph": "a captured training step replays the same bits",
        "FAILED: ResNet-50 bfloat16": "RuntimeError: gone",
    }
    about = {"GPU": "Imagined GPU", "driver": "999.1", "processor": "Imagined 9000"}
    steps = (network("ours", 100.0), network("eager", 150.0))
    changed = {"settings": said, "machine": about, "timings": (*rows, *steps)}
    return BenchResult(**{**fields, **changed})


def on_gpu(row):
    """A row as a GPU gives it: 8 passes for 5, 0.5 ms of the host, cuDNN for PyTorch."""
    if row.over_floor is None:
        return row
    return dataclasses.replace(
        row,
        copy_share=1.6 / row.over_floor,
        host_ms=0.5,
        by="cuDNN" if row.variant == "eager" and row.operation == "bn+relu" else "",
    )


def network(variant, ms):
    """A training step of ResNet-50, in so many milliseconds."""
    row = timing((256, 3, 224, 224), "channels-last", "resnet50", "both", variant)
    absent = dict.fromkeys(("floor_ms", "over_floor", "error"))
    times = {"ms": ms, "low_ms": 0.96 * ms, "high_ms": 1.06 * ms, "best_ms": 0.93 * ms}
    return dataclasses.replace(row, **absent, **times, over_eager=150.0 / ms)


def nothing():
    """Stopped before the first cell was measured."""
    whole = stopped()
    fields = {name: getattr(whole, name) for name in whole.__dataclass_fields__}
    return BenchResult(**{**fields, "timings": (), "means": (), "used_by_others": None})
