// Reading values off the charts by pointer or arrow keys, the colour of tokens, and reading the page anew.
"use strict";
const runs = JSON.parse(document.getElementById("data").textContent);
const reading = document.getElementById("reading");

function valueAt(run, metric, step) {
  const column = runs[run].metrics[metric];
  const place = column ? runs[run].steps[column.steps].indexOf(step) : -1;
  return place < 0 ? undefined : column.values[place];
}

function stepsOf(curves) {
  const all = curves.flatMap(([run, metric]) => runs[run].steps[runs[run].metrics[metric].steps]);
  return [...new Set(all)].sort((a, b) => a - b);
}

function nearest(steps, wanted) {
  return steps.reduce((best, step) => (Math.abs(step - wanted) < Math.abs(best - wanted) ? step : best), steps[0]);
}

function element(name, text, className) {
  const made = document.createElement(name);
  made.textContent = text;
  if (className) made.className = className;
  return made;
}

function rows(curves, step) {
  return curves.map(([run, metric, label, colour, band]) => {
    const value = valueAt(run, metric, step);
    if (value === undefined) return null;
    const line = document.createElement("div");
    const name = element("span", label);
    name.prepend(element("i", "", `swatch f${colour % 9}`));
    const interval = band[step] ? ` (${band[step].join(" to ")})` : "";
    line.append(name, element("b", (value === null ? "not finite" : String(Number(value.toPrecision(6)))) + interval));
    return line;
  }).filter(Boolean);
}

function attach(svg) {
  const { curves, axis: [left, right, low, high] } = JSON.parse(svg.dataset.chart);
  const steps = stepsOf(curves);
  const cursor = document.createElementNS("http://www.w3.org/2000/svg", "line");
  let current = null;

  function show(step, x, y) {
    current = step;
    const place = left + ((step - low) / (high - low)) * (right - left);
    for (const [key, value] of Object.entries({ x1: place, x2: place, y1: 8, y2: 166, class: "cursor" })) {
      cursor.setAttribute(key, value);
    }
    svg.append(cursor);
    reading.replaceChildren(element("b", `step ${step}`), ...rows(curves, step));
    reading.hidden = false;
    const box = reading.getBoundingClientRect();
    reading.style.left = `${Math.max(8, Math.min(x + 16, innerWidth - box.width - 8))}px`;
    reading.style.top = `${Math.max(8, Math.min(y + 16, innerHeight - box.height - 8))}px`;
  }

  function hide() {
    cursor.remove();
    reading.hidden = true;
  }

  svg.addEventListener("pointermove", (event) => {
    const box = svg.getBoundingClientRect();
    const x = ((event.clientX - box.left) / box.width) * svg.viewBox.baseVal.width;
    show(nearest(steps, low + ((x - left) / (right - left)) * (high - low)), event.clientX, event.clientY);
  });
  svg.addEventListener("pointerleave", hide);
  svg.addEventListener("blur", hide);
  svg.addEventListener("keydown", (event) => {
    const move = { ArrowLeft: -1, ArrowRight: 1 }[event.key];
    if (event.key === "Escape") hide();
    if (!move) return;
    event.preventDefault();
    const place = current === null ? (move > 0 ? 0 : steps.length - 1) : steps.indexOf(current) + move;
    const box = svg.getBoundingClientRect();
    show(steps[Math.max(0, Math.min(place, steps.length - 1))], box.left + box.width / 2, box.bottom - 30);
  });
}

document.querySelectorAll("svg[data-chart]").forEach(attach);

const colouring = document.getElementById("colouring");
if (colouring) colouring.addEventListener("change", () => { document.body.dataset.colouring = colouring.value; });

const interval = document.querySelector("meta[name=wutong-reload-seconds]");
if (interval) {
  // Not under the reader's hands: while a value is being read the page waits for the next turn.
  setInterval(() => { if (reading.hidden) location.reload(); }, 1000 * Number(interval.content));
}
