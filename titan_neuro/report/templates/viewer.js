// Slices of a map: three sliders in mm, each of which moves one plane and the crosshairs in the other two.
for (const viewer of document.querySelectorAll(".viewer")) {
  const sliders = [...viewer.querySelectorAll("input")];
  const show = () => {
    const at = sliders.map((slider) => (slider.value - slider.min) / slider.step);
    for (const plane of viewer.querySelectorAll(".slice")) {
      const { axis, columns, width, height, across, up } = plane.dataset;
      const index = at[axis], row = Math.floor(index / columns);
      plane.style.backgroundPosition = `${-(index % columns) * plane.clientWidth}px ${(-row * height * plane.clientWidth) / width}px`;
      plane.querySelector(".across").style.left = `${(100 * (at[across] + 0.5)) / width}%`;
      plane.querySelector(".up").style.bottom = `${(100 * (at[up] + 0.5)) / height}%`;
    }
    sliders.forEach((slider) => {
      slider.parentElement.querySelector("output").textContent = `${slider.value} mm`;
    });
  };
  sliders.forEach((slider) => slider.addEventListener("input", show));
  viewer.closest("details").addEventListener("toggle", show);
  window.addEventListener("resize", show);
}
