// The fleet's console: reads panels.json, asks this Prometheus, draws SVG. No library, no other server.

const PREFIX = document.documentElement.dataset.prefix;
const RANGES = { "15 min": 900, "1 h": 3600, "6 h": 21600, "24 h": 86400 };
const REFRESH_MS = 10000;
const POINTS = 180;
const COLOURS = 8;
const WIDTH = 420, HEIGHT = 170, LEFT = 52, BOTTOM = 18, TOP = 8, RIGHT = 6;

let rangeSeconds = RANGES["15 min"];

async function ask(path, parameters = {}) {
  const response = await fetch(`${PREFIX}/api/v1/${path}?${new URLSearchParams(parameters)}`);
  const answer = await response.json();
  if (answer.status !== "success") throw new Error(answer.error);
  return answer.data;
}

function element(name, attributes = {}, ...children) {
  const isSvg = ["svg", "line", "path", "text", "title"].includes(name);
  const made = isSvg ? document.createElementNS("http://www.w3.org/2000/svg", name) : document.createElement(name);
  for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value);
  made.append(...children);
  return made;
}

function legendOf(template, labels) {
  return template.replace(/\{(\w+)\}/g, (_, name) => labels[name] ?? "");
}

function shown(value, unit) {
  if (!Number.isFinite(value)) return "–";
  if (value === 0) return "0";
  if (unit === "s") {
    if (value >= 120) return `${(value / 60).toPrecision(3)} min`;
    return value < 1 ? `${Number((value * 1000).toPrecision(3))} ms` : `${Number(value.toPrecision(3))} s`;
  }
  const base = unit === "bytes" ? 1024 : 1000;
  const prefixes = unit === "bytes" ? ["B", "KiB", "MiB", "GiB"] : ["", "k", "M", "G"];
  let power = 0;
  while (Math.abs(value) >= base && power < prefixes.length - 1) { value /= base; power += 1; }
  return `${Number(value.toPrecision(3))} ${prefixes[power]}`.trim();
}

// A step of 1, 2 or 5 by a power of ten (of 1024 for bytes) that gives the axis about three lines.
function axisStep(highest, unit) {
  const scale = unit === "bytes" ? 1024 ** Math.max(0, Math.floor(Math.log(highest) / Math.log(1024))) : 1;
  const rough = highest / scale / 3;
  const power = 10 ** Math.floor(Math.log10(rough));
  return scale * power * [1, 2, 5, 10].find((factor) => factor * power >= rough);
}

async function fetchLines(panel, start, end, step) {
  const answers = await Promise.all(
    panel.queries.map((query) => ask("query_range", { query: query.expr, start, end, step })),
  );
  return answers.flatMap((data, index) =>
    data.result.map(({ metric, values }) => ({
      name: legendOf(panel.queries[index].legend, metric),
      points: values.map(([time, value]) => [time, Number(value)]).filter(([, value]) => Number.isFinite(value)),
    })),
  );
}

function draw(panel, lines, start, end, step) {
  const highest = Math.max(...lines.flatMap((line) => line.points.map(([, value]) => value)), 0) || 1;
  const tick = axisStep(highest, panel.unit);
  const top = Math.ceil(highest / tick) * tick;
  const x = (time) => LEFT + ((time - start) / (end - start)) * (WIDTH - LEFT - RIGHT);
  const y = (value) => HEIGHT - BOTTOM - (value / top) * (HEIGHT - BOTTOM - TOP);
  const svg = element("svg", { viewBox: `0 0 ${WIDTH} ${HEIGHT}`, role: "img", "aria-label": panel.title });
  for (let value = 0; value <= top * 1.001; value += tick) {
    svg.append(element("line", { class: "grid", x1: LEFT, x2: WIDTH - RIGHT, y1: y(value), y2: y(value) }));
    svg.append(element("text", { x: LEFT - 5, y: y(value) + 4, "text-anchor": "end" }, shown(value, panel.unit)));
  }
  for (const share of [0, 0.5, 1]) {
    const time = start + share * (end - start);
    const label = new Date(time * 1000).toLocaleTimeString([], { hour: "2-digit", minute: "2-digit", hourCycle: "h23" });
    const anchor = ["start", "middle", "end"][share * 2];
    svg.append(element("text", { x: x(time), y: HEIGHT - 4, "text-anchor": anchor }, label));
  }
  lines.forEach((line, index) => {
    let path = "", last = -Infinity;
    for (const [time, value] of line.points) {
      path += `${time - last > step * 1.5 ? "M" : "L"}${x(time).toFixed(1)} ${y(value).toFixed(1)}`;
      last = time;
    }
    svg.append(element("path", { class: `plot s${index % COLOURS}`, d: path }));
  });
  return svg;
}

// The legend tells the newest values, or those under the pointer.
function addLegend(card, panel, lines, svg, start, end, step) {
  const list = element("ul", { class: "legend" });
  const values = lines.map((line, index) => {
    const value = element("b");
    list.append(element("li", { class: `s${index % COLOURS}` }, element("span", {}, `${line.name} `), value));
    return value;
  });
  const tell = (time) =>
    lines.forEach((line, index) => {
      const near = line.points.findLast(([at]) => Math.abs(at - time) <= step);
      values[index].textContent = near ? shown(near[1], panel.unit) : "–";
    });
  const cursor = element("line", { class: "cursor", y1: TOP, y2: HEIGHT - BOTTOM, visibility: "hidden" });
  svg.append(cursor);
  svg.addEventListener("pointermove", (event) => {
    const box = svg.getBoundingClientRect();
    const at = Math.min(WIDTH - RIGHT, Math.max(LEFT, ((event.clientX - box.left) / box.width) * WIDTH));
    cursor.setAttribute("x1", at);
    cursor.setAttribute("x2", at);
    cursor.setAttribute("visibility", "visible");
    tell(start + ((at - LEFT) / (WIDTH - LEFT - RIGHT)) * (end - start));
  });
  svg.addEventListener("pointerleave", () => {
    cursor.setAttribute("visibility", "hidden");
    tell(end);
  });
  tell(end);
  card.append(list);
}

async function fillLines(card, panel) {
  const step = Math.max(5, Math.ceil(rangeSeconds / POINTS));
  const end = Math.floor(Date.now() / 1000 / step) * step;
  const start = end - rangeSeconds;
  const lines = await fetchLines(panel, start, end, step);
  const svg = draw(panel, lines, start, end, step);
  card.replaceChildren(card.firstChild, svg);
  if (lines.length === 0) card.append(element("p", { class: "note" }, "no data"));
  else addLegend(card, panel, lines, svg, start, end, step);
}

async function fillTiles(card, panel) {
  const answers = await Promise.all(panel.queries.map((query) => ask("query", { query: query.expr })));
  const tiles = answers.flatMap((data, index) =>
    data.result.map(({ metric, value }) => {
      const number = Number(value[1]);
      const judged = panel.good === undefined ? "" : number === panel.good ? "good" : "bad";
      const name = legendOf(panel.queries[index].legend, metric);
      const words = { good: "✓", bad: "✗" }[judged] ?? shown(number, panel.unit);
      return element("li", { class: judged }, `${words} ${name}`);
    }),
  );
  card.replaceChildren(card.firstChild, element("ul", { class: "tiles" }, ...tiles));
  if (tiles.length === 0) card.append(element("p", { class: "note" }, "no data"));
}

async function fill(card, panel) {
  try {
    await (panel.kind === "tiles" ? fillTiles : fillLines)(card, panel);
  } catch (error) {
    card.replaceChildren(card.firstChild, element("p", { class: "note" }, String(error)));
  }
}

async function showAlerts() {
  const verdict = document.getElementById("verdict");
  try {
    const { alerts } = await ask("alerts");
    alerts.sort((a, b) => a.state.localeCompare(b.state) || a.activeAt.localeCompare(b.activeAt));
    const firing = alerts.filter((alert) => alert.state === "firing").length;
    verdict.className = firing ? "bad" : "good";
    verdict.textContent = firing === 0 ? "All is well" : firing === 1 ? "1 alert fires" : `${firing} alerts fire`;
    document.getElementById("alerts").replaceChildren(
      ...alerts.map(({ state, labels, annotations }) =>
        element(
          "li",
          { class: state },
          `${labels.alertname}, ${state}: ${annotations.summary}`,
          element("small", {}, `${annotations.description} ${annotations.runbook}`),
        ),
      ),
    );
  } catch (error) {
    verdict.className = "bad";
    verdict.textContent = `Prometheus does not answer: ${error}`;
  }
}

async function main() {
  const { sections } = await (await fetch(`${PREFIX}/user/panels.json`)).json();
  const cards = [];
  document.getElementById("sections").replaceChildren(
    ...sections.map(({ title, panels }) => {
      const small = panels.every(({ kind }) => kind === "tiles");
      const grid = element("div", { class: small ? "panels small" : "panels" });
      for (const panel of panels) {
        const unit = panel.unit && !["s", "bytes"].includes(panel.unit) ? ` ${panel.unit}` : "";
        const card = element("article", {}, element("h3", {}, panel.title, element("span", {}, unit)));
        grid.append(card);
        cards.push([card, panel]);
      }
      return element("section", {}, element("h2", {}, title), grid);
    }),
  );
  const refresh = () => Promise.all([showAlerts(), ...cards.map(([card, panel]) => fill(card, panel))]);
  const buttons = Object.entries(RANGES).map(([label, seconds]) => {
    const button = element("button", { type: "button" }, label);
    button.addEventListener("click", () => {
      rangeSeconds = seconds;
      press();
      refresh();
    });
    return [button, seconds];
  });
  const press = () =>
    buttons.forEach(([button, seconds]) => button.setAttribute("aria-pressed", String(seconds === rangeSeconds)));
  press();
  document.getElementById("ranges").replaceChildren(...buttons.map(([button]) => button));
  await refresh();
  // A card under the pointer is left alone, or its values would jump.
  setInterval(() => document.hidden || document.querySelector("svg:hover") || refresh(), REFRESH_MS);
}

main();
