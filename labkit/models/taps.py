"""A tap reads the output of a named part of any network, so that a loss can be put on it in anyone's training loop.

    tap = labkit.tap(unet, "mid_block")
    ...
    prediction = unet(x_t, t).sample
    loss = mse(prediction, target) + 0.5 * labkit.dispersive_loss(tap.features, tau=0.5)

It is a forward hook that turns the traps of forward hooks into errors. Beyond that:

torch.compile    Set the tap before the compiled model first runs. Compiled code does not notice a change in place or an
                 old graph, and with fullgraph=True it allows no tap inside a checkpoint.
checkpointing    Works with use_reentrant=False, on the tapped part, around it or inside it. The reentrant kind computes
                 all that is inside it without gradients; ``features`` refuses those.
copies           A copy of a tapped model (copy.deepcopy, pickle) is not tapped. ``state_dict`` does not hold taps.
many devices     DistributedDataParallel works; nn.DataParallel runs replicas, which a tap does not see.
"""

import difflib
from collections.abc import Callable, Mapping
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from labkit.checks import LabError, require


class TapError(LabError, RuntimeError):
    """Features that are not there, or on which a loss would not do what it should."""


def tap(module: nn.Module, name: str) -> "Tap":
    """Tap the part of ``module`` that ``module.named_modules()`` calls ``name``; '' is ``module`` itself.

    Each call sets one more tap.

    Raises:
        ConfigError: a name that the module does not have, or that of a mere list of modules, which never runs.
    """
    parts = dict(module.named_modules(remove_duplicate=False))
    near = difflib.get_close_matches(str(name), parts, n=3, cutoff=0)
    require(name in parts, "name", name, f"{type(module).__name__} has no such part; the closest are {near}")
    part = parts[name]
    runs = getattr(part.forward, "__func__", None) is not nn.Module.forward
    inside = [f"{name}.{child}".lstrip(".") for child, _ in part.named_children()]
    require(runs, "name", name, f"a {type(part).__name__} never runs; tap one of the parts inside it, {inside}")
    return Tap(module, part, name)


class Tap:
    """The features of a part's latest forward, until ``remove()`` or the end of a ``with`` block; see ``tap``."""

    # A copy of a tap has none of its state, and reads nothing.
    _module: nn.Module | None = None
    _part: nn.Module | None = None
    _features: Tensor | None = None
    _missing = "is not tapped in this copy; call labkit.tap on the copied model"

    def __init__(self, module: nn.Module, part: nn.Module, name: str) -> None:
        self._module, self._part, self._name = module, part, name
        self._missing = (
            "has not run since it was tapped; call the model, unless its forward skips this part, it was compiled "
            "before the tap was set, or nn.DataParallel runs replicas of it"
        )
        self._handle = part.register_forward_hook(self._record)

    @property
    def features(self) -> Float[Tensor, "..."]:
        """The output of the part's latest run: that very tensor, (B, …) in most models, with its graph.

        From a tuple, a list or a dictionary, as diffusers and transformers return, it is the first floating-point
        tensor. Features serve one backward; after it they can only be measured, so that features of old weights cannot
        slip into the next step.

        Raises:
            TapError: the part has not run, its output has no floating-point tensor, or it is no longer tapped; its
                output was changed in place later on; or, except under ``torch.no_grad()``: backward has already passed
                through the features, or the model trains but the features carry no gradient.
        """
        if self._features is None or self._module is None:
            raise self._error(self._missing)
        if self._version is not None and self._features._version != self._version:
            raise self._error(
                "has an output that was changed in place later on; turn that off, as in nn.ReLU(inplace=True), or tap "
                "the part that does it"
            )
        if torch.is_grad_enabled():
            if self._passed:
                raise self._error(
                    "has not run since backward passed through its features; run the model again, or measure the old "
                    "ones under torch.no_grad()"
                )
            if not self._features.requires_grad and any(p.requires_grad for p in self._module.parameters()):
                raise self._error(
                    "has features without a gradient, so that a loss on them would train nothing: it ran under "
                    "torch.no_grad(), inference_mode() or a reentrant checkpoint, or all that leads to it is frozen or "
                    "detached; run it with gradients, tap a part that is trained, or measure under torch.no_grad()"
                )
        return self._features

    def remove(self) -> None:
        """Remove the hook and release the features; a second call does nothing."""
        if self._part is not None:
            self._handle.remove()
            self._module = self._part = self._features = None
            self._missing = "is no longer tapped; call labkit.tap again"

    def __enter__(self) -> "Tap":
        return self

    def __exit__(self, *_: object) -> None:
        self.remove()

    def __getstate__(self) -> dict[str, str]:
        # A copied model brings copies of its hooks. Those must not write into this tap, nor copy its tensor with its
        # graph (torch refuses to) or, along with one part, the whole model.
        return {"_name": self._name}

    def _record(self, module: nn.Module, args: Any, output: Any) -> None:
        if module is not self._part:  # a shallow copy shares the hooks of the original
            return
        compiling = torch.compiler.is_compiling()
        if not compiling and torch._C._current_graph_task_id() != -1:
            return  # a checkpoint runs its part again inside backward, cut off from the graph before it
        self._features = z = _first_float(output)
        self._missing = f"has no floating-point tensor in its output, a {type(output).__name__}; tap a part inside it"
        self._version, self._passed = None, []
        if z is not None and not compiling:
            self._version = None if z.is_inference() else z._version
            if z.grad_fn is not None:
                z.register_hook(_append_backward(self._passed))

    def _error(self, fault: str) -> TapError:
        return TapError(f"{self._name!r} {fault}." if self._name else f"The tapped module {fault}.")


def _first_float(output: Any) -> Tensor | None:
    if isinstance(output, Tensor):
        return output if output.is_floating_point() else None
    parts = output.values() if isinstance(output, Mapping) else output if isinstance(output, (tuple, list)) else ()
    return next((z for part in parts if (z := _first_float(part)) is not None), None)


def _append_backward(passed: list[bool]) -> Callable[[Tensor], None]:
    """A tensor hook that records a backward, except one with create_graph, which is a part of computing a loss."""
    # It refers to the list of one run, not to the tap: else tap and model would form a reference cycle.
    return lambda _: None if torch.is_grad_enabled() else passed.append(True)
