// The playground: one seed of each condition at several steps, beside the baseline at the same step.

const P = DATA.playground;
const names = Object.keys(P.conditions),
  baseline = names[0];
const places = bytes(P.places, Int16Array),
  sheets = bytes(P.samples, Uint8Array);
const GAUGES = [
  ["feature_norm", "Size of features", "‖z‖/√P", true],
  ["effective_rank", "Directions in use", "effective rank", false],
  ["dispersive", "Dispersive Loss and its floor", "L_disp", false],
  ["loss_held_out", "Loss on held-out images", "lower is better", true],
];

/** A run by what differs: all are of one model. */
const brief = (label) => label.replace(/^[^,]*, /, "");
const number = (name, age, key) => P.conditions[name].numbers[age][P.names.indexOf(key)];

function cloud(name, age) {
  const first = 2 * P.classes.length * (names.indexOf(name) * P.ages.length + age);
  return centred(P.classes.map((_, i) => [places[first + 2 * i] * P.unit, places[first + 2 * i + 1] * P.unit]));
}
function sheet(name, age) {
  const size = sheets.length / names.length / P.ages.length,
    first = size * (names.indexOf(name) * P.ages.length + age);
  return sheets.subarray(first, first + size);
}

/** Lowest and highest value of a gauge over the runs of a variant, so that curves move and axes do not. */
const ends = new Map();
function range(key, variant) {
  const id = key === "dispersive" ? key + variant : key;
  if (!ends.has(id)) {
    const same = names.filter((name) => key !== "dispersive" || P.conditions[name].at.variant === variant);
    const keys = key === "dispersive" ? ["dispersive", "baseline_dispersive", "floor"] : [key];
    const all = same.flatMap((name) => P.ages.flatMap((_, age) => keys.map((one) => number(name, age, one))));
    const [low, high] = [Math.min(...all), Math.max(...all)];
    ends.set(
      id,
      key === "loss_held_out" || key === "feature_norm"
        ? [low * 0.94, high * 1.06]
        : [low - 0.17 * (high - low), high + 0.05 * (high - low)],
    );
  }
  return ends.get(id);
}

const still = matchMedia("(prefers-reduced-motion: reduce)");
const playground = { condition: null, age: P.ages.length - 1 };

function buildPlayground() {
  const box = $("#p-controls"),
    controls = {};
  const move = (key) => () => movePlayground(key);
  const choices = (key) => unique(names.map((name) => P.conditions[name].at[key])).sort((a, b) => a - b);
  controls.age = slider(
    box,
    "p-age",
    "training step",
    "0 is before training",
    P.ages.map((_, i) => i),
    (i) => count(P.ages[i]),
    move("age"),
  );
  const paper05 = (value) => (value === 0.5 ? "0.5 (paper)" : String(value));
  controls.lam = slider(
    box,
    "p-lam",
    "λ",
    "strength of the push; 0 is the baseline",
    choices("lam"),
    paper05,
    move("lam"),
  );
  controls.tau = slider(
    box,
    "p-tau",
    "τ",
    "its reach; larger reaches further",
    choices("tau").filter(Boolean),
    paper05,
    move("tau"),
  );
  controls.alpha = slider(
    box,
    "p-alpha",
    "α",
    "pull between two views; 1 is contrastive",
    choices("alpha"),
    String,
    move("alpha"),
  );
  controls.variant = menu(box, "p-variant", "variant of the loss", Object.entries(P.variants), move("variant"));
  const play = element("button", { type: "button", id: "p-play" }, "▶ play the training");
  box.append(element("span", { className: "control" }, element("span", {}, "film"), play));
  let film = null;
  const stop = () => {
    clearInterval(film);
    film = null;
    play.textContent = "▶ play the training";
  };
  play.addEventListener("click", () => {
    if (film) return stop();
    play.textContent = "■ stop";
    const next = () => {
      controls.age.value = playground.age === P.ages.length - 1 ? 0 : playground.age + 1;
      movePlayground("age");
      if (playground.age === P.ages.length - 1) stop();
    };
    film = setInterval(next, still.matches ? 1500 : 700);
    if (playground.age === P.ages.length - 1) next();
  });
  controls.scale = menu(
    $("#p-scale"),
    "p-zoom",
    "scale:",
    [
      ["same", "the same for both"],
      ["own", "each cloud its own"],
    ],
    () => drawPlayground(),
    true,
  );
  playground.controls = controls;
  const gauges = $("#p-gauges .gauges");
  for (const [key, title, unit] of GAUGES) {
    const values = element("div", {}, element("b", { className: "run" }), element("span", { className: "base" }));
    gauges.append(
      element(
        "div",
        { className: "gauge", id: `p-${key}` },
        element("h3", {}, title),
        element("span", { className: "unit" }, unit),
        values,
        element("div", { className: "plot" }),
      ),
    );
  }
  playground.condition =
    names.find((name) => P.conditions[name].at.lam === 0.5 && P.conditions[name].at.tau === 0.5) ?? baseline;
  const at = P.conditions[playground.condition].at;
  for (const key of ["lam", "tau", "alpha", "variant"]) controls[key].value = at[key];
  controls.age.value = playground.age;
  $("#p-origin").textContent =
    `Where these numbers come from: ${P.origin} Written on ${P.made}. One seed; the atlas has more.`;
}

function movePlayground(moved) {
  const { controls } = playground,
    now = P.conditions[playground.condition].at;
  playground.age = controls.age.value;
  $("#p-moved").textContent = "";
  if (moved !== "age") {
    const wanted = {
      ...now,
      alpha: controls.alpha.value,
      lam: controls.lam.value,
      tau: controls.tau.value,
      variant: controls.variant.value,
    };
    wanted.noise = wanted.alpha > 0 ? "independent" : "one view";
    const without = wanted.lam === 0 && moved !== "variant";
    if (without || idle(now, moved)) {
      if (without) playground.condition = baseline;
      if (moved !== "lam")
        $("#p-moved").textContent = without
          ? "Without the loss (λ = 0), τ and α change nothing."
          : "This variant has no τ.";
    } else {
      playground.condition = snap(P.conditions, wanted, moved);
      const at = P.conditions[playground.condition].at,
        also = [];
      for (const [key, name] of [
        ["lam", "λ"],
        ["tau", "τ"],
        ["alpha", "α"],
        ["variant", "variant"],
      ]) {
        if (idle(at, key) || at[key] === wanted[key]) continue;
        controls[key].value = at[key];
        also.push(`${name} = ${P.variants[at[key]] ?? at[key]}`);
      }
      if (also.length) $("#p-moved").textContent = `No run was made there; the nearest has ${also.join(", ")}.`;
    }
  }
  drawPlayground();
}

function drawPlayground() {
  const { condition, age, controls } = playground,
    step = P.ages[age],
    run = P.conditions[condition];
  const alone = condition === baseline;
  const own = (key) => number(condition, age, key),
    base = (key) => number(baseline, age, key);
  for (const key of ["tau", "alpha"]) controls[key].off = idle(run.at, key);
  Object.assign($("#playground").dataset, { condition, step });
  $("#p-shown").textContent = `${run.label}, after ${count(step)} steps.`;
  $("#p-headline").textContent = headline(alone, age, own, base);
  drawClouds(condition, age, alone);
  drawDistances(condition, age, alone);
  drawGauges(condition, age, alone);
  const figure = $("#p-samples"),
    [left, right] = figure.querySelectorAll("canvas");
  drawSheet(left, sheet(baseline, age), 1, 8, `20 samples of the baseline after ${count(step)} steps`);
  drawSheet(right, sheet(condition, age), 1, 8, `20 samples of ${run.label} after ${count(step)} steps`);
  $("h3.run", figure).textContent = alone ? "the same" : brief(run.label);
  $("figcaption", figure).textContent =
    "Twenty samples each, from the same noise and for the digits 0 to 9 in turn: what differs is what training made of the push.";
}

function headline(alone, age, own, base) {
  if (age === 0)
    return "Before training all runs are the same network: same weights, same clouds, and samples that are noise.";
  const spread = `the features of two images lie ${short(own("mean_pairwise_distance"))} apart on average`;
  if (alone) return `Without the push, ${spread}. Choose a λ above 0 to see what it changes.`;
  const times = own("mean_pairwise_distance") / base("mean_pairwise_distance");
  const apart =
    times >= 1.05
      ? `${short(times)} times as far apart as the baseline's`
      : times > 0.95
        ? "about as far apart as the baseline's"
        : `closer together than the baseline's, at ${short(times)} of its spread`;
  const gap = own("dispersive") - own("floor"),
    span = Math.abs(own("baseline_dispersive") - own("floor")) || 1;
  const floor =
    gap < 0.02 * span
      ? "the loss is at its floor: nothing is left to push"
      : `L_disp is ${short(own("dispersive"))}, its floor ${short(own("floor"))}`;
  const held = own("loss_held_out"),
    other = base("loss_held_out");
  const worse = Math.abs(held / other - 1) < 0.003 ? "about the same as" : held > other ? "worse than" : "better than";
  const judged = `On held-out images the model predicts ${worse} the baseline (loss ${short(held)} against ${short(other)}).`;
  return `The features of two images lie ${apart}; ${floor}. ${judged}`;
}

function drawClouds(condition, age, alone) {
  const figure = $("#p-cloud"),
    clouds = [baseline, condition].map((name) => cloud(name, age));
  const same = playground.controls.scale.value === "same",
    reach = Math.max(clouds[0].reach, clouds[1].reach);
  const run = P.conditions[condition];
  figure.querySelectorAll("canvas").forEach((canvas, i) => {
    drawCloud(canvas, clouds[i].points, P.classes, 1.05 * (same ? reach : clouds[i].reach));
  });
  $("h3.run", figure).textContent = alone ? "the same" : brief(run.label);
  const share = (name) => `${short(100 * P.conditions[name].shares[age])} %`;
  $("figcaption", figure).textContent =
    `Each digit is a held-out image at t = ${P.t}, seen by its features at block ${P.block}, around their mean; ` +
    `the bar is a length in ‖z‖/√P, ${same ? "the same in both panes" : "another in each pane"}. ` +
    "The two axes are the same for all runs and steps. " +
    `They hold ${share(baseline)} of the baseline's variance and ${share(condition)} of this run's, ` +
    "so read spread from the distances.";
  say(
    figure,
    `The baseline's cloud reaches ${short(clouds[0].reach)} from its mean along an axis, that of ${alone ? "this run is the same" : `${run.label} ${short(clouds[1].reach)}`}.`,
  );
}

function drawDistances(condition, age, alone) {
  const figure = $("#p-distances"),
    { edges } = P,
    run = P.conditions[condition],
    pairs = (P.images * (P.images - 1)) / 2;
  const counts = [baseline, condition].map((name) => P.conditions[name].counts[age]);
  const most = Math.max(...counts.flat());
  svg($(".plot", figure), 300, (width) => {
    const [left, right, top, bottom] = [6, 6, 40, 40],
      height = 300,
      low = Math.log(edges[0]),
      high = Math.log(edges.at(-1));
    const x = (value) => left + ((Math.log(value) - low) / (high - low)) * (width - left - right);
    const y = (value) => top + (1 - value / most) * (height - top - bottom);
    let out = line(left, y(0), width - right, y(0), "--line");
    for (const tick of [0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1, 2, 5, 10, 20].filter(
      (t) => t >= edges[0] && t <= edges.at(-1),
    )) {
      out += line(x(tick), y(0), x(tick), y(0) + 5, "--quiet") + text(x(tick), y(0) + 17, tick, 'text-anchor="middle"');
    }
    out += text(width / 2, height - 4, "distance of two images' features, ‖z − z′‖/√P", 'text-anchor="middle"');
    const outline = (values) => [
      [x(edges[0]), y(0)],
      ...values.flatMap((value, i) => [
        [x(edges[i]), y(value)],
        [x(edges[i + 1]), y(value)],
      ]),
      [x(edges.at(-1)), y(0)],
    ];
    counts.forEach((values, i) => {
      if (i && alone) return;
      const colour = i ? "--run" : "--base";
      out += `<path d="${path(outline(values))}Z" fill="var(${colour})" fill-opacity=".22" stroke="var(${colour})" stroke-width="1.8" ${i ? "" : 'stroke-dasharray="5 3"'}/>`;
      const peak = values.indexOf(Math.max(...values)),
        middle = x((edges[peak] + edges[peak + 1]) / 2);
      const anchor = middle < width * 0.25 ? "start" : middle > width * 0.75 ? "end" : "middle";
      out += text(
        middle,
        y(values[peak]) - 5,
        i ? "this run" : "baseline",
        `text-anchor="${anchor}" style="fill:var(${colour})" font-weight="700"`,
      );
    });
    if (run.reach && !alone) {
      const mark = x(run.reach.value);
      out += line(mark, 16, mark, y(0), "--ink", 'stroke-width="1.5" stroke-dasharray="2 3"');
      out += text(
        mark,
        12,
        `${run.reach.symbol} = ${short(run.reach.value)}: reach of the push`,
        `text-anchor="${mark > width * 0.6 ? "end" : mark < width * 0.4 ? "start" : "middle"}" style="fill:var(--ink)"`,
      );
    }
    return out;
  });
  const spreads = [baseline, condition].map((name) => short(number(name, age, "mean_pairwise_distance")));
  const beyond =
    run.reach && !alone
      ? run.reach.symbol === "√τ"
        ? ` A pair at ${run.reach.symbol} has e⁻¹ of the weight of one that coincides; far beyond, pairs are left alone.`
        : ` Beyond ${run.reach.symbol}, pairs are left alone.`
      : alone
        ? ""
        : " This variant does not look at distances.";
  $("figcaption", figure).textContent =
    `All ${count(pairs)} pairs of ${P.images} held-out images, on a logarithmic axis: equal steps are equal factors.${beyond}`;
  say(
    figure,
    `Mean distance of two images: baseline ${spreads[0]}${alone ? "" : `, this run ${spreads[1]}`}.${beyond}`,
  );
}

function drawGauges(condition, age, alone) {
  const words = [];
  for (const [key, title, , log] of GAUGES) {
    const box = $(`#p-${key}`),
      run = P.conditions[condition],
      disp = key === "dispersive";
    const other = disp ? number(condition, age, "baseline_dispersive") : number(baseline, age, key);
    const value = number(condition, age, key),
      floor = number(condition, age, "floor");
    $("b", box).textContent = short(value);
    $(".base", box).textContent = alone ? "baseline" : `baseline ${short(other)}`;
    const [low, high] = range(key, run.at.variant);
    const along = (name, one) => P.ages.map((step, i) => [step, number(name, i, one)]);
    const base = disp ? along(condition, "baseline_dispersive") : along(baseline, key);
    const curves = [{ points: base, colour: "--base", dashed: true }];
    if (!alone) curves.push({ points: along(condition, key), colour: "--run" });
    const level = disp && floor > -Infinity ? { value: floor, name: `floor ${short(floor)}` } : null;
    drawCurves($(".plot", box), 140, { steps: P.ages, curves, at: P.ages[age], low, high, log, level });
    words.push(
      `${title}: ${short(value)}${alone ? "" : `, baseline ${short(other)}`}${disp ? `, floor ${short(floor)}` : ""}.`,
    );
  }
  $("#p-gauges figcaption").textContent =
    "Along training steps, which stand evenly spaced. Dashed blue: the baseline; orange: this run. " +
    "L_disp of both is by this run's variant and τ, on 128 held-out images. The scales of size and loss are logarithmic.";
  say($("#p-gauges"), words.join(" "));
}

buildPlayground();
drawPlayground();
parts.push(drawPlayground);
