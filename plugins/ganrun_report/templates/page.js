"use strict";

// ── One slider for all pictures ──────────────────────────────────────────────────────────────────────────

const slider = document.querySelector("input[type=range]");

function showStep() {
  const step = Number(slider.dataset.steps.split(" ")[slider.value]);
  slider.nextElementSibling.textContent = step;
  slider.setAttribute("aria-valuetext", `step ${step}`);
  for (const strip of document.querySelectorAll(".role:not([data-still]) .strip")) showNearest(strip, step);
}

/** Shows the last picture at or before a step. */
function showNearest(strip, step) {
  const frames = [...strip.querySelectorAll(".frame")];
  const shown = frames.findLast((frame) => Number(frame.dataset.step) <= step);
  for (const frame of frames) frame.hidden = frame !== shown;
  strip.querySelector(".none").hidden = shown !== undefined;
}

if (slider) {
  slider.closest("label").hidden = false;
  slider.addEventListener("input", showStep);
}

// ── Tabs: one kind of pictures, one axis of the curves ───────────────────────────────────────────────────

function makeTabs(name, parts, key) {
  const inputs = [...document.querySelectorAll(`input[name=${name}]`)];
  const choose = () => {
    const chosen = inputs.find((input) => input.checked).value;
    for (const part of document.querySelectorAll(parts)) part.hidden = part.dataset[key] !== chosen;
  };
  for (const input of inputs) {
    input.closest("fieldset").hidden = false;
    input.addEventListener("change", choose);
  }
  if (inputs.length) choose();
}

makeTabs("role", ".role", "role");
makeTabs("axis", ".view", "axis");

// ── The values of a chart, at the pointer or at a place chosen with the arrow keys ──────────────────────

function makeReadable(view) {
  const drawing = view.querySelector("svg[role=img]");
  const lines = [...drawing.querySelectorAll("polyline")].map((line) => ({
    places: line.getAttribute("points").trim().split(" ").map((pair) => Number(pair.split(",")[0])),
    xs: line.dataset.x.split(" "),
    ys: line.dataset.y.split(" "),
  }));
  const places = [...new Set(lines.flatMap((line) => line.places))].sort((a, b) => a - b);
  let at = places.length - 1;

  const show = (index) => {
    at = Math.min(Math.max(index, 0), places.length - 1);
    const guide = drawing.querySelector(".guide");
    guide.removeAttribute("hidden");
    guide.setAttribute("x1", places[at]);
    guide.setAttribute("x2", places[at]);
    const values = view.querySelectorAll(".value");
    lines.forEach((line, number) => {
      const nearest = indexOfNearest(line.places, places[at]);
      values[number].textContent = line.ys[nearest];
      if (line.places[nearest] === places[at])
        view.querySelector(".at").textContent = `at ${line.xs[nearest]} ${axisName(view)}`;
    });
  };

  drawing.addEventListener("pointermove", (event) => {
    const box = drawing.getBoundingClientRect();
    show(indexOfNearest(places, ((event.clientX - box.left) / box.width) * drawing.viewBox.baseVal.width));
  });
  drawing.addEventListener("keydown", (event) => {
    const target = { ArrowLeft: at - 1, ArrowRight: at + 1, Home: 0, End: places.length - 1 }[event.key];
    if (target === undefined) return;
    event.preventDefault();
    show(target);
  });
}

const axisName = (view) => document.querySelector(`input[value=${view.dataset.axis}]`).nextElementSibling.textContent;

function indexOfNearest(numbers, wanted) {
  let best = 0;
  numbers.forEach((number, index) => {
    if (Math.abs(number - wanted) < Math.abs(numbers[best] - wanted)) best = index;
  });
  return best;
}

for (const view of document.querySelectorAll(".view")) makeReadable(view);
for (const hint of document.querySelectorAll(".hint")) hint.hidden = false;
