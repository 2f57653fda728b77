"""A head from class names: two-tower models (CLIP, SigLIP), their image towers as timm networks, their text towers."""
