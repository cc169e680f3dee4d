"use strict";

// Shows the operations of an OpenAPI document. All text is inserted as text, never as HTML.

let schemas = {};

function node(tag, ...children) {
  const created = document.createElement(tag);
  created.append(...children);
  return created;
}

function resolve(schema) {
  return schema?.$ref ? schemas[schema.$ref.split("/").pop()] : schema ?? {};
}

function typeName(schema) {
  schema = resolve(schema);
  if (schema.anyOf) return schema.anyOf.map(typeName).filter((name) => name !== "null").join(" or ");
  if (schema.enum) return schema.enum.map((value) => JSON.stringify(value)).join(" or ");
  if (schema.const !== undefined) return JSON.stringify(schema.const);
  if (schema.type === "array") return `list of ${typeName(schema.items)}`;
  return schema.properties ? schema.title : schema.type ?? "any";
}

function limits(schema) {
  const parts = [];
  if (schema.maxLength !== undefined) parts.push(`at most ${schema.maxLength} characters`);
  if (schema.maximum !== undefined) parts.push(`${schema.minimum ?? ""} to ${schema.maximum}`);
  if (schema.default !== undefined && schema.default !== null) parts.push(`default ${schema.default}`);
  return parts.join(", ");
}

function table(schema) {
  schema = resolve(schema);
  const body = node("tbody");
  for (const [name, property] of Object.entries(schema.properties ?? {})) {
    const required = schema.required?.includes(name) ? "required" : "";
    const description = [required, limits(property), property.description].filter(Boolean).join("; ");
    body.append(node("tr", node("td", node("code", name)), node("td", typeName(property)), node("td", description)));
  }
  return node("table", body);
}

function operation(method, path, details) {
  const section = node("section", node("h2", `${method.toUpperCase()} ${path}`), node("p", details.description ?? ""));
  const request = details.requestBody?.content["application/json"]?.schema;
  if (request) section.append(node("h3", "Parameters"), table(request));
  const [kind, answer] = Object.entries(details.responses["200"]?.content ?? {})[0] ?? [];
  if (kind) section.append(node("h3", "Answer"), node("p", kind === "application/json" ? typeName(answer.schema) : kind));
  const item = resolve(answer?.schema);
  const shown = item.type === "array" ? resolve(item.items) : item;
  if (shown.properties) section.append(table(shown));
  return section;
}

async function load() {
  const document_ = await (await fetch("/openapi.json")).json();
  schemas = document_.components?.schemas ?? {};
  for (const [path, methods] of Object.entries(document_.paths)) {
    for (const [method, details] of Object.entries(methods)) {
      document.getElementById("operations").append(operation(method, path, details));
    }
  }
}

load();
