"""Compile the kernels for GPUs that are not there; print what the compiler made of them, as JSON.

Run as a program of its own, since Triton either compiles or interprets. `ptxas`, which Triton
brings along, says how many registers a kernel takes; the assembly, how wide its loads are.
"""

import inspect
import json
import re
import subprocess
import sys
import tempfile
from pathlib import Path

import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource

from batchnorm.ops.triton import backward, calls, forward, plan

H200 = plan.Device(132, 60 * 2**20)
SIZES = {
    "planes": (256, 64, 56 * 56),
    "planes of 14 x 14": (256, 256, 14 * 14),
    "channel innermost": (256 * 56 * 56, 64, 1),
    "rows of runs of 49": (256, 512, 49),
    "odd planes": (8, 64, 57 * 57),
}
# A number that is 1 is a constant for Triton.
SINGLE = {
    "one row": (1, 3, 64),
    "one channel": (16, 1, 64),
    "one column": (64, 1, 1),
    "one of all": (1, 1, 2),
}
REALS = {"eps", "momentum", "portion"}
WIDE = {"missed": "*i64", "tracked": "*i64", "signs": "*u8"}
DATA = {"x", "y", "residual", "grad_y", "grad_x", "grad_residual"}
VECTORS = {"share", "parts", "weight", "bias", "vectors", "running_mean", "running_var", "sums"}


def types(dtype: str) -> dict[str, str]:
    """The type of every argument that a kernel may have, the whole numbers apart."""
    names = dict.fromkeys(REALS, "fp32") | WIDE
    return names | dict.fromkeys(DATA, f"*{dtype}") | dict.fromkeys(VECTORS, "*fp32")


PLAIN = {"share", "residual", "signs", "grad_residual", "running_mean", "running_var"}
CASES = {
    "stats": (forward.stats_kernel, {"share"}, None),
    "stats by shares": (forward.stats_kernel, set(), None),
    "train": (forward.train_kernel, {"residual", "signs"}, "relu"),
    "normalize": (forward.normalize_kernel, PLAIN, "relu"),
    "normalize, add": (forward.normalize_kernel, {"running_mean", "running_var"}, "relu"),
    "evaluate": (forward.normalize_kernel, {"residual", "signs"}, "gelu"),
    "reduce": (backward.reduce_kernel, {"residual", "signs"}, "relu"),
    "reduce by signs": (backward.reduce_kernel, {"residual"}, "relu"),
    "reduce, curved": (backward.reduce_kernel, {"signs"}, "silu"),
    "elemt": (backward.elemt_kernel, PLAIN, "relu"),
    "elemt by signs": (backward.elemt_kernel, {"residual", "share"}, "relu"),
    "elemt by shares": (backward.elemt_kernel, PLAIN - {"share"}, "tanh"),
    "backward": (backward.backward_kernel, {"residual", "signs", "grad_residual"}, "relu"),
    "merge": (forward.merge_kernel, set(), None),
    "total": (backward.total_kernel, set(), None),
}


def integers(cut: plan.Plan) -> dict[str, int]:
    """The whole numbers that a kernel is given."""
    names = "rows", "units", "channels", "inner", "split_rows", "split_tiles", "column_splits"
    numbers = dict(zip(names, calls.place(cut), strict=True))
    return numbers | {"each": cut.channels, "splits": cut.splits}


def compiled(case: str, dtype: str, cut: plan.Plan, capability: int) -> dict[str, int]:
    """Compile a kernel for a plan; give its registers, spills, and bytes of its widest access."""
    kernel, absent, act = CASES[case]
    constants = {"ACT": act, "STAGES": calls.STAGES, "PARTS": 64, "CHANNELS": 16}
    tile = calls.tile(cut)
    constants |= {name: value for name, value in tile.items() if name.isupper()}
    numbers = integers(cut)
    constants |= {name: 1 for name, number in numbers.items() if number == 1}
    signature, values, aligned = {}, {}, {}
    for index, name in enumerate(inspect.signature(kernel.fn).parameters):
        if name in constants or name in absent:
            signature[name], values[index,] = "constexpr", constants.get(name)
            continue
        signature[name] = "i32" if name in numbers else types(dtype)[name]
        if signature[name].startswith("*") or numbers.get(name, 1) % 16 == 0:
            aligned[index,] = [["tt.divisibility", 16]]
    options = {name: value for name, value in tile.items() if not name.isupper()}
    target = GPUTarget("cuda", capability, 32)
    made = triton.compile(
        ASTSource(kernel, signature, values, aligned), target=target, options=options
    )
    return {**resources(made.asm["cubin"]), "bytes": widest(made.asm["ptx"])}


def resources(binary: bytes) -> dict[str, int]:
    tool = Path(triton.__file__).parent / "backends" / "nvidia" / "bin" / "cuobjdump"
    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        Path(file.name).write_bytes(binary)
        command = [tool, "--dump-resource-usage", file.name]
        text = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    found = re.search(r"REG:(\d+) STACK:(\d+) .*?LOCAL:(\d+)", text)
    registers, stack, local = map(int, found.groups())
    return {"registers": registers, "spilled": stack + local}


def widest(assembly: str) -> int:
    """Bytes of the widest access to global memory, copies to shared memory included."""
    wide = re.findall(r"(?:ld|st)\.global\S*?(?:\.v(\d))?\.b(\d+)", assembly)
    sizes = [int(count or 1) * int(bits) // 8 for count, bits in wide]
    copies = re.findall(
        r"cp\.async\.c[ag]\.shared\.global \[[^\]]*\], \[[^\]]*\], 0x(\w+)", assembly
    )
    return max([*sizes, *(int(size, 16) for size in copies)])


def main(capability: int, dtypes: list[str]) -> None:
    found = {}
    for dtype in dtypes:
        for name, sizes in (SIZES | SINGLE if capability == 90 else SIZES).items():
            cut = plan.make_plan(sizes, 2 if dtype != "fp32" else 4, H200)
            for case in CASES:
                if (case in ("train", "backward") and cut.inner > 1) or (
                    case in ("merge", "total") and (name != "planes" or dtype != "fp32")
                ):
                    continue
                found[f"{case}: {dtype}, {name}"] = compiled(case, dtype, cut, capability)
    json.dump(found, sys.stdout)


if __name__ == "__main__":
    main(int(sys.argv[1]), sys.argv[2:])
