// The data of the page, unpacked: stages with their nodes, blocks and kernels, and what changed between two stages.
"use strict";
const netc = {};

netc.unpack = async id => {
  const bytes = Uint8Array.from(atob(document.getElementById(id).textContent.trim()), c => c.charCodeAt(0));
  const stream = new Blob([bytes]).stream().pipeThrough(new DecompressionStream("gzip"));
  return JSON.parse(await new Response(stream).text());
};

netc.Model = class {
  constructor(data) {
    Object.assign(this, data);
    this.order = new Map();  // layer of the source → its place in the text of the net: what kernels are coloured by
    this.stages = data.stages.map((stage, number) => this.stage(stage, number));
    this.last = this.stages[this.stages.length - 1];
    this.stages.forEach((stage, i) => { stage.changes = i ? this.changes(this.stages[i - 1], stage) : new Map(); });
  }

  stage(raw, number) {
    const stage = { ...raw, number, byName: new Map(), members: new Map() };
    stage.list = raw.nodes.map((record, i) => {
      const node = { ...this.nodes[record], record, home: raw.home[i], kernel: -1, users: [] };
      for (const [layer] of node.origins) if (!this.order.has(layer)) this.order.set(layer, this.order.size);
      stage.byName.set(node.name, node);
      return node;
    });
    for (const node of stage.list) for (const input of node.inputs) stage.byName.get(input)?.users.push(node.name);
    raw.kernels.forEach((kernel, k) => kernel.nodes.forEach(i => { stage.list[i].kernel = k; }));
    stage.kernels = raw.kernels.map((kernel, number) => {
      const nodes = kernel.nodes.map(i => stage.list[i]);
      const main = nodes.reduce((best, n) => (n.flops || 0) > (best?.flops || 0) ? n : best, nodes[0]);
      const layers = [...new Set(nodes.flatMap(n => n.origins.map(o => o[0])))];
      return { ...kernel, number, nodes, main, layers, hue: this.hue(main) };
    });
    for (const node of stage.list)
      for (let path = node.home; path; path = raw.blocks[path]) {
        if (!stage.members.has(path)) stage.members.set(path, []);
        stage.members.get(path).push(node);
      }
    return stage;
  }

  hue(node) {  // golden angles keep neighbours apart
    const layer = node?.origins[0]?.[0];
    return ((this.order.get(layer) ?? 0) * 137.508 + 205) % 360;
  }

  // What a stage did to nodes, by name: added, changed (itself), moved (to another kernel, or in memory), gone.
  changes(before, after) {
    const found = new Map();
    const key = (stage, node) => node.kernel < 0 ? "" : stage.kernels[node.kernel].nodes.map(n => n.name).sort().join("\n");
    const where = (stage, node) => `${stage.layouts[node.name]} ${stage.places[node.name]}`;
    for (const node of after.list) {
      const old = before.byName.get(node.name);
      if (!old) found.set(node.name, "added");
      else if (old.record !== node.record) found.set(node.name, "changed");
      else if (key(before, old) !== key(after, node) || where(before, node) !== where(after, node)) found.set(node.name, "moved");
    }
    for (const node of before.list) if (!after.byName.has(node.name)) found.set(node.name, "gone");
    return found;
  }

  // The node of a stage that a node of another stage is, became or was made of.
  counterpart(node, stage) {
    if (stage.byName.has(node.name)) return stage.byName.get(node.name);
    const layers = new Set(node.origins.map(o => o[0]));
    const related = stage.list.filter(n => n.origins.some(o => layers.has(o[0])));
    return related.find(n => n.op === node.op) || related[0];
  }
};

// --- words --------------------------------------------------------------------------------------------------------

netc.count = n => Math.round(n).toLocaleString("en-US");
netc.scaled = (n, units) => {
  let i = 0;
  while (n >= 999.5 && i < units.length - 1) { n /= 1000; i++; }
  return `${i === 0 ? Math.round(n) : n >= 100 ? n.toFixed(0) : n >= 10 ? n.toFixed(1) : n.toFixed(2)} ${units[i]}`.trim();
};
netc.bytes = n => netc.scaled(n, ["B", "kB", "MB", "GB", "TB"]);
netc.flops = n => netc.scaled(n, ["", "k", "M", "G", "T"]);
netc.time = us => us >= 1000 ? `${(us / 1000).toFixed(us >= 1e5 ? 0 : 2)} ms` : `${us.toFixed(us >= 10 ? 1 : 2)} µs`;
netc.shape = type => type.replace(/^\w+\[(N, )?/, "").replace("]", "").replace(/, /g, "×") || "1";
netc.leaf = path => path.slice(path.lastIndexOf("/") + 1);

netc.title = node => {
  if (node.name.includes("+")) return `${node.op} ×${node.name.split("+").length}`;
  const path = node.name.slice(node.home && node.name.startsWith(node.home + "/") ? node.home.length + 1 : 0).split("/");
  const leaf = path[path.length - 1].replace(/\.\d+$/, "");
  return path.length > 1 && leaf === node.op ? `${path[0]} ${leaf}` : leaf;
};
netc.subtitle = node => {
  const a = node.attrs, words = [];
  if (a.kernel) words.push(a.kernel.replace("x", "×") + (a.stride && !/^1(x1)*$/.test(a.stride) ? "/" + a.stride.split("x")[0] : ""));
  if (node.op === "slice") words.push(`${a.start}:${a.stop}`);
  const title = netc.title(node);
  if (!title.includes(node.op) && node.op !== "input") words.unshift(node.op);
  return [...words, netc.shape(node.type)].join(" · ");
};
