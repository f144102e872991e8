"""Sampling for several clients at once: one thread that owns the model takes a step for each in turn.

A request is a batch of its own: all of its choices advance together, and no other request is in its batch. So
its text follows from the request and its seed alone, whoever else is asking; a batch shared between clients
would be faster under load and round differently each time.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field

import torch

from flows.serving.growing_text import GrowingText
from rlhf.models.policy import Policy
from rlhf.models.sampling import check_sampling, draw_tokens, sampled_tokens
from rlhf.models.template import Row
from rlhf.models.thinking import left_open
from tasks.runtime.errors import printable


class Busy(RuntimeError):
    """As many requests wait as may."""


@dataclass(frozen=True)
class Question:
    """What to sample.

    Attributes:
        rows: what each choice answers, several choices of one prompt next to each other.
        prompts: its ids.
        longest: the most tokens of an answer.
        temperature: 0 is greedy.
        top_p: the share of the probability from which tokens are drawn; 1 is all of it. See `nucleus`.
        seed: of the noise; choice i of k has the noise that `generate` gives row i of k.
        stops: strings that end an answer besides the policy's own tokens.
    """

    rows: Sequence[Row]
    prompts: Sequence[Sequence[int]]
    longest: int
    temperature: float
    top_p: float = 1.0
    seed: int = 0
    stops: Sequence[str] = ()


@dataclass(frozen=True)
class Piece:
    """A piece of a choice's text; the last one has a `reason`, `stop` or `length`, and how many `tokens`."""

    choice: int
    text: str
    reason: str | None = None
    tokens: int = 0


class Broken(RuntimeError):
    """Sampling failed; the message is for the client."""


Event = Piece | Broken


@dataclass
class Job:
    """A question that waits or is answered; `cancel` ends it, and nothing more is delivered."""

    question: Question
    deliver: Callable[[Event], None]
    steps: Iterator[tuple[torch.Tensor, torch.Tensor]] = field(default_factory=lambda: iter(()))
    texts: list[GrowingText] = field(default_factory=list)
    left: set[int] = field(default_factory=set)  # choices that have not ended
    cancelled: bool = False

    def cancel(self) -> None:
        """Forget it; its thread notices before the next step."""
        self.cancelled = True


class Engine:
    """A policy and the thread that samples from it.

    Attributes:
        answered: steps taken so far.
        idle: whether nothing is asked.

    Args:
        policy: stays where it is; nobody else may use it meanwhile.
        at_once: requests that are answered at the same time, each with a cache of its own; others wait.
        waiting: requests that may wait.

    Raises:
        DataError: this kind of model cannot be sampled.
    """

    def __init__(self, policy: Policy, at_once: int = 8, waiting: int = 64) -> None:
        check_sampling(policy.model)
        self.policy, self.at_once, self.waiting = policy, at_once, waiting
        self.answered = 0  # steps taken
        self.idle = True
        self._queue: deque[Job] = deque()
        self._changed = threading.Condition()
        self._closed = False
        # A tokenizer is one object with a state: two threads that use it at once break it.
        self._tokenizer = threading.Lock()
        self._thread = threading.Thread(target=self._work, name="sampling", daemon=True)
        self._thread.start()

    def prompt(self, row: Row) -> list[int]:
        """Ids of a prompt as the policy was trained to read it.

        Raises:
            DataError: the template or the tokenizer refuses it, or it is as long as the context.
        """
        with self._tokenizer:
            return self.policy.template.prompt(row)

    def ask(self, question: Question, deliver: Callable[[Event], None]) -> Job:
        """Queue a question; `deliver` is called from the engine's thread with each piece of the answers.

        Raises:
            Busy: too many wait already, or the server is stopping.
        """
        job = Job(question, deliver)
        with self._changed:
            if self._closed or len(self._queue) >= self.waiting:
                raise Busy("too many requests wait already; try again in a moment")
            self._queue.append(job)
            self._changed.notify()
        return job

    def close(self) -> None:
        """Stop sampling and end the thread; what is not answered stays so."""
        with self._changed:
            self._closed = True
            self._changed.notify()
        self._thread.join()

    def _work(self) -> None:
        active: list[Job] = []
        while True:
            with self._changed:
                while not (active or self._queue or self._closed):
                    self.idle = True
                    self._changed.wait()
                self.idle = False
                if self._closed:
                    return
                while self._queue and len(active) < self.at_once:
                    active.append(self._queue.popleft())
            active = [job for job in active if self._step(job)]

    def _step(self, job: Job) -> bool:
        """One token for each choice of a job; returns whether it goes on."""
        if job.cancelled:
            return False
        try:
            if not job.texts:
                self._begin(job)
            rows, tokens = next(job.steps)
            with self._tokenizer:
                pieces = [
                    piece
                    for choice, token in zip(rows.tolist(), tokens.tolist(), strict=True)
                    if choice in job.left and (piece := self._piece(job, choice, token))
                ]
        except Exception as error:  # whatever it is, the thread must live on for the other requests
            print(f"a request failed: {type(error).__name__}: {printable(str(error))}", flush=True)
            job.deliver(Broken("the model could not answer this request"))
            return False
        self.answered += 1
        for piece in pieces:
            job.deliver(piece)
        return bool(job.left)

    def _begin(self, job: Job) -> None:
        question = job.question
        uniforms = torch.rand(
            len(question.prompts),
            question.longest,
            generator=torch.Generator().manual_seed(question.seed),
            dtype=torch.float64,
        ).to(self.policy.model.device)

        def draw(logits: torch.Tensor, rows: torch.Tensor, steps: torch.Tensor) -> torch.Tensor:
            if question.temperature and question.top_p < 1:
                logits = nucleus(logits, question.temperature, question.top_p)
            return draw_tokens(logits, question.temperature, uniforms[rows, steps])

        job.texts = [
            GrowingText(self.policy.template, row, question.stops, self._thinks(ids))
            for row, ids in zip(question.rows, question.prompts, strict=True)
        ]
        job.left = set(range(len(question.prompts)))
        job.steps = sampled_tokens(
            self.policy.model,
            question.prompts,
            stop=self.policy.stops,
            pad=self.policy.pad,
            longest=question.longest,
            draw=draw,
        )

    def _thinks(self, prompt: Sequence[int]) -> bool:
        """Whether a prompt ends inside of thinking."""
        with self._tokenizer:
            return left_open(self.policy.tokenizer.decode(prompt[-24:], skip_special_tokens=False))

    def _piece(self, job: Job, choice: int, token: int) -> Piece | None:
        """What a new token adds to a choice; None where nothing can be shown yet."""
        text = job.texts[choice]
        more = text.add(token)
        ended = token in self.policy.stops or text.stopped
        if not ended and len(text.ids) < job.question.longest:
            return Piece(choice, more) if more else None
        job.left.discard(choice)
        return Piece(choice, more + text.end(), "stop" if ended else "length", len(text.ids))


def nucleus(logits: torch.Tensor, temperature: float, top_p: float) -> torch.Tensor:
    """Logits [rows, vocabulary] with -inf outside the smallest set whose probability reaches `top_p`.

    Holtzman et al. 2020, "The Curious Case of Neural Text Degeneration". The likeliest token always stays.
    """
    chances, order = (logits / temperature).softmax(-1).sort(dim=-1, descending=True)
    before = chances.cumsum(-1) - chances  # what the likelier tokens have together
    outside = before >= top_p
    outside[:, 0] = False
    return logits.masked_fill(torch.zeros_like(outside).scatter(-1, order, outside), -torch.inf)
