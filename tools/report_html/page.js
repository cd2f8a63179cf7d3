"use strict";
const D = JSON.parse(document.getElementById("data").textContent);
const T = D.timeline;
const byId = (id) => document.getElementById(id);
const COLOURS = ["#2f74c0", "#3f9b5c", "#c2762b", "#8a63c4", "#2a9aa0", "#c0547a", "#7f8f2f", "#6b7a8d", "#cf9a1e", "#5a7de0"];
const CAUSES = { none: "#9aa4b0", result: "#e08a7d", dma: "#e8b06a", release: "#c79be0", space: "#7fc0b6", port: "#c9b23e", order: "#a9b4c2" };
const colour = (k) => COLOURS[k % COLOURS.length];
const us = (v) => v >= 1000 ? (v / 1000).toFixed(3) + " ms" : v.toFixed(v < 10 ? 3 : 2) + " us";
const size = (n) => n >= 2 ** 30 ? (n / 2 ** 30).toFixed(1) + " GiB" : n >= 2 ** 20 ? (n / 2 ** 20).toFixed(1) + " MiB" : n >= 1024 ? (n / 1024).toFixed(1) + " KiB" : n + " B";
const css = (name) => getComputedStyle(document.documentElement).getPropertyValue(name).trim();

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
function link(where) {
  const node = make("button", where, "link");
  node.addEventListener("click", () => mark(where, true));
  return node;
}

// ---- light or dark
const root = document.documentElement;
root.dataset.theme = matchMedia("(prefers-color-scheme: dark)").matches ? "dark" : "light";
function otherTheme() { root.dataset.theme = root.dataset.theme === "dark" ? "light" : "dark"; draw(); }
byId("theme").addEventListener("click", otherTheme);

// ---- head
byId("title").textContent = D.title;
byId("lead").textContent = D.verdict;
byId("foot").textContent = `Times are simulated, not measured. Machine model ${D.model}, compiler model ${D.compiler}.`;
if (D.warnings.length) {
  byId("warnings").hidden = false;
  D.warnings.forEach((w) => byId("warnings").querySelector("ul").append(make("li", w)));
}
[["latency", us(D.latency)], ...D.figures].forEach(([name, value]) => {
  const card = make("div", undefined, "card");
  card.append(make("b", value), make("span", name));
  byId("cards").append(card);
});

const bar = (percent) => {
  const box = make("div", undefined, "bar"), fill = make("i");
  fill.style.width = Math.min(percent, 100) + "%";
  box.append(fill);
  return box;
};
const engines = table(["engine", "active", "", "busy", "idle", "instructions"], D.engines.map((e) => [e.name, e.percent.toFixed(1) + "%", bar(e.percent), us(e.busy), us(e.idle), String(e.count)]), [1, 3, 4, 5]);
D.engines.forEach((e, k) => { if (!e.count) engines.rows[k + 1].className = "none"; });
byId("engines").append(engines);
byId("bounds").append(table(["bound", "", "", "of latency"], [["memory: HBM bytes at the rate of one core", D.bounds.memory], ["compute: matmuls at the peak", D.bounds.compute], ["pipeline: the busiest resource without waits", D.bounds.pipeline]].map(([name, v]) => {
  const share = D.latency ? 100 * v / D.latency : 0;
  return [name, us(v), bar(share), share.toFixed(1) + "%"];
}), [1, 3]));

// ---- findings
const none = (box, text) => byId(box).append(make("p", text, "soft"));
const told = new Map();
D.advice.forEach((a) => {
  const row = make("div", undefined, "finding"), what = make("div"), change = make("div", a.change), gain = make("div");
  what.append(make("div", a.symptom), make("div", a.evidence, "soft"));
  if (a.places.length) { const at = make("div"); a.places.forEach((p) => at.append(link(p), document.createTextNode(" "))); what.append(at); }
  if (a.gain !== null) {
    gain.append(make("div", `${a.bound ? "at most " : ""}${us(a.gain)} (${a.percent.toFixed(1)}%)`, "gain"));
    const same = told.get(a.proof);
    gain.append(make("div", same ? `the same re-simulation as ${same}` : a.proof + (a.caveat ? `; ${a.caveat}` : ""), "soft"));
    if (!same) told.set(a.proof, a.rule);
  }
  row.append(make("span", a.rule, "rule"), what, change, gain);
  byId("advice").append(row);
});
if (!D.advice.length) none("advice", "No rule found a symptom.");

D.idle.forEach((e, k) => {
  const box = make("details");
  box.open = k === 0;
  box.append(make("summary", `${e.engine} Engine: idle ${e.percent.toFixed(1)}% (${us(e.idle)})`));
  const causes = make("ul");
  e.causes.forEach((c) => {
    const item = make("li", c.text + " ");
    if (c.where) item.append(link(c.where));
    causes.append(item);
  });
  if (e.behind) causes.append(make("li", e.behind));
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

byId("path").append(table(["line", "instruction", "time", "", "share"], D.path.map((p) => [link(p.where), `${p.count} x ${p.opcode}`, us(p.us), bar(100 * p.share), (100 * p.share).toFixed(1) + "%"]), [2, 4]));
byId("generations").append(table(["target", "latency", "speed-up", "bottleneck"], D.generations.map((g) => [g.target, g.latency_us === null ? "-" : us(g.latency_us), g.speedup === null ? "-" : g.speedup.toFixed(2) + "x", g.obstacle || g.bottleneck]), [1, 2]));

// ---- loops
if (D.loops.length) {
  const rows = D.loops.map((l) => {
    const head = make("div");
    head.style.paddingLeft = 18 * l.depth + "px";
    head.append(make("code", l.header), document.createTextNode(" "), link(l.where));
    if (l.helpers.length) head.append(make("div", `with ${l.helpers.join(", ")}, called only there`, "soft"));
    const engines = l.engines.map(([name, time]) => `${name} ${us(time)}`).join(", ");
    return [head, l.iterations === null ? "?" : String(l.iterations), us(l.active), us(l.busy), engines, us(l.stall), l.bytes, String(l.count)];
  });
  byId("loops").append(table(["loop", "iterations", "running", "engine time", "by engine", "waits", "moved", "instructions"], rows, [1, 2, 3, 5, 6, 7]));
  byId("loops").append(make("p", "A loop includes the loops inside it. Lines of a helper count to the loop that holds all its calls; a helper that several loops call counts to the loop around them all, or to none. ?: the instructions don't tell how often it ran.", "soft"));
} else none("loops", "The kernel has no loop that issues instructions.");

// ---- source
const marked = new Map();
let lit = "";  // the line whose blocks stand out on the timeline
D.sources.forEach((s) => {
  const worst = Math.max(...Object.values(s.use).map((u) => u.busy), 1e-9);
  const box = make("div", undefined, "code"), t = make("table"), head = make("tr");
  ["line", "engine time", "waits", "instructions", "moved", s.file].forEach((h, k) => head.append(make("th", h, k < 5 ? "n" : "")));
  t.append(head);
  const last = Math.max(s.lines.length, ...Object.keys(s.use).map(Number));
  let hottest = null;
  for (let k = 1; k <= last; k++) {
    const u = s.use[k], tr = make("tr");
    tr.append(make("td", String(k), "n"), make("td", u ? us(u.busy) : "", "n"), make("td", u && u.stall > 0 ? us(u.stall) : "", "n"), make("td", u ? `${u.count} x ${u.engine}` : "", "n"), make("td", u && u.bytes ? size(u.bytes) : "", "n"));
    const text = make("td", s.lines[k - 1] || "");
    if (u) {
      text.style.backgroundImage = `linear-gradient(90deg, var(--hot) ${(100 * u.busy / worst).toFixed(1)}%, transparent 0)`;
      tr.className = "used";
      tr.title = "Show this line's blocks on the timeline";
      tr.addEventListener("click", () => { const at = `${s.file}:${k}`; if (lit === at) unmark(); else { mark(at, false); first(at); } });
      if (!hottest || u.busy > s.use[hottest.k].busy) hottest = { k, tr };
    }
    tr.append(text);
    t.append(tr);
    marked.set(`${s.file}:${k}`, tr);
  }
  box.append(t);
  byId("source").append(box);
  if (hottest) box.scrollTop = Math.max(hottest.tr.offsetTop - 200, 0);
});
function mark(where, scroll) {
  unmark();
  const row = marked.get(where);
  if (row) { row.classList.add("marked"); if (scroll) row.scrollIntoView({ block: "center", behavior: "smooth" }); }
  lit = where;
  draw();
}
function unmark() { marked.forEach((tr) => tr.classList.remove("marked")); lit = ""; picked = null; draw(); }
function first(where) {
  const line = T.lines.findIndex((l) => l[0] === where);
  const b = T.blocks.filter((x) => x[3] === line).reduce((a, x) => a && a[1] <= x[1] ? a : x, null);
  if (b) pick({ block: b });
}

// ---- timeline
const canvas = byId("timeline"), strip = byId("overview"), tip = byId("tip");
const LABEL = 92, ROW = 30, TOP = 24, USAGE = 26, STRIP = 34;
const lanes = T.lanes.map(() => ({ blocks: [], stalls: [] }));
T.blocks.forEach((b) => lanes[b[0]].blocks.push(b));
T.stalls.forEach((b) => lanes[b[0]].stalls.push(b));
lanes.forEach((l) => { l.blocks.sort((a, b) => a[1] - b[1]); l.stalls.sort((a, b) => a[1] - b[1]); l.longest = Math.max(0, ...l.blocks.map((b) => b[2])); l.wait = Math.max(0, ...l.stalls.map((b) => b[2])); });
const full = Math.max(D.latency, 1e-6);
let view = [0, full], width = 0, height = 0, picked = null, drag = null, cross = null, nextWait = 0;
byId("drawn").textContent = T.drawn < T.total ? `${T.total} instructions are drawn as ${T.drawn} blocks.` : "";
T.opcodes.forEach((name, k) => {
  const entry = make("span"), box = make("i");
  box.style.background = colour(k);
  entry.append(box, document.createTextNode(name));
  byId("legend").append(entry);
});
[...new Set(T.stalls.map((s) => s[4]))].sort().forEach((k) => {
  const entry = make("span"), box = make("i", undefined, "wait");
  box.style.backgroundColor = CAUSES[T.causes[k]];
  entry.append(box, document.createTextNode("waits: " + WAITS(k)));
  byId("legend").append(entry);
});
function WAITS(k) { return { result: "a result", dma: "data of a DMA", release: "a reader to finish", space: "space", port: "a shared port", order: "its turn" }[T.causes[k]] || T.causes[k]; }
function at(t) { return LABEL + (t - view[0]) / (view[1] - view[0]) * (width - LABEL); }
function time(x) { return view[0] + (x - LABEL) / (width - LABEL) * (view[1] - view[0]); }
function ticks(span) {
  const raw = span / Math.max(width / 130, 2), ten = Math.pow(10, Math.floor(Math.log10(raw)));
  return [1, 2, 5, 10].map((k) => k * ten).find((s) => s >= raw);
}
function sized(node, high) {
  const ratio = window.devicePixelRatio || 1;
  node.style.height = high + "px";
  node.width = node.clientWidth * ratio; node.height = high * ratio;
  const ctx = node.getContext("2d");
  ctx.setTransform(ratio, 0, 0, ratio, 0, 0);
  ctx.fillStyle = css("--paper"); ctx.fillRect(0, 0, node.clientWidth, high);
  ctx.font = "11px system-ui, sans-serif"; ctx.textBaseline = "middle";
  return ctx;
}
// Items of a sorted list that touch [low, high]; `longest` is the longest of all.
function within(items, low, high, longest) {
  let a = 0, b = items.length;
  while (a < b) { const m = (a + b) >> 1; if (items[m][1] < low - longest) a = m + 1; else b = m; }
  const found = [];
  for (let k = a; k < items.length && items[k][1] <= high; k++) if (items[k][1] + items[k][2] >= low) found.push(items[k]);
  return found;
}
function draw() {
  width = canvas.clientWidth;
  height = TOP + ROW * lanes.length + USAGE * T.usage.length + 6;
  const ctx = sized(canvas, height), ink = css("--ink"), soft = css("--soft"), grid = css("--grid"), line = css("--line");
  const step = ticks(view[1] - view[0]), large = view[1] >= 10000;
  for (let t = Math.ceil(view[0] / step) * step; t <= view[1]; t += step) {
    const x = at(t);
    ctx.strokeStyle = grid; ctx.beginPath(); ctx.moveTo(x, TOP - 4); ctx.lineTo(x, height); ctx.stroke();
    ctx.fillStyle = soft;
    if (x < width - 50) ctx.fillText(large ? `${+(t / 1000).toFixed(7)} ms` : `${+t.toFixed(6)} us`, x + 2, 10);
  }
  lanes.forEach((lane, k) => {
    const y = TOP + k * ROW;
    ctx.save(); ctx.beginPath(); ctx.rect(LABEL, 0, width - LABEL, height); ctx.clip();
    const stalls = within(lane.stalls, view[0], view[1], lane.wait), blocks = within(lane.blocks, view[0], view[1], lane.longest);
    if (blocks.length + stalls.length > 1.5 * width) dense(ctx, blocks, stalls, y + 3, ROW - 6);
    else { paint(ctx, stalls, y + 8, ROW - 16, (b) => CAUSES[T.causes[b[4]]], false); paint(ctx, blocks, y + 3, ROW - 6, (b) => colour(b[4]), true); }
    ctx.restore();
    ctx.fillStyle = ink; ctx.fillText(T.lanes[k], 6, y + ROW / 2);
    ctx.strokeStyle = line; ctx.beginPath(); ctx.moveTo(0, y + ROW); ctx.lineTo(width, y + ROW); ctx.stroke();
  });
  T.usage.forEach((u, k) => area(ctx, u, TOP + ROW * lanes.length + USAGE * k));
  if (cross !== null && cross > LABEL) { ctx.strokeStyle = soft; ctx.setLineDash([3, 3]); ctx.beginPath(); ctx.moveTo(cross, TOP - 4); ctx.lineTo(cross, height); ctx.stroke(); ctx.setLineDash([]); }
  if (drag && drag.select && Math.abs(drag.to - drag.x) > 3) {
    const x0 = Math.max(Math.min(drag.x, drag.to), LABEL), x1 = Math.max(drag.x, drag.to);
    ctx.fillStyle = "rgba(90,140,220,.25)"; ctx.fillRect(x0, TOP - 4, x1 - x0, height);
    ctx.fillStyle = ink; ctx.fillText(us(time(x1) - time(x0)), x0 + 4, TOP + 4);
  }
  overview();
}
function dims(b) { return lit && b[3] >= 0 && T.lines[b[3]][0] !== lit; }
function paint(ctx, items, y, h, fill, label) {
  for (const b of items) {
    const x0 = Math.max(at(b[1]), LABEL - 2), x1 = Math.min(at(b[1] + b[2]), width + 2), w = Math.max(x1 - x0, 0.8);
    ctx.globalAlpha = label && dims(b) ? 0.22 : label ? 1 : 0.6;
    ctx.fillStyle = fill(b); ctx.fillRect(x0, y, w, h);
    if (w > 5 && label) { ctx.fillStyle = css("--paper"); ctx.globalAlpha = 0.6; ctx.fillRect(x0 + w - 1, y, 1, h); ctx.globalAlpha = 1; }
    if (label && w > 64 && !dims(b)) {
      ctx.save(); ctx.beginPath(); ctx.rect(x0, y, w - 3, h); ctx.clip();
      ctx.fillStyle = "#fff"; ctx.fillText(`${T.opcodes[b[4]]}  ${b[3] >= 0 ? T.lines[b[3]][0] : ""}`, Math.max(x0, LABEL) + 5, y + h / 2);
      ctx.restore();
    }
    if (picked && (picked.block === b || picked.stall === b)) { ctx.globalAlpha = 1; ctx.strokeStyle = css("--ink"); ctx.lineWidth = 2; ctx.strokeRect(x0 + 1, y, Math.max(w - 2, 1), h); ctx.lineWidth = 1; }
  }
  ctx.globalAlpha = 1;
}
// More blocks than pixels: each pixel column shows the share of its time that was busy (from below) and waiting (above).
function dense(ctx, blocks, stalls, y, h) {
  const columns = Math.ceil(width - LABEL), busy = new Float64Array(columns), wait = new Float64Array(columns), most = new Float64Array(columns);
  const which = new Int32Array(columns), cause = new Int32Array(columns), per = (view[1] - view[0]) / columns;
  const spread = (items, into, note) => items.forEach((b) => {
    const from = Math.max((b[1] - view[0]) / per, 0), to = Math.min((b[1] + b[2] - view[0]) / per, columns);
    for (let c = Math.floor(from); c < to; c++) { const part = Math.min(to, c + 1) - Math.max(from, c); into[c] += part; note(c, part, b); }
  });
  spread(blocks, busy, (c, part, b) => { const p = dims(b) ? part * 0.01 : part; if (p > most[c]) { most[c] = p; which[c] = b[4]; } });
  spread(stalls, wait, (c, part, b) => { cause[c] = b[4]; });
  for (let c = 0; c < columns; c++) {
    const b = Math.min(busy[c], 1) * h, w = Math.min(wait[c], 1 - Math.min(busy[c], 1)) * h;
    ctx.globalAlpha = lit && most[c] < 0.02 ? 0.25 : 1;
    if (b > 0) { ctx.fillStyle = colour(which[c]); ctx.fillRect(LABEL + c, y + h - b, 1, b); }
    if (w > 0) { ctx.globalAlpha = 0.55; ctx.fillStyle = CAUSES[T.causes[cause[c]]]; ctx.fillRect(LABEL + c, y + h - b - w, 1, w); }
  }
  ctx.globalAlpha = 1;
}
function area(ctx, u, y) {
  const top = Math.max(u.capacity, ...u.points.map((p) => p[1]), 1), h = USAGE - 6;
  ctx.save(); ctx.beginPath(); ctx.rect(LABEL, y, width - LABEL, USAGE); ctx.clip();
  ctx.fillStyle = "rgba(110,150,190,.45)"; ctx.beginPath(); ctx.moveTo(LABEL, y + h + 3);
  let before = 0, last = LABEL;
  u.points.forEach(([t, v]) => { const x = at(t); ctx.lineTo(x, y + 3 + h * (1 - before / top)); ctx.lineTo(x, y + 3 + h * (1 - v / top)); before = v; last = x; });
  ctx.lineTo(Math.max(last, at(full)), y + 3 + h * (1 - before / top)); ctx.lineTo(Math.max(last, at(full)), y + h + 3); ctx.closePath(); ctx.fill();
  ctx.restore();
  ctx.fillStyle = css("--soft"); ctx.fillText(`${u.name} ${(100 * Math.max(...u.points.map((p) => p[1])) / u.capacity).toFixed(0)}%`, 6, y + USAGE / 2);
}
// The whole launch in a strip, with what the view shows.
function overview() {
  const ctx = sized(strip, STRIP), rows = lanes.length, h = Math.max((STRIP - 6) / Math.max(rows, 1), 1);
  const x = (t) => LABEL + t / full * (width - LABEL);
  lanes.forEach((lane, k) => {
    const columns = new Float64Array(Math.max(Math.ceil(width - LABEL), 1)), per = full / columns.length;
    lane.blocks.forEach((b) => { const a = b[1] / per, z = Math.min((b[1] + b[2]) / per, columns.length); for (let c = Math.floor(a); c < z; c++) columns[c] += Math.min(z, c + 1) - Math.max(a, c); });
    ctx.fillStyle = lane.blocks.length ? colour(lane.blocks[0][4]) : css("--line");
    columns.forEach((v, c) => { if (v > 0) { ctx.globalAlpha = Math.min(0.25 + v, 1); ctx.fillRect(LABEL + c, 3 + k * h, 1, Math.max(h - 1, 1)); } });
  });
  ctx.globalAlpha = 1;
  ctx.fillStyle = css("--soft"); ctx.fillText("overview", 6, STRIP / 2);
  ctx.strokeStyle = css("--accent"); ctx.lineWidth = 2;
  ctx.strokeRect(x(view[0]) + 1, 1, Math.max(x(view[1]) - x(view[0]) - 2, 2), STRIP - 2);
  ctx.lineWidth = 1;
}
function hit(event) {
  const box = canvas.getBoundingClientRect(), x = event.clientX - box.left, y = event.clientY - box.top;
  const lane = lanes[Math.floor((y - TOP) / ROW)];
  if (!lane || x < LABEL) return null;
  const t = time(x), slack = (view[1] - view[0]) / width;
  const near = (items, longest) => {
    const found = within(items, t - slack, t + slack, longest);
    return found.find((b) => b[1] <= t && t <= b[1] + b[2]) || found[0];
  };
  return { block: near(lane.blocks, lane.longest), stall: near(lane.stalls, lane.wait), x, y };
}
function show(low, high) {
  const span = Math.min(Math.max(high - low, 0.002), full);
  low = Math.min(Math.max(low, 0), full - span);
  view = [low, low + span];
  draw();
}
function zoom(factor, centre) { show(centre - (centre - view[0]) * factor, centre + (view[1] - centre) * factor); }
function pan(by) { const low = Math.min(Math.max(view[0] + by, 0), full - (view[1] - view[0])); show(low, low + view[1] - view[0]); }
function words(b, s) {
  const item = b || s, line = item[3] >= 0 ? T.lines[item[3]] : ["", "", 0];
  const head = b ? `${T.opcodes[b[4]]}${b[6] > 1 ? ` (${b[6]} instructions)` : b[5] >= 0 ? ` #${b[5]}` : " of the compiler"} on ${T.lanes[b[0]]}` : `${T.lanes[s[0]]} waits for ${WAITS(s[4])}${s[5] >= 0 ? " of " + T.lines[s[5]][0] : ""}`;
  return { head, where: line[0], text: line[1], span: `${us(item[2])} from ${us(item[1])} to ${us(item[1] + item[2])}` };
}
// Pick a block or a wait: say what it is, with ways to what it waited for.
function pick(found) {
  picked = found;
  const b = found.block, s = found.stall && (!b || found.stall[1] <= b[1]) ? found.stall : null, box = byId("picked"), w = words(b, found.stall);
  box.textContent = ""; box.className = "";
  box.append(make("b", w.head), document.createTextNode(`, ${w.span}. `));
  if (w.where) box.append(link(w.where), document.createTextNode(" "), make("code", w.text));
  const wait = b ? lanes[b[0]].stalls.find((x) => Math.abs(x[1] + x[2] - b[1]) < 1e-3) : s || found.stall;
  if (wait) {
    box.append(document.createTextNode(`${b ? ` Before it waited ${us(wait[2])} for ${WAITS(wait[4])} of` : " It waited for"} `));
    if (wait[5] >= 0) {
      box.append(link(T.lines[wait[5]][0]), document.createTextNode(" "), make("code", T.lines[wait[5]][1]), document.createTextNode(" "));
      const go = make("button", "show it");
      go.addEventListener("click", () => { const other = near(wait[6], wait[5]); if (other) reveal({ block: other }); });
      box.append(go);
    }
  }
  const item = b || found.stall;
  if (item[3] >= 0) mark(T.lines[item[3]][0], false);
  picked = found;
  draw();
}
function near(start, line) { return T.blocks.filter((b) => b[3] === line).reduce((a, b) => a && Math.abs(a[1] - start) <= Math.abs(b[1] - start) ? a : b, null); }
function reveal(found) {
  const item = found.block || found.stall, span = view[1] - view[0];
  if (item[1] < view[0] || item[1] + item[2] > view[1] || item[2] < span / 400) { const wide = Math.max(item[2] * 12, Math.min(span, full / 50)); show(item[1] + item[2] / 2 - wide / 2, item[1] + item[2] / 2 + wide / 2); }
  pick(found);
}
function neighbour(way) {
  const b = picked && picked.block, lane = b ? lanes[b[0]] : lanes.find((l) => l.blocks.length);
  if (!lane) return;
  const k = b ? lane.blocks.indexOf(b) + way : 0;
  if (lane.blocks[k]) reveal({ block: lane.blocks[k] });
}
function longestWait() {
  const ranked = T.stalls.slice().sort((a, b) => b[2] - a[2]).slice(0, 10);
  if (ranked.length) reveal({ stall: ranked[nextWait++ % ranked.length] });
}
canvas.addEventListener("wheel", (e) => { e.preventDefault(); if (e.shiftKey || Math.abs(e.deltaX) > Math.abs(e.deltaY)) pan((e.deltaX || e.deltaY) / width * (view[1] - view[0])); else zoom(Math.exp(e.deltaY * 0.0015), time(e.clientX - canvas.getBoundingClientRect().left)); }, { passive: false });
canvas.addEventListener("pointerdown", (e) => { const x = e.clientX - canvas.getBoundingClientRect().left; drag = { x, to: x, select: !e.shiftKey && e.button === 0 }; canvas.setPointerCapture(e.pointerId); });
canvas.addEventListener("pointerup", (e) => {
  const d = drag; drag = null;
  if (!d) return;
  if (Math.abs(d.to - d.x) <= 3) { const found = hit(e); if (found && (found.block || found.stall)) pick(found); else unmark(); }
  else if (d.select) show(time(Math.max(Math.min(d.x, d.to), LABEL)), time(Math.max(d.x, d.to)));
});
canvas.addEventListener("pointermove", (e) => {
  const x = e.clientX - canvas.getBoundingClientRect().left;
  cross = x;
  if (drag) {
    if (!drag.select) { pan((drag.to - x) / (width - LABEL) * (view[1] - view[0])); }
    drag.to = x; tip.hidden = true; draw();
    return;
  }
  const found = hit(e), b = found && found.block, s = found && found.stall;
  draw();
  tip.hidden = !b && !s;
  if (tip.hidden) return;
  const w = words(b, s);
  tip.textContent = `${w.head}\n${w.where}  ${w.text}\n${w.span}`;
  tip.style.left = Math.max(Math.min(found.x + 14, width - tip.offsetWidth - 4), 0) + "px";
  tip.style.top = found.y + STRIP + 18 + "px";
});
canvas.addEventListener("pointerleave", () => { tip.hidden = true; cross = null; draw(); });
canvas.addEventListener("dblclick", () => show(0, full));
strip.addEventListener("pointerdown", (e) => { strip.setPointerCapture(e.pointerId); goTo(e); });
strip.addEventListener("pointermove", (e) => { if (e.buttons) goTo(e); });
function goTo(e) { const x = e.clientX - strip.getBoundingClientRect().left, t = (x - LABEL) / (width - LABEL) * full, half = (view[1] - view[0]) / 2; show(t - half, t + half); }
const keys = {
  ArrowLeft: () => pan((view[0] - view[1]) / 8), ArrowRight: () => pan((view[1] - view[0]) / 8), "+": () => zoom(0.7, (view[0] + view[1]) / 2), "=": () => zoom(0.7, (view[0] + view[1]) / 2),
  "-": () => zoom(1.4, (view[0] + view[1]) / 2), Home: () => show(0, full), "0": () => show(0, full), "[": () => neighbour(-1), "]": () => neighbour(1), w: longestWait, Escape: unmark, t: otherTheme,
};
document.addEventListener("keydown", (e) => {
  const arrow = e.key.startsWith("Arrow") || e.key === "Home";
  if (e.ctrlKey || e.metaKey || e.altKey || (arrow && document.activeElement !== canvas) || !keys[e.key]) return;
  e.preventDefault();
  keys[e.key]();
});
[["in", "+"], ["out", "-"], ["all", "0"], ["before", "["], ["after", "]"], ["waits", "w"]].forEach(([id, key]) => byId(id).addEventListener("click", () => keys[key]()));
window.addEventListener("resize", draw);
matchMedia("(prefers-color-scheme: dark)").addEventListener("change", (e) => { root.dataset.theme = e.matches ? "dark" : "light"; draw(); });
draw();

// ---- roofline
(function () {
  const R = D.roofline, W = 560, H = 300, L = 58, B = 36, NS = "http://www.w3.org/2000/svg";
  const top = Math.max(...R.peaks.map((p) => p[1])), ridge = top / R.bandwidth;
  const xs = [Math.min(ridge / 100, R.intensity / 3 || 1, ridge), Math.max(ridge * 20, R.intensity * 3)];
  const ys = [Math.min(R.achieved / 3 || top / 1e3, top / 100), top * 2.5];
  const x = (v) => L + (Math.log10(v) - Math.log10(xs[0])) / (Math.log10(xs[1]) - Math.log10(xs[0])) * (W - L - 10);
  const y = (v) => H - B - (Math.log10(v) - Math.log10(ys[0])) / (Math.log10(ys[1]) - Math.log10(ys[0])) * (H - B - 10);
  const svg = document.createElementNS(NS, "svg");
  svg.setAttribute("viewBox", `0 0 ${W} ${H}`); svg.setAttribute("width", "100%"); svg.setAttribute("role", "img");
  const add = (tag, attrs, text, cls) => {
    const node = document.createElementNS(NS, tag);
    Object.entries(attrs).forEach(([k, v]) => node.setAttribute(k, v));
    if (text) node.textContent = text;
    if (cls) node.setAttribute("class", cls);
    svg.append(node);
  };
  const label = (px, py, text, anchor, cls) => add("text", { x: px, y: py, "text-anchor": anchor || "start" }, text, cls);
  for (let k = Math.ceil(Math.log10(xs[0])); k <= Math.log10(xs[1]); k++) { add("line", { x1: x(10 ** k), x2: x(10 ** k), y1: 10, y2: H - B, stroke: "var(--grid)" }); label(x(10 ** k), H - B + 14, String(+(10 ** k).toPrecision(1)), "middle"); }
  for (let k = Math.ceil(Math.log10(ys[0])); k <= Math.log10(ys[1]); k++) { add("line", { x1: L, x2: W - 10, y1: y(10 ** k), y2: y(10 ** k), stroke: "var(--grid)" }); label(L - 6, y(10 ** k) + 4, String(+(10 ** k).toPrecision(1)), "end"); }
  R.peaks.forEach(([name, peak], k) => {
    const bend = Math.max(peak / R.bandwidth, xs[0]);
    add("polyline", { points: `${x(xs[0])},${y(Math.max(Math.min(xs[0] * R.bandwidth, peak), ys[0]))} ${x(bend)},${y(peak)} ${x(xs[1])},${y(peak)}`, fill: "none", stroke: colour(k), "stroke-width": 2 });
    label(W - 12, y(peak) - 5, `${name} ${peak.toFixed(peak < 10 ? 2 : 1)} T/s`, "end");
    label(x(bend) + 6, y(peak) + 15, `ridge ${bend.toFixed(bend < 10 ? 2 : 0)}`, "start");
  });
  const low = xs[0] * 1.6, slope = Math.atan2(y(low) - y(low * 4), x(low * 4) - x(low)) * 180 / Math.PI;
  add("text", { x: x(low), y: y(Math.max(low * R.bandwidth, ys[0])) - 7, transform: `rotate(${-slope} ${x(low)} ${y(Math.max(low * R.bandwidth, ys[0])) - 7})` }, `HBM ${(1000 * R.bandwidth).toFixed(0)} GB/s`);
  if (R.intensity > 0 && R.achieved > 0) {
    const bound = Math.min(R.roof, R.intensity * R.bandwidth), px = x(R.intensity), py = y(R.achieved), left = px > W * 0.55;
    add("line", { x1: px, x2: px, y1: py, y2: y(bound), stroke: "#d0557f", "stroke-dasharray": "3 3" });
    add("circle", { cx: px, cy: py, r: 5.5, fill: "#d0557f" });
    const text = `${+R.achieved.toPrecision(3)} T/s at ${+R.intensity.toPrecision(3)} ${R.unit}s a byte: ${(100 * R.achieved / bound).toFixed(0)}% of the roof`;
    label(left ? px + 6 : px - 6, Math.min(py + 22, H - B - 6), text, left ? "end" : "start", "strong");
  } else label((W + L) / 2, H / 2, "nothing computed: no point to draw", "middle", "strong");
  label((W + L) / 2, H - 4, `${R.unit}s per HBM byte`, "middle");
  add("text", { x: 12, y: H / 2, "text-anchor": "middle", transform: `rotate(-90 12 ${H / 2})` }, `T ${R.unit}s / s`);
  byId("roofline").append(svg);
})();
