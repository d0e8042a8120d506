"use strict";
// Controls and drawing, for both parts of the page. A part looks up what was measured and draws it; nothing is computed
// but means over seeds, ratios and places on paper. Each part adds to `parts` the function that draws it anew.

const DATA = JSON.parse(document.getElementById("data").textContent);
const MINUS = "\u2212";
const parts = [];

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

const sentence = (words) => words[0].toUpperCase() + words.slice(1);

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
  let best = null,
    least = Infinity;
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
  const box = element(
    "label",
    { className: "control", htmlFor: id },
    element("span", {}, label, output),
    input,
    element("small", {}, hint),
  );
  parent.append(box);
  let list = values;
  const show = () => {
    output.textContent = word(list[input.value]);
    input.setAttribute("aria-valuetext", output.textContent);
  };
  input.addEventListener("input", () => {
    show();
    onMove();
  });
  return {
    get value() {
      return list[input.value];
    },
    set value(value) {
      input.value = Math.max(0, list.indexOf(value));
      show();
    },
    set values(values) {
      list = values;
      input.max = values.length - 1;
      input.disabled = values.length < 2;
    },
    set off(off) {
      box.classList.toggle("off", off);
    },
    input,
  };
}

/** A menu over pairs of a value and a word. */
function menu(parent, id, label, options, onMove, inline = false) {
  const select = element("select", { id });
  const fill = (pairs) =>
    select.replaceChildren(...pairs.map(([value, word], i) => element("option", { value: i }, word)));
  let list = options;
  fill(options);
  parent.append(element("label", inline ? {} : { className: "control" }, element("span", {}, label), select));
  select.addEventListener("change", onMove);
  return {
    get value() {
      return list[select.value][0];
    },
    set value(value) {
      select.value = Math.max(
        0,
        list.findIndex(([one]) => one === value),
      );
    },
    set options(pairs) {
      list = pairs;
      fill(pairs);
    },
    set off(off) {
      select.disabled = off;
    },
    input: select,
  };
}

// ---- drawing ---------------------------------------------------------------------------------------------------

// Points are drawn as their digits, so colour only helps.
const CLASSES = [
  "--base",
  "--run",
  "--good",
  "#B8589A",
  "#B58900",
  "#3E97C9",
  "--ink",
  "#B0653A",
  "--quiet",
  "#8C6BC8",
];

/** A canvas in device pixels, empty; all measures below are in CSS pixels. */
function paper(canvas, height) {
  const width = widthOf(canvas),
    ratio = window.devicePixelRatio || 1;
  [canvas.width, canvas.height] = [width * ratio, height * ratio];
  if (canvas.style.height !== `${height}px`) canvas.style.height = `${height}px`;
  const pen = canvas.getContext("2d");
  pen.scale(ratio, ratio);
  return [pen, width];
}

/** The width of a canvas or box, kept until the window's changes: asking the page makes it lay itself out. */
function widthOf(box) {
  if (!widths.has(box)) widths.set(box, box.clientWidth || 300);
  return widths.get(box);
}
const widths = new Map();

const round125 = (most) => {
  const power = 10 ** Math.floor(Math.log10(most));
  return [5, 2, 1].map((times) => times * power).find((length) => length <= most) ?? power;
};

/** Images as their digits, around their mean; `reach` is half the width in feature units. A bar shows the scale. */
function drawCloud(canvas, points, labels, reach, bar = true) {
  const width = widthOf(canvas),
    size = Math.max(9, Math.min(14, width / 24));
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
  pen.strokeStyle = pen.fillStyle = quiet;
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
  const columns = 10,
    rows = pixels.length / (channels * size * size) / columns,
    cell = size + 1;
  [canvas.width, canvas.height] = [columns * cell - 1, rows * cell - 1];
  const pen = canvas.getContext("2d"),
    image = pen.createImageData(canvas.width, canvas.height);
  const [ink, ground, gap] = inks;
  for (let i = 0; i < image.data.length; i += 4) image.data.set([...gap, 255], i);
  for (let n = 0; n < rows * columns; n++) {
    const left = (n % columns) * cell,
      top = Math.floor(n / columns) * cell;
    for (let y = 0; y < size; y++) {
      for (let x = 0; x < size; x++) {
        const at = 4 * ((top + y) * canvas.width + left + x),
          from = n * channels * size * size + y * size + x;
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

let classColours = [],
  inks = [],
  quiet = "";
function readTheme() {
  const rgb = (name) => {
    const hex = css(name).slice(1),
      long = hex.length === 3 ? [...hex].map((c) => c + c).join("") : hex;
    return [0, 2, 4].map((i) => parseInt(long.slice(i, i + 2), 16));
  };
  classColours = CLASSES.map((colour) => (colour.startsWith("--") ? css(colour) : colour));
  quiet = css("--quiet");
  inks = ["--ink", "--card", "--line"].map(rgb);
}

/** An SVG of a box's width, from its inner text: strings are several times faster than nodes one by one. */
function svg(box, height, inside) {
  const width = widthOf(box);
  box.innerHTML = `<svg role="img" viewBox="0 0 ${width} ${height}" height="${height}">${inside(width)}</svg>`;
}

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
  const step = round125((high - low) / 2) || 1,
    first = Math.ceil(low / step);
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
    const x = (step) =>
      left + (steps.length < 2 ? 0.5 : steps.indexOf(step) / (steps.length - 1)) * (width - left - right);
    const y = (value) =>
      top + (1 - (place(value) - place(low)) / (place(high) - place(low) || 1)) * (height - top - bottom);
    let out = "";
    for (const tick of ticks(low, high, log)) {
      const word = percent ? `${Math.round(100 * tick)} %` : String(tick).replace("-", MINUS);
      out +=
        line(left, y(tick), width - right, y(tick), "--line") + text(left - 5, y(tick) + 4, word, 'text-anchor="end"');
    }
    const taken = []; // words that would run into one another are left out, that of the step shown last of all
    for (const step of unique([at, steps[0], steps.at(-1), ...steps]).filter((one) => steps.includes(one))) {
      const half = 3.6 * count(step).length + 3;
      if (taken.some(([middle, other]) => Math.abs(middle - x(step)) < half + other)) continue;
      taken.push([x(step), half]);
      const bold = step === at ? ' font-weight="700" style="fill:var(--ink)"' : "";
      out += text(x(step), height - 5, count(step), `text-anchor="middle"${bold}`);
    }
    if (steps.includes(at)) out += line(x(at), top, x(at), height - bottom, "--quiet", 'stroke-dasharray="3 3"');
    if (level) {
      out += line(
        left,
        y(level.value),
        width - right,
        y(level.value),
        "--ink",
        'stroke-width="1.5" stroke-dasharray="2 4"',
      );
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

// ---- a new theme, a new width ----------------------------------------------------------------------------------

function redraw() {
  readTheme();
  widths.clear();
  for (const draw of parts) draw();
}
readTheme();
matchMedia("(prefers-color-scheme: dark)").addEventListener("change", redraw);
let waiting = null;
window.addEventListener("resize", () => {
  clearTimeout(waiting);
  waiting = setTimeout(redraw, 100);
});
