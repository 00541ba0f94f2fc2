"""Write the tables of the page "Benchmarks" from bench/results/."""

from __future__ import annotations

from typing import Any

import verdict_tables
from figures import find_row
from results import device, link, number, percent, read, table

TRAINING = {
    "training-pair-560": "Llama-3.2-11B, 560 pixels, 200 images",
    "training-pair-560-12694": "Llama-3.2-11B, 560 pixels, 12,694 images: too many for the GPU",
    "training-pair-560-20000": "Llama-3.2-11B, 560 pixels, 20,000 images: some on disk",
    "training-pair-560-4bit": "Llama-3.2-11B, 560 pixels, 200 images, `model.bits=4` or 16",
    "training-pair-1120": "Llama-3.2-11B, 1120 pixels, 4 tiles an image",
    "training-pair-560-lora-transformers": "Llama-3.2-11B, 560 pixels, `trainer.vision=lora`",
    "training-pair-336x4": "Phi-3-vision, 4 tiles an image",
}
CODES = {
    "ours": "vlmbench",
    "ours_4bit": "vlmbench, 4 bits",
    "unsloth": "Unsloth's notebook recipe",
    "trl": "TRL and PEFT as documented",
}
WAYS = {
    "labels, kept tokens": "score labels, stored tokens",
    "generated, kept tokens": "generate an answer, stored tokens",
    "labels, pixels": "score labels, from pixels",
}


def pages() -> dict[str, str]:
    """Return the text of each generated table by its file name."""
    return {
        "training.md": _training(),
        "engines.md": _engines(),
        "parallel.md": _parallel(),
        "answering.md": _answering(),
        "starting.md": _starting(),
        "whole.md": _whole(),
        "phases.md": _phases(),
        **verdict_tables.pages(),
        "robustness.md": _robustness(),
        "leaks.md": _leaks(),
        "false_leaks.md": _false_leaks(),
        "machines.md": _machines(),
    }


def _training() -> str:
    rows = []
    for name, meaning in TRAINING.items():
        for row in read(name)["rows"]:
            if row["side"] in CODES and not row["error"]:
                speed, memory = number(row["samples_per_s"]), number(row["peak_gb"])
                code = CODES[row["side"]]
                rows.append((meaning, code, row["batch"], speed, memory, link(name)))
    header = ("model and data", "code", "records a step", "samples/s", "peak GB", "result")
    return table(header, rows)


def _engines() -> str:
    rows = [
        (
            {"transformers": "transformers", "unsloth": "Unsloth"}[row["engine"]],
            "yes" if row["checkpointing"] else "no",
            row["batch"],
            number(row["samples_per_s"]),
            number(row["peak_gb"]),
        )
        for row in read("phi3_engines")["rows"]
        if row.get("samples_per_s")
    ]
    header = ("engine", "gradient checkpointing", "records a step", "samples/s", "peak GB")
    return table(header, rows)


def _parallel() -> str:
    rows = [
        (row["processes"], row["batch"], number(row["samples_per_s"]))
        for row in read("parallel-pair-560")["rows"]
    ]
    return table(("GPUs", "records a step", "samples/s"), rows)


def _answering() -> str:
    name = "evaluation-pair-560"
    rows = [
        (
            WAYS.get(row["way"], row["way"]),
            row["batch"],
            number(row["records_per_s"]),
            number(row["peak_gb"]),
        )
        for row in read(name)["rows"]
    ]
    return table(("task", "batch", "records/s", "peak GB"), rows)


def _starting() -> str:
    startup, sweep = read("startup-pair-560"), read("sweep-pair-560")
    runs = sweep.get("runs", sweep.get("cells"))
    first, *_, later = startup["starts_s"]
    encode = {
        "store-pair-560-encode": "encode one image of 560 pixels, Llama-3.2, from its file",
        "store-pair-336x4-encode": "encode one image of 4 tiles, Phi-3-vision, from its file",
    }
    rows = []
    for name, meaning in encode.items():
        speed = find_row(name, level="encoded")["images_per_s"]
        rows.append((meaning, f"{1000 / speed:.1f} ms", link(name)))
    rows += [
        ("a sweep's first run, until its first step", f"{first:.0f} s", link("startup-pair-560")),
        ("a later run of the sweep, the same", f"{later:.1f} s", link("startup-pair-560")),
        (
            f"a sweep of {runs} runs of {sweep['steps']} steps, start to report",
            f"{sweep['ours_seconds'] / 60:.0f} min",
            link("sweep-pair-560"),
        ),
        (
            f"the same as {runs} processes of Unsloth's notebook recipe, "
            f"all but {sweep['rows'][1]['measured_steps']} steps extrapolated",
            f"{sweep['unsloth_seconds_extrapolated'] / 3600:.1f} h",
            link("sweep-pair-560"),
        ),
    ]
    for name, model in (("export-pair-560", "Llama-3.2"), ("export-pair-336x4", "Phi-3-vision")):
        seconds = f"{read(name)['export_s']:.0f} s"
        rows.append(
            (f"export a trained {model} adapter, with its parity test", seconds, link(name))
        )
    return table(("step", "time", "result"), rows)


def _whole() -> str:
    rows = [
        (
            {"vlmbench": "vlmbench", "unsloth recipe": "Unsloth's notebook recipe"}[row["side"]],
            {"cold": "first", "warm": "second"}[row["state"]],
            f"{row['first_step_s']:.0f} s",
            f"{row['seconds']:,.0f} s",
        )
        for row in read("whole-560")["rows"]
    ]
    return table(("code", "process", "first step done", "end"), rows)


def _phases() -> str:
    cold, warm = (row["phases"] for row in read("whole-560")["rows"][:2])
    rows = [
        (name, f"{seconds:.1f} s", f"{warm.get(name, 0.0):.1f} s")
        for name, seconds in cold.items()
        if seconds >= 0.1
    ]
    return table(("phase", "first process", "second process"), rows)


def _robustness() -> str:
    faults, killed = read("faults"), read("killed")
    runs = killed.get("runs", killed.get("cells"))
    rows = [
        (
            f"{len(faults['rows'])} faults at random moments",
            f"{sum(row['held'] for row in faults['rows'])} of "
            f"{sum(row['tried'] for row in faults['rows'])} tries ended as without the fault",
            link("faults"),
        ),
        (
            f"a sweep of {len(runs)} runs, killed {len(killed['kills'])} times",
            f"{sum(run['same_predictions'] for run in runs)} of {len(runs)} runs "
            "have the predictions of the sweep that ran in peace",
            link("killed"),
        ),
    ]
    return table(("test", "outcome", "result"), rows)


def _leaks() -> str:
    rows = []
    for row in read("leaks")["pooled"]:
        error = _share(row, "near_duplicates", "low", "high")
        shown = _share(row, "with_perhaps_a_copy", "with_low", "with_high")
        rows.append((row["kind"], row["n"], error, shown))
    return table(("copy", "copies", "an error", "an error, or shown as perhaps a copy"), rows)


def _share(row: dict[str, Any], hits: str, low: str, high: str) -> str:
    """Return a share of a row's `n`, with its interval."""
    share = percent(row[hits] / row["n"], 0)
    return f"{share} ({percent(row[low], 0)} to {percent(row[high], 0)})"


def _false_leaks() -> str:
    result = read("leaks")
    rows = [
        (
            row["world"],
            row["n"],
            f"{row['near_duplicates']} (up to {percent(row['high'])})",
            f"{row['with_perhaps_a_copy']} (up to {percent(row['with_high'])})",
        )
        for row in result["false_alarms"]
    ]
    rows += [
        (
            "another pose of the same part",
            row["n"],
            f"{row['near_duplicates']} (up to {percent(row['high'])})",
            f"{row['with_perhaps_a_copy']} (up to {percent(row['with_high'])})",
        )
        for row in result["another_pose"]
    ]
    return table(("images", "number", "an error", "an error, or shown as perhaps a copy"), rows)


def _machines() -> str:
    names = [*TRAINING, "phi3_engines", "parallel-pair-560", "evaluation-pair-560"]
    names += ["startup-pair-560", "sweep-pair-560", "losses-pair-560", "export-pair-560"]
    names += ["export-pair-336x4", "statistics", "planted", "faults", "killed"]
    names += ["leaks", "whole-560", "store-pair-560-encode", "store-pair-336x4-encode"]
    rows = []
    for name in names:
        machine = read(name)["machine"]
        versions = machine["versions"]
        rows.append(
            (
                link(name),
                read(name)["date"],
                device(name),
                machine["cores"],
                versions["torch"],
                versions["transformers"],
            )
        )
    return table(("result", "date", "device", "cores", "torch", "transformers"), rows)
