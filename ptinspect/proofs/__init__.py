"""Proofs: is the optimizer state consistent, is a conversion the same model, can training resume?"""
