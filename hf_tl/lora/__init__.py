"""Low-rank adapters (LoRA): beside the layers of a model during a phase, and in a folder of their own."""
