"""The network of picto's judge: a small residual CNN on pixels. It shares no weights with the generator."""

from __future__ import annotations

import torch
from torch import nn

WIDTHS = (24, 48, 96, 192)
STYLE_WIDTHS = (32, 64, 96, 128)


class Block(nn.Module):
    """conv-BN-ReLU-conv-BN plus a 1×1 shortcut; halves the image."""

    def __init__(self, cin: int, cout: int) -> None:
        super().__init__()
        self.a, self.na = nn.Conv2d(cin, cout, 3, 2, 1, bias=False), nn.BatchNorm2d(cout)
        self.b, self.nb = nn.Conv2d(cout, cout, 3, 1, 1, bias=False), nn.BatchNorm2d(cout)
        self.skip = nn.Conv2d(cin, cout, 1, bias=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = self.nb(self.b(self.na(self.a(x)).relu()))
        return (y + self.skip(nn.functional.avg_pool2d(x, 2))).relu()


class Trunk(nn.Module):
    """A stem and one block for every further width; each halves the image."""

    def __init__(self, widths: tuple[int, ...]) -> None:
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(3, widths[0], 5, 2, 2, bias=False), nn.BatchNorm2d(widths[0]), nn.ReLU())
        self.blocks = nn.ModuleList(Block(a, b) for a, b in zip(widths[:-1], widths[1:], strict=True))

    def features(self, x: torch.Tensor) -> list[torch.Tensor]:
        """The maps after the stem and every block, at 32, 16, 8, 4 pixels for a 64-pixel image."""
        maps = [self.stem(x)]
        for block in self.blocks:
            maps.append(block(maps[-1]))
        return maps


class StyleNet(Trunk):
    """``(B, 3, 64, 64)`` in [-1, 1] → logits ``(B, styles)`` by texture, not shape: mean and spread of every map."""

    def __init__(self, styles: int) -> None:
        super().__init__(STYLE_WIDTHS)
        self.drop, self.out = nn.Dropout(0.1), nn.Linear(2 * sum(STYLE_WIDTHS), styles)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        maps = self.features(x)
        return self.out(self.drop(torch.cat([m.mean((2, 3)) for m in maps] + [m.flatten(2).std(2) for m in maps], 1)))


class JudgeNet(Trunk):
    """``(B, 3, 64, 64)`` in [-1, 1] → logits of subjects ``(B, subjects)`` and of styles ``(B, styles)``.

    Two networks: a subject is to be known whatever its palette, a style by just that.
    """

    def __init__(self, *, subjects: int, styles: int) -> None:
        super().__init__(WIDTHS)
        self.drop, self.subject = nn.Dropout(0.1), nn.Linear(WIDTHS[-1], subjects)
        self.style = StyleNet(styles)

    def subjects(self, x: torch.Tensor) -> torch.Tensor:
        return self.subject(self.drop(self.features(x)[-1].mean((2, 3))))

    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        return self.subjects(x), self.style(x)
