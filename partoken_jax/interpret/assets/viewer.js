// Shows a ribbon with WebGL: turned, moved and zoomed by mouse, touch and keys; says which residue is pointed at.
"use strict";
window.partoken = window.partoken || {};

(() => {
  const ROW = 256; // residues in a row of the texture of colours
  const VERTEX = `#version 300 es
    in vec3 position; in vec3 normal; in float residue;
    uniform mat3 turn; uniform vec3 centre; uniform vec2 shift; uniform vec2 zoom; uniform float radius;
    flat out int place; out vec3 facing; out float depth;
    void main() {
      vec3 seen = turn * (position - centre);
      place = int(residue + 0.5); facing = turn * normal; depth = seen.z / radius;
      gl_Position = vec4((seen.xy + shift) * zoom, -depth * 0.5, 1.0);
    }`;
  const FRAGMENT = `#version 300 es
    precision highp float;
    uniform sampler2D colours; uniform vec3 background; uniform bool picking;
    flat in int place; in vec3 facing; in float depth; out vec4 colour;
    void main() {
      if (picking) {
        int code = place + 1;
        colour = vec4(float(code & 255), float((code >> 8) & 255), float((code >> 16) & 255), 255.0) / 255.0;
        return;
      }
      vec4 own = texelFetch(colours, ivec2(place % ${ROW}, place / ${ROW}), 0);
      vec3 n = normalize(facing);
      float light = 0.46 + 0.54 * max(dot(n, normalize(vec3(-0.35, 0.5, 0.8))), 0.0);
      float gleam = 0.18 * pow(max(dot(n, normalize(vec3(-0.2, 0.35, 0.9))), 0.0), 24.0);
      float rim = 0.75 + 0.25 * smoothstep(0.0, 0.45, n.z);
      vec3 lit = own.rgb * light * rim * 1.12 + gleam;
      float fog = 0.42 * smoothstep(0.35, -1.0, depth);
      // Alpha says how much of it is seen: little of what is not selected.
      colour = vec4(mix(mix(lit, background, fog), background, 1.0 - own.a), 1.0);
    }`;

  function program(gl) {
    const made = gl.createProgram();
    for (const [kind, text] of [[gl.VERTEX_SHADER, VERTEX], [gl.FRAGMENT_SHADER, FRAGMENT]]) {
      const shader = gl.createShader(kind);
      gl.shaderSource(shader, text);
      gl.compileShader(shader);
      gl.attachShader(made, shader);
    }
    gl.linkProgram(made);
    if (!gl.getProgramParameter(made, gl.LINK_STATUS)) throw new Error(gl.getProgramInfoLog(made));
    return made;
  }

  function upload(gl, shaders, mesh) {
    const values = { position: [mesh.positions, 3], normal: [mesh.normals, 3], residue: [mesh.residues, 1] };
    for (const [name, [array, size]] of Object.entries(values)) {
      const place = gl.getAttribLocation(shaders, name);
      gl.bindBuffer(gl.ARRAY_BUFFER, gl.createBuffer());
      gl.bufferData(gl.ARRAY_BUFFER, new Float32Array(array), gl.STATIC_DRAW);
      gl.enableVertexAttribArray(place);
      gl.vertexAttribPointer(place, size, gl.FLOAT, false, 0, 0);
    }
    gl.bindBuffer(gl.ELEMENT_ARRAY_BUFFER, gl.createBuffer());
    gl.bufferData(gl.ELEMENT_ARRAY_BUFFER, new Uint32Array(mesh.indices), gl.STATIC_DRAW);
  }

  // Columns of the rotation by an angle about x or y of the screen, times the rotation there was.
  function turned(turn, aboutX, aboutY) {
    const [c, s, d, t] = [Math.cos(aboutX), Math.sin(aboutX), Math.cos(aboutY), Math.sin(aboutY)];
    const rows = [[d, 0, t], [s * t, c, -s * d], [-c * t, s, c * d]];
    const result = new Array(9);
    for (let column = 0; column < 3; column++)
      for (let row = 0; row < 3; row++)
        result[column * 3 + row] = [0, 1, 2].reduce((sum, k) => sum + rows[row][k] * turn[column * 3 + k], 0);
    return result;
  }

  // A viewer on a canvas, or null where there is no WebGL 2. `paint` gives it colours, [r, g, b, a] of 0 to 255.
  function viewer(canvas, mesh, count, onHover, onClick) {
    const gl = canvas.getContext("webgl2", { antialias: true, alpha: false });
    if (!gl) return null;
    const shaders = program(gl);
    gl.useProgram(shaders);
    upload(gl, shaders, mesh);
    gl.enable(gl.DEPTH_TEST);
    const uniform = (name) => gl.getUniformLocation(shaders, name);
    const rows = Math.ceil(count / ROW);
    const texels = new Uint8Array(ROW * rows * 4);
    gl.bindTexture(gl.TEXTURE_2D, gl.createTexture());
    gl.texParameteri(gl.TEXTURE_2D, gl.TEXTURE_MIN_FILTER, gl.NEAREST);
    gl.texParameteri(gl.TEXTURE_2D, gl.TEXTURE_MAG_FILTER, gl.NEAREST);

    const [low, high] = [[Infinity, Infinity, Infinity], [-Infinity, -Infinity, -Infinity]];
    mesh.positions.forEach((x, k) => {
      low[k % 3] = Math.min(low[k % 3], x);
      high[k % 3] = Math.max(high[k % 3], x);
    });
    const centre = low.map((x, k) => (x + high[k]) / 2);
    let radius = 1;
    for (let k = 0; k < mesh.positions.length; k += 3)
      radius = Math.max(radius, Math.hypot(...centre.map((x, d) => mesh.positions[k + d] - x)));
    // At first it fills the canvas, but not so much that little of it would be seen when it is turned.
    const start = () => {
      const smaller = Math.min(canvas.clientWidth, canvas.clientHeight) / (2 * radius);
      const fits = Math.min(canvas.clientWidth / (high[0] - low[0]), canvas.clientHeight / (high[1] - low[1]));
      return { turn: [1, 0, 0, 0, 1, 0, 0, 0, 1], shift: [0, 0], zoom: Math.min(0.94 * fits / smaller, 1.4) };
    };
    let view = start();
    let background = [1, 1, 1];
    let waiting = false;

    function scales() {
      const smaller = Math.min(canvas.width, canvas.height);
      const each = (view.zoom * smaller) / radius;
      return [each / canvas.width, each / canvas.height];
    }

    function render(picking) {
      gl.viewport(0, 0, canvas.width, canvas.height);
      gl.clearColor(...(picking ? [0, 0, 0] : background), 1);
      gl.clear(gl.COLOR_BUFFER_BIT | gl.DEPTH_BUFFER_BIT);
      gl.uniformMatrix3fv(uniform("turn"), false, view.turn);
      gl.uniform3fv(uniform("centre"), centre);
      gl.uniform2fv(uniform("shift"), view.shift);
      gl.uniform2fv(uniform("zoom"), scales());
      gl.uniform1f(uniform("radius"), radius);
      gl.uniform3fv(uniform("background"), background);
      gl.uniform1i(uniform("picking"), picking ? 1 : 0);
      gl.drawElements(gl.TRIANGLES, mesh.indices.length, gl.UNSIGNED_INT, 0);
    }

    function draw() {
      if (waiting) return;
      waiting = true;
      requestAnimationFrame(() => {
        waiting = false;
        const ratio = Math.min(window.devicePixelRatio || 1, 2);
        const [width, height] = [canvas.clientWidth, canvas.clientHeight].map((x) => Math.max(1, Math.round(x * ratio)));
        if (canvas.width !== width || canvas.height !== height) [canvas.width, canvas.height] = [width, height];
        render(false);
      });
    }

    let target = null; // to pick in, of the size of the canvas
    function pick(x, y) {
      if (!target || target.width !== canvas.width || target.height !== canvas.height) {
        if (target) [gl.deleteFramebuffer(target.frame), target.buffers.forEach((b) => gl.deleteRenderbuffer(b))];
        target = { width: canvas.width, height: canvas.height, frame: gl.createFramebuffer(), buffers: [] };
        gl.bindFramebuffer(gl.FRAMEBUFFER, target.frame);
        for (const [format, where] of [[gl.RGBA8, gl.COLOR_ATTACHMENT0], [gl.DEPTH_COMPONENT16, gl.DEPTH_ATTACHMENT]]) {
          const buffer = gl.createRenderbuffer();
          gl.bindRenderbuffer(gl.RENDERBUFFER, buffer);
          gl.renderbufferStorage(gl.RENDERBUFFER, format, canvas.width, canvas.height);
          gl.framebufferRenderbuffer(gl.FRAMEBUFFER, where, gl.RENDERBUFFER, buffer);
          target.buffers.push(buffer);
        }
      }
      const box = canvas.getBoundingClientRect();
      const column = Math.floor(((x - box.left) / box.width) * canvas.width);
      const row = Math.floor((1 - (y - box.top) / box.height) * canvas.height);
      gl.bindFramebuffer(gl.FRAMEBUFFER, target.frame);
      gl.enable(gl.SCISSOR_TEST);
      gl.scissor(column, row, 1, 1);
      render(true);
      const found = new Uint8Array(4);
      gl.readPixels(column, row, 1, 1, gl.RGBA, gl.UNSIGNED_BYTE, found);
      gl.disable(gl.SCISSOR_TEST);
      gl.bindFramebuffer(gl.FRAMEBUFFER, null);
      return found[0] + 256 * found[1] + 65536 * found[2] - 1;
    }

    const change = {
      rotate(x, y) { view.turn = turned(view.turn, y, x); draw(); },
      zoom(factor) { view.zoom = Math.min(Math.max(view.zoom * factor, 0.3), 30); draw(); },
      move(x, y) {
        const ratio = canvas.width / Math.max(canvas.clientWidth, 1);
        const each = scales();
        view.shift[0] += (2 * x * ratio) / canvas.width / each[0];
        view.shift[1] -= (2 * y * ratio) / canvas.height / each[1];
        draw();
      },
      reset() { view = start(); draw(); },
    };
    window.partoken.listen(canvas, change, { hover: (x, y) => onHover(pick(x, y)), leave: () => onHover(-1),
      click: (x, y, event) => onClick(pick(x, y), event) });
    new ResizeObserver(draw).observe(canvas);
    return {
      ...change,
      paint(colours, behind) {
        colours.forEach((colour, i) => texels.set(colour, 4 * i));
        background = behind;
        gl.texImage2D(gl.TEXTURE_2D, 0, gl.RGBA8, ROW, rows, 0, gl.RGBA, gl.UNSIGNED_BYTE, texels);
        draw();
      },
    };
  }

  window.partoken.viewer = viewer;
})();
