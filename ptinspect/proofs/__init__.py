"""Proofs: does training go on from a file exactly as if nothing had happened?"""
