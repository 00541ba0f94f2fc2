"""Which base model a run was trained on: a hash of its files, or its commit on the hub."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

from vlmbench.backbones.border import explain_missing
from vlmbench.system import threads
from vlmbench.system.files import hash_file, write_whole
from vlmbench.system.threads import map_ahead

# The files that answers depend on: weights, configuration, processor, tokenizer, template.
PATTERNS = ("*.safetensors", "*.json", "*.jinja", "*.model", "merges.txt", "vocab.txt")
CACHE = "base_models.json"  # in cache_dir: hashes by path, time and size of a file


def base_hash(path: str, revision: str, cache_dir: Path) -> str:
    """Return the identity of a model's folder or hub name.

    A folder gives the SHA-256 of its files. A file that has not changed is not read again. A name
    gives its commit; config.json is downloaded for it if it is not on this machine.
    """
    folder = Path(path)
    return _folder_hash(folder, cache_dir) if folder.is_dir() else _commit(path, revision)


def _folder_hash(folder: Path, cache_dir: Path) -> str:
    known = _read(cache_dir / CACHE)
    keys = {}
    for file in sorted({file for pattern in PATTERNS for file in folder.glob(pattern)}):
        facts = file.stat()
        keys[file] = f"{file.resolve()} {facts.st_mtime_ns} {facts.st_size}"

    digest, fresh = hashlib.sha256(), {}
    hashes = map_ahead(
        lambda file: known.get(keys[file]) or hash_file(file), keys, ahead=threads.count()
    )
    for file, content in zip(keys, hashes, strict=True):
        fresh[keys[file]] = content
        digest.update(f"{file.name} {content}\n".encode())

    if not fresh.keys() <= known.keys():
        cache_dir.mkdir(parents=True, exist_ok=True)
        write_whole(cache_dir / CACHE, json.dumps(known | fresh, indent=1))
    return f"sha256 {digest.hexdigest()}"


def _read(path: Path) -> dict[str, str]:
    try:
        known = json.loads(path.read_bytes())
    except (OSError, ValueError, RecursionError):
        return {}
    if not isinstance(known, dict):
        return {}
    return {str(key): value for key, value in known.items() if isinstance(value, str)}


def download(name: str, revision: str) -> str:
    """Return the folder of a name on the hub at a revision; files that are here are not fetched."""
    from huggingface_hub import snapshot_download

    try:
        return snapshot_download(name, revision=revision, allow_patterns=list(PATTERNS))
    except (OSError, ValueError) as error:
        raise explain_missing(error, name) from error


def _commit(name: str, revision: str) -> str:
    from transformers.utils import cached_file
    from transformers.utils.hub import extract_commit_hash

    try:
        file = cached_file(name, "config.json", revision=revision or None)
    except (OSError, ValueError) as error:
        raise explain_missing(error, name) from error
    return f"commit {extract_commit_hash(file, None)}"
