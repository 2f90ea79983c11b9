// A map on two hemispheres that are turned together, mirrored. Drawn point by point into canvases: no WebGL is needed, which
// browsers on clusters and remote desktops often lack.
function arrayOf(text, kind) {
  return new kind(Uint8Array.from(atob(text), (letter) => letter.charCodeAt(0)).buffer);
}
function normalsOf(mesh, faces) {
  const normals = new Float32Array(mesh.length);
  for (let face = 0; face < faces.length; face += 3) {
    const [a, b, c] = [3 * faces[face], 3 * faces[face + 1], 3 * faces[face + 2]];
    for (let axis = 0; axis < 3; axis += 1) {
      const next = (axis + 1) % 3, last = (axis + 2) % 3;
      const part = (mesh[b + next] - mesh[a + next]) * (mesh[c + last] - mesh[a + last])
        - (mesh[b + last] - mesh[a + last]) * (mesh[c + next] - mesh[a + next]);
      for (const corner of [a, b, c]) normals[corner + axis] += part;
    }
  }
  for (let at = 0; at < normals.length; at += 3) {
    const length = Math.hypot(normals[at], normals[at + 1], normals[at + 2]) || 1;
    for (let axis = 0; axis < 3; axis += 1) normals[at + axis] /= length;
  }
  return normals;
}
function drawHemisphere(part, faces, azimuth, tilt) {
  const { canvas, mesh, normals, rgb } = part, n = mesh.length / 3;
  const width = canvas.width, height = canvas.height, scale = height / 23000;
  const [ca, sa, ct, st] = [Math.cos(azimuth), Math.sin(azimuth), Math.cos(tilt), Math.sin(tilt)];
  const x = new Float32Array(n), y = new Float32Array(n), depth = new Float32Array(n), light = new Float32Array(n);
  for (let i = 0, at = 0; i < n; i += 1, at += 3) {
    const ahead = ca * mesh[at] + sa * mesh[at + 1];
    x[i] = width / 2 + scale * (ca * mesh[at + 1] - sa * mesh[at]);
    y[i] = height / 2 - scale * (ct * mesh[at + 2] - st * ahead);
    depth[i] = ct * ahead + st * mesh[at + 2];
    light[i] = 0.62 + 0.38 * Math.abs(ct * (ca * normals[at] + sa * normals[at + 1]) + st * normals[at + 2]);
  }
  const image = new ImageData(width, height), nearest = new Float32Array(width * height).fill(-Infinity);
  part.shown = new Int32Array(width * height).fill(-1);
  for (let face = 0; face < faces.length; face += 3) {
    const a = faces[face], b = faces[face + 1], c = faces[face + 2];
    const area = (x[b] - x[a]) * (y[c] - y[a]) - (x[c] - x[a]) * (y[b] - y[a]);
    if (area === 0) continue;
    const right = Math.min(width - 1, Math.floor(Math.max(x[a], x[b], x[c])));
    const bottom = Math.min(height - 1, Math.floor(Math.max(y[a], y[b], y[c])));
    for (let row = Math.max(0, Math.ceil(Math.min(y[a], y[b], y[c]))); row <= bottom; row += 1) {
      for (let column = Math.max(0, Math.ceil(Math.min(x[a], x[b], x[c]))); column <= right; column += 1) {
        const ofB = ((column - x[a]) * (y[c] - y[a]) - (x[c] - x[a]) * (row - y[a])) / area;
        const ofC = ((x[b] - x[a]) * (row - y[a]) - (column - x[a]) * (y[b] - y[a])) / area, ofA = 1 - ofB - ofC;
        if (ofA < 0 || ofB < 0 || ofC < 0) continue;
        const pixel = row * width + column, near = ofA * depth[a] + ofB * depth[b] + ofC * depth[c];
        if (near <= nearest[pixel]) continue;
        nearest[pixel] = near;
        // The color of the closest corner: values are not mixed.
        const vertex = ofA >= ofB && ofA >= ofC ? a : ofB >= ofC ? b : c;
        const bright = ofA * light[a] + ofB * light[b] + ofC * light[c];
        part.shown[pixel] = vertex;
        for (let color = 0; color < 3; color += 1) image.data[4 * pixel + color] = bright * rgb[3 * vertex + color];
        image.data[4 * pixel + 3] = 255;
      }
    }
  }
  canvas.getContext("2d").putImageData(image, 0, 0);
}
function startSurface(viewer) {
  const faces = arrayOf(viewer.dataset.faces, Uint16Array), colors = arrayOf(viewer.dataset.colors, Uint8Array);
  const low = Number(viewer.dataset.low), high = Number(viewer.dataset.high), said = viewer.querySelector(".said");
  const [turn, tilt] = viewer.querySelectorAll("input");
  const parts = [...viewer.querySelectorAll("canvas")].map((canvas) => {
    const { mesh, mm, value: values, gray } = canvas.dataset;
    const part = { canvas, side: canvas.dataset.side, mesh: arrayOf(mesh, Int16Array), mm: arrayOf(mm, Int8Array) };
    part.values = arrayOf(values, Float32Array);
    part.normals = normalsOf(part.mesh, faces);
    part.rgb = new Uint8Array(part.mesh.length);
    const grays = arrayOf(gray, Uint8Array);
    part.values.forEach((value, vertex) => {
      const place = Math.round((255 * (value - low)) / (high - low)), color = 3 * Math.max(0, Math.min(255, place));
      for (let at = 0; at < 3; at += 1) part.rgb[3 * vertex + at] = Number.isNaN(value) ? grays[vertex] : colors[color + at];
    });
    return part;
  });
  const sign = (part) => (part.side === "left" ? 1 : -1);
  const draw = () => {
    for (const part of parts) {
      const pixels = Math.min(2, window.devicePixelRatio || 1);
      part.canvas.width = Math.max(1, Math.round(part.canvas.clientWidth * pixels));
      part.canvas.height = Math.max(1, Math.round(part.canvas.clientHeight * pixels));
      const degrees = (part.side === "left" ? 180 : 0) + sign(part) * Number(turn.value);
      drawHemisphere(part, faces, (degrees * Math.PI) / 180, (Number(tilt.value) * Math.PI) / 180);
    }
    for (const slider of [turn, tilt]) slider.parentElement.querySelector("output").textContent = `${slider.value}°`;
  };
  const say = (part, event) => {
    const box = part.canvas.getBoundingClientRect();
    const column = Math.floor(((event.clientX - box.left) * part.canvas.width) / box.width);
    const row = Math.floor(((event.clientY - box.top) * part.canvas.height) / box.height);
    const vertex = part.shown[row * part.canvas.width + column];
    if (vertex === undefined || vertex < 0) return;
    const value = part.values[vertex], place = [...part.mm.slice(3 * vertex, 3 * vertex + 3)].join(", ");
    said.textContent = `${part.side} hemisphere, MNI ${place} mm: ${Number.isNaN(value) ? "no value" : value.toPrecision(3)}`;
  };
  for (const part of parts) {
    let held = null;
    part.canvas.addEventListener("pointerdown", (event) => {
      held = event;
      part.canvas.setPointerCapture(event.pointerId);
      say(part, event);
    });
    for (const end of ["pointerup", "pointercancel"]) part.canvas.addEventListener(end, () => { held = null; });
    part.canvas.addEventListener("pointermove", (event) => {
      if (!held) return say(part, event);
      const turned = Number(turn.value) - (sign(part) * (event.clientX - held.clientX)) / 2;
      turn.value = ((turned + 540) % 360) - 180;
      tilt.value = Number(tilt.value) + (event.clientY - held.clientY) / 2;
      held = event;
      draw();
    });
  }
  for (const button of viewer.querySelectorAll("button")) {
    button.addEventListener("click", () => {
      [turn.value, tilt.value] = button.dataset.view.split(" ");
      draw();
    });
  }
  for (const slider of [turn, tilt]) slider.addEventListener("input", draw);
  window.addEventListener("resize", draw);
  draw();
}
for (const viewer of document.querySelectorAll(".surface")) {
  viewer.closest("details").addEventListener("toggle", () => startSurface(viewer), { once: true });
}
