// The curves of a head over a video, with the windows that it finds.

import {clock, make, makeSvg} from "./dom.js";

const WIDTH = 900, HEIGHT = 160, BOTTOM = 4, TOP = 8; // stretched to the width of the page

function path(values) {
  const points = values.map((value, i) => {
    const x = (i + 0.5) / values.length * WIDTH;
    const y = TOP + (1 - Math.min(Math.max(value, 0), 1)) * (HEIGHT - BOTTOM - TOP);
    return `${x.toFixed(1)},${y.toFixed(1)}`;
  });
  return `M${points.join("L")}`;
}

export function drawCurves(found, go) {
  const across = seconds => seconds / found.duration * WIDTH;
  const svg = makeSvg("svg", {viewBox: `0 0 ${WIDTH} ${HEIGHT}`, role: "img", preserveAspectRatio: "none",
                              "aria-label": `Curves of the head over ${clock(found.duration)}`});
  svg.append(makeSvg("line", {x1: 0, x2: WIDTH, y1: HEIGHT - BOTTOM, y2: HEIGHT - BOTTOM, class: "axis"}));
  for (const [i, item] of [...found.windows.entries()].reverse()) {
    const box = makeSvg("rect", {x: across(item.start), width: Math.max(across(item.end - item.start), 2), y: TOP,
                                 height: HEIGHT - BOTTOM - TOP, class: "window"});
    box.append(makeSvg("title", {}, `${i + 1}. ${clock(item.start)} – ${clock(item.end)}`));
    box.addEventListener("click", () => go(item));
    svg.append(box);
  }
  const names = Object.keys(found.curves);
  names.forEach((name, i) => svg.append(makeSvg("path", {d: path(found.curves[name]), class: `curve curve-${i % 3}`})));
  const times = make("div", "times dim");
  times.append(...[0, 0.5, 1].map(share => make("span", "", clock(share * found.duration))));
  const legend = make("div", "legend dim");
  names.forEach((name, i) => {
    const entry = make("span");
    entry.append(make("i", `curve-${i % 3}`), name);
    legend.append(entry);
  });
  const whole = make("div");
  whole.append(svg, times, legend);
  return whole;
}
