// Where things are drawn: each open block is laid out by itself (by dagre) and is one thing in the block around it. An edge
// into a block ends at a port on its border, where the edges inside begin; so blocks that stay the same keep their shape.
"use strict";

netc.Layout = class {
  constructor(measure) {
    this.measure = measure;   // (text, bold) → width
    this.cache = new Map();   // what a block is made of → where its parts are
    this.whole = new Map();   // stage and open blocks → all of it
  }

  // stage, open: Set of block paths. Returns {things: Map id → box, edges: [...], width, height}.
  of(stage, open) {
    const key = stage.number + "\n" + [...open].sort().join("\n");
    if (!this.whole.has(key)) {
      if (this.whole.size > 200) this.whole.clear();
      this.whole.set(key, this.make(stage, open));
    }
    return this.whole.get(key);
  }

  make(stage, open) {
    const root = { id: "", items: new Map(), edges: new Map(), ins: new Set(), outs: new Set() };
    const containers = new Map([["", root]]);
    const chain = home => { const paths = []; for (let p = home; p; p = stage.blocks[p]) paths.unshift(p); return paths; };
    const seen = new Map();   // node → {id, inside: containers, outermost first}

    for (const node of stage.list) {
      const inside = [root];
      let id = null;
      for (const path of chain(node.home)) {
        const around = inside[inside.length - 1];
        id = "b:" + path;
        if (!around.items.has(id)) around.items.set(id, { id, path, node: null });
        if (!open.has(path)) break;
        if (!containers.has(path)) containers.set(path, { id, items: new Map(), edges: new Map(), ins: new Set(), outs: new Set() });
        inside.push(containers.get(path));
        id = null;
      }
      if (id === null) {
        id = "n:" + node.name;
        inside[inside.length - 1].items.set(id, { id, path: null, node });
      }
      seen.set(node.name, { id, inside });
    }

    const join = (container, from, to, port, source, target) => {
      const key = [from, to, port].join("\n");
      if (!container.edges.has(key)) container.edges.set(key, { key, from, to, port, sources: new Set(), targets: new Set() });
      container.edges.get(key).sources.add(source);
      container.edges.get(key).targets.add(target);
    };
    for (const node of stage.list) for (const input of node.inputs) {
      const a = seen.get(input), b = seen.get(node.name);
      if (!a || a.id === b.id) continue;
      let shared = 0;
      while (a.inside[shared + 1] && a.inside[shared + 1] === b.inside[shared + 1]) shared++;
      let from = a.id;
      for (let i = a.inside.length - 1; i > shared; i--) {
        a.inside[i].outs.add(a.id);
        join(a.inside[i], from, "out:" + a.id, a.id, input, node.name);
        from = a.inside[i].id;
      }
      const steps = [...b.inside.slice(shared + 1).map(c => c.id), b.id];
      join(a.inside[shared], from, steps[0], a.id, input, node.name);
      for (let i = shared + 1; i < b.inside.length; i++) {
        b.inside[i].ins.add(a.id);
        join(b.inside[i], "in:" + a.id, steps[i - shared], a.id, input, node.name);
      }
    }

    const boxes = new Map();
    const size = container => {   // inner blocks first
      for (const item of container.items.values()) {
        const inner = item.path !== null && containers.get(item.path);
        const placed = inner ? size(inner) : this.size(item, stage);
        item.w = placed.w; item.h = placed.h; item.inner = inner ? placed : null;
      }
      const placed = this.arrange(container);
      boxes.set(container, placed);
      return placed;
    };
    const whole = size(root);
    const result = { things: new Map(), edges: [], width: whole.w, height: whole.h, seen };
    this.place(root, boxes, containers, 0, 0, 0, result);
    return result;
  }

  size(item, stage) {
    if (item.node) {
      const small = netc.isSmall(item.node);
      const text = Math.max(this.measure(netc.title(item.node), true), this.measure(netc.subtitle(item.node), false));
      const even = width => 8 * Math.ceil(width / 8);  // so that more blocks are alike
      return small ? { w: Math.max(64, even(this.measure(netc.title(item.node), true) + 26)), h: 24 }
        : { w: Math.max(96, Math.min(232, even(text + 28))), h: 42 };
    }
    const label = netc.blockLabel(item.path, stage.blocks[item.path]);
    return { w: Math.max(148, Math.min(240, this.measure(label, true) + 46)), h: 58 };
  }

  // Positions of a container's items and ports and bends of its edges, relative to its top left corner.
  arrange(container) {
    const items = [...container.items.values()], edges = [...container.edges.values()];
    const ins = [...container.ins], outs = [...container.outs], name = new Map();  // blocks that look alike are laid out once
    items.forEach((item, i) => name.set(item.id, "i" + i));
    ins.forEach((id, i) => name.set("in:" + id, "p" + i));
    outs.forEach((id, i) => name.set("out:" + id, "q" + i));
    const shape = { nested: !!container.id, sizes: items.map(i => [i.w, i.h]), ins: ins.length, outs: outs.length,
                    edges: [...new Set(edges.map(e => name.get(e.from) + " " + name.get(e.to)))] };
    const key = JSON.stringify(shape);
    if (!this.cache.has(key)) this.cache.set(key, netc.arrange(shape));
    const { w, h, at, bends } = this.cache.get(key), where = id => at.get(name.get(id));
    return { w, h, at: new Map(items.map(i => [i.id, where(i.id)])),
             ports: new Map([...ins.map(id => "in:" + id), ...outs.map(id => "out:" + id)].map(id => [id, where(id)])),
             bends: new Map(edges.map(e => [e.key, bends.get(name.get(e.from) + " " + name.get(e.to))])) };
  }

  // Absolute boxes and edges of a container whose corner is at x, y.
  place(container, boxes, containers, x, y, depth, result) {
    const placed = boxes.get(container);
    for (const item of container.items.values()) {
      const [ix, iy] = placed.at.get(item.id);
      const opened = item.path !== null && containers.has(item.path);
      result.things.set(item.id, { id: item.id, path: item.path, node: item.node, opened, depth,
                                   x: x + ix, y: y + iy, w: item.w, h: item.h });
    }
    for (const item of container.items.values())
      if (item.inner) {
        const [ix, iy] = placed.at.get(item.id);
        this.place(containers.get(item.path), boxes, containers, x + ix, y + iy, depth + 1, result);
      }
    for (const edge of container.edges.values()) {
      const bends = placed.bends.get(edge.key).map(([px, py]) => [x + px, y + py]);
      const ends = ["out", "in"].map(side => this.end(side, edge, placed, x, y, boxes, containers, result));
      result.edges.push({ key: container.id + "\n" + edge.key, source: edge.port, sources: edge.sources, targets: edge.targets,
                          arrow: !edge.to.startsWith("out:") && !containers.has(edge.to.slice(2)),
                          points: [ends[0], ...bends, ends[1]] });
    }
  }

  // Where an edge leaves or enters: a port of this container, a port of an open block in it, or a box.
  end(side, edge, placed, x, y, boxes, containers, result) {
    const id = side === "in" ? edge.to : edge.from;
    if (placed.ports.has(id)) { const [px, py] = placed.ports.get(id); return [x + px, y + py]; }
    const box = result.things.get(id), border = side === "in" ? box.y : box.y + box.h;
    const port = box.opened && boxes.get(containers.get(box.path)).ports.get(`${side}:${edge.port}`);
    return [box.x + (port ? port[0] : box.w / 2), border];
  }
};

// Lays out items i0, i1, … with ports p0, … at the top and q0, … at the bottom: their corners, and the bends of edges.
netc.arrange = ({ nested, sizes, ins, outs, edges }) => {
  const g = new dagre.graphlib.Graph(), items = sizes.map((_, i) => "i" + i), pairs = edges.map(e => e.split(" "));
  g.setGraph({ rankdir: "TB", nodesep: 18, ranksep: 26, marginx: 0, marginy: 0,
               ranker: items.length > 400 ? "longest-path" : "network-simplex" });
  g.setDefaultEdgeLabel(() => ({}));
  sizes.forEach(([width, height], i) => g.setNode("i" + i, { width, height }));
  for (let i = 0; i < ins; i++) g.setNode("p" + i, { width: 6, height: 1 });
  for (let i = 0; i < outs; i++) g.setNode("q" + i, { width: 6, height: 1 });
  for (const [from, to] of pairs) g.setEdge(from, to, { weight: from[0] === "i" && to[0] === "i" ? 2 : 1 });
  const first = items.filter(id => !g.inEdges(id).length), last = items.filter(id => !g.outEdges(id).length);
  if (ins > 1 || ins && first.length) {   // ports lie at the border
    g.setNode("top", { width: 0, height: 0 });
    for (let i = 0; i < ins; i++) g.setEdge("top", "p" + i, { weight: 20 });
    for (const id of first) g.setEdge("top", id, { weight: 0, minlen: 2 });
  }
  if (outs) {
    g.setNode("bottom", { width: 0, height: 0 });
    for (let i = 0; i < outs; i++) g.setEdge("q" + i, "bottom", { weight: 20 });
    for (const id of last) g.setEdge(id, "bottom", { weight: 0, minlen: 2 });
  }
  dagre.layout(g);
  const bends = new Map(pairs.map(([from, to]) => [`${from} ${to}`, g.edge(from, to).points.slice(1, -1)]));
  const boxes = items.map(id => g.node(id)), turns = [...bends.values()].flat();
  const left = Math.min(...boxes.map(n => n.x - n.width / 2), ...turns.map(p => p.x - 6));
  const right = Math.max(...boxes.map(n => n.x + n.width / 2), ...turns.map(p => p.x + 6));
  const top = Math.min(...boxes.map(n => n.y - n.height / 2)), bottom = Math.max(...boxes.map(n => n.y + n.height / 2));
  const pad = nested ? { x: 14, top: 40, bottom: 22 } : { x: 24, top: 24, bottom: 24 };
  const w = Math.max(right - left + 2 * pad.x, nested ? 110 : 0), h = bottom - top + pad.top + pad.bottom;
  const dx = (w - right + left) / 2 - left, dy = pad.top - top, at = new Map();
  boxes.forEach((n, i) => at.set("i" + i, [n.x + dx - n.width / 2, n.y + dy - n.height / 2]));
  for (let i = 0; i < ins; i++) at.set("p" + i, [g.node("p" + i).x + dx, 0]);
  for (let i = 0; i < outs; i++) at.set("q" + i, [g.node("q" + i).x + dx, h]);
  for (const [edge, points] of bends) bends.set(edge, points.map(p => [p.x + dx, p.y + dy]));
  return { w, h, at, bends };
};

netc.isSmall = node => node.small;
netc.blockLabel = (path, parent) => parent ? path.slice(parent.length + 1) : path;
