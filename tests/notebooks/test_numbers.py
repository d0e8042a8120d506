"""Numbers and comparisons in the notebooks' texts, computed again: from the shipped tables, or as the text says."""

import math

import numpy as np
from texts import assert_in_text, measured

from labkit.experiments import Atlas, geometry_table, shipped_run
from labkit.scale import cost
from labkit.training import Look
from labkit.widgets import Interpolant, PairForce, Springs
from labkit.widgets.forces import REACH


def temperature_of_the_widest_springs():
    taus = (0.05, 0.15, 0.2, 0.25, 0.3, 0.5, 10.0)
    distances = {tau: Springs(lam=1.0, tau=tau).rest().distance for tau in taus}
    assert min(distances[0.15], distances[0.5]) > 0.97 * distances[0.25], "around it the distance hardly changes"
    assert max(distances[0.05], distances[10.0]) < 0.85 * distances[0.25], "clearly closer together"
    return f"furthest apart at a τ of about {max(distances, key=distances.get):g}."


def floor_of_forty_points():
    return rf"here $-\log 40 = {-math.log(40):.2f}$"


def velocity_losses():
    curves = Atlas.load().curves.query("condition == 'baseline' and name == 'velocity'")
    loss = curves.pivot(index="step", columns="seed", values="value")
    words = {3: "three", 5: "five"}
    assert loss.loc[400].round(1).eq(0.5).all()
    return (
        f"({words[loss.shape[1]]} seeds): the loss starts near {loss.loc[1].mean():.1f}, is about 0.5 after 400 steps, "
        f"and lies between {loss.loc[700].min():.2f} and {loss.loc[700].max():.2f} at 700"
    )


def recognisable_times():
    readable = Interpolant().readable
    begins = min(t for t, share in readable.items() if share > 1 / 6)
    ends = min(t for t, share in readable.items() if share > 0.9)
    return f"the digits emerge from the noise between $t = {begins:.1f}$ and ${ends:.1f}$"


def strongest_push():
    peaks = [REACH[np.argmax(PairForce(tau=tau).curves()[1])].item() for tau in (0.05, 10.0)]
    return f"from {peaks[0]:.1f} at τ = 0.05 to {peaks[1]:.1f} at τ = 10"


def growth_of_the_dispersive_features():
    runs = {name: shipped_run(f"digits/{name}") for name in ("baseline", "dispersive")}
    values = geometry_table(runs, look=Look(count=200)).pivot(index=["measure", "block"], columns="run", values="value")
    ratio = values["dispersive"] / values["baseline"]
    rank = ratio["effective_rank"]
    assert 1 < rank[0] < 1.05 and (rank[1:] < 1).all(), "lower at blocks 1, 2 and 3, and slightly higher at block 0"
    norms, distances = ratio["feature_norm"], ratio["mean_pairwise_distance"]
    words = {4: "four", 5: "five", 6: "six"}
    return (
        f"about {words[round(norms.min())]} to {words[round(norms.max())]} times as large as the baseline's, "
        f"and about {words[round(distances.min())]} to {words[round(distances.max())]} times as far apart"
    )


def ranks_that_rise():
    rank = lambda condition, block: Atlas.load().difference(condition, "effective_rank", block=block)  # noqa: E731
    assert rank("dispersive", 0)["low"] > 0 and rank("dispersive", 1)["high"] < 0
    assert rank("larger-dispersive", 1)["low"] > 0 and rank("dit-dispersive", 1)["low"] > 0
    return "the rank *rises* at block 0 here, and at the regularized block of a larger SiT (Micro/4) and of a DiT"


def similarity_of_seeds():
    table = Atlas.load().table.query("measure == 'cka_with_baseline'").groupby(["condition", "block"])["value"].mean()
    seeds, dispersive = table["baseline"], table["dispersive"]
    assert (dispersive < seeds).all() and (1 - seeds > (1 - dispersive) / 2).all(), "more than half of what is missing"
    return (
        f"reach {seeds.min():.2f} to {seeds.max():.2f}, depending on the block, and the dispersive model reaches "
        f"{dispersive.min():.2f} to {dispersive.max():.2f} with the baseline: a little less at every block"
    )


def share_of_attention():
    macs = [cost(f"SiT-{size}/2").macs for size in ("S", "B", "L", "XL")]
    shares = [parts["attention"] / sum(parts.values()) for parts in macs]
    return f"attention takes {100 * min(shares):.0f} to {100 * max(shares):.0f} % of all MACs at $T = 256$"


def growth_of_a_model():
    sizes = ("S", "B", "L", "XL")
    small, large = (sum(cost(f"SiT-{size}/2").parameters.values()) for size in ("S", "XL"))
    factors = [sum(cost(f"SiT-{s}/2").macs.values()) / sum(cost(f"SiT-{s}/8").macs.values()) for s in sizes]
    return (
        f"From S to XL the parameters grow {large // small} times. From patch 8 to patch 2 they hardly change, but the "
        f"MACs grow {min(factors):.0f} to {max(factors):.0f} times"
    )


SENTENCES = {
    "00": (temperature_of_the_widest_springs, floor_of_forty_points),
    "01": (velocity_losses, recognisable_times),
    "02": (strongest_push,),
    "04": (growth_of_the_dispersive_features, ranks_that_rise, similarity_of_seeds),
    "07": (share_of_attention, growth_of_a_model),
}


@measured(SENTENCES)
def test_what_a_text_says_is_what_was_measured(text, sentence):
    assert_in_text(text, sentence)
