// Mouse, touch and keys of a viewer: one pointer turns, two or a pressed shift move, the wheel and two zoom.
"use strict";
window.partoken = window.partoken || {};

window.partoken.listen = (canvas, change, say) => {
  const pointers = new Map();
  let travelled = 0;
  let spread = 0;

  const middle = () => {
    const all = [...pointers.values()];
    return [0, 1].map((k) => all.reduce((sum, at) => sum + at[k], 0) / all.length);
  };
  const distance = () => {
    const [a, b] = [...pointers.values()];
    return Math.hypot(a[0] - b[0], a[1] - b[1]);
  };

  canvas.addEventListener("pointerdown", (event) => {
    canvas.setPointerCapture(event.pointerId);
    pointers.set(event.pointerId, [event.clientX, event.clientY]);
    if (pointers.size === 1) travelled = 0;
    if (pointers.size === 2) [spread, travelled] = [distance(), Infinity];
  });

  canvas.addEventListener("pointermove", (event) => {
    if (!pointers.has(event.pointerId)) {
      if (event.pointerType === "mouse") say.hover(event.clientX, event.clientY);
      return;
    }
    const before = middle();
    pointers.set(event.pointerId, [event.clientX, event.clientY]);
    const after = middle();
    const [x, y] = [after[0] - before[0], after[1] - before[1]];
    travelled += Math.abs(x) + Math.abs(y);
    if (pointers.size === 2) {
      change.move(x, y);
      const now = distance();
      if (spread > 0 && now > 0) change.zoom(now / spread);
      spread = now;
    } else if (event.shiftKey || event.buttons === 2) change.move(x, y);
    else change.rotate(x * 0.01, y * 0.01);
  });

  const end = (event) => {
    if (!pointers.delete(event.pointerId)) return;
    if (event.type === "pointerup" && travelled < 5 && event.button === 0)
      say.click(event.clientX, event.clientY, event);
  };
  canvas.addEventListener("pointerup", end);
  canvas.addEventListener("pointercancel", end);
  canvas.addEventListener("pointerleave", (event) => event.pointerType === "mouse" && say.leave());
  canvas.addEventListener("contextmenu", (event) => event.preventDefault());
  canvas.addEventListener(
    "wheel",
    (event) => {
      event.preventDefault();
      change.zoom(Math.exp(-Math.sign(event.deltaY) * Math.min(Math.abs(event.deltaY), 120) * 0.0015));
    },
    { passive: false },
  );

  const step = 0.12;
  const keys = {
    ArrowLeft: () => change.rotate(-step, 0),
    ArrowRight: () => change.rotate(step, 0),
    ArrowUp: () => change.rotate(0, -step),
    ArrowDown: () => change.rotate(0, step),
    "+": () => change.zoom(1.15),
    "=": () => change.zoom(1.15),
    "-": () => change.zoom(1 / 1.15),
    0: () => change.reset(),
  };
  canvas.addEventListener("keydown", (event) => {
    if (!(event.key in keys) || event.ctrlKey || event.metaKey || event.altKey) return;
    event.preventDefault();
    keys[event.key]();
  });
};
