"use strict";

const MAX_ALIGNED = 60; // words shown on either side of an alignment

const element = (id) => document.getElementById(id);
let models = [];
let settings = {};
let current = new AbortController(); // of the requests in progress

/** Return a new element with attributes, and with children or text. */
function create(tag, attributes = {}, ...children) {
  const made = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) made.setAttribute(name, value);
  made.append(...children);
  return made;
}

/** Return a successful response, or throw the error of the API. */
async function request(path, options = {}) {
  const response = await fetch(path, options);
  if (response.ok) return response;
  const content = await response.json().catch(() => ({})); // a proxy may answer with HTML
  throw new Error(content.error ?? `the server answered with status ${response.status}`);
}

const getJson = async (path) => (await request(path)).json();

/** Yield the server-sent events of a response as {name, data}. */
async function* readEvents(response) {
  const reader = response.body.pipeThrough(new TextDecoderStream()).getReader();
  let buffer = "";
  for (;;) {
    const { value, done } = await reader.read();
    if (done) return;
    buffer += value;
    const blocks = buffer.split("\n\n");
    buffer = blocks.pop();
    for (const block of blocks) {
      const [name, data] = block.split("\n").map((line) => line.slice(line.indexOf(": ") + 2));
      yield { name, data: JSON.parse(data) };
    }
  }
}

// Languages and models

const languageNames = {};

function fillSelect(select, codes) {
  const before = select.value;
  select.replaceChildren(...codes.map((code) => new Option(languageNames[code] ?? code, code)));
  if (codes.includes(before)) select.value = before;
}

function fillTargets() {
  const source = element("source").value;
  fillSelect(element("target"), [...new Set(models.filter((x) => x.source === source).map((x) => x.target))]);
  element("text").lang = source;
  showMaps();
}

const selectedModels = () =>
  models.filter((x) => x.source === element("source").value && x.target === element("target").value);

// Translation

async function translate(event) {
  event?.preventDefault();
  current.abort();
  current = new AbortController();
  element("error").hidden = true;
  element("details").replaceChildren();
  const q = element("text").value;
  if (!q.trim()) return showPanels();
  showPanels();
  await Promise.all(selectedModels().map((model, i) => translateWith(model, i, q, current.signal)));
}

async function translateWith(model, i, q, signal) {
  const panel = element("results").children[i];
  const text = panel.querySelector(".translation");
  const body = { q, source: model.source, target: model.target, model: model.name };
  if (settings.keyRequired) body.api_key = element("key").querySelector("input").value;
  text.classList.add("partial");
  try {
    const headers = { "Content-Type": "application/json" };
    const response = await request("/stream", { method: "POST", headers, body: JSON.stringify(body), signal });
    for await (const { name, data } of readEvents(response)) {
      if (name === "error") throw new Error(data.error);
      if (data.translatedText !== undefined) text.textContent = data.translatedText;
      if (name === "result") return showResult(panel, model, data);
    }
    throw new Error("the server closed the connection: try again");
  } catch (error) {
    if (error.name === "AbortError") return;
    element("error").textContent = `Not translated: ${error.message}.`;
    element("error").hidden = false;
  }
}

/** Show an empty panel for each model of the selected languages. */
function showPanels() {
  const chosen = selectedModels();
  element("results").replaceChildren(
    ...chosen.map((model) => {
      const panel = create("section", { class: "panel", "aria-label": `Translation by ${model.name}` });
      if (chosen.length > 1) panel.append(create("div", { class: "model" }, model.name));
      panel.append(create("p", { class: "translation", lang: model.target, dir: "auto" }));
      panel.append(create("div", { class: "bar" }, create("span", { class: "quiet" })));
      return panel;
    }),
  );
}

function showResult(panel, model, result) {
  const lines = result.lines.filter((line) => line.source.trim());
  const text = panel.querySelector(".translation");
  text.classList.remove("partial");
  const unknown = lines.reduce((sum, line) => sum + line.unknown, 0);
  const tokens = lines.reduce((sum, line) => sum + line.tokens.length, 0);
  const bar = panel.querySelector(".bar");
  bar.firstChild.textContent = `${result.seconds.toFixed(2)} s, ${tokens} subwords`;
  const copy = create("button", { type: "button", class: "copy" }, "Copy");
  copy.addEventListener("click", () => copyText(result.translatedText, copy));
  bar.append(copy);
  if (unknown) {
    const what = unknown === 1 ? "1 subword is" : `${unknown} subwords are`;
    const message = `${what} unknown to the model. Their translation may be missing or wrong.`;
    bar.before(create("p", { class: "notice" }, message));
  }
  const several = element("results").children.length > 1;
  for (const line of lines) {
    const title = [several ? `${model.name}: ` : "", lines.length > 1 ? shorten(line.source) : "Alternatives and alignment"];
    const details = create("details", {}, create("summary", {}, title.join("")));
    details.open = lines.length === 1 && isOneSentence(line.source, model.source);
    fillWhenOpen(details, () => [bestTable(line, model), ...alignmentTable(line, model)]);
    element("details").append(details);
  }
}

function isOneSentence(text, language) {
  return [...new Intl.Segmenter(language, { granularity: "sentence" }).segment(text)].length === 1;
}

const shorten = (text) => (text.length > 60 ? `${text.slice(0, 57)}...` : text);

/** Add content to a <details> element when it is opened for the first time. */
function fillWhenOpen(details, content) {
  const fill = async () => details.append(...(await content()));
  if (details.open) fill();
  else details.addEventListener("toggle", fill, { once: true });
}

async function copyText(text, button) {
  try {
    await navigator.clipboard.writeText(text);
  } catch {
    // Pages that are loaded without TLS from another machine have no clipboard.
    const area = create("textarea");
    area.value = text;
    document.body.append(area);
    area.select();
    document.execCommand("copy");
    area.remove();
  }
  button.textContent = "Copied";
  setTimeout(() => (button.textContent = "Copy"), 1500);
}

function bestTable(line, model) {
  const head = create("tr", {}, ...["", "score", "translation"].map((name) => create("th", { scope: "col" }, name)));
  const rows = line.hypotheses.map(({ text, score }, i) =>
    create(
      "tr",
      {},
      create("td", {}, `${i + 1}`),
      create("td", { title: "mean natural log-probability per subword" }, score.toFixed(3)),
      create("td", { lang: model.target, dir: "auto" }, text),
    ),
  );
  return create("table", { class: "best" }, head, ...rows);
}

/** Return the words of one side of an alignment, in order: {start, word}. Words without a link are included. */
function wordsOf(text, spans) {
  const characters = Array.from(text); // the offsets count code points
  const ends = new Map(spans);
  const words = [];
  for (let start = 0, end; start < characters.length; start = end) {
    end = ends.get(start) ?? start + 1;
    if (!characters[start].trim()) continue;
    if (!ends.has(start)) while (characters[end]?.trim() && !ends.has(end)) end++;
    words.push({ start, word: characters.slice(start, end).join("") });
  }
  return words;
}

function alignmentTable(line, model) {
  const { text, alignments } = line.hypotheses[0];
  if (!alignments.length) return [];
  const allColumns = wordsOf(line.source, alignments.map((x) => x.source));
  const allRows = wordsOf(text, alignments.map((x) => x.target));
  const columns = allColumns.slice(0, MAX_ALIGNED);
  const rows = allRows.slice(0, MAX_ALIGNED);
  const weights = new Map(alignments.map(({ source, target, weight }) => [`${target[0]},${source[0]}`, weight]));
  const head = create("tr", {}, create("td"));
  head.append(...columns.map(({ word }) => create("th", { scope: "col", lang: model.source, title: word }, bdi(word))));
  const table = create("table", { class: "alignment" }, head);
  for (const row of rows) {
    const line = create("tr", {}, create("th", { scope: "row", lang: model.target, title: row.word }, bdi(row.word)));
    for (const column of columns) {
      const weight = weights.get(`${row.start},${column.start}`) ?? 0;
      const cell = create("td", {}, weight >= 0.005 ? `${Math.round(100 * weight)}` : "");
      cell.style.setProperty("--opacity", weight);
      cell.classList.toggle("strong", weight > 0.78);
      line.append(cell);
    }
    table.append(line);
  }
  const about = [
    "Attention of each translated word (rows) to the source words (columns), in percent.",
    "Values below 20 are omitted, except the largest of a row.",
  ];
  if (allColumns.length > MAX_ALIGNED || allRows.length > MAX_ALIGNED) {
    about.push(`Only the first ${MAX_ALIGNED} words of either side are shown.`);
  }
  return [
    create("p", { class: "quiet" }, about.join(" ")),
    create("div", { class: "scroll", tabindex: "0", role: "region", "aria-label": "Alignment" }, table),
  ];
}

const bdi = (text) => create("bdi", {}, text);

// Interaction maps

function showMaps() {
  element("maps").replaceChildren(
    ...selectedModels().map((model) => {
      const size = `${model.parameters.toLocaleString("en")} parameters, ${model.dtype}`;
      const details = create("details", {}, create("summary", {}, `Interaction maps of ${model.name} (${size})`));
      fillWhenOpen(details, () => mapFigures(model));
      return details;
    }),
  );
}

async function mapFigures(model) {
  const path = `/models/${encodeURIComponent(model.name)}/maps`;
  const layers = await Promise.all((await getJson(path)).map((x) => getJson(`${path}/${x.stack}/${x.layer}`)));
  const about =
    "The matrices A, which mix tokens: rows are output positions, columns are input positions. " +
    "Blue entries are positive, orange ones negative.";
  const maps = create("div", { class: "maps" }, ...layers.map(mapFigure));
  return [create("p", { class: "quiet" }, layers.length ? about : "This model does not mix tokens."), maps];
}

function mapFigure({ stack, layer, heads, A }) {
  const caption = create("figcaption", {}, `${stack} layer ${layer}`);
  const canvas = create("canvas", { role: "img", "aria-label": `A of ${stack} layer ${layer}` });
  let head = 0;
  const draw = () => drawMatrix(canvas, A[head]);
  if (heads > 1) {
    const select = create("select", { "aria-label": "head" });
    for (let i = 0; i < heads; i++) select.add(new Option(`head ${i + 1}`, i));
    select.addEventListener("change", () => {
      head = Number(select.value);
      draw();
    });
    caption.append(" ", select);
  }
  darkMode.addEventListener("change", draw);
  draw();
  return create("figure", {}, caption, canvas);
}

const darkMode = matchMedia("(prefers-color-scheme: dark)");

function drawMatrix(canvas, A) {
  const style = getComputedStyle(document.documentElement);
  const [positive, negative] = ["--positive", "--negative"].map((x) => style.getPropertyValue(x).split(",").map(Number));
  const largest = Math.max(...A.flat().map(Math.abs)) || 1;
  canvas.width = A[0].length;
  canvas.height = A.length;
  const context = canvas.getContext("2d");
  const image = context.createImageData(canvas.width, canvas.height);
  A.flat().forEach((value, i) => image.data.set([...(value < 0 ? negative : positive), 255 * Math.abs(value / largest)], 4 * i));
  context.putImageData(image, 0, 0);
}

// Start

function showCount() {
  const { charLimit, lineLimit } = settings;
  const text = element("text").value;
  const characters = Array.from(text).length;
  const lines = text.split("\n").length;
  const over = characters > charLimit || lines > lineLimit;
  element("count").textContent =
    `${characters.toLocaleString("en")} of ${charLimit.toLocaleString("en")} characters` +
    (lines > lineLimit ? `, ${lines} of ${lineLimit} lines` : "");
  element("count").classList.toggle("over", over);
}

function showExamples() {
  for (const example of settings.examples) {
    const button = create("button", { type: "button", dir: "auto" }, example);
    button.addEventListener("click", () => {
      element("text").value = example;
      showCount();
      translate();
    });
    element("examples").append(button);
  }
  const isExampleLanguage = () => element("source").value === settings.language.source.code;
  const update = () => (element("examples").hidden = !settings.examples.length || !isExampleLanguage());
  element("source").addEventListener("change", update);
  update();
}

async function start() {
  try {
    let languages;
    [settings, models, languages] = await Promise.all(["/frontend/settings", "/models", "/languages"].map(getJson));
    for (const { code, name } of languages) languageNames[code] = name;
  } catch (error) {
    element("error").textContent = `The server does not answer: ${error.message}. Reload the page.`;
    element("error").hidden = false;
    return;
  }
  fillSelect(element("source"), [...new Set(models.map((x) => x.source))]);
  fillTargets();
  showPanels();
  showCount();
  showExamples();
  element("key").hidden = !settings.keyRequired;
  element("source").addEventListener("change", () => { fillTargets(); translate(); });
  element("target").addEventListener("change", () => { showMaps(); translate(); });
  element("text").addEventListener("input", showCount);
  element("text").addEventListener("keydown", (event) => {
    if (event.key === "Enter" && (event.ctrlKey || event.metaKey)) translate(event);
  });
  element("form").addEventListener("submit", translate);
}

start();
