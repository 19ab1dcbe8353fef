"use strict";
(() => {
  const data = JSON.parse(document.getElementById("data").textContent);
  const $ = (id) => document.getElementById(id);
  const tip = $("tip");
  const WHITE = " ";

  // ---- elements and numbers. Text only ever enters as text, so that nothing in the data becomes markup.

  function h(name, props, ...children) {
    const [tag, ...classes] = name.split(".");
    const element = document.createElement(tag || "div");
    if (classes.length) element.className = classes.join(" ");
    for (const [key, value] of Object.entries(props || {})) {
      if (key.startsWith("on")) element.addEventListener(key.slice(2), value);
      else if (value !== null && value !== undefined && value !== false) element.setAttribute(key, value === true ? "" : value);
    }
    element.append(...children.flat().filter((child) => child !== null && child !== undefined));
    return element;
  }

  const escaped = (text) => h("i", {}, String(text)).innerHTML;
  const number = (x) => (x === null || x === undefined ? null : Number(x)); // "NaN" and "Infinity" are strings in the block
  const finite = (x) => x !== null && x !== undefined && Number.isFinite(Number(x));

  function text(x) {
    const value = number(x);
    if (value === null) return "–";
    if (Number.isNaN(value)) return "NaN";
    if (!Number.isFinite(value)) return value > 0 ? "∞" : "−∞";
    const size = Math.abs(value);
    if (Number.isInteger(value) && size < 1e6) return String(value).replace("-", "−");
    if (size >= 1e6 || size < 1e-3) return value.toExponential(1).replace("-", "−").replace("e−", "e-");
    return value.toFixed(Math.max(0, Math.min(5, 2 - Math.floor(Math.log10(size))))).replace("-", "−");
  }
  const signed = (x) => (number(x) > 0 && finite(x) ? "+" : "") + (finite(x) && Math.abs(x) >= 0.05 && Math.abs(x) < 1e5 ? (Math.abs(x) < 100 ? Number(x).toFixed(1) : Number(x).toFixed(0)).replace("-", "−") : text(x));
  const percent = (x) => (finite(x) ? `${(100 * Number(x)).toFixed(0).replace(/^-0$/, "0").replace("-", "−")}%` : text(x));
  // The decimals that make sense beside an uncertainty: two digits of it if they begin with 1 or 2, else one.
  function decimals(sd) {
    const size = Math.abs(number(sd));
    if (!finite(sd) || size === 0) return null;
    const place = Math.floor(Math.log10(size));
    return Math.max(0, Math.min(8, (size / 10 ** place < 2.95 ? 1 : 0) - place));
  }
  const rounded = (x, places) => (places === null || !finite(x) ? text(x) : Number(x).toFixed(places).replace(/^-(?=[0.]*$)/, "").replace("-", "−"));
  const bounds = (v, form) => (finite(v[1]) && finite(v[2]) ? `${form(v[1])} to ${form(v[2])}` : "");

  // ---- charts: Vega-Lite, drawn as SVG whose colours are CSS variables, so that dark, light and print need no new drawing

  const INK = "var(--ink)", SOFT = "var(--soft)", ACCENT = "var(--accent)";
  const ACCESS = {
    "reference": ["diamond", INK], "F": ["triangle-up", "var(--access-F)"], "R": ["circle", "var(--access-R)"],
    "F+R": ["square", "var(--access-FR)"], "R+test-like": ["cross", "var(--access-Rt)"],
    "F+R+test-like": ["diamond", "var(--access-FRt)"], "data-free": ["triangle-down", "var(--access-free)"],
  };
  const OTHER = ["triangle-right", "var(--access-else)"];
  const CONFIG = {
    background: null, font: "system-ui, sans-serif",
    view: { stroke: null },
    axis: { labelColor: SOFT, titleColor: INK, gridColor: "var(--grid)", domainColor: "var(--line)", tickColor: "var(--line)", titleFontWeight: 500, labelFontSize: 11, titleFontSize: 12 },
    legend: { labelColor: INK, titleColor: SOFT, orient: "bottom", titleFontWeight: 400, labelFontSize: 12, symbolStrokeWidth: 1 },
    text: { color: INK }, title: { color: INK, fontSize: 12, fontWeight: 600 },
  };

  function showTip(words, x, y) {
    tip.textContent = words;
    tip.hidden = false;
    const box = tip.getBoundingClientRect();
    tip.style.left = `${Math.max(6, Math.min(x + 14, innerWidth - box.width - 6))}px`;
    tip.style.top = `${y + 16 + box.height > innerHeight ? Math.max(6, y - box.height - 12) : y + 16}px`;
  }
  const hideTip = () => { tip.hidden = true; };
  addEventListener("scroll", hideTip, { passive: true });
  addEventListener("keydown", (event) => { if (event.key === "Escape") hideTip(); });

  async function chart(place, spec, { onPick = null, change = (compiled) => compiled } = {}) {
    if (place.view) place.view.finalize();
    const compiled = change(vegaLite.compile({ config: CONFIG, ...spec }).spec);
    const view = new vega.View(vega.parse(compiled), { renderer: "svg", hover: false });
    view.tooltip((handler, event, item, words) => {
      if (words === null || words === undefined || words === "") hideTip();
      else showTip(String(words), event.clientX, event.clientY);
    });
    view.addEventListener("click", (event, item) => {
      const { pick, tip: words } = (item && item.datum) || {};
      if (words) showTip(words, event.clientX, event.clientY); // a finger does not hover
      if (onPick && pick) onPick(pick);
    });
    place.replaceChildren();
    place.view = view; // before waiting: a later drawing ends this one
    await view.initialize(place).runAsync();
    reachable(place, onPick);
    return view;
  }

  // One stop of the Tab key for a group of things; inside it the arrow keys go on, Home and End to its ends.
  function roving(place, name, list, first = () => false) {
    const stop = (at) => { for (const each of list()) each.setAttribute("tabindex", each === at ? "0" : "-1"); };
    const now = list();
    stop(now.find(first) || now.find((each) => each === document.activeElement) || now[0]);
    place.groups = place.groups || new Set();
    if (place.groups.has(name)) return;
    place.groups.add(name);
    place.addEventListener("focusin", (event) => { if (list().includes(event.target)) stop(event.target); });
    place.addEventListener("keydown", (event) => {
      const all = list(), at = all.indexOf(event.target);
      if (at < 0 || event.altKey || event.ctrlKey || event.metaKey) return;
      const next = { ArrowDown: at + 1, ArrowRight: at + 1, ArrowUp: at - 1, ArrowLeft: at - 1, Home: 0, End: all.length - 1 }[event.key];
      if (next === undefined) return;
      event.preventDefault();
      if (all[next]) all[next].focus();
    });
  }

  // Points can be reached by the keyboard: focus shows what hovering shows, Enter chooses.
  function reachable(place, onPick) {
    const list = () => [...place.querySelectorAll(".points_marks path, .points path")];
    roving(place, "points", list, (path) => path.__data__ && place.view && path.__data__.datum.pick && path.__data__.datum.pick === place.chosen);
    for (const path of list()) {
      if (path.reached) continue;
      path.reached = true;
      const datum = () => (path.__data__ && path.__data__.datum) || {};
      path.addEventListener("focus", () => {
        const box = path.getBoundingClientRect();
        if (datum().tip && path.matches(":focus-visible")) showTip(datum().tip, box.right, box.bottom);
      });
      path.addEventListener("blur", hideTip);
      path.addEventListener("keydown", (event) => {
        if (onPick && datum().pick && (event.key === "Enter" || event.key === " ")) { event.preventDefault(); onPick(datum().pick); }
      });
    }
  }

  // ---- tables: Tabulator

  const order = (dir, a, b) => {
    const [x, y] = [a, b].map((value) => (value === null || value === undefined || Number.isNaN(Number(value)) ? null : Number(value)));
    if (x === null || y === null) return (x === null) - (y === null) ? ((x === null) - (y === null)) * (dir === "asc" ? 1 : -1) : 0;
    return x === y ? 0 : x < y ? -1 : 1;
  };

  function tabulator(place, options, onPick) {
    const { first, ...rest } = options;
    const table = new Tabulator(place, { layout: "fitData", nestedFieldSeparator: false, renderVertical: "basic", headerSortTristate: true, columnDefaults: { resizable: "header" }, ...rest });
    if (!place.tabled) alongside(place);
    place.tabled = true;
    const rows = () => [...place.querySelectorAll(".tabulator-row")];
    if (onPick) table.on("renderComplete", () => roving(place, "rows", rows, (row) => row.classList.contains("chosen")));
    if (first) shorten(place, table, rows, first);
    sideways(place, table);
    let across = 0; // what was scrolled sideways stays so when rows are drawn anew
    const holder = () => place.querySelector(".tabulator-tableholder");
    table.on("renderStarted", () => { across = holder().scrollLeft; });
    table.on("renderComplete", () => { if (holder().scrollLeft !== across) holder().scrollLeft = across; });
    place.addEventListener("keydown", (event) => {
      if (event.key !== "Enter" && event.key !== " ") return;
      const target = event.target;
      if (target.matches(".tabulator-col")) { event.preventDefault(); target.click(); }
      else if (onPick && target.matches(".tabulator-row")) {
        event.preventDefault();
        const row = table.getRows().find((each) => each.getElement() === target);
        if (row) onPick(row.getData());
      }
    });
    if (onPick) table.on("rowClick", (event, row) => onPick(row.getData()));
    table.on("tableBuilt", () => headers(place));
    return table;
  }
  function headers(place) {
    roving(place, "headings", () => [...place.querySelectorAll(".tabulator-col.tabulator-sortable")].filter((head) => head.offsetParent));
    place.querySelector(".tabulator-tableholder").tabIndex = -1; // its rows are the stop
  }

  // Of many rows only the first are shown, to the end of one, so that the wheel goes on over the table; a button shows all.
  function shorten(place, table, rows, first) {
    let whole = false;
    const button = h("button.all", { type: "button", onclick: () => { whole = !whole; cut(); } });
    const many = () => rows().length > first + 2;
    for (const old of place.parentElement.querySelectorAll("button.all")) old.remove();
    place.after(button);
    function cut() {
      const holder = place.querySelector(".tabulator-tableholder"), all = rows(), cutting = many() && !whole;
      button.hidden = !many();
      button.textContent = cutting ? `Show all ${all.length} rows` : `Show only the first ${first} rows`;
      button.setAttribute("aria-expanded", String(!cutting));
      holder.classList.toggle("cut", cutting);
      holder.style.maxHeight = cutting ? `${all[first - 1].offsetTop + all[first - 1].offsetHeight + holder.offsetHeight - holder.clientHeight}px` : "";
      holder.style.height = ""; // which Tabulator has fixed, while fewer rows were shown
      if (cutting) holder.scrollTop = 0;
    }
    table.on("renderComplete", cut);
    place.addEventListener("focusin", (event) => { // a row that is out of sight
      if (whole || !many() || rows().indexOf(event.target) < first) return;
      whole = true;
      cut();
      event.target.scrollIntoView({ block: "nearest" });
    });
  }

  // Of a table that is wider than its place: how many columns are out of sight, and a button that goes there, and back from the end.
  function sideways(place, table) {
    const part = (name) => place.querySelector(`.tabulator-${name}`), box = (element) => element.getBoundingClientRect();
    const button = h("button.across", { type: "button", onclick: () => {
      const [next] = beyond();
      part("tableholder").scrollLeft = next ? part("tableholder").scrollLeft + box(next).left - inner() : 0;
    } });
    for (const old of place.parentElement.querySelectorAll("button.across")) old.remove();
    place.after(button);
    const inner = () => (part("col.tabulator-frozen") ? box(part("col.tabulator-frozen")).right : box(part("tableholder")).left);
    const outer = () => box(part("tableholder")).left + part("tableholder").clientWidth;
    const beyond = () => [...place.querySelectorAll(".tabulator-col")].filter((head) => head.offsetParent && box(head).right > outer() + 4);
    function update() {
      if (!part("tableholder")) return;
      const hidden = beyond().length, moved = part("tableholder").scrollLeft > 2;
      place.classList.toggle("further", hidden > 0);
      place.classList.toggle("moved", moved);
      button.hidden = !hidden && !moved;
      button.textContent = hidden ? `${hidden} more column${hidden > 1 ? "s" : ""} →` : "← First columns";
    }
    for (const event of ["renderComplete", "columnVisibilityChanged", "columnResized"]) table.on(event, update);
    place.addEventListener("scroll", () => requestAnimationFrame(update), true); // once the headings have followed
    new ResizeObserver(() => requestAnimationFrame(update)).observe(place);
  }

  // A heading that gets the focus is scrolled into sight, and the rows with it; none stays under the frozen column.
  function alongside(place) {
    const part = (name) => place.querySelector(`.tabulator-${name}`);
    place.addEventListener("scroll", (event) => {
      const body = part("tableholder"), head = part("header-contents");
      if (body && head && event.target !== body && body.scrollLeft !== head.scrollLeft) body.scrollLeft = head.scrollLeft;
    }, true);
    place.addEventListener("focusin", (event) => {
      const body = part("tableholder"), frozen = part("frozen");
      if (!event.target.matches(".tabulator-col") || event.target === frozen) return;
      const [own, whole] = [event.target, body].map((each) => each.getBoundingClientRect());
      const left = frozen ? frozen.getBoundingClientRect().right : whole.left;
      if (own.left < left) body.scrollLeft -= left - own.left;
      else if (own.right > whole.right) body.scrollLeft += Math.min(own.right - whole.right, own.left - left);
    });
  }

  function copying() {
    for (const button of document.querySelectorAll("button.copy")) {
      button.addEventListener("click", async () => {
        const range = document.createRange();
        range.selectNodeContents($(button.dataset.of));
        getSelection().removeAllRanges();
        getSelection().addRange(range);
        try { await navigator.clipboard.writeText(range.toString()); } catch { document.execCommand("copy"); }
        button.textContent = "Copied";
        setTimeout(() => { button.textContent = "Copy"; }, 1500);
      });
    }
  }

  // ---- a study: its tables

  function study() {
    document.body.classList.add("study");
    if (data.explorer) window.explore($("explore"), data.explorer, { h, text, percent, roving });
    for (const details of document.querySelectorAll("[data-table]")) {
      const { columns, rows } = data.tables[details.dataset.table];
      const [note, place] = details.querySelectorAll(".note, div");
      let built = false;
      const build = () => {
        if (built || !details.open) return;
        built = true;
        note.textContent = `The first ${rows.length} rows. Click a heading to sort; type under it to filter.`;
        tabulator(place, {
          renderVertical: "virtual", height: Math.min(460, 90 + 28 * rows.length), data: rows.map((row) => Object.fromEntries(row.map((cell, i) => [`c${i}`, cell]))),
          columns: columns.map((name, i) => {
            const numeric = rows.some((row) => row[i] !== null && row[i] !== undefined) && rows.every((row) => row[i] === null || row[i] === undefined || !Number.isNaN(Number(row[i])) || row[i] === "NaN");
            return {
              title: escaped(name), field: `c${i}`, headerFilter: "input", minWidth: 90, maxWidth: 340, hozAlign: numeric ? "right" : "left",
              ...(numeric ? { sorter: (a, b, x, y, column, dir) => order(dir, a, b), formatter: (cell) => text(cell.getValue()) } : { sorter: "string" }),
            };
          }),
        });
      };
      details.addEventListener("toggle", build);
      build();
    }
  }

  // ---- the main job

  function run() {
    const state = { set: 0, method: data.nearest, brush: null, columns: new Set(Object.keys(data.metrics).filter((key) => data.metrics[key].shown)) };
    const MEMORY = "memory_left/forget", DAMAGE = "damage/all", KLOM = "klom/forget", ACCURACY = "accuracy/test";
    const scores = (set, method) => set.methods[method].scores;
    const sets = data.sets;
    const current = () => sets[state.set];
    const names = () => Object.keys(current().methods);
    const reference = (name) => data.references.includes(name);
    const verdict = (name) => current().methods[name].outcome || "no verdict";
    const MARKS = { "equivalent": "≈", "not distinguished": "●", "different": "≠" };
    const STYLES = { "equivalent": "equivalent", "not distinguished": "undistinguished", "different": "different" };
    const badge = (outcome) => h(`span.badge.${STYLES[outcome] || "fine"}`, {}, `${MARKS[outcome] || "?"} ${outcome}`);
    const access = (name) => (reference(name) ? "reference" : current().methods[name].access);
    const firstSet = () => (sets.length > 1 && state.set === 0 ? Object.keys(data.examples)[0] || Object.keys(data.losses)[0] : current().name);
    const places = (v) => decimals(v[3] !== null ? v[4] : finite(v[1]) && finite(v[2]) ? (v[2] - v[1]) / 4 : null);
    const value = (v, x = v[0]) => rounded(x, places(v));
    const range = (v) => bounds(v, (x) => value(v, x));
    const nullText = (v) => (v[3] === null ? "" : `${value(v, v[3])} ± ${value(v, v[4])}`);
    const sds = (x) => (finite(x) && Math.abs(x) < 100 ? `${Number(x) >= 0.05 ? "+" : ""}${rounded(x, 1)}` : signed(x));
    const chance = (q) => (q === null ? "–" : Number(q) < 0.001 ? "<0.001" : rounded(q, 3));

    // the chart

    const MANY = 20; // methods: of more, only some are named
    const EDGES = { x: [-75, 200], y: [-75, 150] }; // percent; what is beyond stands at the edge, so that it does not squeeze the rest
    const effects = () => names().some((name) => scores(current(), name)[MEMORY] && scores(current(), name)[DAMAGE]);

    function points(known) {
      return names().sort((a, b) => reference(a) - reference(b)).flatMap((name) => {
        const own = scores(current(), name);
        const pair = known ? [own[MEMORY], own[DAMAGE]] : [own[KLOM], own[ACCURACY]];
        if (pair.some((v) => !v || !finite(v[0]))) return [];
        const place = (v, unit, centre) => [0, 1, 2].map((i) => (Number(finite(v[i]) ? v[i] : v[0]) - centre) / unit);
        const edge = (places, low, high) => places.map((value) => Math.min(high, Math.max(low, value)));
        const far = known && (100 * Number(pair[0][0]) < EDGES.x[0] || 100 * Number(pair[0][0]) > EDGES.x[1] || 100 * Number(pair[1][0]) > EDGES.y[1]);
        const [x, y] = known ? [edge(place(pair[0], 0.01, 0), ...EDGES.x), edge(place(pair[1], 0.01, 0), ...EDGES.y)] : [place(pair[0], Number(pair[0][4]) || 1, Number(pair[0][3]) || 0), place(pair[1], 1, Number(pair[1][3]) || 0)];
        const lines = known
          ? [`memory left ${percent(pair[0][0])} (${bounds(pair[0], percent)}); perfect 0%`, `damage ${percent(pair[1][0])} (${bounds(pair[1], percent)}); perfect 0%`]
          : [`KLOM on F ${value(pair[0])}; null ${nullText(pair[0])}`, `test accuracy ${value(pair[1])}; oracles ${nullText(pair[1])}`];
        return [{ far, pick: name, method: name, access: access(name), x: x[0], x1: x[1], x2: x[2], y: y[0], y1: y[1], y2: y[2], tip: [name, ...lines, verdict(name)].join("\n") }];
      });
    }

    function frontier(all) {
      const far = (p) => [Math.abs(p.x), Math.abs(p.y)];
      return new Set(all.filter((p) => reference(p.method) || !all.some((o) => !reference(o.method) && far(o)[0] < far(p)[0] && far(o)[1] < far(p)[1])).map((p) => p.method));
    }

    async function drawChart() {
      const known = effects(), all = points(known), place = $("chart");
      state.brush = null;
      if (!all.length) { place.replaceChildren(h("p", {}, known ? "No method has both a memory left and a damage here." : "No method has finite scores to draw.")); return; }
      const front = frontier(all);
      for (const p of all) p.label = p.far ? `${p.method} ${p.y >= EDGES.y[1] ? "↑" : p.x < 0 ? "←" : "→"}` : all.length <= MANY || front.has(p.method) ? p.method : "";
      place.chosen = state.method;
      const used = [...new Set(all.map((p) => p.access))];
      const scale = (key) => (Math.max(...all.map((p) => Math.abs(p[key]))) > (known ? 300 : 60) ? { type: "symlog", constant: known ? 50 : 5, nice: false } : { domain: reach(all, key, known && key === "x" ? 100 : 0), nice: true });
      const axes = { x: known ? "memory left of F (%; perfect 0, doing nothing 100)" : "KLOM on F, null sd from the null (perfect 0)", y: known ? "damage (% of what there is to forget; perfect 0)" : "test accuracy minus the oracles' (points)" };
      const box = 100 * data.margin;
      const both = (field, end) => ({ field, type: "quantitative", ...(end || {}) });
      const dim = { condition: { test: "indexof(visible, datum.method) < 0", value: 0.15 }, value: 1 };
      const touch = matchMedia("(pointer: coarse)").matches;
      await chart(place, {
        description: `${axes.x} against ${axes.y}, a point a method`,
        data: { name: "points", values: all }, width: "container", height: 400, autosize: { type: "fit-x", contains: "padding" },
        params: [{ name: "chosen", value: state.method }, { name: "visible", value: all.map((p) => p.method) }],
        layer: [
          ...(known ? [{ data: { values: [{ x: -box, x2: box, y: -box, y2: box }] }, mark: { type: "rect", color: "var(--band)", opacity: 0.45, aria: false }, encoding: { x: both("x"), x2: { field: "x2" }, y: both("y"), y2: { field: "y2" } } }] : []),
          { data: { values: [{ v: 0 }, ...(known ? [{ v: 100 }] : [])] }, mark: { type: "rule", color: SOFT, strokeWidth: 1, strokeDash: [3, 3], aria: false }, encoding: { x: both("v") } },
          { data: { values: [{ v: 0 }] }, mark: { type: "rule", color: SOFT, strokeWidth: 1, strokeDash: [3, 3], aria: false }, encoding: { y: both("v") } },
          { name: "across", mark: { type: "rule", aria: false, clip: true }, encoding: { x: both("x1"), x2: { field: "x2" }, y: both("y"), color: colour(used), opacity: dim } },
          { name: "along", mark: { type: "rule", aria: false, clip: true }, encoding: { y: both("y1"), y2: { field: "y2" }, x: both("x"), color: colour(used), opacity: dim } },
          { transform: [{ filter: "datum.method === chosen" }], mark: { type: "point", size: 420, stroke: ACCENT, strokeWidth: 2.5, filled: false, shape: "circle", aria: false, tooltip: false }, encoding: { x: both("x"), y: both("y") } },
          {
            name: "points", ...(touch ? {} : { params: [{ name: "brush", select: { type: "interval", mark: { fill: INK, fillOpacity: 0.08, stroke: SOFT } } }] }),
            mark: { type: "point", filled: true, size: 95, stroke: "var(--paper)", strokeWidth: 1, cursor: "pointer", opacity: 1 },
            encoding: {
              x: both("x", { title: axes.x, scale: scale("x"), axis: { tickCount: Math.floor(place.clientWidth / 60) } }), y: both("y", { title: axes.y, scale: scale("y") }), color: colour(used),
              shape: { field: "access", type: "nominal", scale: { domain: used, range: used.map((each) => (ACCESS[each] || OTHER)[0]) }, legend: { title: "what the method sees", columns: Math.max(2, Math.floor(place.clientWidth / 105)), symbolSize: 90 } },
              opacity: dim, tooltip: { field: "tip" }, description: { field: "tip" },
            },
          },
        ],
      }, { onPick: point, change: labelled });
      named(all, front);
      if (!touch) {
        place.view.addSignalListener("brush", (name, value) => {
          const inside = (p) => ["x", "y"].every((axis) => value[axis] && p[axis] >= Math.min(...value[axis]) && p[axis] <= Math.max(...value[axis]));
          state.brush = value && value.x ? new Set(all.filter(inside).map((p) => p.method)) : null;
          filter();
        });
      }
    }

    // From the points, 0 and `also`; intervals may add as much again on each side, and are cut off beyond.
    function reach(all, key, also) {
      const centres = [...all.map((p) => p[key]), 0, also], ends = all.flatMap((p) => [p[`${key}1`], p[`${key}2`]]);
      const [low, high] = [Math.min(...centres), Math.max(...centres)], room = Math.max(high - low, 1) * 0.5;
      return [Math.max(low - room, Math.min(low - room * 0.1, ...ends)), Math.min(high + room, Math.max(high + room * 0.1, ...ends))];
    }

    const colour = (used) => ({ field: "access", type: "nominal", scale: { domain: used, range: used.map((each) => (ACCESS[each] || OTHER)[1]) }, legend: { title: "what the method sees" } });

    // Vega, but not Vega-Lite, places labels where they cover nothing; a line leads from each that is not beside its point.
    function labelled(compiled) {
      const at = compiled.marks.findIndex((mark) => mark.name === "points_marks");
      const around = ["right", "left", "top", "bottom", "top-right", "bottom-right", "top-left", "bottom-left"], away = [3, 6, 9, 13, 18, 24, 32, 42]; // each anchor at each distance
      const seen = "(indexof(visible, datum.datum.method) < 0 ? 0.15 : 1)";
      compiled.marks.splice(at + 1, 0, {
        type: "text", name: "labels", from: { data: "points_marks" }, interactive: false, aria: false,
        encode: { enter: { fontSize: { value: 11 } }, update: { text: { signal: "datum.datum.label || (datum.datum.method === chosen ? chosen : '')" }, fill: { value: INK }, fillOpacity: { signal: seen } } },
        transform: [{ type: "label", size: [{ signal: "max(1, width)" }, { signal: "max(1, height)" }], avoidMarks: ["across_marks", "along_marks"], anchor: away.flatMap(() => around), offset: away.flatMap((pixels) => around.map(() => pixels)) }],
      });
      const length = "sqrt(pow(datum.x - datum.datum.x, 2) + pow(datum.y - datum.datum.y, 2))";
      compiled.marks.splice(at + 2, 0, {
        type: "rule", name: "leaders", from: { data: "labels" }, interactive: false, aria: false,
        encode: { update: { x: { field: "x" }, y: { field: "y" }, x2: { field: "datum.x" }, y2: { field: "datum.y" }, stroke: { value: INK }, strokeWidth: { value: 0.8 }, opacity: { signal: `datum.opacity > 0 && length(datum.text) > 0 && ${length} > ${LEAD} ? 0.75 * ${seen.replaceAll("datum.datum", "datum.datum.datum")} : 0` } } },
      });
      return compiled;
    }

    const LEAD = 10; // pixels from a point to its label, beyond which a line leads there

    function named(all, front) {
      const find = (item) => (item.name === "labels" ? item : (item.items || []).map(find).find(Boolean));
      const labels = find($("chart").view.scenegraph().root).items, names = (list) => list.map((p) => p.method).join(", ");
      const shown = new Set(labels.filter((item) => item.opacity > 0 && item.text).map((item) => item.datum.datum.method));
      const lacking = all.filter((p) => front.has(p.method) && !p.far && !shown.has(p.method)), beyond = all.filter((p) => p.far);
      $("chart-note").textContent = [
        all.length > MANY ? "Named: references, methods that no other beats in both, and the chosen one." : "",
        lacking.length ? `No room for the name of ${names(lacking)}.` : "",
        beyond.length ? `At the edge, though further out: ${names(beyond)}.` : "",
      ].filter(Boolean).join(" ");
    }

    // the table

    let table = null, ready = false; // once it is built

    function lines() {
      return names().map((name) => {
        const own = current().methods[name], worst = own.worst;
        return { method: name, outcome: verdict(name), access: own.access, family: data.methods[name].family, settings: data.methods[name].settings, ...own.scores, n: own.n, examples: own.examples || null, worst: worst ? [own.scores[worst][8], data.metrics[worst].label, data.metrics[worst].about] : null };
      });
    }

    const wrapped = (name, at = "_") => name.split(at).flatMap((part, i) => (i ? [at, h("wbr"), part] : [part])); // where a line may end
    const meaning = (key) => $(`word-${key}`).querySelector("dd").textContent; // as the page's glossary has it
    const twoLines = (first, second, hint) => h("span", { title: hint }, first, h("small", {}, second || WHITE));

    // The null of a metric, if it is the same for all methods: then it stands in the heading.
    function common(key) {
      const nulls = new Set(names().map((name) => scores(current(), name)[key]).filter((v) => v && v[3] !== null).map(nullText));
      return nulls.size === 1 ? [...nulls][0] : "";
    }

    function cell(key) {
      const shared = common(key);
      return (found) => {
        const v = found.getValue();
        if (!v) return "–";
        if (key === MEMORY || key === DAMAGE || data.metrics[key].effect) return twoLines(percent(v[0]), bounds(v, percent));
        if (v[3] === null) return twoLines(value(v), data.metrics[key].cost ? "" : "no null");
        return twoLines(value(v), `${shared ? "" : `${nullText(v)}, `}${sds(v[7])} sd`, `interval ${range(v)}; null ${nullText(v)}`);
      };
    }

    function heading(main, small, hint) {
      return () => h("span", { title: hint }, main, h("small", { style: "display:block;font-weight:400;color:var(--soft)" }, small || WHITE));
    }

    function columnsOf() {
      const score = (key, main, small, hint) => ({
        title: escaped(main), titleFormatter: heading(main, small, hint), field: key, hozAlign: "right", headerHozAlign: "right", formatter: cell(key), headerSortStartingDir: "asc",
        sorter: (a, b, x, y, column, dir) => order(dir, a && a[0], b && b[0]), visible: key === MEMORY || key === DAMAGE || state.columns.has(key),
      });
      const plain = (field, title, visible = true) => ({ field, title, titleFormatter: heading(title), visible, sorter: "string" });
      const found = (key) => sets.some((set) => Object.values(set.methods).some((own) => own.scores[key]));
      const others = Object.keys(data.metrics).filter((key) => key !== MEMORY && key !== DAMAGE);
      const narrow = innerWidth <= 700;
      return [
        { ...plain("method", "method"), frozen: true, ...(narrow ? { width: Math.round(0.25 * innerWidth) } : { width: 160 }), formatter: (each) => h("span", { title: each.getValue() }, wrapped(each.getValue())) },
        ...(found(MEMORY) ? [score(MEMORY, "memory left", "perfect 0%", data.metrics[MEMORY].about)] : []),
        ...(found(DAMAGE) ? [score(DAMAGE, "damage", "perfect 0%", data.metrics[DAMAGE].about)] : []),
        { ...plain("outcome", "verdict"), formatter: (each) => badge(each.getValue()) },
        ...(names().some((name) => current().methods[name].examples) ? [{
          field: "examples", title: "examples left", titleFormatter: heading("examples", `left, of ${Math.max(...names().map((name) => (current().methods[name].examples || [0, 0, 0])[2]))}`, meaning("left")), hozAlign: "right", headerHozAlign: "right",
          formatter: (each) => (each.getValue() ? twoLines(text(each.getValue()[0]), `${text(each.getValue()[1])} overshot`) : "–"), headerSortStartingDir: "asc",
          sorter: (a, b, x, y, column, dir) => order(dir, a && a[0], b && b[0]),
        }] : []),
        { ...plain("access", "access"), titleFormatter: heading("access", "", meaning("access")), formatter: (each) => h("span", { title: each.getValue().includes("test-like") ? meaning("test_like") : null }, wrapped(each.getValue(), "+")), maxWidth: 92 },
        {
          field: "worst", title: "largest deviation", titleFormatter: heading("largest deviation", `null sd${band()}`, meaning("band")), hozAlign: "right", headerHozAlign: "right",
          formatter: (each) => (each.getValue() ? twoLines(text(Math.abs(number(each.getValue()[0]))), each.getValue()[1], each.getValue()[2]) : "–"),
          sorter: (a, b, x, y, column, dir) => order(dir, a && Math.abs(a[0]), b && Math.abs(b[0])),
        },
        ...others.map((key) => {
          const about = data.metrics[key], shared = common(key);
          return score(key, about.short + (about.split && !about.short.endsWith(about.split.slice(0, 1).toUpperCase()) && !about.short.includes(" on ") && ["retain", "test"].includes(about.split) ? ` ${about.split}` : ""), about.cost ? about.unit : shared ? `null ${shared}` : about.effect ? "perfect 0%" : "null ± sd, distance", `${about.title}. ${about.about} A perfect method: ${about.perfect}`);
        }),
        plain("settings", "hyperparameters"), plain("family", "family", false),
        { ...plain("n", "models", false), hozAlign: "right", sorter: "number" },
      ];
    }

    function band() {
      const bands = [...new Set(Object.values(current().methods).map((own) => own.band).filter((each) => each !== null))];
      return bands.length ? `; band ${text(bands[0])}` : "";
    }

    function makeTable() {
      const place = $("table");
      ready = false;
      place.replaceChildren();
      table = tabulator(place, {
        data: lines(), columns: columnsOf(), first: 14, index: "method", placeholder: "No method is left: press Clear, which ends filters and the brush in the chart.",
        rowFormatter: (row) => {
          const element = row.getElement(), name = row.getData().method;
          element.classList.toggle("reference", reference(name));
          element.classList.toggle("chosen", name === state.method);
          element.setAttribute("aria-selected", String(name === state.method));
        },
      }, (row) => point(row.method));
      table.on("dataFiltered", (filters, rows) => {
        const left = rows.map((row) => row.getData().method);
        const found = left.filter((name) => !reference(name)).length, references = left.length - found;
        $("count").textContent = `${found} of ${names().filter((name) => !reference(name)).length} methods${references ? `, and ${references} reference${references > 1 ? "s" : ""}` : ""}`;
        if ($("chart").view) $("chart").view.signal("visible", left).runAsync();
      });
      table.on("tableBuilt", () => { ready = true; filter(); });
      choices();
    }

    function choices() {
      const labels = { outcome: "verdict", access: "access", settings: "hyperparameters", family: "family", [MEMORY]: "memory left", [DAMAGE]: "damage", worst: "largest deviation", examples: "examples left", n: "models" };
      const groups = new Map();
      for (const column of columnsOf().filter((each) => each.field !== "method")) {
        const box = h("input", { type: "checkbox", checked: column.visible !== false }), group = labels[column.field] ? "first" : data.metrics[column.field].group;
        box.addEventListener("change", () => {
          table[box.checked ? "showColumn" : "hideColumn"](column.field);
          if (data.metrics[column.field]) state.columns[box.checked ? "add" : "delete"](column.field);
        });
        groups.set(group, [...(groups.get(group) || []), h("label", {}, box, h("span", {}, labels[column.field] || data.metrics[column.field].label))]);
      }
      const details = $("columns"), close = () => { details.open = false; details.querySelector("summary").focus(); };
      $("choices").replaceChildren(
        h("button.close", { type: "button", "aria-label": "Close the columns", onclick: close }, "×"),
        ...[...groups].map(([group, boxes]) => h("fieldset", {}, group === "first" ? null : h("legend", {}, group), h("div", {}, boxes))));
      details.onkeydown = (event) => { if (event.key === "Escape" && details.open) close(); };
    }

    function filter() {
      if (!ready) return;
      const wanted = [...document.querySelectorAll("[data-filter]")].filter((each) => each.value).map((each) => [each.dataset.filter, each.value]);
      table.setFilter((row) => wanted.every(([field, value]) => row[field] === value) && (!state.brush || state.brush.has(row.method)));
    }

    addEventListener("keydown", (event) => {
      if (event.key !== "Escape" || !state.brush) return;
      state.brush = null;
      drawChart().then(filter); // without the brush's rectangle
    });

    function fillFilters() {
      for (const list of document.querySelectorAll("[data-filter]")) {
        const values = [...new Set(lines().map((row) => row[list.dataset.filter]))].sort();
        list.replaceChildren(h("option", { value: "" }, "all"), ...values.map((each) => h("option", { value: each }, each)));
        list.onchange = filter;
      }
      $("clear").onclick = () => {
        for (const list of document.querySelectorAll("[data-filter]")) list.value = "";
        const brushed = state.brush !== null;
        state.brush = null;
        table.clearSort();
        filter();
        if (brushed) drawChart().then(filter); // without the brush's rectangle
      };
    }

    // one method

    function select(name) {
      state.method = $("chart").chosen = name;
      $("pick").value = name;
      if ($("chart").view) $("chart").view.signal("chosen", name).runAsync().then(() => { reachable($("chart"), point); const known = points(effects()); named(known, frontier(known)); });
      for (const row of table.getRows()) {
        row.getElement().classList.toggle("chosen", row.getData().method === name);
        row.getElement().setAttribute("aria-selected", String(row.getData().method === name));
      }
      panel();
      gallery();
    }

    // Where the details are, while they are further down.
    const follow = $("follow"), below = () => $("method").getBoundingClientRect().top > 0.6 * innerHeight;
    follow.querySelector("button").onclick = () => { follow.hidden = true; };
    addEventListener("keydown", (event) => { if (event.key === "Escape") follow.hidden = true; });
    addEventListener("scroll", () => { if (!below()) follow.hidden = true; }, { passive: true });

    function point(name) {
      select(name);
      follow.querySelector("a").textContent = `${name}: its metrics, losses and examples ↓`;
      follow.hidden = !below();
    }

    function sentence(name) {
      const own = current().methods[name], memory = own.scores[MEMORY], damage = own.scores[DAMAGE];
      const sizes = memory && damage ? `Memory left ${percent(memory[0])} (${bounds(memory, percent)}; perfect 0%, doing nothing 100%), damage ${percent(damage[0])} (${bounds(damage, percent)}; perfect 0%). ` : "";
      const worst = own.worst ? `Largest deviation from retraining: ${text(Math.abs(number(own.scores[own.worst][8])))} null sd, by ${data.metrics[own.worst].label}; retrained models stay within ${text(own.band)} in 95 of 100 cases.` : "";
      return `${sizes}${worst}`;
    }

    function panel() {
      const name = state.method, own = current().methods[name], about = data.methods[name], place = $("panel");
      if (!own) { place.replaceChildren(h("p", {}, "Not in this forget set.")); return; }
      const what = [about.about, about.source && `Source: ${about.source}.`, `Sees: ${own.access}. Family: ${about.family}.`].filter(Boolean).join(" ");
      const losses = data.losses[firstSet()];
      const drawn = losses && losses[name] ? ["forget", "retain", "test"].map((split) => h("div.chart", { style: "min-height:190px" })) : [];
      const legend = h("p.legend", {}, h("span", {}, h("i.filled"), name), h("span", {}, h("i", { style: "border-color:var(--ink)" }), "oracles (retrained models): what a perfect method gives"), losses && losses.original && name !== "original" ? h("span", {}, h("i.dashed", { style: "border-color:var(--bad)" }), "originals: before unlearning") : null);
      const deviations = h("div.chart");
      const costs = Object.entries(own.scores).filter(([key]) => data.metrics[key].cost);
      const rows = (list) => h("div.scroll", {}, h("table.plain", {}, h("tbody", {}, list.map((cells) => h("tr", {}, h("th", { scope: "row" }, cells[0]), cells.slice(1).map((each, i) => h(i ? "td.fine" : "td", {}, each)))))));
      const setting = (x) => (typeof x === "number" && x !== 0 && Math.abs(x) < 1e-3 ? Number(x.toPrecision(3)).toExponential() : String(x));
      place.replaceChildren(
        h("h3", { style: "font-size:1.15rem" }, name, " ", badge(verdict(name))), h("p", {}, sentence(name)), h("p.fine", {}, what),
        h("div.halves", {},
          h("div", {}, h("h3", {}, "Every metric, in null standard deviations"), h("p.fine", {}, `0: as retrained models on average; grey: 95% of them on that metric. Filled: within the null's 95%; hollow: outside. Beyond ±5 the axis is logarithmic. Point at a dot, or tab to the chart and go with the arrow keys, for what its metric is.`), deviations, numbers(name)),
          h("div", {}, drawn.length ? [h("h3", {}, `Losses${sets.length > 1 ? ` on ${firstSet()}` : ""}`), legend, h("div.losses", {}, drawn)] : h("p", {}, "No losses are in the page."))),
        h("div.halves.even", {},
          h("div", {}, h("h3", {}, "Hyperparameters, and where they came from"), about.hyper.length ? rows(about.hyper.map(([key, x, source]) => [key, setting(x), source])) : h("p", {}, "It has none.")),
          h("div", {}, h("h3", {}, "Cost"), costs.length ? rows(costs.map(([key, v]) => [data.metrics[key].about || data.metrics[key].title, `${text(v[0])}${data.metrics[key].unit ? ` ${data.metrics[key].unit}` : ""}`])) : h("p", {}, "Not measured."))));
      drawn.forEach((each, i) => drawLosses(each, ["forget", "retain", "test"][i], losses, name));
      drawDeviations(deviations, own);
    }

    const SPLIT = { forget: "F: to be forgotten", retain: "R: retained", test: "T: test" };

    function drawLosses(place, split, losses, name) {
      const values = [];
      for (const [who, of] of [["method", name], ["oracles", data.oracle], ["originals", name === "original" ? null : "original"]]) {
        if (of && losses[of] && losses[of][split]) losses[of][split].forEach((share, i) => values.push({ who, x: data.edges[i], x2: data.edges[i + 1], share: 100 * share }));
      }
      const x = { field: "x", type: "quantitative", title: "cross-entropy (nats)", scale: { domain: [-6, 2], nice: false }, axis: { values: [-6, -4, -2, 0, 2], grid: false, labelExpr: "{'-6':'≤10⁻⁶','-4':'10⁻⁴','-2':'0.01','0':'1','2':'≥100'}[datum.value + '']" } };
      const most = Math.max(...[name, data.oracle, "original"].flatMap((of) => Object.values(losses[of] || {}).flat().map(Number))); // of all three splits
      const y = { field: "share", type: "quantitative", title: "% of losses", scale: { domain: [0, 106 * most], nice: false }, axis: { tickCount: 4 } };
      const line = (who, extra) => ({ transform: [{ filter: `datum.who === '${who}'` }], mark: { type: "line", interpolate: "step-after", strokeWidth: 1.6, aria: false, ...extra }, encoding: { x, y } });
      chart(place, {
        description: `Losses on ${split}`, title: SPLIT[split], data: { values }, width: "container", height: 165, autosize: { type: "fit-x", contains: "padding" },
        layer: [{ transform: [{ filter: "datum.who === 'method'" }], mark: { type: "bar", color: ACCENT, opacity: 0.45, aria: false }, encoding: { x, x2: { field: "x2" }, y, y2: { datum: 0 } } }, line("originals", { stroke: "var(--bad)", strokeDash: [4, 2] }), line("oracles", { stroke: INK })],
      });
    }

    function drawDeviations(place, own) {
      const values = Object.entries(own.scores).filter(([key, v]) => v[3] !== null && finite(v[7])).map(([key, v]) => {
        const unit = (i) => (finite(v[i]) && Number(v[4]) ? (Number(v[i]) - Number(v[3])) / Number(v[4]) : null);
        const inside = finite(v[5]) && finite(v[6]) && v[0] >= v[5] && v[0] <= v[6];
        return { metric: data.metrics[key].label, z: Number(v[7]), x1: unit(1) ?? Number(v[7]), x2: unit(2) ?? Number(v[7]), n1: unit(5) ?? 0, n2: unit(6) ?? 0, inside: inside ? "in" : "out", tip: `${data.metrics[key].title}\n${value(v)} (${range(v)})\nnull ${nullText(v)}\n${sds(v[7])} null sd\n${data.metrics[key].about} A perfect method: ${data.metrics[key].perfect}` };
      });
      if (!values.length) { place.replaceChildren(h("p", {}, "No metric of this method has a null.")); return; }
      const y = { field: "metric", type: "nominal", sort: null, title: null, axis: { labelLimit: Math.min(230, place.clientWidth * 0.52), ...(place.clientWidth < 500 ? { labelFontSize: 10 } : {}), ticks: false, domain: false } };
      const x = (field, extra) => ({ field, type: "quantitative", ...extra });
      chart(place, {
        description: "Scores in null standard deviations", data: { values }, width: "container", height: 17 * values.length, autosize: { type: "fit-x", contains: "padding" },
        layer: [
          { data: { values: [{ v: 0 }] }, mark: { type: "rule", color: SOFT, strokeWidth: 1.5, aria: false, tooltip: false }, encoding: { x: x("v") } },
          { mark: { type: "bar", color: "var(--band)", opacity: 0.5, height: 11, aria: false, tooltip: false }, encoding: { y, x: x("n1"), x2: { field: "n2" } } },
          { mark: { type: "rule", color: ACCENT, aria: false }, encoding: { y, x: x("x1"), x2: { field: "x2" } } },
          { name: "points", mark: { type: "point", size: 50, stroke: ACCENT, strokeWidth: 1.6, opacity: 1 }, encoding: { y, x: x("z", { title: "null sd from the null's mean", scale: { type: "symlog", constant: 5 }, axis: { values: [-1000, -100, -30, -10, -3, 0, 3, 10, 30, 100, 1000] } }), fill: { field: "inside", scale: { domain: ["in", "out"], range: [ACCENT, "var(--paper)"] }, legend: null }, tooltip: { field: "tip" }, description: { field: "tip" } } },
        ],
      }, { change: (compiled) => ({ ...compiled, axes: [...compiled.axes, ...compiled.axes.filter((axis) => axis.orient === "bottom" && !axis.grid).map((axis) => ({ ...axis, orient: "top" }))] }) });
    }

    function numbers(name) {
      const head = ["metric", "value", "95% interval", "null (mean ± sd)", "null sd away"];
      const body = Object.entries(scores(current(), name)).map(([key, v]) => {
        const about = data.metrics[key];
        const none = about.cost ? "none: a cost" : about.effect ? "perfect 0%" : "none", form = about.effect ? percent : (x) => value(v, x), ends = bounds(v, form);
        const cells = [[form(v[0]), h("small.stacked", {}, ends)], ends || "–", v[3] === null ? none : nullText(v), v[3] === null ? "–" : sds(v[7])];
        return h("tr", {}, h("th", { scope: "row", title: about.about }, about.title), cells.map((each, i) => h(i === 1 ? "td.number.wide" : "td.number", {}, each)));
      });
      return h("details", {}, h("summary", {}, "All numbers"), h("div.scroll", {}, h("table.plain", {}, h("thead", {}, h("tr", {}, head.map((each, i) => h(i === 2 ? "th.number.wide" : i ? "th.number" : "th", { scope: "col" }, each)))), h("tbody", {}, body))));
    }

    // the examples

    const view = { most: 24, open: null, show: "", mislabelled: false };
    const SHOW = { "": "all", left: "still surer than retrained models (left)", overshot: "less sure than retrained models (overshot)" };

    // How much surer the models are than the oracles, in nats, where they differ from them; 0 elsewhere.
    function apart(found, name, i) {
      const of = found.methods[name];
      return of && of.q && of.q[i] !== null && Number(of.q[i]) < 0.05 ? Number(of.margin[i]) - Number(found.methods[data.oracle].margin[i]) : 0;
    }
    const passes = { "": () => true, left: (by) => by > 0, overshot: (by) => by < 0 };

    // How many methods leave an example; and which, or which do not, if these are at most `most`.
    function by(found, i, most) {
      const tested = names().filter((name) => !reference(name) && found.methods[name] && found.methods[name].q && found.methods[name].q[i] !== null);
      const leave = tested.filter((name) => apart(found, name, i) > 0), rest = tested.filter((name) => !leave.includes(name));
      const count = `${leave.length} of ${tested.length} methods`, list = (some) => some.join(", ");
      if (!leave.length || !rest.length || Math.min(leave.length, rest.length) > most) return count;
      return leave.length <= rest.length ? `${count}: ${list(leave)}` : `${count}, not by ${list(rest)}`;
    }

    for (const link of document.querySelectorAll("a.see")) {
      link.onclick = () => {
        if (state.set !== 0) { $("set").value = "0"; $("set").onchange(); }
        Object.assign(view, { show: link.dataset.show, mislabelled: false, open: null, most: 24 });
        select(data.nearest);
      };
    }

    // What oracles and originals span, and at most half as much again on each side: what is further out stands at the edge.
    function span(found) {
      const ends = (values) => { const sorted = values.filter(finite).map(Number).sort((a, b) => a - b); return [sorted[Math.floor(0.01 * sorted.length)], sorted[Math.ceil(0.99 * sorted.length) - 1]]; };
      const { [data.oracle]: oracle, original } = found.methods;
      const [low, high] = ends([...(original ? original.margin : []), ...oracle.margin.flatMap((mean, i) => [-2, 2].map((sds) => Number(mean) + sds * (Number(found.sd[i]) || 0)))]);
      const [least, most] = ends(Object.values(found.methods).flatMap((of) => of.margin)), room = (high - low) / 2;
      return [Math.max(low - room, Math.min(low, least)), Math.min(high + room, Math.max(high, most))];
    }

    function strip(found, i, low, high) {
      const NS = "http://www.w3.org/2000/svg", width = 160;
      const at = (value) => 5 + (width - 10) * Math.min(1, Math.max(0, (value - low) / (high - low || 1)));
      const make = (tag, props) => { const each = document.createElementNS(NS, tag); for (const [key, value] of Object.entries(props)) each.setAttribute(key, value); return each; };
      const svg = make("svg", { viewBox: `0 0 ${width} 26`, preserveAspectRatio: "none", "aria-hidden": "true" });
      const mark = (value, r, props) => {
        const side = value < low ? -1 : value > high ? 1 : 0, reach = Math.max(r, 3);
        svg.append(side ? make("path", { class: "beyond", d: `M${at(value) + 4 * side} 13l${-2 * reach * side} ${-1.4 * reach}v${2.8 * reach}z`, ...props }) : make("circle", { cx: at(value), cy: 13, r, ...props }));
      };
      const oracle = Number(found.methods[data.oracle].margin[i]), sd = Number(found.sd[i]) || 0;
      svg.append(make("rect", { x: at(oracle - 2 * sd), width: Math.max(1, at(oracle + 2 * sd) - at(oracle - 2 * sd)), y: 3, height: 20, fill: "var(--band)", opacity: 0.55 }));
      if (low < 0 && high > 0) svg.append(make("line", { x1: at(0), x2: at(0), y1: 1, y2: 25, stroke: "var(--soft)", "stroke-dasharray": "2 2" }));
      svg.append(make("line", { x1: at(oracle), x2: at(oracle), y1: 2, y2: 24, stroke: "var(--ink)", "stroke-width": 1.5 }));
      for (const [name, of] of Object.entries(found.methods)) {
        if (name === data.oracle || name === state.method || !finite(of.margin[i])) continue;
        mark(Number(of.margin[i]), ...(name === "original" ? [4, { fill: "none", stroke: "var(--bad)", "stroke-width": 1.8 }] : [1.8, { fill: "var(--soft)", opacity: 0.7 }]));
      }
      const own = found.methods[state.method];
      if (own && finite(own.margin[i])) mark(Number(own.margin[i]), 4.5, { fill: "var(--accent)", stroke: "var(--paper)", "stroke-width": 1 });
      return svg;
    }

    function gallery() {
      const set = firstSet(), found = data.examples[set], place = $("gallery");
      if (!found) { place.replaceChildren(h("p", {}, "No single examples of this forget set are in the page; examples.csv has them, if they were tested.")); return; }
      const own = found.methods[state.method], count = found.rows.length;
      const wrong = (i) => found.label[i] !== found.clean[i];
      const all = [...Array(count).keys()], by_how = all.map((i) => apart(found, state.method, i));
      const tested = own && own.q && own.q.some((q) => q !== null), show = tested ? view.show : "";
      const chosen = all.filter((i) => passes[show](by_how[i]) && (!view.mislabelled || wrong(i)));
      if (show) chosen.sort((i, k) => Math.abs(by_how[k]) - Math.abs(by_how[i]));
      const [low, high] = span(found);
      const again = (focus) => { view.open = null; gallery(); $(focus).focus(); };
      const pick = h("select", { id: "show", onchange: () => { view.show = pick.value; again("show"); } }, Object.entries(SHOW).map(([key, words]) => h("option", { value: key, selected: key === show }, `${words}: ${all.filter((i) => passes[key](by_how[i])).length}`)));
      const box = h("input", { type: "checkbox", id: "mislabelled", checked: view.mislabelled, onchange: () => { view.mislabelled = box.checked; again("mislabelled"); } });
      const much = found.memorisation ? all.filter((i) => Number(found.memorisation[i]) >= 0.2) : [];
      const left = by_how.filter((by) => by > 0).length, said = tested
        ? `On ${left} of ${count} examples ${state.method} is surer of the label than retrained models are: left; on ${by_how.filter((by) => by < 0).length} it is less sure: overshot (q < 5%). ${much.length ? `Of the ${much.length} that are memorised by 20 points or more, ${much.filter((i) => by_how[i] > 0).length} are among those left. ` : ""}On the others there is no difference, or less than so many models can show. `
        : `${state.method} was not tested on single examples. `;
      const cards = chosen.slice(0, view.most).flatMap((i) => {
        const memorised = found.memorisation ? Number(found.memorisation[i]) : null;
        const kept = memorised === null ? "" : `memorised ${memorised > 0 ? "+" : ""}${text(Math.round(100 * memorised))} points`, nats = show ? `${by_how[i] > 0 ? "+" : ""}${rounded(by_how[i], 1)} nats, ` : "";
        const words = [`row ${found.rows[i]}`, `label ${found.label[i]}${wrong(i) ? `, right ${found.clean[i]}` : ""}`, kept, `${nats}left by ${by(found, i, 2)}`].filter(Boolean);
        const card = h(found.pictures ? "button.card" : "button.card.imageless", { type: "button", "aria-expanded": String(view.open === i), "aria-label": `${words.join(", ")}: every method's margin` },
          found.pictures && found.pictures[i] ? h("img", { src: found.pictures[i], alt: `a ${found.label[i]}` }) : found.pictures ? h("span", {}) : null,
          h("span", {}, h("b", {}, words[0]), h(wrong(i) ? "span.wrong" : "span", {}, words[1]), ), h("span.by", {}, kept, kept ? h("br") : "", words[words.length - 1]), strip(found, i, low, high), h("span.ends", { "aria-hidden": "true" }, h("span", {}, rounded(low, 0)), h("span", {}, `${rounded(high, 0)} nats`)));
        const open = (which) => { view.open = which; gallery(); const same = $("gallery").querySelectorAll(".card")[chosen.indexOf(i)]; if (same) same.focus(); };
        card.addEventListener("click", () => open(view.open === i ? null : i));
        card.addEventListener("keydown", (event) => { if (event.key === "Escape" && view.open === i) open(null); });
        return view.open === i ? [card, detail(found, i, () => open(null))] : [card];
      });
      place.replaceChildren(
        h("p", {}, said, show ? "The largest difference comes first." : found.memorisation ? "The most memorised come first: those that the originals get right more often than the oracles do, in points." : "", sets.length > 1 ? ` Forget set ${set}.` : "", found.all > count ? ` Shown are the first ${count} of ${found.all}; examples.csv has all.` : ""),
        h("p.legend", {}, `Each strip is the margin of the label, from ${rounded(low, 0)} nats (wrong; dashed: 0) to ${rounded(high, 0)} (sure):`, h("span", {}, h("i.upright"), "oracles' mean"), h("span", {}, h("i", { style: "border-top:9px solid var(--band)" }), "± 2 sd"), h("span", {}, h("b", { style: "color:var(--bad)" }, "◯"), " originals"), h("span", { style: "color:var(--accent)" }, `● ${state.method}`), h("span", {}, "· other methods"), h("span", {}, "◂ ▸ further out than the strip reaches"), all.some(wrong) ? h("span", { style: "color:var(--bad)" }, "label 4, right 0: mislabelled") : null),
        h("div.controls", {}, tested ? h("label", {}, "show ", pick) : null, all.some(wrong) ? h("label", {}, box, " only mislabelled") : null, h("output", { "aria-live": "polite" }, `${chosen.length} of ${count} examples`)),
        chosen.length ? h("div.cards", {}, cards) : h("p", {}, "None of the examples is of this kind."),
        chosen.length > view.most ? h("button", { type: "button", id: "more", onclick: () => { view.most += 96; gallery(); } }, `Show more (${chosen.length - view.most} more)`) : "");
      roving(place, "cards", () => [...place.querySelectorAll(".card")], (card) => card.getAttribute("aria-expanded") === "true");
    }

    // Of many methods some come first: references, those that no other beats in memory left and damage, and the one that is chosen.
    function detail(found, i, close) {
      const oracle = found.methods[data.oracle], listed = names().filter((name) => found.methods[name]), front = frontier(points(effects()));
      const first = listed.filter((name) => listed.length <= MANY || front.has(name) || reference(name) || name === state.method);
      const line = (name) => {
        const of = found.methods[name], away = (Number(of.margin[i]) - Number(oracle.margin[i])) / Number(found.sd[i]);
        const nats = (x) => rounded(x, decimals(found.sd[i]));
        const cells = [`${(100 * of.right[i]).toFixed(0)}%`, nats(of.margin[i]), name === data.oracle ? `sd ${nats(found.sd[i])}` : sds(away), of.q && of.q[i] !== null ? chance(of.q[i]) : "–"];
        return h(name === state.method ? "tr.chosen" : "tr", {}, h("th", { scope: "row" }, name === data.oracle ? "oracles (null)" : wrapped(name)), cells.map((each) => h("td.number", {}, each)));
      };
      const rest = listed.filter((name) => !first.includes(name)), others = h("tbody", { hidden: true }, rest.map(line)), more = `Show the other ${rest.length} methods`;
      const fold = h("button", { type: "button", style: "margin-top:8px", "aria-expanded": "false", onclick: () => {
        others.hidden = !others.hidden;
        fold.textContent = others.hidden ? more : `Hide the other ${rest.length} methods`;
        fold.setAttribute("aria-expanded", String(!others.hidden));
      } }, more);
      const which = rest.length ? `Here are ${state.method}, the references, and the methods that no other beats in both memory left and damage` : "Every method's models";
      return h("div.detail", { onkeydown: (event) => { if (event.key === "Escape") close(); } }, h("button.close", { type: "button", "aria-label": "Close the example", onclick: close }, "×"), found.pictures && found.pictures[i] ? h("img.big", { src: found.pictures[i], alt: "" }) : null,
        h("h3", { style: "margin-top:0" }, `Row ${found.rows[i]} of the training set`), h("p", {}, `Trained as ${found.label[i]}${found.label[i] !== found.clean[i] ? `, which is wrong: it is ${found.clean[i]}` : ""}. Left by ${by(found, i, MANY)}. ${which}, beside the oracles:`),
        h("div.scroll", {}, h("table.plain", {}, h("thead", {}, h("tr", {}, ["method", "right", "mean margin (nats)", "from the oracles (their sd)", "q"].map((each, k) => h(k ? "th.number" : "th", { scope: "col" }, each)))), h("tbody", {}, [data.oracle, ...first].map(line)), others)), rest.length ? fold : null);
    }

    // power

    function power() {
      if (!data.power.length) { $("power-table").replaceChildren(h("p", {}, "This run has no power.csv.")); return; }
      const last = (each) => each.points[each.points.length - 1];
      const title = (key) => (data.metrics[key] ? data.metrics[key].title : key.replace("/", " "));
      const originals = (key) => (sets[0].methods.original && scores(sets[0], "original")[key] ? Math.abs(number(scores(sets[0], "original")[key][0]) - last(data.power.find((each) => each.key === key))[2]) : null);
      const form = (key) => { const of = data.power.find((each) => each.key === key); return (x) => (x === null ? "–" : rounded(x, decimals(last(of)[3]))); };
      const rows = [...data.power].sort((a, b) => b.main - a.main).map((each) => ({ key: each.key, title: title(each.key), mean: last(each)[2], sd: last(each)[3], visible: last(each)[5], original: originals(each.key) }));
      const column = (field, main, small) => ({ minWidth: field === "visible" && innerWidth > 700 ? 155 : 60, field, title: escaped(main), titleFormatter: heading(main, small), hozAlign: "right", headerHozAlign: "right", sorter: (a, b, x, y, c, dir) => order(dir, a, b), formatter: (each) => `${form(each.getData().key)(each.getValue())}${field === "mean" ? ` ± ${form(each.getData().key)(each.getData().sd)}` : ""}` });
      let now = (data.power.find((each) => each.key === "accuracy/forget") || data.power[0]).key;
      const grid = tabulator($("power-table"), {
        data: rows, first: 10, index: "key", layout: innerWidth > 700 ? "fitColumns" : "fitData",
        columns: [{ field: "title", title: "metric", titleFormatter: heading("metric"), formatter: (each) => h("span", { title: (data.metrics[each.getData().key] || {}).about }, each.getValue()), frozen: true, sorter: "string", cssClass: "wrapped", ...(innerWidth > 700 ? { widthGrow: 2 } : { width: 0.38 * innerWidth }) }, column("visible", "visible difference", `at ${last(data.power[0])[0]} oracles`), column("original", "doing nothing", "from the null"), column("mean", "null", "mean ± sd")],
        rowFormatter: (row) => { row.getElement().classList.toggle("chosen", row.getData().key === now); },
      }, (row) => show(row.key));
      function show(key) {
        now = key;
        for (const row of grid.getRows()) row.getElement().classList.toggle("chosen", row.getData().key === key);
        const of = data.power.find((each) => each.key === key), nothing = originals(key), said = form(key);
        const values = of.points.flatMap((p) => [{ oracles: p[0], value: p[4], what: "width of the null's 95% interval" }, ...(finite(p[5]) ? [{ oracles: p[0], value: p[5], what: "visible difference" }] : [])]).map((each) => ({ ...each, tip: `${each.what}\n${said(each.value)} with ${each.oracles} oracles` }));
        const x = { field: "oracles", type: "quantitative", title: "oracles", scale: { type: "log", base: 2, nice: false, padding: 8 }, axis: { values: of.points.map((p) => p[0]), labelExpr: "datum.value", grid: false } };
        const y = { field: "value", type: "quantitative", title: title(key), scale: { zero: true } };
        const what = { field: "what", type: "nominal", scale: { domain: ["visible difference", "width of the null's 95% interval"] } };
        chart($("power-chart"), {
          description: `Visible difference in ${title(key)} by the number of oracles`, data: { values }, width: "container", height: 260, autosize: { type: "fit-x", contains: "padding" },
          layer: [
            { mark: { type: "line", aria: false, tooltip: false }, encoding: { x, y, color: { ...what, scale: { ...what.scale, range: [ACCENT, SOFT] }, legend: { title: null, columns: 1, labelLimit: 400 } } } },
            { name: "points", mark: { type: "point", filled: true, size: 70, opacity: 1 }, encoding: { x, y, color: { ...what, scale: { ...what.scale, range: [ACCENT, SOFT] } }, shape: what, tooltip: { field: "tip" }, description: { field: "tip" } } },
            ...(finite(nothing) ? [{ data: { values: [{ value: nothing, tip: `doing nothing: ${said(nothing)} from the null` }] }, mark: { type: "rule", strokeDash: [2, 3], color: INK }, encoding: { y: { field: "value", type: "quantitative" }, tooltip: { field: "tip" } } }] : []),
          ],
        });
        $("power-caption").textContent = `${title(key)}. ${finite(nothing) ? `Dotted: how far doing nothing is from the null, ${said(nothing)}. ` : ""}${finite(last(of)[5]) ? `With ${last(of)[0]} oracles a difference of ${said(last(of)[5])} is visible.` : "So many oracles are too few for a verdict."}`;
      }
      grid.on("tableBuilt", () => show(now));
    }

    // all of it

    function listMethods() {
      $("pick").replaceChildren(...names().map((name) => h("option", { value: name, selected: name === state.method }, name)));
      $("pick").onchange = () => select($("pick").value);
    }

    if (sets.length > 1) {
      $("set-label").hidden = false;
      $("set").replaceChildren(...sets.map((set, i) => h("option", { value: i }, set.name)));
      $("set").onchange = () => {
        state.set = Number($("set").value);
        if (!current().methods[state.method]) state.method = names()[0];
        listMethods();
        fillFilters();
        makeTable();
        drawChart().then(filter);
        panel();
        gallery();
      };
    }
    if (names().length) {
      listMethods();
      fillFilters();
      makeTable();
      drawChart();
      panel();
      gallery();
    }
    power();
    window.report = { data, state, select, table: () => table, chart: () => $("chart").view };
  }

  copying();
  if (data.sets) run();
  else if (data.compare) window.compare(data.compare, { $, h, text, signed, finite, escaped, order, chart, tabulator, SOFT, ACCENT });
  else study();
})();
