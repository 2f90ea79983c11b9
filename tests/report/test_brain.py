import matplotlib
import nibabel
import numpy as np
import pytest
from matplotlib.colors import to_rgba

from titan_neuro.errors import ImageError, MetadataError
from titan_neuro.report.brain import map_values, plot_map, space_note, symmetric_limit
from titan_neuro.report.parcels import networks_of
from titan_neuro.report.reading import read_parcels
from titan_neuro.report.volumes import voxel_size_mm

SCHAEFER = [
    f"7Networks_{side}_{network}_{n}" for side in ("LH", "RH") for network in ("Vis", "Default") for n in (1, 2, 3)
]


@pytest.fixture
def write_volume(tmp_path):
    def write(data, affine, stat="skillar"):
        path = tmp_path / f"task-movie_stat-{stat}_desc-titanmacH1_statmap.nii.gz"
        nibabel.Nifti1Image(np.asarray(data, np.float32), affine).to_filename(path)
        return path

    return write


@pytest.fixture
def write_parcels(tmp_path):
    def write(labels, values, stat="r2"):
        path = tmp_path / f"task-movie_stat-{stat}_desc-arH1_statmap.tsv"
        rows = [f"{label}\t{value}" for label, value in zip(labels, values, strict=True)]
        path.write_text("\n".join(["parcel\tvalue", *rows]) + "\n", encoding="utf-8")
        return path

    return write


def overlays(figure):
    """Layers of the map itself: what is drawn above the template."""
    for axes in figure.axes:
        for image in axes.images:
            if image.cmap.name in {"RdBu_r", "viridis"}:
                yield axes, image


def test_voxels_are_drawn_as_they_are(coarse_mask, write_volume):
    inside = coarse_mask.get_fdata() > 0
    values = np.where(np.indices(inside.shape).sum(axis=0) % 2, 0.05, -0.02)
    figure = plot_map(write_volume(np.where(inside, values, np.nan), coarse_mask.affine), {"Space": "MNI"}, "x")
    drawn = np.concatenate([np.ma.compressed(image.get_array()) for _, image in overlays(figure)])
    assert set(np.unique(drawn)) == set(np.float32([-0.02, 0.05]))
    assert all(image.get_interpolation() == "nearest" for _, image in overlays(figure))


def test_the_template_is_not_as_white_as_zero(coarse_mask, write_volume):
    inside = coarse_mask.get_fdata() > 0
    figure = plot_map(write_volume(np.where(inside, 0.0, np.nan), coarse_mask.affine), {"Space": "MNI"}, "x")
    zero = next(image.cmap(image.norm(0.0))[0] for _, image in overlays(figure))
    others = {image for _, image in overlays(figure)}
    template = [image for axes in figure.axes for image in axes.images if image not in others]
    brightest = max(float(image.cmap(image.norm(image.get_array().max()))[0]) for image in template)
    assert template and brightest < zero - 0.15


def test_without_a_note_nothing_is_left_blank(coarse_mask, write_volume):
    path = write_volume(np.where(coarse_mask.get_fdata() > 0, 0.1, np.nan), coarse_mask.affine)
    with_note, without = (plot_map(path, {"Space": "MNI"}, "x", note=note) for note in (True, False))
    assert without.get_figheight() < with_note.get_figheight()
    sizes = [
        [axes.get_position().height * figure.get_figheight() for axes in figure.axes[:2]]
        for figure in (with_note, without)
    ]
    np.testing.assert_allclose(*sizes)


@pytest.mark.parametrize("flip", [1, -1])
def test_a_voxel_lies_where_its_coordinates_say(write_volume, flip):
    affine = np.diag([12.0 * flip, 12, 12, 1])
    affine[:3, 3] = [-60 * flip, -90, -60]
    data = np.full((11, 14, 11), np.nan)
    world = np.array([-36.0, 30.0, 24.0])
    data[tuple(np.round(np.linalg.solve(affine[:3, :3], world - affine[:3, 3])).astype(int))] = 0.1
    figure = plot_map(write_volume(data, affine), {"Space": "native"}, "x")
    centers = []
    for _, image in overlays(figure):
        array, (left, right, bottom, top) = image.get_array(), image.get_extent()
        rows, columns = np.nonzero(~np.ma.getmaskarray(array))
        x = left + (columns + 0.5) * (right - left) / array.shape[1]
        assert image.origin == "upper"
        y = top - (rows + 0.5) * (top - bottom) / array.shape[0]
        centers.append((x.mean(), y.mean()))
    # One axial slice (x, y) and one sagittal slice (y, z): the map has one layer either way.
    np.testing.assert_allclose(centers, [(-36, 30), (30, 24)], atol=1)


@pytest.mark.parametrize("n_voxels", [1, 2, 3])
def test_a_mask_of_a_few_voxels(write_volume, n_voxels):
    data = np.full((4, 4, 4), np.nan)
    data[range(n_voxels), range(n_voxels), range(n_voxels)] = 0.1
    oblique = nibabel.affines.from_matvec(15 * nibabel.eulerangles.euler2mat(0.3, 0.2, 0.1), [-30, -40, -20])
    figure = plot_map(write_volume(data, oblique), {"Space": "native"}, "x")
    assert len(list(overlays(figure))) == 2 * n_voxels


@pytest.mark.parametrize("n_letters", [20, 80, 101, 150])
def test_a_title_fits_the_picture(n_letters, coarse_mask, write_volume):
    title = ("lost without any history " * 7)[:n_letters].strip()
    figure = plot_map(write_volume(coarse_mask.get_fdata(), coarse_mask.affine, "lost"), {"Space": "MNI"}, title)
    figure.draw_without_rendering()
    [text] = [text for text in figure.texts if text.get_text().replace("\n", " ") == title]
    box = text.get_window_extent()
    assert box.x1 <= figure.bbox.width and box.y1 <= figure.bbox.height
    assert box.y0 >= 0.92 * figure.bbox.height


def test_the_scale_is_symmetric_and_can_be_shared(coarse_mask, write_volume):
    data = np.where(coarse_mask.get_fdata() > 0, 0.08, np.nan)
    path = write_volume(data, coarse_mask.affine)
    for limit, expected in ((None, 0.08), (0.5, 0.5)):
        norms = {(image.norm.vmin, image.norm.vmax) for _, image in overlays(plot_map(path, {}, "x", limit=limit))}
        assert norms == {(-expected, expected)}


def test_a_timescale_is_drawn_on_a_logarithmic_scale(coarse_mask, write_volume):
    inside = coarse_mask.get_fdata() > 0
    seconds = np.where(np.indices(inside.shape)[0] % 2, 2.0, 128.0)
    path = write_volume(np.where(inside, seconds, np.nan), coarse_mask.affine, stat="timescale")
    figure = plot_map(path, {"Space": "native"}, "x")
    drawn = np.concatenate([np.ma.compressed(image.get_array()) for _, image in overlays(figure)])
    np.testing.assert_allclose(np.unique(drawn), [1, 1 + np.log(64)], rtol=1e-6)
    assert [label.get_text() for label in figure.axes[-1].get_xticklabels()] == ["2", "128"]


def test_an_intrinsic_timescale_has_colors_from_zero(coarse_mask, write_volume):
    data = np.where(coarse_mask.get_fdata() > 0, 8.0, np.nan)
    figure = plot_map(write_volume(data, coarse_mask.affine, stat="intrinsic"), {"Space": "MNI"}, "x")
    assert {(image.norm.vmin, image.norm.vmax) for _, image in overlays(figure)} == {(0, 8)}
    assert figure.axes[-1].get_xlabel() == "intrinsic timescale (s)"


def test_the_picture_names_its_space(coarse_mask, write_volume):
    data = np.where(coarse_mask.get_fdata() > 0, 0.08, np.nan)
    figure = plot_map(write_volume(data, coarse_mask.affine), {"Space": "native"}, "a <title>")
    words = " ".join(text.get_text() for text in figure.texts).replace("\n", " ")
    assert "a <title>" in words
    assert "not registered" in words


@pytest.mark.parametrize(
    ("space", "words"),
    [("MNI152NLin2009cAsym", "over the MNI152 template"), ("native", "not registered"), ("T1w", "in the space T1w")],
)
def test_space_note(space, words):
    assert words in space_note({"Space": space})


def test_values_are_those_of_the_mask(coarse_mask, write_volume):
    inside = coarse_mask.get_fdata() > 0
    values = np.random.default_rng(1).normal(size=inside.shape).astype(np.float32)
    path = write_volume(np.where(inside, values, np.nan), coarse_mask.affine)
    np.testing.assert_array_equal(np.sort(map_values(path)), np.sort(values[inside]))
    assert voxel_size_mm(path) == 12


def test_zero_inside_the_mask_is_a_value(coarse_mask, write_volume):
    inside = coarse_mask.get_fdata() > 0
    path = write_volume(np.where(inside, 0.0, np.nan), coarse_mask.affine)
    assert map_values(path).size == inside.sum()
    drawn = [np.ma.compressed(image.get_array()) for _, image in overlays(plot_map(path, {}, "x"))]
    assert all(values.size for values in drawn)
    np.testing.assert_allclose(np.concatenate(drawn), 0, atol=1e-8)


def test_zero_is_outside_in_an_image_without_nan(coarse_mask, write_volume):
    inside = coarse_mask.get_fdata() > 0
    assert map_values(write_volume(np.where(inside, 0.3, 0.0), coarse_mask.affine)).size == inside.sum()


def test_symmetric_limit_is_the_99th_percentile():
    assert symmetric_limit(np.linspace(-1, 0.5, 100_001)) == pytest.approx(
        np.round(np.quantile(np.abs(np.linspace(-1, 0.5, 100_001)), 0.99), 2)
    )


@pytest.mark.parametrize(("fill", "message"), [(np.nan, "no value"), (0.0, "no value")])
def test_refuses_an_empty_map(coarse_mask, write_volume, fill, message):
    with pytest.raises(ImageError, match=message):
        plot_map(write_volume(np.full(coarse_mask.shape, fill), coarse_mask.affine), {}, "x")


def test_refuses_a_timescale_of_zero(coarse_mask, write_volume):
    data = np.where(coarse_mask.get_fdata() > 0, 2.0, np.nan)
    data[tuple(np.argwhere(np.isfinite(data))[0])] = 0
    with pytest.raises(ImageError, match="expected timescales above 0 s, found 0 s"):
        plot_map(write_volume(data, coarse_mask.affine, stat="timescale"), {}, "x")


def test_refuses_what_is_no_image(tmp_path):
    path = tmp_path / "task-movie_stat-r2_desc-arH1_statmap.nii.gz"
    path.write_bytes(b"not gzip")
    with pytest.raises(ImageError, match="can't be read"):
        plot_map(path, {}, "x")


def test_refuses_four_dimensions(write_volume):
    with pytest.raises(ImageError, match=r"expected a map of 3 dimensions, found the shape \(3, 3, 3, 2\)"):
        plot_map(write_volume(np.ones((3, 3, 3, 2)), np.eye(4)), {}, "x")


def test_refuses_a_name_without_a_statistic(tmp_path):
    with pytest.raises(MetadataError, match="stat-"):
        plot_map(tmp_path / "map.nii.gz", {}, "x")


def test_parcels_are_bars_in_atlas_order_and_sorted(write_parcels):
    values = [0.1, -0.2, 0.4, "n/a"]
    figure = plot_map(write_parcels([f"Schaefer200_{n:03d}" for n in range(4)], values), {"Space": "Schaefer200"}, "x")
    atlas, ranked = figure.axes
    assert [bar.get_height() for bar in atlas.patches[:3]] == [0.1, -0.2, 0.4]
    assert [bar.get_height() for bar in ranked.patches[:3]] == [0.4, 0.1, -0.2]


def test_parcels_of_named_networks_are_grouped(write_parcels):
    values = np.arange(12) / 10
    path = write_parcels(SCHAEFER, values)
    networks = networks_of(read_parcels(path))
    assert networks["network"].tolist() == 2 * (3 * ["Vis"] + 3 * ["Default"])
    figure = plot_map(path, {}, "x")
    assert len(figure.axes) == 3
    assert [label.get_text() for label in figure.axes[2].get_xticklabels()] == ["Vis", "Default"]
    left, right = figure.axes[0].patches[0], figure.axes[0].patches[-1]
    assert to_rgba(left.get_facecolor()) != to_rgba(right.get_facecolor())


@pytest.mark.parametrize("labels", [["LH_Vis_1", "Amygdala"], ["1", "2"], ["LH_1", "RH_1"]])
def test_other_labels_name_no_network(labels, write_parcels):
    assert networks_of(read_parcels(write_parcels(labels, [1, 2]))) is None


def test_timescales_of_parcels_have_a_logarithmic_axis(write_parcels):
    figure = plot_map(write_parcels(SCHAEFER, 2.0 ** np.arange(12), stat="timescale"), {}, "x")
    assert {axes.get_yscale() for axes in figure.axes} == {"log"}
    tops = [bar.get_y() + bar.get_height() for bar in figure.axes[0].patches]
    np.testing.assert_allclose(tops, 2.0 ** np.arange(12))


def test_refuses_parcels_without_a_value(write_parcels):
    with pytest.raises(ImageError, match="no value"):
        plot_map(write_parcels(["a", "b"], ["n/a", "n/a"]), {}, "x")


def test_pyplot_does_not_register_a_map(coarse_mask, write_volume):
    from matplotlib import pyplot

    before = matplotlib.get_backend()
    plot_map(write_volume(np.where(coarse_mask.get_fdata() > 0, 0.08, np.nan), coarse_mask.affine), {}, "x")
    assert pyplot.get_fignums() == []
    assert matplotlib.get_backend() == before
