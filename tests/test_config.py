"""A config reads back to its equal, and refuses every bad value by field, value and remedy."""

import dataclasses
import json
import math
import re
from operator import attrgetter
from typing import Any, get_args

import pytest

from labkit.checks import ConfigError
from labkit.config import FREE, LATER, Config
from labkit.losses import Contrastive, Dispersive, MeanFlow, Repa, warm_up
from labkit.losses.dispersive import KNOBS
from labkit.paths import Flow

pytestmark = pytest.mark.usefixtures("unchecked")  # wrong types must meet our messages, not a type checker

GROUPS = {field.name: field.type for field in dataclasses.fields(Config) if dataclasses.is_dataclass(field.type)}
FIELDS = {f"{group}.{field.name}": field.type for group, kind in GROUPS.items() for field in dataclasses.fields(kind)}
FIELDS |= {field.name: field.type for field in dataclasses.fields(Config) if field.name not in GROUPS}


def words_of(kind) -> set[str]:
    """The strings of a Literal, wherever it stands in a type."""
    return {part for part in get_args(kind) if isinstance(part, str)}.union(*map(words_of, get_args(kind)))


# Values of every kind, of which each field takes some.
POOL = [None, True, False, 0, 1, 2, 4, 96, 0.25, 0.5, 1.5, 2**62, 1e-300, 1e300, 1 / 3, -0.5]
POOL += [(), (0, 3), (0.5, 1 / 3), (0.9, 0.95), (0.25, 1.0), ((0, 0.1), (9, 1.0)), ((6, 1.0), (7, 0.0))]
POOL += ["naïve “text”", "SiT-B/2", "DiT-Nano/8", "MeanFlow-XL/4"]
POOL += sorted(set().union(*map(words_of, FIELDS.values())))
BESIDE = {  # settings without which a field has no meaning
    **{f"{group}.margin": {f"{group}.variant": "hinge"} for group in ("dispersive", "contrastive")},
    **{name: {"model": "MeanFlow-B/2"} for name in FIELDS if name.startswith("meanflow.")},
    "flow.weighting": {"flow.prediction": "noise"},
}


def made_of(values: dict[str, Any]) -> Config:
    """A config with some fields set, by their dotted names."""
    nested: dict[str, dict[str, Any]] = {}
    for name, value in values.items():
        group, _, inner = name.rpartition(".")
        nested.setdefault(group, {})[inner] = value
    plain = nested.pop("", {})
    return Config(**plain, **{group: GROUPS[group](**settings) for group, settings in nested.items()})


def refusal(name: str, value: Any) -> str | None:
    """A config's message about a value; None if it takes it."""
    try:
        made_of(BESIDE.get(name, {}) | {name: value}) if name in FIELDS else Config(**{name: value})
    except ConfigError as error:
        return str(error)
    return None


@pytest.mark.parametrize("name", FIELDS)
def test_every_field_takes_values_that_come_back_from_json_and_is_named_where_two_differ(name):
    configs = [made_of(BESIDE.get(name, {}) | {name: value}) for value in POOL if refusal(name, value) is None]
    for config in configs:
        again = Config.from_json(config.to_json())
        assert again == config and hash(again) == hash(config)  # lists of the file have become tuples again
        assert again.to_json() == config.to_json() and config.differences(again) == []
    one, other = configs[:2]
    shown = [repr(attrgetter(name)(config)) for config in (one, other)]
    assert one != other and one.differences(other) == [f"{name}: {' → '.join(shown)}"]
    assert (one.breaks(other) == []) == (name in FREE)


INF, NAN = math.inf, math.nan
COUNTS = [0, -1, 2.5, True, "9", None, NAN]
SHARES = [1, 1.5, -0.1, NAN, INF, "0.5", None, True]
WEIGHTS = [-0.5, -1e-300, NAN, INF, "0.5", True]
SCHEDULES = [9, None, "ab", (1, 2), ((1,),), ((-1, 1),), ((0.5, 1),), ((True, 1),), ((0, -1),), ((0, NAN),)]
SCHEDULES += [((3, 1), (3, 0))]
KNOB_SIZES = [0, 0.0, -0.5, NAN, INF, "0.5", True]
SHARED = {  # settings of Dispersive that Contrastive has, too
    "lam": WEIGHTS,
    "tau": KNOB_SIZES,
    "margin": KNOB_SIZES,
    "include_self": [0, 1, "yes", 1.0],
    "variant": ["infonce_l3", "", None, 2],
    "blocks": [(), [], (-1,), (0, 0), (1.0,), ("1",), (True,), "12", "1", "ALL", ("all",), -1, 0.5],
    "reduce": ["max", "", None, 1],
    "negatives": ["ranks", "", None, 2],
    "chunk": [1, 0, -4, 2.0, True, "4", NAN],
    "bank": [0, -1, 2.0, True, "4", None],
    "schedule": SCHEDULES,
}
BAD = {
    **{f"{group}.{name}": values for group in ("dispersive", "contrastive") for name, values in SHARED.items()},
    "contrastive.alignment_weight": [-0.5, -1e-300, NAN, INF, "0.5", None, True],
    "contrastive.form": ["two-view", "", None, 1],
    "contrastive.noise": ["same", "", None, 0.1],
    "contrastive.max_gap": [-0.1, 1.0001, 2, NAN, INF, "0.1", None, True],
    "repa.lam": WEIGHTS,
    "repa.block": [-1, 1.0, True, "7", (7,), NAN],
    "repa.teacher": ["", None, 3],
    "repa.antialias": [0, "yes", None],
    "repa.hidden": COUNTS,
    "repa.schedule": SCHEDULES,
    "optimizer.lr": [0, 0.0, -1e-3, NAN, INF, "1e-3", None, True],
    "optimizer.betas": [(0.9,), (0.9, 0.95, 0.99), (1, 0.9), (0.9, 1.0), (-0.1, 0.9), (0.9, NAN), 0.9, None, "ab"],
    "optimizer.weight_decay": [-0.1, NAN, INF, "0", None],
    "flow.path": ["cubic", "", None, 1],
    "flow.prediction": ["data", "", None, 1],
    "flow.weighting": ["sigma", "", None, 1],
    "meanflow.share": [0, 1.1, -0.5, NAN, None, True, "1"],
    "meanflow.mean": [NAN, INF, None, "0"],
    "meanflow.deviation": [0.0, -1, NAN, INF, None],
    "meanflow.power": [-0.1, NAN, INF, None],
    "meanflow.constant": [0, -1, NAN, INF, None],
    "meanflow.guidance": [0, -1, NAN, INF, None],
    "meanflow.mixing": [1, -0.1, 1.5, NAN, None],
    "meanflow.guidance_interval": [(0.5,), (0.6, 0.4), (0.5, 0.5), (-0.1, 1.0), (0.0, 1.5), (0.0, NAN), None],
    "flow": [None, "linear", {"path": "gvp"}, MeanFlow()],
    "meanflow": [None, 0.25, {"share": 0.5}, Flow()],
    "dataset": ["", None, 3],
    "model": [None, 3, "", "UNet", "SiT-B", "sit-B/2", "SiT-B/0", "DiT-M/2"],
    "dispersive": [None, 0.5, {"lam": 0.5}, Dispersive, Contrastive(lam=0.5)],
    "contrastive": [None, 0.5, {"lam": 0.5}, Contrastive, Dispersive(lam=0.5)],
    "repa": [None, 0.5, "digits", Repa],
    "optimizer": [None, 1e-3, "adam"],
    "engine": [None, "bfloat16", {"compile": True}],
    "engine.precision": ["bf16", "", None, 16],
    "engine.compile": [1, "yes", None],
    "engine.accumulate": COUNTS,
    "engine.checkpointing": [0, "no", None],
    "engine.clip": [0, -1.0, NAN, INF, "1", True],
    "engine.resident": [1, "yes", None],
    "batch_size": [1, 0, -8, 8.0, True, "8", None, NAN],
    "flips": [0, "yes", None],
    "seed": [-1, 0.0, 2**63, "0", None, True],
    "embedding_scale": [0, -1.0, NAN, INF, "1", None, True],
    **dict.fromkeys(("label_drop", "ema_decay"), SHARES),
    **dict.fromkeys(("steps", "log_every", "save_every", "keep_last"), COUNTS),
    "keep_every": [0, -1, 2.5, True, "9", NAN],
}


def test_every_field_has_bad_values():
    assert BAD.keys() == FIELDS.keys() | GROUPS


def test_every_bad_value_is_refused_by_name_and_value_with_a_remedy():
    for name, value in ((name, value) for name, values in BAD.items() for value in values):
        shown = repr(tuple(value)) if isinstance(value, list) and name.endswith("blocks") else repr(value)
        if name.endswith(("blocks", "betas")) and not isinstance(value, (tuple, list)):
            shown = repr((value,))
        message = refusal(name, value)
        assert message is not None, f"{name} = {value!r} is taken"
        assert re.fullmatch(rf"{re.escape(f'{name} = {shown} cannot be used: ')}.{{10,}}\.", message, re.S), message


SENSELESS = [  # group, its settings, the field that is named
    ("dispersive", {"variant": "hinge", "tau": 0.5}, "tau"),
    ("dispersive", {"variant": "covariance", "tau": 0.5}, "tau"),
    ("dispersive", {"margin": 1.0}, "margin"),
    ("dispersive", {"variant": "infonce_cosine", "margin": 1.0}, "margin"),
    ("dispersive", {"variant": "covariance", "margin": 1.0}, "margin"),
    ("dispersive", {"variant": "covariance", "include_self": False}, "include_self"),
    ("dispersive", {"chunk": 4, "negatives": "global"}, "chunk"),
    ("dispersive", {"chunk": 5}, "chunk"),  # it has to divide the batch
    ("dispersive", {"chunk": 256}, "chunk"),
    ("dispersive", {"variant": "covariance", "chunk": 2}, "chunk"),
    ("dispersive", {"negatives": "bank", "chunk": 4}, "chunk"),
    ("dispersive", {"variant": "covariance", "negatives": "bank"}, "negatives"),
    ("contrastive", {"variant": "hinge", "tau": 0.5}, "tau"),
    ("contrastive", {"chunk": 5}, "chunk"),
    ("contrastive", {"form": "original", "variant": "hinge"}, "form"),
    ("contrastive", {"form": "original", "alignment_weight": 0}, "alignment_weight"),
    ("contrastive", {"form": "original", "include_self": False}, "include_self"),
    ("flow", {"weighting": "velocity"}, "weighting"),  # the error of a velocity has none
    ("meanflow", {"share": 0.5}, "share"),  # the default model is a SiT
]


@pytest.mark.parametrize(("group", "settings", "name"), SENSELESS)
def test_what_makes_no_sense_together_is_refused(group, settings, name):
    settings, kind = dict(settings), GROUPS[group]
    with pytest.raises(ConfigError, match=rf"^{group}\.{name} = {settings[name]!r} cannot be used: .{{10,}}"):
        Config(**{group: kind(**settings)})
    del settings[name]
    Config(**{group: kind(**settings)})  # without it there is nothing to refuse


@pytest.mark.parametrize(
    ("model", "flow", "field"),
    [("DiT", Flow(path="gvp"), "path"), ("MeanFlow", Flow(prediction="noise"), "prediction")],
)
def test_a_setting_that_the_model_does_not_have_is_refused(model, flow, field):
    with pytest.raises(ConfigError, match=rf"^flow\.{field} = .* .* {model} has no such setting, only SiT"):
        Config(model=f"{model}-B/2", flow=flow)


def test_the_covariance_wants_three_samples_also_if_it_is_only_metered():
    off = Dispersive(None, variant="covariance")
    on = [
        {"dispersive": Dispersive(0.5, variant="covariance")},
        {"contrastive": Contrastive(0.5, variant="covariance")},
    ]
    for settings in (*on, {"dispersive": off}):
        with pytest.raises(ConfigError, match=r"^batch_size = 2 cannot be used: .* take 3\.$"):
            Config(batch_size=2, **settings)
        Config(batch_size=3, **settings)
    Config(batch_size=2, dispersive=off, contrastive=Contrastive(0.5))
    Config(batch_size=2, contrastive=Contrastive(None, variant="covariance"))


@pytest.mark.parametrize("group", ["", *GROUPS])
def test_unknown_and_missing_fields_are_refused_by_name(group):
    whole = json.loads(Config().to_json())
    later = {"schedule"} | {name.removeprefix(f"{group}.") for name in LATER}
    for name in (whole[group] if group else whole).keys() - later:
        values = json.loads(Config().to_json())
        del (values[group] if group else values)[name]
        with pytest.raises(ConfigError, match=rf"^{re.escape(f'{group}.{name}'.lstrip('.'))} is missing"):
            Config.from_json(json.dumps(values))
    (whole[group] if group else whole)["momentum"] = 0.9
    with pytest.raises(ConfigError, match=rf"^{f'{group}.momentum'.lstrip('.')} is not a setting of this version"):
        Config.from_json(json.dumps(whole))


def test_a_config_from_before_there_were_other_models_is_a_linear_flow_of_velocities():
    config = Config(batch_size=12)
    values = json.loads(config.to_json())
    for name in LATER:
        group, _, setting = name.rpartition(".")
        (values.get(group, {}) if group else values).pop(setting, None)
    assert Config.from_json(json.dumps(values)) == config


def test_a_repa_run_from_before_positions_were_resampled_with_antialiasing_goes_on_without():
    for repa, then in (
        (Repa(0.5, teacher="facebook/dinov2-base"), False),
        (Repa(0.5), True),  # the lab's own teacher resamples nothing
        (Repa(teacher="facebook/dinov2-base"), True),
    ):
        values = json.loads(Config(repa=repa).to_json())
        del values["repa"]["antialias"]
        assert Config.from_json(json.dumps(values)) == Config(repa=dataclasses.replace(repa, antialias=then))


@pytest.mark.parametrize("text", ["", "{", "no", '{"steps": 1', "[]", "3", "null", '"digits"'])
def test_text_that_is_no_config(text):
    with pytest.raises(ConfigError, match=r"not valid JSON|a group of settings is expected"):
        Config.from_json(text)


def test_replace_reaches_into_the_dispersive_loss():
    config = Config(seed=4).replace(lam=0.25, tau=2.0, blocks=(0, 3), steps=9)
    assert config == Config(seed=4, steps=9, dispersive=Dispersive(0.25, 2.0, "infonce_l2", (0, 3)))
    assert config.replace(tau=1.0).dispersive == Dispersive(0.25, 1.0, "infonce_l2", (0, 3))
    assert config.replace(dispersive=Dispersive(tau=3.0), lam=1.0).dispersive == Dispersive(1.0, 3.0)
    hinge = Config().replace(lam=0.5, variant="hinge", margin=2.0, chunk=4, schedule=warm_up(3))
    assert hinge.dispersive == Dispersive(0.5, variant="hinge", margin=2.0, chunk=4, schedule=warm_up(3))
    assert hinge.contrastive == Contrastive()
    assert config.replace(blocks=2) == config.replace(blocks=[2]) == config.replace(blocks=range(2, 3))
    with pytest.raises(ConfigError, match=r"dispersive\.lam = -1"):
        config.replace(lam=-1)
    with pytest.raises(TypeError, match="lambda_"):
        config.replace(lambda_=1)


def test_none_stands_for_what_the_variant_takes():
    """The defaults of ``dispersive_loss``, by variant; the config itself keeps None."""
    taken = {variant: Dispersive(variant=variant).arguments for variant in KNOBS}
    assert taken == {
        "infonce_l2": {"variant": "infonce_l2", "tau": 0.5, "include_self": True},
        "infonce_cosine": {"variant": "infonce_cosine", "tau": 0.5, "include_self": True},
        "hinge": {"variant": "hinge", "margin": 1.0, "include_self": True},
        "covariance": {"variant": "covariance"},
    }
    assert (Dispersive().tau, Dispersive().include_self, Dispersive(variant="hinge").margin) == (None, None, None)
    given = Dispersive(variant="hinge", margin=2, include_self=False).arguments
    assert given == {"variant": "hinge", "margin": 2, "include_self": False}
    assert Contrastive(tau=0.1, alignment_weight=0.25).arguments == taken["infonce_l2"] | {"tau": 0.1}


def test_a_config_that_has_only_a_warm_up_reads_as_its_schedule():
    config = Config(dispersive=Dispersive(0.5, schedule=warm_up(7)), repa=Repa(schedule=warm_up(1)))
    old = json.loads(config.to_json())
    for group, steps in {"dispersive": 7, "contrastive": 0, "repa": 1}.items():
        del old[group]["schedule"]
        old[group]["warmup"] = steps
    assert Config.from_json(json.dumps(old)) == config


def test_the_baseline_is_metered_as_the_run_that_it_stands_beside():
    settings = {"tau": 0.2, "blocks": (3,), "variant": "infonce_cosine"}
    for config in (Config(dispersive=Dispersive(0.5, **settings)), Config(contrastive=Contrastive(0.5, **settings))):
        plain = config.baseline()
        assert plain.regularizers == ()
        assert plain.repelling.arguments == config.repelling.arguments
        assert plain.repelling.blocks == (3,)
    assert Config(repa=Repa(0.5, block=2)).baseline().repelling.blocks == (2,)
    assert Config(seed=3, steps=7).baseline() == Config(seed=3, steps=7)
    both = Config(contrastive=Contrastive(0.5, variant="hinge"), dispersive=Dispersive(0.0, tau=2.0))
    assert both.repelling is both.dispersive
