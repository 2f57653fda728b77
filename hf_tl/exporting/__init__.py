"""Export of a trained model to a file that runs without hf_tl, transformers and timm (ONNX, torch.export, …)."""
