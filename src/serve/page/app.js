// The search: results as one types, older requests aborted, and the state kept in the address.

import {address, ask} from "./api.js";
import {moveAmongCards, showCards} from "./cards.js";
import {at, clock} from "./dom.js";
import {openMoment, openedMoment, setOffers, setUpPlayer} from "./player.js";

const PAUSE = 180; // milliseconds without a key before the search begins
const FIELDS = ["q", "videos", "not", "min_score", "top", "rerank"];
let like = null; // {video, name, seconds}
let timer = null, running = new AbortController(), searched = null;

function parameters() {
  const given = Object.fromEntries(FIELDS.map(name => [name, at(name).value.trim()]));
  given.like = like ? `${like.video}@${like.seconds.toFixed(3)}` : "";
  given.videos = given.videos.split(",").map(name => name.trim()).filter(Boolean);
  if (given.rerank === "0" || !given.q) given.rerank = "";
  if (given.top === at("top").defaultValue) given.top = "";
  return given;
}

function showError(error) {
  at("error").textContent = error ? error.message : "";
  at("error").hidden = !error;
}

function showFilters() {
  const set = ["videos", "not", "min_score", "rerank"].filter(name => at(name).value && at(name).value !== "0");
  at("filters-set").textContent = set.length ? `(${set.length})` : "";
  at("like").hidden = !like;
  if (like) at("like-text").textContent = `Like ${like.name} at ${clock(like.seconds)}`;
}

function forget() {
  searched = null;
  at("moments").replaceChildren();
  at("export").hidden = true;
  at("status").textContent = "Type what happens.";
}

async function search() {
  clearTimeout(timer);
  running.abort();
  running = new AbortController();
  showFilters();
  const given = parameters(), signal = running.signal;
  history.replaceState(null, "", address("/", {...given, name: like ? like.name : ""}));
  showError(null);
  if (!given.q && !given.like) return forget();
  at("moments").classList.add("stale");
  try {
    const found = await ask("/api/search", given, signal);
    searched = given;
    const count = found.results.length;
    at("status").textContent = [
      count ? `${count} moment${count > 1 ? "s" : ""} among ${found.searched}, ${Math.round(found.seconds * 1000)} ms`
        : `Nothing was found among ${found.searched}: no moment is as near as asked for.`, ...found.notices].join(" · ");
    showCards(found.results, {open: moment => openMoment(moment, at("q").value.trim()), like: moreLike});
    at("export").hidden = !count;
  } catch (error) {
    if (error.name === "AbortError") return;
    forget();
    at("status").textContent = "";
    showError(error);
  }
  if (!signal.aborted) at("moments").classList.remove("stale");
}

function moreLike(moment) {
  like = {video: moment.video, name: moment.name, seconds: (moment.start + moment.end) / 2};
  at("q").value = ""; // an example alone: words beside it count as much
  scrollTo({top: 0});
  at("q").focus();
  search();
}

function download(event) {
  const format = event.target.value;
  event.target.value = "";
  if (!format || !searched) return;
  const link = document.createElement("a");
  link.href = address("/api/export", {...searched, format});
  link.download = "";
  link.click();
}

function onKey(event) {
  if (event.ctrlKey || event.metaKey || event.altKey || openedMoment()) return;
  const inField = event.target.matches("input, select, textarea");
  if (event.key === "/" && !inField) {
    event.preventDefault();
    at("q").focus();
    at("q").select();
  } else if (event.key === "Escape" && event.target === at("q")) {
    event.preventDefault(); // browsers would delete the text
    at("q").blur();
  } else if ((!inField || (event.target === at("q") && event.key === "ArrowDown")) && moveAmongCards(event.key)) {
    event.preventDefault();
  }
}

function readAddress() {
  const given = new URLSearchParams(location.search);
  for (const name of FIELDS) if (given.has(name)) at(name).value = given.getAll(name).join(", ");
  const [video, seconds] = (given.get("like") || "").split("@");
  if (video && Number.isFinite(Number(seconds))) like = {video, name: given.get("name") || video, seconds: Number(seconds)};
  if (["videos", "not", "min_score", "rerank"].some(name => given.has(name))) at("filters").open = true;
}

async function describe() {
  try {
    const index = await ask("/api/index");
    document.title = `${index.name} – moments`;
    at("index-name").textContent = index.name;
    at("index-size").textContent = `${index.videos} video${index.videos === 1 ? "" : "s"}, ${index.hours.toFixed(2)} h`;
    at("rerank-field").hidden = !index.fusion;
    at("attention").hidden = !index.fusion;
    for (const format of index.formats) {
      at("format").append(new Option(format === "zip" ? "zip of clips" : format.toUpperCase(), format));
    }
    setOffers(index);
    const {videos} = await ask("/api/videos");
    for (const video of videos) at("names").append(new Option(video.name, video.name));
  } catch (error) {
    showError(error);
  }
}

at("search").addEventListener("submit", event => { event.preventDefault(); search(); });
at("search").addEventListener("input", () => { clearTimeout(timer); timer = setTimeout(search, PAUSE); });
at("like-clear").addEventListener("click", () => { like = null; at("q").focus(); search(); });
at("format").addEventListener("change", download);
document.addEventListener("keydown", onKey);
setUpPlayer(moreLike);
readAddress();
at("q").focus();
if (location.search) search(); // this also removes a token from the address
describe();
