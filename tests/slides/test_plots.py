import matplotlib.pyplot as plt
import numpy as np
import pytest

from mil_tutorial import ParameterError, draw_patches, open_slide, show_images, show_patches
from mil_tutorial.trident import read_patches


@pytest.fixture
def slide(data, tumor_slide):
    """Path, patches and the side of a patch."""
    patches = read_patches(data.trident_dir / "patches" / f"{tumor_slide}_patches.h5")
    yield data.slide_path(tumor_slide), patches, patches.geometry.patch_size_level0
    plt.close("all")


@pytest.mark.slow
def test_a_contact_sheet(slide):
    path, patches, side = slide
    figure = show_patches(path, patches.coords[:11], side, labels=[1] + [0] * 9 + [-1])
    titles = [(axis.get_title() or axis.get_title(loc="left")) for axis in figure.axes if axis.get_visible()]
    assert titles[0] == "0: tumour" and titles[1] == "1: normal" and titles[10] == "10: unknown"


def test_an_open_slide_stays_open(slide):
    path, patches, side = slide
    with open_slide(path) as opened:
        show_patches(opened, patches.coords[:1], side, captions=["$ 5"])
        assert np.array_equal(draw_patches(opened, patches.coords, side), draw_patches(path, patches.coords, side))
        assert opened.read_region((0, 0), 0, (1, 1)).size == (1, 1)


def test_a_thumbnail_shows_the_patches_in_their_places(slide):
    path, patches, side = slide
    plain = draw_patches(path, np.empty((0, 2)), side)
    drawn = draw_patches(path, patches.coords[:1], side, labels=[1])
    y, x = np.nonzero((drawn != plain).any(2))
    scale = patches.geometry.width / plain.shape[1]
    assert abs(x.min() * scale - patches.coords[0, 0]) < 2 * scale and abs(np.ptp(x) * scale - side) < 3 * scale


@pytest.mark.parametrize("function", [show_patches, draw_patches])
@pytest.mark.parametrize(
    "parameter,value",
    [
        ("labels", [1, 0]),
        ("labels", [2]),
        ("labels", ["tumour"]),
        ("labels", [float("nan")]),
        ("coords", [[0, float("nan")]]),
        ("coords", [[0, 1, 2]]),
        ("coords", "all"),
        ("patch_size_level0", 0),
        ("patch_size_level0", float("nan")),
        ("patch_size_level0", "1024"),
        ("slide", None),
    ],
)
def test_what_cannot_be_drawn_is_refused_by_name(slide, function, parameter, value):
    given = {"slide": slide[0], "coords": [[0, 0]], "patch_size_level0": slide[2]} | {parameter: value}
    with pytest.raises(ParameterError, match=f"^{parameter}: found "):
        function(**given)


@pytest.mark.parametrize("contour", [[1, 2, 3], [[0, 0], [float("nan"), 1]], "all of it"])
def test_contours_that_are_no_outlines_are_refused(slide, contour):
    with pytest.raises(ParameterError, match=r"^contours: found "):
        draw_patches(slide[0], [[0, 0]], slide[2], contours=[contour])


@pytest.mark.parametrize("option,value", [("columns", 0), ("px", 0), ("px", 1.5), ("captions", ["a", "b"])])
def test_a_contact_sheet_refuses_its_options_and_leaves_no_figure(slide, option, value):
    plt.close("all")
    with pytest.raises(ParameterError, match=f"^{option}: found "):
        show_patches(slide[0], [[0, 0]], slide[2], **{option: value})
    with pytest.raises(ParameterError, match="coords: found no patches"):
        show_patches(slide[0], np.empty((0, 2)), slide[2])
    assert not plt.get_fignums()


def test_images_side_by_side():
    gray, color = np.zeros((10, 20), np.uint8), np.zeros((30, 20, 3), np.uint8)
    axes = show_images([gray, color], ["a", "b"], width=4)
    assert [axis.get_title() for axis in axes] == ["a", "b"]
    assert axes[0].figure.get_size_inches().tolist() == pytest.approx([4, 4 / 2 * 1.5 + 0.4])
    plt.close("all")
    for parameter, images, titles, options in [
        ("images", [], [], {}),
        ("images", ["a.png"], ["a"], {}),
        ("images", [np.zeros((4, 4, 7))], ["a"], {}),
        ("titles", [gray], ["a", "b"], {}),
        ("width", [gray], ["a"], {"width": 0}),
        ("height", [gray], ["a"], {"height": float("nan")}),
    ]:
        with pytest.raises(ParameterError, match=f"^{parameter}: found "):
            show_images(images, titles, **options)
    assert not plt.get_fignums()
