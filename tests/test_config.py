"""A config reads back to its equal, and refuses every bad value by field, value and remedy."""

import dataclasses
import itertools
import json
import math
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from labkit.checks import ConfigError
from labkit.config import FREE, LATER, Config, Engine, Optimizer
from labkit.losses import Contrastive, Dispersive, MeanFlow, Repa, warm_up
from labkit.losses.dispersive import KNOBS
from labkit.paths import Flow

pytestmark = pytest.mark.usefixtures("unchecked")  # wrong types must meet our messages, not a type checker

COUNT = st.integers(1, 10**9)
SHARE = st.floats(0, 1, exclude_max=True)
SIZE = st.floats(0, 1e300)
POSITIVE = st.floats(0, 1e300, exclude_min=True)
SCHEDULE = st.lists(st.tuples(st.integers(0, 10**6), SIZE), max_size=4, unique_by=lambda knot: knot[0]).map(
    lambda knots: tuple(sorted(knots))
)
WEIGHT = st.none() | SIZE | st.integers(0, 9)
KNOB = {"tau": POSITIVE, "margin": POSITIVE, "include_self": st.booleans()}


@st.composite
def dispersive_settings(draw, variants=tuple(KNOBS)) -> dict:
    """Settings of one variant; those that it does not have stay None."""
    variant = draw(st.sampled_from(variants))
    knobs = {name: draw(st.none() | kind if name in KNOBS[variant] else st.none()) for name, kind in KNOB.items()}
    chunk = draw(st.none() | st.sampled_from([3, 4, 6, 12]))  # of batches that are multiples of 12
    numbered = st.lists(st.integers(0, 99), min_size=1, unique=True).map(tuple)
    return knobs | {
        "lam": draw(WEIGHT),
        "variant": variant,
        "blocks": draw(st.none() | st.sampled_from(["all", "last"]) | numbered),
        "reduce": draw(st.sampled_from(["mean", "sum"])),
        "negatives": draw(st.sampled_from(["local", "global"] if chunk is None else ["local"])),
        "chunk": chunk,
        "schedule": draw(SCHEDULE),
    }


@st.composite
def contrastive_settings(draw) -> dict:
    form = draw(st.sampled_from(["additive", "original"]))
    whole = form == "original"
    settings = draw(dispersive_settings([v for v in KNOBS if v != "hinge" or not whole]))
    if whole:
        settings["include_self"] = None
    return settings | {
        "form": form,
        "alignment_weight": 1.0 if whole else draw(SIZE),
        "noise": draw(st.sampled_from(["independent", "restricted"])),
        "max_gap": draw(st.floats(0, 1)),
    }


REPA = {
    "lam": WEIGHT,
    "block": st.none() | st.integers(0, 99),
    "teacher": st.text(min_size=1),
    "hidden": COUNT,
    "schedule": SCHEDULE,
}
OPTIMIZER = {"lr": POSITIVE, "betas": st.tuples(SHARE, SHARE), "weight_decay": SIZE}
WEIGHTED = [("velocity", "none"), *itertools.product(("noise", "score"), ("none", "velocity", "likelihood"))]
FLOW = st.tuples(st.sampled_from(["linear", "gvp", "vp"]), st.sampled_from(WEIGHTED)).map(
    lambda drawn: dict(path=drawn[0], prediction=drawn[1][0], weighting=drawn[1][1])
)
MEANFLOW = {
    "share": st.floats(0, 1, exclude_min=True),
    "mean": st.floats(-9, 9),
    "deviation": POSITIVE,
    "power": SIZE,
    "constant": POSITIVE,
    "guidance": POSITIVE,
    "mixing": SHARE,
}
ENGINE = {
    "precision": st.sampled_from(["float32", "bfloat16"]),
    "compile": st.booleans(),
    "accumulate": COUNT,
    "checkpointing": st.booleans(),
    "clip": st.none() | POSITIVE,
    "resident": st.booleans(),
}
GROUPS = {
    "flow": (Flow, FLOW),
    "meanflow": (MeanFlow, st.fixed_dictionaries(MEANFLOW)),
    "dispersive": (Dispersive, dispersive_settings()),
    "contrastive": (Contrastive, contrastive_settings()),
    "repa": (Repa, st.fixed_dictionaries(REPA)),
    "optimizer": (Optimizer, st.fixed_dictionaries(OPTIMIZER)),
    "engine": (Engine, st.fixed_dictionaries(ENGINE)),
}
CONFIG = {
    "dataset": st.text(min_size=1),
    "model": st.sampled_from(["SiT-B/2", "MeanFlow-XL/4", "DiT-Nano/8"]),
    **{name: drawn.map(lambda settings, kind=kind: kind(**settings)) for name, (kind, drawn) in GROUPS.items()},
    "batch_size": st.integers(1, 10**5).map(lambda n: 12 * n),
    "seed": st.integers(0, 2**63 - 1),
    **dict.fromkeys(("label_drop", "ema_decay"), SHARE),
    **dict.fromkeys(("steps", "log_every", "save_every", "keep_last"), COUNT),
    "keep_every": st.none() | COUNT,
}


def names(kind: type) -> set[str]:
    return {f.name for f in dataclasses.fields(kind)}


@given(st.data())
def test_every_field_is_drawn_above(data):
    assert CONFIG.keys() == names(Config)
    for kind, drawn in GROUPS.values():
        assert data.draw(drawn).keys() == names(kind)


def of_its_family(**settings) -> Config:
    """A config; groups that its family does not have stay at their defaults."""
    own = {"SiT": "flow", "MeanFlow": "meanflow"}.get(settings["model"].split("-")[0])
    return Config(**{name: value for name, value in settings.items() if name not in {"flow", "meanflow"} - {own}})


@given(st.builds(of_its_family, **CONFIG))
def test_json_round_trip(config):
    again = Config.from_json(config.to_json())
    assert again == config and hash(again) == hash(config)  # lists of the file have become tuples again
    assert again.to_json() == config.to_json()
    assert config.differences(again) == []


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
    "repa.hidden": COUNTS,
    "repa.schedule": SCHEDULES,
    "optimizer.lr": [0, 0.0, -1e-3, NAN, INF, "1e-3", None, True],
    "optimizer.betas": [(0.9,), (0.9, 0.95, 0.99), (1, 0.9), (0.9, 1.0), (-0.1, 0.9), (0.9, NAN), 0.9, None, "ab"],
    "optimizer.weight_decay": [-0.1, NAN, INF, "0", None],
    "flow.path": ["cubic", "", None, 1],
    "flow.prediction": ["data", "", None, 1],
    "flow.weighting": ["sigma", "velocity", "likelihood", None, 1],  # a velocity has none
    "meanflow.share": [0, 1.1, -0.5, NAN, None, True, "1"],
    "meanflow.mean": [NAN, INF, None, "0"],
    "meanflow.deviation": [0.0, -1, NAN, INF, None],
    "meanflow.power": [-0.1, NAN, INF, None],
    "meanflow.constant": [0, -1, NAN, INF, None],
    "meanflow.guidance": [0, -1, NAN, INF, None],
    "meanflow.mixing": [1, -0.1, 1.5, NAN, None],
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
    "seed": [-1, 0.0, 2**63, "0", None, True],
    **dict.fromkeys(("label_drop", "ema_decay"), SHARES),
    **dict.fromkeys(("steps", "log_every", "save_every", "keep_last"), COUNTS),
    "keep_every": [0, -1, 2.5, True, "9", NAN],
}
BESIDE = {"margin": {"variant": "hinge"}}  # settings with which a field has a meaning


def test_every_field_has_bad_values():
    nested = {f"{group}.{name}" for group, (kind, _) in GROUPS.items() for name in names(kind)}
    assert BAD.keys() == names(Config) | nested


def changed(name: str, value) -> Config:
    group, _, inner = name.rpartition(".")
    if not group:
        return dataclasses.replace(Config(), **{name: value})
    kind, _ = GROUPS[group]
    return Config(**{group: kind(**BESIDE.get(inner, {}) | {inner: value})})


def refusal(name: str, value) -> str | None:
    """A config's message about a value; None if it takes it."""
    try:
        changed(name, value)
    except ConfigError as error:
        return str(error)
    return None


def test_every_bad_value_is_refused_by_name_and_value_with_a_remedy():
    for name, value in ((name, value) for name, values in BAD.items() for value in values):
        shown = repr(tuple(value)) if isinstance(value, list) and name.endswith("blocks") else repr(value)
        if name.endswith(("blocks", "betas")) and not isinstance(value, (tuple, list)):
            shown = repr((value,))
        message = refusal(name, value)
        assert message is not None, f"{name} = {value!r} is taken"
        assert re.fullmatch(rf"{re.escape(f'{name} = {shown} cannot be used: ')}.{{10,}}\.", message, re.S), message


def test_a_bad_value_in_a_file_is_refused_too():
    for name, (first, *_, last) in BAD.items():
        values = json.loads(Config().to_json())
        *group, field = name.split(".")
        (values[group[0]] if group else values).update(BESIDE.get(field, {}))
        (values[group[0]] if group else values)[field] = first if name in GROUPS else last
        with pytest.raises(ConfigError, match=re.escape(name)):
            Config.from_json(json.dumps(values))


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
    ("contrastive", {"variant": "hinge", "tau": 0.5}, "tau"),
    ("contrastive", {"chunk": 5}, "chunk"),
    ("contrastive", {"form": "original", "variant": "hinge"}, "form"),
    ("contrastive", {"form": "original", "alignment_weight": 0}, "alignment_weight"),
    ("contrastive", {"form": "original", "include_self": False}, "include_self"),
    ("meanflow", {"share": 0.5}, "share"),  # the default model is a SiT
]


@pytest.mark.parametrize(("group", "settings", "name"), SENSELESS)
def test_what_makes_no_sense_together_is_refused(group, settings, name):
    settings, kind = dict(settings), GROUPS[group][0]
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
    for name in whole[group].keys() - {"schedule"} if group else whole.keys() - LATER:
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
        del values[name]
    assert Config.from_json(json.dumps(values)) == config


@given(st.data())
def test_a_run_may_go_on_with_other_lengths_and_speeds_and_nothing_else(data):
    def drawn(name: str):
        group, _, inner = name.rpartition(".")
        return getattr(data.draw(CONFIG[group]), inner) if group else data.draw(CONFIG[name])

    config = Config()
    for name in FREE:
        group, _, inner = name.rpartition(".")
        value = dataclasses.replace(getattr(config, group), **{inner: drawn(name)}) if group else drawn(name)
        config = dataclasses.replace(config, **{group or name: value})
    assert Config().breaks(config) == []
    assert len(Config().differences(config)) <= len(FREE)
    other = dataclasses.replace(config, seed=5, engine=dataclasses.replace(config.engine, precision="bfloat16"))
    assert sorted(Config().breaks(other)) == ["engine.precision: 'float32' → 'bfloat16'", "seed: 0 → 5"]


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
    nothing = {"tau": None, "margin": None, "include_self": None}
    assert taken == {
        "infonce_l2": nothing | {"variant": "infonce_l2", "tau": 0.5, "include_self": True},
        "infonce_cosine": nothing | {"variant": "infonce_cosine", "tau": 0.5, "include_self": True},
        "hinge": nothing | {"variant": "hinge", "margin": 1.0, "include_self": True},
        "covariance": nothing | {"variant": "covariance"},
    }
    assert (Dispersive().tau, Dispersive().include_self, Dispersive(variant="hinge").margin) == (None, None, None)
    given = Dispersive(variant="hinge", margin=2, include_self=False).arguments
    assert given == nothing | {"variant": "hinge", "margin": 2, "include_self": False}
    assert Contrastive(tau=0.1, alignment_weight=0.25).arguments == taken["infonce_l2"] | {"tau": 0.1}


def test_a_config_that_has_only_a_warm_up_reads_as_its_schedule():
    config = Config(dispersive=Dispersive(0.5, schedule=warm_up(7)), repa=Repa(schedule=warm_up(1)))
    old = json.loads(config.to_json())
    for group, steps in {"dispersive": 7, "contrastive": 0, "repa": 1}.items():
        del old[group]["schedule"]
        old[group]["warmup"] = steps
    assert Config.from_json(json.dumps(old)) == config


@given(st.builds(of_its_family, **CONFIG), st.data())
def test_differences_name_exactly_the_changed_fields(config, data):
    name = data.draw(st.sampled_from(sorted(CONFIG.keys() - {"model", "flow", "meanflow"})))
    old, new = getattr(config, name), data.draw(CONFIG[name])
    inner = sorted(names(GROUPS[name][0])) if name in GROUPS else []
    pairs = {f"{name}.{n}": (getattr(old, n), getattr(new, n)) for n in inner} or {name: (old, new)}
    changed = [f"{n}: {mine!r} → {theirs!r}" for n, (mine, theirs) in pairs.items() if mine != theirs]
    assert sorted(config.differences(dataclasses.replace(config, **{name: new}))) == sorted(changed)


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
