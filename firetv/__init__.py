"""Context-aware, social and group recommendation for TV.

A :class:`~firetv.slate.Slate` flows; every stage turns a slate into a slate; a score is an
additive ledger of named parts.
"""
