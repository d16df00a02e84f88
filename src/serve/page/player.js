// The dialog: a moment in its video, attention of the words, and where the answer to a question is.

import {address, ask} from "./api.js";
import {scores} from "./cards.js";
import {drawCurves} from "./curves.js";
import {at, clock, make} from "./dom.js";

let shown = null; // the moment
let span = null; // what is played: its url, start and end
let words = ""; // that were searched for
let offers = {fusion: false, locate: false, longest: 60};
let asking = new AbortController();

const player = () => at("player");
const say = text => { at("player-state").textContent = text; };

export function setOffers(index) {
  offers = {fusion: index.fusion, locate: index.locate, longest: index.longest_moment};
  at("locate-open").disabled = !index.locate;
  at("locate-open").title = index.locate ? "" : "Start the server with --head, a checkpoint of make finetune-nlq";
}

async function play(start, end, encode = false) {
  asking.abort();
  asking = new AbortController();
  say("Loading …");
  try {
    const found = await ask(`/api/videos/${shown.video}/playback`,
                            {start: start.toFixed(3), end: end.toFixed(3), encode: encode || null}, asking.signal);
    span = {...found, from: start, to: end};
    if (found.encoded) say("The moment is encoded for the browser …");
    player().src = `${found.url}#t=${found.start.toFixed(3)},${found.end.toFixed(3)}`;
    await player().play();
  } catch (error) {
    if (["AbortError", "NotSupportedError"].includes(error.name)) return; // the player's own error event tells more
    say(error.name === "NotAllowedError" ? "Press play." : error.message);
  }
}

async function failed() {
  if (!span || !at("dialog").open) return;
  if (!span.encoded) return play(span.from, span.to, true); // the browser can't play the file after all
  const address = span.url;
  say("This moment can't be played.");
  const answer = await fetch(address, {headers: {Range: "bytes=0-0"}}).catch(() => null);
  if (answer && !answer.ok && span && span.url === address) {
    const body = await answer.json().catch(() => ({}));
    say(body.error || "This moment can't be played.");
  }
}

function replay() {
  if (!span) return;
  player().currentTime = span.start;
  player().play().catch(() => {});
}

export function openMoment(moment, query) {
  shown = moment;
  words = query;
  at("dialog-title").textContent = `${moment.name}, ${moment.time}`;
  at("dialog-title").title = scores(moment);
  at("picture").hidden = at("found").hidden = at("locate").hidden = true;
  at("attention").disabled = !offers.fusion || !query;
  at("attention").title = query ? "" : "Search for words first";
  at("question").value = "";
  span = null;
  if (!at("dialog").open) at("dialog").showModal();
  if (moment.problem) return say(moment.problem);
  play(moment.start, moment.end);
}

export const openedMoment = () => at("dialog").open ? shown : null;

function showAttention() {
  const moment = shown, image = make("img");
  const middle = (moment.start + moment.end) / 2;
  image.alt = `What the words of “${words}” attend to in ${moment.name}, ${moment.time}`;
  say("The attention is drawn …");
  const source = address(`/api/videos/${moment.video}/attention`, {at: middle.toFixed(3), q: words});
  image.addEventListener("load", () => {
    if (shown === moment) { say(""); image.scrollIntoView({block: "nearest"}); }
  });
  image.addEventListener("error", () => ask(source).catch(error => say(error.message)));
  image.src = source;
  at("picture").replaceChildren(image);
  at("picture").hidden = false;
}

async function locate(event) {
  event.preventDefault();
  const moment = shown, question = at("question").value.trim();
  if (!question) return say("Ask something, such as “where did I put the cup?”.");
  asking.abort();
  asking = new AbortController();
  say("Looking through the whole video …");
  at("found").replaceChildren();
  try {
    const found = await ask(`/api/videos/${moment.video}/locate`, {q: question}, asking.signal);
    say(found.windows.length ? `“${found.query}”: the best first` : "Nothing was found.");
    const go = item => play(item.start, Math.min(item.end, item.start + offers.longest));
    const list = make("ol");
    for (const [i, item] of found.windows.entries()) {
      const button = make("button", "", `${i + 1}. ${clock(item.start)} – ${clock(item.end)} `);
      button.type = "button";
      button.append(make("span", "dim", item.score.toFixed(3)));
      button.addEventListener("click", () => go(item));
      const row = make("li");
      row.append(button);
      list.append(row);
    }
    at("found").replaceChildren(drawCurves(found, go), list);
    at("found").hidden = false;
    at("found").scrollIntoView({block: "nearest"});
  } catch (error) {
    if (error.name !== "AbortError") say(error.message);
  }
}

export function setUpPlayer(like) {
  player().addEventListener("error", failed);
  player().addEventListener("playing", () => say(span && span.encoded ? "Encoded for the browser" : ""));
  player().addEventListener("timeupdate", () => { // not all browsers stop at the end of a fragment
    if (span && !span.encoded && !player().paused && player().currentTime >= span.end
        && player().currentTime < span.end + 0.6) player().pause();
  });
  at("replay").addEventListener("click", replay);
  at("more").addEventListener("click", () => { const moment = shown; at("dialog").close(); like(moment); });
  at("attention").addEventListener("click", showAttention);
  at("locate-open").addEventListener("click", () => { at("locate").hidden = false; at("question").focus(); });
  at("locate").addEventListener("submit", locate);
  at("close").addEventListener("click", () => at("dialog").close());
  at("dialog").addEventListener("click", event => { if (event.target === at("dialog")) at("dialog").close(); });
  at("dialog").addEventListener("close", () => {
    asking.abort();
    span = null;
    player().removeAttribute("src"); // ends its requests
    player().load();
  });
  at("dialog").addEventListener("keydown", event => {
    if (event.target.matches("input, video") || event.ctrlKey || event.metaKey || event.altKey) return;
    const act = {r: replay, m: () => at("more").click()}[event.key];
    if (act) { event.preventDefault(); act(); }
  });
}
