"""SAFREE: tokens that pull a prompt toward the concept are projected off the concept's subspace; no training.

Paper       Yoon et al., ICLR 2025 (arXiv 2410.12761)
Code        jaehong31/SAFREE (its SD 1.4 path)
Formula     C = summaries of the concept's phrases as columns, M = summaries of the prompt with token i overwritten,
            P_X = X (X'X)^+ X'.  Token i is a trigger if d_i >= (1 + alpha) mean of the other d, where
            d_i = ||(I - P_C) m_i||.  A trigger's row p becomes (I - P_C) P_I p; all other rows stay.
Filter      the new rows act during the first steps i <= t' only, t' = 10 sigmoid(2 k (10 b - t0)), where b is the mean
            of 1 - cos(p, (I - P_C) P_I p) over the rows that are read: a prompt far from the concept is let go early
Touches     the user's half of the text (tokens and pooled embedding), and, as the released code does, the negative
            half: the concept's words are its negative prompt at every step. Without classifier-free guidance
            there is no negative half, and only the projection acts.
Cost        none per step; per call a text-encoder pass over the phrases, and over as many copies of each prompt as
            it has tokens
Differs     * The summary of a text is the row of its end token, found by id (never as the largest id, which is what
              transformers' pooled output takes it for where a configuration is old), as the denoiser reads it. On
              SD 1.x that is the released code's pooled output, up to 75 tokens. Of a longer prompt that code cuts the
              end token off: what is pooled then is the start token's row, which no token changes, so all distances are
              equal and nothing is filtered. Here the end token stays, and the 75 tokens that are read are tested. On
              SDXL and SD3 the summary joins the CLIP encoders.
            * The rows of each text encoder are filtered by themselves (SD3 has two kinds); the summary of one that is
              not CLIP is the mean of its rows. So is the pooled embedding of SDXL, SD3 and FLUX, which would otherwise
              carry the concept past the filter.
            * t' is scaled by steps / 50 (``scale_steps=False``: absolute), and counts the pipeline's own steps.
            * ``order = "paper"`` projects in the printed order, P_I (I - P_C) p; ``filtering = "paper"`` has
              t' = 10 sigmoid(b), ``"off"`` filters at every step.
            * Latent re-attention as the paper describes it (``re_attention=True``; UNets only): where the filtered
              prompt's skip features are larger than the original's at low frequencies, they are multiplied by s < 1.
              The released code only adds a third branch to the batch for it, which changes nothing; by default there
              is none. It costs two passes per step.
            * Directions of a span below ``cutoff`` = 1e-3 of its largest singular value are left out: there float32 has
              noise. The released code inverts X'X in float32 with PyTorch's default cut-off of 1e-15, which leaves
              nothing out (``cutoff=0``: the whole span, in float64).
Published   (``SAFREE.as_published()``) alpha .01, t' <= 10 of 50 steps whatever the sampler has, the whole span; for
            artists k 3.5 and t0 5.5
A prompt of one token has nothing to compare it with: the token is taken for a trigger, as in the released code.
A prompt without tokens has none. Prompts as embeddings are refused: their tokens cannot be left out one by one.
"""

from __future__ import annotations

from .attention import damp
from .guard import SAFREE
from .subspace import basis, projector, residuals, summaries, triggers

__all__ = ["SAFREE", "basis", "damp", "projector", "residuals", "summaries", "triggers"]
