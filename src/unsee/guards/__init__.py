"""Guards: defenses that act while an image is made. One file a method, or a folder."""
