"""The only place that draws: a sampler, the denoiser by itself, bits that do not depend on the batch, loading."""
