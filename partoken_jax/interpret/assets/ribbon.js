// The ribbon of a protein as triangles: helices as bands, strands as arrows, the rest as a tube.
"use strict";
window.partoken = window.partoken || {};

(() => {
  const SIDES = 12; // of a cross-section
  const GAP = 4.5; // Å between CA atoms; residues further apart are not joined
  const SHAPES = { H: [1.25, 0.22], E: [1.0, 0.22], "-": [0.26, 0.26] }; // half width and half thickness in Å
  const HEAD = 1.75; // half width of an arrow where it is widest

  const add = (a, b) => [a[0] + b[0], a[1] + b[1], a[2] + b[2]];
  const subtract = (a, b) => [a[0] - b[0], a[1] - b[1], a[2] - b[2]];
  const scale = (a, s) => [a[0] * s, a[1] * s, a[2] * s];
  const dot = (a, b) => a[0] * b[0] + a[1] * b[1] + a[2] * b[2];
  const cross = (a, b) => [a[1] * b[2] - a[2] * b[1], a[2] * b[0] - a[0] * b[2], a[0] * b[1] - a[1] * b[0]];
  const unit = (a) => {
    const length = Math.hypot(...a);
    return length > 1e-6 ? scale(a, 1 / length) : [0, 0, 0];
  };
  const mix = (a, b, t) => add(scale(a, 1 - t), scale(b, t));

  // Stretches of residues [first, last] that follow one another without a gap.
  function segments(ca) {
    const found = [];
    let start = null;
    for (let i = 0; i <= ca.length; i++) {
      const joined =
        start !== null && i < ca.length && ca[i] && Math.hypot(...subtract(ca[i], ca[i - 1])) <= GAP;
      if (joined) continue;
      if (start !== null) found.push([start, i - 1]);
      start = i < ca.length && ca[i] ? i : null;
    }
    return found;
  }

  // Where the spline goes through; strands are flattened, since their CA atoms go up and down.
  function controls(ca, structure, first, last) {
    let points = ca.slice(first, last + 1);
    for (let round = 0; round < 2; round++) {
      points = points.map((point, k) =>
        structure[first + k] === "E" && k > 0 && k < points.length - 1
          ? mix(point, scale(add(points[k - 1], points[k + 1]), 0.5), 0.5)
          : point,
      );
    }
    return points;
  }

  // Across the ribbon at every residue: in the plane of its peptide (Carson and Bugg 1986).
  function directions(points, oxygen, first) {
    const across = [];
    let before = null;
    for (let k = 0; k < points.length; k++) {
      const along = subtract(points[Math.min(k + 1, points.length - 1)], points[Math.max(k - 1, 0)]);
      const o = oxygen[first + k];
      let side = o ? subtract(o, points[k]) : before || [along[1], -along[0], 0.1];
      side = unit(subtract(side, scale(along, dot(side, along) / Math.max(dot(along, along), 1e-6))));
      if (before && dot(side, before) < 0) side = scale(side, -1);
      across.push(side);
      before = side;
    }
    return across.map((side, k) =>
      unit(add(add(across[Math.max(k - 1, 0)], scale(side, 2)), across[Math.min(k + 1, across.length - 1)])),
    );
  }

  // Of points, their value and slope at place t, 0 to the number of points - 1 (Catmull and Rom 1974).
  function spline(points, t) {
    const k = Math.min(Math.max(Math.floor(t), 0), Math.max(points.length - 2, 0));
    const u = t - k;
    const at = (j) => points[Math.min(Math.max(j, 0), points.length - 1)];
    const [a, b, c, d] = [at(k - 1), at(k), at(k + 1), at(k + 2)];
    const value = [0, 1, 2].map(
      (x) =>
        b[x] +
        0.5 * u * (c[x] - a[x] + u * (2 * a[x] - 5 * b[x] + 4 * c[x] - d[x] + u * (3 * (b[x] - c[x]) + d[x] - a[x]))),
    );
    const slope = [0, 1, 2].map(
      (x) =>
        0.5 *
        (c[x] - a[x] + 2 * u * (2 * a[x] - 5 * b[x] + 4 * c[x] - d[x]) + 3 * u * u * (3 * (b[x] - c[x]) + d[x] - a[x])),
    );
    return [value, slope];
  }

  const head = (structure, i, last) => structure[i] === "E" && (i === last || structure[i + 1] !== "E");

  // Half width and half thickness at place t of residue i, whose piece is from i - 0.5 to i + 0.5.
  function shape(structure, i, t, first, last) {
    const letter = structure[i];
    const own = SHAPES[letter];
    if (head(structure, i, last)) {
      const left = Math.min(Math.max(i + 0.5 - t, 0), 1); // an arrow's head
      return [0.15 + (HEAD - 0.15) * left, own[1]];
    }
    const beside = t < i ? i - 1 : i + 1;
    if (beside < first || beside > last) return own;
    const other = SHAPES[structure[beside]];
    if (letter === "E" || structure[beside] === "E") return own; // arrows begin and end sharply
    const near = Math.abs(t - i); // 0 to 0.5
    return [0, 1].map((x) => own[x] + (other[x] - own[x]) * near * near * 2);
  }

  // Triangles of all residues: {positions, normals, residues} per vertex and indices.
  function ribbon(ca, oxygen, structure) {
    const steps = ca.length > 2000 ? 3 : ca.length > 400 ? 6 : 10; // rings of a residue
    const mesh = { positions: [], normals: [], residues: [], indices: [] };
    for (const [first, last] of segments(ca)) {
      const points = controls(ca, structure, first, last);
      if (points.length === 1) points.push(add(points[0], [0.5, 0, 0])); // a residue alone is a dot
      const across = directions(points, oxygen, first);
      for (let i = first; i <= last; i++) {
        const from = Math.max(i - first - 0.5, 0);
        const to = Math.min(i - first + 0.5, points.length - 1);
        const shapeAt = (t) => shape(structure, i, t + first, first, last);
        // A piece is closed where the next one is another shape: at ends, and on both sides of an arrow's head.
        const open = (j, k) => j >= first && k <= last && structure[j] === structure[k] && !head(structure, k, last);
        piece(mesh, points, across, i, from, to, steps, shapeAt, !open(i - 1, i), !open(i, i + 1));
      }
    }
    return mesh;
  }

  function piece(mesh, points, across, residue, from, to, steps, shapeAt, closedBefore, closedAfter) {
    const rings = [];
    for (let step = 0; step <= steps; step++) {
      const t = from + ((to - from) * step) / steps;
      const [centre, slope] = spline(points, t);
      const along = unit(slope);
      let side = spline(across, t)[0];
      side = unit(subtract(side, scale(along, dot(side, along))));
      rings.push([centre, along, side, cross(along, side), ...shapeAt(t)]);
    }
    const first = rings[0];
    const last = rings[rings.length - 1];
    if (closedBefore) cap(mesh, first, residue, -1);
    rings.forEach((ring, k) => {
      const start = mesh.residues.length;
      addRing(mesh, ring, residue, null);
      if (k === 0) return;
      for (let a = 0; a < SIDES; a++) {
        const b = (a + 1) % SIDES;
        mesh.indices.push(start + a, start - SIDES + a, start + b, start + b, start - SIDES + a, start - SIDES + b);
      }
    });
    if (closedAfter) cap(mesh, last, residue, 1);
  }

  function addRing(mesh, [centre, , side, up, width, thickness], residue, normal) {
    for (let a = 0; a < SIDES; a++) {
      const [x, y] = [Math.cos((2 * Math.PI * a) / SIDES), Math.sin((2 * Math.PI * a) / SIDES)];
      mesh.positions.push(...add(centre, add(scale(side, width * x), scale(up, thickness * y))));
      mesh.normals.push(...(normal || unit(add(scale(side, x / width), scale(up, y / thickness)))));
      mesh.residues.push(residue);
    }
  }

  // Closes a piece by a ring and its centre, with normals along the chain.
  function cap(mesh, ring, residue, way) {
    const start = mesh.residues.length;
    const normal = scale(ring[1], way);
    addRing(mesh, ring, residue, normal);
    mesh.positions.push(...ring[0]);
    mesh.normals.push(...normal);
    mesh.residues.push(residue);
    for (let a = 0; a < SIDES; a++) mesh.indices.push(start + SIDES, start + a, start + ((a + 1) % SIDES));
  }

  window.partoken.ribbon = ribbon;
})();
