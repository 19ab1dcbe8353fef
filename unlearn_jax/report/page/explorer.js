"use strict";
// The explorer of a study: a toy whose points can be left out, or training pictures and the test answers that hang on them.
// What `page.js` hands over makes elements and numbers; text only ever enters as text.
window.explore = (place, data, { h, text, percent, roving }) => {
  const NS = "http://www.w3.org/2000/svg";
  const s = (tag, props, ...children) => {
    const element = document.createElementNS(NS, tag);
    for (const [key, value] of Object.entries(props || {})) element.setAttribute(key, value);
    element.append(...children);
    return element;
  };
  const plus = (x) => (Number(x) > 0 ? "+" : "") + text(x);
  const fact = (name, ...value) => h("div", {}, h("dt", {}, name), h("dd", {}, value));
  const fixed = (x, digits, sign = "") => (Number(x) > 0 ? sign : "") + Number(x).toFixed(digits).replace("-", "−");
  const control = (label, input, ...more) => h("label", {}, h("span", {}, `${label} `), input, more);
  const range = (count, props) => h("input", { type: "range", min: 0, max: Math.max(0, count - 1), step: 1, disabled: count < 2, ...props });

  // Outlines, see report/explorer.py: "x,y:steps;x,y:steps", three digits a coordinate. Returns lines of points.
  const digit = new Uint8Array(128);
  [..."ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_"].forEach((each, i) => { digit[each.charCodeAt(0)] = i; });
  function read(outline) {
    return outline.split(";").filter(Boolean).map((line) => {
      const [start, steps] = line.split(":");
      let [x, y] = start.split(",").map(Number);
      const at = (i) => (digit[steps.charCodeAt(i)] << 12 | digit[steps.charCodeAt(i + 1)] << 6 | digit[steps.charCodeAt(i + 2)]) - (1 << 17);
      const points = [[x, y]];
      for (let i = 0; i < steps.length; i += 6) points.push([x += at(i), y += at(i + 3)]);
      return points;
    });
  }

  // The part of a segment inside a square from -size to size around 0 (Liang and Barsky), or null.
  function clip([ax, ay], [bx, by], size) {
    let from = 0, to = 1;
    for (const [start, way] of [[ax, bx - ax], [-ax, ax - bx], [ay, by - ay], [-ay, ay - by]]) {
      if (way === 0 && start > size) return null;
      if (way > 0) to = Math.min(to, (size - start) / way);
      if (way < 0) from = Math.max(from, (size - start) / way);
    }
    return from < to ? [from, to].map((t) => [ax + t * (bx - ax), ay + t * (by - ay)]) : null;
  }

  // The rank of each value, 1 for the largest; the first of equals comes first.
  function ranks(values) {
    const order = values.map((_, i) => i).sort((a, b) => values[b] - values[a] || a - b);
    const rank = [];
    order.forEach((i, place) => { rank[i] = place + 1; });
    return { order, rank };
  }

  const SHAPES = [
    "M-1 0A1 1 0 1 0 1 0A1 1 0 1 0-1 0Z", "M0-1.25L1.15 .8H-1.15Z", "M-.9-.9H.9V.9H-.9Z", "M0-1.35L1.2 0L0 1.35L-1.2 0Z", "M0 1.25L1.15-.8H-1.15Z",
    "M-.4-1.2H.4V-.4H1.2V.4H.4V1.2H-.4V.4H-1.2V-.4H-.4Z", "M-1.2-.65L-.65-1.2L0-.55L.65-1.2L1.2-.65L.55 0L1.2 .65L.65 1.2L0 .55L-.65 1.2L-1.2 .65L-.55 0Z",
    "M0-1.4L.4-.45L1.35-.4L.6 .25L.85 1.2L0 .65L-.85 1.2L-.6 .25L-1.35-.4L-.4-.45Z",
  ];

  function toy() {
    const { points, labels, clean, measures, layers, axes } = data, count = points.length;
    const [left, right, bottom, top] = data.window, classes = [...new Set(labels)].sort((a, b) => a - b);
    const first = Object.keys(layers)[0];
    const state = { axis: 0, value: 0, seed: 0, colour: Object.keys(measures)[0], point: 0, held: false, layer: null };
    const values = () => axes[state.axis][1];
    const seeds = [...new Set(axes.flatMap(([, some]) => some.flatMap(([, of]) => Object.keys(of))))].sort((a, b) => a - b);
    const base = (axis) => Math.max(0, axes[axis][1].findIndex(([, of]) => Object.values(of).includes(first)));

    // the plane

    const width = Math.max(300, Math.min(720, place.clientWidth || 720)), unit = width / (right - left), height = (top - bottom) * unit;
    const px = (x) => (x - left) * unit, py = (y) => (top - y) * unit;
    const drawn = (outline) => read(outline || "").map((line) => line.map(([x, y]) => [x * width / data.steps, height - y * height / data.steps]));
    const path = (lines) => lines.map((line) => `M${line.map(([x, y]) => `${x.toFixed(2)} ${y.toFixed(2)}`).join("L")}`).join("");
    const pair = () => [s("path", { class: "with" }), s("path", { class: "without" })];
    const size = Math.max(3, Math.min(5.5, 90 / Math.sqrt(count)));
    const dots = points.map(([x, y], i) => s("path", { class: labels[i] === clean[i] ? "dot" : "dot wrong", d: SHAPES[classes.indexOf(labels[i]) % SHAPES.length], transform: `translate(${px(x).toFixed(1)} ${py(y).toFixed(1)}) scale(${size.toFixed(2)})` }));
    const cross = () => s("path", { class: "most", d: "M-5-5L5 5M-5 5L5-5" });
    const main = pair(), near = pair(), ring = s("circle", { class: "ring", r: size + 5 }), mark = cross(), nearMark = cross();
    const plane = s("svg", { class: "plane", viewBox: `-34 -8 ${width + 42} ${height + 34}`, tabindex: 0, role: "application", "aria-label": "Map of the training points. Arrow keys go from point to point by rank, Home to the first, End to the last.", "aria-describedby": "explorer-said" },
      s("rect", { class: "frame", width, height }), s("svg", { width, height, class: "inside" }, s("g", {}, ...dots), s("g", {}, ...main), mark, ring));
    const every = [1, 2, 5, 10, 20, 50, 100].map((step) => step / 10).find((step) => (right - left) / step <= 9) || 50;
    for (let x = Math.ceil(left / every); x * every <= right; x += 1) plane.append(s("path", { class: "tick", d: `M${px(x * every)} ${height}v4` }), s("text", { x: px(x * every), y: height + 17, "text-anchor": "middle" }, text(+(x * every).toFixed(6))));
    for (let y = Math.ceil(bottom / every); y * every <= top; y += 1) plane.append(s("path", { class: "tick", d: `M-4 ${py(y * every)}h4` }), s("text", { x: -8, y: py(y * every) + 4, "text-anchor": "end" }, text(+(y * every).toFixed(6))));
    const LOUPE = 240, MOST = 1e5; // its side, and how much it magnifies at most
    const loupe = s("svg", { class: "loupe", viewBox: `${-LOUPE / 2} ${-LOUPE / 2} ${LOUPE} ${LOUPE}`, role: "img", "aria-label": "The place where the boundary moves most, magnified" }, ...near, nearMark);
    const caption = h("p.fine", {});

    // the controls

    const axis = h("select", { "data-of": "axis" }, axes.map(([name], i) => h("option", { value: i }, name.replaceAll("_", " "))));
    const value = range(1, { "data-of": "value" }), valueSaid = h("output", {}), valueName = h("span", {});
    const seed = range(seeds.length, { "data-of": "seed" }), seedSaid = h("output", {});
    const colour = h("select", { "data-of": "colour" }, [...new Set(Object.values(measures).map((each) => each.group))].map((group) => h("optgroup", { label: group }, Object.entries(measures).filter(([, each]) => each.group === group).map(([name, each]) => h("option", { value: name }, each.title)))));
    const rank = range(count, { "data-of": "rank", min: 1, max: count }), rankSaid = h("output", {});
    const legend = h("p.legend", {}), about = h("p.fine", {}), facts = h("dl.numbers", {});
    const said = h("p.said", { id: "explorer-said", "aria-live": "polite" });
    const shapes = h("p.legend", {}, classes.map((label, i) => h("span", {}, key({ class: "dot", d: SHAPES[i % SHAPES.length], transform: "translate(8 8) scale(5)", style: "--share:60%" }), `class ${label}`)),
      labels.some((label, i) => label !== clean[i]) ? h("span", {}, key({ class: "dot wrong", d: SHAPES[0], transform: "translate(8 8) scale(5)", style: "--share:60%" }), "wrong label") : null,
      h("span", {}, key({ class: "with", d: "M0 8H16" }), "with all points"), h("span", {}, key({ class: "without", d: "M0 8H16" }), "without the chosen one"));
    function key(props) { return s("svg", { class: "plane key", viewBox: "0 0 16 16", "aria-hidden": "true" }, s("path", props)); }

    place.replaceChildren(
      h("form.controls", { "aria-label": "What is shown" },
        axes.length ? [control("vary", axis), h("label", {}, valueName, value, valueSaid), control("seed", seed, seedSaid)] : null,
        control("colour by", colour), control("point, by rank", rank, rankSaid)),
      h("div.two.even", {},
        h("figure", {}, plane, shapes, legend, about, h("figcaption", {}, "Point at a mark, tap it, or tab to the map and use the arrow keys. A click holds a point while you move elsewhere; Escape lets it go.")),
        h("div", {}, said, facts, h("div.lens", {}, loupe, caption))));
    place.querySelector("form").addEventListener("submit", (event) => event.preventDefault());

    // what follows from the network, the colour, the point

    const name = (label) => `class ${text(label)}`;
    const known = new Map();
    const ranked = (layer, measure) => { const at = `${layer} ${measure}`; if (!known.has(at)) known.set(at, ranks(layers[layer].scores[measure].map(Number))); return known.get(at); };
    const MAIN = Object.keys(measures)[0];

    function network() {
      if (axes.length) {
        const [shown, of] = values()[state.value];
        value.max = values().length - 1;
        value.disabled = values().length < 2;
        value.value = state.value;
        seed.value = state.seed;
        const axisName = axes[state.axis][0].replaceAll("_", " ");
        valueName.textContent = `${axisName} `;
        value.setAttribute("aria-valuetext", valueSaid.textContent = shown || "base");
        state.layer = of[seeds[state.seed]] || null;
        seed.setAttribute("aria-valuetext", seedSaid.textContent = state.layer ? seeds[state.seed] : `${seeds[state.seed]}: no boundary`);
      } else state.layer = first;
      const layer = layers[state.layer];
      state.lines = drawn(layer && layer.boundary);
      main[0].setAttribute("d", path(state.lines));
      paint();
      show();
    }

    function paint() {
      const measure = measures[state.colour];
      about.textContent = `Colour: ${measure.title}. ${measure.about}`;
      if (!state.layer) { legend.replaceChildren(); return; }
      const { order, rank: of } = ranked(state.layer, state.colour), scores = layers[state.layer].scores[state.colour];
      dots.forEach((dot, i) => dot.style.setProperty("--share", `${(100 * (count - of[i]) / Math.max(1, count - 1)).toFixed(1)}%`));
      const at = (share) => text(scores[order[Math.round(share * (count - 1))]]);
      legend.replaceChildren(h("span", {}, `least ${at(1)}`), h("i.scale", {}), h("span", {}, `most ${at(0)} (median ${at(0.5)}); colours go by rank`));
      if (state.colour !== MAIN) {
        const other = ranked(state.layer, MAIN).rank, middle = (count + 1) / 2;
        let product = 0, square = 0;
        of.forEach((each, i) => { product += (each - middle) * (other[i] - middle); square += (each - middle) ** 2; });
        about.textContent += ` Its ranking of the points and that by ${measures[MAIN].title} have a rank correlation of ${fixed(product / square, 2)}.`;
      }
    }

    function show() {
      const i = state.point, layer = layers[state.layer];
      const [x, y] = points[i].map(Number);
      ring.setAttribute("cx", px(x).toFixed(1));
      ring.setAttribute("cy", py(y).toFixed(1));
      plane.classList.toggle("held", state.held);
      mark.style.display = "none";
      loupe.style.visibility = "hidden";
      caption.textContent = "";
      const who = `Point ${i}, ${name(labels[i])}${labels[i] === clean[i] ? "" : ` (a wrong label: it is of ${name(clean[i])})`}`;
      if (!layer) {
        main[1].setAttribute("d", "");
        said.textContent = `${who}. From this seed the network has no boundary in the window.`;
        facts.replaceChildren();
        return;
      }
      const of = ranked(state.layer, MAIN), mean = Number(layer.scores[MAIN][i]), outline = layer.without[i];
      rank.value = of.rank[i];
      rankSaid.textContent = `${of.rank[i]} of ${count}`;
      rank.setAttribute("aria-valuetext", `${of.rank[i]} of ${count}, point ${i}`);
      const lines = drawn(outline);
      main[1].setAttribute("d", path(lines));
      const [mx, my, move, label] = (layer.furthest[i] || []).map(Number);
      const gone = Math.abs(move) >= 0.999 * Math.hypot(right - left, top - bottom);
      const ground = move > 0 ? `${name(label)} loses ground` : `${name(label)} gains ground`;
      const noise = mean > layer.noise ? "" : " That is no more than rounding does.";
      const most = layer.furthest[i] && mean > 0 ? (gone ? `; at one place (×) it is gone` : ` and by ${text(Math.abs(move))} at most (×), where ${ground}`) : "";
      said.textContent = `${who}, has rank ${of.rank[i]} of ${count}. Without it the boundary moves by ${text(mean)} on average${most}.${noise}`
        + (outline === "" ? " Without it no boundary is left in the window." : outline === null ? " Its line is not in this page, which holds those of the points of most influence." : outline === undefined ? " This run kept no lines without a point." : "");
      const own = ranked(state.layer, state.colour);
      facts.replaceChildren(
        fact("mean displacement", h("b", {}, text(mean)), " units"), layer.furthest[i] ? fact("largest, signed", h("b", {}, gone ? "gone" : plus(move)), gone ? "" : ` units, ${name(label)}`) : "",
        fact("rank", h("b", {}, of.rank[i]), ` of ${count}`), fact("rounding moves it by", h("b", {}, text(layer.noise)), " at most"),
        ...(state.colour === MAIN ? [] : [fact(measures[state.colour].title, h("b", {}, text(layer.scores[state.colour][i])), `, rank ${own.rank[i]}`)]));
      if (!layer.furthest[i] || gone || !lines.length || mean <= layer.noise) { caption.textContent = gone ? "" : "No move to magnify."; return; }
      const at = on(state.lines, px(mx), py(my));
      mark.style.display = "";
      mark.setAttribute("transform", `translate(${at[0].toFixed(1)} ${at[1].toFixed(1)})`);
      magnify(lines, at, 0.3 * LOUPE / (Math.abs(move) * unit));
    }

    // The place on a line that is nearest to a place beside it.
    function on(lines, x, y) {
      let best = [x, y], least = Infinity;
      for (const line of lines) {
        for (let k = 1; k < line.length; k += 1) {
          const [[ax, ay], [bx, by]] = [line[k - 1], line[k]], length = (bx - ax) ** 2 + (by - ay) ** 2;
          const t = length ? Math.max(0, Math.min(1, ((x - ax) * (bx - ax) + (y - ay) * (by - ay)) / length)) : 0;
          const found = [ax + t * (bx - ax), ay + t * (by - ay)], far = (found[0] - x) ** 2 + (found[1] - y) ** 2;
          if (far < least) { least = far; best = found; }
        }
      }
      return best;
    }

    function magnify(lines, at, times) {
      if (times < 1.5 || times > MOST) return; // it is seen without, or too small for the outlines
      const half = LOUPE / 2 / times, inside = (x, length) => (length < 2 * half ? x : Math.max(half, Math.min(length - half, x)));
      const centre = [inside(at[0], width), inside(at[1], height)];
      const closer = (point) => point.map((each, axis) => (each - centre[axis]) * times);
      [state.lines, lines].forEach((some, which) => near[which].setAttribute("d", path(some.flatMap((line) => {
        const parts = [];
        for (let k = 1; k < line.length; k += 1) {
          const found = clip(closer(line[k - 1]), closer(line[k]), LOUPE), last = parts[parts.length - 1];
          if (found && last && Math.hypot(found[0][0] - last[last.length - 1][0], found[0][1] - last[last.length - 1][1]) < 0.01) last.push(found[1]);
          else if (found) parts.push(found);
        }
        return parts;
      }))));
      nearMark.setAttribute("transform", `translate(${closer(at).map((each) => each.toFixed(1)).join(" ")})`);
      loupe.style.visibility = "";
      caption.textContent = `Where it moves most, magnified ${times < 10 ? fixed(times, 1) : Number(times.toPrecision(2)).toLocaleString("en")} times.`;
    }

    function choose(i) { if (i !== state.point) { state.point = i; show(); } }

    // pointer and keys

    function nearest(event) {
      const box = plane.getBoundingClientRect(), scale = (width + 42) / box.width;
      const x = (event.clientX - box.left) * scale - 34, y = (event.clientY - box.top) * scale - 8;
      let best = -1, least = (30 * scale) ** 2;
      points.forEach((each, i) => { const far = (px(each[0]) - x) ** 2 + (py(each[1]) - y) ** 2; if (far < least) { least = far; best = i; } });
      return best;
    }
    plane.addEventListener("pointermove", (event) => { const i = nearest(event); if (i >= 0 && !state.held) choose(i); });
    plane.addEventListener("click", (event) => {
      const i = nearest(event);
      state.held = i >= 0 && !(state.held && i === state.point);
      if (i >= 0) state.point = i;
      show();
    });
    plane.addEventListener("keydown", (event) => {
      if (event.key === "Escape") { state.held = false; show(); return; }
      const { order, rank: of } = ranked(state.layer || first, MAIN), now = of[state.point] - 1;
      const to = { ArrowRight: now + 1, ArrowDown: now + 1, ArrowLeft: now - 1, ArrowUp: now - 1, Home: 0, End: count - 1, PageDown: now + 10, PageUp: now - 10 }[event.key];
      if (to === undefined) return;
      event.preventDefault();
      choose(order[Math.max(0, Math.min(count - 1, to))]);
    });
    rank.addEventListener("input", () => choose(ranked(state.layer || first, MAIN).order[rank.value - 1]));
    colour.addEventListener("change", () => { state.colour = colour.value; paint(); show(); });
    axis.addEventListener("change", () => { state.axis = Number(axis.value); state.value = base(state.axis); network(); });
    value.addEventListener("input", () => { state.value = Number(value.value); network(); });
    seed.addEventListener("input", () => { state.seed = Number(seed.value); network(); });

    if (axes.length) state.value = base(0);
    state.point = ranked(first, MAIN).order[0];
    network();
  }

  function pictures() {
    const { train, test } = data, count = train.row.length;
    const state = { chosen: 0, order: "memorisation" };
    const points = (x) => fixed(100 * x, 1, "+");
    const wrong = (i) => train.label[i] !== train.clean[i];
    const called = (i) => `${data.names[train.label[i]]}${wrong(i) ? ` (wrong: it is ${data.names[train.clean[i]]})` : ""}`;
    const image = (address, alt, name = "img") => (address ? h(name, { src: address, alt }) : h("span.nopicture", {}, "no picture"));
    const ORDERS = { memorisation: "the most memorised", pairs: "those with most test pictures beyond chance" };
    const order = h("select", { "data-of": "order" }, Object.entries(ORDERS).map(([key, words]) => h("option", { value: key }, words)));
    const grid = h("div.thumbs", { role: "group", "aria-label": "Training pictures" }), panel = h("div", {}), said = h("p.said", { "aria-live": "polite" });
    const buttons = [...Array(count).keys()].map((i) => h("button.thumb", { type: "button", "aria-label": `training picture ${train.row[i]}, ${called(i)}, memorised ${points(train.memorisation[i])}`, onclick: () => choose(i) },
      image(train.pictures[i], ""), h("span", {}, points(train.memorisation[i])), wrong(i) ? h("span.wrong", {}, "wrong") : null));

    function choose(i) {
      state.chosen = i;
      buttons.forEach((each, k) => each.setAttribute("aria-pressed", String(k === i)));
      const beyond = train.pairs[i], shown = train.tests[i];
      said.textContent = `Training picture ${train.row[i]}, labelled ${called(i)}: ${percent(train.seen[i])} of the models that saw it are right about it, ${percent(train.unseen[i])} of the others. `
        + (beyond ? `${beyond} of ${data.tested} test pictures hang on it by more than chance.` : "No test picture hangs on it by more than chance; those that come nearest are shown.");
      panel.replaceChildren(
        h("div.head", {}, image(train.pictures[i], `training picture, ${called(i)}`, "img.big"),
          h("dl.numbers", {}, fact("memorised", h("b", {}, points(train.memorisation[i])), ` ± ${fixed(100 * train.error[i], 1)} points`), fact("its own margin", h("b", {}, plus(train.margin[i])), " nats if trained on"), fact("test answers, all", h("b", {}, fixed(train.answers[i], 2, "+")), ` of ${data.tested} right`))),
        h("div.cards", {}, shown.map(([j, influence, error, association, clear]) => h(`div.card.partner.${influence > 0 ? "helps" : "harms"}${clear ? "" : ".faint"}`, {},
          image(test.pictures[j], `test picture, ${data.names[test.label[j]]}`),
          h("span", {}, h("b", {}, `${influence > 0 ? "▲" : "▼"} ${points(influence)}`), ` ± ${fixed(100 * error, 1)}`, h("br"), `test ${test.row[j]}, ${data.names[test.label[j]]}`, h("br"), `right in ${percent(test.right[j])}`, h("br"), `correlation ${fixed(association, 2, "+")}`, clear ? null : h("span", {}, h("br"), "no more than chance"))))));
    }

    function arrange() {
      const by = train[state.order].map(Number), places = buttons.map((_, i) => i).sort((a, b) => by[b] - by[a] || a - b);
      grid.replaceChildren(...places.map((i) => buttons[i]));
      roving(grid, "pictures", () => [...grid.querySelectorAll(".thumb")], (each) => each === buttons[places[0]]);
      choose(places[0]);
    }
    order.addEventListener("change", () => { state.order = order.value; arrange(); });
    place.replaceChildren(
      h("form.controls", { "aria-label": "What is shown" }, control("show first", order), h("output", {}, `${count} of ${data.count} training pictures: the ${data.most} most memorised, and others on which test pictures hang`)),
      h("div.two.even", {}, h("div", {}, grid, h("p.fine", {}, "Under each picture: memorised, in points (models of a hundred).")),
        h("div", {}, said, panel, h("p.fine", {}, `▲ trained on it, more models are right; ▼ fewer. Numbers are points (models in a hundred) ± one standard error. Beyond chance: a correlation above ${text(data.chance)}, the largest of all pairs when answers are shuffled among models.`))));
    place.querySelector("form").addEventListener("submit", (event) => event.preventDefault());
    arrange();
  }

  ({ toy, pictures })[data.kind]();
};
