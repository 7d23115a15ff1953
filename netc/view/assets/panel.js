// The panel beside the graph: what a pass did, or all there is to know of a node or a block.
"use strict";

netc.element = (name, attributes = {}, ...children) => {
  const made = document.createElement(name);
  for (const [key, value] of Object.entries(attributes)) {
    if (key.startsWith("on")) made[key] = value;
    else if (key === "style") made.style.cssText = value;
    else made.setAttribute(key, value);
  }
  made.append(...children.flat(Infinity).filter(child => child !== null && child !== undefined && child !== ""));
  return made;
};

netc.Panel = class {
  constructor(root, page) { this.root = root; this.page = page; }

  show(...parts) {
    this.root.replaceChildren(...parts.flat(Infinity).filter(part => part));
    if (this.root.scrollTop) this.root.scrollTop = 0;
  }

  link(name, text = name) { return netc.element("a", { onclick: () => this.page.select(name) }, text); }

  facts(rows) {
    const list = rows.filter(([, value]) => value !== undefined && value !== null && value !== "" && !(Array.isArray(value) && !value.length));
    return netc.element("dl", { class: "facts" }, list.map(([key, value]) => [netc.element("dt", {}, key), netc.element("dd", {}, value)]));
  }

  heading(text) { return netc.element("h3", {}, text); }

  close() { return netc.element("button", { class: "close", title: "Back to the pass (Esc)", "aria-label": "Close", onclick: () => this.page.select(null) }, "×"); }

  // --- a pass -------------------------------------------------------------------------------------------------------

  pass(stage, model) {
    const e = netc.element, taken = (stage.rewrites || []).filter(r => r.taken), refused = (stage.rewrites || []).filter(r => !r.taken);
    const words = stage.rewrites === undefined ? "As the net is written, before any pass; each op is a kernel of its own."
      : stage.skipped ? `Did not run: ${stage.skipped}.` : `${taken.length} taken, ${refused.length} refused, in ${(1000 * stage.seconds).toFixed(1)} ms.`;
    const changes = { added: [], changed: [], moved: [], gone: [] };
    for (const [name, word] of stage.changes) changes[word].push(name);
    const says = { added: "new", changed: "changed", moved: "in another kernel or place", gone: "gone" };
    const lists = Object.entries(changes).filter(([, names]) => names.length).map(([word, names]) =>
      this.more(names, name => e("li", {}, e("span", { class: word }, "● "), word === "gone" ? name : this.link(name)),
        `${names.length} ${says[word]}`, word));
    this.show(e("h2", {}, stage.name), stage.doc ? e("p", {}, stage.doc) : null, e("p", {}, words),
      lists.length ? [this.heading("What changed"), lists] : null,
      taken.length ? [this.heading("Taken"), this.rewrites(taken)] : null,
      refused.length ? [this.heading("Refused"), this.rewrites(refused)] : null,
      !stage.number ? this.start(model) : null);
  }

  start(model) {
    const e = netc.element, kinds = new Map();
    for (const node of model.stages[0].list) kinds.set(node.op, (kinds.get(node.op) || 0) + 1);
    return [this.heading("Ops"), this.facts([...kinds].sort((a, b) => b[1] - a[1]).map(([op, n]) => [op, `${n}`])),
      this.heading("How to look around"), e("ul", {},
        e("li", {}, "← → go through the passes; / finds a layer."),
        e("li", {}, "Double-click opens and closes a block; o and c do it for all."),
        e("li", {}, "Drag or scroll to move, Ctrl and scroll to zoom, f to see all."))];
  }

  rewrites(list) {
    const e = netc.element;
    return this.more(list, r => e("li", {}, r.what,
      r.gain ? e("small", {}, ` ${r.gain > 0 ? "saves" : "costs"} ${netc.time(1e6 * Math.abs(r.gain))}`) : null,
      r.why ? e("small", {}, ` — ${r.why}`) : null,
      r.layers.length ? e("div", {}, r.layers.slice(0, 6).map((layer, i) => [i ? ", " : "", this.layer(layer)]),
        r.layers.length > 6 ? e("small", {}, ` and ${r.layers.length - 6} more`) : null) : null));
  }

  layer(layer) { return netc.element("a", { onclick: () => this.page.selectLayer(layer) }, netc.element("small", {}, layer)); }

  more(list, made, title, word) {   // long lists are folded, and made when they are opened
    const e = netc.element, shown = title ? 0 : 8, first = list.slice(0, shown), rest = list.slice(shown);
    const inner = e("ul", {}), fill = () => { if (!inner.childNodes.length) inner.append(...rest.map(made)); };
    return [first.length ? e("ul", {}, first.map(made)) : null, rest.length ? e("details", { ontoggle: fill },
      e("summary", { class: word || "" }, title || `${rest.length} more`), inner) : null];
  }

  // --- a node -------------------------------------------------------------------------------------------------------

  node(node, stage, model, code) {
    const e = netc.element, kernel = node.kernel >= 0 ? stage.kernels[node.kernel] : null, change = stage.changes.get(node.name);
    const inputs = node.inputs.map(name => [this.link(name, netc.leaf(name)), e("small", {}, ` ${stage.byName.get(name)?.type ?? ""}`)]);
    const rows = [["op", node.op], ["result", node.type], ...inputs.map((input, i) => [i ? "" : "reads", e("span", {}, input)]),
      ["is", stage.results[node.name]], ["constants", (node.constants || []).join(", ")],
      ["lies in memory as", stage.places[node.name]], ["layout", stage.layouts[node.name]],
      ["FLOPs", node.flops && netc.count(node.flops)], ["bytes", node.bytes && netc.count(node.bytes)]];
    this.show(this.close(), e("h2", {}, node.name), change ? e("span", { class: `tag ${change}` }, { added: "new in this pass", changed: "changed by this pass",
      moved: "in another kernel or place since this pass" }[change]) : null,
      this.facts(rows),
      Object.keys(node.attrs).length ? [this.heading("Arguments"), this.facts(Object.entries(node.attrs).map(([k, v]) => [k, `${v}`]))] : null,
      node.weights.length ? [this.heading("Parameters"), this.facts(node.weights.map(([name, type, size]) => [this.weight(name),
        e("span", {}, `${type} `, e("small", {}, netc.count(size)))]))] : null,
      kernel ? this.kernel(kernel, stage, node) : e("p", {}, node.op === "input" ? "An input: memory of the caller."
        : "No kernel: it is a place in memory, or another shape of one."),
      this.sources(node.origins, model), this.code(node, model, code));
  }

  weight(name) {   // packed/i3a/b3/conv.weight/outputs_by_8 → weight/outputs_by_8
    const last = name.lastIndexOf(".");
    return (last > 0 ? name.slice(last + 1) : netc.leaf(name)) + (name.startsWith("packed/") ? " (packed)" : "");
  }

  kernel(kernel, stage, node) {
    const e = netc.element, rate = kernel.flops / Math.max(1, kernel.bytes);
    return [this.heading(`Kernel ${kernel.number + 1} of ${stage.kernels.length}`),
      this.facts([["FLOPs", netc.count(kernel.flops)], ["bytes", netc.count(kernel.bytes)], ["FLOPs a byte", rate.toFixed(1)], ["predicted", netc.time(kernel.us)]]),
      e("ul", { class: "members" }, kernel.nodes.map(n => e("li", {},
        e("span", { style: `color: ${this.page.graph.color(kernel.hue, "mark")}` }, "■ "),
        n === node ? e("b", {}, n.name) : this.link(n.name), e("small", {}, ` ${n.op}`))))];
  }

  sources(origins, model) {
    const e = netc.element, places = new Map();
    for (const [layer, path, line, column] of origins) {
      const key = `${path}:${line}`;
      if (!places.has(key)) places.set(key, { path, line, layers: [], columns: [] });
      places.get(key).layers.push(layer);
      places.get(key).columns.push(column - 1);
    }
    if (!places.size) return null;
    return [this.heading("Source"), [...places.values()].slice(0, 4).map(({ path, line, layers, columns }) => {
      const file = model.files[path], lines = file ? file.text.split("\n") : [];
      const text = lines.slice(Math.max(0, line - 2), line + 1).map((content, i) => {
        const at = Math.max(1, line - 1) + i, row = [e("i", {}, `${at}`), at === line ? this.words(content, columns) : content];
        return e(at === line ? "b" : "span", {}, row);
      });
      return [e("div", { class: "at" }, `${file ? file.name : path}:${line}  ${[...new Set(layers)].join(", ")}`),
        lines.length ? e("pre", { class: "source" }, text) : null];
    })];
  }

  words(line, columns) {   // the words that begin at these columns are the ones that are meant
    const parts = [];
    let done = 0;
    for (const column of [...new Set(columns)].sort((a, b) => a - b)) {
      const word = /^[\w.]+/.exec(line.slice(column))?.[0];
      if (!word || column < done) continue;
      parts.push(line.slice(done, column), netc.element("mark", {}, word));
      done = column + word.length;
    }
    return [...parts, line.slice(done)];
  }

  code(node, model, code) {
    const e = netc.element, last = model.counterpart(node, model.last);
    if (!code?.kernels || !last || last.kernel < 0 || !code.functions[code.kernels[last.kernel]]) return null;
    const name = code.kernels[last.kernel], text = code.functions[name], lines = text.split("\n");
    const same = code.kernels.filter(other => other === name).length;
    const limit = 1500, pre = e("pre", { class: "code" }, lines.slice(0, limit).join("\n"));
    const rest = lines.length > limit ? e("button", { onclick: event => { pre.textContent = text; event.target.remove(); } },
      `Show all ${netc.count(lines.length)} lines`) : null;
    return [this.heading(`Generated ${code.language}`), e("p", {}, `Function ${name} of the finished program, `
      + `${netc.count(lines.length)} lines${same > 1 ? `; ${same} kernels share it` : ""}.`), e("details", { class: "code" }, e("summary", {}, "Show the code"), pre, rest)];
  }

  // --- a block ------------------------------------------------------------------------------------------------------

  block(path, stage) {
    const e = netc.element, nodes = stage.members.get(path) || [], kernels = [...new Set(nodes.map(n => n.kernel).filter(k => k >= 0))].map(k => stage.kernels[k]);
    const sum = key => kernels.reduce((total, kernel) => total + kernel[key], 0);
    const size = new Map(nodes.flatMap(n => n.weights.map(([name, , size]) => [name, size])));
    this.show(this.close(), e("h2", {}, path), e("p", {}, e("a", { onclick: () => this.page.toggle(path) }, this.page.open.has(path) ? "Close this block" : "Open this block")),
      this.facts([["ops", `${nodes.length}`], ["kernels", `${kernels.length}`], ["parameters", netc.count([...size.values()].reduce((a, b) => a + b, 0))],
        ["FLOPs", netc.count(sum("flops"))], ["bytes", netc.count(sum("bytes"))], ["predicted", netc.time(sum("us"))]]),
      this.heading("Kernels"), e("ul", {}, kernels.map(kernel => e("li", {},
        e("span", { style: `color: ${this.page.graph.color(kernel.hue, "mark")}` }, "■ "), this.link(kernel.main.name, kernel.nodes.map(n => n.op).join(" → ")),
        e("small", {}, ` ${netc.time(kernel.us)}, ${netc.bytes(kernel.bytes)}`)))));
  }
};
