// The atlas: differences by seed, question by question, and any measured run beside its baseline.

const A = DATA.atlas;
const NAMES = {
  model: "model",
  dataset: "data",
  lam: "λ",
  tau: "τ",
  alpha: "α",
  variant: "variant",
  block: "pushed block",
  noise: "second view",
  also: "besides",
};
const SIGNS = {
  better: ["better", "▲"],
  worse: ["worse", "▼"],
  different: ["different", "◆"],
  "no difference shown": ["none", "○"],
};
const atlas = { condition: null };
const sheetsOf = new Map();

const label = (name) => {
  const [condition, early] = name.split("@");
  return (A.conditions[condition]?.label ?? condition) + (early ? `, after ${count(+early)} steps` : "");
};

function buildAtlas() {
  $("#atlas").hidden = false;
  const box = $("#a-controls"),
    controls = {},
    move = (key) => () => moveAtlas(key);
  const word = { variant: (v) => A.variants[v], dataset: (v) => A.datasets[v] ?? v };
  const pairs = (key) => A.choices[key].map((value) => [value, (word[key] ?? String)(value)]);
  controls.question = menu(box, "a-question", "question", Object.entries(A.questions), move("question"));
  controls.measure = menu(
    box,
    "a-measure",
    "show",
    Object.entries(A.metrics).map(([key, m]) => [key, m.label]),
    move("measure"),
  );
  controls.age = slider(box, "a-age", "training step", "at which it was measured", [0], count, move("age"));
  controls.layer = slider(box, "a-layer", "seen at block", "for metrics of features", [0], String, move("layer"));
  for (const key of ["lam", "tau", "alpha"]) {
    const words = (value) => (key === "tau" && value === 0 ? "none" : String(value));
    controls[key] = slider(
      box,
      `a-${key}`,
      NAMES[key],
      { lam: "0 is the baseline", tau: "reach of the push", alpha: "1 is contrastive" }[key],
      A.choices[key],
      words,
      move(key),
    );
  }
  for (const key of ["variant", "block", "noise", "model", "dataset", "also"])
    controls[key] = menu(box, `a-${key}`, NAMES[key], pairs(key), move(key));
  controls.projection = menu(
    $("#a-projection"),
    "a-kind",
    "map:",
    [
      ["pca", "PCA: keeps scale"],
      ["umap", "UMAP: neighbourhoods only"],
    ],
    () => drawMaps(),
    true,
  );
  controls.zoom = menu(
    $("#a-projection"),
    "a-zoom",
    "scale:",
    [
      ["own", "each its own"],
      ["same", "one for all"],
    ],
    () => drawMaps(),
    true,
  );
  atlas.controls = controls;
  for (const name of Object.keys(A.map.panes)) {
    const button = element(
      "button",
      { type: "button" },
      element("span", {}, label(name)),
      element("canvas", { role: "img" }),
      element("span", { className: "unit" }),
    );
    button.dataset.condition = name;
    button.addEventListener("click", () => choose(name));
    $("#a-map .maps").append(button);
  }
  controls.measure.value = "frechet";
  show("coarse-dispersive" in A.conditions ? "coarse-dispersive" : Object.keys(A.conditions)[0], "");
  fitPlace();
  $("#a-origin").textContent =
    `Where these numbers come from: ${A.about} Written on ${A.made}. ` +
    "Intervals: Student's t of differences by seed, 95 %, not corrected for the number of comparisons.";
  drawAtlas();
  drawMaps();
}

function choose(name) {
  show(name, "");
  fitPlace();
  drawAtlas();
}

/** Let every control show a condition, in a metric that was measured of it. */
function show(name, note) {
  const { controls } = atlas,
    own = A.values[name];
  atlas.condition = name;
  for (const key of Object.keys(NAMES)) controls[key].value = A.conditions[name].at[key];
  if (!(controls.measure.value in own)) {
    note += ` ${sentence(A.metrics[controls.measure.value].title)} was not measured of it.`;
    controls.measure.value = Object.keys(A.metrics).find((key) => key in own);
  }
  $("#a-moved").textContent = note;
  markMaps();
}

/** Entries [step, block, sampler, values by seed] of a condition and metric, by its first sampler. */
function entries(condition, measure) {
  const all = A.values[condition]?.[measure] ?? [];
  return all.filter((entry) => entry[2] === all[0][2]);
}

/** Let the sliders of step and block offer what was measured of this run, and keep their places where they can. */
function fitPlace(step, layer) {
  const { controls, condition } = atlas,
    own = entries(condition, controls.measure.value),
    info = A.conditions[condition];
  const steps = unique(own.map((entry) => entry[0])).sort((a, b) => a - b);
  const layers = unique(own.map((entry) => entry[1]))
    .filter((block) => block !== null)
    .sort((a, b) => a - b);
  controls.age.values = steps.length ? steps : [info.step];
  controls.age.value = steps.includes(step) ? step : steps.includes(info.step) ? info.step : (steps[0] ?? info.step);
  controls.layer.values = layers.length ? layers : [info.block];
  controls.layer.value = layers.includes(layer) ? layer : info.block;
  controls.layer.off = !layers.length;
}

function moveAtlas(moved) {
  const { controls } = atlas,
    place = [controls.age.value, controls.layer.value];
  if (moved in NAMES) {
    const wanted = Object.fromEntries(Object.keys(NAMES).map((key) => [key, controls[key].value]));
    const nearest = snap(A.conditions, wanted, moved),
      { at } = A.conditions[nearest];
    const also = Object.keys(NAMES)
      .filter((key) => at[key] !== wanted[key])
      .map((key) => `${NAMES[key]} = ${A.variants[at[key]] ?? at[key]}`);
    show(nearest, also.length ? `No run was made there; the nearest has ${also.join(", ")}.` : "");
  }
  if (
    moved === "question" &&
    !A.findings.some((row) => row.question === controls.question.value && row.measure === controls.measure.value)
  ) {
    controls.measure.value = A.findings.find((row) => row.question === controls.question.value).measure;
  }
  fitPlace(...place);
  drawAtlas();
}

function drawAtlas() {
  const { condition, controls } = atlas,
    info = A.conditions[condition],
    measure = controls.measure.value;
  Object.assign($("#atlas").dataset, { condition, measure, step: controls.age.value, block: controls.layer.value });
  $("#a-shown").textContent = `${info.label} (${condition}).`;
  const row = A.findings.find(
    (one) =>
      one.condition === condition &&
      one.against === info.baseline &&
      one.measure === measure &&
      one.step === controls.age.value &&
      (one.block === null || one.block === controls.layer.value),
  );
  const metric = A.metrics[measure],
    values = valuesAt(condition),
    others = valuesAt(info.baseline);
  const sides = {
    better: "better than its baseline by more than seeds explain",
    worse: "worse than its baseline by more than seeds explain",
    different: "different from its baseline by more than seeds explain",
    "no difference shown": "not told apart from its baseline by these seeds",
  };
  $("#a-headline").textContent = !values
    ? `${sentence(metric.label)} was not measured for this run: choose another metric.`
    : `${sentence(metric.label)}: ${over(values, metric)}` +
      (condition === info.baseline
        ? ". This is a baseline: choose a λ above 0."
        : (others ? `, its baseline ${shown(mean(Object.values(others)), metric)}` : "") +
          (row
            ? `. Difference by seed ${row.text}: ${sides[row.side]}.`
            : ". No question of the atlas compares the two here."));
  drawFindings();
  drawAges();
  const figure = $("#a-samples");
  figure.querySelectorAll("canvas").forEach((canvas, i) => {
    const name = i ? condition : info.baseline,
      { shape, bytes: encoded } = A.samples[name];
    if (!sheetsOf.has(name)) sheetsOf.set(name, bytes(encoded, Uint8Array));
    drawSheet(canvas, sheetsOf.get(name), shape[0], shape[1], `20 samples of ${label(name)}`);
  });
  $("h3.base", figure).textContent = label(info.baseline);
  $("h3.run", figure).textContent = condition === info.baseline ? "the same" : info.label;
  $("figcaption", figure).textContent =
    `Seed 0 after ${count(info.step)} steps, the same noise and labels for both. ${origins([condition, info.baseline])}`;
}

/** The mean of values by seed, in words. */
const over = (values, metric) =>
  `${shown(mean(Object.values(values)), metric)} over ${Object.keys(values).length} seeds`;

/** Seeds, commits and machines of some conditions. */
function origins(conditions) {
  const all = unique(conditions)
    .map((name) => A.conditions[name.split("@")[0]])
    .filter(Boolean);
  const seeds = unique(all.map((one) => one.seeds))
      .sort()
      .join(" or "),
    list = (key) => unique(all.flatMap((one) => one[key])).join(", ");
  return `${seeds} seeds a run; commits ${list("commits")}; ${list("machines")}.`;
}

function valuesAt(condition, step = atlas.controls.age.value) {
  const layer = atlas.controls.layer.value;
  return entries(condition, atlas.controls.measure.value).find(
    (entry) => entry[0] === step && (entry[1] === null || entry[1] === layer),
  )?.[3];
}

function drawFindings() {
  const { controls } = atlas,
    figure = $("#a-findings"),
    measure = controls.measure.value,
    metric = A.metrics[measure];
  let rows = A.findings.filter((row) => row.question === controls.question.value && row.measure === measure);
  const narrow = (key, value) => {
    if (rows.some((row) => row[key] === value)) rows = rows.filter((row) => row[key] === value || row[key] === null);
  };
  narrow("block", controls.layer.value);
  narrow("step", controls.age.value);
  const steps = unique(rows.map((row) => row.step)),
    against = unique(rows.map((row) => row.against)),
    samplers = unique(rows.map((row) => row.sampler));
  $("h2", figure).textContent = A.questions[controls.question.value];
  const ends = rows
    .flatMap((row) => [row.low ?? row.difference, row.high ?? row.difference, 0])
    .filter((value) => value !== null);
  const [low, high] = [Math.min(...ends), Math.max(...ends)],
    pad = 0.04 * (high - low) || 1;
  const at = (value) => (100 * (value - low + pad)) / (high - low + 2 * pad);
  const lines = rows.map((row) => {
    const [kind, sign] = SIGNS[row.side],
      track = element("span", { className: `track ${kind}`, style: `--zero:${at(0)}%` });
    if (row.low !== null)
      track.append(element("i", { style: `left:${at(row.low)}%;width:${at(row.high) - at(row.low)}%` }));
    track.append(element("b", { style: `left:${at(row.difference)}%` }));
    const usual = row.against === A.conditions[row.condition.split("@")[0]].baseline;
    const more = [
      against.length > 1 && !usual ? `against ${label(row.against)}` : "",
      steps.length > 1 ? `step ${count(row.step)}` : "",
      samplers.length > 1 ? row.sampler : "",
    ];
    const name = [label(row.condition), ...more.filter(Boolean)].join("; ");
    const button = element(
      "button",
      { type: "button", className: "row" },
      element("span", {}, name),
      track,
      element("em", { className: kind }, `${sign} ${row.text}`),
    );
    button.setAttribute("aria-pressed", row.condition === atlas.condition);
    button.dataset.condition = row.condition;
    button.addEventListener("click", () => choose(row.condition.split("@")[0]));
    return button;
  });
  const axis = element(
    "div",
    { className: "axis" },
    ...ticks(low, high, false).map((tick) =>
      element("span", { style: `left:${at(tick)}%` }, String(tick).replace("-", MINUS)),
    ),
  );
  const held = document.activeElement?.closest?.("#a-findings .row")?.dataset.condition;
  const list = $(".rows", figure);
  list.replaceChildren(
    ...lines,
    element("div", { className: "row", style: "cursor:default" }, element("span", {}), axis, element("span", {})),
  );
  if (held) $(`[data-condition="${held}"]`, list)?.focus();
  const other = against.length > 1 ? "its baseline, or what it is set against" : label(against[0] ?? "");
  const layers = unique(rows.map((row) => row.block)).filter((block) => block !== null);
  const where =
    (steps.length === 1 ? `After ${count(steps[0])} steps` : "At the steps named") +
    (layers.length ? `, at block ${layers.join(", ")}` : "") +
    (samplers.length === 1 && samplers[0] ? `; samples by ${samplers[0]}` : "");
  const way =
    metric.direction < 0 ? "left is better" : metric.direction > 0 ? "right is better" : "neither side is better";
  $("figcaption", figure).textContent = rows.length
    ? `${sentence(metric.label)}: each run minus ${other}, mean and 95 % interval over seeds; ${way}. ` +
      `${where}. ${origins(rows.flatMap((row) => [row.condition, row.against]))}`
    : `${sentence(metric.label)} was not compared for this question: choose another metric.`;
  const kinds = Object.keys(SIGNS)
    .map((kind) => [rows.filter((row) => row.side === kind).length, kind])
    .filter(([n]) => n);
  say(
    figure,
    `${kinds.map(([n, kind]) => `${n} ${kind}`).join(", ")}.\n${rows.map((row) => `${label(row.condition)}: ${row.text}, ${row.side}.`).join("\n")}`,
  );
}

function drawAges() {
  const { condition, controls } = atlas,
    figure = $("#a-ages"),
    measure = controls.measure.value,
    metric = A.metrics[measure];
  const { baseline } = A.conditions[condition],
    layer = controls.layer.value,
    curves = [],
    words = [];
  const pair =
    condition === baseline
      ? [[baseline, "--base"]]
      : [
          [baseline, "--base"],
          [condition, "--run"],
        ];
  for (const [name, colour] of pair) {
    const own = entries(name, measure)
      .filter((entry) => entry[1] === null || entry[1] === layer)
      .sort((a, b) => a[0] - b[0]);
    for (const seed of unique(own.flatMap((entry) => Object.keys(entry[3])))) {
      curves.push({
        points: own.filter((entry) => seed in entry[3]).map((entry) => [entry[0], entry[3][seed]]),
        colour,
        thin: true,
      });
    }
    curves.push({
      points: own.map((entry) => [entry[0], mean(Object.values(entry[3]))]),
      colour,
      dashed: colour === "--base",
    });
    words.push(
      `${label(name)}: ${own.map(([step, , , by]) => `step ${count(step)} ${over(by, metric)}`).join(", ") || "not measured"}.`,
    );
  }
  const steps = unique(curves.flatMap((curve) => curve.points.map(([step]) => step))).sort((a, b) => a - b);
  const real = A.real[A.conditions[condition].images]?.[measure],
    all = curves.flatMap((curve) => curve.points.map((point) => point[1])).filter((value) => value !== null);
  if (real !== undefined) all.push(real);
  const [low, high] = [Math.min(...all), Math.max(...all)],
    pad = 0.1 * (high - low) || 0.1 * Math.abs(high) || 1;
  const level = real === undefined ? null : { value: real, name: "real images" };
  if (all.length)
    drawCurves($(".plot", figure), 260, {
      steps,
      curves,
      at: controls.age.value,
      low: low - (level ? 1.6 : 1) * pad,
      high: high + pad,
      level,
      percent: metric.percent,
    });
  else $(".plot", figure).textContent = "Not measured for this run.";
  $("h2", figure).textContent = `${sentence(metric.title)}, seed by seed`;
  $("figcaption", figure).innerHTML =
    '<span class="base">Dashed: the baseline</span>; <span class="run">solid: this run</span>. ' +
    "Thick lines are means, thin ones seeds; steps stand evenly spaced.";
  say(figure, words.join(" ") + (real === undefined ? "" : ` Real images: ${shown(real, metric)}.`));
}

function drawMaps() {
  const { controls } = atlas,
    kind = controls.projection.value,
    unit = A.map.units[kind],
    figure = $("#a-map");
  const panes = Object.fromEntries(
    Object.entries(A.map.panes).map(([name, pane]) => {
      const flat = bytes(pane[kind], Int16Array);
      return [name, centred(A.map.labels.map((_, i) => [flat[2 * i] * unit, flat[2 * i + 1] * unit]))];
    }),
  );
  const widest = Math.max(...Object.values(panes).map((pane) => pane.reach)),
    own = controls.zoom.value === "own";
  for (const button of figure.querySelectorAll("button")) {
    const pane = panes[button.dataset.condition],
      trust = A.map.panes[button.dataset.condition].trustworthiness;
    drawCloud($("canvas", button), pane.points, A.map.labels, 1.08 * (own ? pane.reach : widest), kind === "pca");
    $(".unit", button).textContent =
      kind === "umap" ? `trustworthiness ${short(trust)}` : `reaches ${short(pane.reach)}`;
  }
  $("figcaption", figure).textContent =
    (kind === "pca"
      ? "Principal axes fitted on all of these runs together; the bar is a length in ‖z‖/√P, so clouds can be compared by it."
      : "UMAP, fitted on all of these runs together, shows who is whose neighbour and nothing else. It cannot show spread: " +
        "a cloud a hundred times smaller fills the same room, and another seed draws another map. Trustworthiness is " +
        "the degree to which neighbours here are neighbours in feature space (1: all).") +
    ` Held-out images at block ${A.map.block}, seed 0. ${origins(Object.keys(A.map.panes))}`;
  say(
    figure,
    Object.entries(panes)
      .map(
        ([name, pane]) =>
          `${label(name)}: ${kind === "pca" ? `reaches ${short(pane.reach)} from its mean` : `trustworthiness ${short(A.map.panes[name].trustworthiness)}`}.`,
      )
      .join(" "),
  );
  markMaps();
}

function markMaps() {
  for (const button of document.querySelectorAll("#a-map button"))
    button.setAttribute("aria-pressed", button.dataset.condition === atlas.condition);
}

buildAtlas();
parts.push(drawAtlas, drawMaps);
