"""INE, implicit negative embedding: guidance away from an embedding learned from images, not from words.

Paper       Shin et al., "Prompt-Based Safety Guidance Is Ineffective for Unlearned Text-to-Image Diffusion Models",
            NeurIPS 2025 workshop (arXiv 2511.04834). No code was published.
Idea        a model that unlearned a concept no longer follows its words, so e(words) is near e(nothing) and guidance
            has nothing to subtract. The concept is still there for an embedding: ``embeddings.py`` finds it
            on the unlearned model, and it takes the words' place in a guidance method that stays as it was
Carriers    ``negative-prompt``  e_n = e(c*)
            ``sld``              e_S = e(c*), any preset
            ``safree``           ``replace = "subspace"``: C = the summary of c*; ``"cfg"``: its negative prompt is c*;
                                 ``"both"``. The paper does not say which; what is not replaced keeps the words
Cost        that of the carrier on words: c* is encoded once per generation, as a text is
Differs     * Trained alone, as it is used (``bare=0.5``: half of the examples as their own prompt, with the embedding
              for the concept's word). The paper does not print its templates, initial values and images.
            * picto's own budget (``fitting.PRESETS``): late times, a rate that falls to 0.
            * K* > 1 embeddings are trained one by one with different seeds. They are C's columns; as a negative they
              stand in one text, between commas.
            * ``start="words"`` (ours): an embedding for every thing of the concept (dagger, bomb, axe), which starts as
              its name, and SLD takes for each image the one nearest to what the denoiser reads. A list of them all
              costs harmless images as much as the words do (docs/log.md).
            * The user's own negative prompt is kept, behind c*, as ``negative_prompt.py`` does it.
c* is an attack artifact: prompted with it, the unlearned model draws the concept again. It is read as a negative
only: no tokenizer learns a word for it, and no text that a user writes can name it.
"""

from __future__ import annotations

from .fitting import Fitting, templates
from .guard import INE

__all__ = ["INE", "Fitting", "templates"]
