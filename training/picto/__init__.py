"""How the embedded picto models were made: data → tokenizer → clip → vae → unet → judge → evaluate.

Maintainers only; users get the finished weights with the package. Every stage resumes from its checkpoint:
``python -m training.picto.make --work runs/picto``.
"""
