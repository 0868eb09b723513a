"""A model as one file that needs no vaex: its encoder, decoder, reconstruction, attention maps or score.

Imports nothing, so that `vaex.exporting.batches` serves where torch is not installed.
"""
