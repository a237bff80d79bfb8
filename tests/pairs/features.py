"""Everything a layer can be asked for, as data."""

import torch

import batchnorm as bn
from batchnorm.errors import OptionError, SurgeryError

from . import derivatives, steps, ways
from .feature import CALLS, INPUTS, LIFE, NUMBERS, OPTIONS, Feature, Pointless, Refused
from .twin import Twin

RENORM = bn.Renorm(r_max=1.5, d_max=0.3, warmup_steps=0, ramp_steps=(2, 1))

FEATURES = (
    Feature("relu", OPTIONS, '`activation="relu"`', "activation", options={"activation": "relu"}),
    Feature("silu", OPTIONS, '`activation="silu"`', "activation", options={"activation": "silu"}),
    Feature(
        "virt",
        OPTIONS,
        "`virtual_batch_size=3` on batches of seven",
        options={"virtual_batch_size": 3},
    ),
    Feature(
        "renorm",
        OPTIONS,
        "`renorm=Renorm(...)`, after its warm-up; each limit is reached",
        options={"renorm": RENORM},
        apart={
            "notrack": Refused(
                OptionError, "renorm needs running", "renormalization is towards running statistics"
            )
        },
    ),
    Feature("mom", OPTIONS, "`momentum=None`", options={"momentum": None}),
    Feature(
        "noaff",
        OPTIONS,
        "`affine=False`",
        "affine",
        options={"affine": False},
        apart={"frozen": Pointless("there are no weight and bias")},
    ),
    Feature("nobias", OPTIONS, "`bias=False`", "affine", options={"bias": False}),
    Feature(
        "notrack",
        OPTIONS,
        "`track_running_stats=False`",
        options={"track_running_stats": False},
        apart={
            "onerun": Refused(
                OptionError, "degenerate=", "there are no running statistics to use instead"
            )
        },
    ),
    Feature(
        "sync",
        OPTIONS,
        "`sync=True`, beside a replica without values",
        options={"sync": True},
        patch=ways.take_empty_replica,
        apart={
            "vmap": Refused(
                RuntimeError, "vmap", "replicas would have to agree on the size of an ensemble"
            )
        },
    ),
    Feature("frozen", OPTIONS, "weight and bias need no gradient", constant=("weight", "bias")),
    Feature("resid", INPUTS, "a `residual`", fill=steps.give_residuals),
    Feature(
        "mask",
        INPUTS,
        "a `mask` of samples or of positions; the values it hides are infinite or NaN",
        fill=steps.give_masks,
    ),
    Feature(
        "weight",
        INPUTS,
        "a `sample_weight` for samples or for positions, some of them 0",
        fill=steps.give_weights,
    ),
    Feature("empty", INPUTS, "a batch of no samples", insert=steps.add_empty),
    Feature("hidden", INPUTS, "a batch of which the mask hides all", insert=steps.add_hidden),
    Feature(
        "one",
        INPUTS,
        'a batch of one value per channel, with `degenerate="raise"`',
        "single",
        insert=steps.add_single,
    ),
    Feature(
        "onerun",
        INPUTS,
        'the same with `degenerate="running"`',
        "single",
        options={"degenerate": "running"},
        insert=steps.add_single,
    ),
    Feature("nan", INPUTS, "a NaN in one channel", "nan", fill=steps.put_nan),
    Feature(
        "nanprop",
        INPUTS,
        'the same with `nonfinite="propagate"`',
        "nan",
        options={"nonfinite": "propagate"},
        fill=steps.put_nan,
    ),
    Feature(
        "nanraise",
        INPUTS,
        'the same with `nonfinite="raise"`',
        "nan",
        options={"nonfinite": "raise"},
        fill=steps.put_nan,
    ),
    Feature(
        "flat",
        INPUTS,
        "an input (N, C)",
        "shape",
        shape=(7, steps.CHANNELS),
        apart={"last": Pointless("only images and volumes have such a format")},
    ),
    Feature("volume", INPUTS, "an input (N, C, D, H, W)", "shape", shape=(7, 3, 2, 1, 2)),
    Feature(
        "leaf",
        INPUTS,
        "an input that needs no gradient",
        constant=("x",),
        apart={
            "ckptre": Pointless(
                "torch warns: with a reentrant checkpoint some input has to need a gradient"
            )
        },
    ),
    Feature(
        "f64",
        NUMBERS,
        "all in float64",
        "dtype",
        dtype=torch.float64,
        options={"dtype": torch.float64},
    ),
    Feature("bf16", NUMBERS, "inputs in bfloat16", "dtype", dtype=torch.bfloat16),
    Feature("f16", NUMBERS, "inputs in float16", "dtype", dtype=torch.float16),
    Feature(
        "half",
        NUMBERS,
        "the layer after `.half()`, and inputs in float16",
        "dtype",
        dtype=torch.float16,
        convert=torch.nn.Module.half,
    ),
    Feature(
        "auto",
        NUMBERS,
        "under `torch.autocast`: the input comes in bfloat16, the residual in float32",
        "dtype",
        dtype=torch.bfloat16,
        residual_dtype=torch.float32,
        context=ways.autocast,
    ),
    Feature(
        "bflayer",
        NUMBERS,
        "a layer with `dtype=torch.bfloat16`, and such inputs",
        "dtype",
        dtype=torch.bfloat16,
        options={"dtype": torch.bfloat16},
    ),
    Feature("last", NUMBERS, "`channels_last`", "layout", arrange=ways.to_channels_last),
    Feature("gaps", NUMBERS, "strides with gaps", "layout", arrange=ways.to_every_other),
    Feature(
        "compile",
        CALLS,
        "`torch.compile(fullgraph=True)`",
        slow=True,
        outer=ways.compiled,
        blind=True,
        error=RuntimeError,
        apart={
            "double": Refused(
                RuntimeError,
                "does not currently support double backward",
                "torch compiles no second derivatives",
            ),
            "fwd": Refused(
                NotImplementedError, "jvp", "torch compiles no forward-mode derivatives"
            ),
        },
    ),
    Feature(
        "ckptre",
        CALLS,
        "`checkpoint(use_reentrant=True)`",
        "checkpoint",
        wrap=ways.checkpointed(reentrant=True),
        context=ways.to_the_end,
        apart={
            "double": Refused(
                RuntimeError,
                "incompatible with .grad",
                "torch recomputes a reentrant checkpoint for .backward() only",
            ),
            "fwd": Refused(
                NotImplementedError,
                "jvp",
                "torch has no forward mode through a reentrant checkpoint",
            ),
        },
    ),
    Feature(
        "ckpt",
        CALLS,
        "`checkpoint(use_reentrant=False)`",
        "checkpoint",
        wrap=ways.checkpointed(reentrant=False),
        context=ways.to_the_end,
    ),
    Feature(
        "recomp",
        CALLS,
        "within `recompute`",
        wrap=ways.recomputed,
        patch=ways.recompute_all,
    ),
    Feature("func", CALLS, "`torch.func.functional_call`", "core", core=ways.with_functional_call),
    Feature(
        "vmap",
        CALLS,
        "`torch.vmap` over an ensemble of two",
        "core",
        members=2,
        blind=True,
        core=ways.as_ensemble,
        vectorize=ways.vectorized,
        apart={
            "accum": Refused(
                RuntimeError, "vmap", "a layer has one pool, and an ensemble would need several"
            )
        },
    ),
    Feature("double", CALLS, "gradients of gradients", "derivative", derive=derivatives.second),
    Feature("fwd", CALLS, "forward-mode derivatives", "derivative", derive=derivatives.tangent),
    Feature("nograd", CALLS, "`torch.no_grad`", "derivative", derive=derivatives.nothing),
    Feature("infer", CALLS, "`torch.inference_mode`", "derivative", derive=derivatives.inference),
    Feature(
        "late",
        CALLS,
        "all forward passes before the first backward pass",
        insert=steps.add_evaluation,
        late=True,
        apart={
            **dict.fromkeys(
                ("fwd", "nograd", "infer"), Pointless("there is no backward pass to come late")
            )
        },
    ),
    Feature("bare", CALLS, "without the C++ kernels", patch=ways.take_no_library),
    Feature("large", CALLS, "the same, and the way of large tensors", patch=ways.take_large_route),
    Feature(
        "compo",
        CALLS,
        "the same, and the kernels of plain torch",
        patch=ways.take_composite_kernels,
    ),
    Feature("copy", LIFE, "`copy.deepcopy` after every step", between=ways.copied),
    Feature("pickle", LIFE, "`pickle` after every step", between=ways.pickled),
    Feature(
        "load",
        LIFE,
        "a state_dict saved, and loaded into a fresh layer, after every step",
        between=ways.reloaded,
        twin_between=Twin.load,
    ),
    Feature(
        "restore",
        LIFE,
        "its own state_dict loaded with `assign=True` after every step",
        between=ways.restored,
        twin_between=Twin.load,
    ),
    Feature(
        "reset",
        LIFE,
        "`reset_running_stats()` after every step",
        between=ways.reset,
        twin_between=Twin.reset,
    ),
    Feature(
        "lazy",
        LIFE,
        "a lazy layer",
        "build",
        build=ways.lazy,
        apart={
            "accum": Refused(
                SurgeryError,
                "call the model once",
                "a pool has as many channels as the layer, which is not known yet",
            ),
            **dict.fromkeys(
                ("func", "vmap", "fwd"),
                Pointless("its parameters do not exist before it is called"),
            ),
        },
    ),
    Feature(
        "meta",
        LIFE,
        'built on `device="meta"`, then `load_state_dict(assign=True)`',
        "build",
        build=ways.on_meta,
    ),
    Feature("plain", LIFE, "torch's own layer loads the state_dict at the end", plain=True),
    Feature("noupd", LIFE, "a step within `no_update`", fill=steps.quieten),
    Feature("accum", LIFE, "the first three batches within `accumulate`", pooled=True),
    Feature("eval", LIFE, "an evaluation between training steps", insert=steps.add_evaluation),
    Feature("evals", LIFE, "evaluation from the second step on", fill=steps.freeze),
    Feature(
        "fixed",
        LIFE,
        "statistics frozen by `bn.freeze` from the second step on",
        fill=steps.hold,
        apart={
            "notrack": Pointless("there are no running statistics to normalize by"),
            "evals": Pointless("freezing makes of training what evaluation is already"),
        },
    ),
)
