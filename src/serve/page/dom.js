// Small helpers. Text is always inserted as text.

export const at = id => document.getElementById(id);

export function make(tag, className, text) {
  const node = document.createElement(tag);
  if (className) node.className = className;
  if (text !== undefined) node.textContent = text;
  return node;
}

export function makeSvg(tag, attributes, text) {
  const node = document.createElementNS("http://www.w3.org/2000/svg", tag);
  for (const [name, value] of Object.entries(attributes)) node.setAttribute(name, value);
  if (text !== undefined) node.textContent = text;
  return node;
}

export function clock(seconds) {
  const whole = Math.floor(seconds + 0.05);
  const two = value => String(value).padStart(2, "0");
  const tenths = Math.floor((seconds + 0.05 - whole) * 10);
  const text = `${Math.floor(whole / 3600)}:${two(Math.floor(whole / 60) % 60)}:${two(whole % 60)}`;
  return tenths ? `${text}.${tenths}` : text;
}
