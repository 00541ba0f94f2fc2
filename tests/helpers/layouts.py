"""Small folders in the layouts of published data sets, each photo unlike the others."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np
from PIL import Image

from tests.conftest import image

SIZE = (66, 60)
BOX = (6, 6, 12, 12)  # left, top, right, bottom in pixels: upper left


def photo(path: Path, seed: int) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    image(seed, SIZE).save(path)
    return path


def mask(path: Path, box: tuple[int, int, int, int] | None) -> Path:
    """Save a black mask with a white box."""
    path.parent.mkdir(parents=True, exist_ok=True)
    values = np.zeros(SIZE[::-1], np.uint8)
    if box:
        left, top, right, bottom = box
        values[top:bottom, left:right] = 255
    Image.fromarray(values).save(path)
    return path


def plain(root: Path, good: str = "good", bad: str = "bad", suffix: str = ".png") -> Path:
    """Save 16 good and 8 bad photos in two folders."""
    for i in range(16):
        photo(root / good / f"g{i}{suffix}", i)
    for i in range(8):
        photo(root / bad / f"b{i}{suffix}", 100 + i)
    return root


def voc(root: Path) -> Path:
    """JPEGImages/ and Annotations/: 16 photos without object, 8 with one."""
    for i in range(24):
        photo(root / "JPEGImages" / f"p{i}.jpg", i)
        _write(root / "Annotations" / f"p{i}.xml", voc_xml(f"p{i}.jpg", "scratch" if i < 8 else ""))
    return root


def voc_xml(name: str, word: str) -> str:
    left, top, right, bottom = BOX
    box = (
        f"<object><name>{word}</name><bndbox><xmin>{left}</xmin><ymin>{top}</ymin>"
        f"<xmax>{right}</xmax><ymax>{bottom}</ymax></bndbox></object>"
    )
    size = f"<size><width>{SIZE[0]}</width><height>{SIZE[1]}</height><depth>3</depth></size>"
    return f"<annotation><filename>{name}</filename>{size}{box if word else ''}</annotation>"


def yolo(root: Path) -> Path:
    """images/train and labels/train with data.yaml: 8 photos have a box, 8 an empty file."""
    for i in range(24):
        photo(root / "images" / "train" / f"p{i}.jpg", i)
        if i < 16:
            line = "1 0.14 0.15 0.09 0.1\n" if i < 8 else ""
            _write(root / "labels" / "train" / f"p{i}.txt", line)
    _write(root / "data.yaml", "names: [dent, scratch]\nnc: 2\n")
    return root


def coco(root: Path) -> Path:
    """images/ and annotations/instances.json."""
    for i in range(24):
        photo(root / "images" / f"p{i}.jpg", i)
    left, top, right, bottom = BOX
    content = {
        "info": {},
        "images": [
            {"id": i, "file_name": f"p{i}.jpg", "width": SIZE[0], "height": SIZE[1]}
            for i in range(24)
        ],
        "annotations": [
            {
                "id": i,
                "image_id": i,
                "category_id": 3,
                "iscrowd": 0,
                "bbox": [left, top, right - left, bottom - top],
            }
            for i in range(8)
        ],
        "categories": [{"id": 3, "name": "scratch"}],
    }
    _write(root / "annotations" / "instances.json", json.dumps(content))
    return root


def kolektor(root: Path) -> Path:
    """kos01/Part0.jpg with kos01/Part0_label.bmp: the mask of 8 of 24 photos is not black."""
    for item in range(12):
        for part in range(2):
            number = 2 * item + part
            name = f"kos{item:02d}/Part{part}"
            photo(root / f"{name}.jpg", number)
            mask(root / f"{name}_label.bmp", BOX if number < 8 else None)
    return root


def magnetic_tile(root: Path) -> Path:
    """MT_Free/Imgs and MT_Blowhole/Imgs: photos as jpg, masks as png with the same name."""
    for i in range(24):
        kind = "MT_Blowhole" if i < 8 else "MT_Free"
        name = f"exp1_num_{i}"
        photo(root / kind / "Imgs" / f"{name}.jpg", i)
        mask(root / kind / "Imgs" / f"{name}.png", BOX if i < 8 else None)
    return root


def elpv(root: Path) -> Path:
    """images/cell0001.png and labels.csv without header: the probability of a defect."""
    lines = []
    for i in range(28):
        name = f"images/cell{i:04d}.png"
        photo(root / name, i)
        likely = (0.0, 0.0, 1.0, 0.0)[i % 4] if i < 24 else 0.3333333333333333
        lines.append(f"{name}  {likely}  mono")
    _write(root / "labels.csv", "\n".join(lines) + "\n")
    return root


def deeppcb(root: Path) -> Path:
    """PCBData/group00041/00041/00041000_temp.jpg, _test.jpg, boxes in 00041_not/, and the lists."""
    lists: dict[str, list[str]] = {"trainval.txt": [], "test.txt": []}
    for i in range(24):
        group = f"{41 + i // 2:05d}"
        folder = root / "PCBData" / f"group{group}"
        name = f"{group}{i:03d}"
        photo(folder / group / f"{name}_temp.jpg", i)
        photo(folder / group / f"{name}_test.jpg", 100 + i)
        left, top, right, bottom = BOX
        line = f"{left} {top} {right} {bottom} 2\n" if i % 3 else ""
        _write(folder / f"{group}_not" / f"{name}.txt", line)
        target = "test.txt" if i % 4 == 0 else "trainval.txt"
        base = f"group{group}/{group}"
        lists[target].append(f"{base}/{name}.jpg {base}_not/{name}.txt")
    for name, lines in lists.items():
        _write(root / "PCBData" / name, "\n".join(lines) + "\n")
    return root


def visa(root: Path) -> Path:
    """candle/Data/Images/Normal and Anomaly with Data/Masks/Anomaly."""
    data = root / "candle" / "Data"
    for i in range(16):
        photo(data / "Images" / "Normal" / f"{i:03d}.JPG", i)
    for i in range(8):
        photo(data / "Images" / "Anomaly" / f"{i:03d}.JPG", 100 + i)
        mask(data / "Masks" / "Anomaly" / f"{i:03d}.png", BOX)
    return root


LAYOUTS: Mapping[str, Callable[[Path], Path]] = {
    "voc": voc,
    "yolo": yolo,
    "coco": coco,
    "kolektor": kolektor,
    "magnetic_tile": magnetic_tile,
    "elpv": elpv,
    "deeppcb": deeppcb,
    "visa": visa,
    "plain": plain,
}


def _write(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")
