"""images: sources: a folder for each class, list files, and what is decoded."""

import numpy as np
import pytest
from PIL import Image

from runtime.data import DataConfig, Field, batches, open_data
from runtime.data.read_images import read_image
from runtime.errors import NetcError

COLOUR = Field("image", "u8", (3, 4, 6))
GREY = Field("image", "u8", (1, 4, 6))
LABEL = Field("sign", "i32", (), "label", 3)


def paint(path, colour, size=(6, 4), mode="RGB"):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new(mode, size, colour).save(path)


def load(folder, fields=(COLOUR, LABEL), source="images:.", **more):
    section = {"name": "signs", "source": source, "root": str(folder), "batch": 2} | more
    return open_data(DataConfig.from_json(section), fields)


def everything(data):
    part = data.part("train")
    return part.gather(range(len(part)))


def test_a_folder_for_each_class(tmp_path):
    paint(tmp_path / "stop" / "b.png", (255, 0, 0))
    paint(tmp_path / "stop" / "deeper" / "a.JPG", (0, 0, 0))
    paint(tmp_path / "go" / "z.ppm", (0, 255, 0))
    (tmp_path / "go" / "notes.txt").write_text("no image")
    (tmp_path / ".hidden").mkdir()
    data = load(tmp_path)
    got = everything(data)
    assert data.class_names == ("go", "stop") and got["sign"].tolist() == [0, 1, 1]
    assert got["image"].shape == (3, 3, 4, 6) and got["image"].dtype == np.uint8
    assert got["image"][0, :, 0, 0].tolist() == [0, 255, 0] and got["image"][1, :, 3, 5].tolist() == [255, 0, 0]


def test_numbered_folders_keep_their_order(tmp_path):
    for number in range(11):
        paint(tmp_path / str(number) / "a.png", (number, 0, 0))
    got = everything(load(tmp_path, (COLOUR, Field("sign", "i32", (1,), "label", 11))))
    assert got["sign"].tolist() == [[n] for n in range(11)] and got["image"][:, 0, 0, 0].tolist() == list(range(11))


def test_classes_of_the_section(tmp_path):
    paint(tmp_path / "a" / "1.png", 0)
    paint(tmp_path / "b" / "1.png", 0)
    assert everything(load(tmp_path, classes=["b", "x", "a"]))["sign"].tolist() == [2, 0]
    with pytest.raises(NetcError) as caught:
        load(tmp_path, classes=["b", "x", "y"])
    assert caught.value.code == "E0557" and caught.value.where.endswith("/a")


def test_list_file(tmp_path):
    paint(tmp_path / "my pictures" / "one.png", (9, 9, 9))
    paint(tmp_path / "two.png", (7, 7, 7))
    (tmp_path / "list.txt").write_text("# path label\nmy pictures/one.png left\n\ntwo.png\tright\n")
    data = load(tmp_path, source="images:list.txt")
    got = everything(data)
    assert got["sign"].tolist() == [0, 1] and data.class_names == ("left", "right")
    assert got["image"][:, 0, 0, 0].tolist() == [9, 7]
    (tmp_path / "list.txt").write_text("two.png 2\n")
    assert everything(load(tmp_path, source="images:list.txt"))["sign"].tolist() == [2]


def test_without_a_label(tmp_path):
    paint(tmp_path / "a.png", (1, 2, 3))
    assert everything(load(tmp_path, (COLOUR,)))["image"][0, :, 0, 0].tolist() == [1, 2, 3]


def test_conversion(tmp_path):
    paint(tmp_path / "a.png", (100, 100, 100, 50), mode="RGBA", size=(12, 8))
    assert (read_image(tmp_path / "a.png", GREY) == 100).all()
    paint(tmp_path / "g.png", 33, mode="L")
    assert (read_image(tmp_path / "g.png", COLOUR) == 33).all()
    floats = read_image(tmp_path / "g.png", Field("image", "f32", (4, 6)))
    assert floats.dtype == np.float32 and floats.shape == (4, 6) and (floats == 33).all()
    Image.fromarray(np.full((4, 6), 0x8000, np.uint16)).save(tmp_path / "deep.png")
    assert (read_image(tmp_path / "deep.png", GREY) == 0x80).all()


def test_pixels_are_not_mirrored_or_turned(tmp_path):
    pixels = np.arange(4 * 6 * 3, dtype=np.uint8).reshape(4, 6, 3)
    image = Image.fromarray(pixels)
    image.save(tmp_path / "a.png")
    assert (read_image(tmp_path / "a.png", COLOUR) == pixels.transpose(2, 0, 1)).all()
    exif = Image.Exif()
    exif[0x0112] = 3  # turned by 180 degrees
    image.save(tmp_path / "b.png", exif=exif)
    assert (read_image(tmp_path / "b.png", COLOUR) == pixels[::-1, ::-1].transpose(2, 0, 1)).all()


def test_resize_is_bilinear(tmp_path):
    Image.fromarray(np.array([[0, 200]], np.uint8)).save(tmp_path / "a.png")
    got = read_image(tmp_path / "a.png", Field("image", "u8", (1, 1, 4)))
    assert got.ravel().tolist() == [0, 50, 150, 200]


def test_a_damaged_image_is_named_when_its_batch_is_asked_for(tmp_path):
    paint(tmp_path / "a" / "1.png", 0)
    noise = np.random.default_rng(0).integers(0, 255, (64, 64, 3), dtype=np.uint8)
    Image.fromarray(noise).save(tmp_path / "a" / "2.png")
    whole = (tmp_path / "a" / "2.png").read_bytes()
    for content in (b"", b"text", whole[:len(whole) // 2], whole[:200] + b"\0" * 50 + whole[250:]):
        (tmp_path / "a" / "2.png").write_bytes(content)
        data = load(tmp_path)
        assert len(data.part("train")) == 2
        for prefetch in (0, 2):
            with pytest.raises(NetcError) as caught:
                list(batches(data.part("train"), 1, shuffle=False, seed=0, epoch=0, prefetch=prefetch))
            assert caught.value.code == "E0558" and caught.value.where.endswith("a/2.png")


def test_an_image_that_went_away(tmp_path):
    paint(tmp_path / "a" / "1.png", 0)
    data = load(tmp_path)
    (tmp_path / "a" / "1.png").unlink()
    with pytest.raises(NetcError) as caught:
        everything(data)
    assert caught.value.code == "E0552"


def test_too_large_an_image_is_refused(tmp_path, monkeypatch):
    paint(tmp_path / "a.png", 0, size=(100, 100))
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 1000)
    with pytest.raises(NetcError) as caught:
        read_image(tmp_path / "a.png", GREY)
    assert caught.value.code == "E0558"


def test_mistakes_in_folders_and_lists(tmp_path):
    def refused(code, says="", source="images:d", fields=(COLOUR, LABEL), **more):
        with pytest.raises(NetcError) as caught:
            load(tmp_path, fields, source, **more)
        assert caught.value.code == code and says in str(caught.value), caught.value

    refused("E0552", "folder or list file")
    (tmp_path / "d").mkdir()
    refused("E0560", "folder of a class")
    refused("E0560", "no image", fields=(COLOUR,))
    (tmp_path / "d" / "a").mkdir()
    refused("E0560", "d/a")
    for name in "abcd":
        paint(tmp_path / "d" / name / "1.png", 0)
    refused("E0557", "has 4")
    refused("E0555", fields=(Field("x", "f32", (64,)), LABEL))
    refused("E0555", fields=(Field("x", "f32", (4, 8, 8)), LABEL))
    refused("E0554", fields=(COLOUR, GREY, LABEL))
    refused("E0554", fields=(COLOUR, Field("y", "f32", (), "label")))
    refused("E0554", feed={"image": "a"})
    for text, code, says in [("d/a/1.png\n", "E0553", ":1"), ("d/a/1.png 0\nd/a/9.png 0\n", "E0552", ":2"),
                             ("d/a/1.png 0\nd/b/1.png 3\n", "E0557", ":2"), ("# none\n", "E0560", "no image")]:
        (tmp_path / "l.txt").write_text(text)
        refused(code, says, source="images:l.txt")
    (tmp_path / "l.txt").write_bytes(b"\xff\xfe\x00 1\n")
    refused("E0553", source="images:l.txt")
