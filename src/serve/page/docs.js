// The operations of /openapi.json as a page.

import {ask} from "./api.js";
import {at, make} from "./dom.js";

function kind(schema) {
  if (!schema) return "";
  if (schema.anyOf) return schema.anyOf.filter(one => one.type !== "null").map(kind).join(" or ");
  if (schema.enum) return schema.enum.join(", ");
  if (schema.type === "array") return `${kind(schema.items)}, repeatable`;
  const bounds = [["minimum", "from"], ["maximum", "to"], ["maxLength", "characters at most:"]]
    .filter(([name]) => schema[name] !== undefined).map(([name, word]) => `${word} ${schema[name]}`);
  return [schema.type, ...bounds].join(" ");
}

function table(head, rows) {
  const wide = make("div", "wide"), body = make("table"), top = make("tr");
  top.append(...head.map(text => make("th", "", text)));
  body.append(top, ...rows.map(cells => {
    const row = make("tr");
    row.append(...cells.map(text => make("td", "", text)));
    return row;
  }));
  wide.append(body);
  return wide;
}

function operation(path, method, about) {
  const part = make("article");
  part.append(make("h2", "", `${method.toUpperCase()} ${path}`), make("p", "", about.description || about.summary));
  const given = about.parameters || [];
  if (given.length) {
    part.append(table(["parameter", "values", "default", ""], given.map(one => [
      one.name, kind(one.schema), one.required ? "required" : String(one.schema.default ?? ""), one.description || ""])));
  }
  part.append(table(["status", ""], Object.entries(about.responses).map(([status, one]) => [
    status, [one.description, Object.keys(one.content || {}).join(", ")].filter(Boolean).join(" – ")])));
  return part;
}

try {
  const api = await ask("/openapi.json");
  at("title").textContent = `${api.info.title} ${api.info.version}`;
  at("about").textContent = api.info.description || "";
  for (const [path, methods] of Object.entries(api.paths)) {
    for (const [method, about] of Object.entries(methods)) at("operations").append(operation(path, method, about));
  }
} catch (error) {
  at("error").textContent = error.message;
  at("error").hidden = false;
}
