// The page: the slider through the passes, blocks that open and close, search, keys, totals.
"use strict";

netc.Page = class {
  constructor(model) {
    this.model = model;
    this.at = 0;
    this.chosen = null;   // {name} of a node or {path} of a block
    this.graph = new netc.Graph(document.getElementById("graph"));
    this.layout = new netc.Layout((text, bold) => this.graph.measure(text, bold));
    this.panel = new netc.Panel(document.getElementById("panel"), this);
    this.open = this.firstBlocks();
    this.head();
    this.slider();
    this.keys();
    this.search();
    this.graph.onclick = (thing, x, y) => this.click(thing, x, y);
    this.graph.ontoggle = path => this.toggle(path);
    this.graph.covered = () => {   // what the panel hides of the graph where there is no room beside it
      const { root } = this.panel;
      return this.chosen && getComputedStyle(root).position === "absolute" ? Math.min(root.offsetWidth, innerWidth * 0.6) : 0;
    };
    this.key();
    this.go(0);
    this.totals();
    this.describe();
    netc.unpack("code").then(code => { this.code = code; if (this.chosen?.name) this.describe(); });
  }

  get stage() { return this.model.stages[this.at]; }

  // --- blocks -------------------------------------------------------------------------------------------------------

  depths() {
    const blocks = Object.assign({}, ...this.model.stages.map(s => s.blocks)), depth = path => path ? 1 + depth(blocks[path]) : 0;
    return Object.keys(blocks).map(path => [path, depth(path)]);
  }

  // As many levels open as leave something that can be read at a glance.
  firstBlocks() {
    const depths = this.depths(), stage = this.model.stages[0], most = Math.max(0, ...depths.map(([, d]) => d));
    let open = new Set();
    for (let level = 1; level <= most; level++) {
      const wider = new Set(depths.filter(([, d]) => d <= level).map(([path]) => path));
      const shown = new Set(stage.list.map(node => {
        let visible = node.name;
        for (let path = node.home; path; path = stage.blocks[path]) if (!wider.has(path)) visible = path;
        return visible;
      }));
      if (shown.size > 90) break;
      open = wider;
    }
    return open;
  }

  toggle(path) {
    if (this.open.has(path)) for (const other of [...this.open]) { if (other === path || other.startsWith(path + "/")) this.open.delete(other); }
    else this.open.add(path);
    this.redraw("b:" + path);
    if (this.chosen?.path === path) this.describe();
  }

  level(step) {
    const depths = this.depths(), closed = depths.filter(([path]) => !this.open.has(path)).map(([, d]) => d);
    const opened = depths.filter(([path]) => this.open.has(path)).map(([, d]) => d);
    if (step > 0) { const next = Math.min(...closed); for (const [path, d] of depths) if (d <= next) this.open.add(path); }
    else { const last = Math.max(0, ...opened); for (const [path, d] of depths) if (d >= last) this.open.delete(path); }
    this.redraw();
    this.graph.fit();
  }

  reveal(node) {
    let changed = false;
    for (let path = node.home; path; path = this.stage.blocks[path]) if (!this.open.has(path)) { this.open.add(path); changed = true; }
    if (changed) this.redraw();
  }

  // --- passes -------------------------------------------------------------------------------------------------------

  go(number) {
    const from = this.stage;
    this.at = Math.max(0, Math.min(this.model.stages.length - 1, number));
    document.getElementById("slider").value = this.at;
    document.getElementById("slider").setAttribute("aria-valuetext", this.stage.name);
    [...document.getElementById("ticks").children].forEach((tick, i) => {
      tick.classList.toggle("past", i <= this.at);
      if (i === this.at) tick.setAttribute("aria-current", "step"); else tick.removeAttribute("aria-current");
    });
    if (this.chosen?.name && !this.stage.byName.has(this.chosen.name)) {
      const old = from.byName.get(this.chosen.name), now = old && this.model.counterpart(old, this.stage);
      this.chosen = now ? { name: now.name } : null;
    }
    if (this.chosen?.path && !this.stage.members.has(this.chosen.path)) this.chosen = null;
    this.redraw(undefined, from);
    this.soon ??= requestAnimationFrame(() => setTimeout(() => { this.soon = null; this.totals(); this.describe(); }));
  }

  redraw(anchor, from = this.stage) {
    const layout = this.layout.of(this.stage, this.open);
    const visible = (stage, node, seen) => seen?.get(node.name)?.id;
    const before = this.shown, origin = (id, coming) => {   // a node that comes, comes from what it was made of
      const here = coming ? this.stage : from, there = coming ? from : this.stage;
      const node = id.startsWith("n:") ? here.byName.get(id.slice(2)) : here.members.get(id.slice(2))?.[0];
      const other = node && this.model.counterpart(node, there);
      return other && visible(there, other, coming ? before?.seen : layout.seen);
    };
    this.graph.show(layout, this.stage, origin, anchor);
    this.shown = layout;
    this.mark();
    this.prepare();
  }

  // Layouts of the other stages, the nearest first, while nothing else is to be done.
  prepare() {
    const later = window.requestIdleCallback || (run => setTimeout(run, 60)), wave = this.wave = {};
    const near = this.model.stages.map((_, i) => i).sort((a, b) => Math.abs(a - this.at) - Math.abs(b - this.at));
    const next = () => {
      if (this.wave !== wave) return;
      this.waiting = near.length > 0;
      if (!this.waiting) return;
      this.layout.of(this.model.stages[near.shift()], this.open);
      later(next);
    };
    this.waiting = true;
    later(next);
  }

  // --- choosing -----------------------------------------------------------------------------------------------------

  click(thing, x, y) {
    if (!thing) return this.select(null);
    if (thing.path && x < this.graph.camera.x + (thing.x + 26) * this.graph.camera.k) return this.toggle(thing.path);
    this.chosen = thing.path ? { path: thing.path } : { name: thing.node.name };
    this.mark();
    this.describe();
  }

  select(name) {
    if (name === null) this.chosen = null;
    else {
      const node = this.stage.byName.get(name);
      if (!node) return;
      this.chosen = { name };
      this.reveal(node);
      this.graph.center("n:" + name);
    }
    this.mark();
    this.describe();
  }

  selectLayer(layer) {
    const nodes = this.stage.list.filter(n => n.origins.some(o => o[0] === layer));
    const node = nodes.find(n => n.name === layer) || nodes[0];
    if (node) this.select(node.name);
  }

  mark() {
    const { chosen, graph, stage } = this, node = chosen?.name && stage.byName.get(chosen.name);
    graph.selected = chosen && (chosen.path ? "b:" + chosen.path : "n:" + chosen.name);
    const kernel = node && node.kernel >= 0 ? stage.kernels[node.kernel].nodes : [];
    graph.lit = node ? new Set([node.name, ...kernel.map(n => n.name), ...kernel.flatMap(n => [...n.inputs, ...n.users]), ...node.inputs, ...node.users]) : null;
    graph.ask();
  }

  describe() {
    const { chosen, stage, model } = this;
    document.getElementById("panel").classList.toggle("open", !!chosen);
    if (chosen?.name) this.panel.node(stage.byName.get(chosen.name), stage, model, this.code);
    else if (chosen?.path) this.panel.block(chosen.path, stage);
    else this.panel.pass(stage, model);
  }

  // --- around the graph ---------------------------------------------------------------------------------------------

  head() {
    const { model } = this, by = id => document.getElementById(id);
    by("net").textContent = model.net;
    by("about").textContent = `${model.program} · ${model.target} · batch ${model.batch}`;
    by("more").onclick = () => this.level(1);
    by("less").onclick = () => this.level(-1);
    by("in").onclick = () => this.graph.zoom(1.3);
    by("out").onclick = () => this.graph.zoom(1 / 1.3);
    by("fit").onclick = () => this.graph.fit("all");
    by("theme").onclick = () => netc.theme(true);
  }

  key() {
    const e = netc.element, words = [["added", "new"], ["changed", "changed"], ["moved", "in another kernel or place"]];
    document.getElementById("key").replaceChildren(...words.map(([word, text]) => e("span", {},
      e("b", { style: `border-color: var(--${word}); ${word === "moved" ? "border-style: dashed" : ""}` }), text)),
      e("span", {}, e("s", {}), "through memory"), e("span", {}, e("s", { style: "border-top: 3px solid var(--mark, oklch(var(--mark-l) var(--mark-c) 205))" }), "within a kernel"));
  }

  slider() {
    const slider = document.getElementById("slider"), e = netc.element;
    slider.max = this.model.stages.length - 1;
    document.getElementById("ticks").style.setProperty("--stages", this.model.stages.length);
    slider.oninput = () => this.go(+slider.value);
    document.getElementById("ticks").replaceChildren(...this.model.stages.map((stage, i) => {
      const words = stage.name.split("_").flatMap((word, j) => j ? [e("wbr"), "_" + word] : [word]);
      return e("li", { class: (!i || (stage.rewrites || []).some(r => r.taken) ? "some" : "") + (stage.skipped ? " skipped" : ""),
        title: stage.name, onclick: () => this.go(i) }, e("u"), words);
    }));
    const place = () => {   // the ends of the range lie in the middle of the first and the last tick
      const width = document.getElementById("ticks").clientWidth / this.model.stages.length;
      slider.style.left = `${width / 2 - 8}px`;
      slider.style.width = `calc(100% - ${width - 16}px)`;
    };
    new ResizeObserver(place).observe(document.getElementById("ticks"));
  }

  totals() {
    const { model } = this, now = this.stage.counts, before = model.stages[Math.max(0, this.at - 1)].counts, e = netc.element;
    const rows = [["nodes", "Nodes", netc.count], ["kernels", "Kernels", netc.count], ["flops", "FLOPs", netc.flops], ["bytes", "Bytes", netc.bytes],
      ["arena_bytes", "Arena", netc.bytes], ["predicted_ms", "Predicted", ms => netc.time(1000 * ms)]];
    document.getElementById("totals").replaceChildren(...rows.map(([key, title, say]) => {
      const delta = now[key] - before[key], fused = model.elementwise_fused?.[key];
      const change = delta && before[key] ? `${delta > 0 ? "+" : "−"}${Math.abs(100 * delta / before[key]).toFixed(Math.abs(delta / before[key]) < 0.1 ? 1 : 0)} %` : "";
      const beside = fused ? `${say(fused)} element-wise fused` + (key === "bytes" && model.floor_bytes ? ` · floor ${netc.bytes(model.floor_bytes)}` : "") : "";
      return e("div", { "data-key": key, title: beside }, e("dt", {}, title), e("dd", {}, say(now[key])),
        e("em", { class: delta < 0 ? "down" : delta > 0 ? "up" : "" }, change.startsWith("−0.0") || change.startsWith("+0.0") ? "" : change), e("small", {}, beside), this.spark(key, fused));
    }));
  }

  spark(key, reference) {
    const values = this.model.stages.map(stage => stage.counts[key]), all = reference ? [...values, reference] : values;
    const low = Math.min(...all), high = Math.max(...all), span = high - low || 1, n = values.length - 1 || 1;
    const at = i => [100 * i / n, 26 - 22 * (values[i] - low) / span];
    const svg = document.createElementNS("http://www.w3.org/2000/svg", "svg");
    svg.setAttribute("viewBox", "0 0 100 30");
    svg.setAttribute("preserveAspectRatio", "none");
    const line = values.map((_, i) => i ? `H${at(i)[0]}V${at(i)[1]}` : `M${at(0)}`).join("");
    const level = reference ? 26 - 22 * (reference - low) / span : null;
    svg.innerHTML = (level === null ? "" : `<path d="M0,${level}H100" stroke="var(--line-strong)" stroke-dasharray="2 3" vector-effect="non-scaling-stroke"/>`)
      + `<path d="${line}" fill="none" stroke="var(--edge)" stroke-width="1.5" vector-effect="non-scaling-stroke"/>`
      + `<path d="M${at(this.at)}h0.01" stroke="var(--accent)" stroke-width="7" stroke-linecap="round" vector-effect="non-scaling-stroke"/>`;
    return svg;
  }

  keys() {
    addEventListener("keydown", event => {
      if (event.target.matches("input[type=search]") || event.ctrlKey || event.metaKey || event.altKey) return;
      const act = { ArrowRight: () => this.go(this.at + 1), ArrowLeft: () => this.go(this.at - 1), Home: () => this.go(0), End: () => this.go(this.model.stages.length - 1),
        "/": () => document.getElementById("search").focus(), Escape: () => this.select(null), f: () => this.graph.fit("all"), o: () => this.level(1), c: () => this.level(-1),
        t: () => netc.theme(true), "+": () => this.graph.zoom(1.25), "=": () => this.graph.zoom(1.25), "-": () => this.graph.zoom(0.8) }[event.key];
      if (act) { event.preventDefault(); act(); }
    });
  }

  search() {
    const input = document.getElementById("search"), list = document.getElementById("found"), e = netc.element;
    let found = [], chosen = 0;
    const pick = index => { const node = found[index]; close(); if (node) this.select(node.name); };
    const close = () => { found = []; list.replaceChildren(); };
    const render = () => list.replaceChildren(...found.map((node, i) => e("li", { role: "option", "aria-selected": i === chosen, onpointerdown: event => { event.preventDefault(); pick(i); } },
      e("span", {}, node.name), e("small", {}, node.op))));
    input.oninput = () => {
      const words = input.value.toLowerCase().split(/\s+/).filter(Boolean), score = node => netc.leaf(node.name).length + (node.small ? 40 : 0) + node.name.length / 4;
      found = !words.length ? [] : this.stage.list.filter(node => { const text = `${node.name} ${node.op} ${node.origins.map(o => o[0]).join(" ")}`.toLowerCase(); return words.every(w => text.includes(w)); })
        .sort((a, b) => score(a) - score(b)).slice(0, 12);
      chosen = 0;
      render();
    };
    input.onkeydown = event => {
      if (event.key === "ArrowDown" || event.key === "ArrowUp") { chosen = (chosen + (event.key === "ArrowDown" ? 1 : found.length - 1)) % Math.max(1, found.length); render(); event.preventDefault(); }
      else if (event.key === "Enter") { pick(chosen); input.blur(); }
      else if (event.key === "Escape") { input.value = ""; close(); input.blur(); }
    };
    input.onblur = close;
  }
};

netc.theme = toggle => {
  const root = document.documentElement, dark = matchMedia("(prefers-color-scheme: dark)").matches;
  root.dataset.theme = toggle ? (root.dataset.theme === "dark" ? "light" : "dark") : dark ? "dark" : "light";
  netc.page?.graph.restyle();
};

netc.theme(false);
netc.unpack("data").then(data => { netc.page = new netc.Page(new netc.Model(data)); document.body.dataset.ready = "yes"; });
