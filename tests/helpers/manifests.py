"""Rows of a manifest that are not valid."""

from __future__ import annotations

SPOILT = {
    "an unknown label": (
        lambda row: row.update(label="ng", answer="ng"),
        "label 'ng' is not one of normal, abnormal",
    ),
    "an unknown task": (lambda row: row.update(task="judge"), "one of judge_pair, compare_views,"),
    "an unknown key": (lambda row: row.update(colour="red"), "colour"),
    "a missing key": (lambda row: row.pop("group"), "group"),
    "a number for an id": (lambda row: row.update(id=5), "id"),
    "an empty id": (lambda row: row.update(id=""), "id ''"),
    "a control character in the group": (lambda row: row.update(group="a\u001b[31m"), "group"),
    "a repeated id": (
        lambda row: row.update(id="0-bad"),
        "id '0-bad' is already in line 2",
    ),
    "an answer without its label": (
        lambda row: row.update(answer="a scratch"),
        "put the label first",
    ),
    "no images": (lambda row: row.update(images=[]), "takes 2 images, the row has 0"),
    "too many images": (lambda row: row.update(images=row["images"] * 2), "the row has 4"),
    "two references": (
        lambda row: row["images"][1].update(role="reference"),
        "the reference, then the query",
    ),
    "an unknown role": (
        lambda row: row["images"][1].update(role="probe"),
        "one of reference, query",
    ),
    "an absolute path": (
        lambda row: row["images"][0].update(path="/etc/passwd"),
        "'/etc/passwd' leaves",
    ),
    "a path upwards": (
        lambda row: row["images"][0].update(path="img/../../x.png"),
        "leaves the data's folder",
    ),
    "a path with backslashes": (
        lambda row: row["images"][0].update(path="..\\x.png"),
        "has backslashes",
    ),
    "an empty path": (
        lambda row: row["images"][0].update(path=""),
        "empty or has control characters",
    ),
    "an unknown view": (
        lambda row: row["images"][0].update(view="xray"),
        "view 'xray' is not one of raw",
    ),
    "an unknown split": (
        lambda row: row.update(split="dev"),
        "'dev' - at `$.split`, which must be one of train, val, test",
    ),
    "a question of a megabyte": (
        lambda row: row.update(question="why " * 2000),
        "the limit is 4000",
    ),
}
