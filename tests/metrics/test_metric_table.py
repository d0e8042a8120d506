"""One table names every metric that the lab gives."""

from labkit.evaluation import EvaluationConfig, evaluator
from labkit.evaluation.evaluate import evaluate
from labkit.evaluation.network import block_geometry, losses
from labkit.metrics import METRICS, metric, minus, three_digits
from labkit.recipes import digits
from labkit.sampling import Sampler
from labkit.training import Trainer


def test_every_metric_of_evaluation_geometry_and_log_has_an_entry():
    config = digits(lam=0.5, steps=1, batch_size=16)
    config = config.replace(repa=type(config.repa)(lam=0.1))
    trainer = Trainer(config)
    [report] = trainer
    network = trainer.ema.network
    names = set(report.values()) | set(block_geometry(network, config, count=8)[0]) | set(losses(network, config, 8))
    names |= set(evaluate(network, config, EvaluationConfig(8, Sampler("euler", 1))).values)
    names |= {"frechet_excess", *sum(evaluator.DISTANCES.values(), ())}
    names |= {"sfid", "inception_score", "linear_probe", "knn"}
    assert {name for name in names if metric(name) not in METRICS.values()} == set()
    assert {"velocity.t0", "repa", "block1.dispersive", "memorisation"} <= names


def test_titles_differ():
    assert len({about.label for about in METRICS.values()}) == len(METRICS)


def test_logged_names_are_those_of_their_metric_and_another_is_its_own_title():
    entries = {"block1.feature_norm": "feature_norm", "velocity.t3": "velocity", "fid_excess": "fid"}
    assert all(metric(name) is METRICS[entry] for name, entry in entries.items())
    assert (metric("block1.mine").title, metric("mine").direction) == ("block1.mine", 0)


def test_three_digits_keep_their_zeros():
    numbers = {0.95: "0.950", 1.2: "1.20", 211.4: "211", 1722.3: "1,722", -0.0126: "-0.0126", 0.0: "0.00"}
    assert {value: three_digits(value) for value in numbers} == numbers
    assert three_digits(0.7, "+") == "+0.700" and three_digits(1500, "+") == "+1,500"


def test_minus_signs_are_those_of_numbers():
    assert minus("-0.5 [-1e-05, -.2], -inf") == "−0.5 [−1e−05, −.2], −inf"
    assert minus("SiT-B/2, held-out, 2026-11-30, steps 5-10") == "SiT-B/2, held-out, 2026-11-30, steps 5-10"
