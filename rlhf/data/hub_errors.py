"""What the client of the Hugging Face Hub raises, as one line that says what to do."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from rlhf.data.errors import DataError


def first_line(error: BaseException) -> str:
    """The first line of an error's message that says something, at most 200 characters of it."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[0][:200] if lines else type(error).__name__


@contextmanager
def one_line(name: str, revision: str | None, kind: str, section: str) -> Iterator[None]:
    """Turn what the client of the Hub raises into one line that says what to do.

    Args:
        name: the id on the Hub.
        revision: the commit.
        kind: `model` or `data set`.
        section: the section of the parameters that names it.
    """
    from huggingface_hub import constants, errors, get_token

    data = kind != "model"
    place = f"{constants.ENDPOINT}/{'datasets/' if data else ''}{name}"
    try:
        yield
    except errors.GatedRepoError:
        token = (
            "the account of your token" if get_token() else "an account, and set HF_TOKEN to a token of it"
        )
        raise DataError(f"{name} is gated: accept its licence at {place} with {token}") from None
    except errors.RevisionNotFoundError:
        raise DataError(
            f"{name} has no commit {revision}; take one from {place}/commits/main for {section}.revision"
        ) from None
    except errors.RepositoryNotFoundError:
        raise DataError(
            f"{name}: no such folder, and no such {kind} at {constants.ENDPOINT}, or it is private; check "
            f"{section}.path, or set HF_TOKEN to a token that may read it"
        ) from None
    except errors.HFValidationError:
        raise DataError(
            f"{name}: no such folder, and no id of a {kind} on the Hub; check {section}.path"
        ) from None
    except (errors.LocalEntryNotFoundError, errors.OfflineModeIsEnabled) as error:
        command = f"`hf download {name} --revision {revision}{' --repo-type dataset' if data else ''}`"
        if constants.is_offline_mode():
            raise DataError(
                f"{name} is not whole in {constants.HF_HUB_CACHE}, and HF_HUB_OFFLINE keeps from fetching "
                f"it: unset that, or run {command} where there is a network and bring the folder here"
            ) from None
        raise DataError(
            f"{name} is not whole in {constants.HF_HUB_CACHE}, and {constants.ENDPOINT} does not answer "
            f"({first_line(error.__cause__ or error)}); try again, or run {command} where there is a network"
        ) from None
    except errors.HfHubHTTPError as error:
        raise DataError(
            f"{name}: {constants.ENDPOINT} answers {first_line(error)}; try again later"
        ) from None
    except (errors.HTTPError, OSError) as error:  # no connection, no space, a broken download
        raise DataError(
            f"{name} could not be fetched from {constants.ENDPOINT}: {first_line(error)}"
        ) from None
