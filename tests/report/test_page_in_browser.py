"""The page in a real browser: does it render, and does it fit a screen and a phone?"""

import html
import json
import re
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest
from matplotlib.image import imread
from nilearn.datasets import load_fsaverage

from titan_neuro.data.bids.maps import write_map
from titan_neuro.data.grayordinates import whole_surfaces
from titan_neuro.data.space import Space
from titan_neuro.report import ComparedStudy, write_comparison, write_report

pytestmark = pytest.mark.browser

# The page forbids all scripts but its own: another page shows it in a frame of a given width and measures it.
FRAME = """<!DOCTYPE html><meta charset="utf-8"><body style="margin: 0">
<iframe id="frame" style="border: 0" width="{width}" height="900" srcdoc="{page}"></iframe><pre id="measured"></pre>
<script>
document.getElementById("frame").addEventListener("load", (event) => {{
  const page = event.target.contentDocument, images = [...page.images], root = page.documentElement;
  document.getElementById("measured").textContent = JSON.stringify({{
    width: event.target.contentWindow.innerWidth, content: root.scrollWidth, height: root.scrollHeight,
    images: images.length, drawn: images.filter((image) => image.complete && image.naturalWidth > 0).length,
    wider: images.filter((image) => !image.closest(".scroll") && image.getBoundingClientRect().right > root.clientWidth)
      .length,
    title: page.querySelector("h1").textContent,
  }});
}});
</script>"""


@pytest.fixture
def chromium(tmp_path):
    program = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    if program is None:
        pytest.skip("needs Chromium on PATH")

    def browse(path, *options):
        return subprocess.run(
            [
                program,
                *("--headless=new", "--no-sandbox", "--disable-gpu", "--hide-scrollbars"),
                *("--disable-background-networking", "--no-first-run", "--disable-component-update", "--disable-sync"),
                *(f"--user-data-dir={tmp_path / 'profile'}", "--virtual-time-budget=8000"),
                *options,
                path.as_uri(),
            ],
            capture_output=True,
            text=True,
            check=True,
            timeout=60,
        ).stdout

    return browse


@pytest.fixture
def measure(chromium, tmp_path):
    def measure(page, width):
        frame = tmp_path / f"frame-{width}.html"
        frame.write_text(
            FRAME.format(width=width, page=html.escape(page.read_text(encoding="utf-8"))), encoding="utf-8"
        )
        dumped = chromium(frame, "--dump-dom")
        return json.loads(html.unescape(re.search(r'<pre id="measured">(.*?)</pre>', dumped)[1]))

    return measure


AXE = """<script>{source}</script><script>
document.querySelectorAll("details").forEach((fold) => {{ fold.open = true; }});
axe.run({{ resultTypes: ["violations"] }}).then((result) => {{
  const found = document.createElement("pre");
  found.id = "found";
  found.textContent = JSON.stringify(result.violations.map((fault) => fault.id + " (" + fault.impact + ")"));
  document.body.append(found);
}});</script></body>"""


@pytest.fixture
def faults(chromium, tmp_path):
    """Function that lists what axe-core finds in a page, without the page's policy: that would not run axe-core."""
    package = pytest.importorskip("axe_core_python", reason="needs axe-core-python (make install)")
    source = (Path(package.__file__).parent / "axe.min.js").read_text(encoding="utf-8")

    def faults(text):
        text = re.sub('<meta http-equiv="Content-Security-Policy"[^>]*>', "", text)
        copy = tmp_path / "axe.html"
        copy.write_text(text.replace("</body>", AXE.format(source=source)), encoding="utf-8")
        dumped = chromium(copy, "--dump-dom")
        return json.loads(html.unescape(re.search(r'<pre id="found">(.*?)</pre>', dumped)[1]))

    return faults


def test_axe_finds_no_fault(full_report, shared_output, faults, tmp_path):
    text = full_report.read_text(encoding="utf-8")
    assert faults(text) == []
    # It would find one.
    assert faults(text.replace(' alt="', ' data-was="')) == ["image-alt (critical)"]
    other = shutil.copytree(shared_output.root, tmp_path / "other")
    page = write_comparison(ComparedStudy(other), ComparedStudy(shared_output.root)).page
    assert faults(page.read_text(encoding="utf-8")) == []


def test_a_slider_moves_its_plane(full_report, chromium, tmp_path):
    """Opened, then moved to both ends, as keys would."""
    frame = tmp_path / "slider.html"
    script = """<!DOCTYPE html><meta charset="utf-8"><body><iframe id="frame" width="900" height="900" srcdoc="{page}">
</iframe><pre id="said"></pre><script>document.getElementById("frame").addEventListener("load", (event) => {{
  const page = event.target.contentDocument, viewer = page.querySelector(".viewer"), said = [];
  viewer.closest("details").open = true;
  const slider = viewer.querySelectorAll("input")[2], axial = viewer.querySelector("[data-axis='2']");
  for (const value of [slider.min, slider.max]) {{
    slider.value = value;
    slider.dispatchEvent(new Event("input"));
    said.push(slider.parentElement.querySelector("output").textContent, axial.style.backgroundPosition);
  }}
  const line = viewer.querySelector("[data-axis='1'] .up").style.bottom;
  document.getElementById("said").textContent = [...said, parseFloat(line) > 95, axial.clientWidth > 100].join(";");
}});</script>"""
    frame.write_text(script.format(page=html.escape(full_report.read_text(encoding="utf-8"))), encoding="utf-8")
    said = re.search(r'<pre id="said">(.*?)</pre>', chromium(frame, "--dump-dom"))[1].split(";")
    low, first, high, last, *reached = said
    assert int(low.removesuffix(" mm")) < -60 < 60 < int(high.removesuffix(" mm"))
    assert first == "0px 0px"
    assert all(float(number) < 0 for number in last.replace("px", "").split())
    assert reached == ["true", "true"]


TURNED = """<!DOCTYPE html><meta charset="utf-8"><body><iframe id="frame" width="900" height="900" srcdoc="{page}">
</iframe><pre id="said"></pre><script>document.getElementById("frame").addEventListener("load", (event) => {{
  const page = event.target.contentDocument, viewer = page.querySelector(".surface"), said = {{}};
  const [left, right] = viewer.querySelectorAll("canvas"), buttons = [...viewer.querySelectorAll("button")];
  const red = (canvas) => {{
    const {{ data, width }} = canvas.getContext("2d").getImageData(0, 0, canvas.width, canvas.height), found = [];
    for (let at = 0; at < data.length; at += 4) {{
      if (data[at] > data[at + 2] + 60) found.push([(at / 4) % width, Math.floor(at / 4 / width)]);
    }}
    const mean = (axis) => found.reduce((sum, place) => sum + place[axis], 0) / found.length;
    return found.length > 20 ? [mean(0) / canvas.width, mean(1) / canvas.height] : null;
  }};
  said.before = left.width;
  viewer.closest("details").addEventListener("toggle", () => {{
    said.outside = [red(left), red(right)];
    const box = left.getBoundingClientRect(), [across, down] = said.outside[0];
    const at = {{ clientX: box.left + across * box.width, clientY: box.top + down * box.height }};
    left.dispatchEvent(new PointerEvent("pointermove", at));
    said.value = viewer.querySelector(".said").textContent;
    buttons.find((button) => button.textContent === "from the middle").click();
    said.middle = [red(left), red(right)];
    buttons.find((button) => button.textContent === "from above").click();
    const [turn, tilt] = viewer.querySelectorAll("input");
    said.above = [turn.value, tilt.value];
    tilt.value = 0;
    turn.value = 50;
    turn.dispatchEvent(new Event("input"));
    said.behind = [red(left), red(right)];
    said.turned = [...viewer.querySelectorAll("output")].map((output) => output.textContent);
    document.getElementById("said").textContent = JSON.stringify(said);
  }});
  viewer.closest("details").open = true;
}});</script>"""


def test_a_hemisphere_is_turned(output_folder, chromium, tmp_path):
    """A blob in the left auditory cortex; the right hemisphere is blue."""
    meshes = load_fsaverage("fsaverage5")
    mm = (meshes["white_matter"].parts["left"].coordinates + meshes["pial"].parts["left"].coordinates) / 2
    values = np.where(np.linalg.norm(mm - [-52, -22, 8], axis=1) < 12, 0.5, 0)
    output = output_folder().scores()
    space = Space(kind="surface", name="fsaverage5", grayordinates=whole_surfaces({"L": 10242, "R": 10242}))
    write_map(output.group / "task-movie", "stat-skillar_desc-titanmacH1", space, np.append(values, [-0.5] * 10242), {})
    frame, page = tmp_path / "turned.html", write_report(output.root).read_text(encoding="utf-8")
    frame.write_text(TURNED.format(page=html.escape(page)), encoding="utf-8")
    said = json.loads(html.unescape(re.search(r'<pre id="said">(.*?)</pre>', chromium(frame, "--dump-dom"))[1]))
    # Nothing is drawn before it is opened: a canvas is 300 pixels wide.
    assert said["before"] == 300
    # Seen from the left, the front is on the left, and the auditory cortex below the middle; not seen from between.
    across, down = said["outside"][0]
    assert 0.48 < across < 0.6
    assert 0.48 < down < 0.6
    place, value = re.fullmatch(r"left hemisphere, MNI (.*) mm: (.*)", said["value"]).groups()
    assert np.linalg.norm(np.array(place.split(", "), float) - [-52, -22, 8]) < 14
    assert float(value) == 0.5
    assert said["middle"][0] is None
    # More and more from behind, what lies on the left moves to the left.
    assert said["behind"][0][0] < 0.45
    assert all(said[view][1] is None for view in ("outside", "middle", "behind"))
    assert said["above"] == ["90", "90"]
    assert said["turned"] == ["50°", "0°"]


@pytest.mark.parametrize("width", [1366, 768, 390])
def test_page_fits_and_pictures_are_drawn(full_report, measure, width):
    measured = measure(full_report, width)
    assert measured["width"] == width
    assert measured["content"] == width
    assert measured["wider"] == 0
    assert measured["images"] == measured["drawn"] == 12
    assert measured["height"] > 2000


def test_a_heading_sorts_its_table(full_report, chromium, tmp_path):
    """Pressed twice; a button, which a keyboard presses, too."""
    frame = tmp_path / "sort.html"
    script = """<!DOCTYPE html><meta charset="utf-8"><body><iframe id="frame" srcdoc="{page}"></iframe>
<pre id="order"></pre><script>document.getElementById("frame").addEventListener("load", (event) => {{
  const table = event.target.contentDocument.querySelector("table.sortable"), said = [];
  for (let turn = 0; turn < 2; turn += 1) {{
    table.querySelector("th button").click();
    said.push([...table.tBodies[0].rows].map((row) => row.cells[0].textContent).join(" "));
  }}
  document.getElementById("order").textContent = said.join(";") + ";" + table.querySelector("th").ariaSort;
}});</script>"""
    frame.write_text(script.format(page=html.escape(full_report.read_text(encoding="utf-8"))), encoding="utf-8")
    order = re.search(r'<pre id="order">(.*?)</pre>', chromium(frame, "--dump-dom"))[1]
    assert order == "06 05 04 03 02 01;01 02 03 04 05 06;ascending"


def test_hostile_names_don_t_break_the_page(output_folder, measure):
    name = "<script>document.title='run'</script>" + "long" * 60
    labels = [f"{name}_{number}" for number in range(5)]
    output = output_folder(subjects=(name,), name=name).scores(summary=name, space=name).parcels(labels).records()
    measured = measure(write_report(output.root), 400)
    assert measured["title"] == name
    assert measured["content"] == 400
    assert measured["images"] == measured["drawn"]


def test_the_picture_of_the_page_is_not_blank(full_report, measure, chromium, tmp_path):
    shot, height = tmp_path / "page.png", measure(full_report, 1280)["height"]
    chromium(full_report, f"--window-size=1280,{height}", f"--screenshot={shot}")
    picture = imread(shot)[..., :3]
    assert picture.shape == (height, 1280, 3)
    is_drawn = (picture < 0.9).any(axis=2)
    assert 0.03 < is_drawn.mean() < 0.6
    # Every fifth of the page has content, and there are colors beside the black of letters.
    assert all(part.any() for part in is_drawn.reshape(5, -1))
    assert (picture.max(axis=2) - picture.min(axis=2) > 0.3).mean() > 0.005


def test_the_page_prints(full_report, chromium, tmp_path):
    pdf = tmp_path / "page.pdf"
    chromium(full_report, "--no-pdf-header-footer", f"--print-to-pdf={pdf}")
    content = pdf.read_bytes()
    assert content.startswith(b"%PDF")
    assert 4 <= len(re.findall(rb"/Type /Page\b", content)) <= 10
