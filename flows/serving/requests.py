"""Bodies of OpenAI's chat/completions and completions: checked, with the defaults of the evaluated policy.

A parameter that OpenAI's API does not have is refused, as OpenAI refuses it. One that it has and that would
change the text, but that is not there here, is refused unless its value changes nothing. What has no bearing
on the text (`user`, `metadata`, `service_tier`, ...) is accepted and has no effect.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError, model_validator

from rlhf.data.conversations import check_messages
from rlhf.data.errors import DataError

MOST_CHOICES = 128  # of a request, as OpenAI has it
LONGEST = 1 << 17  # tokens of an answer, whatever the context
# Accepted without effect: they change nothing about the text.
WITHOUT_EFFECT = (
    "user",
    "metadata",
    "service_tier",
    "safety_identifier",
    "prompt_cache_key",
    "prompt_cache_retention",
    "parallel_tool_calls",
)
# Of OpenAI's API and not here: only values that ask for nothing are accepted. null always is.
NOTHING: dict[str, tuple[Any, ...]] = {
    "audio": (),
    "best_of": (1,),
    "echo": (False,),
    "frequency_penalty": (0, 0.0),
    "function_call": ("none", "auto"),
    "functions": ([],),
    "logit_bias": ({},),
    "logprobs": (False,),
    "modalities": (["text"],),
    "prediction": (),
    "presence_penalty": (0, 0.0),
    "reasoning_effort": (),
    "response_format": ({"type": "text"},),
    "store": (False,),
    "suffix": ("",),
    "tool_choice": ("none", "auto"),
    "tools": ([],),
    "top_logprobs": (0,),
    "verbosity": (),
    "web_search_options": (),
}


class Refused(ValueError):
    """A request that is not answered, in the terms of OpenAI's errors.

    Args:
        message: what is wrong and what to do, in a line.
        param: the parameter that it is about.
        code: OpenAI's name of the error.
        status: of the HTTP response.
    """

    def __init__(
        self, message: str, param: str | None = None, code: str | None = None, status: int = 400
    ) -> None:
        super().__init__(message)
        self.param, self.code, self.status = param, code, status

    def body(self) -> dict[str, Any]:
        """OpenAI's error object."""
        kind = "invalid_request_error" if self.status < 500 and self.status != 429 else "server_error"
        kind = {401: "authentication_error", 429: "rate_limit_error"}.get(self.status, kind)
        return {"error": {"message": str(self), "type": kind, "param": self.param, "code": self.code}}


class Part(BaseModel):
    """A part of a request: nothing beyond its fields, and no value is turned into another type."""

    model_config = ConfigDict(extra="forbid", strict=True)


class StreamOptions(Part):
    """What a stream has besides the text."""

    include_usage: bool = False
    include_obfuscation: bool = False  # OpenAI pads its chunks against eavesdroppers; here none is padded


def _in_a_list(value: Any) -> Any:
    return [value] if isinstance(value, str) else value


Stops = Annotated[
    list[Annotated[str, Field(min_length=1, max_length=1000)]],
    Field(max_length=4),
    BeforeValidator(_in_a_list),
]


class Request(Part):
    """What both endpoints take. None is the default: as the policy was evaluated."""

    model: str
    n: int | None = Field(default=None, ge=1, le=MOST_CHOICES)
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    temperature: float | None = Field(default=None, ge=0, le=2, allow_inf_nan=False)
    top_p: float | None = Field(default=None, ge=0, le=1, allow_inf_nan=False)
    seed: int | None = Field(default=None, ge=-(2**63), lt=2**63)
    stop: Stops | None = None
    max_tokens: int | None = Field(default=None, ge=1, le=LONGEST)

    @model_validator(mode="after")
    def _options_of_a_stream(self) -> Request:
        if self.stream_options and not self.stream:
            raise ValueError("stream_options are only for stream=true")
        return self

    def prompts(self) -> list[Any]:
        """What to answer, each a text or messages; see `rlhf.models.template.as_row`."""
        raise NotImplementedError

    @property
    def longest(self) -> int | None:
        """The most tokens of an answer."""
        return self.max_tokens


class Text(Part):
    """A part of a message's content."""

    type: Literal["text"]
    text: str


class Turn(Part):
    """A message. `developer` is OpenAI's newer name of `system`."""

    role: Literal["system", "developer", "user", "assistant"]
    content: str | list[Text]

    def plain(self) -> dict[str, str]:
        """The turn as a row has it."""
        content = self.content
        text = content if isinstance(content, str) else "".join(part.text for part in content)
        return {"role": "system" if self.role == "developer" else self.role, "content": text}


class ChatRequest(Request):
    """The body of /v1/chat/completions."""

    messages: list[Turn] = Field(min_length=1)
    max_completion_tokens: int | None = Field(default=None, ge=1, le=LONGEST)

    @model_validator(mode="after")
    def _one_limit(self) -> ChatRequest:
        if self.max_tokens is not None and self.max_completion_tokens is not None:
            raise ValueError("max_tokens and max_completion_tokens are two names of one limit; send one")
        return self

    def prompts(self) -> list[Any]:
        """The conversation, one prompt.

        Raises:
            Refused: it is no conversation that waits for an answer.
        """
        messages = [turn.plain() for turn in self.messages]
        try:
            check_messages(messages)
        except DataError as error:
            raise Refused(str(error), "messages") from None
        return [messages]

    @property
    def longest(self) -> int | None:
        """The most tokens of an answer."""
        return self.max_tokens if self.max_completion_tokens is None else self.max_completion_tokens


class TextRequest(Request):
    """The body of /v1/completions."""

    prompt: Annotated[
        list[Annotated[str, Field(min_length=1)]],
        Field(min_length=1, max_length=MOST_CHOICES),
        BeforeValidator(_in_a_list),
    ]

    def prompts(self) -> list[Any]:
        """The prompts."""
        return list(self.prompt)


def read(kind: type[Request], body: Any) -> Any:
    """A body as a request of this kind.

    Raises:
        Refused: it is no such request.
    """
    if not isinstance(body, dict):
        raise Refused(
            "the body is not a JSON object; send one with the header Content-Type: application/json"
        )
    wanted = {}
    for name, value in body.items():
        if name in kind.model_fields:
            wanted[name] = value
        elif name in NOTHING:
            accepted = NOTHING[name]
            if not (value is None or any(type(value) is type(v) and value == v for v in accepted)):
                raise Refused(
                    f"Unsupported parameter: '{name}' is not supported with this model.",
                    name,
                    "unsupported_parameter",
                )
        elif name not in WITHOUT_EFFECT:
            raise Refused(f"Unknown parameter: '{name[:80]}'.", name[:80], "unknown_parameter")
    try:
        return kind.model_validate(wanted)
    except ValidationError as error:
        first = error.errors()[0]
        place = ".".join(str(part) for part in first["loc"] if isinstance(part, int) or part.islower())
        said = first["msg"].removeprefix("Value error, ")
        if first["type"] == "missing":
            raise Refused(
                f"Missing required parameter: '{place}'.", place, "missing_required_parameter"
            ) from None
        raise Refused(
            f"Invalid value for '{place}': {said}." if place else f"{said}.", place or None
        ) from None
