"use strict";
// The page looks up what was measured and draws it; nothing is computed but means of seeds, ratios and places on paper.

const DATA = JSON.parse(document.getElementById("data").textContent);
const MINUS = "\u2212";
const still = matchMedia("(prefers-reduced-motion: reduce)");

// ---- small helpers ---------------------------------------------------------------------------------------------

const $ = (selector, within = document) => within.querySelector(selector);

function element(name, attributes = {}, ...children) {
  const node = document.createElement(name);
  for (const [key, value] of Object.entries(attributes)) {
    if (key in node && key !== "style") node[key] = value;
    else node.setAttribute(key, value);
  }
  node.append(...children);
  return node;
}

/** A number with three significant digits and a real minus sign. */
function short(value) {
  if (value === null || value === undefined) return "–";
  const size = Math.abs(value);
  const digits = size >= 100 || size === 0 ? 0 : size >= 10 ? 1 : size >= 1 ? 2 : size >= 0.1 ? 3 : 4;
  return (size < 0.001 && size > 0 ? value.toExponential(1) : value.toFixed(digits)).replace("-", MINUS);
}
const shown = (value, metric) => (metric.percent ? `${(100 * value).toFixed(1)} %` : short(value));
const count = (n) => n.toLocaleString("en");
const mean = (values) => values.reduce((sum, value) => sum + value, 0) / values.length;
const unique = (values) => [...new Set(values)];
const css = (name) => getComputedStyle(document.documentElement).getPropertyValue(name).trim();

function bytes(text, Type) {
  return new Type(Uint8Array.from(atob(text), (letter) => letter.charCodeAt(0)).buffer);
}

/** The text twin of a figure: for its graphics, and folded under it. */
function say(figure, text) {
  for (const graphic of figure.querySelectorAll("canvas, svg")) graphic.setAttribute("aria-label", text);
  const twin = $("details p", figure);
  if (twin) twin.textContent = text;
}

// ---- which condition was measured here -------------------------------------------------------------------------

/** As Atlas.snap: the nearest condition among those that have the value of the coordinate that was moved. */
function snap(conditions, wanted, moved) {
  let best = null, least = Infinity;
  for (const [name, { at }] of Object.entries(conditions)) {
    if (at[moved] !== wanted[moved]) continue;
    let apart = 4 * Math.abs(at.alpha - wanted.alpha);
    for (const [key, weight] of Object.entries(DATA.unlike)) if (at[key] !== wanted[key]) apart += weight;
    for (const key of ["lam", "tau"]) {
      apart += Math.abs(Math.log2(Math.max(at[key], DATA.zero) / Math.max(wanted[key], DATA.zero)));
    }
    if (apart < least) [best, least] = [name, apart];
  }
  return best;
}

/** Whether a control has no effect here: without the loss τ and α have none, and two variants have no τ. */
const idle = (at, key) => (at.lam === 0 && (key === "tau" || key === "alpha")) || (key === "tau" && at.tau === 0);

// ---- controls --------------------------------------------------------------------------------------------------

/** A slider over a list of values; its value is one of them. */
function slider(parent, id, label, hint, values, word, onMove) {
  const input = element("input", { type: "range", id, min: 0, max: values.length - 1, step: 1 });
  const output = element("output", { htmlFor: id });
  // The label names its control, else it would be that of the output, which comes first.
  const box = element("label", { className: "control", htmlFor: id }, element("span", {}, label, output), input, element("small", {}, hint));
  parent.append(box);
  let list = values;
  const show = () => {
    output.textContent = word(list[input.value]);
    input.setAttribute("aria-valuetext", output.textContent);
  };
  input.addEventListener("input", () => { show(); onMove(); });
  return {
    get value() { return list[input.value]; },
    set value(value) { input.value = Math.max(0, list.indexOf(value)); show(); },
    set values(values) { list = values; input.max = values.length - 1; input.disabled = values.length < 2; },
    set off(off) { box.classList.toggle("off", off); },
    input,
  };
}

/** A menu over pairs of a value and a word. */
function menu(parent, id, label, options, onMove, inline = false) {
  const select = element("select", { id });
  const fill = (pairs) => select.replaceChildren(...pairs.map(([value, word], i) => element("option", { value: i }, word)));
  let list = options;
  fill(options);
  parent.append(element("label", inline ? {} : { className: "control" }, element("span", {}, label), select));
  select.addEventListener("change", onMove);
  return {
    get value() { return list[select.value][0]; },
    set value(value) { select.value = Math.max(0, list.findIndex(([one]) => one === value)); },
    set options(pairs) { list = pairs; fill(pairs); },
    set off(off) { select.disabled = off; },
    input: select,
  };
}

// ---- drawing ---------------------------------------------------------------------------------------------------

// Points are drawn as their digits, so colour only helps.
const CLASSES = ["--base", "--run", "--good", "#B8589A", "#B58900", "#3E97C9", "--ink", "#B0653A", "--quiet", "#8C6BC8"];

/** A canvas in device pixels, empty; all measures below are in CSS pixels. */
function paper(canvas, height) {
  const width = canvas.clientWidth || 300, ratio = window.devicePixelRatio || 1;
  [canvas.width, canvas.height] = [width * ratio, height * ratio];
  canvas.style.height = `${height}px`;
  const pen = canvas.getContext("2d");
  pen.scale(ratio, ratio);
  return [pen, width];
}

const round125 = (most) => {
  const power = 10 ** Math.floor(Math.log10(most));
  return [5, 2, 1].map((times) => times * power).find((length) => length <= most) ?? power;
};

/** Images as their digits, around their mean; `reach` is half the width in feature units. A bar shows the scale. */
function drawCloud(canvas, points, labels, reach, bar = true) {
  const width = canvas.clientWidth || 300, size = Math.max(9, Math.min(14, width / 24));
  const [pen] = paper(canvas, width);
  const scale = (width / 2 - size) / reach;
  pen.font = `700 ${size}px sans-serif`;
  pen.textAlign = "center";
  pen.textBaseline = "middle";
  labels.forEach((label, i) => {
    pen.fillStyle = classColours[label];
    pen.fillText(label, width / 2 + points[i][0] * scale, width / 2 - points[i][1] * scale);
  });
  if (!bar) return;
  const length = round125(reach * 0.6);
  pen.strokeStyle = pen.fillStyle = css("--quiet");
  pen.lineWidth = 2;
  pen.beginPath();
  pen.moveTo(8, width - 8);
  pen.lineTo(8 + length * scale, width - 8);
  pen.stroke();
  pen.font = "12px sans-serif";
  pen.textAlign = "left";
  pen.fillText(String(length), 8, width - 18);
}

/** Points around their mean, and how far the farthest lies along an axis. */
function centred(points) {
  const middle = [0, 1].map((axis) => mean(points.map((point) => point[axis])));
  const around = points.map((point) => [point[0] - middle[0], point[1] - middle[1]]);
  return { points: around, reach: Math.max(...around.flat().map(Math.abs), 1e-9) };
}

/** Images in ten columns: ink on paper for one channel (first size × size bytes each), else their colours. */
function drawSheet(canvas, pixels, channels, size, label) {
  const columns = 10, rows = pixels.length / (channels * size * size) / columns, cell = size + 1;
  [canvas.width, canvas.height] = [columns * cell - 1, rows * cell - 1];
  const pen = canvas.getContext("2d"), image = pen.createImageData(canvas.width, canvas.height);
  const [ink, ground, gap] = inks;
  for (let i = 0; i < image.data.length; i += 4) image.data.set([...gap, 255], i);
  for (let n = 0; n < rows * columns; n++) {
    const left = (n % columns) * cell, top = Math.floor(n / columns) * cell;
    for (let y = 0; y < size; y++) {
      for (let x = 0; x < size; x++) {
        const at = 4 * ((top + y) * canvas.width + left + x), from = n * channels * size * size + y * size + x;
        for (let c = 0; c < 3; c++) {
          const value = pixels[from + (channels === 1 ? 0 : c * size * size)] / 255;
          image.data[at + c] = channels === 1 ? ground[c] + value * (ink[c] - ground[c]) : 255 * value;
        }
      }
    }
  }
  pen.putImageData(image, 0, 0);
  canvas.setAttribute("aria-label", label);
}

let classColours = [], inks = [];
function readTheme() {
  const rgb = (name) => {
    const hex = css(name).slice(1), long = hex.length === 3 ? [...hex].map((c) => c + c).join("") : hex;
    return [0, 2, 4].map((i) => parseInt(long.slice(i, i + 2), 16));
  };
  classColours = CLASSES.map((colour) => (colour.startsWith("--") ? css(colour) : colour));
  inks = ["--ink", "--card", "--line"].map(rgb);
}

/** An SVG of a box's width, from its inner text: strings are several times faster than nodes one by one. */
function svg(box, height, inside) {
  const width = widths.get(box) ?? box.clientWidth ?? 300;
  widths.set(box, width);
  box.innerHTML = `<svg role="img" viewBox="0 0 ${width} ${height}" height="${height}">${inside(width)}</svg>`;
}
const widths = new Map();

const path = (points) => points.map(([x, y], i) => `${i ? "L" : "M"}${x.toFixed(1)} ${y.toFixed(1)}`).join("");
const text = (x, y, words, more = "") => `<text x="${x.toFixed(1)}" y="${y.toFixed(1)}" ${more}>${words}</text>`;
const line = (x1, y1, x2, y2, colour, more = "") =>
  `<line x1="${x1}" y1="${y1}" x2="${x2}" y2="${y2}" stroke="var(${colour})" ${more}/>`;

/** Two or three round values of an axis. */
function ticks(low, high, log) {
  if (log) {
    const all = [-3, -2, -1, 0, 1, 2].flatMap((power) => [1, 2, 5].map((times) => times * 10 ** power));
    const inside = all.filter((value) => value >= low && value <= high);
    return inside.length > 5 ? inside.filter((value) => /^1|^0\.0*1/.test(String(+value.toPrecision(1)))) : inside;
  }
  const step = round125((high - low) / 2) || 1, first = Math.ceil(low / step);
  return [0, 1, 2, 3, 4, 5].map((i) => +((first + i) * step).toPrecision(6)).filter((value) => value <= high);
}

/**
 * Curves over steps, which stand evenly spaced. Each curve: points [step, value], colour, and whether it is thin or
 * dashed. `level` is a dotted line with a name.
 */
function drawCurves(box, height, { steps, curves, at, low, high, log, level, percent }) {
  const place = log ? Math.log : (value) => value;
  svg(box, height, (width) => {
    const [left, right, top, bottom] = [44, 10, 8, 22];
    const x = (step) => left + (steps.length < 2 ? 0.5 : steps.indexOf(step) / (steps.length - 1)) * (width - left - right);
    const y = (value) =>
      top + (1 - (place(value) - place(low)) / (place(high) - place(low) || 1)) * (height - top - bottom);
    let out = "";
    for (const tick of ticks(low, high, log)) {
      const word = percent ? `${Math.round(100 * tick)} %` : String(tick).replace("-", MINUS);
      out += line(left, y(tick), width - right, y(tick), "--line") + text(left - 5, y(tick) + 4, word, 'text-anchor="end"');
    }
    const taken = [];  // words that would run into one another are left out, that of the step shown last of all
    for (const step of unique([at, steps[0], steps.at(-1), ...steps]).filter((one) => steps.includes(one))) {
      const half = 3.6 * count(step).length + 3;
      if (taken.some(([middle, other]) => Math.abs(middle - x(step)) < half + other)) continue;
      taken.push([x(step), half]);
      const bold = step === at ? ' font-weight="700" style="fill:var(--ink)"' : "";
      out += text(x(step), height - 5, count(step), `text-anchor="middle"${bold}`);
    }
    if (steps.includes(at)) out += line(x(at), top, x(at), height - bottom, "--quiet", 'stroke-dasharray="3 3"');
    if (level) {
      out += line(left, y(level.value), width - right, y(level.value), "--ink", 'stroke-width="1.5" stroke-dasharray="2 4"');
      out += text(width - right, y(level.value) + 14, level.name, 'text-anchor="end" style="fill:var(--ink)"');
    }
    for (const { points, colour, thin, dashed } of curves) {
      const ends = points.map(([step, value]) => [x(step), y(value)]);
      const style = `fill="none" stroke="var(${colour})" stroke-width="${thin ? 1 : 2.5}" opacity="${thin ? 0.45 : 1}"`;
      out += `<path d="${path(ends)}" ${style} ${dashed ? 'stroke-dasharray="6 4"' : ""}/>`;
      ends.forEach(([cx, cy], i) => {
        const here = points[i][0] === at;
        if (here || thin || points.length < 3) {
          const radius = thin ? 2.5 : here ? 5.5 : 3.5;
          out += `<circle cx="${cx.toFixed(1)}" cy="${cy.toFixed(1)}" r="${radius}" fill="var(${colour})" opacity="${thin ? 0.55 : 1}"/>`;
        }
      });
    }
    return out;
  });
}

// ---- the playground --------------------------------------------------------------------------------------------

const P = DATA.playground;
const names = Object.keys(P.conditions), baseline = names[0];
const places = bytes(P.places, Int16Array), sheets = bytes(P.samples, Uint8Array);
const GAUGES = [
  ["feature_norm", "Size of features", "‖z‖/√P", true],
  ["effective_rank", "Directions in use", "effective rank", false],
  ["dispersive", "Dispersive Loss and its floor", "L_disp", false],
  ["loss_held_out", "Loss on held-out images", "lower is better", true],
];

const number = (name, age, key) => P.conditions[name].numbers[age][P.names.indexOf(key)];

function cloud(name, age) {
  const first = 2 * P.classes.length * (names.indexOf(name) * P.ages.length + age);
  return centred(P.classes.map((_, i) => [places[first + 2 * i] * P.unit, places[first + 2 * i + 1] * P.unit]));
}
function sheet(name, age) {
  const size = sheets.length / names.length / P.ages.length, first = size * (names.indexOf(name) * P.ages.length + age);
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
    ends.set(id, key === "loss_held_out" || key === "feature_norm" ? [low * 0.94, high * 1.06] : [low - 0.17 * (high - low), high + 0.05 * (high - low)]);
  }
  return ends.get(id);
}

const playground = { condition: null, age: P.ages.length - 1 };

function buildPlayground() {
  const box = $("#p-controls"), controls = {};
  const move = (key) => () => movePlayground(key);
  const choices = (key) => unique(names.map((name) => P.conditions[name].at[key])).sort((a, b) => a - b);
  controls.age = slider(box, "p-age", "training step", "0 is before training", P.ages.map((_, i) => i), (i) => count(P.ages[i]), move("age"));
  const paper05 = (value) => (value === 0.5 ? "0.5 (paper)" : String(value));
  controls.lam = slider(box, "p-lam", "λ", "strength of the push; 0 is the baseline", choices("lam"), paper05, move("lam"));
  controls.tau = slider(box, "p-tau", "τ", "its reach; larger reaches further", choices("tau").filter(Boolean), paper05, move("tau"));
  controls.alpha = slider(box, "p-alpha", "α", "pull between two views; 1 is contrastive", choices("alpha"), String, move("alpha"));
  controls.variant = menu(box, "p-variant", "variant of the loss", Object.entries(P.variants), move("variant"));
  const play = element("button", { type: "button", id: "p-play" }, "▶ play the training");
  box.append(element("span", { className: "control" }, element("span", {}, "film"), play));
  let film = null;
  const stop = () => { clearInterval(film); film = null; play.textContent = "▶ play the training"; };
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
  controls.scale = menu($("#p-scale"), "p-zoom", "scale:", [["same", "the same for both"], ["own", "each cloud its own"]], () => drawPlayground(), true);
  playground.controls = controls;
  const gauges = $("#p-gauges .gauges");
  for (const [key, title, unit] of GAUGES) {
    const values = element("div", {}, element("b", { className: "run" }), element("span", { className: "base" }));
    gauges.append(element("div", { className: "gauge", id: `p-${key}` }, element("h3", {}, title), element("span", { className: "unit" }, unit), values, element("div", { className: "plot" })));
  }
  playground.condition = names.find((name) => P.conditions[name].at.lam === 0.5 && P.conditions[name].at.tau === 0.5) ?? baseline;
  const at = P.conditions[playground.condition].at;
  for (const key of ["lam", "tau", "alpha", "variant"]) controls[key].value = at[key];
  controls.age.value = playground.age;
  $("#p-origin").textContent = `Where these numbers come from: ${P.origin} Written on ${P.made}. One seed; the atlas has more.`;
}

function movePlayground(moved) {
  const { controls } = playground, now = P.conditions[playground.condition].at;
  playground.age = controls.age.value;
  $("#p-moved").textContent = "";
  if (moved !== "age") {
    const wanted = { ...now, alpha: controls.alpha.value, lam: controls.lam.value, tau: controls.tau.value, variant: controls.variant.value };
    wanted.noise = wanted.alpha > 0 ? "independent" : "one view";
    const without = wanted.lam === 0 && moved !== "variant";
    if (without || idle(now, moved)) {
      if (without) playground.condition = baseline;
      if (moved !== "lam") $("#p-moved").textContent = without ? "Without the loss (λ = 0), τ and α change nothing." : "This variant has no τ.";
    } else {
      playground.condition = snap(P.conditions, wanted, moved);
      const at = P.conditions[playground.condition].at, also = [];
      for (const [key, name] of [["lam", "λ"], ["tau", "τ"], ["alpha", "α"], ["variant", "variant"]]) {
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
  const { condition, age, controls } = playground, step = P.ages[age], run = P.conditions[condition];
  const alone = condition === baseline;
  const own = (key) => number(condition, age, key), base = (key) => number(baseline, age, key);
  for (const key of ["tau", "alpha"]) controls[key].off = idle(run.at, key);
  Object.assign($("#playground").dataset, { condition, step });
  $("#p-shown").textContent = `${run.label}, after ${count(step)} steps.`;
  $("#p-headline").textContent = headline(alone, age, own, base);
  drawClouds(condition, age, alone);
  drawDistances(condition, age, alone);
  drawGauges(condition, age, alone);
  const figure = $("#p-samples"), [left, right] = figure.querySelectorAll("canvas");
  drawSheet(left, sheet(baseline, age), 1, 8, `20 samples of the baseline after ${count(step)} steps`);
  drawSheet(right, sheet(condition, age), 1, 8, `20 samples of ${run.label} after ${count(step)} steps`);
  $("h3.run", figure).textContent = alone ? "the same" : run.label;
  $("figcaption", figure).textContent = "Twenty samples each, from the same noise and for the digits 0 to 9 in turn: what differs is what training made of the push.";
}

function headline(alone, age, own, base) {
  if (age === 0) return "Before training all runs are the same network: same weights, same clouds, and samples that are noise.";
  const spread = `the features of two images lie ${short(own("mean_pairwise_distance"))} apart on average`;
  if (alone) return `Without the push, ${spread}. Choose a λ above 0 to see what it changes.`;
  const times = own("mean_pairwise_distance") / base("mean_pairwise_distance");
  const apart = times >= 1.05 ? `${short(times)} times as far apart as the baseline's` : times > 0.95 ? "about as far apart as the baseline's" : `closer together than the baseline's, at ${short(times)} of its spread`;
  const gap = own("dispersive") - own("floor"), span = Math.abs(own("baseline_dispersive") - own("floor")) || 1;
  const floor = gap < 0.02 * span ? "the loss is at its floor: nothing is left to push" : `L_disp is ${short(own("dispersive"))}, its floor ${short(own("floor"))}`;
  const held = own("loss_held_out"), other = base("loss_held_out");
  const worse = Math.abs(held / other - 1) < 0.003 ? "about the same as" : held > other ? "worse than" : "better than";
  return `The features of two images lie ${apart}; ${floor}. On held-out images the model predicts ${worse} the baseline (loss ${short(held)} against ${short(other)}).`;
}

function drawClouds(condition, age, alone) {
  const figure = $("#p-cloud"), clouds = [baseline, condition].map((name) => cloud(name, age));
  const same = playground.controls.scale.value === "same", reach = Math.max(clouds[0].reach, clouds[1].reach);
  const run = P.conditions[condition];
  figure.querySelectorAll("canvas").forEach((canvas, i) => {
    drawCloud(canvas, clouds[i].points, P.classes, 1.05 * (same ? reach : clouds[i].reach));
  });
  $("h3.run", figure).textContent = alone ? "the same" : run.label;
  const share = (name) => `${short(100 * P.conditions[name].shares[age])} %`;
  $("figcaption", figure).textContent = `Each digit is a held-out image at t = ${P.t}, seen by its features at block ${P.block}, around their mean; the bar is a length in ‖z‖/√P, ${same ? "the same in both panes" : "another in each pane"}. The two axes are the same for all runs and steps. They hold ${share(baseline)} of the baseline's variance and ${share(condition)} of this run's, so read spread from the distances.`;
  say(figure, `The baseline's cloud reaches ${short(clouds[0].reach)} from its mean along an axis, that of ${alone ? "this run is the same" : `${run.label} ${short(clouds[1].reach)}`}.`);
}

function drawDistances(condition, age, alone) {
  const figure = $("#p-distances"), { edges } = P, run = P.conditions[condition], pairs = P.images * (P.images - 1) / 2;
  const counts = [baseline, condition].map((name) => P.conditions[name].counts[age]);
  const most = Math.max(...counts.flat());
  svg($(".plot", figure), 300, (width) => {
    const [left, right, top, bottom] = [6, 6, 40, 40], height = 300, low = Math.log(edges[0]), high = Math.log(edges.at(-1));
    const x = (value) => left + (Math.log(value) - low) / (high - low) * (width - left - right);
    const y = (value) => top + (1 - value / most) * (height - top - bottom);
    let out = line(left, y(0), width - right, y(0), "--line");
    for (const tick of [0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1, 2, 5, 10, 20].filter((t) => t >= edges[0] && t <= edges.at(-1))) {
      out += line(x(tick), y(0), x(tick), y(0) + 5, "--quiet") + text(x(tick), y(0) + 17, tick, 'text-anchor="middle"');
    }
    out += text(width / 2, height - 4, "distance of two images' features, ‖z − z′‖/√P", 'text-anchor="middle"');
    const outline = (values) => [[x(edges[0]), y(0)], ...values.flatMap((value, i) => [[x(edges[i]), y(value)], [x(edges[i + 1]), y(value)]]), [x(edges.at(-1)), y(0)]];
    counts.forEach((values, i) => {
      if (i && alone) return;
      const colour = i ? "--run" : "--base";
      out += `<path d="${path(outline(values))}Z" fill="var(${colour})" fill-opacity=".22" stroke="var(${colour})" stroke-width="1.8" ${i ? "" : 'stroke-dasharray="5 3"'}/>`;
      const peak = values.indexOf(Math.max(...values)), middle = x((edges[peak] + edges[peak + 1]) / 2);
      const anchor = middle < width * 0.25 ? "start" : middle > width * 0.75 ? "end" : "middle";
      out += text(middle, y(values[peak]) - 5, i ? "this run" : "baseline", `text-anchor="${anchor}" style="fill:var(${colour})" font-weight="700"`);
    });
    if (run.reach && !alone) {
      const mark = x(run.reach.value);
      out += line(mark, 16, mark, y(0), "--ink", 'stroke-width="1.5" stroke-dasharray="2 3"');
      out += text(mark, 12, `${run.reach.symbol} = ${short(run.reach.value)}: reach of the push`, `text-anchor="${mark > width * 0.6 ? "end" : mark < width * 0.4 ? "start" : "middle"}" style="fill:var(--ink)"`);
    }
    return out;
  });
  const spreads = [baseline, condition].map((name) => short(number(name, age, "mean_pairwise_distance")));
  const beyond = run.reach && !alone
    ? run.reach.symbol === "√τ" ? ` A pair at ${run.reach.symbol} has e⁻¹ of the weight of one that coincides; far beyond, pairs are left alone.` : ` Beyond ${run.reach.symbol}, pairs are left alone.`
    : alone ? "" : " This variant does not look at distances.";
  $("figcaption", figure).textContent = `All ${count(pairs)} pairs of ${P.images} held-out images, on a logarithmic axis: equal steps are equal factors.${beyond}`;
  say(figure, `Mean distance of two images: baseline ${spreads[0]}${alone ? "" : `, this run ${spreads[1]}`}.${beyond}`);
}

function drawGauges(condition, age, alone) {
  const words = [];
  for (const [key, title, , log] of GAUGES) {
    const box = $(`#p-${key}`), run = P.conditions[condition], disp = key === "dispersive";
    const other = disp ? number(condition, age, "baseline_dispersive") : number(baseline, age, key);
    const value = number(condition, age, key), floor = number(condition, age, "floor");
    $("b", box).textContent = short(value);
    $(".base", box).textContent = alone ? "baseline" : `baseline ${short(other)}`;
    const [low, high] = range(key, run.at.variant);
    const along = (name, one) => P.ages.map((step, i) => [step, number(name, i, one)]);
    const base = disp ? along(condition, "baseline_dispersive") : along(baseline, key);
    const curves = [{ points: base, colour: "--base", dashed: true }];
    if (!alone) curves.push({ points: along(condition, key), colour: "--run" });
    const level = disp && floor > -Infinity ? { value: floor, name: `floor ${short(floor)}` } : null;
    drawCurves($(".plot", box), 140, { steps: P.ages, curves, at: P.ages[age], low, high, log, level });
    words.push(`${title}: ${short(value)}${alone ? "" : `, baseline ${short(other)}`}${disp ? `, floor ${short(floor)}` : ""}.`);
  }
  $("#p-gauges figcaption").textContent = "Along training steps, which stand evenly spaced. Dashed blue: the baseline; orange: this run. L_disp of both is by this run's variant and τ, on 128 held-out images. The scales of size and loss are logarithmic.";
  say($("#p-gauges"), words.join(" "));
}

// ---- the atlas -------------------------------------------------------------------------------------------------

const A = DATA.atlas;
const NAMES = { model: "model", dataset: "data", lam: "λ", tau: "τ", alpha: "α", variant: "variant", block: "pushed block", noise: "second view", also: "besides" };
const SIGNS = { better: ["better", "▲"], worse: ["worse", "▼"], different: ["different", "◆"], "no difference shown": ["none", "○"] };
const atlas = { condition: null };
const sheetsOf = new Map();

const label = (name) => {
  const [condition, early] = name.split("@");
  return (A.conditions[condition]?.label ?? condition) + (early ? `, after ${count(+early)} steps` : "");
};

function buildAtlas() {
  $("#atlas").hidden = false;
  const box = $("#a-controls"), controls = {}, move = (key) => () => moveAtlas(key);
  const word = { variant: (v) => A.variants[v], dataset: (v) => v.replace("-", ", ") };
  const pairs = (key) => A.choices[key].map((value) => [value, (word[key] ?? String)(value)]);
  controls.question = menu(box, "a-question", "question", Object.entries(A.questions), move("question"));
  controls.measure = menu(box, "a-measure", "show", Object.entries(A.metrics).map(([key, m]) => [key, m.label]), move("measure"));
  controls.age = slider(box, "a-age", "training step", "at which it was measured", [0], count, move("age"));
  controls.layer = slider(box, "a-layer", "seen at block", "for metrics of features", [0], String, move("layer"));
  for (const key of ["lam", "tau", "alpha"]) {
    const words = (value) => (key === "tau" && value === 0 ? "none" : String(value));
    controls[key] = slider(box, `a-${key}`, NAMES[key], { lam: "0 is the baseline", tau: "reach of the push", alpha: "1 is contrastive" }[key], A.choices[key], words, move(key));
  }
  for (const key of ["variant", "block", "noise", "model", "dataset", "also"]) controls[key] = menu(box, `a-${key}`, NAMES[key], pairs(key), move(key));
  controls.projection = menu($("#a-projection"), "a-kind", "map:", [["pca", "PCA: keeps scale"], ["umap", "UMAP: neighbourhoods only"]], () => drawMaps(), true);
  controls.zoom = menu($("#a-projection"), "a-zoom", "scale:", [["own", "each its own"], ["same", "one for all"]], () => drawMaps(), true);
  atlas.controls = controls;
  for (const name of Object.keys(A.map.panes)) {
    const button = element("button", { type: "button" }, element("span", {}, label(name)), element("canvas", { role: "img" }), element("span", { className: "unit" }));
    button.dataset.condition = name;
    button.addEventListener("click", () => choose(name));
    $("#a-map .maps").append(button);
  }
  atlas.condition = "coarse-dispersive" in A.conditions ? "coarse-dispersive" : Object.keys(A.conditions)[0];
  controls.measure.value = "frechet";
  showCoordinates();
  fitPlace();
  $("#a-origin").textContent = `Where these numbers come from: ${A.about} Written on ${A.made}. Intervals: Student's t of differences by seed, 95 %, not corrected for the number of comparisons.`;
  drawAtlas();
  drawMaps();
}

const choose = (name) => { atlas.condition = name; $("#a-moved").textContent = ""; showCoordinates(); fitPlace(); drawAtlas(); markMaps(); };

function showCoordinates() {
  for (const key of Object.keys(NAMES)) atlas.controls[key].value = A.conditions[atlas.condition].at[key];
}

/** Entries [step, block, sampler, values by seed] of a condition and metric, by its first sampler. */
function entries(condition, measure) {
  const all = A.values[condition]?.[measure] ?? [];
  return all.filter((entry) => entry[2] === all[0][2]);
}

/** Let the sliders of step and block offer what was measured of this run, and keep their places where they can. */
function fitPlace(step, layer) {
  const { controls, condition } = atlas, own = entries(condition, controls.measure.value), info = A.conditions[condition];
  const steps = unique(own.map((entry) => entry[0])).sort((a, b) => a - b);
  const layers = unique(own.map((entry) => entry[1])).filter((block) => block !== null).sort((a, b) => a - b);
  controls.age.values = steps.length ? steps : [info.step];
  controls.age.value = steps.includes(step) ? step : steps.includes(info.step) ? info.step : steps[0] ?? info.step;
  controls.layer.values = layers.length ? layers : [info.block];
  controls.layer.value = layers.includes(layer) ? layer : info.block;
  controls.layer.off = !layers.length;
}

function moveAtlas(moved) {
  const { controls } = atlas, place = [controls.age.value, controls.layer.value];
  if (moved in NAMES) {
    const wanted = Object.fromEntries(Object.keys(NAMES).map((key) => [key, controls[key].value]));
    atlas.condition = snap(A.conditions, wanted, moved);
    const at = A.conditions[atlas.condition].at;
    const also = Object.keys(NAMES).filter((key) => at[key] !== wanted[key]).map((key) => `${NAMES[key]} = ${A.variants[at[key]] ?? at[key]}`);
    $("#a-moved").textContent = also.length ? `No run was made there; the nearest has ${also.join(", ")}.` : "";
    showCoordinates();
    markMaps();
  }
  if (moved === "question" && !A.findings.some((row) => row.question === controls.question.value && row.measure === controls.measure.value)) {
    controls.measure.value = A.findings.find((row) => row.question === controls.question.value).measure;
  }
  fitPlace(...place);
  drawAtlas();
}

function drawAtlas() {
  const { condition, controls } = atlas, info = A.conditions[condition], measure = controls.measure.value;
  Object.assign($("#atlas").dataset, { condition, measure, step: controls.age.value, block: controls.layer.value });
  $("#a-shown").textContent = `${info.label} (${condition}).`;
  const row = A.findings.find((one) => one.condition === condition && one.against === info.baseline && one.measure === measure && one.step === controls.age.value && (one.block === null || one.block === controls.layer.value));
  const metric = A.metrics[measure], values = valuesAt(condition), others = valuesAt(info.baseline);
  const sides = { better: "better than its baseline by more than seeds explain", worse: "worse than its baseline by more than seeds explain", different: "different from its baseline by more than seeds explain", "no difference shown": "not told apart from its baseline by these seeds" };
  $("#a-headline").textContent = !values
    ? `${metric.label} was not measured for this run: choose another metric.`
    : `${metric.label}: ${shown(mean(Object.values(values)), metric)} over ${Object.keys(values).length} seeds` +
      (condition === info.baseline ? ". This is a baseline: choose a λ above 0." : (others ? `, its baseline ${shown(mean(Object.values(others)), metric)}` : "") + (row ? `. Difference by seed ${row.text}: ${sides[row.side]}.` : ". No question of the atlas compares the two here."));
  drawFindings();
  drawAges();
  const figure = $("#a-samples");
  figure.querySelectorAll("canvas").forEach((canvas, i) => {
    const name = i ? condition : info.baseline, { shape, bytes: encoded } = A.samples[name];
    if (!sheetsOf.has(name)) sheetsOf.set(name, bytes(encoded, Uint8Array));
    drawSheet(canvas, sheetsOf.get(name), shape[0], shape[1], `20 samples of ${label(name)}`);
  });
  $("h3.base", figure).textContent = label(info.baseline);
  $("h3.run", figure).textContent = condition === info.baseline ? "the same" : info.label;
  $("figcaption", figure).textContent = `Seed 0 after ${count(info.step)} steps, the same noise and labels for both. ${origins([condition, info.baseline])}`;
}

/** Seeds, commits and machines of some conditions. */
function origins(conditions) {
  const all = unique(conditions).map((name) => A.conditions[name.split("@")[0]]).filter(Boolean);
  const seeds = unique(all.map((one) => one.seeds)).sort().join(" or "), list = (key) => unique(all.flatMap((one) => one[key])).join(", ");
  return `${seeds} seeds a run; commits ${list("commits")}; ${list("machines")}.`;
}

function valuesAt(condition, step = atlas.controls.age.value) {
  const layer = atlas.controls.layer.value;
  return entries(condition, atlas.controls.measure.value).find((entry) => entry[0] === step && (entry[1] === null || entry[1] === layer))?.[3];
}

function drawFindings() {
  const { controls } = atlas, figure = $("#a-findings"), measure = controls.measure.value, metric = A.metrics[measure];
  let rows = A.findings.filter((row) => row.question === controls.question.value && row.measure === measure);
  const narrow = (key, value) => { if (rows.some((row) => row[key] === value)) rows = rows.filter((row) => row[key] === value || row[key] === null); };
  narrow("block", controls.layer.value);
  narrow("step", controls.age.value);
  const steps = unique(rows.map((row) => row.step)), against = unique(rows.map((row) => row.against)), samplers = unique(rows.map((row) => row.sampler));
  $("h2", figure).textContent = A.questions[controls.question.value];
  const ends = rows.flatMap((row) => [row.low ?? row.difference, row.high ?? row.difference, 0]).filter((value) => value !== null);
  const [low, high] = [Math.min(...ends), Math.max(...ends)], pad = 0.04 * (high - low) || 1;
  const at = (value) => 100 * (value - low + pad) / (high - low + 2 * pad);
  const lines = rows.map((row) => {
    const [kind, sign] = SIGNS[row.side], track = element("span", { className: `track ${kind}`, style: `--zero:${at(0)}%` });
    if (row.low !== null) track.append(element("i", { style: `left:${at(row.low)}%;width:${at(row.high) - at(row.low)}%` }));
    track.append(element("b", { style: `left:${at(row.difference)}%` }));
    const usual = row.against === A.conditions[row.condition.split("@")[0]].baseline;
    const more = [against.length > 1 && !usual ? `against ${label(row.against)}` : "", steps.length > 1 ? `step ${count(row.step)}` : "", samplers.length > 1 ? row.sampler : ""];
    const name = [label(row.condition), ...more.filter(Boolean)].join("; ");
    const button = element("button", { type: "button", className: "row" }, element("span", {}, name), track, element("em", { className: kind }, `${sign} ${row.text.replaceAll("-", MINUS)}`));
    button.setAttribute("aria-pressed", row.condition === atlas.condition);
    button.dataset.condition = row.condition;
    button.addEventListener("click", () => choose(row.condition.split("@")[0]));
    return button;
  });
  const axis = element("div", { className: "axis" }, ...ticks(low, high, false).map((tick) => element("span", { style: `left:${at(tick)}%` }, String(tick).replace("-", MINUS))));
  const held = document.activeElement?.closest?.("#a-findings .row")?.dataset.condition;
  const list = $(".rows", figure);
  list.replaceChildren(...lines, element("div", { className: "row", style: "cursor:default" }, element("span", {}), axis, element("span", {})));
  if (held) $(`[data-condition="${held}"]`, list)?.focus();
  const way = metric.direction < 0 ? "left is better" : metric.direction > 0 ? "right is better" : "neither side is better";
  $("figcaption", figure).textContent = rows.length
    ? `${metric.label}: each run minus ${against.length > 1 ? "its baseline, or what it is set against" : label(against[0])}, mean and 95 % interval over seeds; ${way}. ${steps.length === 1 ? `After ${count(steps[0])} steps` : "At the steps named"}${rows[0].block === null ? "" : `, at block ${unique(rows.map((row) => row.block)).join(", ")}`}${samplers.length === 1 && samplers[0] ? `; samples by ${samplers[0]}` : ""}. ${origins(rows.flatMap((row) => [row.condition, row.against]))}`
    : `${metric.label} was not compared for this question: choose another metric.`;
  const kinds = Object.keys(SIGNS).map((kind) => [rows.filter((row) => row.side === kind).length, kind]).filter(([n]) => n);
  say(figure, `${kinds.map(([n, kind]) => `${n} ${kind}`).join(", ")}.\n${rows.map((row) => `${label(row.condition)}: ${row.text}, ${row.side}.`).join("\n")}`);
}

function drawAges() {
  const { condition, controls } = atlas, figure = $("#a-ages"), measure = controls.measure.value, metric = A.metrics[measure];
  const { baseline } = A.conditions[condition], layer = controls.layer.value, curves = [], words = [];
  const pair = condition === baseline ? [[baseline, "--base"]] : [[baseline, "--base"], [condition, "--run"]];
  for (const [name, colour] of pair) {
    const own = entries(name, measure).filter((entry) => entry[1] === null || entry[1] === layer).sort((a, b) => a[0] - b[0]);
    for (const seed of unique(own.flatMap((entry) => Object.keys(entry[3])))) {
      curves.push({ points: own.filter((entry) => seed in entry[3]).map((entry) => [entry[0], entry[3][seed]]), colour, thin: true });
    }
    curves.push({ points: own.map((entry) => [entry[0], mean(Object.values(entry[3]))]), colour, dashed: colour === "--base" });
    words.push(`${label(name)}: ${own.map((entry) => `step ${count(entry[0])} ${shown(mean(Object.values(entry[3])), metric)} (${Object.keys(entry[3]).length} seeds)`).join(", ") || "not measured"}.`);
  }
  const steps = unique(curves.flatMap((curve) => curve.points.map(([step]) => step))).sort((a, b) => a - b);
  const real = A.real[A.conditions[condition].images]?.[measure], all = curves.flatMap((curve) => curve.points.map((point) => point[1])).filter((value) => value !== null);
  if (real !== undefined) all.push(real);
  const [low, high] = [Math.min(...all), Math.max(...all)], pad = 0.1 * (high - low) || 0.1 * Math.abs(high) || 1;
  const level = real === undefined ? null : { value: real, name: "real images" };
  if (all.length) drawCurves($(".plot", figure), 260, { steps, curves, at: controls.age.value, low: low - (level ? 1.6 : 1) * pad, high: high + pad, level, percent: metric.percent });
  else $(".plot", figure).textContent = "Not measured for this run.";
  $("h2", figure).textContent = `${metric.title}, seed by seed`;
  $("figcaption", figure).innerHTML = `<span class="base">Dashed: the baseline</span>; <span class="run">solid: this run</span>. Thick lines are means, thin ones seeds; steps stand evenly spaced.`;
  say(figure, words.join(" ") + (real === undefined ? "" : ` Real images: ${shown(real, metric)}.`));
}

function drawMaps() {
  const { controls } = atlas, kind = controls.projection.value, unit = A.map.units[kind], figure = $("#a-map");
  const panes = Object.fromEntries(Object.entries(A.map.panes).map(([name, pane]) => {
    const flat = bytes(pane[kind], Int16Array);
    return [name, centred(A.map.labels.map((_, i) => [flat[2 * i] * unit, flat[2 * i + 1] * unit]))];
  }));
  const widest = Math.max(...Object.values(panes).map((pane) => pane.reach)), own = controls.zoom.value === "own";
  for (const button of figure.querySelectorAll("button")) {
    const pane = panes[button.dataset.condition], trust = A.map.panes[button.dataset.condition].trustworthiness;
    drawCloud($("canvas", button), pane.points, A.map.labels, 1.08 * (own ? pane.reach : widest), kind === "pca");
    $(".unit", button).textContent = kind === "umap" ? `trustworthiness ${short(trust)}` : `reaches ${short(pane.reach)}`;
  }
  $("figcaption", figure).textContent = (kind === "pca"
    ? "Principal axes fitted on all of these runs together; the bar is a length in ‖z‖/√P, so clouds can be compared by it."
    : "UMAP, fitted on all of these runs together, shows who is whose neighbour and nothing else. It cannot show spread: a cloud a hundred times smaller fills the same room, and another seed draws another map. Trustworthiness is the degree to which neighbours here are neighbours in feature space (1: all).") +
    ` Held-out images at block ${A.map.block}, seed 0. ${origins(Object.keys(A.map.panes))}`;
  say(figure, Object.entries(panes).map(([name, pane]) => `${label(name)}: ${kind === "pca" ? `reaches ${short(pane.reach)} from its mean` : `trustworthiness ${short(A.map.panes[name].trustworthiness)}`}.`).join(" "));
  markMaps();
}

function markMaps() {
  for (const button of document.querySelectorAll("#a-map button")) button.setAttribute("aria-pressed", button.dataset.condition === atlas.condition);
}

// ---- start -----------------------------------------------------------------------------------------------------

function redraw() {
  readTheme();
  widths.clear();
  drawPlayground();
  if (A) { drawAtlas(); drawMaps(); }
}
readTheme();
buildPlayground();
drawPlayground();
if (A) buildAtlas();
matchMedia("(prefers-color-scheme: dark)").addEventListener("change", redraw);
let waiting = null;
window.addEventListener("resize", () => { clearTimeout(waiting); waiting = setTimeout(redraw, 100); });
