"""A config reads back to its equal, and refuses every bad value by field, value and remedy."""

import dataclasses
import json
import math
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from labkit.checks import ConfigError
from labkit.config import Config, Optimizer
from labkit.regularizers import Dispersive

pytestmark = pytest.mark.usefixtures("unchecked")  # a reader's wrong types meet our sentences, not a type checker

COUNT = st.integers(1, 10**9)
SHARE = st.floats(0, 1, exclude_max=True)
SIZE = st.floats(0, 1e300)
POSITIVE = st.floats(0, 1e300, exclude_min=True)
DISPERSIVE = {
    "lam": st.none() | SIZE | st.integers(0, 9),
    "tau": POSITIVE,
    "variant": st.just("infonce_l2"),
    "blocks": st.none() | st.lists(st.integers(0, 99), min_size=1, unique=True).map(tuple),
}
OPTIMIZER = {"lr": POSITIVE, "betas": st.tuples(SHARE, SHARE), "weight_decay": SIZE}
CONFIG = {
    "dataset": st.just("digits"),
    "model": st.text(),
    "dispersive": st.builds(Dispersive, **DISPERSIVE),
    "optimizer": st.builds(Optimizer, **OPTIMIZER),
    "batch_size": st.integers(2, 10**6),
    "steps": COUNT,
    "seed": st.integers(0, 2**63 - 1),
    "label_drop": SHARE,
    "ema_decay": SHARE,
    "log_every": COUNT,
    "save_every": COUNT,
    "keep_last": COUNT,
}
GROUPS = {"dispersive": (Dispersive, DISPERSIVE), "optimizer": (Optimizer, OPTIMIZER)}


def names(kind: type) -> set[str]:
    return {f.name for f in dataclasses.fields(kind)}


def test_every_field_is_drawn_below():
    for kind, drawn in [(Config, CONFIG), *GROUPS.values()]:
        assert drawn.keys() == names(kind)


@given(st.builds(Config, **CONFIG))
def test_json_round_trip(config):
    again = Config.from_json(config.to_json())
    assert again == config
    assert again.to_json() == config.to_json()
    assert config.differences(again) == []


def test_a_list_from_json_becomes_a_tuple_again():
    config = Config().replace(blocks=[2, 1])
    assert config == Config().replace(blocks=(2, 1))
    assert hash(Config.from_json(config.to_json())) == hash(config)


INF, NAN = math.inf, math.nan
COUNTS = [0, -1, 2.5, True, "9", None, NAN]
SHARES = [1, 1.5, -0.1, NAN, INF, "0.5", None, True]
BAD = {
    "dispersive.lam": [-0.5, -1e-300, NAN, INF, "0.5", True],
    "dispersive.tau": [0, 0.0, -0.5, NAN, INF, "0.5", None, True],
    "dispersive.variant": ["infonce_l3", "", None, 2, ["infonce_l2"]],
    "dispersive.blocks": [(), [], (-1,), (0, 0), (1.0,), ("1",), (True,), "12", "1", -1, 0.5],
    "optimizer.lr": [0, 0.0, -1e-3, NAN, INF, "1e-3", None, True],
    "optimizer.betas": [(0.9,), (0.9, 0.95, 0.99), (1, 0.9), (0.9, 1.0), (-0.1, 0.9), (0.9, NAN), 0.9, None, "ab"],
    "optimizer.weight_decay": [-0.1, NAN, INF, "0", None],
    "dataset": ["mnist", "", None, 3],
    "model": [None, 3],
    "dispersive": [None, 0.5, {"lam": 0.5}, Dispersive],
    "optimizer": [None, 1e-3, "adam"],
    "batch_size": [1, 0, -8, 8.0, True, "8", None, NAN],
    "steps": COUNTS,
    "seed": [-1, 0.0, 2**63, "0", None, True],
    "label_drop": SHARES,
    "ema_decay": SHARES,
    "log_every": COUNTS,
    "save_every": COUNTS,
    "keep_last": COUNTS,
}


def test_every_field_has_bad_values():
    nested = {f"{group}.{name}" for group, (_, drawn) in GROUPS.items() for name in drawn}
    assert BAD.keys() == names(Config) | nested


def changed(name: str, value) -> Config:
    group, _, inner = name.rpartition(".")
    if not group:
        return dataclasses.replace(Config(), **{name: value})
    kind, _ = GROUPS[group]
    return Config(**{group: kind(**{inner: value})})


@pytest.mark.parametrize(("name", "value"), [(name, value) for name, values in BAD.items() for value in values])
def test_a_bad_value_is_refused_by_name_and_value(name, value):
    with pytest.raises(ConfigError) as error:
        changed(name, value)
    told = str(error.value)
    shown = repr(tuple(value)) if isinstance(value, list) and name.endswith("blocks") else repr(value)
    if name in ("dispersive.blocks", "optimizer.betas") and not isinstance(value, (tuple, list)):
        shown = repr((value,))
    assert told.startswith(f"{name} = {shown} cannot be used: ")
    remedy = told.split("cannot be used: ")[1]
    assert len(remedy) > 10
    assert remedy.endswith(".")


@pytest.mark.parametrize("name", [n for n in BAD if n not in ("dispersive", "optimizer")])
def test_a_bad_value_in_a_file_is_refused_too(name):
    for value in BAD[name]:
        if value is None and name == "dispersive.lam":
            continue
        values = json.loads(Config().to_json())
        *group, field = name.split(".")
        (values[group[0]] if group else values)[field] = value
        with pytest.raises(ConfigError, match=re.escape(name)):
            Config.from_json(json.dumps(values))


@pytest.mark.parametrize("group", ["", "dispersive", "optimizer"])
def test_unknown_and_missing_fields_are_refused_by_name(group):
    whole = json.loads(Config().to_json())
    for name in whole[group] if group else whole:
        values = json.loads(Config().to_json())
        del (values[group] if group else values)[name]
        with pytest.raises(ConfigError, match=rf"^{re.escape(f'{group}.{name}'.lstrip('.'))} is missing"):
            Config.from_json(json.dumps(values))
    (whole[group] if group else whole)["momentum"] = 0.9
    with pytest.raises(ConfigError, match=rf"^{f'{group}.momentum'.lstrip('.')} is not a setting of this version"):
        Config.from_json(json.dumps(whole))


@pytest.mark.parametrize("text", ["", "{", "no", '{"steps": 1', "[]", "3", "null", '"digits"'])
def test_text_that_is_no_config(text):
    with pytest.raises(ConfigError, match=r"not valid JSON|a group of settings is expected"):
        Config.from_json(text)


@pytest.mark.parametrize("group", ["dispersive", "optimizer"])
def test_a_group_that_is_none(group):
    values = json.loads(Config().to_json()) | {group: None}
    with pytest.raises(ConfigError, match=f"^{group} = None"):
        Config.from_json(json.dumps(values))


def test_frozen():
    for held, name in [(Config(), "steps"), (Dispersive(), "lam"), (Optimizer(), "lr")]:
        with pytest.raises(dataclasses.FrozenInstanceError):
            setattr(held, name, 1)


def test_off_and_zero_are_different_settings():
    assert Config().dispersive.lam is None
    assert Config().differences(Config().replace(lam=0)) == ["dispersive.lam: None → 0"]
    assert Config().replace(lam=1) == Config().replace(lam=1.0)


def test_replace_reaches_into_the_dispersive_loss():
    config = Config(seed=4).replace(lam=0.25, tau=2.0, blocks=(0, 3), steps=9)
    assert config == Config(seed=4, steps=9, dispersive=Dispersive(0.25, 2.0, "infonce_l2", (0, 3)))
    assert config.replace(tau=1.0).dispersive == Dispersive(0.25, 1.0, "infonce_l2", (0, 3))
    assert config.replace(dispersive=Dispersive(tau=3.0), lam=1.0).dispersive == Dispersive(1.0, 3.0)
    with pytest.raises(ConfigError, match=r"dispersive\.lam = -1"):
        config.replace(lam=-1)
    with pytest.raises(TypeError, match="lambda_"):
        config.replace(lambda_=1)


def test_one_block_may_be_given_as_a_number():
    assert Dispersive(blocks=2) == Dispersive(blocks=(2,)) == Dispersive(blocks=[2]) == Dispersive(blocks=range(2, 3))


@given(st.builds(Config, **CONFIG), st.data())
def test_differences_name_exactly_the_changed_fields(config, data):
    fields = {**CONFIG, **{f"{group}.{n}": s for group, (_, d) in GROUPS.items() for n, s in d.items()}}
    name = data.draw(st.sampled_from(sorted(fields.keys() - GROUPS.keys())))
    value = data.draw(fields[name])
    *group, field = name.split(".")
    inner = {group[0]: dataclasses.replace(getattr(config, group[0]), **{field: value})} if group else {field: value}
    other = dataclasses.replace(config, **inner)
    old = getattr(getattr(config, group[0]) if group else config, field)
    assert config.differences(other) == ([] if old == value else [f"{name}: {old!r} → {value!r}"])
