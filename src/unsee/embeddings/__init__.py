"""Concept inversion: the input embedding that makes a frozen model draw a concept, learned from images of it.

Papers      Gal et al., ICLR 2023 (arXiv 2208.01618); against erased models: Pham et al., ICLR 2024 (2308.01508);
            as a negative: Shin et al., 2025 (2511.04834), see ``guards/ine.py``
Formula     c* = argmin E ||y - f(x_t, t, c)||², y the true prediction of the noised image, in the model's own kind
            (noise, v, x0 or velocity), t uniform. With ``guided = w`` the guards of the host act too:
            e_u + w (y - e_u) against what the guarded sampler combines (the adaptive attack)
Touches     nothing: the new rows are spliced into the text encoders' lookup while we encode, and are the only
            parameters. No table is resized, no tokenizer learns a word, other threads read what they always read
Cost        one denoiser pass with gradients per step; images are encoded once
Differs     * Adam without weight decay, and no learning rate scaled by the batch (Pham's effective rate is .08).
            * Where Pham's guided target takes the concept's words for e_p, ours takes the image: an unlearned
              model does not follow the words, and in expectation both are the same on one that does.
            * One row per text encoder, trained together, where a family has several.

An embedding that is trained here redraws what was unlearned: it is an attack artifact. Keep it out of prompts.
"""

from __future__ import annotations

from .inversion import STARTS, TEMPLATES, TIMES, Guided, Inversion, invert, latents_of
from .placeholders import (
    Rows,
    Text,
    encode,
    encode_ids,
    input_table,
    pairs,
    spell,
    thing_rows,
    token_rows,
    vocabulary,
    word_rows,
)

__all__ = [
    "STARTS",
    "TEMPLATES",
    "TIMES",
    "Guided",
    "Inversion",
    "Rows",
    "Text",
    "encode",
    "encode_ids",
    "invert",
    "latents_of",
    "input_table",
    "pairs",
    "spell",
    "thing_rows",
    "token_rows",
    "vocabulary",
    "word_rows",
]
