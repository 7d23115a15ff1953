// The graph on a canvas: camera, movement from one layout to the next, and what lies under the pointer.
"use strict";

netc.Graph = class {
  constructor(canvas) {
    this.canvas = canvas;
    this.context = canvas.getContext("2d");
    this.camera = { x: 0, y: 0, k: 1 };
    this.now = { things: new Map(), edges: new Map() };  // what is on the screen
    this.frames = [];       // milliseconds that drawing the last ones took
    this.clipped = new Map();
    this.restyle();
    new ResizeObserver(() => this.resize()).observe(canvas);
    this.listen();
  }

  restyle() {
    const style = getComputedStyle(document.documentElement);
    this.css = Object.fromEntries(["ground", "surface", "raised", "line", "line-strong", "text", "muted", "faint", "edge", "accent",
      "added", "changed", "moved", "gone", "tint-l", "tint-c", "mark-l", "mark-c", "block", "halo", "sans"].map(
      name => [name, style.getPropertyValue("--" + name).trim()]));
    this.tints = new Map();
    this.dirty = true;
    this.ask();
  }

  color(hue, part) {
    const key = part + hue.toFixed(1);
    if (!this.tints.has(key)) this.tints.set(key, `oklch(${this.css[part + "-l"]} ${this.css[part + "-c"]} ${hue.toFixed(1)})`);
    return this.tints.get(key);
  }

  measure(text, bold) {
    this.context.font = bold ? `600 12.5px ${this.css.sans}` : `11px ${this.css.sans}`;
    return this.context.measureText(text).width;
  }

  resize() {
    const ratio = devicePixelRatio || 1, { clientWidth: w, clientHeight: h } = this.canvas;
    this.canvas.width = Math.round(w * ratio);
    this.canvas.height = Math.round(h * ratio);
    this.ratio = ratio;
    if (!this.started && this.goal) { this.fit(false); this.started = true; }
    this.draw();
  }

  // --- what to show -------------------------------------------------------------------------------------------------

  // Moves from what is shown to a layout. origin(id): where a thing that is new comes from, and one that goes leads to.
  show(layout, stage, origin, anchor) {
    const old = this.now, next = { things: new Map(), edges: new Map() };
    const shift = anchor && old.things.get(anchor) && layout.things.get(anchor);
    if (shift) {   // what was clicked stays where it is on the screen
      const before = old.things.get(anchor);
      this.camera.x += (before.x - shift.x);
      this.camera.y += (before.y - shift.y);
      for (const thing of old.things.values()) { thing.x -= before.x - shift.x; thing.y -= before.y - shift.y; }
    }
    this.goal = layout; this.stage = stage;
    for (const [id, thing] of layout.things) {
      const from = old.things.get(id) || old.things.get(origin(id, true));
      const there = old.things.has(id);
      next.things.set(id, { ...thing, stage, goal: thing, from: from ? { x: there ? from.x : from.x + from.w / 2 - thing.w / 2,
        y: from.y, w: there ? from.w : thing.w, h: there ? from.h : thing.h, a: there ? from.a : 0 } : { ...thing, a: 0 }, to: 1 });
    }
    for (const [id, thing] of old.things)
      if (!next.things.has(id)) {
        const to = layout.things.get(origin(id, false));
        next.things.set(id, { ...thing, leaving: true, from: { ...thing }, to: 0,
          goal: to ? { ...thing, x: to.x + to.w / 2 - thing.w / 2, y: to.y } : thing });
      }
    for (const edge of layout.edges) {
      const from = old.edges.get(edge.key);
      next.edges.set(edge.key, { ...edge, goal: edge.points, from: from ? from.points : edge.points, a0: from ? from.a : 0, to: 1,
                                 within: this.within(edge, stage) });
    }
    for (const [key, edge] of old.edges)
      if (!next.edges.has(key) && edge.a > 0.05) next.edges.set(key, { ...edge, goal: edge.points, from: edge.points, a0: edge.a, to: 0 });
    for (const edge of next.edges.values()) [edge.from, edge.goal] = netc.alike(edge.from, edge.goal);
    this.now = next;
    this.began = performance.now();
    this.duration = old.things.size && !netc.still() ? 420 : 0;
    this.step(this.began);
    this.ask();
  }

  within(edge, stage) {   // the kernel that an edge does not leave
    const number = stage.byName.get(edge.sources.values().next().value)?.kernel ?? -1;
    if (number < 0) return null;
    for (const names of [edge.sources, edge.targets])
      for (const name of names) if (stage.byName.get(name)?.kernel !== number) return null;
    return stage.kernels[number];
  }

  step(time) {
    const t = this.duration ? Math.min(1, (time - this.began) / this.duration) : 1;
    const e = t < 0.5 ? 4 * t * t * t : 1 - (2 - 2 * t) ** 3 / 2;
    for (const thing of this.now.things.values())
      for (const key of ["x", "y", "w", "h"]) thing[key] = thing.from[key] + (thing.goal[key] - thing.from[key]) * e;
    for (const thing of this.now.things.values()) thing.a = thing.from.a + (thing.to - thing.from.a) * e;
    for (const edge of this.now.edges.values()) {
      edge.points = edge.goal.map((p, i) => [edge.from[i][0] + (p[0] - edge.from[i][0]) * e, edge.from[i][1] + (p[1] - edge.from[i][1]) * e]);
      edge.a = edge.a0 + (edge.to - edge.a0) * e;
    }
    if (t === 1 && this.duration !== null) {
      for (const [id, thing] of this.now.things) if (thing.leaving) this.now.things.delete(id);
      for (const [key, edge] of this.now.edges) if (!edge.to) this.now.edges.delete(key);
      this.duration = null;
    }
    if (this.flight) {
      const f = Math.min(1, (time - this.flight.began) / this.flight.duration), s = 1 - (1 - f) ** 3;
      for (const key of ["x", "y", "k"]) this.camera[key] = this.flight.from[key] + (this.flight.to[key] - this.flight.from[key]) * s;
      if (f === 1) this.flight = null;
    }
    return this.duration !== null || this.flight;
  }

  ask() {
    if (this.asked) return;
    this.asked = true;
    requestAnimationFrame(time => {
      this.asked = false;
      const began = performance.now();
      const more = this.goal && this.step(Math.max(time, this.began));
      this.draw();
      this.frames.push(performance.now() - began);
      if (this.frames.length > 600) this.frames.shift();
      if (more) this.ask();
    });
  }

  // --- the camera ---------------------------------------------------------------------------------------------------

  fly(to) {
    if (netc.still()) { Object.assign(this.camera, to); this.ask(); return; }
    this.flight = { from: { ...this.camera }, to, began: performance.now(), duration: 320 };
    this.ask();
  }

  fit(moving = true) {
    const { clientWidth: w, clientHeight: h } = this.canvas;
    const whole = Math.min((w - 24) / this.goal.width, (h - 50) / this.goal.height, 1.25);
    const k = moving === "all" ? whole : Math.max(whole, Math.min(0.85, (w - 24) / this.goal.width));
    const to = { k, x: (w - this.goal.width * k) / 2, y: Math.max(8, (h - 30 - this.goal.height * k) / 2) };
    if (moving) this.fly(to); else { Object.assign(this.camera, to); this.ask(); }
  }

  center(id) {
    const thing = this.goal.things.get(id);
    if (!thing) return;
    const { clientWidth: whole, clientHeight: h } = this.canvas, k = Math.max(this.camera.k, 0.8);
    const w = whole - (this.covered?.() ?? 0);
    this.fly({ k, x: w / 2 - (thing.x + thing.w / 2) * k, y: h / 2 - (thing.y + Math.min(thing.h, h / k) / 2) * k });
  }

  zoom(factor, px = this.canvas.clientWidth / 2, py = this.canvas.clientHeight / 2) {
    const k = Math.min(3, Math.max(0.04, this.camera.k * factor)), f = k / this.camera.k;
    this.flight = null;
    this.camera = { k, x: px - (px - this.camera.x) * f, y: py - (py - this.camera.y) * f };
    this.ask();
  }

  screen(id) {   // the middle of a thing in the page
    const thing = this.goal.things.get(id), box = this.canvas.getBoundingClientRect();
    const y = thing.opened ? thing.y + 14 : thing.y + thing.h / 2;
    return thing && { x: box.x + this.camera.x + (thing.x + thing.w / 2) * this.camera.k, y: box.y + this.camera.y + y * this.camera.k };
  }

  at(px, py) {
    const x = (px - this.camera.x) / this.camera.k, y = (py - this.camera.y) / this.camera.k;
    let found = null;
    for (const thing of this.goal?.things.values() ?? [])
      if (x >= thing.x && x <= thing.x + thing.w && y >= thing.y && y <= thing.y + thing.h && (!found || thing.depth >= found.depth)) found = thing;
    return found && found.opened && y > found.y + 32 ? null : found;
  }

  listen() {
    const { canvas } = this, pointers = new Map();
    let moved = 0;
    const local = event => { const box = canvas.getBoundingClientRect(); return [event.clientX - box.x, event.clientY - box.y]; };
    canvas.addEventListener("pointerdown", event => {
      canvas.setPointerCapture(event.pointerId);
      pointers.set(event.pointerId, local(event));
      moved = 0;
      this.flight = null;
    });
    canvas.addEventListener("pointermove", event => {
      const [x, y] = local(event), before = pointers.get(event.pointerId);
      if (!before) {
        const over = this.at(x, y);
        canvas.classList.toggle("on", !!over);
        if (over?.id !== this.hover) { this.hover = over?.id; this.ask(); }
        return;
      }
      if (pointers.size === 2) {
        const other = [...pointers].find(([id]) => id !== event.pointerId)[1];
        const span = p => Math.hypot(p[0] - other[0], p[1] - other[1]) || 1;
        this.zoom(span([x, y]) / span(before), other[0], other[1]);
      } else {
        this.camera.x += x - before[0];
        this.camera.y += y - before[1];
        this.ask();
      }
      moved += Math.abs(x - before[0]) + Math.abs(y - before[1]);
      canvas.classList.toggle("drag", moved > 4);
      pointers.set(event.pointerId, [x, y]);
    });
    const up = event => {
      canvas.classList.remove("drag");
      if (pointers.delete(event.pointerId) && moved <= 4 && event.type === "pointerup") this.onclick?.(this.at(...local(event)), ...local(event));
    };
    canvas.addEventListener("pointerup", up);
    canvas.addEventListener("pointercancel", up);
    canvas.addEventListener("dblclick", event => { const thing = this.at(...local(event)); if (thing?.path) this.ontoggle?.(thing.path); });
    canvas.addEventListener("wheel", event => {
      event.preventDefault();
      const unit = event.deltaMode === 1 ? 18 : 1;
      if (event.ctrlKey || event.metaKey) this.zoom(Math.exp(-event.deltaY * unit * 0.008), ...local(event));
      else {
        this.flight = null;
        this.camera.x -= (event.shiftKey ? event.deltaY : event.deltaX) * unit;
        this.camera.y -= (event.shiftKey ? 0 : event.deltaY) * unit;
        this.ask();
      }
    }, { passive: false });
  }

  // --- drawing ------------------------------------------------------------------------------------------------------

  draw() {
    const c = this.context, { camera, css, ratio = 1 } = this;
    c.setTransform(1, 0, 0, 1, 0, 0);
    c.clearRect(0, 0, this.canvas.width, this.canvas.height);
    if (!this.goal) return;
    c.setTransform(ratio * camera.k, 0, 0, ratio * camera.k, ratio * camera.x, ratio * camera.y);
    const view = { left: -camera.x / camera.k, top: -camera.y / camera.k };
    view.right = view.left + this.canvas.clientWidth / camera.k;
    view.bottom = view.top + this.canvas.clientHeight / camera.k;
    const inside = t => t.x < view.right && t.x + t.w > view.left && t.y < view.bottom && t.y + t.h > view.top;
    const things = [...this.now.things.values()].filter(inside);
    for (const thing of things.filter(t => t.opened).sort((a, b) => a.depth - b.depth)) this.block(c, thing);
    this.edges(c, view);
    for (const thing of things) if (!thing.opened) (thing.node ? this.node(c, thing) : this.closed(c, thing));
    for (const thing of things) if (thing.opened) this.label(c, thing);
    c.globalAlpha = 1;
  }

  block(c, thing) {
    const { css, camera } = this;
    c.globalAlpha = thing.a;
    c.fillStyle = css.block;
    c.strokeStyle = this.selected === thing.id ? css.accent : css.line;
    c.lineWidth = (this.selected === thing.id ? 2 : 1) / Math.min(1, camera.k) ** 0.5;
    this.round(c, thing, 12);
    c.fill(); c.stroke();
  }

  label(c, thing) {   // above everything, and beside its block where the block is small on the screen
    const { css, camera } = this, far = camera.k < 0.5, size = far ? 11.5 / camera.k : 12.5;
    if (far && thing.depth) return;
    const name = netc.blockLabel(thing.path, thing.stage.blocks[thing.path]);
    c.globalAlpha = thing.a;
    c.font = `600 ${size}px ${css.sans}`;
    c.lineJoin = "round";
    c.lineWidth = 4 / Math.min(1, camera.k);
    c.strokeStyle = far ? css.ground : css.halo;
    c.fillStyle = this.hover === thing.id ? css.text : css.muted;
    c.textAlign = far ? "right" : "left"; c.textBaseline = "top";
    const text = far ? name : "▾ " + this.clip(c, name, thing.w - 40), x = far ? thing.x - 9 / camera.k : thing.x + 12, y = thing.y + (far ? 2 : 10);
    c.strokeText(text, x, y);
    c.fillText(text, x, y);
  }

  edges(c, view) {
    const { css, camera, lit } = this;
    for (const edge of this.now.edges.values()) {
      const { within, points } = edge;
      if (points.every(p => p[1] < view.top) || points.every(p => p[1] > view.bottom)
        || points.every(p => p[0] < view.left) || points.every(p => p[0] > view.right)) continue;
      const touched = lit && ([...edge.sources].some(n => lit.has(n)) && [...edge.targets].some(n => lit.has(n)));
      c.globalAlpha = edge.a * (lit && !touched ? 0.35 : 1);
      c.strokeStyle = within ? this.color(within.hue, "mark") : touched ? css.muted : css.edge;
      c.lineWidth = (within ? 2.4 : touched ? 1.8 : 1.15) / Math.min(1, camera.k) ** 0.6;
      c.beginPath();
      netc.curve(c, points);
      c.stroke();
      if (edge.arrow && !within && camera.k > 0.3) {
        const [x, y] = points[points.length - 1];
        c.fillStyle = c.strokeStyle;
        c.beginPath(); c.moveTo(x, y); c.lineTo(x - 3.2, y - 6.5); c.lineTo(x + 3.2, y - 6.5); c.fill();
      }
    }
  }

  node(c, thing) {
    const { css, camera } = this, { node, stage } = thing;
    const kernel = node.kernel >= 0 ? stage.kernels[node.kernel] : null;
    const small = netc.isSmall(node), change = thing.leaving ? "" : stage.changes.get(node.name);
    c.globalAlpha = thing.a * (this.lit && !this.lit.has(node.name) ? 0.38 : 1);
    this.round(c, thing, small ? 12 : 9);
    const far = camera.k < 0.42, several = kernel && kernel.nodes.length > 1;
    c.fillStyle = several ? this.color(kernel.hue, far ? "mark" : "tint") : kernel && far ? this.color(kernel.hue, "tint") : css.surface;
    c.fill();
    const chosen = this.selected === thing.id;
    c.strokeStyle = chosen ? css.accent : this.hover === thing.id ? css.muted : several ? this.color(kernel.hue, "mark") : css["line-strong"];
    c.lineWidth = chosen ? 2 : 1;
    c.stroke();
    if (kernel && !small) {   // the kernel's colour, also where a kernel is one node
      c.fillStyle = this.color(kernel.hue, "mark");
      c.beginPath();
      c.roundRect(thing.x, thing.y, 5, thing.h, [9, 0, 0, 9]);
      c.fill();
    }
    if (change) {
      c.strokeStyle = css[change];
      c.lineWidth = Math.max(1.6, 1.6 / camera.k ** 0.7);
      c.setLineDash(change === "moved" ? [4, 3] : []);
      this.round(c, { x: thing.x - 4, y: thing.y - 4, w: thing.w + 8, h: thing.h + 8 }, small ? 16 : 12);
      c.stroke();
      c.setLineDash([]);
    }
    if (far) return;
    c.textAlign = "center"; c.textBaseline = "middle";
    const x = thing.x + thing.w / 2 + (small ? 0 : 1), y = thing.y + thing.h / 2;
    c.fillStyle = css.text;
    c.font = `${small ? "500" : "600"} ${small ? 11.5 : 12.5}px ${css.sans}`;
    c.fillText(this.clip(c, netc.title(node), thing.w - 14), x, small ? y + 0.5 : y - 8);
    if (small) return;
    c.fillStyle = css.muted;
    c.font = `11px ${css.sans}`;
    c.fillText(this.clip(c, netc.subtitle(node), thing.w - 14), x, y + 8.5);
  }

  closed(c, thing) {
    const { css, camera } = this, { stage } = thing, members = stage.members.get(thing.path);
    const kernels = [...new Set(members.map(n => n.kernel).filter(k => k >= 0))].map(k => stage.kernels[k]);
    const words = thing.leaving ? [] : members.map(n => stage.changes.get(n.name)).filter(Boolean);
    c.globalAlpha = thing.a * (this.lit && !members.some(n => this.lit.has(n.name)) ? 0.38 : 1);
    c.fillStyle = css.surface;
    c.strokeStyle = this.hover === thing.id ? css.muted : css["line-strong"];
    c.lineWidth = 1;
    this.round(c, { x: thing.x + 4, y: thing.y + 4, w: thing.w, h: thing.h }, 10);   // a second sheet behind it
    c.fill(); c.stroke();
    this.round(c, thing, 10);
    if (this.selected === thing.id) { c.strokeStyle = css.accent; c.lineWidth = 2; }
    c.fill(); c.stroke();
    if (words.length) {
      const word = ["added", "changed", "moved"].find(w => words.includes(w)) || "moved";
      c.strokeStyle = css[word];
      c.lineWidth = Math.max(1.6, 1.6 / camera.k ** 0.7);
      c.setLineDash(word === "moved" ? [4, 3] : []);
      this.round(c, { x: thing.x - 4, y: thing.y - 4, w: thing.w + 12, h: thing.h + 12 }, 13);
      c.stroke();
      c.setLineDash([]);
    }
    const total = kernels.reduce((sum, k) => sum + k.us, 0) || 1, width = thing.w - 24;
    let x = thing.x + 12;
    for (const kernel of kernels) {   // as wide as the kernel's share of the time
      const w = Math.max(1.5, (width - 1.5 * (kernels.length - 1)) * kernel.us / total);
      c.fillStyle = this.color(kernel.hue, "mark");
      c.fillRect(x, thing.y + thing.h - 14, Math.min(w, thing.x + 12 + width - x), 6);
      x += w + 1.5;
    }
    if (camera.k < 0.24) return;
    c.textAlign = "left"; c.textBaseline = "middle";
    c.fillStyle = css.text;
    c.font = `600 12.5px ${css.sans}`;
    c.fillText("▸ " + this.clip(c, netc.blockLabel(thing.path, thing.stage.blocks[thing.path]), thing.w - 40), thing.x + 12, thing.y + 15.5);
    if (camera.k < 0.42) return;
    c.fillStyle = css.muted;
    c.font = `11px ${css.sans}`;
    c.fillText(`${members.length} ops · ${kernels.length} kernel${kernels.length === 1 ? "" : "s"}`, thing.x + 12, thing.y + 32);
  }

  round(c, { x, y, w, h }, r) { c.beginPath(); c.roundRect(x, y, w, h, Math.min(r, h / 2, w / 2)); }

  clip(c, text, width) {
    const key = `${c.font}|${width.toFixed(0)}|${text}`;
    let clipped = this.clipped.get(key);
    if (clipped === undefined) {
      let low = 0, high = text.length;
      const fits = n => c.measureText(n === text.length ? text : text.slice(0, n) + "…").width <= width;
      if (fits(high)) low = high;
      while (low < high) { const mid = (low + high + 1) >> 1; if (fits(mid)) low = mid; else high = mid - 1; }
      clipped = low === text.length ? text : text.slice(0, low) + "…";
      if (this.clipped.size > 5000) this.clipped.clear();
      this.clipped.set(key, clipped);
    }
    return clipped;
  }
};

netc.still = () => matchMedia("(prefers-reduced-motion: reduce)").matches;

// A smooth line that leaves and arrives upright.
netc.curve = (c, points) => {
  c.moveTo(points[0][0], points[0][1]);
  for (let i = 1; i < points.length; i++) {
    const [x0, y0] = points[i - 1], [x1, y1] = points[i], middle = (y0 + y1) / 2;
    if (Math.abs(x0 - x1) < 0.5) c.lineTo(x1, y1); else c.bezierCurveTo(x0, middle, x1, middle, x1, y1);
  }
};

// Two lines with the same number of points.
netc.alike = (one, other) => {
  const stretch = (line, n) => Array.from({ length: n }, (_, i) => {
    const at = n === 1 ? 0 : i * (line.length - 1) / (n - 1), low = Math.floor(at), high = Math.min(low + 1, line.length - 1), f = at - low;
    return [line[low][0] + (line[high][0] - line[low][0]) * f, line[low][1] + (line[high][1] - line[low][1]) * f];
  });
  const n = Math.max(one.length, other.length);
  return [one.length === n ? one : stretch(one, n), other.length === n ? other : stretch(other, n)];
};
