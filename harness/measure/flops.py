"""Multiply-adds of networks, counted by fvcore, with nothing skipped in silence.

Conventions, the same for every number of the project:

- One multiply-add is one MAC; GFLOPs are 2 × GMACs.
- Counted: convolutions, linear layers, matrix products and attention (both of its products, the whole matrix
  even where a mask hides part of it). Biases, norms, activations, softmax, resampling and every other
  operator of :data:`FREE_OPERATORS` are free: they cost a vanishing share and no two counters agree on them.
- Counts are whole numbers per image (batch 1).
- An operator that is neither counted nor on the list of free ones raises :class:`UnknownOperatorError`.
- Work whose result reaches no output is dropped by the tracer and not counted.

fvcore 0.1.5 skips attention, counts norms but not elementwise work, miscounts broadcast matrix products and
rounds the cost of most einsums. So its operator table is replaced by :data:`COUNTED_OPERATORS`, which keeps
only its exact entries.
"""

from __future__ import annotations

import contextlib
import dataclasses
import math
import warnings
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from fractions import Fraction
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils._pytree import tree_map
from torch.utils.flop_counter import FlopCounterMode

from harness.errors import HarnessError

with warnings.catch_warnings():
    warnings.simplefilter("ignore", FutureWarning)  # fvcore compiles functions with torch.jit.script on import
    warnings.simplefilter("ignore", DeprecationWarning)
    from fvcore.nn import FlopCountAnalysis
    from fvcore.nn.jit_handles import addmm_flop_jit, bmm_flop_jit, conv_flop_jit, get_shape, linear_flop_jit


class UnknownOperatorError(HarnessError):
    """A network uses an operator whose cost is not known, so its count would be wrong."""


def _shape(value: Any) -> list[int]:
    shape = get_shape(value)
    if shape is None:
        raise UnknownOperatorError(f"the tracer knows no shape of {value}: its cost cannot be counted")
    return list(shape)


def _matmul(inputs: list[Any], outputs: list[Any]) -> int:
    """Every output element takes as many multiply-adds as the contracted axis is long; broadcasting
    included."""
    return math.prod(_shape(outputs[0])) * _shape(inputs[0])[-1]


def _baddbmm(inputs: list[Any], outputs: list[Any]) -> int:
    return _matmul(inputs[1:3], outputs)


def _attention(inputs: list[Any], outputs: list[Any]) -> int:
    """Queries (…, L, E), keys (…, S, E), values (…, S, V): L·S·(E + V) per head."""
    *_, keys, width = _shape(inputs[1])
    *heads_and_queries, value_width = _shape(outputs[0])
    return math.prod(heads_and_queries) * keys * (width + value_width)


def einsum_macs(equation: str, shapes: Sequence[Sequence[int]]) -> int:
    """Multiply-adds of an einsum of at most two operands: the product of the sizes of all its indices.

    Of one operand it is a permutation or a sum, which is free. Raises :class:`UnknownOperatorError` for more
    operands (their order decides the cost) and for an ellipsis.
    """
    terms = equation.replace(" ", "").split("->")[0].split(",")
    if len(shapes) > 2 or "." in equation:
        raise UnknownOperatorError(
            f"einsum {equation!r} cannot be counted: write it with two operands at most and no ellipsis"
        )
    if len(shapes) == 1:
        return 0
    sizes: dict[str, int] = {}
    for term, shape in zip(terms, shapes, strict=True):
        for index, size in zip(term, shape, strict=True):
            sizes[index] = max(size, sizes.get(index, 1))
    return math.prod(sizes.values())


def _einsum(inputs: list[Any], outputs: list[Any]) -> int:
    return einsum_macs(inputs[0].toIValue(), [_shape(operand) for operand in inputs[1].node().inputs()])


COUNTED_OPERATORS: dict[str, Callable[[list[Any], list[Any]], Any]] = {
    "aten::_convolution": conv_flop_jit,
    "aten::addmm": addmm_flop_jit,
    "aten::baddbmm": _baddbmm,
    "aten::bmm": bmm_flop_jit,
    "aten::einsum": _einsum,
    "aten::linear": linear_flop_jit,
    "aten::matmul": _matmul,
    "aten::mm": _matmul,
    "aten::mv": _matmul,
    "aten::scaled_dot_product_attention": _attention,
}
"""Operators that cost multiply-adds, and how many."""

_ELEMENTWISE = """
    abs add add_ addcdiv addcmul atan2 clamp_max clamp_min cos cosh deg2rad div div_ erf exp exp2 exp_ expm1
    fmod frac lerp log log1p log2 logical_and logical_not logical_or logsigmoid log_sigmoid maximum minimum
    mul mul_ neg pow reciprocal round rsqrt rsub sigmoid sign sin sinh sqrt square sub sub_ tan tanh trunc
    where isfinite isinf isnan le lt ne ceil nan_to_num softplus
"""
_ACTIVATIONS = """
    celu elu gelu glu hardsigmoid hardswish hardtanh leaky_relu log_softmax mish relu6 selu silu silu_ softmax
"""
_NORMS = "batch_norm group_norm instance_norm layer_norm linalg_vector_norm norm rms_norm"
_REDUCTIONS = "all amax amin any argmax argmin cumsum logsumexp mean min prod std sum var"
_RESAMPLING = """
    adaptive_avg_pool2d avg_pool2d max_pool2d pad pixel_shuffle pixel_unshuffle reflection_pad2d
    replication_pad2d upsample_bilinear2d upsample_nearest2d _upsample_bilinear2d_aa upsample_bicubic2d
"""
_MEMORY = """
    alias broadcast_tensors clone concat embedding expand_as feature_dropout flip index_select
    lift_fresh masked_fill_ meshgrid movedim new_ones numpy_T one_hot ones_like repeat repeat_interleave
    reshape_as rot90 scalar_tensor scatter squeeze_ swapaxes tensor_split tile tril triu unflatten unfold_copy
    view_as bernoulli_ rand_like randn_like
"""
FREE_OPERATORS: frozenset[str] = frozenset(
    f"aten::{name}"
    for group in (_ELEMENTWISE, _ACTIVATIONS, _NORMS, _REDUCTIONS, _RESAMPLING, _MEMORY)
    for name in group.split()
)
"""Operators that are free by the convention above, beside fvcore's own list of shape and memory operators."""


@dataclasses.dataclass(frozen=True)
class MacCount:
    """Multiply-adds of one evaluation of a network on one image.

    `by_module` maps each module's name to its own cost with all it contains (the whole under ``""``);
    `by_operator` maps ``conv``, ``linear``, … to their cost.
    """

    macs: int
    by_module: Mapping[str, int]
    by_operator: Mapping[str, int]

    @property
    def gmacs(self) -> float:
        """10⁹ multiply-adds."""
        return self.macs / 1e9

    @property
    def gflops(self) -> float:
        """10⁹ floating point operations, two to a multiply-add."""
        return 2 * self.macs / 1e9


class _Call(nn.Module):
    """What fvcore wants to trace: a module of tensors alone, around any call of (a method of) `model`."""

    def __init__(self, function: Callable[..., Any], inputs: Sequence[Any], model: nn.Module | None) -> None:
        super().__init__()
        self.model = model
        self._function = function
        self._inputs = tree_map(lambda v: v.detach() if isinstance(v, Tensor) else v, tuple(inputs))

    def tensors(self) -> tuple[Tensor, ...]:
        return tuple(value for value in self._inputs if isinstance(value, Tensor))

    def forward(self, *tensors: Tensor) -> tuple[Tensor, ...]:
        given = iter(tensors)
        inputs = [next(given) if isinstance(value, Tensor) else value for value in self._inputs]
        # clones, for the tracer takes no output that is one of its constants (a state handed through)
        return tuple(tensor.clone() for tensor in _tensors_in(self._function(*inputs)))


def _tensors_in(value: Any) -> Iterator[Tensor]:
    """Every tensor inside nested tuples, lists, mappings and objects: each output must be seen by the
    tracer."""
    if isinstance(value, Tensor):
        yield value
    elif isinstance(value, Mapping):
        for item in value.values():
            yield from _tensors_in(item)
    elif isinstance(value, tuple | list):
        for item in value:
            yield from _tensors_in(item)
    elif dataclasses.is_dataclass(value) and not isinstance(value, type):
        for field in dataclasses.fields(value):
            yield from _tensors_in(getattr(value, field.name))


def _owner(function: Callable[..., Any]) -> nn.Module | None:
    if isinstance(function, nn.Module):
        return function
    owner = getattr(function, "__self__", None)
    return owner if isinstance(owner, nn.Module) else None


def count_macs(
    function: nn.Module | Callable[..., Any], inputs: Sequence[Any], *, model: nn.Module | None = None
) -> MacCount:
    """Multiply-adds of ``function(*inputs)``, broken down by module and by operator.

    `function` is a module, a method of one, or any function of tensors; then `model` names the module whose
    parts the breakdown should list. Inputs that are not tensors are handed on as they are. Runs the function
    once, in evaluation mode and without gradients; give inputs of batch 1 for a cost per image.

    Raises :class:`UnknownOperatorError` with the operator, the module that used it and what to do.
    """
    model = model if model is not None else _owner(function)
    call = _Call(function, inputs, model)
    analysis = FlopCountAnalysis(call, call.tensors()).clear_op_handles().set_op_handle(**COUNTED_OPERATORS)
    analysis.set_op_handle(**dict.fromkeys(FREE_OPERATORS))
    analysis.unsupported_ops_warnings(False).uncalled_modules_warnings(False).tracer_warnings("none")
    with _evaluation_mode(model), torch.no_grad():
        total = analysis.total()
    _raise_on_unknown(analysis, call)
    by_module = {"": total}
    for name, macs in analysis.by_module().items():
        if name.startswith("model.") and macs:
            by_module[name.removeprefix("model.")] = int(macs)
    by_operator = {name: int(macs) for name, macs in sorted(analysis.by_operator().items()) if macs}
    return MacCount(int(total), by_module, by_operator)


@contextlib.contextmanager
def _evaluation_mode(model: nn.Module | None) -> Iterator[None]:
    training = [module for module in model.modules() if module.training] if model is not None else []
    for module in training:
        module.training = False
    try:
        yield
    finally:
        for module in training:
            module.training = True


def _raise_on_unknown(analysis: FlopCountAnalysis, call: nn.Module) -> None:
    unknown = analysis.unsupported_ops()
    if not unknown:
        return
    uses = []
    for operator, times in sorted(unknown.items()):
        users = [name for name, _ in call.named_modules() if analysis.unsupported_ops(name)[operator]]
        innermost = max(users, key=lambda name: name.count(".") if name else -1)
        module = innermost.removeprefix("model").removeprefix(".") or "the network itself"
        uses.append(f"{operator} ({times}×, in {module})")
    raise UnknownOperatorError(
        f"the cost of {'; '.join(uses)} is not known. Choices: count it by a handler in COUNTED_OPERATORS, "
        "put it on FREE_OPERATORS if it does no multiply-adds, or write the network with one of "
        f"{', '.join(COUNTED_OPERATORS)}"
    )


def flop_counter_macs(
    function: nn.Module | Callable[..., Any], inputs: Sequence[Any], *, model: nn.Module | None = None
) -> int:
    """The same cost by torch's FlopCounterMode, halved: a second, independent count to hold
    :func:`count_macs` against."""
    return flop_counter_count(function, inputs, model=model).macs


def flop_counter_count(
    function: nn.Module | Callable[..., Any], inputs: Sequence[Any], *, model: nn.Module | None = None
) -> MacCount:
    """:func:`flop_counter_macs` with the share of each of the model's children; no other part of the breakdown.

    Attention is made of plain matrix products meanwhile, for FlopCounterMode gives 0 for the fused one on
    some devices and versions of torch.
    """
    model = model if model is not None else _owner(function)
    with (
        _evaluation_mode(model),
        torch.no_grad(),
        sdpa_kernel(SDPBackend.MATH),
        FlopCounterMode(display=False) as counter,
        _shares_of_children(model, counter.get_total_flops) as shares,
    ):
        function(*inputs)
    total = int(counter.get_total_flops()) // 2
    return MacCount(total, {"": total, **{name: flops // 2 for name, flops in shares.items() if flops}}, {})


@contextlib.contextmanager
def _shares_of_children(model: nn.Module | None, total: Callable[[], int]) -> Iterator[Counter[str]]:
    """How far `total` rises inside each child of `model`, whichever of the child's modules is called."""
    shares: Counter[str] = Counter()
    depths: Counter[str] = Counter()

    def enter(name: str) -> None:
        shares[name] -= total() if depths[name] == 0 else 0
        depths[name] += 1

    def leave(name: str) -> None:
        depths[name] -= 1
        shares[name] += total() if depths[name] == 0 else 0

    with contextlib.ExitStack() as hooks:
        for name, child in model.named_children() if model is not None else ():
            for module in child.modules():
                handles = (
                    module.register_forward_pre_hook(lambda *_, name=name: enter(name)),
                    module.register_forward_hook(lambda *_, name=name: leave(name)),
                )
                for handle in handles:
                    hooks.callback(handle.remove)
        yield shares


NetworkCall = tuple[Callable[..., Any], tuple[Any, ...]]


@dataclasses.dataclass(frozen=True)
class StepRuns:
    """What the two kinds of steps run, recorded while a model made them.

    Attributes:
        calls: of each network its first call, name → (function, inputs).
        refresh: names of the networks that a step runs which refreshes, in order.
        between: of a step that uses what the refresh has left.
        whole: a step that refreshes, as one call.
    """

    calls: dict[str, NetworkCall]
    refresh: tuple[str, ...]
    between: tuple[str, ...]
    whole: NetworkCall


def observe_steps(model: Any, image_shape: Sequence[int], classes: int = 0) -> StepRuns:
    """Run a refresh step of `model` and the one after it, on one blank image.

    Raises :class:`UnknownOperatorError` for a model that runs no network through the `run` it is given, or one that is
    not named among its `networks`.
    """
    device = next(model.parameters()).device
    z = torch.zeros(1, *image_shape, device=device)
    log_snr = torch.zeros(1, device=device)
    labels = torch.zeros(1, dtype=torch.int64, device=device) if classes else None
    calls: dict[str, NetworkCall] = {}
    names: list[str] = []

    def record(name: str, function: Callable[..., Any], *inputs: Any) -> Any:
        calls.setdefault(name, (function, inputs))
        names.append(name)
        return function(*inputs)

    with _evaluation_mode(model), torch.no_grad():
        _, state = model.step(z, log_snr, labels, None, record)
        at_refresh = len(names)
        model.step(z, log_snr, labels, state, record)
    if not calls:
        raise UnknownOperatorError(
            f"{type(model).__name__}: its step runs no network through `run`, so there is nothing to count"
        )
    unnamed = sorted(calls.keys() - set(model.networks))
    if unnamed:
        raise UnknownOperatorError(f"{type(model).__name__}: runs {unnamed[0]!r}, which is not among its networks")
    return StepRuns(
        calls, tuple(names[:at_refresh]), tuple(names[at_refresh:]), (model.step, (z, log_snr, labels, None))
    )


def network_calls(
    model: Any, image_shape: Sequence[int], classes: int = 0, *, training: bool = False
) -> dict[str, NetworkCall]:
    """Each network that a refresh and the step after it run, as a call on one blank image: name → (function, inputs).

    What is computed once per refresh, the projections of the context included, is part of the ``encoder``'s
    (or a cache's ``network``) evaluation. A single network's steps share what depends on the class alone,
    made at the first of them; it is left out of the evaluation, but part of it in `training`, where every
    step makes it.
    """
    seen = observe_steps(model, image_shape, classes)
    return dict.fromkeys(seen.calls, seen.whole) if training and len(seen.calls) == 1 else seen.calls


def network_costs(
    model: Any, image_shape: Sequence[int], classes: int = 0, *, training: bool = False
) -> dict[str, MacCount]:
    """Cost of each kind of evaluation of `model` per image.

    `image_shape` is (C, H, W); `classes` above 0 for a class-conditional model. The names are the model's
    own: ``network``; ``encoder`` and ``denoiser``; or, for a cached network, ``network`` and ``shallow``. See
    :func:`network_calls` for what each holds, and for `training`.
    """
    calls = network_calls(model, image_shape, classes, training=training)
    return {name: count_macs(function, inputs) for name, (function, inputs) in calls.items()}


def sampling_macs(costs: Mapping[str, MacCount], runs: Mapping[str, int]) -> int:
    """Multiply-adds to draw one image: each kind of evaluation's cost times how often it ran for the
    image."""
    return sum(costs[name].macs * times for name, times in runs.items())


def training_macs_per_step(
    costs: Mapping[str, MacCount],
    batch: int,
    *,
    runs: Mapping[str, int | Fraction] | None = None,
    recomputed: bool = False,
    frozen: Collection[str] = (),
    forward_runs: Mapping[str, int | Fraction] | None = None,
) -> int:
    """Multiply-adds of one training step over a global batch of `batch` images.

    By the usual convention the backward pass costs twice the forward pass, so a step is 3 × forward; 4 × where
    activations are recomputed (`recomputed`). `runs` says how often a step runs each network, once where it does not
    name it, a fraction where steps take turns; `forward_runs` how often it runs one beyond that without a gradient.
    `costs` are :func:`network_costs` with `training`.

    Networks that are `frozen` run forward only, at 1 ×, for nothing that is trained comes before them. What else their
    evaluation does is trained and costs what the trained does: of a frozen encoder's, the projections of its features,
    of the context and of its time. So dual-rate on a frozen encoder takes E + 3·P + 3·M·g per image: E for the encoder
    alone, P for those projections (E + P is the cost of the evaluation ``encoder``), g at each of M times.
    """
    runs, forward_runs = runs or {}, forward_runs or {}
    unknown = sorted({*runs, *forward_runs, *frozen} - costs.keys())
    if unknown:
        raise UnknownOperatorError(f"{unknown[0]}: a training step runs it, but no step of sampling that was counted")
    total = Fraction(0)
    for name, count in costs.items():
        alone = count.by_module.get(name, count.macs)  # the network without what else its evaluation does
        forward = sum(count.by_module.get(part, 0) for part in frozen) or (alone if name in frozen else 0)
        trained = (4 if recomputed else 3) * (count.macs - forward)
        total += runs.get(name, 1) * (forward + trained) + forward_runs.get(name, 0) * alone
    return round(total * batch)


def parameter_counts(model: nn.Module, by_network: Mapping[str, Iterable[nn.Parameter]]) -> dict[str, int]:
    """Parameters of each network. Raises ValueError unless each of `model`'s belongs to one of them."""
    owned = {name: list(parameters) for name, parameters in by_network.items()}
    counts = {name: sum(parameter.numel() for parameter in parameters) for name, parameters in owned.items()}
    given = [id(parameter) for parameters in owned.values() for parameter in parameters]
    if sorted(given) != sorted(id(parameter) for parameter in model.parameters()):
        raise ValueError(f"{type(model).__name__}: its networks do not divide its parameters: {counts}")
    return counts
