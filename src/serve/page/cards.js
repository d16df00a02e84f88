// The cards of the moments, and moving among them by the keyboard.

import {address} from "./api.js";
import {at, make} from "./dom.js";

const RETRY = 1500; // milliseconds
const PICTURES = 3;

export const scores = moment => moment.match === null ? `cosine ${moment.cosine.toFixed(3)}`
  : `score ${moment.score.toFixed(3)} = cosine ${moment.cosine.toFixed(3)} + match ${moment.match.toFixed(3)}`;

function picture(moment, k) {
  const image = make("img");
  const time = moment.start + (moment.end - moment.start) * (k + 0.5) / PICTURES;
  const source = address(`/api/videos/${moment.video}/frame`, {at: time.toFixed(3), height: k ? 120 : 240});
  image.alt = k ? "" : `${moment.name}, ${moment.time}`;
  image.loading = "lazy";
  image.decoding = "async";
  image.addEventListener("error", () => setTimeout(() => { image.src = `${source}&again=1`; }, RETRY), {once: true});
  image.src = source;
  return image;
}

function card(moment, actions) {
  const item = at("card").content.firstElementChild.cloneNode(true);
  const part = name => item.querySelector(name);
  const strip = part(".strip");
  // The picture of the middle is the large one.
  if (moment.problem) strip.append(make("span", "note", `No pictures: ${moment.problem}`));
  else strip.append(...[1, 0, 2].map(k => picture(moment, k)));
  part(".name").textContent = moment.name;
  part(".rank").textContent = `#${moment.rank}`;
  part(".time").textContent = moment.time;
  part(".score").textContent = scores(moment);
  part(".open").setAttribute("aria-label", `Play ${moment.name}, ${moment.time}, ${scores(moment)}`);
  part(".open").addEventListener("click", () => actions.open(moment));
  part(".like").addEventListener("click", () => actions.like(moment));
  return item;
}

export function showCards(moments, actions) {
  at("moments").replaceChildren(...moments.map(moment => card(moment, actions)));
}

const buttons = () => [...at("moments").querySelectorAll(".open")];

function columns(all) {
  const top = all[0].getBoundingClientRect().top;
  const other = all.findIndex(button => button.getBoundingClientRect().top > top + 1);
  return other < 0 ? all.length : other;
}

// Moves the focus among the cards; true if the key was one of these.
export function moveAmongCards(key) {
  const all = buttons();
  if (!all.length) return false;
  const down = columns(all);
  const step = {ArrowRight: 1, ArrowLeft: -1, ArrowDown: down, ArrowUp: -down}[key];
  if (step === undefined) return false;
  const place = all.indexOf(document.activeElement);
  if (place < 0 && step < 0) return false;
  const next = place < 0 ? 0 : place + step;
  if (next < 0 && key === "ArrowUp") at("q").focus();
  else all[Math.min(Math.max(next, 0), all.length - 1)].focus();
  return true;
}
