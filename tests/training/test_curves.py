"""Figures whose axes fit what they show."""

import matplotlib
import numpy as np
import pytest

from partoken_jax.training.curves import draw_curves, plot_curves

matplotlib.use("Agg")


def record(epoch, stage=0, loss=1.0, clusters=True, codes=0):
    classification = {"accuracy": 0.5, "macro_f1": 0.4, "majority_share": 0.3}
    clustering = {"codes_used": codes, "perplexity": codes / 2, "coverage": 0.6} if clusters else None
    return {
        "epoch": epoch,
        "stage": stage,
        "train": {"cross_entropy": loss},
        "validation": {
            "cross_entropy": 1.0,
            "classification": classification,
            "clustering": clustering,
        },
    }


def drawn(runs):
    """The axes of a figure as it is saved."""
    figure = draw_curves(runs)
    figure.canvas.draw()
    return figure.axes


@pytest.mark.parametrize("epochs", [1, 2, 3, 4, 5, 8, 13, 30, 150])
def test_ticks_are_whole_epochs_of_the_run(epochs):
    for axes in drawn({"partoken": [record(1 + i) for i in range(epochs)]}):
        low, high = axes.get_xlim()
        ticks = [tick for tick in axes.get_xticks() if low <= tick <= high]
        assert ticks == [round(tick) for tick in ticks]
        assert 1 <= len(ticks) <= 11 and ticks[0] >= 1 and ticks[-1] <= epochs


def test_a_single_epoch_shows_a_point():
    loss, scores, *_ = drawn({"gvp": [record(1, clusters=False)]})
    for line in (*loss.lines, *scores.lines[:2]):
        assert line.get_marker() == "o" and len(line.get_xdata()) == 1


def test_a_loss_over_decades_is_drawn_on_a_logarithmic_axis():
    for losses, scale in ([2.0, 1.0, 0.5], "linear"), ([5.0, 0.5, 0.01], "log"), ([5.0, 0.0], "linear"):
        loss, *_ = drawn({"gvp": [record(1 + i, loss=x) for i, x in enumerate(losses)]})
        assert loss.get_yscale() == scale


def test_legends_cover_nothing():
    runs = {name: [record(1 + i, i > 2, codes=9 * (i > 2)) for i in range(6)] for name in ("one", "two")}
    for axes in drawn(runs):
        legend, frame = axes.get_legend().get_window_extent(), axes.get_window_extent()
        assert legend.y0 >= frame.y1
        whole = axes.figure.bbox
        assert legend.x0 >= whole.x0 and legend.x1 <= whole.x1 and legend.y1 <= whole.y1


def test_codes_begin_with_the_codebook():
    *_, codes, _ = drawn({"partoken": [record(1 + i, i > 2, codes=9 * (i > 2)) for i in range(6)]})
    for line in codes.lines[:2]:
        np.testing.assert_array_equal(line.get_xdata(), [4, 5, 6])


def test_a_run_keeps_its_colour():
    runs = {"gvp": [record(1, clusters=False)], "partoken": [record(1, stage=1, codes=3)]}
    loss, _, codes, residues = drawn(runs)
    assert loss.lines[2].get_color() == codes.lines[0].get_color() == residues.lines[0].get_color()


def test_the_picture_is_a_png(tmp_path):
    plot_curves({"gvp": [record(1, clusters=False)]}, tmp_path / "curves.png")
    assert (tmp_path / "curves.png").read_bytes()[:4] == b"\x89PNG"
