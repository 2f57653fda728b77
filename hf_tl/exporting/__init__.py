"""A trained model as a file that runs without hf_tl, transformers and timm: ONNX, TorchScript, torch.export."""
