"use strict";
// A comparison of finished runs: the differences of every score, as a chart and a table.
window.compare = (data, { $, h, text, signed, finite, escaped, order, chart, tabulator, SOFT, ACCENT }) => {
  const { baseline, metrics, differences, references } = data;
  const letters = Object.keys(differences), keys = Object.keys(metrics);
  const state = { run: letters[0], metric: keys[0], method: "", clear: false };
  const option = (value, words) => h("option", { value }, words || value);
  const of = (each, end) => `${text(each[end])}${each[`${end}_z`] === null ? "" : ` (z ${signed(each[`${end}_z`])})`}`;
  const range = (each) => (each.low === null ? "no interval" : `${text(each.low)} to ${text(each.high)}`);
  const plus = (x) => (Number(x) > 0 ? "+" : "") + text(x);
  let table = null;

  $("run-label").hidden = letters.length < 2;
  $("run").replaceChildren(...letters.map((letter) => option(letter, `${letter} − ${baseline}`)));
  $("metric").replaceChildren(...keys.map((key) => option(key, metrics[key].title)));
  $("of-method").append(...new Set(Object.values(differences).flat().map((each) => each.method)).values().map((name) => option(name)));

  function draw() {
    const values = differences[state.run].filter((each) => each.metric === state.metric && finite(each.difference)).map((each) => ({
      ...each, pick: each.method, low: finite(each.low) ? each.low : each.difference, high: finite(each.high) ? each.high : each.difference, kind: each.clear ? "clear" : "not clear",
      tip: `${each.method}: ${plus(each.difference)} (${range(each)})\n${baseline}: ${of(each, "a")}\n${state.run}: ${of(each, "b")}\n${each.paired ? "paired by original and forget set" : "runs taken as independent"}`,
    }));
    const about = metrics[state.metric], place = $("chart");
    $("caption").textContent = `${about.title}: ${state.run} minus ${baseline}. ${about.perfect === "" ? "" : `A perfect method: ${about.perfect}. `}References are in italics in the table.`;
    if (!values.length) { place.replaceChildren(h("p", {}, "No method has this score in both runs.")); return; }
    const x = (field, more) => ({ field, type: "quantitative", ...more }), y = { field: "method", type: "nominal", sort: null, title: null, axis: { labelLimit: Math.min(200, 0.4 * place.clientWidth), ticks: false, domain: false, grid: true } };
    chart(place, {
      description: `Differences in ${about.title}, a point a method`, data: { values }, width: "container", height: 22 * values.length, autosize: { type: "fit-x", contains: "padding" },
      layer: [
        { data: { values: [{ v: 0 }] }, mark: { type: "rule", color: SOFT, strokeDash: [3, 3], aria: false }, encoding: { x: x("v") } },
        { mark: { type: "rule", color: ACCENT, strokeWidth: 1.5, aria: false }, encoding: { y, x: x("low"), x2: { field: "high" } } },
        { name: "points", mark: { type: "point", size: 70, stroke: ACCENT, strokeWidth: 1.6, opacity: 1, cursor: "pointer" }, encoding: { y, x: x("difference", { title: `${state.run} − ${baseline}: ${about.title}`, axis: { tickCount: Math.floor(place.clientWidth / 90), format: "~g" } }), fill: { field: "kind", scale: { domain: ["clear", "not clear"], range: [ACCENT, "var(--paper)"] }, legend: null }, tooltip: { field: "tip" }, description: { field: "tip" } } },
      ],
    }, { onPick: (name) => { $("of-method").value = name; state.method = name; filter(); } });
  }

  function filter() {
    table.setFilter((each) => (!state.method || each.method === state.method) && (!state.clear || each.clear) && (state.method || each.metric === state.metric));
    if (state.method) table.showColumn("title");
    else table.hideColumn("title");
    $("count").textContent = `${table.getDataCount("active")} of ${differences[state.run].length} scores`;
  }

  function build() {
    if (table) table.destroy();
    const value = (field, title) => ({ field, title, hozAlign: "right", headerHozAlign: "right", sorter: (p, q, r, t, c, dir) => order(dir, p, q), formatter: (cell) => escaped(field === "difference" ? plus(cell.getValue()) : of(cell.getData(), field)) });
    table = tabulator($("table"), {
      data: differences[state.run].map((each) => ({ ...each, title: metrics[each.metric].title, half: finite(each.low) ? each.high - each.low : null })), maxHeight: 620,
      columns: [
        { field: "method", title: "method", frozen: true, sorter: "string", formatter: (cell) => (references.includes(cell.getValue()) ? `<i>${escaped(cell.getValue())}</i>` : escaped(cell.getValue())) },
        { field: "title", title: "metric", sorter: "string", formatter: (cell) => escaped(cell.getValue()) }, value("difference", `${state.run} − ${baseline}`),
        { field: "half", title: "95% interval", hozAlign: "right", sorter: (p, q, r, t, c, dir) => order(dir, p, q), formatter: (cell) => escaped(range(cell.getData())) },
        { field: "clear", title: "clear", sorter: "boolean", formatter: (cell) => (cell.getValue() ? "yes" : "–") }, value("a", baseline), value("b", state.run),
      ],
    }, (row) => { state.metric = row.metric; $("metric").value = row.metric; draw(); });
    table.on("tableBuilt", filter);
  }

  $("run").onchange = () => { state.run = $("run").value; draw(); build(); };
  $("metric").onchange = () => { state.metric = $("metric").value; $("of-method").value = state.method = ""; draw(); filter(); };
  $("of-method").onchange = () => { state.method = $("of-method").value; filter(); };
  $("clear-only").onchange = () => { state.clear = $("clear-only").checked; filter(); };
  draw();
  build();
  window.report = { data, state, table: () => table, chart: () => $("chart").view };
};
