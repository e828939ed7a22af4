"""The Python-based Triton backend ``onnxruntime``: ``model.py`` runs inside Triton, not here."""
