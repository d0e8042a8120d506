"""A tap reads what a named part of any network gives out, so that a loss can be put on it in anyone's training loop.

    tap = labkit.tap(unet, "mid_block")
    ...
    prediction = unet(x_t, t).sample
    loss = mse(prediction, target) + 0.5 * labkit.dispersive_loss(tap.features, tau=0.5)

It is a forward hook, with the traps of forward hooks turned into errors. What to know beyond that:

torch.compile    Set the tap before the compiled model first runs. Compiled code does not notice a change in place or an
                 old graph, and with fullgraph=True it allows no tap inside a checkpoint.
checkpointing    Works with use_reentrant=False, on the tapped part, around it or inside it. The reentrant kind computes
                 all that is inside it without gradients; ``features`` refuses those.
copies           A copy of a tapped model (copy.deepcopy, pickle) is not tapped. ``state_dict`` knows nothing of taps.
many devices     DistributedDataParallel works; nn.DataParallel runs replicas, which a tap does not hear.
"""

import difflib
from collections.abc import Callable, Mapping
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from labkit.checks import require
from labkit.types import LabError


class TapError(LabError, RuntimeError):
    """Features that cannot be had, or on which a loss would not do what it is meant to do."""


def tap(module: nn.Module, name: str) -> "Tap":
    """Listen to the part of ``module`` that ``module.named_modules()`` calls ``name``.

    Each call sets one tap; set as many as you like. The empty name is ``module`` itself, as everywhere in torch.

    Raises:
        ConfigError: a name that the module does not have, or that of a mere list of modules, which never runs.
    """
    parts = dict(module.named_modules(remove_duplicate=False))
    near = difflib.get_close_matches(str(name), parts, n=3, cutoff=0)
    require(name in parts, "name", name, f"{type(module).__name__} has no such part; the closest are {near}")
    part = parts[name]
    runs = getattr(part.forward, "__func__", None) is not nn.Module.forward
    held = [f"{name}.{n}".lstrip(".") for n, _ in part.named_children()]
    require(runs, "name", name, f"a {type(part).__name__} never runs; tap one of the parts that it holds, {held}")
    return Tap(module, part, name)


class Tap:
    """What ``tap`` returns: the features of the latest forward, until ``remove()`` or the end of a ``with`` block."""

    # A tap without a state of its own, as a copy is, hears nothing.
    _module: nn.Module | None = None
    _part: nn.Module | None = None
    _features: Tensor | None = None
    _missing = "is not tapped in this copy; call labkit.tap on the copied model"

    def __init__(self, module: nn.Module, part: nn.Module, name: str) -> None:
        self._module, self._part, self._name = module, part, name
        self._missing = (
            "has not run since it was tapped; call the model, unless its forward passes this part by, it was compiled "
            "before the tap was set, or nn.DataParallel runs replicas of it"
        )
        self._handle = part.register_forward_hook(self._hear)

    @property
    def features(self) -> Float[Tensor, "..."]:
        """What the part gave out when it last ran: that very tensor, (B, …) in most models, with its graph.

        Of a tuple, a list or a dictionary (diffusers and transformers return such ones) it is the first floating-point
        tensor. A part that runs several times in a forward is heard the last time. Features serve one backward; after
        it they can only be measured, so that features of old weights cannot slip into the next step.

        Raises:
            TapError: the part has not run, gave out no floating-point tensor, or is no longer tapped; its features were
                changed in place later on; or, unless read under ``torch.no_grad()`` as for a meter: backward has passed
                through them already, or the model trains but the features carry no gradient.
        """
        if self._features is None:
            raise self._error(self._missing)
        if self._version is not None and self._features._version != self._version:
            raise self._error(
                "gave out features that were changed in place later on; turn that off, as in nn.ReLU(inplace=True), "
                "or tap the part that does it"
            )
        if torch.is_grad_enabled():
            if self._passed:
                raise self._error(
                    "has not run since backward passed through its features; run the model again, or measure the old "
                    "ones under torch.no_grad()"
                )
            if not self._features.requires_grad and any(p.requires_grad for p in self._module.parameters()):
                raise self._error(
                    "gave out features without a gradient, so that a loss on them would train nothing: it ran under "
                    "torch.no_grad(), inference_mode() or a reentrant checkpoint, or all that leads to it is frozen or "
                    "detached; run it with gradients, tap a part that is trained, or measure under torch.no_grad()"
                )
        return self._features

    def remove(self) -> None:
        """Stop listening and let go of the features; a second call does nothing."""
        if self._part is not None:
            self._handle.remove()
            self._module = self._part = self._features = None
            self._missing = "is no longer tapped; call labkit.tap again"

    def __enter__(self) -> "Tap":
        return self

    def __exit__(self, *_: object) -> None:
        self.remove()

    def __getstate__(self) -> dict[str, str]:
        # A copied model brings copies of its hooks, which may neither write into this tap, nor copy a tensor with its
        # graph (torch refuses to) or, along with a mere part, the whole model.
        return {"_name": self._name}

    def _hear(self, module: nn.Module, args: Any, output: Any) -> None:
        if module is not self._part:  # a shallow copy shares the hooks of the original
            return
        compiling = torch.compiler.is_compiling()
        if not compiling and torch._C._current_graph_task_id() != -1:
            return  # a checkpoint runs its part again inside backward, cut off from what came before
        self._features = z = _first_float(output)
        self._missing = f"gave out no floating-point tensor but a {type(output).__name__}; tap a part inside it"
        self._version, self._passed = None, []
        if z is not None and not compiling:
            self._version = None if z.is_inference() else z._version
            if z.grad_fn is not None:
                z.register_hook(_note(self._passed))

    def _error(self, what: str) -> TapError:
        return TapError(f"{self._name!r} {what}." if self._name else f"The tapped module {what}.")


def _first_float(output: Any) -> Tensor | None:
    if isinstance(output, Tensor):
        return output if output.is_floating_point() else None
    parts = output.values() if isinstance(output, Mapping) else output if isinstance(output, (tuple, list)) else ()
    return next((z for part in parts if (z := _first_float(part)) is not None), None)


def _note(passed: list[bool]) -> Callable[[Tensor], None]:
    """A tensor hook that notes a backward; not one with create_graph, which is a part of computing a loss."""
    # It knows the list of one run, not the tap: that would hold tap and model in a circle that is never collected.
    return lambda _: None if torch.is_grad_enabled() else passed.append(True)
