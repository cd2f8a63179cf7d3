"use strict";
const D = JSON.parse(document.getElementById("data").textContent);
const T = D.timeline;
const byId = (id) => document.getElementById(id);
const COLOURS = ["#2563a8", "#3f9b5c", "#c2762b", "#7d5ab5", "#2a9aa0", "#b8476b", "#7a8a2e", "#56657a", "#d19a1c", "#4b6fd0"];
const colour = (k) => COLOURS[k % COLOURS.length];
const us = (v) => v >= 1000 ? (v / 1000).toFixed(3) + " ms" : v.toFixed(v < 10 ? 3 : 2) + " us";

// Text goes in as text nodes only: nothing from the kernel is ever read as markup.
function make(tag, text, cls) {
  const node = document.createElement(tag);
  if (text !== undefined) node.textContent = text;
  if (cls) node.className = cls;
  return node;
}
function table(heads, rows, numeric) {
  const t = make("table"), head = make("tr");
  heads.forEach((h, k) => head.append(make("th", h, numeric.includes(k) ? "n" : "")));
  t.append(head);
  rows.forEach((r) => {
    const tr = make("tr");
    r.forEach((c, k) => {
      const td = c instanceof Node ? make("td") : make("td", c, numeric.includes(k) ? "n" : "");
      if (c instanceof Node) td.append(c);
      tr.append(td);
    });
    t.append(tr);
  });
  return t;
}

byId("title").textContent = D.title;
byId("lead").textContent = `${us(D.latency)} simulated on ${D.target}; bottleneck: ${D.bottleneck}. Bounds: memory ${us(D.bounds.memory)}, compute ${us(D.bounds.compute)}, busiest resource ${us(D.bounds.pipeline)}.`;
byId("foot").textContent = `Times are simulated, not measured. Machine model ${D.model}, compiler model ${D.compiler}.`;
[["latency", us(D.latency)], ...D.figures].forEach(([name, value]) => {
  const card = make("div", undefined, "card");
  card.append(make("b", value), make("span", name));
  byId("cards").append(card);
});

byId("engines").append(table(["engine", "active", "", "busy", "idle", "instructions"], D.engines.map((e) => {
  const bar = make("div", undefined, "bar"), fill = make("i");
  fill.style.width = Math.min(e.percent, 100) + "%";
  bar.append(fill);
  return [e.name, e.percent.toFixed(1) + "%", bar, us(e.busy), us(e.idle), String(e.count)];
}), [1, 3, 4, 5]));

const none = (box, text) => byId(box).append(make("p", text, "soft"));
if (D.advice.length) {
  byId("advice").append(table(["rule", "finding", "change", "predicted gain"], D.advice.map((a) => {
    const what = make("div"), gain = make("div");
    what.append(make("div", a.symptom), make("div", a.evidence, "soft"));
    if (a.gain !== null) gain.append(make("div", `${us(a.gain)} (${a.percent.toFixed(1)}%)`, "gain"), make("div", a.caveat, "soft"));
    return [make("span", a.rule, "rule"), what, a.change, gain];
  }), []));
} else none("advice", "No rule found a symptom.");

D.idle.forEach((e, k) => {
  const box = make("details");
  box.open = k === 0;
  box.append(make("summary", `${e.engine} Engine: idle ${e.percent.toFixed(1)}% (${us(e.idle)})`));
  const causes = make("ul");
  e.causes.forEach((c) => causes.append(make("li", c.text)));
  box.append(causes);
  if (e.remedies.length) {
    box.append(make("div", "Re-simulated:", "soft"));
    const list = make("ul");
    e.remedies.forEach((r) => list.append(make("li", r)));
    box.append(list);
  }
  byId("idle").append(box);
});
if (!D.idle.length) none("idle", "No engine had any work.");

byId("path").append(table(["line", "instruction", "time", "share"], D.path.map((p) => [p.where, `${p.count} x ${p.opcode}`, us(p.us), (100 * p.share).toFixed(1) + "%"]), [2, 3]));
byId("generations").append(table(["target", "latency", "speed-up", "bottleneck"], D.generations.map((g) => [g.target, g.latency_us === null ? "-" : us(g.latency_us), g.speedup === null ? "-" : g.speedup.toFixed(2) + "x", g.obstacle || g.bottleneck]), [1, 2]));

// ---- loops
if (D.loops.length) {
  const rows = D.loops.map((l) => {
    const head = make("div", undefined, "loop"), link = make("button", l.where, "link");
    head.style.paddingLeft = 18 * l.depth + "px";
    link.addEventListener("click", () => mark(l.where));
    head.append(make("code", l.header), document.createTextNode(" "), link);
    if (l.helpers.length) head.append(make("div", `with ${l.helpers.join(", ")}, called only there`, "soft"));
    const engines = l.engines.map(([name, time]) => `${name} ${us(time)}`).join(", ");
    return [head, l.iterations === null ? "?" : String(l.iterations), us(l.active), us(l.busy), engines, us(l.stall), l.bytes, String(l.count)];
  });
  byId("loops").append(table(["loop", "iterations", "running", "engine time", "by engine", "waits", "moved", "instructions"], rows, [1, 2, 3, 5, 6, 7]));
  byId("loops").append(make("p", "A loop includes the loops inside it. Lines of a helper count to the loop that holds all its calls; a helper that several loops call counts to the loop around them all, or to none. ?: the instructions don't tell how often it ran.", "soft"));
} else none("loops", "The kernel has no loop that issues instructions.");

// ---- source
const marked = new Map();
D.sources.forEach((s) => {
  const worst = Math.max(...Object.values(s.use).map((u) => u.busy), 1e-9);
  const box = make("div", undefined, "code"), t = make("table");
  box.append(make("p", `${s.file}: engine time (DMA: share of all DMA engines), waiting and bytes by line`, "soft"));
  const last = Math.max(s.lines.length, ...Object.keys(s.use).map(Number));
  for (let k = 1; k <= last; k++) {
    const u = s.use[k], tr = make("tr");
    tr.append(make("td", String(k), "n"), make("td", u ? us(u.busy) : "", "n"), make("td", u && u.stall > 0 ? "wait " + us(u.stall) : "", "n"), make("td", u ? `${u.count} x ${u.engine}` : "", "n"), make("td", u && u.bytes ? (u.bytes / 1024).toFixed(0) + " KiB" : "", "n"));
    const text = make("td", s.lines[k - 1] || "");
    if (u) text.style.background = `linear-gradient(90deg, rgba(246,169,107,.45) ${(100 * u.busy / worst).toFixed(1)}%, transparent 0)`;
    tr.append(text);
    t.append(tr);
    marked.set(`${s.file}:${k}`, tr);
  }
  box.append(t);
  byId("source").append(box);
});
function mark(where) {
  marked.forEach((tr) => tr.classList.remove("marked"));
  const row = marked.get(where);
  if (row) { row.classList.add("marked"); row.scrollIntoView({ block: "center", behavior: "smooth" }); }
}

// ---- timeline
const canvas = byId("timeline"), tip = byId("tip"), ctx = canvas.getContext("2d");
const LABEL = 92, ROW = 30, TOP = 24;
const lanes = T.lanes.map(() => ({ blocks: [], stalls: [] }));
T.blocks.forEach((b) => lanes[b[0]].blocks.push(b));
T.stalls.forEach((b) => lanes[b[0]].stalls.push(b));
lanes.forEach((l) => l.stalls.sort((a, b) => a[1] - b[1]));
const full = Math.max(D.latency, 1e-6);
let view = [0, full], width = 0, height = 0;
byId("drawn").textContent = T.drawn < T.total ? `${T.total} instructions are drawn as ${T.drawn} blocks.` : "";
T.opcodes.forEach((name, k) => {
  const entry = make("span"), box = make("i");
  box.style.background = colour(k);
  entry.append(box, document.createTextNode(name));
  byId("legend").append(entry);
});
function at(t) { return LABEL + (t - view[0]) / (view[1] - view[0]) * (width - LABEL); }
function time(x) { return view[0] + (x - LABEL) / (width - LABEL) * (view[1] - view[0]); }
function ticks(span) {
  const raw = span / 8, ten = Math.pow(10, Math.floor(Math.log10(raw)));
  return [1, 2, 5, 10].map((k) => k * ten).find((s) => s >= raw);
}
function draw() {
  const ratio = window.devicePixelRatio || 1;
  width = canvas.clientWidth; height = TOP + ROW * lanes.length + 6;
  canvas.style.height = height + "px";
  canvas.width = width * ratio; canvas.height = height * ratio;
  ctx.setTransform(ratio, 0, 0, ratio, 0, 0);
  ctx.fillStyle = "#fff"; ctx.fillRect(0, 0, width, height);
  ctx.font = "11px system-ui, sans-serif"; ctx.textBaseline = "middle";
  const step = ticks(view[1] - view[0]);
  for (let t = Math.ceil(view[0] / step) * step; t <= view[1]; t += step) {
    const x = at(t);
    ctx.strokeStyle = "#e6ebf1"; ctx.beginPath(); ctx.moveTo(x, TOP - 4); ctx.lineTo(x, height); ctx.stroke();
    ctx.fillStyle = "#5b6675"; ctx.fillText(`${+t.toFixed(6)} us`, Math.min(x + 2, width - 60), 10);
  }
  lanes.forEach((lane, k) => {
    const y = TOP + k * ROW;
    ctx.save(); ctx.beginPath(); ctx.rect(LABEL, 0, width - LABEL, height); ctx.clip();
    paint(lane.stalls, y + 5, ROW - 10, () => "#f3c4bd", false);
    paint(lane.blocks, y + 3, ROW - 6, (b) => colour(b[4]), true);
    ctx.restore();
    ctx.fillStyle = "#1c2430"; ctx.fillText(T.lanes[k], 6, y + ROW / 2);
    ctx.strokeStyle = "#dde3ea"; ctx.beginPath(); ctx.moveTo(0, y + ROW); ctx.lineTo(width, y + ROW); ctx.stroke();
  });
}
function paint(items, y, h, fill, label) {
  let last = -1;
  for (const b of items) {
    if (b[1] + b[2] < view[0] || b[1] > view[1]) continue;
    const x0 = Math.max(at(b[1]), LABEL), x1 = Math.min(at(b[1] + b[2]), width);
    if (x1 < last + 0.4) continue;
    const w = Math.max(x1 - x0, 0.8);
    ctx.fillStyle = fill(b); ctx.fillRect(x0, y, w, h);
    last = x0 + w;
    if (w > 5 && label) { ctx.fillStyle = "rgba(255,255,255,.55)"; ctx.fillRect(x0 + w - 1, y, 1, h); }
    if (label && w > 64) {
      ctx.save(); ctx.beginPath(); ctx.rect(x0, y, w - 3, h); ctx.clip();
      ctx.fillStyle = "#fff"; ctx.fillText(`${T.opcodes[b[4]]}  ${b[3] >= 0 ? T.lines[b[3]][0] : ""}`, x0 + 5, y + h / 2);
      ctx.restore();
    }
  }
}
function hit(event) {
  const box = canvas.getBoundingClientRect(), x = event.clientX - box.left, y = event.clientY - box.top;
  const lane = lanes[Math.floor((y - TOP) / ROW)];
  if (!lane || x < LABEL) return null;
  const t = time(x), slack = (view[1] - view[0]) / width;
  const inside = (b) => b[1] - slack <= t && t <= b[1] + b[2] + slack;
  return { block: lane.blocks.find(inside), stall: lane.stalls.find(inside), x, y };
}
function zoom(factor, centre) {
  const span = Math.min(Math.max((view[1] - view[0]) * factor, 0.002), full);
  let low = centre - (centre - view[0]) * span / (view[1] - view[0]);
  low = Math.min(Math.max(low, 0), full - span);
  view = [low, low + span]; draw();
}
function pan(by) {
  const span = view[1] - view[0], low = Math.min(Math.max(view[0] + by, 0), full - span);
  view = [low, low + span]; draw();
}
let drag = null;
canvas.addEventListener("wheel", (e) => { e.preventDefault(); zoom(Math.exp(e.deltaY * 0.0015), time(e.clientX - canvas.getBoundingClientRect().left)); }, { passive: false });
canvas.addEventListener("mousedown", (e) => { drag = { x: e.clientX, moved: false }; });
window.addEventListener("mouseup", () => { drag = null; });
canvas.addEventListener("mousemove", (e) => {
  if (drag && e.buttons) {
    if (Math.abs(e.clientX - drag.x) > 1) {
      pan((drag.x - e.clientX) / (width - LABEL) * (view[1] - view[0]));
      drag = { x: e.clientX, moved: true };
    }
    return;
  }
  const found = hit(e);
  const b = found && found.block, s = found && found.stall;
  tip.hidden = !b && !s;
  if (tip.hidden) return;
  const item = b || s, line = item[3] >= 0 ? T.lines[item[3]] : ["", "", 0];
  const head = b ? `${T.opcodes[b[4]]}${b[6] > 1 ? ` (${b[6]} instructions)` : ` #${b[5]}`}` : `waiting (${T.causes[s[4]]})${s[5] >= 0 ? " for " + T.lines[s[5]][0] : ""}`;
  tip.textContent = `${head}\n${line[0]}  ${line[1]}\n${us(item[1])} + ${us(item[2])}`;
  tip.style.left = Math.min(found.x + 14, width - 300) + "px";
  tip.style.top = found.y + 14 + "px";
});
canvas.addEventListener("mouseleave", () => { tip.hidden = true; });
canvas.addEventListener("click", (e) => {
  const found = hit(e), item = found && (found.block || found.stall);
  if (item && item[3] >= 0) mark(T.lines[item[3]][0]);
});
canvas.addEventListener("dblclick", () => { view = [0, full]; draw(); });
canvas.addEventListener("keydown", (e) => {
  const middle = (view[0] + view[1]) / 2, step = (view[1] - view[0]) / 8;
  const act = { ArrowLeft: () => pan(-step), ArrowRight: () => pan(step), "+": () => zoom(0.7, middle), "=": () => zoom(0.7, middle), "-": () => zoom(1.4, middle), Home: () => { view = [0, full]; draw(); } }[e.key];
  if (act) { e.preventDefault(); act(); }
});
window.addEventListener("resize", draw);
draw();

// ---- roofline
(function () {
  const R = D.roofline, W = 520, H = 270, L = 54, B = 34, NS = "http://www.w3.org/2000/svg";
  const top = Math.max(...R.peaks.map((p) => p[1]));
  const ridge = top / R.bandwidth;
  const xs = [Math.min(ridge / 100, R.intensity / 3 || 1, ridge), Math.max(ridge * 20, R.intensity * 3)];
  const ys = [Math.min(R.achieved / 3 || top / 1e3, top / 100), top * 2];
  const x = (v) => L + (Math.log10(v) - Math.log10(xs[0])) / (Math.log10(xs[1]) - Math.log10(xs[0])) * (W - L - 10);
  const y = (v) => H - B - (Math.log10(v) - Math.log10(ys[0])) / (Math.log10(ys[1]) - Math.log10(ys[0])) * (H - B - 10);
  const svg = document.createElementNS(NS, "svg");
  svg.setAttribute("viewBox", `0 0 ${W} ${H}`); svg.setAttribute("width", "100%"); svg.setAttribute("role", "img");
  const add = (tag, attrs, text) => {
    const node = document.createElementNS(NS, tag);
    Object.entries(attrs).forEach(([k, v]) => node.setAttribute(k, v));
    if (text) node.textContent = text;
    svg.append(node);
  };
  const label = (px, py, text, anchor) => add("text", { x: px, y: py, "font-size": 11, fill: "#5b6675", "text-anchor": anchor || "start" }, text);
  for (let k = Math.ceil(Math.log10(xs[0])); k <= Math.log10(xs[1]); k++) { add("line", { x1: x(10 ** k), x2: x(10 ** k), y1: 10, y2: H - B, stroke: "#e6ebf1" }); label(x(10 ** k), H - B + 14, String(+(10 ** k).toPrecision(1)), "middle"); }
  for (let k = Math.ceil(Math.log10(ys[0])); k <= Math.log10(ys[1]); k++) { add("line", { x1: L, x2: W - 10, y1: y(10 ** k), y2: y(10 ** k), stroke: "#e6ebf1" }); label(L - 6, y(10 ** k) + 4, String(+(10 ** k).toPrecision(1)), "end"); }
  R.peaks.forEach(([name, peak], k) => {
    const bend = Math.max(peak / R.bandwidth, xs[0]);
    add("polyline", { points: `${x(xs[0])},${y(Math.max(Math.min(xs[0] * R.bandwidth, peak), ys[0]))} ${x(bend)},${y(peak)} ${x(xs[1])},${y(peak)}`, fill: "none", stroke: colour(k), "stroke-width": 2 });
    label(W - 12, y(peak) - 5, `${name} ${peak.toFixed(peak < 10 ? 2 : 1)} T/s`, "end");
  });
  const mid = Math.sqrt(xs[0] * ridge);
  label(x(mid) - 8, y(Math.max(mid * R.bandwidth, ys[0])) - 6, `${R.bandwidth.toFixed(2)} TB/s`, "end");
  if (R.intensity > 0 && R.achieved > 0) {
    const bound = Math.min(R.roof, R.intensity * R.bandwidth), px = x(R.intensity), py = y(R.achieved);
    add("line", { x1: px, x2: px, y1: py, y2: y(bound), stroke: "#b8476b", "stroke-dasharray": "3 3" });
    add("circle", { cx: px, cy: py, r: 5, fill: "#b8476b" });
    const left = px > W * 0.6;
    add("text", { x: px + (left ? -9 : 9), y: py + 18, "font-size": 12, fill: "#1c2430", "text-anchor": left ? "end" : "start" }, `${R.achieved.toPrecision(3)} T/s, ${(100 * R.achieved / bound).toFixed(0)}% of the roof`);
  }
  label((W + L) / 2, H - 4, `${R.unit}s per HBM byte`, "middle");
  add("text", { x: 12, y: H / 2, "font-size": 11, fill: "#5b6675", "text-anchor": "middle", transform: `rotate(-90 12 ${H / 2})` }, `T ${R.unit}s / s`);
  byId("roofline").append(svg);
})();
