"""Every test runs on one thread, from the same random state, with the shapes in labkit's annotations checked.

The checker acts on labkit as the tests import it; a process that a test starts is the lab as a reader has it.
"""

import jaxtyping
import pytest
import torch
from hypothesis import settings

# The tower lets an int stand where a float is asked for, as readers write tau=1.
jaxtyping.install_import_hook("labkit", "beartype.beartype(conf=beartype.BeartypeConf(is_pep484_tower=True))")
torch.set_num_threads(1)
settings.register_profile("labkit", deadline=None, derandomize=True, max_examples=50)
settings.load_profile("labkit")


@pytest.fixture(autouse=True)
def same_random_state():
    torch.manual_seed(0)


@pytest.fixture
def unchecked():
    """No checker: what a reader meets who hands in something of the wrong type or shape."""
    jaxtyping.config.update("jaxtyping_disable", True)
    yield
    jaxtyping.config.update("jaxtyping_disable", False)


@pytest.fixture
def open_gates():
    """Give each parameter that starts at zero a small random value: all blocks act, all gradients flow."""

    def randomise(module: torch.nn.Module, std: float = 0.1) -> torch.nn.Module:
        with torch.no_grad():
            for parameter in module.parameters():
                if not parameter.any():
                    parameter.normal_(std=std)
        return module

    return randomise
