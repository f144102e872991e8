"""What the rewards of `rlhf.rl.trainer.PPOTrainer` say of sampled episodes."""

from __future__ import annotations
