"""The image embedding of Phi-3-vision, which turns images into tokens."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from transformers import CLIPVisionModel

from vlmbench.models.phi3_v.configuration_phi3_v import Phi3VConfig


class Phi3VImageEmbedding(nn.Module):
    """Turn images into tokens.

    The steps are: CLIP features of each tile, blocks of 2x2 features concatenated, `sub_GN` at the
    end of each row, and a projection.
    """

    def __init__(self, config: Phi3VConfig) -> None:
        super().__init__()
        vision, hidden_size = config.vision_config, config.text_config.hidden_size
        merged_size = 4 * vision.hidden_size
        self.tile_size = vision.image_size
        self.edge = vision.image_size // vision.patch_size
        layer = config.vision_feature_layer
        # Hidden states include the embedding, so a negative index counts one more than the layers.
        self.num_layers = layer if layer >= 0 else vision.num_hidden_layers + 1 + layer
        self.img_processor = nn.ModuleDict({"vision_model": CLIPVisionModel(vision)})
        self.glb_GN = nn.Parameter(torch.zeros(1, 1, merged_size))
        self.sub_GN = nn.Parameter(torch.zeros(1, 1, 1, merged_size))
        self.img_projection = nn.Sequential(
            nn.Linear(merged_size, hidden_size), nn.GELU(), nn.Linear(hidden_size, hidden_size)
        )

    def forward(
        self, pixel_values: Tensor, image_sizes: Tensor | Sequence[Sequence[int]]
    ) -> list[Tensor]:
        """Return N tensors (tokens, hidden), one for each image.

        `pixel_values` has the shape (N, crops, 3, tile, tile), `image_sizes` (N, 2) holds heights
        and widths in pixels.
        """
        grids = self._grids(image_sizes, max_tiles=pixel_values.shape[1] - 1)
        if len(grids) != len(pixel_values):
            raise ValueError(
                f"{len(pixel_values)} images in pixel_values, but {len(grids)} image_sizes"
            )

        used = [rows * columns + 1 for rows, columns in grids]
        crops = torch.cat([image[:count] for image, count in zip(pixel_values, used, strict=True)])
        features = self.encode(crops).to(self.sub_GN.dtype).split(used)

        sequences = [
            self._sequence(image, *grid) for image, grid in zip(features, grids, strict=True)
        ]
        tokens = self.img_projection(torch.cat(sequences))
        return list(tokens.split([len(sequence) for sequence in sequences]))

    def encode(self, crops: Tensor) -> Tensor:
        """Return CLIP's hidden state (crops, patches, channels) without the class token.

        `crops` has the shape (crops, 3, tile, tile). Later layers do not run. A frozen tower builds
        no autograd graph and is not checkpointed: nothing needs its gradients.
        """
        tower: CLIPVisionModel = self.img_processor["vision_model"]
        trained = crops.requires_grad or any(
            parameter.requires_grad for parameter in tower.parameters()
        )

        with torch.set_grad_enabled(trained and torch.is_grad_enabled()):
            hidden = tower.pre_layrnorm(tower.embeddings(crops))
            for layer in tower.encoder.layers[: self.num_layers]:
                # nn.Module.__call__ skips the checkpointing in transformers' layers.
                hidden = layer(hidden, None) if trained else nn.Module.__call__(layer, hidden, None)

        return hidden[:, 1:]

    def _grids(
        self, image_sizes: Tensor | Sequence[Sequence[int]], max_tiles: int
    ) -> list[tuple[int, int]]:
        sizes = image_sizes.tolist() if isinstance(image_sizes, Tensor) else image_sizes
        grids = []
        for height, width in sizes:
            rows, columns = height // self.tile_size, width // self.tile_size
            is_whole = (rows * self.tile_size, columns * self.tile_size) == (height, width)

            if not is_whole or not 0 < rows * columns <= max_tiles:
                raise ValueError(
                    f"image_sizes must be 1 to {max_tiles} whole tiles of {self.tile_size} pixels, "
                    f"got {height}x{width}; pass the image_sizes of these pixel_values"
                )
            grids.append((rows, columns))

        return grids

    def _sequence(self, features: Tensor, rows: int, columns: int) -> Tensor:
        """Return an image's tokens before the projection.

        The tiles as one large image come first, then `glb_GN`, then the whole view.
        """
        edge = self.edge
        whole = features[0].view(edge, edge, -1)
        tiles = features[1:].view(rows, columns, edge, edge, -1).transpose(1, 2)
        tiles = tiles.reshape(rows * edge, columns * edge, -1)

        return torch.cat([self._rows(tiles), self.glb_GN[0], self._rows(whole)])

    def _rows(self, features: Tensor) -> Tensor:
        """Return blocks of 2x2 features, row by row, `sub_GN` after each row.

        (H, W, C) -> (H/2 * (W/2 + 1), 4C).
        """
        height, width, channels = features.shape
        blocks = features.view(height // 2, 2, width // 2, 2, channels).transpose(1, 2)
        blocks = blocks.reshape(height // 2, width // 2, 4 * channels)

        ends = self.sub_GN[0].expand(height // 2, 1, -1)
        return torch.cat([blocks, ends], dim=1).flatten(0, 1)
