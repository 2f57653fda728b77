"""Phases of small runs: a run has 14 images and 4 images per step."""

from dataclasses import replace

from hf_tl.strategy import Phase
from hf_tl.tuning import LoRA

HEAD = Phase(1, 1, 0.05)
PLAIN = replace(HEAD, augmentation="none")
KEPT = replace(PLAIN, learning_rate=0.01, batch_norm="keep")
LONG = replace(PLAIN, epochs=2, batch_norm="keep")
PHASES = {
    # with 4 images per step: steps 1 to 4, 5 to 11 and 12 to 14; epochs end within batches and within phases
    "gradual": (HEAD, Phase(2, 2, 0.02, layer_decay=0.5), Phase(1, 1, 0.02, norm="adapt")),
    # independent of how a batch is split: all norms freeze their statistics
    "norms frozen": (HEAD, Phase(1, 2, 0.02, norm="affine"), HEAD),
    "averaged": (replace(HEAD, mixup=0.2, cutmix=1.0), Phase(2, 2, 0.02, ema_decay=0.9, balanced_sampling=True)),
    "patient": (Phase(1, 6, 1.0, patience=3),),
    # without augmentation, so that each can train on features
    "transfer": (PLAIN,),
    "finetune": (PLAIN, replace(PLAIN, trainable_stages=2, learning_rate=0.02)),
    "unfreezing": tuple(replace(KEPT, trainable_stages=stages) for stages in (1, 2, 3, "all")),
    "short": (PLAIN, replace(PLAIN, trainable_stages=2, epochs=1, learning_rate=0.02)),
    "kept": (PLAIN, replace(KEPT, trainable_stages=2)),
    "balanced": (replace(PLAIN, epochs=3, balanced_sampling=True),),
    "views": (replace(HEAD, epochs=2), Phase(2, 1, 0.02)),
    "full": (HEAD, Phase("all", 1, 0.01)),
    # stage depths of climbs: steps 1 to 7, 8 to 14 and 15 to 21
    "climb": (LONG, *(replace(LONG, trainable_stages=stages, learning_rate=0.005) for stages in (2, "all"))),
    "climb to random weights": (
        LONG,
        replace(LONG, trainable_stages="all", learning_rate=0.005),
        replace(LONG, trainable_stages="all", learning_rate=0.005, from_random_weights=True),
    ),
    "first rung": (LONG,),
    # at learning rates at which rounding errors do not grow
    "gentle climb": (replace(LONG, learning_rate=1e-3), Phase("all", 1, 1e-4, augmentation="none", batch_norm="keep")),
    "averaged climb": (PLAIN, Phase(2, 2, 0.01, batch_norm="keep", ema_decay=0.9), Phase(3, 4, 1e-5, patience=1)),
    "solved": (Phase(1, steps=1, solver="lbfgs"), Phase(2, 1, 0.02, batch_norm="keep")),
    "adapted": (
        HEAD,
        Phase(3, 2, 0.02, tuning=LoRA(2, dropout=0.1), ema_decay=0.9),
        Phase("all", 0.5, 0.02, tuning=LoRA(1, dora=True)),
    ),
    "adapted alone": (PLAIN, Phase(3, 2, 0.02, tuning=LoRA(2), augmentation="none")),
    "adapted climb": (PLAIN, *(Phase(k, 1, 1e-3, tuning=LoRA(2), augmentation="none") for k in (2, 3))),
    # all features of a run, with frozen statistics
    "all kept": (
        replace(HEAD, mixup=0.2),
        Phase(2, 1.5, 0.02, batch_norm="keep", layer_decay=0.5, ema_decay=0.9, class_weights="balanced"),
        Phase("all", 0.5, 0.01, batch_norm="keep"),
        Phase(1, 0.5, 0.02, norm="affine"),
    ),
}
