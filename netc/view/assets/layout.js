// Where things are drawn: each open block is laid out by itself (by dagre) and is one thing in the block around it. An edge
// into a block ends at a port on its border, where the edges inside begin; so blocks that stay the same keep their shape.
"use strict";

netc.Layout = class {
  constructor(measure) {
    this.measure = measure;   // (text, bold) → width
    this.cache = new Map();   // what a block is made of → where its parts are
  }

  // stage, open: Set of block paths. Returns {things: Map id → box, edges: [...], width, height}.
  of(stage, open) {
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
      return small ? { w: Math.max(64, this.measure(netc.title(item.node), true) + 26), h: 24 }
        : { w: Math.max(96, Math.min(230, text + 28)), h: 42 };
    }
    const label = netc.blockLabel(item.path, stage.blocks[item.path]);
    return { w: Math.max(148, Math.min(240, this.measure(label, true) + 46)), h: 58 };
  }

  // Positions of a container's items and ports and bends of its edges, relative to its top left corner.
  arrange(container) {
    const items = [...container.items.values()], edges = [...container.edges.values()];
    const key = JSON.stringify([container.id, items.map(i => [i.id, i.w, i.h]), edges.map(e => e.key)]);
    if (this.cache.has(key)) return this.cache.get(key);
    const g = new dagre.graphlib.Graph();
    g.setGraph({ rankdir: "TB", nodesep: 18, ranksep: 26, marginx: 0, marginy: 0,
                 ranker: items.length > 400 ? "longest-path" : "network-simplex" });
    g.setDefaultEdgeLabel(() => ({}));
    for (const item of items) g.setNode(item.id, { width: item.w, height: item.h });
    for (const id of container.ins) g.setNode("in:" + id, { width: 6, height: 1 });
    for (const id of container.outs) g.setNode("out:" + id, { width: 6, height: 1 });
    for (const e of edges) g.setEdge(e.from, e.to, { weight: e.from.startsWith("in:") || e.to.startsWith("out:") ? 1 : 2 });
    if (container.ins.size > 1 || container.ins.size && items.some(i => !g.inEdges(i.id).length)) {
      g.setNode("top", { width: 0, height: 0 });
      for (const id of container.ins) g.setEdge("top", "in:" + id, { weight: 20 });
      for (const item of items) if (!g.inEdges(item.id).length) g.setEdge("top", item.id, { weight: 0, minlen: 2 });
    }
    if (container.outs.size) {
      g.setNode("bottom", { width: 0, height: 0 });
      for (const id of container.outs) g.setEdge("out:" + id, "bottom", { weight: 20 });
      for (const item of items) if (!g.outEdges(item.id).length) g.setEdge(item.id, "bottom", { weight: 0, minlen: 2 });
    }
    dagre.layout(g);
    let left = Infinity, top = Infinity, right = -Infinity, bottom = -Infinity;
    for (const item of items) {
      const n = g.node(item.id);
      left = Math.min(left, n.x - item.w / 2); right = Math.max(right, n.x + item.w / 2);
      top = Math.min(top, n.y - item.h / 2); bottom = Math.max(bottom, n.y + item.h / 2);
    }
    const bends = new Map(edges.map(e => [e.key, g.edge(e.from, e.to).points]));
    for (const points of bends.values()) for (const p of points.slice(1, -1)) { left = Math.min(left, p.x - 6); right = Math.max(right, p.x + 6); }
    const pad = container.id ? { x: 14, top: 40, bottom: 22 } : { x: 24, top: 24, bottom: 24 };
    const dx = pad.x - left, dy = pad.top - top;
    const placed = { w: right - left + 2 * pad.x, h: bottom - top + pad.top + pad.bottom, at: new Map(), ports: new Map(), bends: new Map() };
    if (container.id) placed.w = Math.max(placed.w, 110);
    for (const item of items) { const n = g.node(item.id); placed.at.set(item.id, [n.x + dx - item.w / 2, n.y + dy - item.h / 2]); }
    for (const id of container.ins) placed.ports.set("in:" + id, [g.node("in:" + id).x + dx, 0]);
    for (const id of container.outs) placed.ports.set("out:" + id, [g.node("out:" + id).x + dx, placed.h]);
    for (const [edge, points] of bends) placed.bends.set(edge, points.slice(1, -1).map(p => [p.x + dx, p.y + dy]));
    this.cache.set(key, placed);
    return placed;
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

netc.isSmall = node => node.small;
netc.blockLabel = (path, parent) => parent ? path.slice(parent.length + 1) : path;
