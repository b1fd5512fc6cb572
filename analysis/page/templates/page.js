"use strict";
(() => {
  const data = JSON.parse(document.getElementById("data").textContent);
  const root = document.documentElement;
  const $$ = (selector, from = document) => [...from.querySelectorAll(selector)];
  const make = (tag, props = {}, ...children) => {
    const node = Object.assign(document.createElement(tag), props);
    node.append(...children);
    return node;
  };

  // Charts are drawn when they come into view, and again when the theme or the width changes.
  const drawn = new Map();
  function fitted(spec, width) {
    if (width < 420 && spec.layer) // marks of cells have no room for their ranks
      return { ...spec, layer: spec.layer.filter((one) => one.encoding?.text?.field !== "rank") };
    if (!spec.facet) return spec;
    const columns = Math.max(1, Math.min(spec.columns || 1, Math.floor(width / 250)));
    const inner = Math.max(150, Math.floor(width / columns) - (columns > 1 ? 34 : 60));
    return { ...spec, columns, spec: { ...spec.spec, width: inner } };
  }
  async function draw(node) {
    const width = node.clientWidth;
    if (!width || !window.vegaEmbed) return;
    const key = root.dataset.theme + width;
    if (drawn.get(node)?.key === key) return;
    drawn.get(node)?.view?.finalize();
    drawn.set(node, { key });
    const spec = { ...fitted(data.figures[node.dataset.chart], width), autosize: { type: "fit-x", contains: "padding" } };
    if (spec.facet) delete spec.autosize;
    const theme = data.themes[root.dataset.theme];
    const columns = Math.max(2, Math.floor((width - 80) / (34 + 7 * data.longest)));
    const options = { config: { ...theme, legend: { ...theme.legend, columns } }, renderer: "svg",
      tooltip: { theme: root.dataset.theme }, actions: { export: true, source: false, compiled: false, editor: false } };
    const result = await vegaEmbed(node, structuredClone(spec), options);
    drawn.set(node, { key, view: result.view });
    node.dataset.drawn = "true";
  }
  const charts = $$(".chart");
  const seen = new IntersectionObserver((entries) => {
    for (const entry of entries) if (entry.isIntersecting) draw(entry.target);
  }, { rootMargin: "600px" });
  charts.forEach((node) => seen.observe(node));
  const redraw = () => charts.filter((node) => drawn.has(node)).forEach(draw);
  let waiting;
  addEventListener("resize", () => { clearTimeout(waiting); waiting = setTimeout(redraw, 150); });
  addEventListener("beforeprint", () => charts.forEach(draw));
  document.getElementById("theme").addEventListener("click", () => {
    root.dataset.theme = root.dataset.theme === "dark" ? "light" : "dark";
    try { localStorage.setItem("ablora-theme", root.dataset.theme); } catch { /* a page from disk may have no storage */ }
    redraw();
  });

  // One of several figures in the same place: the select of each shows the one asked for.
  $$("select.axis").forEach((select) => select.addEventListener("change", () => {
    const wanted = document.getElementById(select.value);
    for (const figure of $$(".figure", select.closest(".choice"))) figure.hidden = figure !== wanted;
    const other = wanted.querySelector("select.axis");
    select.value = "figure-" + select.closest(".figure").querySelector(".chart").dataset.chart;
    other.focus();
    draw(wanted.querySelector(".chart"));
  }));
  const setting = document.getElementById("setting");
  if (setting) {
    const show = () => $$(".setting").forEach((node) => { node.hidden = node.dataset.setting !== setting.value; });
    setting.addEventListener("change", show);
    show();
  }

  // Tables: sort by a heading, filter by words that must all occur.
  const value = (row, column) => {
    const cell = row.cells[column];
    return cell.dataset.v !== undefined ? cell.dataset.v : cell.textContent.trim().toLowerCase();
  };
  function compare(a, b, down) {
    if (a === "" || b === "") return (a === "") - (b === "");
    const [x, y] = [Number(a), Number(b)];
    const order = Number.isNaN(x) || Number.isNaN(y) ? a.localeCompare(b) : x - y;
    return down ? -order : order;
  }
  $$("table.data:not(.plain)").forEach((table) => $$("thead th", table).forEach((head) => {
    if (!head.textContent.trim() || head.querySelector(".sr")) return;
    const column = head.cellIndex;
    const button = make("button", { type: "button" }, ...head.childNodes);
    head.append(button);
    button.addEventListener("click", () => {
      const down = head.getAttribute("aria-sort") === "ascending" || (!head.hasAttribute("aria-sort") && head.classList.contains("num"));
      const flip = head.getAttribute("aria-sort") === "descending" ? false : down;
      $$("th", table.tHead).forEach((other) => other.removeAttribute("aria-sort"));
      head.setAttribute("aria-sort", flip ? "descending" : "ascending");
      const rows = [...table.tBodies[0].rows].sort((a, b) => compare(value(a, column), value(b, column), flip));
      table.tBodies[0].append(...rows);
    });
  }));
  const words = (text) => text.toLowerCase().split(/\s+/).filter(Boolean);
  $$("[data-filter]").forEach((input) => input.addEventListener("input", () => {
    const rows = [...document.getElementById(input.dataset.filter).tBodies[0].rows];
    const wanted = words(input.value);
    for (const row of rows) {
      const cells = [...row.cells].map((cell) => cell.textContent.trim().toLowerCase());
      row.hidden = !wanted.every((word) => cells.some((cell) => (/^[\d.]+$/.test(word) ? cell === word : cell.includes(word))));
    }
    const shown = rows.filter((row) => !row.hidden).length;
    document.querySelector(`[data-count=${input.dataset.filter}]`).textContent = wanted.length ? `${shown} of ${rows.length}` : "";
  }));

  // The run browser: what a run was, what came out, and how to do it again; filled when opened.
  const pairs = (title, object) => {
    const rows = Object.entries(object).map(([key, v]) => make("div", {}, make("dt", { textContent: key }),
      make("dd", { textContent: typeof v === "number" && !Number.isInteger(v) ? +v.toPrecision(6) : typeof v === "object" ? JSON.stringify(v) : v })));
    return make("div", {}, make("h4", { textContent: title }), make("dl", {}, ...rows));
  };
  const command = (text) => make("div", { className: "command" }, make("pre", { tabIndex: 0 }, make("code", { textContent: text })),
    make("button", { type: "button", className: "ghost copy", textContent: "Copy" }));
  function body(run) {
    const spec = { ...data.runs.cells[run.cell].spec, seed: run.seed };
    const again = data.runs.cells[run.cell].command.replace("seed=SEED", `seed=${run.seed}`);
    const parts = again ? [make("h4", { textContent: "Run it again" }), command(again)] : [];
    if (run.error) parts.push(make("p", { className: "bad", textContent: run.error }));
    for (const note of run.notes || []) parts.push(make("p", { className: "hint", textContent: note }));
    parts.push(make("div", { className: "columns" }, pairs("Metrics", run.metrics || {}), pairs("Cost", run.cost || {})));
    parts.push(make("h4", { textContent: "Resolved spec" }), make("div", { className: "command" },
      make("pre", { tabIndex: 0 }, make("code", { textContent: JSON.stringify(spec, null, 1) }))));
    return make("div", { className: "run-body" }, ...parts);
  }
  const list = document.getElementById("runs");
  if (list) {
    const PAGE = 50;
    const texts = data.runs.runs.map((run) => {
      const { name, spec } = data.runs.cells[run.cell];
      return `${run.id} ${name} ${spec.dataset} ${spec.model} r${spec.r} rank ${spec.r} seed ${run.seed} s${run.seed} ${run.status} ${run.phase || ""}`.toLowerCase();
    });
    const entry = (run) => {
      const state = make("span", { className: "state" + (run.status === "completed" ? "" : " not-completed"), textContent: run.status });
      const details = make("details", {}, make("summary", {}, make("code", { textContent: run.id }), state));
      details.addEventListener("toggle", () => { if (details.open && details.children.length === 1) details.append(body(run)); });
      return details;
    };
    const show = (limit) => {
      const wanted = words(document.getElementById("run-filter").value);
      const hits = data.runs.runs.filter((_, i) => wanted.every((word) => texts[i].includes(word)));
      list.replaceChildren(...hits.slice(0, limit).map(entry));
      if (hits.length > limit) {
        const more = make("button", { type: "button", className: "ghost", textContent: `Show ${Math.min(PAGE * 4, hits.length - limit)} more` });
        more.addEventListener("click", () => show(limit + PAGE * 4));
        list.append(make("div", { className: "pager" }, more));
      }
      document.getElementById("run-count").textContent = wanted.length ? `${hits.length} of ${texts.length}` : "";
    };
    document.getElementById("run-filter").addEventListener("input", () => show(PAGE));
    show(12);
  }
  document.addEventListener("click", async (event) => {
    const button = event.target.closest(".copy");
    if (!button) return;
    const code = button.parentElement.querySelector("code");
    try { await navigator.clipboard.writeText(code.textContent); button.textContent = "Copied"; } catch {
      getSelection().selectAllChildren(code);
      button.textContent = "Selected";
    }
    setTimeout(() => { button.textContent = "Copy"; }, 1500);
  });
})();
