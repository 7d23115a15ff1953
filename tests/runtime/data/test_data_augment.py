"""Each augmentation against its meaning, with draws of our own; and the table against wrong arguments."""

import numpy as np
import pytest

from runtime.data import AUGMENTATIONS, Augment, Field
from runtime.data.augment import _draws, augment_batch, check_augment, complete_args
from runtime.errors import NetcError

IMAGES = np.random.default_rng(3).uniform(0, 255, (2, 3, 5, 5)).astype(np.float32)


def apply(op, draws, images=IMAGES, **args):
    """draws: the numbers that the first call of draw gives, for every image."""
    step = complete_args(Augment(op, args))
    return AUGMENTATIONS[op].apply(images.copy(), lambda n: np.tile(np.array(draws[:n]), (len(images), 1)), step)


def test_crop_shifts():
    assert (apply("crop", [0.5, 0.5], pad=2) == IMAGES).all()
    got = apply("crop", [0.0, 0.99], pad=2)  # window at the top right of the padded image
    want = np.zeros_like(IMAGES)
    want[:, :, 2:, :3] = IMAGES[:, :, :3, 2:]
    assert (got == want).all()


def test_flip():
    assert (apply("flip", [0.4]) == IMAGES[..., ::-1]).all()
    assert (apply("flip", [0.6]) == IMAGES).all()
    assert (apply("flip", [0.4], direction="vertical") == IMAGES[:, :, ::-1]).all()


def test_jitter():
    np.testing.assert_allclose(apply("jitter", [1.0, 0.5], amount=0.2), IMAGES * 1.2, rtol=1e-5)
    mean = IMAGES.mean(axis=(1, 2, 3), keepdims=True)
    np.testing.assert_allclose(apply("jitter", [0.5, 0.0], amount=0.2), mean + (IMAGES - mean) * 0.8, rtol=1e-4)


def test_rotate():
    np.testing.assert_allclose(apply("rotate", [0.5], degrees=90), IMAGES, atol=1e-3)
    quarter = apply("rotate", [1.0], degrees=90)
    assert any(np.allclose(quarter, np.rot90(IMAGES, k, (2, 3)), atol=1e-3) for k in (1, 3))
    np.testing.assert_allclose(apply("rotate", [0.0], degrees=180), IMAGES[:, :, ::-1, ::-1], atol=1e-3)
    wide = np.ones((1, 1, 4, 8), np.float32)
    turned = apply("rotate", [1.0], wide, degrees=90)
    assert turned.shape == wide.shape and (turned[..., :2] == 0).all() and np.allclose(turned[..., 2:6], 1)


def test_erase():
    got = apply("erase", [0.0, 0.5], size=2)  # centre (0, 2.5): rows -1 and 0, columns 2 and 3
    want = IMAGES.copy()
    want[:, :, 0:1, 2:4] = 0
    assert (got == want).all()


def test_noise_is_normal():
    field = Field("image", "f32", (1, 100, 100))
    arrays = {"image": np.full((8, 1, 100, 100), 10, np.float32)}
    augment_batch(arrays, (field,), [Augment("noise", {"std": 3})], 1, 2, np.arange(8))
    values = arrays["image"]
    assert abs(values.mean() - 10) < 0.05 and abs(values.std() - 3) < 0.05
    assert abs((np.abs(values - 10) < 3).mean() - 0.6827) < 0.01
    assert len({tuple(v.ravel()[:3]) for v in values}) == 8


def test_integers_are_clipped_not_wrapped():
    field = Field("image", "u8", (1, 4, 4))
    for value in (0, 255):
        arrays = {"image": np.full((64, 1, 4, 4), value, np.uint8)}
        augment_batch(arrays, (field,), [Augment("noise", {"std": 20})], 0, 0, np.arange(64))
        assert arrays["image"].dtype == np.uint8 and (np.abs(arrays["image"].astype(int) - value) < 128).all()
        assert (arrays["image"] != value).any()


def test_draws_are_uniform_and_independent():
    draws = _draws(5, 0, np.arange(4000), 0)(5)
    assert draws.shape == (4000, 5) and (draws >= 0).all() and (draws < 1).all()
    assert np.abs(draws.mean(axis=0) - 0.5).max() < 0.03 and np.abs(draws.var(axis=0) - 1 / 12).max() < 0.01
    assert np.abs(np.corrcoef(draws.T) - np.eye(5)).max() < 0.07
    for other in (_draws(6, 0, np.arange(4000), 0), _draws(5, 1, np.arange(4000), 0), _draws(5, 0, np.arange(4000), 1)):
        assert abs(np.corrcoef(draws[:, 0], other(1)[:, 0])[0, 1]) < 0.07


def test_a_second_call_goes_on():
    draw = _draws(1, 2, np.arange(3), 0)
    first, second = draw(2), draw(3)
    assert (np.hstack([first, second]) == _draws(1, 2, np.arange(3), 0)(5)).all()


def test_two_image_inputs_change_alike_and_others_stay():
    fields = (Field("left", "u8", (1, 4, 4)), Field("right", "f32", (1, 4, 4)), Field("v", "f32", (3,)),
              Field("mask", "u8", (1, 4, 4), "label"))
    image = np.arange(5 * 16, dtype=np.uint8).reshape(5, 1, 4, 4)
    arrays = {"left": image.copy(), "right": image.astype(np.float32), "v": np.ones((5, 3), np.float32),
              "mask": image.copy()}
    augment_batch(arrays, fields, [Augment("crop", {"pad": 2}), Augment("flip")], 0, 0, np.arange(5))
    assert (arrays["left"] == arrays["right"]).all() and (arrays["left"] != image).any()
    assert (arrays["v"] == 1).all() and (arrays["mask"] == image).all()


@pytest.mark.parametrize("op, args", [
    ("crp", {"pad": 1}), ("crop", {}), ("crop", {"pad": 0}), ("crop", {"pad": 1.5}), ("crop", {"padding": 1}),
    ("crop", {"pad": True}), ("crop", {"pad": 9}), ("flip", {"direction": "up"}), ("jitter", {"amount": -0.1}),
    ("jitter", {"amount": 2}), ("rotate", {"degrees": 400}), ("noise", {"std": float("nan")}), ("noise", {"std": "1"}),
    ("erase", {"size": 9}),
])
def test_wrong_augmentations(op, args):
    with pytest.raises(NetcError) as caught:
        check_augment([Augment(op, args)], [Field("image", "u8", (1, 8, 8))])
    assert caught.value.code == "E0561"


def test_augment_needs_an_image():
    check_augment([], [Field("x", "f32", (4,))])
    with pytest.raises(NetcError) as caught:
        check_augment([Augment("flip")], [Field("x", "f32", (4,))])
    assert caught.value.code == "E0561"


def test_the_table_is_whole():
    for name, augmentation in AUGMENTATIONS.items():
        assert augmentation.meaning and augmentation.parameters
        for parameter in augmentation.parameters:
            assert parameter.kind in ("int", "float", "word") and parameter.meaning
            assert bool(parameter.words) == (parameter.kind == "word")
