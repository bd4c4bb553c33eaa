// A line plot of the last minutes as SVG. It is drawn anew with each sample: a few hundred points.

const NS = "http://www.w3.org/2000/svg";
const WIDTH = 360;
const HEIGHT = 120;
const LEFT = 50; // for the scale
const TOP = 8;
const BOTTOM = 18;

function node(name, attributes, text) {
  const made = document.createElementNS(NS, name);
  for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value);
  if (text !== undefined) made.textContent = text;
  return made;
}

// 1, 2 or 5 times a power of ten.
function niceAbove(value) {
  if (!(value > 0)) return 1;
  const power = 10 ** Math.floor(Math.log10(value));
  return [1, 2, 5, 10].map((step) => step * power).find((top) => top >= value * 0.999);
}

// Lines break where there is no value.
function path(points) {
  let text = "";
  let open = false;
  for (const [x, y] of points) {
    if (y === null) open = false;
    else {
      text += `${open ? "L" : "M"}${x.toFixed(1)} ${y.toFixed(1)}`;
      open = true;
    }
  }
  return text;
}

export class Plot {
  // series: [{ name, value: (sample) -> number or null }]; format: of the scale; top: where the scale always ends
  constructor(title, series, { format, top = null }) {
    Object.assign(this, { title, series, format, top });
    this.svg = node("svg", { viewBox: `0 0 ${WIDTH} ${HEIGHT}`, role: "img", class: "plot" });
    this.label = node("title", {});
    this.root = document.createElement("figure");
    this.caption = document.createElement("figcaption");
    this.root.append(this.caption, this.svg);
  }

  // samples: [{ at_s, ... }] in order; the plot ends at now_s and begins span_s before.
  draw(samples, now_s, span_s) {
    const values = this.series.map(({ value }) => samples.map((sample) => value(sample)));
    const most = Math.max(0, ...values.flat().filter((value) => value !== null));
    const top = this.top ?? niceAbove(most);
    const x = (at_s) => LEFT + (WIDTH - LEFT - 4) * (1 - (now_s - at_s) / span_s);
    const y = (value) => TOP + (HEIGHT - TOP - BOTTOM) * (1 - Math.min(value, top) / top);
    const parts = [];
    for (const share of [0, 0.5, 1]) {
      const at = y(top * share);
      parts.push(node("line", { x1: LEFT, x2: WIDTH - 4, y1: at, y2: at, class: "grid" }));
      parts.push(node("text", { x: LEFT - 6, y: at + 3.5, class: "scale end" }, this.format(top * share)));
    }
    parts.push(node("text", { x: LEFT, y: HEIGHT - 4, class: "scale" }, `${Math.round(span_s / 60)} min ago`));
    parts.push(node("text", { x: WIDTH - 4, y: HEIGHT - 4, class: "scale end" }, "now"));
    this.series.forEach((_, at) => {
      const points = samples.map((sample, i) => [x(sample.at_s), values[at][i] === null ? null : y(values[at][i])]);
      parts.push(node("path", { d: path(points), class: `line line-${at}` }));
    });
    const latest = this.series.map(({ name }, at) => {
      const value = values[at].at(-1) ?? null;
      return { name, text: value === null ? "–" : this.format(value) };
    });
    this.label.textContent = `${this.title}: ${latest.map(({ name, text }) => `${name} ${text}`).join(", ")}`;
    this.svg.replaceChildren(this.label, ...parts);
    this.caption.replaceChildren(this.title, ...latest.map(({ name, text }, at) => {
      const legend = document.createElement("span");
      legend.className = `legend legend-${at}`;
      legend.textContent = `${name} ${text}`;
      return legend;
    }));
  }
}
