"""Exported models, run by their own runtimes; for ONNX neither torch nor transformers are needed."""
