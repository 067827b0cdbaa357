"""Encoders and generators behind two interfaces, pretrained or made here."""
