"""Composition of parts into whole jobs: pretrain, fine-tune, evaluate. No mathematics here."""
