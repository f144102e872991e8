"""What ends PPO in one line: before any training, at a score that is not finite, where nothing is learnt."""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from peft import PeftModel
from transformers import PreTrainedModel

from rlhf.data.errors import DataError
from rlhf.models.reward_model import RewardModel
from rlhf.models.template import Row, as_row
from rlhf.rl.config import PPOConfig
from rlhf.rl.rewards import Reward
from rlhf.training.checkpoints import last_checkpoint

if TYPE_CHECKING:
    from rlhf.rl.rollouts import Rollout

# Nats a response token, the mean of an update: token after token the policy says what the reference gives a
# chance of 1 in 150. Where PPO learns something it is below 1.
MOST_KL = 5.0
_EMPTY = 0.9  # share of responses without a token before their end, from which on nothing is said any more


def check_policy(policy: Any, reference: Any, peft_config: Any) -> PreTrainedModel:
    """Refuse a policy that is no language model, and a reference that learns with it.

    Returns:
        the model of transformers, without the `peft` model around it.
    """
    adapted = isinstance(policy, PeftModel)
    model = policy.get_base_model() if adapted else policy
    if not isinstance(model, PreTrainedModel) or model.get_output_embeddings() is None:
        raise DataError(
            f"the policy is a {type(model).__name__}; it must be a causal language model of transformers, "
            "or one with LoRA adapters on it"
        )
    if adapted and peft_config is not None:
        raise DataError("the policy has adapters already, which will learn: give no peft_config")
    if reference is not None and reference in (policy, model):
        raise DataError(
            "the reference is the policy itself, which learns; give a copy, or none to have one made"
        )
    return model


def prompt_rows(prompts: Any, tokenizer: Any) -> list[Row]:
    """Prompts as rows; refuse what is neither text, nor messages that the tokenizer has a template for."""
    if isinstance(prompts, str):
        raise DataError("the prompts are one text; give a list of texts")
    if not len(prompts):
        raise DataError("there are no prompts to train on")
    for i, prompt in enumerate(prompts):
        chat = isinstance(prompt, list) and all(isinstance(m, dict) and "content" in m for m in prompt)
        if chat and not tokenizer.chat_template:
            raise DataError(f"prompt {i} is chat messages and the tokenizer has no chat template")
        if not (isinstance(prompt, str) or chat or (isinstance(prompt, Mapping) and "prompt" in prompt)):
            raise DataError(
                f"prompt {i} is a {type(prompt).__name__}; prompts are texts, lists of messages or rows with "
                "a `prompt` (of a dataset, one column: dataset['prompt'])"
            )
    return [prompt if isinstance(prompt, Mapping) else as_row(prompt) for prompt in prompts]


def check_roles(
    policy: Any,
    value: Any,
    rewards: Mapping[str, Reward],
    args: PPOConfig,
    ptx_texts: Sequence[str | Row],
    tokenizer: Any,
) -> None:
    """Refuse settings, value network and rewards that cannot work with this policy."""
    if tokenizer.pad_token_id is None or tokenizer.pad_token_id == tokenizer.eos_token_id:
        raise DataError("the tokenizer needs a pad token that differs from its EOS token")
    if not rewards:
        raise DataError("there is no reward to train on")
    if args.reward_weights and len(args.reward_weights) != len(rewards):
        raise DataError(f"there are {len(rewards)} rewards and {len(args.reward_weights)} reward_weights")
    if args.ptx_coef and not len(ptx_texts):
        raise DataError("ptx_coef is above 0 and there are no ptx_texts")
    if args.value_warmup and value is None:
        raise DataError("value_warmup needs a value network of its own: a value head would move the policy")
    scorers = {name: r.model if isinstance(r, RewardModel) else r for name, r in rewards.items()}
    if isinstance(value, PreTrainedModel) and any(value is model for model in scorers.values()):
        raise DataError("the value network is the reward model itself, which is frozen; give a copy")
    for name, model in {"value": value, **{f"reward ({name})": r for name, r in scorers.items()}}.items():
        if isinstance(model, PreTrainedModel) and (
            model.config.num_labels != 1 or not hasattr(model, "score")
        ):
            raise DataError(
                f"the {name} model is a {type(model).__name__} with {model.config.num_labels} labels; "
                "it must be a sequence-classification model with one"
            )
    for name, model in {"value": value, **{f"reward ({name})": r for name, r in rewards.items()}}.items():
        if isinstance(model, PreTrainedModel) and model.config.vocab_size != policy.config.vocab_size:
            raise DataError(
                f"the {name} model has a vocabulary of {model.config.vocab_size}, the policy one of "
                f"{policy.config.vocab_size}; give a reward with another tokenizer as RewardModel"
            )


def check_processes(args: PPOConfig, processes: int, *, fsdp: bool, fsdp2: bool, adapters: bool) -> None:
    """Refuse more processes than a mini-batch has episodes, and FSDP as PPO cannot use it."""
    episodes = args.batch_size // args.num_mini_batches
    if episodes < processes:
        raise DataError(f"a mini-batch of {episodes} episodes is fewer than {processes} processes")
    if fsdp and (adapters or not fsdp2):
        raise DataError("PPO under FSDP needs `fsdp_version: 2` and no peft_config (LoRA)")


def check_room(context: int, response_length: int) -> int:
    """The tokens that the context leaves for a prompt; refuse responses that leave none."""
    if context - response_length < 1:
        raise DataError(
            f"a response of {response_length} tokens leaves no room for a prompt in the context of {context}"
        )
    return context - response_length


def check_lengths(rows: Sequence[Sequence[int]], first: int, room: int, context: int) -> None:
    """Refuse encoded prompts, the first of them number `first`, that have no tokens or too many."""
    for i, row in enumerate(rows, first):
        if not row:
            raise DataError(f"prompt {i} has no tokens")
        if len(row) > room:
            raise DataError(
                f"prompt {i} has {len(row)} tokens; the context of {context} leaves room for {room}: "
                f"set max_prompt_length to {room} to cut its start, or leave it out"
            )


def check_score(
    score: float, reward: str, prompt: str, response: str, update: int, checkpoints: str | None
) -> None:
    """Stop the training at a score that is not finite.

    Args:
        checkpoints: the folder of the run's checkpoints.

    Raises:
        DataError: it names update, prompt, response and the checkpoint to go back to.
    """
    if math.isfinite(score):
        return
    raise DataError(
        f"update {update}: the reward {reward} is {score} for the prompt {prompt!r} and the response "
        f"{response!r}; mend the reward, or leave such prompts out; {_back(checkpoints)}"
    )


def check_rollout(rollout: Rollout, stops: Collection[int], args: PPOConfig, judged: bool) -> None:
    """Stop the training where its episodes show that going on is of no use.

    Args:
        stops: the ids that end a response.
        judged: whether a reward model is among the rewards: it says a different number of each response,
            unless it is broken, where a function may well find nothing to reward in the first updates.

    Raises:
        DataError: it names the update, the likely cause, what to change and the checkpoint to go back to.
    """
    figures, scores = rollout.figures, rollout.scores
    responses = [row[start:] for row, start in zip(rollout.rows, rollout.starts, strict=True)]
    empty = sum(len(response) == 1 and response[0] in stops for response in responses) / len(responses)
    same = len(set(map(tuple, responses))) > 1 and bool((scores == scores[0]).all())
    update, kl = int(figures["update"]), figures["objective/kl"]
    a_token = kl / figures["val/response_length"]
    if a_token > MOST_KL:
        why = (
            f"the policy has run away from its reference, with a KL of {kl:.0f} nats a response, "
            f"{a_token:.1f} a token: raise kl_coef ({args.kl_coef:g} now), set kl_target, or lower "
            f"learning_rate ({args.learning_rate:g} now)"
        )
    elif empty > _EMPTY and update == 1:
        why = (
            f"{empty:.0%} of the responses are empty before anything is learnt, so the policy that training "
            "starts from answers nothing: train it longer, or on demonstrations that say something"
        )
    elif empty > _EMPTY:
        why = (
            f"{empty:.0%} of the responses are empty, so the reward prefers silence: raise kl_coef "
            f"({args.kl_coef:g} now), lower learning_rate ({args.learning_rate:g} now), or add a reward for "
            "length"
        )
    elif same and judged and update == 1:
        why = (
            f"all responses have the same score, {figures['objective/scores']:g}, so there is nothing to "
            "learn: train the reward model on more comparisons with a preference, or give another reward"
        )
    else:
        return
    raise DataError(f"update {update}: {why}; {_back(args.output_dir)}")


def _back(checkpoints: str | None) -> str:
    back = last_checkpoint(Path(str(checkpoints)))
    return f"the checkpoint to go back to is {back}" if back else "there is no checkpoint to go back to"
